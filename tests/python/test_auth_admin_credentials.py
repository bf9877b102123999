"""Administrators and the keys and sessions of others: listing and ending them, and what ends with what made it."""

import pytest
from harness import Server
from tokens import claims_of

KEYS = "/api/v1/user/api-keys"
PROFILE = "/api/v1/user/profile"
ADMIN = "/api/v1/admin/users"
SOME_USER = "user_00000000000000000000000000000000"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("admin-credentials"), wait="live")
    yield one
    one.close()


@pytest.fixture
def user(own, request):
    return own.new_user(f"{request.node.name.lower().translate({32: 45, 91: 45, 93: None})}@example.com")


@pytest.fixture
def admin(own):
    """A key of the first administrator's that a test may end: made with a session, so that it is nobody's child."""
    me = own.get(PROFILE, key=own.admin_key).json()["id"]
    boss = own.new_user(f"boss{len(own.get(f'{ADMIN}?limit=100', key=own.admin_key).json()['data'])}@example.com")
    assert own.patch(f"{ADMIN}/{boss}", {"role": "admin"}, own.admin_key).status == 200
    key = own.new_key(boss, ("read", "write", "keys", "admin"))
    assert me != boss
    return key | {"user": boss}


def is_error(answer, status, code, param=None):
    assert answer.status == status, answer
    assert answer.error["code"] == code, answer
    if param:
        assert answer.error["param"] == param, answer


def session_of(server, user, key):
    """(id, access token) of a session that somebody makes for a user."""
    made = server.post(f"{ADMIN}/{user}/sessions", key=key)
    assert made.status == 201, made
    token = made.json()["access_token"]
    return claims_of(token)["sid"], token


def key_of(server, user, key, permissions=("read", "write")):
    made = server.post(f"{ADMIN}/{user}/api-keys", {"name": "n", "permissions": list(permissions)}, key=key)
    assert made.status == 201, made
    return made.json()


def works(server, credential):
    return server.get(PROFILE, key=credential).status == 200


def test_administrators_list_and_end_what_any_user_has(own, user):
    session, token = session_of(own, user, own.admin_key)
    key = key_of(own, user, own.admin_key)
    sessions = own.get(f"{ADMIN}/{user}/sessions", key=own.admin_key)
    assert sessions.status == 200, sessions
    (listed,) = sessions.json()["data"]
    assert (listed["id"], listed["object"], listed["current"]) == (session, "session", False)
    assert sessions.headers["Cache-Control"] == "no-store"
    keys = own.get(f"{ADMIN}/{user}/api-keys", key=own.admin_key)
    assert keys.json()["data"] == [{name: value for name, value in key.items() if name != "key"}]
    for path in (f"sessions/{session}", f"api-keys/{key['id']}"):
        ended = own.delete(f"{ADMIN}/{user}/{path}", own.admin_key)
        assert (ended.status, ended.json()["deleted"]) == (200, True), ended
        is_error(own.delete(f"{ADMIN}/{user}/{path}", own.admin_key), 404, "not_found")
    is_error(own.get(PROFILE, key=token), 401, "session_revoked")
    is_error(own.get(PROFILE, key=key["key"]), 401, "api_key_revoked")
    for path in ("sessions", "api-keys"):
        assert own.get(f"{ADMIN}/{user}/{path}", key=own.admin_key).json()["data"] == []


def test_nobody_else_does(own, user):
    session, token = session_of(own, user, own.admin_key)
    key = key_of(own, user, own.admin_key, ["read", "write", "keys"])
    for credential in (token, key["key"]):
        for method, path in [
            ("GET", "sessions"),
            ("GET", "api-keys"),
            ("DELETE", f"sessions/{session}"),
            ("DELETE", f"api-keys/{key['id']}"),
        ]:
            answer = own.request(method, f"{ADMIN}/{user}/{path}", key=credential)
            is_error(answer, 403, "insufficient_permissions")
    assert works(own, token)


