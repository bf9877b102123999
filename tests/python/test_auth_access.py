"""Who may call what: anonymous callers, users, keys, administrators, on every route there is."""

import stat
import time

import pytest
from harness import MODEL, Server
from tokens import expired, forgeries

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
TEXT = {"model": MODEL, "prompt": "x", "max_tokens": 1}
SOME_USER = "user_00000000000000000000000000000000"
SOME_KEY = "key_00000000000000000000000000000000"
SOME_SESSION = "sess_00000000000000000000000000000000"

#: (method, path, body) by what it takes.
OPEN = [
    ("GET", "/health", None),
    ("GET", "/api/v1/health", None),
    ("GET", "/livez", None),
    ("GET", "/readyz", None),
    ("GET", "/.well-known/jwks.json", None),
    ("GET", "/api/swagger/index.html", None),
    ("GET", "/api/swagger/openapi.json", None),
    ("GET", "/api/swagger/doc.json", None),
    ("GET", "/api/swagger/openapi.yaml", None),
    ("GET", "/api/swagger/swagger-ui.css", None),
]
#: Open, but they answer no 200 to a request as plain as this.
OPEN_OTHERWISE = [
    ("GET", "/auth/google", None),
    ("GET", "/auth/google/callback", None),
    ("POST", "/auth/exchange", {"code": "x"}),
]
MODELS = [
    ("GET", "/api/v1/models", None, "read"),
    ("GET", f"/api/v1/models/{MODEL}", None, "read"),
    ("POST", "/api/v1/chat/completions", CHAT, "write"),
    ("POST", "/api/v1/completions", TEXT, "write"),
]
PERSONAL = [
    ("GET", "/api/v1/status", None, "read"),
    ("GET", "/auth/sessions", None, "read"),
    ("DELETE", f"/auth/sessions/{SOME_SESSION}", None, "keys"),
    ("POST", "/auth/logout", None, "write"),
    ("GET", "/api/v1/user/profile", None, "read"),
    ("PATCH", "/api/v1/user/profile", {"name": "New"}, "write"),
    ("DELETE", "/api/v1/user/profile", None, "keys"),
    ("GET", "/api/v1/user/api-keys", None, "read"),
    ("POST", "/api/v1/user/api-keys", {"name": "n", "permissions": ["read"]}, "keys"),
    ("GET", f"/api/v1/user/api-keys/{SOME_KEY}", None, "read"),
    ("PATCH", f"/api/v1/user/api-keys/{SOME_KEY}", {"name": "n"}, "keys"),
    ("DELETE", f"/api/v1/user/api-keys/{SOME_KEY}", None, "keys"),
    ("GET", "/api/v1/admin/users", None, "admin"),
    ("POST", "/api/v1/admin/users", {"email": "x@example.com", "name": "x"}, "admin"),
    ("GET", f"/api/v1/admin/users/{SOME_USER}", None, "admin"),
    ("PATCH", f"/api/v1/admin/users/{SOME_USER}", {"name": "x"}, "admin"),
    ("DELETE", f"/api/v1/admin/users/{SOME_USER}", None, "admin"),
    ("POST", f"/api/v1/admin/users/{SOME_USER}/sessions", None, "admin"),
    ("POST", f"/api/v1/admin/users/{SOME_USER}/api-keys", {"name": "n", "permissions": ["read"]}, "admin"),
    ("GET", "/api/v1/admin/models", None, "admin"),
]
EVERYTHING = OPEN + OPEN_OTHERWISE + [case[:3] for case in MODELS + PERSONAL]


def ids(cases):
    return [f"{method} {path}" for method, path, *_ in cases]


@pytest.fixture(scope="module")
def deny(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("deny"), env={"JAN_SERVER__AUTH__ANONYMOUS": "deny"})
    yield one
    one.close()


@pytest.fixture(scope="module")
def keys(deny):
    """A key for each set of permissions of one member."""
    user = deny.new_user("keys@example.com")
    sets = {"read": ["read"], "write": ["write"], "both": ["read", "write"]}
    return {name: deny.new_key(user, permissions)["key"] for name, permissions in sets.items()}


