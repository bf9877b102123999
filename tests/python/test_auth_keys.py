"""Profiles, API keys and the administration of users."""

import re
import time

import pytest
from harness import Server

KEYS = "/api/v1/user/api-keys"
PROFILE = "/api/v1/user/profile"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("keys"), wait="live")
    yield one
    one.close()


@pytest.fixture
def token(own, request):
    """A session of a user of this test's own."""
    return own.new_session(own.new_user(f"{request.node.name.lower().translate({91: 45, 93: None})}@example.com"))[
        "access_token"
    ]


def make(server, token, permissions=("read", "write"), **fields):
    made = server.post(KEYS, {"name": "test", "permissions": list(permissions)} | fields, key=token)
    assert made.status == 201, made
    return made.json()


def is_error(answer, status, code, param=None):
    assert answer.status == status, answer
    assert answer.error["code"] == code, answer
    if param:
        assert answer.error["param"] == param, answer


def test_profile(own, token):
    profile = own.get(PROFILE, key=token).json()
    assert profile["object"] == "user"
    assert profile["id"].startswith("user_")
    assert (profile["name"], profile["role"], profile["disabled"]) == ("Ann", "member", False)
    changed = own.patch(PROFILE, {"name": "Änn Ünal"}, token)
    assert changed.status == 200, changed
    assert own.get(PROFILE, key=token).json()["name"] == "Änn Ünal"


def test_profile_takes_nothing_else(own, token):
    """OWASP API3: what is not a user's to change stays as it is."""
    before = own.get(PROFILE, key=token).json()
    answer = own.patch(PROFILE, {"name": "Ann", "role": "admin", "disabled": True, "email": "x@example.com"}, token)
    assert answer.status == 200, answer
    assert {"role", "disabled", "email"} <= set(answer.headers["X-Ignored-Fields"].split(", "))
    after = own.get(PROFILE, key=token).json()
    assert after == before


@pytest.mark.parametrize("name", [5, None, "", "x" * 5000, "a\u0000b"])
def test_names_that_cannot_be(own, token, name):
    is_error(own.patch(PROFILE, {"name": name}, token), 400, "invalid_type" if name in (5, None) else "invalid_value", "name")


def test_delete_the_account_with_everything(own, token):
    user = own.get(PROFILE, key=token).json()["id"]
    key = make(own, token)["key"]
    deleted = own.delete(PROFILE, token)
    assert deleted.status == 200, deleted
    assert deleted.json() == {"id": user, "object": "user", "deleted": True}
    assert own.get(PROFILE, key=token).status == 401
    is_error(own.get(PROFILE, key=key), 401, "invalid_api_key")
    is_error(own.get(f"/api/v1/admin/users/{user}", key=own.admin_key), 404, "not_found")


def test_create_a_key(own, token):
    made = make(own, token, expires_in_days=30)
    assert re.fullmatch(r"sk-jan-[A-Za-z0-9_-]{43}", made["key"]), "256 bits"
    assert made["object"] == "api_key"
    assert made["permissions"] == ["read", "write"]
    assert abs(made["created_at"] - time.time()) < 5
    assert made["expires_at"] == pytest.approx(time.time() + 30 * 86400, abs=5)
    assert made["last_used_at"] is None
    assert made["key"] not in made["hint"]
    assert own.get(PROFILE, key=made["key"]).status == 200
    assert make(own, token)["key"] != made["key"]


def test_key_is_shown_once_and_not_kept(own, token):
    made = make(own, token)
    secret = made["key"]
    listed = own.get(KEYS, key=token)
    assert listed.json()["data"][0] == {k: v for k, v in made.items() if k != "key"}
    one = own.get(f"{KEYS}/{made['id']}", key=token)
    for answer in (listed, one, own.patch(f"{KEYS}/{made['id']}", {"name": "new"}, token)):
        assert secret not in answer.body.decode()
    random_part = secret.removeprefix("sk-jan-").encode()
    for path in own.data.rglob("*"):
        if path.is_file() and path.name != "admin.key":
            assert random_part not in path.read_bytes(), path


def test_list_get_patch(own, token):
    first, second = make(own, token, name="first"), make(own, token, ["read"], name="second")
    listed = own.get(KEYS, key=token).json()
    assert (listed["object"], [key["name"] for key in listed["data"]]) == ("list", ["first", "second"])
    changed = own.patch(f"{KEYS}/{first['id']}", {"name": "renamed", "permissions": ["read"]}, token).json()
    assert (changed["name"], changed["permissions"]) == ("renamed", ["read"])
    is_error(own.patch(PROFILE, {"name": "x"}, first["key"]), 403, "insufficient_permissions")
    assert own.get(f"{KEYS}/{second['id']}", key=token).json()["name"] == "second"
    limits = own.patch(f"{KEYS}/{first['id']}", {"limits": {"requests_per_hour": 5}}, token).json()["limits"]
    assert limits == {"requests_per_hour": 5}


