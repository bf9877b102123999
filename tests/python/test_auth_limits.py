"""Rate limits: buckets, headers, 429, whose address counts; on the real binary."""

import contextlib
import math
import subprocess
import time

import openai
import pytest
from conftest import sdk
from harness import BINARY, ENDLESS, MODEL, wait_until

MODELS = "/api/v1/models"


def limits(**settings):
    return {f"JAN_SERVER__RATE_LIMITS__{name.upper()}": value for name, value in settings.items()}


def figures(answer):
    """(limit, remaining, reset) of the headers."""
    return tuple(int(answer.headers[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset"))


def is_429(answer):
    assert answer.status == 429, answer
    assert answer.error["code"] == "rate_limit_exceeded"
    assert answer.error["type"] == "rate_limit_error"
    wait = int(answer.headers["Retry-After"])
    assert wait >= 1
    limit, remaining, reset = figures(answer)
    assert remaining == 0
    assert str(limit) in answer.error["message"]
    return wait


def forwarded(address):
    return {"X-Forwarded-For": address}


@pytest.fixture
def trusting(make_server):
    """Believes the test's own `X-Forwarded-For`, so that one test can be many clients."""

    def make(**settings):
        proxied = {"JAN_SERVER__HTTP__TRUSTED_PROXIES": "127.0.0.1, ::1", "JAN_SERVER__AUTH__ANONYMOUS": "allow"}
        return make_server(env=limits(**settings) | proxied, wait="live")

    return make


def test_defaults(make_server):
    own = make_server(
        env=limits(
            anonymous_per_hour=100, authenticated_per_hour=1000, inference_per_minute=60, sign_in_failures_per_hour=20
        )
    )
    begin = int(time.time())
    limit, remaining, reset = figures(own.get(MODELS))
    assert (limit, 90 < remaining < 100) == (100, True)
    # One request is back after 36 seconds, some more were spent while the server started.
    assert begin <= reset <= begin + 36 * (101 - remaining) + 2
    assert figures(own.get(MODELS, key=own.admin_key))[0] == 1000
    assert figures(own.chat(key=own.admin_key))[:2] == (60, 59), "the bucket nearest its end"


def test_configured_defaults_are_the_documented_ones(tmp_path):
    printed = subprocess.run([str(BINARY), "config"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    for line in ("authenticated_per_hour = 1000", "anonymous_per_hour = 100", "inference_per_minute = 60"):
        assert line in printed


def test_headers_count_down(trusting):
    own = trusting(anonymous_per_hour=10)
    seen = [figures(own.get(MODELS, forwarded("192.0.2.1"))) for _ in range(10)]
    assert [limit for limit, _, _ in seen] == [10] * 10
    assert [remaining for _, remaining, _ in seen] == list(range(9, -1, -1))
    resets = [reset for _, _, reset in seen]
    assert resets == sorted(resets)
    # Ten requests an hour: each one takes six minutes to come back.
    assert resets[-1] - time.time() == pytest.approx(3600, abs=5)
    wait = is_429(own.get(MODELS, forwarded("192.0.2.1")))
    assert 355 <= wait <= 360
    assert own.get(MODELS, forwarded("192.0.2.2")).status == 200, "another address is another bucket"


def test_refused_requests_cost_nothing_and_the_bucket_refills(trusting):
    own = trusting(anonymous_per_hour=3600)
    for _ in range(3700):
        answer = own.get(MODELS, forwarded("192.0.2.1"))
        if answer.status == 429:
            break
    wait = is_429(answer)
    assert wait == 1
    for _ in range(20):
        own.get(MODELS, forwarded("192.0.2.1"))
    time.sleep(1.1)
    assert own.get(MODELS, forwarded("192.0.2.1")).status == 200


def test_every_response_has_the_headers(server):
    """Errors, streams, preflights, probes, empty answers: all of them."""
    token = server.admin_key
    begin = math.floor(time.time())
    answers = [
        server.get("/health"),
        server.get("/livez"),
        server.get("/.well-known/jwks.json"),
        server.get("/api/swagger/openapi.json"),
        server.get("/nothing/here"),
        server.get("/api/v1/status"),
        server.get(MODELS),
        server.get(MODELS, key="wrong"),
        server.get(MODELS, key=token),
        server.get("/auth/google"),
        server.request("PUT", MODELS),
        server.request("OPTIONS", MODELS),
        server.request("HEAD", MODELS),
        server.chat(temperature=9),
        server.chat(model="no-such-model"),
        server.post("/api/v1/chat/completions", b"{", {"Content-Type": "application/json"}),
        server.post("/api/v1/chat/completions", b"x", {"Content-Type": "text/plain"}),
        server.chat(),
        server.request(
            "OPTIONS",
            "/api/v1/chat/completions",
            headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"},
        ),
    ]
    for answer in answers:
        limit, remaining, reset = figures(answer)
        assert 0 <= remaining <= limit
        assert reset >= begin - 1
    with server.stream(max_tokens=2) as stream:
        assert int(stream.headers["X-RateLimit-Limit"]) > 0
        stream.read()


def test_browsers_may_read_the_headers(server):
    for path in (MODELS, "/api/v1/status", "/nothing"):
        exposed = server.get(path, {"Origin": "https://a.example"}).headers["Access-Control-Expose-Headers"].lower()
        for name in ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"):
            assert name in exposed


def test_probes_and_preflights_cost_nothing(trusting):
    own = trusting(anonymous_per_hour=2)
    client = forwarded("192.0.2.9")
    preflight = client | {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    for _ in range(5):
        assert own.get("/health", client).status == 200
        assert own.get("/livez", client).status == 200
        assert own.request("OPTIONS", MODELS, headers=preflight).status == 204
    assert figures(own.get("/health", client))[:2] == (2, 2)
    assert own.get(MODELS, client).status == 200
    assert own.get(MODELS, client).status == 200
    is_429(own.get(MODELS, client))
    assert own.get("/health", client).status == 200, "probes are answered whatever else was asked"


def test_users_have_buckets_of_their_own(trusting):
    """A user's keys and sessions share the user's bucket; an address does not matter then."""
    own = trusting(authenticated_per_hour=20, anonymous_per_hour=5)
    ann, ben = own.new_user("ann@example.com"), own.new_user("ben@example.com")
    key, token = own.new_key(ann)["key"], own.new_session(ann)["access_token"]
    assert figures(own.get(MODELS, forwarded("192.0.2.1"), key=key))[:2] == (20, 19)
    assert figures(own.get(MODELS, forwarded("192.0.2.2"), key=token))[:2] == (20, 18)
    for _ in range(18):
        assert own.get(MODELS, key=key).status == 200
    is_429(own.get(MODELS, key=key))
    is_429(own.get(MODELS, key=token))
    assert own.get(MODELS, key=own.new_key(ben)["key"]).status == 200
    assert own.get(MODELS, forwarded("192.0.2.1")).status == 200


def test_inference_is_limited_by_itself(make_server):
    own = make_server(env=limits(inference_per_minute=3))
    key = own.new_key(own.new_user())["key"]
    assert figures(own.chat(key=key))[:2] == (3, 2)
    text = own.post("/api/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1}, key=key)
    assert figures(text)[:2] == (3, 1)
    assert own.chat(key=key, stream=True, max_tokens=1).status == 200
    wait = is_429(own.chat(key=key))
    assert wait <= 20
    is_429(own.chat(key=key, stream=True))
    assert own.get(MODELS, key=key).status == 200, "other requests go on"
    assert own.chat().status == 200, "an address has a bucket of its own"
    with sdk(own, api_key=key) as client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.code == "rate_limit_exceeded"


def test_limits_of_a_user_and_of_a_key(make_server):
    own = make_server(env=limits(authenticated_per_hour=1000, inference_per_minute=60), wait="live")
    user = own.new_user()
    wide, narrow = own.new_key(user)["key"], own.new_key(user, limits={"requests_per_hour": 4})["key"]
    assert figures(own.get(MODELS, key=wide))[0] == 1000
    for remaining in (3, 2, 1, 0):
        assert figures(own.get(MODELS, key=narrow))[:2] == (4, remaining)
    is_429(own.get(MODELS, key=narrow))
    assert own.get(MODELS, key=wide).status == 200, "the user has more than that key"
    changed = own.patch(f"/api/v1/admin/users/{user}", {"limits": {"requests_per_hour": 2000}}, own.admin_key)
    assert changed.json()["limits"] == {"requests_per_hour": 2000}
    assert figures(own.get(MODELS, key=wide))[0] == 2000
    assert own.patch(f"/api/v1/admin/users/{user}", {"limits": {"requests_per_hour": 5}}, own.admin_key).status == 200
    answers = [own.get(MODELS, key=wide) for _ in range(8)]
    is_429(answers[-1])
    assert figures(answers[-1])[0] == 5


def test_tokens_a_minute(make_server):
    own = make_server(env=limits(tokens_per_minute=200))
    key = own.new_key(own.new_user())["key"]
    assert own.chat(key=key, max_tokens=2).status == 200
    # More than there is: the answer is whole, and the next one waits.
    answer = own.chat(key=key, max_tokens=400, logit_bias=ENDLESS)
    assert answer.status == 200
    assert answer.json()["usage"]["completion_tokens"] == 400
    refused = own.chat(key=key)
    assert refused.status == 429, refused
    assert "tokens a minute" in refused.error["message"]
    assert own.get(MODELS, key=key).status == 200
    assert own.chat().status == 200


def test_abandoned_streams_pay_for_their_tokens(make_server):
    own = make_server(env=limits(tokens_per_minute=100))
    key = own.new_key(own.new_user())["key"]
    with own.stream(key=key, max_tokens=1000, logit_bias=ENDLESS) as stream:
        events = stream.events()
        for _ in range(150):
            next(events)
    wait_until(lambda: own.chat(key=key, max_tokens=1).status == 429, "what was sent is charged", 10)


def test_streams_at_a_time(make_server):
    own = make_server(env=limits(concurrent_streams=2))
    key = own.new_key(own.new_user())["key"]
    with contextlib.ExitStack() as stack:
        open_streams = [stack.enter_context(own.stream(key=key, max_tokens=1500, logit_bias=ENDLESS)) for _ in range(2)]
        for stream in open_streams:
            next(stream.events())
        refused = own.chat(key=key, stream=True)
        assert refused.status == 429, refused
        assert "streams" in refused.error["message"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert own.chat(key=key).status == 200, "an answer in one piece is no stream"
        assert own.chat(stream=True).status == 200, "nor are other callers concerned"
        open_streams[0].close()
        wait_until(lambda: own.chat(key=key, stream=True, max_tokens=1).status == 200, "a place is free again", 10)
    wait_until(lambda: own.chat(key=key, stream=True, max_tokens=1).status == 200, "all are free again", 10)


def test_forwarded_addresses_count_only_from_proxies(make_server):
    own = make_server(env=limits(anonymous_per_hour=4), wait="live")
    answers = [own.get(MODELS, forwarded(f"192.0.2.{number}")) for number in range(8)]
    assert [answer.status for answer in answers].count(429) >= 3, "the header of a stranger changes nothing"


def test_forwarded_addresses_are_read_from_the_end(trusting):
    own = trusting(anonymous_per_hour=3)
    for number in range(3):
        # The client writes what it likes; the proxy appends where it came from.
        assert own.get(MODELS, forwarded(f"203.0.113.{number}, 192.0.2.1")).status == 200
    is_429(own.get(MODELS, forwarded("203.0.113.77, 192.0.2.1")))
    assert own.get(MODELS, forwarded("192.0.2.1, 198.51.100.1")).status == 200


def test_ipv6_clients_are_counted_by_64(trusting):
    own = trusting(anonymous_per_hour=3)
    for host in (":1", ":2", "ffff:ffff:ffff:ffff"):
        assert own.get(MODELS, forwarded(f"2001:db8:1:2:{host}")).status == 200
    is_429(own.get(MODELS, forwarded("2001:db8:1:2::abcd")))
    assert own.get(MODELS, forwarded("2001:db8:1:3::1")).status == 200
    assert own.get(MODELS, forwarded("::ffff:192.0.2.5")).status == 200


def test_ipv6_listener(make_server):
    own = make_server(listen="[::1]:0", env=limits(anonymous_per_hour=5), wait="live")
    assert own.get(MODELS).status == 200, "::1 is loopback, too"
    for _ in range(6):
        answer = own.get(MODELS)
    is_429(answer)


def test_made_up_credentials_are_limited_by_address(trusting):
    own = trusting(sign_in_failures_per_hour=4, anonymous_per_hour=1000)
    here, there = forwarded("192.0.2.1"), forwarded("192.0.2.2")
    for number in range(4):
        assert own.get(MODELS, here, key=f"sk-jan-{number:043d}").status == 401
    is_429(own.get(MODELS, here, key="sk-jan-" + "9" * 43))
    is_429(own.post("/api/v1/auth/refresh", {"refresh_token": "a.b.c"}, here))
    assert own.get(MODELS, there, key="sk-jan-" + "9" * 43).status == 401
    assert own.get(MODELS, here).status == 200, "without a credential nothing was guessed"
    assert own.get(MODELS, here, key=own.admin_key).status == 200, "nor are the neighbours locked out"


def test_refused_credentials_count_as_anonymous_requests(trusting):
    own = trusting(anonymous_per_hour=3)
    client = forwarded("192.0.2.1")
    for _ in range(3):
        assert own.get("/api/v1/user/profile", client).status == 401
    is_429(own.get("/api/v1/user/profile", client))


def test_zero_is_no_limit(make_server):
    own = make_server(env=limits(anonymous_per_hour=0, authenticated_per_hour=0, inference_per_minute=0), wait="live")
    for _ in range(150):
        answer = own.get(MODELS)
        assert answer.status == 200
    assert "X-RateLimit-Limit" not in answer.headers