def call(server, method, path, body, key=None, headers=None):
    return server.post(path, body, headers, key=key, method=method)


def is_401(answer, code):
    assert answer.status == 401, answer
    assert answer.error["code"] == code, answer
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="jan-server"')
    assert answer.headers["X-RateLimit-Limit"]
    assert len(answer.error["message"]) > 15


@pytest.mark.parametrize("case", OPEN, ids=ids(OPEN))
def test_open_to_everyone(deny, case):
    assert call(deny, *case).status == 200


@pytest.mark.parametrize("case", OPEN_OTHERWISE, ids=ids(OPEN_OTHERWISE))
def test_signing_in_needs_no_credential(deny, case):
    assert call(deny, *case).status in (400, 503)


@pytest.mark.parametrize("case", MODELS, ids=ids(MODELS))
def test_models_on_loopback_are_open_unless_denied(server, deny, case):
    assert call(server, *case[:3]).status == 200
    answer = call(deny, *case[:3])
    is_401(answer, "missing_credentials")
    assert "error=" not in answer.headers["WWW-Authenticate"], "RFC 6750: nothing was shown"


@pytest.mark.parametrize("case", PERSONAL, ids=ids(PERSONAL))
def test_everything_else_needs_a_principal(server, deny, case):
    for one in (server, deny):
        is_401(call(one, *case[:3]), "missing_credentials")


@pytest.mark.parametrize("case", MODELS + PERSONAL, ids=ids(MODELS + PERSONAL))
def test_missing_permission_is_named(deny, keys, case):
    method, path, body, needed = case
    lacking = [keys["write"]] if needed == "read" else [keys["read"]] if needed == "write" else [keys["both"]]
    for key in lacking:
        answer = call(deny, method, path, body, key)
        assert answer.status == 403, answer
        assert answer.error["code"] == "insufficient_permissions"
        assert f"`{needed}`" in answer.error["message"]
        assert f'scope="{needed}"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("case", MODELS, ids=ids(MODELS))
def test_permission_is_enough(deny, keys, case):
    assert call(deny, *case[:3], keys[case[3]]).status == 200


@pytest.mark.parametrize("case", EVERYTHING, ids=ids(EVERYTHING))
@pytest.mark.parametrize("shown", ["key", "x-api-key", "token", "expired"])
def test_wrong_credential_is_401_everywhere(server, session, case, shown):
    """Also where none would have been fine: a client must notice that its key is gone."""
    made_up = "sk-jan-" + "A" * 43
    credential, code = {
        "key": ({"Authorization": f"Bearer {made_up}"}, "invalid_api_key"),
        "x-api-key": ({"X-API-Key": made_up}, "invalid_api_key"),
        "token": ({"Authorization": "Bearer a.b.c"}, "malformed_token"),
        "expired": ({"Authorization": f"Bearer {expired(server, session)}"}, "token_expired"),
    }[shown]
    answer = call(server, *case, headers=credential)
    is_401(answer, code)
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


@pytest.fixture(scope="module")
def session(server):
    return server.new_session(server.new_user("access@example.com"))["access_token"]


def test_every_way_to_be_wrong_has_its_code(server, session):
    for code, token in forgeries(server, session):
        is_401(server.get("/api/v1/user/profile", key=token), code)
        is_401(server.get("/api/v1/models", key=token), code)
    assert server.get("/api/v1/user/profile", key=session).status == 200


def test_other_schemes_and_conflicts(server, session):
    is_401(server.get("/api/v1/models", {"Authorization": "Basic eDp5"}), "unsupported_auth_scheme")
    is_401(server.get("/api/v1/models", {"Authorization": session}), "unsupported_auth_scheme")
    both = {"Authorization": f"Bearer {session}", "X-API-Key": server.admin_key}
    is_401(server.get("/api/v1/user/profile", both), "conflicting_credentials")
    same = {"Authorization": f"Bearer {server.admin_key}", "X-API-Key": server.admin_key}
    assert server.get("/api/v1/user/profile", same).status == 200


