"""Keys that manage keys: what `read` and `write` do not grant, and what is made and changed with a key."""

import collections
import hashlib
import json
import time

import pytest
from harness import MODEL, Server
from tokens import claims_of

KEYS = "/api/v1/user/api-keys"
PROFILE = "/api/v1/user/profile"
ADMIN = "/api/v1/admin/users"
DAY = 86400


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("key-management"))
    yield one
    one.close()


@pytest.fixture
def user(own, request):
    return own.new_user(f"{request.node.name.lower().translate({91: 45, 93: None})}@example.com")


@pytest.fixture
def token(own, user):
    return own.new_session(user)["access_token"]


def make(server, key, permissions=("read", "write", "keys"), **fields):
    made = server.post(KEYS, {"name": "test", "permissions": list(permissions)} | fields, key=key)
    assert made.status == 201, made
    return made.json()


def change(server, target, fields, key):
    return server.patch(f"{KEYS}/{target['id']}", fields, key)


def is_error(answer, status, code, param=None):
    assert answer.status == status, answer
    assert answer.error["code"] == code, answer
    if param:
        assert answer.error["param"] == param, answer


@pytest.mark.parametrize("permissions", [["read"], ["write"], ["read", "write"]])
def test_a_key_without_keys_manages_nothing(own, user, token, permissions):
    """It neither lifts its own expiry and limits, nor makes a sibling, nor ends sessions or the account."""
    mine = make(own, token, permissions, expires_in_days=1, limits={"requests_per_hour": 500})
    other = make(own, token)
    session = claims_of(own.new_session(user)["access_token"])["sid"]
    for method, path, body in [
        ("PATCH", f"{KEYS}/{mine['id']}", {"expires_at": None}),
        ("PATCH", f"{KEYS}/{mine['id']}", {"limits": {}}),
        ("PATCH", f"{KEYS}/{mine['id']}", {"name": "x"}),
        ("PATCH", f"{KEYS}/{other['id']}", {"permissions": permissions}),
        ("POST", KEYS, {"name": "sibling", "permissions": permissions}),
        ("DELETE", f"{KEYS}/{mine['id']}", None),
        ("DELETE", f"{KEYS}/{other['id']}", None),
        ("DELETE", f"/auth/sessions/{session}", None),
        ("DELETE", PROFILE, None),
    ]:
        answer = own.post(path, body, key=mine["key"], method=method)
        is_error(answer, 403, "insufficient_permissions")
        assert "`keys`" in answer.error["message"]
        assert 'scope="keys"' in answer.headers["WWW-Authenticate"]
    after = own.get(f"{KEYS}/{mine['id']}", key=token).json()
    assert (after["expires_at"], after["limits"]) == (mine["expires_at"], {"requests_per_hour": 500})
    assert own.get(PROFILE, key=token).status == 200


def test_read_and_write_keep_everything_else(own, token):
    key = make(own, token, ["read", "write"])["key"]
    assert own.get(PROFILE, key=key).json()["permissions"] == ["read", "write"]
    assert own.patch(PROFILE, {"name": "Named by a key"}, key).json()["name"] == "Named by a key"
    for path in (KEYS, "/auth/sessions", "/api/v1/usage", "/api/v1/status", "/api/v1/models", "/api/v1/conversations"):
        assert own.get(path, key=key).status == 200, path
    made = own.post("/api/v1/conversations", {"title": "t"}, key=key)
    assert made.status == 201, made
    assert own.delete(f"/api/v1/conversations/{made.json()['id']}", key).status == 200
    assert own.chat(key=key).status == 200
    assert own.post("/api/v1/responses", {"model": MODEL, "input": "Hello", "max_output_tokens": 16}, key=key).status == 200


def test_a_session_and_a_key_with_keys_manage(own, user, token):
    assert own.get(PROFILE, key=token).json()["permissions"] == ["read", "write"]
    manager = make(own, token, ["keys"])
    assert own.get(PROFILE, key=manager["key"]).status == 403, "it manages keys and nothing else"
    child = make(own, manager["key"], ["keys"])
    assert child["parent"] == manager["id"]
    assert [key["id"] for key in own.get(KEYS, key=manager["key"]).json()["data"]] == [manager["id"], child["id"]]
    session = claims_of(own.new_session(user)["access_token"])["sid"]
    assert own.delete(f"/auth/sessions/{session}", manager["key"]).status == 200
    assert own.delete(f"{KEYS}/{child['id']}", manager["key"]).status == 200
    assert own.delete(PROFILE, manager["key"]).status == 200
    assert own.get(PROFILE, key=token).status == 401


