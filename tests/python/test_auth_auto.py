"""`auto`: the server's own machine needs no credential, and nobody else is taken for it."""

import pytest
from harness import MODEL

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
FORWARDED = [
    {"X-Forwarded-For": "203.0.113.7"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-For": ""},
    {"Forwarded": "for=203.0.113.7;proto=https"},
    {"Forwarded": "for=127.0.0.1"},
    {"X-Real-IP": "127.0.0.1"},
    {"X-Forwarded-Host": "chat.example"},
    {"X-Forwarded-Proto": "https"},
    {"Via": "1.1 proxy"},
]


def is_closed(server, headers=None):
    for answer in (
        server.get("/api/v1/models", headers),
        server.post("/api/v1/chat/completions", CHAT, headers),
        server.post("/v1/embeddings", {"model": MODEL, "input": "x"}, headers),
    ):
        assert (answer.status, answer.error["code"]) == (401, "missing_credentials"), (headers, answer)
    guest = server.post("/auth/guest", headers=headers)
    assert (guest.status, guest.error["code"]) == (403, "guests_disabled"), (headers, guest)
    assert server.get("/health", headers).status == 200
    assert server.post("/api/v1/chat/completions", CHAT, headers, key=server.admin_key).status == 200


def is_open(server, headers=None):
    assert server.get("/api/v1/models", headers).status == 200
    assert server.post("/api/v1/chat/completions", CHAT, headers).status == 200
    assert server.post("/auth/guest", headers=headers).status == 201


@pytest.mark.parametrize("headers", FORWARDED, ids=str)
def test_forwarded_requests_are_not_this_machines(server, headers):
    is_closed(server, headers)


def test_this_machine_needs_no_credential(server):
    is_open(server)
    assert "open without a credential" in server.log()
    assert "every program on this machine" in server.log()


def test_configured_proxies_close_it_for_all(make_server):
    for proxies in ('"127.0.0.1"', '"10.0.0.0/8"'):
        own = make_server(config=f"[http]\ntrusted_proxies = [{proxies}]")
        for headers in (None, {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "127.0.0.1"}):
            is_closed(own, headers)
        assert "open without a credential" not in own.log()


def test_a_policy_of_ones_own_opens_it(make_server):
    own = make_server(config="""
        [http]
        trusted_proxies = ["127.0.0.1"]
        [auth]
        anonymous = "allow"
        guests = "on"
    """)
    for headers in (None, {"X-Forwarded-For": "203.0.113.7"}):
        is_open(own, headers)
    assert own.log().count("every client that the configured proxies forward") == 2
    # The names are the proxy's business.
    assert own.get("/api/v1/models", {"X-Forwarded-For": "203.0.113.7", "Host": "chat.example"}).status == 200


def test_nothing_is_open_and_nothing_is_warned_of(make_server):
    own = make_server(config='[auth]\nanonymous = "deny"\nguests = "off"')
    is_closed(own)
    assert "open without a credential" not in own.log()


def test_everybody_is_named(make_server):
    own = make_server(config='[auth]\nanonymous = "allow"\nguests = "off"', listen="0.0.0.0:0")
    assert own.log().count("open without a credential") == 1
    assert "every client that can reach 0.0.0.0:" in own.log()
