"""Web pages that a browser on the server's machine brings to it: other origins, DNS rebinding, forms."""

import json
import subprocess

import pytest
from harness import MODEL

CHAT = "/api/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
EVIL = "https://evil.example"
#: What anybody on this machine may do without a credential, reading and writing, the model's part and the rest.
ANONYMOUS = [
    ("GET", "/api/v1/models", None),
    ("POST", CHAT, BODY),
    ("POST", "/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1}),
    ("POST", "/v1/embeddings", {"model": MODEL, "input": "x"}),
    ("POST", "/v1/tokenize", {"model": MODEL, "prompt": "x"}),
    ("POST", "/auth/guest", None),
    ("GET", "/health", None),
    ("GET", "/api/swagger/openapi.json", None),
]
OTHER_HOSTS = [
    "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost",
    "192.168.0.1", "x", "localhost:80:80", "user@localhost", "localhost.", "",
]  # fmt: skip
OTHER_ORIGINS = [
    EVIL, "http://evil.example:8080", "http://localhost.evil.example", "https://127.0.0.1.evil.example", "null",
    "http://192.168.0.1", "*", "localhost",
]  # fmt: skip


def call(server, case, headers=None, key=None):
    method, path, body = case
    return server.post(path, body, headers, key=key, method=method)


def refused(answer, code, param):
    assert (answer.status, answer.error["code"], answer.error["param"]) == (403, code, param), answer
    assert "http." in answer.error["message"], "it names the setting"


@pytest.mark.parametrize("case", ANONYMOUS, ids=[path for _, path, _ in ANONYMOUS])
def test_without_a_credential_names_and_pages_have_to_be_this_machines(server, case):
    usual = call(server, case).status
    assert usual < 500
    for host in ("localhost", "LOCALHOST:9", f"127.0.0.1:{server.port}", "127.0.0.7", "[::1]:80"):
        assert call(server, case, {"Host": host}).status == usual, host
    for host in OTHER_HOSTS:
        refused(call(server, case, {"Host": host}), "host_not_allowed", "Host")
        # To the page, it is its own origin.
        refused(call(server, case, {"Host": host, "Origin": f"http://{host}"}), "host_not_allowed", "Host")
    for origin in (server.url, "http://localhost:3000", "https://127.0.0.1", "http://[::1]:1", "tauri://localhost"):
        assert call(server, case, {"Origin": origin}).status == usual, origin
    for origin in OTHER_ORIGINS:
        refused(call(server, case, {"Origin": origin}), "origin_not_allowed", "Origin")


def test_an_accepted_credential_passes_from_anywhere(server):
    user = server.new_user("browsers@example.com")
    for key in (server.new_key(user)["key"], server.new_session(user)["access_token"]):
        for headers in ({"Origin": EVIL}, {"Host": "evil.example"}, {"Origin": "null", "Host": "x"}):
            answer = call(server, ("POST", CHAT, BODY), headers, key)
            assert answer.status == 200, (headers, answer)
            assert answer.headers.get("Access-Control-Allow-Origin") == ("*" if "Origin" in headers else None)
    for wrong in ({"X-API-Key": "sk-jan-" + "A" * 43}, {"Authorization": "Bearer "}, {"Authorization": "Basic eDp5"}):
        assert call(server, ("POST", CHAT, BODY), {"Origin": EVIL} | wrong).status in (401, 403)


def test_a_preflight_is_answered_as_ever(server):
    """It carries no credential: what it announces may."""
    headers = {"Origin": EVIL, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = server.request("OPTIONS", CHAT, headers=headers)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "*")


def test_refreshing_needs_its_token_and_nothing_else(server):
    session = server.new_session(server.new_user("refreshing@example.com"))
    answer = server.post("/auth/refresh", {"refresh_token": session["refresh_token"]}, {"Origin": EVIL})
    assert answer.status == 200, answer
    assert server.post("/auth/refresh", {"refresh_token": "x"}, {"Origin": EVIL}).status == 401


def test_configured_names_and_origins(make_server):
    own = make_server(config="""
        [http]
        allowed_hosts = ["Chat.example", "[2001:db8::1]:80"]
        cors_allowed_origins = ["https://app.example"]
        [auth.google]
        redirect_url = "https://sign-in.example/auth/google/callback"
    """)
    chat = ("POST", CHAT, BODY)
    for host in ("chat.example", "CHAT.EXAMPLE:444", "[2001:db8::1]", "sign-in.example"):
        assert call(own, chat, {"Host": host}).status == 200, host
        # The page that the server itself serves under that name.
        assert call(own, chat, {"Host": host, "Origin": f"https://{host}"}).status == 200, host
    assert call(own, chat, {"Origin": "https://app.example"}).status == 200
    refused(call(own, chat, {"Host": "www.chat.example"}), "host_not_allowed", "Host")
    for origin in ("https://chat.example", "http://app.example", "https://app.example:444", "https://app.example.evil"):
        refused(call(own, chat, {"Origin": origin}), "origin_not_allowed", "Origin")


def test_wrong_settings_are_named(make_server):
    with pytest.raises(AssertionError, match=r"http\.allowed_hosts"):
        make_server(config='[http]\nallowed_hosts = ["https://chat.example/"]')


def test_several_names_have_to_be_right_each(server):
    for lines in (b"Host: localhost\r\nHost: evil.example\r\n", b"Host: evil.example\r\nHost: localhost\r\n"):
        assert raw(server, b"GET /v1/models HTTP/1.1\r\n" + lines) in (400, 403)
    assert raw(server, b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\n") == 403
    origins = b"Host: localhost\r\nOrigin: http://localhost\r\nOrigin: https://evil.example\r\n"
    assert raw(server, b"GET /v1/models HTTP/1.1\r\n" + origins) == 403
    assert raw(server, b"GET /v1/models HTTP/1.0\r\n") == 200, "a program, for every browser sends a name"


def test_http2_names(server):
    """There the name is part of the request's head, not a header."""
    for host, status in ((None, "200"), ("localhost:1", "200"), ("evil.example", "403")):
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--http2-prior-knowledge"]
        command += ["-H", f"Host: {host}"] if host else []
        done = subprocess.run([*command, server.base_url + "/models"], capture_output=True, text=True, check=True)
        assert done.stdout == f"2 {status}", host


def raw(server, head, body=b""):
    """The status of the answer to these bytes."""
    with server.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(head + b"Connection: close\r\n\r\n" + body)
        return int(file.readline().split()[1])


# What a form or a script can send to another origin without asking first.
SIMPLE = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
WITH_BODY = [
    ("POST", CHAT, BODY),
    ("POST", "/v1/detokenize", {"model": MODEL, "tokens": [1]}),
    ("POST", "/v1/conversations", {}),
    ("POST", "/v1/user/api-keys", {"name": "n", "permissions": ["read"]}),
    ("PATCH", "/v1/user/profile", {"name": "n"}),
    ("POST", "/auth/refresh", {}),
    ("POST", "/auth/logout", {}),
    ("DELETE", "/v1/user/api-keys/key_00000000000000000000000000000000", {}),
    ("GET", "/v1/models", {}),
]


@pytest.mark.parametrize("case", WITH_BODY, ids=[path for _, path, _ in WITH_BODY])
def test_a_body_needs_its_type(server, case):
    method, path, body = case
    data = json.dumps(body).encode()
    # Anything but 415, whatever comes of it.
    assert call(server, case, {"Content-Type": "application/json"}, "x" if path == "/auth/logout" else None).status != 415
    key = server.admin_key
    if "/auth/" in path:
        key = server.new_session(server.new_user(f"{path[6:]}@example.com"))["access_token"]
    for kind in SIMPLE:
        answer = server.request(method, path, data, {"Content-Type": kind}, key=key)
        assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type"), (kind, answer)
        assert "application/json" in answer.error["message"]
    # Not even a type: http.client adds none.
    answer = server.request(method, path, data, key=key)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type"), answer


def test_no_length_and_no_type(server):
    head = b"Host: localhost\r\nTransfer-Encoding: chunked\r\n"
    body = json.dumps(BODY).encode()
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    assert raw(server, f"POST {CHAT} HTTP/1.1\r\n".encode() + head, chunk) == 415
    typed = head + b"Content-Type: application/json\r\n"
    assert raw(server, f"POST {CHAT} HTTP/1.1\r\n".encode() + typed, chunk) == 200


def test_no_body_needs_no_type(server):
    user = server.new_user("bodiless@example.com")
    key = server.new_session(user)["access_token"]
    auth = b"Host: localhost\r\nAuthorization: Bearer %s\r\n" % key.encode()
    assert raw(server, b"POST /v1/conversations HTTP/1.1\r\n" + auth) == 201
    assert raw(server, b"POST /v1/conversations HTTP/1.1\r\nContent-Length: 0\r\n" + auth) == 201
    assert raw(server, b"POST /v1/conversations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + auth, b"0\r\n\r\n") == 201
    refreshed = server.request("POST", "/api/v1/auth/refresh", key=key)
    assert refreshed.status == 200, refreshed
    key = refreshed.json()["access_token"]
    assert server.request("POST", "/auth/logout", key=key).status == 204
    assert server.request("POST", "/auth/guest").status == 201


def test_uploads_have_a_type_of_their_own(make_server):
    own = make_server(wait="live")
    export = own.get("/api/v1/admin/export", key=own.admin_key).body
    for kind in ("application/json", *SIMPLE):
        answer = own.post("/api/v1/admin/import", export, {"Content-Type": kind}, key=own.admin_key)
        assert answer.status == 415 and "application/x-ndjson" in answer.error["message"], (kind, answer)
    answer = own.post("/api/v1/admin/import", export, {"Content-Type": "application/x-ndjson"}, key=own.admin_key)
    assert answer.status == 200, answer