def test_a_key_changes_itself_only_to_be_less(own, token):
    key = make(own, token, expires_in_days=10, limits={"requests_per_hour": 500, "tokens_per_minute": 1000})
    sooner, later = key["expires_at"] - DAY, key["expires_at"] + DAY
    for fields, param in [
        ({"expires_at": None}, "expires_at"),
        ({"expires_at": later}, "expires_at"),
        ({"limits": {}}, "limits"),
        ({"limits": {"requests_per_hour": 500}}, "limits"),
        ({"limits": {"requests_per_hour": 501, "tokens_per_minute": 1000}}, "limits.requests_per_hour"),
        ({"limits": {"requests_per_hour": 0, "tokens_per_minute": 1000}}, "limits.requests_per_hour"),
        ({"permissions": ["read", "write", "keys", "admin"]}, "permissions"),
    ]:
        is_error(change(own, key, fields, key["key"]), 403, "insufficient_permissions", param)
    narrowed = {
        "name": "less",
        "permissions": ["read", "keys"],
        "expires_at": sooner,
        "limits": {"requests_per_hour": 400, "tokens_per_minute": 1000, "concurrent_streams": 2},
    }
    changed = change(own, key, narrowed, key["key"])
    assert changed.status == 200, changed
    assert {name: changed.json()[name] for name in narrowed} == narrowed
    # And there is no way back.
    for fields in ({"permissions": ["read", "write", "keys"]}, {"expires_at": key["expires_at"]}, {"limits": key["limits"]}):
        is_error(change(own, key, fields, key["key"]), 403, "insufficient_permissions")
    # A session may.
    assert change(own, key, {"expires_at": None, "limits": {}, "permissions": ["read", "write", "keys"]}, token).status == 200


def test_a_key_makes_no_other_key_more(own, token):
    """Not even up to its own bounds: the other one does not end with it."""
    manager = make(own, token)
    other = make(own, token, ["read"], expires_in_days=1, limits={"requests_per_hour": 5})
    for fields in (
        {"permissions": ["read", "write"]},
        {"expires_at": None},
        {"expires_at": other["expires_at"] + 1},
        {"limits": {}},
        {"limits": {"requests_per_hour": 6}},
    ):
        is_error(change(own, other, fields, manager["key"]), 403, "insufficient_permissions")
    assert change(own, other, {"limits": {"requests_per_hour": 4}}, manager["key"]).status == 200
    # A child does not make its parent more, either.
    child = make(own, manager["key"])
    narrowed = change(own, manager, {"permissions": ["read", "keys"]}, token)
    assert narrowed.status == 200, narrowed
    is_error(change(own, manager, {"permissions": ["read", "write", "keys"]}, child["key"]), 403, "insufficient_permissions")


def test_a_child_is_at_most_its_parent(own, token):
    parent = make(own, token, ["read", "keys"], expires_in_days=10, limits={"requests_per_hour": 500})
    plain = make(own, parent["key"], ["read"])
    assert (plain["parent"], plain["expires_at"]) == (parent["id"], parent["expires_at"])
    assert plain["limits"] == {"requests_per_hour": 500}
    less = make(own, parent["key"], ["read", "keys"], expires_in_days=3, limits={"requests_per_hour": 7, "tokens_per_minute": 9})
    assert less["expires_at"] < parent["expires_at"]
    assert less["limits"] == {"requests_per_hour": 7, "tokens_per_minute": 9}
    for fields, param in [
        ({"permissions": ["read", "write"]}, "permissions"),
        ({"expires_in_days": 11}, "expires_in_days"),
        ({"limits": {"requests_per_hour": 501}}, "limits.requests_per_hour"),
        ({"limits": {"requests_per_hour": 0}}, "limits.requests_per_hour"),
    ]:
        answer = own.post(KEYS, {"name": "n", "permissions": ["read"]} | fields, key=parent["key"])
        is_error(answer, 403, "insufficient_permissions", param)
    # The parent changes it up to what the parent is; not even a session makes it more.
    assert change(own, less, {"limits": {"requests_per_hour": 500}}, parent["key"]).status == 200
    for key in (parent["key"], token):
        is_error(change(own, less, {"expires_at": None}, key), 403, "insufficient_permissions", "expires_at")
        is_error(change(own, less, {"limits": {}}, key), 403, "insufficient_permissions", "limits")
    is_error(change(own, less, {"permissions": ["read", "write"]}, token), 403, "insufficient_permissions", "permissions")