def test_ids_that_lead_nowhere(own, user):
    other = own.new_user("elsewhere@example.com")
    session, _ = session_of(own, other, own.admin_key)
    key = key_of(own, other, own.admin_key)
    for path in (f"{SOME_USER}/sessions", f"{SOME_USER}/api-keys", "nonsense/sessions", "nonsense/api-keys"):
        is_error(own.get(f"{ADMIN}/{path}", key=own.admin_key), 404, "not_found")
    for path in (f"sessions/{session}", f"api-keys/{key['id']}", "sessions/nonsense", "api-keys/nonsense"):
        is_error(own.delete(f"{ADMIN}/{user}/{path}", own.admin_key), 404, "not_found")
        is_error(own.delete(f"{ADMIN}/{user}/{path}?cascade=true", own.admin_key), 404, "not_found")
    assert works(own, key["key"])
    for method in ("PUT", "PATCH", "GET"):
        answer = own.request(method, f"{ADMIN}/{other}/api-keys/{key['id']}", key=own.admin_key)
        assert (answer.status, answer.headers["Allow"]) == (405, "DELETE, OPTIONS")


def test_what_was_made_for_others_goes_on(own, user, admin):
    """So that rotating an administrator's key does not end a team's keys."""
    session, token = session_of(own, user, admin["key"])
    key = key_of(own, user, admin["key"])
    assert (key["made_by"], key["parent"]) == (admin["id"], None)
    (listed,) = own.get(f"{ADMIN}/{user}/sessions", key=own.admin_key).json()["data"]
    assert (listed["id"], listed["made_by"]) == (session, admin["id"])
    assert own.delete(f"{KEYS}/{admin['id']}", admin["key"]).status == 200
    assert works(own, token) and works(own, key["key"])


@pytest.mark.parametrize("by", ["its user", "another administrator", "afterwards"])
def test_cascade_ends_what_came_of_it(own, user, admin, by):
    other = own.new_user(f"cascade-{by.replace(' ', '-')}@example.com")
    bystander = key_of(own, other, own.admin_key)
    made = [session_of(own, user, admin["key"])[1], key_of(own, user, admin["key"])["key"], key_of(own, other, admin["key"])["key"]]
    child = own.post(KEYS, {"name": "n", "permissions": ["read", "write", "keys", "admin"]}, key=admin["key"]).json()
    made += [child["key"], key_of(own, other, child["key"])["key"]]
    assert all(works(own, one) for one in made)
    if by == "its user":
        ended = own.delete(f"{KEYS}/{admin['id']}?cascade=true", admin["key"])
    elif by == "another administrator":
        ended = own.delete(f"{ADMIN}/{admin['user']}/api-keys/{admin['id']}?cascade=true", own.admin_key)
    else:
        assert own.delete(f"{KEYS}/{admin['id']}", admin["key"]).status == 200
        assert [works(own, one) for one in made] == [True, True, True, False, True]
        ended = own.delete(f"{ADMIN}/{admin['user']}/api-keys/{admin['id']}?cascade=true", own.admin_key)
    assert ended.status == 200, ended
    assert not any(works(own, one) for one in made)
    assert works(own, bystander["key"])


def test_cascade_follows_through_what_has_ended(own, user, admin):
    """A thief's session for an administrator makes a key, and is gone itself: the key still came of the stolen one."""
    accomplice = own.new_user("accomplice@example.com")
    assert own.patch(f"{ADMIN}/{accomplice}", {"role": "admin"}, admin["key"]).status == 200
    _, token = session_of(own, accomplice, admin["key"])
    hidden = key_of(own, user, token)
    own_key = own.post(KEYS, {"name": "n", "permissions": ["read", "admin", "keys"]}, key=token).json()
    further = key_of(own, user, own_key["key"], ["read"])
    assert own.post("/auth/logout", key=token).status == 204
    assert works(own, hidden["key"]) and works(own, own_key["key"])
    assert own.delete(f"{ADMIN}/{admin['user']}/api-keys/{admin['id']}?cascade=true", own.admin_key).status == 200
    for one in (hidden, own_key, further):
        is_error(own.get(PROFILE, key=one["key"]), 401, "api_key_revoked")