def test_both_headers_carry_a_key(server):
    for headers in (
        {"Authorization": f"Bearer {server.admin_key}"},
        {"authorization": f"bearer {server.admin_key}"},
        {"X-API-Key": server.admin_key},
    ):
        assert server.get("/api/v1/user/profile", headers).json()["role"] == "admin"


def test_credential_in_the_url_is_none(server):
    """RFC 6750 section 2.3: URLs are logged everywhere."""
    is_401(server.get(f"/api/v1/user/profile?access_token={server.admin_key}"), "missing_credentials")


def test_admin_key(server):
    path = server.data / "admin.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip().startswith("sk-jan-")
    printed = server.log()
    assert str(path) in printed.replace("//", "/")
    assert server.admin_key not in printed
    profile = server.get("/api/v1/user/profile", key=server.admin_key).json()
    assert profile["role"] == "admin"
    assert profile["permissions"] == ["read", "write", "keys", "admin"]


@pytest.mark.parametrize("case", MODELS + PERSONAL, ids=ids(MODELS + PERSONAL))
def test_admin_key_opens_every_endpoint(make_server, deny, case):
    if case[:2] == ("DELETE", "/api/v1/user/profile"):
        answer = call(deny, *case[:3], deny.admin_key)
        assert (answer.status, answer.error["code"]) == (409, "last_admin")
        return
    assert call(deny, *case[:3], deny.admin_key).status not in (401, 403)


def test_auto_denies_on_other_addresses(make_server):
    public = make_server(listen="0.0.0.0:0")
    is_401(public.get("/api/v1/models"), "missing_credentials")
    assert public.get("/health").status == 200
    assert public.post("/auth/guest").error["code"] == "guests_disabled"
    assert public.get("/api/v1/models", key=public.admin_key).status == 200
    assert public.chat(key=public.admin_key).status == 200


def test_allow_allows_on_other_addresses(make_server):
    public = make_server(
        env={"JAN_SERVER__AUTH__ANONYMOUS": "allow", "JAN_SERVER__AUTH__GUESTS": "on"}, listen="0.0.0.0:0"
    )
    assert public.get("/api/v1/models").status == 200
    assert public.chat().status == 200
    is_401(public.get("/api/v1/status"), "missing_credentials")
    assert public.post("/auth/guest").status == 201


def test_paths_that_only_look_like_routes(deny):
    """No spelling of a path gets past the table of who may call what."""
    for path in (
        "//api/v1/models", "/api//v1/models", "/api/v1//models", "/api/v1/./models", "/api/v1/x/../models",
        "/API/v1/models", "/api/v1/Models", "/api/v1/%6dodels", "/api/v1/models%2f", "/api/v1;/models", "/models",
    ):  # fmt: skip
        answer = deny.get(path)
        assert answer.status in (401, 404), (path, answer)
    for path in ("/api/v1/models/", "/v1/models", "/v1/models/", "/v1/user/profile/"):
        is_401(deny.get(path), "missing_credentials")
        assert deny.get(path, key=deny.admin_key).status == 200
    for method in ("PUT", "TRACE", "PROPFIND", "post"):
        assert call(deny, method, "/api/v1/models", None).status in (400, 405)


def test_body_of_a_refused_request_does_not_break_the_connection(deny):
    with deny.connect() as connection, connection.makefile("rb") as file:
        body = b"x" * 3_000_000
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        assert file.readline().split()[1] == b"401"


def test_authorization_of_streams(deny, keys):
    with deny.stream(max_tokens=3) as stream:
        assert stream.status == 401
    with deny.stream(key=keys["both"], max_tokens=3) as stream:
        assert stream.read()


def test_checks_come_before_the_body_is_read(deny):
    begin = time.monotonic()
    with deny.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert file.readline().split()[1] == b"401"
    assert time.monotonic() - begin < 2


def test_a_guests_role_is_refused_by_the_fields_name(make_server):
    own = make_server(wait="live")
    token = own.post("/auth/guest").json()["access_token"]
    guest = own.get("/api/v1/user/profile", key=token).json()["id"]
    refused = own.patch(f"/api/v1/admin/users/{guest}", {"role": "member"}, key=own.admin_key)
    assert (refused.status, refused.error["param"]) == (400, "role")