def test_last_use_is_noted(own, token):
    made = make(own, token)
    assert own.get("/api/v1/models", key=made["key"]).status == 200
    used = own.get(f"{KEYS}/{made['id']}", key=token).json()["last_used_at"]
    assert used == pytest.approx(time.time(), abs=61)


def test_revoked_at_once(own, token):
    made = make(own, token)
    assert own.get(PROFILE, key=made["key"]).status == 200
    assert own.delete(f"{KEYS}/{made['id']}", token).json() == {"id": made["id"], "object": "api_key", "deleted": True}
    is_error(own.get(PROFILE, key=made["key"]), 401, "api_key_revoked")
    is_error(own.get(f"{KEYS}/{made['id']}", key=token), 404, "not_found")
    assert own.get(KEYS, key=token).json()["data"] == []


def test_expired_key(own, token):
    made = make(own, token)
    soon = int(time.time()) + 2
    assert own.patch(f"{KEYS}/{made['id']}", {"expires_at": soon}, token).json()["expires_at"] == soon
    assert own.get(PROFILE, key=made["key"]).status == 200
    time.sleep(2.2)
    is_error(own.get(PROFILE, key=made["key"]), 401, "api_key_expired")
    assert own.patch(f"{KEYS}/{made['id']}", {"expires_at": None}, token).status == 200
    assert own.get(PROFILE, key=made["key"]).status == 200


def test_a_key_grants_no_more_than_its_maker_has(own, token):
    is_error(own.post(KEYS, {"name": "n", "permissions": ["admin"]}, key=token), 403, "insufficient_permissions", "permissions")
    writer = make(own, token, ["write", "keys"])
    answer = own.post(KEYS, {"name": "n", "permissions": ["read", "write"]}, key=writer["key"])
    is_error(answer, 403, "insufficient_permissions")
    assert "read" in answer.error["message"]
    assert own.post(KEYS, {"name": "n", "permissions": ["write"]}, key=writer["key"]).status == 201
    # Nor by changing one that is there.
    is_error(own.patch(f"{KEYS}/{writer['id']}", {"permissions": ["read", "write"]}, writer["key"]), 403, "insufficient_permissions")
    assert own.patch(f"{KEYS}/{writer['id']}", {"permissions": ["read", "write"]}, token).status == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": None}, "name"),
        ({"name": 5}, "name"),
        ({"name": ""}, "name"),
        ({"permissions": None}, "permissions"),
        ({"permissions": "read"}, "permissions"),
        ({"permissions": []}, "permissions"),
        ({"permissions": ["root"]}, "permissions[0]"),
        ({"permissions": ["read", 5]}, "permissions[1]"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"expires_in_days": -1}, "expires_in_days"),
        ({"expires_in_days": 1.5}, "expires_in_days"),
        ({"expires_in_days": 10**9}, "expires_in_days"),
        ({"limits": {"requests_per_hour": -1}}, "limits.requests_per_hour"),
        ({"limits": 5}, "limits"),
    ],
)
def test_wrong_fields_are_named(own, change, param):
    body = {"name": "n", "permissions": ["read"]} | change
    answer = own.post(KEYS, {k: v for k, v in body.items() if v is not None}, key=own.admin_key)
    assert answer.status == 400, answer
    assert answer.error["param"] == param, answer


def test_keys_of_others_are_out_of_reach(own, token):
    """OWASP API1: ids of others are as good as none."""
    mine = make(own, token)
    stranger = own.new_session(own.new_user("other@example.com"))["access_token"]
    path = f"{KEYS}/{mine['id']}"
    for answer in (
        own.get(path, key=stranger),
        own.patch(path, {"name": "x"}, stranger),
        own.delete(path, stranger),
        own.get(f"{KEYS}/nonsense", key=stranger),
        own.get(f"{KEYS}/{mine['id'].replace('key_', 'user_')}", key=stranger),
    ):
        is_error(answer, 404, "not_found")
    assert own.get(PROFILE, key=mine["key"]).status == 200


ADMIN = "/api/v1/admin/users"


