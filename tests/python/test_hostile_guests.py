"""Guests multiply nothing: they share their address's limits and places, and their number is bounded; on the real binary."""

import time

import pytest
from harness import ENDLESS, MODEL, Server, wait_until

MODELS = "/api/v1/models"
DETOKENIZE = "/api/v1/detokenize"
TRUSTING = {
    "JAN_SERVER__HTTP__TRUSTED_PROXIES": "127.0.0.1, ::1",
    # With a proxy `auto` lets nobody in without a credential.
    "JAN_SERVER__AUTH__ANONYMOUS": "allow",
    "JAN_SERVER__AUTH__GUESTS": "on",
}


def limits(**settings):
    return {f"JAN_SERVER__RATE_LIMITS__{name.upper()}": value for name, value in settings.items()}


def at(address):
    return {"X-Forwarded-For": address}


def guest(server, address="192.0.2.1", key=False):
    """A credential of a new guest: a token, or a key that the guest made."""
    made = server.post("/auth/guest", headers=at(address))
    assert made.status == 201, made
    token = made.json()["access_token"]
    if not key:
        return token
    body = {"name": "k", "permissions": ["read", "write"]}
    made = server.post("/api/v1/user/api-keys", body, at(address), key=token)
    assert made.status == 201, made
    return made.json()["key"]


def infer(server, key, address="192.0.2.1"):
    """The cheapest request that counts as inference."""
    return server.post(DETOKENIZE, {"model": MODEL, "tokens": [1]}, at(address), key=key)


@pytest.fixture
def trusting(make_server):
    """Believes the test's own `X-Forwarded-For`, so that one test can be many clients."""

    def make(config=None, **env):
        return make_server(config=config, env=TRUSTING | env, wait="ready")

    return make


def test_guests_have_their_addresses_limits_together(trusting):
    own = trusting(**limits(anonymous_per_hour=100, inference_per_minute=60, authenticated_per_hour=1000))
    member = own.new_key(own.new_user())["key"]
    credentials = [guest(own), guest(own, key=True), guest(own), None]
    answers = [infer(own, key) for _ in range(30) for key in credentials]
    accepted = [answer for answer in answers if answer.status == 200]
    # One comes back each second.
    assert 60 <= len(accepted) <= 66, len(accepted)
    assert {answer.status for answer in answers} == {200, 429}
    refused = [answer for answer in answers if answer.status == 429]
    assert all(answer.error["code"] == "rate_limit_exceeded" for answer in refused)
    # By the request's own address, an IPv6 one by its /64, whatever address the guest was made from.
    assert infer(own, credentials[0], "198.51.100.7").status == 200
    assert infer(own, guest(own, "2001:db8::1"), "2001:db8:0:0:1::1").headers["X-RateLimit-Remaining"] == "59"
    assert infer(own, guest(own, "2001:db8::2"), "2001:db8:0:0:2::2").headers["X-RateLimit-Remaining"] == "58"
    for _ in range(30):
        assert infer(own, member).status == 200, "a user has limits of their own"
    # Requests an hour, too: four were spent on making the guests and their key, and each accepted inference was one.
    seen = [own.get(MODELS, at("192.0.2.1"), key=key) for _ in range(12) for key in credentials]
    assert seen[0].headers["X-RateLimit-Limit"] == "100"
    assert seen[-1].status == 429
    assert sum(answer.status == 200 for answer in seen) <= 100 - 4 - len(accepted) + 2
    assert own.get(MODELS, at("192.0.2.1"), key=member).headers["X-RateLimit-Limit"] == "1000"


def test_limits_that_an_administrator_gave_a_guest_hold(trusting):
    own = trusting(**limits(inference_per_minute=3))
    token = guest(own)
    user = own.get("/api/v1/user/profile", key=token).json()["id"]
    assert own.patch(f"/api/v1/admin/users/{user}", {"limits": {"inference_per_minute": 20}}, own.admin_key).status == 200
    assert [infer(own, token).status for _ in range(20)] == [200] * 20
    assert infer(own, token).status == 429
    assert [infer(own, guest(own)).status for _ in range(4)] == [200] * 3 + [429], "nobody else's"


def test_guests_have_their_addresses_background_places_together(trusting):
    own = trusting("[responses]\nmax_background_per_user = 2\n")
    member = own.new_key(own.new_user())["key"]

    def create(key, address="192.0.2.1"):
        body = {"model": MODEL, "input": "Hello", "background": True, "logit_bias": ENDLESS}
        return own.post("/api/v1/responses", body, at(address), key=key)

    credentials = [guest(own), guest(own, key=True), guest(own)]
    answers = [create(key) for key in credentials]
    assert [answer.status for answer in answers] == [200, 200, 429], answers
    assert answers[-1].error["code"] == "too_many_background_responses"
    assert create(member).status == 200
    assert create(guest(own, "192.0.2.2"), "192.0.2.2").status == 200
    # A place that is given back is the address's.
    one = answers[0].json()["id"]
    assert own.post(f"/api/v1/responses/{one}/cancel", key=credentials[0]).status == 200
    assert wait_until(lambda: create(credentials[2]).status == 200, "a place for the address", 10)


def test_the_number_of_guests_is_bounded_by_address_and_in_all(tmp_path):
    config = "[auth]\nmax_guests_per_address = 3\nmax_guests = 5\n"
    own = Server(tmp_path, config=config, env=TRUSTING, wait="live")
    keys = [guest(own, key=True), guest(own, key=True), guest(own)]

    def refused(answer, setting):
        assert (answer.status, answer.error["code"]) == (429, "too_many_guests"), answer
        assert setting in answer.error["message"]

    try:
        refused(own.post("/auth/guest", headers=at("192.0.2.1")), "auth.max_guests_per_address")
        own.close()
        own = Server(tmp_path, config=config, env=TRUSTING, wait="live")
        refused(own.post("/auth/guest", headers=at("192.0.2.1")), "auth.max_guests_per_address")
        for last in range(2):
            guest(own, f"2001:db8::{last}")
        refused(own.post("/auth/guest", headers=at("2001:db8:1::1")), "(auth.max_guests)")
        assert own.get(MODELS, at("192.0.2.1"), key=keys[0]).status == 200, "those that there are go on"
        assert own.delete("/api/v1/user/profile", key=keys[2]).status == 200
        guest(own, "192.0.2.1")
        own.new_user()
    finally:
        own.close()


def test_a_guest_that_nobody_uses_goes_with_its_keys_and_data(tmp_path):
    config = "[auth]\nguests = \"on\"\nguest_idle_s = 2\naccess_token_ttl_s = 1\n"
    own = Server(tmp_path, config=config, wait="live")
    keys = [guest(own, key=True) for _ in range(3)]
    users = [own.get("/api/v1/user/profile", key=key).json()["id"] for key in keys]
    conversation = own.post("/api/v1/conversations", {"title": "a guest's"}, key=keys[0])
    assert conversation.status in (200, 201), conversation
    member = own.new_key(own.new_user())["key"]
    own.terminate()
    own.process.wait(30)
    own.close()
    time.sleep(4)
    own = Server(tmp_path, config=config, wait="live")
    try:

        def gone():
            return all(own.get(f"/api/v1/admin/users/{user}", key=own.admin_key).status == 404 for user in users)

        wait_until(gone, "the guests are gone", 10)
        assert own.get("/api/v1/user/profile", key=keys[0]).error["code"] == "invalid_api_key"
        assert own.get("/api/v1/user/profile", key=member).status == 200
    finally:
        own.close()