def test_a_child_follows_its_parent(own, token):
    parent = make(own, token)
    child = make(own, parent["key"], ["read", "write"])
    grandchild_maker = make(own, parent["key"])
    grandchild = make(own, grandchild_maker["key"], ["read", "write"])
    for one in (child, grandchild):
        assert own.patch(PROFILE, {"name": "x"}, one["key"]).status == 200
    assert change(own, parent, {"permissions": ["read"]}, token).status == 200
    for one in (child, grandchild):
        answer = own.patch(PROFILE, {"name": "x"}, one["key"])
        is_error(answer, 403, "insufficient_permissions")
        assert own.get(PROFILE, key=one["key"]).json()["permissions"] == ["read"]
    soon = int(time.time()) + 2
    assert change(own, parent, {"expires_at": soon}, token).status == 200
    time.sleep(2.2)
    for one in (parent, child, grandchild):
        is_error(own.get(PROFILE, key=one["key"]), 401, "api_key_expired")


@pytest.mark.parametrize("path", ["user", "admin"])
def test_a_child_ends_with_its_parent(own, path):
    """Always, also over a restart, and whichever way it was made."""
    me = own.get(PROFILE, key=own.admin_key).json()["id"]
    where = KEYS if path == "user" else f"{ADMIN}/{me}/api-keys"
    body = {"name": "n", "permissions": ["read", "write", "keys", "admin"]}
    parent = own.post(where, body, key=own.admin_key).json()
    child = own.post(where, body, key=parent["key"]).json()
    grandchild = own.post(where, body, key=child["key"]).json()
    assert (child["parent"], grandchild["parent"]) == (parent["id"], child["id"])
    assert own.delete(f"{KEYS}/{parent['id']}", own.admin_key).status == 200
    for one in (child, grandchild):
        is_error(own.get(PROFILE, key=one["key"]), 401, "api_key_revoked")
        is_error(own.get(f"{KEYS}/{one['id']}", key=own.admin_key), 404, "not_found")
        is_error(own.post(where, body, key=one["key"]), 401, "api_key_revoked")
    listed = [key["id"] for key in own.get(KEYS, key=own.admin_key).json()["data"]]
    assert not {parent["id"], child["id"], grandchild["id"]} & set(listed)


def test_children_do_not_multiply_limits(make_server):
    """However many keys are made with one, together they do what it may."""
    own = make_server(wait="live")
    token = own.new_session(own.new_user())["access_token"]
    parent = make(own, token, limits={"requests_per_hour": 6})
    children = [make(own, parent["key"], ["read"])["key"] for _ in range(3)]
    answers = [own.get(PROFILE, key=key).status for key in children for _ in range(3)]
    assert answers.count(200) == 3, "three of the six made the keys"
    assert answers.count(429) == 6
    assert own.get(PROFILE, key=parent["key"]).status == 429
    assert own.get(PROFILE, key=token).status == 200


def test_how_far_keys_make_keys(own, token):
    key = make(own, token)
    for _ in range(3):
        key = make(own, key["key"])
    answer = own.post(KEYS, {"name": "n", "permissions": ["read"]}, key=key["key"])
    is_error(answer, 400, "too_many_api_keys")
    assert make(own, token)["parent"] is None


def test_old_exports_keep_what_their_keys_could_administer(make_server):
    """Keys with `admin` get `keys`, others do not: as a store of before is converted, so is an export."""
    own = make_server(wait="live")
    user = own.new_user()
    member = own.new_key(user)
    export = own.get("/api/v1/admin/export", key=own.admin_key).body.decode().splitlines()
    header, *records, _ = [json.loads(line) for line in export]
    assert header["schema"] >= 3
    header["schema"] = 2
    for record in records:
        if record["kind"] == "key":
            record["value"]["permissions"] = [name for name in record["value"]["permissions"] if name != "keys"]
    text = export_of(header, records)
    other = make_server(wait="live")
    imported = other.post("/api/v1/admin/import", text, {"Content-Type": "application/x-ndjson"}, key=other.admin_key)
    assert imported.status == 200, imported
    assert other.get(PROFILE, key=own.admin_key).json()["permissions"] == ["read", "write", "keys", "admin"]
    assert other.get(PROFILE, key=member["key"]).json()["permissions"] == ["read", "write"]


def export_of(header, records):
    """The lines of an export, with the trailer that they need."""
    lines = [json.dumps(line, separators=(",", ":")) + "\n" for line in (header, *records)]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    counts = dict(sorted(collections.Counter(record["kind"] for record in records).items()))
    trailer = {"kind": "trailer", "records": counts, "sha256": digest}
    return ("".join(lines) + json.dumps(trailer, separators=(",", ":")) + "\n").encode()
