"""Share links: who may make one, when it ends, and that what opens it is in no log."""

import json
import time

import pytest
from harness import Server, wait_until
from store_callers import CONVERSATIONS

ADMIN = "/api/v1/admin/users"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    config = '[log]\nlevel = "debug"\n'
    one = Server(tmp_path_factory.mktemp("shares"), wait="live", model=False, config=config)
    yield one
    one.close()


def shared_by(server, name):
    """(user, key, conversation, token) of a new user with a link."""
    user = server.new_user(f"{name}@share.example")
    key = server.new_key(user)["key"]
    made = server.post(CONVERSATIONS, {"items": [{"role": "user", "content": "hello"}]}, key=key).json()["id"]
    link = server.post(f"{CONVERSATIONS}/{made}/share", key=key)
    assert link.status == 200, link
    return user, key, made, link.json()["token"]


def shows(server, token):
    return server.get(f"/api/v1/shared/{token}").status == 200


def test_a_link_ends_with_its_user(own):
    user, key, made, token = shared_by(own, "disabled")
    assert shows(own, token)
    assert own.patch(f"{ADMIN}/{user}", {"disabled": True}, key=own.admin_key).status == 200
    assert not shows(own, token)
    # For good: whoever was sent the link then has none now.
    assert own.patch(f"{ADMIN}/{user}", {"disabled": False}, key=own.admin_key).status == 200
    assert not shows(own, token)
    time.sleep(1.1)
    again = own.post(f"{CONVERSATIONS}/{made}/share", key=key).json()["token"]
    assert again != token and shows(own, again) and not shows(own, token)
    assert own.delete(f"{ADMIN}/{user}", key=own.admin_key).status in (200, 204)
    assert not shows(own, again)


def test_a_link_can_end_by_itself(own):
    _, key, made, token = shared_by(own, "expiry")
    path = f"{CONVERSATIONS}/{made}/share"
    assert own.post(path, key=key).json()["expires_at"] is None
    end = int(time.time()) + 2
    link = own.post(path, {"expires_at": end}, key=key)
    assert (link.json()["token"], link.json()["expires_at"]) == (token, end)
    assert shows(own, token)
    wait_until(lambda: not shows(own, token), "the link ends", 10)
    assert own.post(path, key=key).json()["token"] != token, "one that has ended stays so"
    for wrong in (1, int(time.time()) - 1):
        refused = own.post(path, {"expires_at": wrong}, key=key)
        assert (refused.status, refused.error["param"]) == (400, "expires_at"), refused
    assert own.post(path, {"expires_at": "soon"}, key=key).status == 400


def test_administrators_list_and_end_links(own):
    user, key, made, token = shared_by(own, "listed")
    others = [shared_by(own, f"other{number}") for number in range(2)]
    for number in range(3):
        own.post(CONVERSATIONS, {"title": f"private {number}"}, key=key)
    listed = own.get(f"{ADMIN}/{user}/shares", key=own.admin_key)
    assert listed.status == 200, listed
    assert [link["conversation_id"] for link in listed.json()["data"]] == [made]
    assert token not in listed.body.decode(), "what opens it is its user's"
    assert own.get(f"{ADMIN}/{user}/shares", key=key).status == 403
    assert own.delete(f"{ADMIN}/{user}/shares/{made}", key=key).status == 403
    assert own.delete(f"{ADMIN}/{others[0][0]}/shares/{made}", key=own.admin_key).status == 404, "another user's"
    assert own.delete(f"{ADMIN}/{user}/shares/{made}", key=own.admin_key).status == 200
    assert not shows(own, token)
    assert all(shows(own, other[3]) for other in others)
    assert own.get(f"{ADMIN}/{user}/shares", key=own.admin_key).json()["data"] == []
    assert own.delete(f"{ADMIN}/{user}/shares/{made}", key=own.admin_key).status == 404


def test_whoever_makes_a_link_can_read(own):
    user, _, made, _ = shared_by(own, "write-only")
    writer = own.new_key(user, ["write"])["key"]
    refused = own.post(f"{CONVERSATIONS}/{made}/share", key=writer)
    assert (refused.status, refused.error["code"]) == (403, "insufficient_permissions"), refused


def test_a_token_is_in_no_log(own):
    _, key, made, token = shared_by(own, "logged")
    for path in (f"/api/v1/shared/{token}", f"/v1/shared/{token}", f"/api/v1/shared/{token}?format=markdown"):
        assert own.get(path).status == 200
    assert own.post(f"/api/v1/shared/{token}").status == 405
    assert own.delete(f"{CONVERSATIONS}/{made}/share", key=key).status == 200
    missing = own.get(f"/api/v1/shared/{token}")
    assert missing.status == 404 and token not in json.dumps(missing.json())
    assert own.get(f"/api/v1/shared/{token}/more").status == 404
    wait_until(lambda: own.log().count("/shared") >= 5, "the requests are in the log")
    assert token not in own.log()