def test_administer_users(own):
    made = own.post(ADMIN, {"email": "New.User@Example.com", "name": "New"}, key=own.admin_key)
    assert made.status == 201, made
    user = made.json()
    assert (user["email"], user["name"], user["role"]) == ("new.user@example.com", "New", "member")
    is_error(own.post(ADMIN, {"email": "new.user@example.com", "name": "x"}, key=own.admin_key), 409, "email_taken", "email")
    path = f"{ADMIN}/{user['id']}"
    assert own.get(path, key=own.admin_key).json() == user
    changed = own.patch(path, {"name": "Newer", "limits": {"inference_per_minute": 3}}, own.admin_key).json()
    assert (changed["name"], changed["limits"]) == ("Newer", {"inference_per_minute": 3})
    tokens = own.post(f"{path}/sessions", key=own.admin_key)
    assert tokens.status == 201
    assert tokens.json().keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
    key = own.post(f"{path}/api-keys", {"name": "n", "permissions": ["read"]}, key=own.admin_key)
    assert key.status == 201
    assert own.get(PROFILE, key=key.json()["key"]).json()["id"] == user["id"]
    over = own.post(f"{path}/api-keys", {"name": "n", "permissions": ["admin"]}, key=own.admin_key)
    is_error(over, 403, "insufficient_permissions")
    assert own.delete(path, own.admin_key).json()["deleted"]
    is_error(own.get(path, key=own.admin_key), 404, "not_found")
    assert own.get(PROFILE, key=tokens.json()["access_token"]).status == 401


def test_another_administrator(own):
    user = own.new_user("boss@example.com")
    token = own.new_session(user)["access_token"]
    is_error(own.get(ADMIN, key=token), 403, "insufficient_permissions")
    assert own.patch(f"{ADMIN}/{user}", {"role": "admin"}, own.admin_key).json()["role"] == "admin"
    assert own.get(ADMIN, key=token).status == 200
    assert own.patch(f"{ADMIN}/{user}", {"role": "member"}, own.admin_key).json()["role"] == "member"
    is_error(own.get(ADMIN, key=token), 403, "insufficient_permissions")


def test_the_last_administrator_stays(own):
    me = own.get(PROFILE, key=own.admin_key).json()["id"]
    for change in ({"disabled": True}, {"role": "member"}):
        is_error(own.patch(f"{ADMIN}/{me}", change, own.admin_key), 409, "last_admin")
    is_error(own.delete(f"{ADMIN}/{me}", own.admin_key), 409, "last_admin")


def test_pages_of_users(own):
    for number in range(5):
        own.new_user(f"page{number}@example.com")
    seen, after = [], ""
    while True:
        page = own.get(f"{ADMIN}?limit=2{after}", key=own.admin_key).json()
        seen += [user["id"] for user in page["data"]]
        assert len(page["data"]) <= 2
        if not page["has_more"]:
            break
        after = f"&after={seen[-1]}"
    assert len(seen) == len(set(seen)) >= 6
    everyone = own.get(f"{ADMIN}?limit=100", key=own.admin_key).json()["data"]
    assert seen == [user["id"] for user in everyone][: len(seen)]
    for query in ("limit=0", "limit=101", "limit=x", "after=x", "limit=1&limit=2"):
        assert own.get(f"{ADMIN}?{query}", key=own.admin_key).status == 400, query


@pytest.mark.parametrize("email", ["", "x", "@", "a@", "@b", "a b@c.example", "x" * 400 + "@example.com", 5, None])
def test_email_addresses_that_cannot_be(own, email):
    answer = own.post(ADMIN, {"email": email, "name": "x"}, key=own.admin_key)
    assert (answer.status, answer.error["param"]) == (400, "email"), answer


def test_everything_survives_a_kill(tmp_path):
    one = Server(tmp_path, wait="live")
    user = one.new_user()
    kept, revoked = one.new_key(user, name="kept"), one.new_key(user)
    token = one.new_session(user)["access_token"]
    assert one.delete(f"{KEYS}/{revoked['id']}", token).status == 200
    admin_key = one.admin_key
    one.kill()
    again = Server(tmp_path, wait="live")
    try:
        assert again.admin_key == admin_key
        assert again.get(PROFILE, key=admin_key).status == 200
        assert again.get(f"{KEYS}/{kept['id']}", key=kept["key"]).json()["name"] == "kept"
        is_error(again.get(PROFILE, key=revoked["key"]), 401, "api_key_revoked")
        assert again.get(PROFILE, key=token).json()["id"] == user
    finally:
        again.close()


def test_a_key_cannot_begin_a_session_for_its_own_user(own):
    """The session could do everything that its user may, and would outlive the key."""
    admin = own.get(PROFILE, key=own.admin_key).json()["id"]
    made = own.post(f"{ADMIN}/{admin}/api-keys", {"name": "n", "permissions": ["admin"]}, key=own.admin_key)
    for key in (made.json()["key"], own.admin_key):
        answer = own.post(f"{ADMIN}/{admin}/sessions", key=key)
        is_error(answer, 403, "insufficient_permissions")
        assert "own user" in answer.error["message"]
    # For others, and with a session, it goes on as before.
    other = own.new_user("other.admin@example.com")
    assert own.post(f"{ADMIN}/{other}/sessions", key=made.json()["key"]).status == 201