def test_the_credential_that_asks_is_spared(own, user, admin):
    """So that a stolen key can be replaced also where it is the only administrator's."""
    successor = own.new_user("successor@example.com")
    assert own.patch(f"{ADMIN}/{successor}", {"role": "admin"}, admin["key"]).status == 200
    key = key_of(own, successor, admin["key"], ["read", "write", "keys", "admin"])
    stolen = [key_of(own, successor, admin["key"])["key"], session_of(own, user, admin["key"])[1]]
    assert own.delete(f"{ADMIN}/{admin['user']}/api-keys/{admin['id']}?cascade=true", key["key"]).status == 200
    assert works(own, key["key"])
    assert not any(works(own, one) for one in [admin["key"], *stolen])


def test_cascade_of_a_session(own, user):
    """Of one's own: what it made for its user; an administrator's: what it made for anybody."""
    session, token = session_of(own, user, own.admin_key)
    key = own.post(KEYS, {"name": "n", "permissions": ["read"]}, key=token).json()
    assert key["made_by"] == session
    _, other = session_of(own, user, own.admin_key)
    assert own.delete(f"/auth/sessions/{session}?cascade=true", other).status == 200
    is_error(own.get(PROFILE, key=key["key"]), 401, "api_key_revoked")
    assert works(own, other)
    boss = own.new_user("session-boss@example.com")
    assert own.patch(f"{ADMIN}/{boss}", {"role": "admin"}, own.admin_key).status == 200
    session, token = session_of(own, boss, own.admin_key)
    made = key_of(own, user, token)
    assert own.delete(f"{ADMIN}/{boss}/sessions/{session}?cascade=true", own.admin_key).status == 200
    assert not works(own, made["key"])


def test_who_is_no_administrator_any_more_ends_only_their_own(own, user):
    boss = own.new_user("former@example.com")
    assert own.patch(f"{ADMIN}/{boss}", {"role": "admin"}, own.admin_key).status == 200
    session, token = session_of(own, boss, own.admin_key)
    others, theirs = key_of(own, user, token), own.post(KEYS, {"name": "n", "permissions": ["read"]}, key=token).json()
    assert own.patch(f"{ADMIN}/{boss}", {"role": "member"}, own.admin_key).status == 200
    assert own.delete(f"/auth/sessions/{session}?cascade=true", token).status == 200
    assert not works(own, theirs["key"])
    assert works(own, others["key"])


@pytest.mark.parametrize("value", ["yes", "1", "", "TRUE"])
def test_cascade_that_is_neither(own, user, value):
    key = key_of(own, user, own.admin_key)
    for path in (f"{ADMIN}/{user}/api-keys/{key['id']}", f"{KEYS}/{key['id']}"):
        is_error(own.delete(f"{path}?cascade={value}", own.admin_key), 400, "invalid_value", "cascade")
    assert works(own, key["key"])


def test_what_made_what_is_kept(tmp_path):
    one = Server(tmp_path, wait="live")
    user = one.new_user()
    boss = one.new_user("boss@example.com")
    assert one.patch(f"{ADMIN}/{boss}", {"role": "admin"}, one.admin_key).status == 200
    admin = key_of(one, boss, one.admin_key, ["read", "write", "keys", "admin"])
    made = key_of(one, user, admin["key"])
    _, token = session_of(one, user, admin["key"])
    one.kill()
    again = Server(tmp_path, wait="live")
    try:
        assert works(again, made["key"]) and works(again, token)
        assert again.delete(f"{KEYS}/{admin['id']}?cascade=true", admin["key"]).status == 200
        is_error(again.get(PROFILE, key=made["key"]), 401, "api_key_revoked")
        is_error(again.get(PROFILE, key=token), 401, "session_revoked")
    finally:
        again.close()
