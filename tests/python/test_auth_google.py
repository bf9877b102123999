"""Signing in with Google, end to end against a provider of the tests' own."""

import base64
import hashlib
import re
import secrets
import time
import urllib.parse

import oidc
import pytest
from harness import wait_until
from oidc import Browser, parameters

RETURN = "https://app.example/signed-in"


@pytest.fixture(scope="module")
def provider():
    one = oidc.Provider()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def honest(provider):
    yield
    provider.reset()
    provider.keys, provider.key = [provider.keys[0]], provider.keys[0]


@pytest.fixture(scope="module")
def own(tmp_path_factory, provider):
    from harness import Server

    one = Server(
        tmp_path_factory.mktemp("google"), env=provider.settings(allowed_return_urls=RETURN, timeout_ms=700), wait="live"
    )
    yield one
    one.close()


def emails(server):
    users = server.get("/api/v1/admin/users?limit=100", key=server.admin_key).json()["data"]
    return [user["email"] for user in users]


def test_sign_in(own, provider):
    browser = Browser(own)
    departure = browser.get("/auth/google")
    assert departure.status == 302
    address = departure.headers["Location"]
    assert address.startswith(f"{provider.url}/authorize?")
    asked = parameters(address)
    assert asked["client_id"] == oidc.CLIENT_ID
    assert asked["redirect_uri"] == oidc.REDIRECT_URL
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert set(asked["scope"].split()) == {"openid", "email", "profile"}
    for name in ("state", "nonce", "code_challenge"):
        assert re.fullmatch(r"[\w-]{43}", asked[name]), name
    (cookie,) = departure.headers.get_all("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Max-Age=600" in cookie
    assert "Secure" not in cookie, "there is no TLS in this address"

    answer = browser.get(browser.visit(address))
    assert answer.status == 200, answer
    tokens = answer.json()
    assert tokens.keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert tokens["token_type"] == "Bearer"
    assert answer.headers["Cache-Control"] == "no-store"
    profile = own.get("/api/v1/user/profile", key=tokens["access_token"]).json()
    assert (profile["email"], profile["name"], profile["role"]) == ("ann@corp.example", "Ann Example", "member")
    form = [form for path, form in provider.asked if path == "/token"][-1]
    assert len(form["code_verifier"]) >= 43

    again = Browser(own).sign_in().json()
    assert own.get("/api/v1/user/profile", key=again["access_token"]).json()["id"] == profile["id"]
    assert emails(own).count("ann@corp.example") == 1


def test_https_makes_the_cookie_secure(make_server, provider):
    https = make_server(env=provider.settings(redirect_url="https://jan.example/auth/google/callback"), wait="live")
    (cookie,) = https.get("/auth/google").headers.get_all("Set-Cookie")
    assert cookie.startswith("__Host-")
    assert "Secure" in cookie
    assert "Path=/" in cookie


def test_address_as_json(own, provider):
    answer = own.get("/auth/google", {"Accept": "application/json"})
    assert answer.status == 200
    assert answer.json()["authorization_url"].startswith(f"{provider.url}/authorize?")
    assert answer.headers["Set-Cookie"]


def refused(own, answer, status, code):
    """A clear error, and nobody is signed in."""
    assert answer.status == status, answer
    assert answer.error["code"] == code, answer
    assert len(answer.error["message"]) > 20
    assert "access_token" not in answer.body.decode()
    assert answer.headers["X-RateLimit-Limit"]
    assert oidc.CLIENT_SECRET.encode() not in answer.body


def test_forged_state(own):
    browser = Browser(own)
    back = browser.visit(browser.depart())
    for wrong in (
        re.sub(r"state=[^&]*", "state=made-up", back),
        re.sub(r"state=[^&]*", "state=", back),
        re.sub(r"&?state=[^&]*", "", back),
    ):
        refused(own, browser.get(wrong), 400, "oauth_state_invalid")


def test_state_is_for_one_use(own):
    browser = Browser(own)
    back = browser.visit(browser.depart())
    assert browser.get(back).status == 200
    refused(own, browser.get(back), 400, "oauth_state_invalid")


def test_state_dies(make_server, provider):
    """The default is ten minutes (`test_sign_in` sees it on the cookie); here it is one second."""
    hasty = make_server(env=provider.settings(state_ttl_s=1), wait="live")
    browser = Browser(hasty)
    assert browser.get(browser.visit(browser.depart())).status == 200
    back = browser.visit(browser.depart())
    time.sleep(1.1)
    refused(hasty, browser.get(back), 400, "oauth_state_invalid")
    assert browser.get(browser.visit(browser.depart())).status == 200, "a new one begins"


def test_state_is_bound_to_the_browser(own):
    """Whoever is lured to somebody else's callback is not signed in as them."""
    attacker, victim = Browser(own), Browser(own)
    victim.depart()
    back = attacker.visit(attacker.depart())
    refused(own, victim.get(back), 400, "oauth_state_invalid")
    refused(own, Browser(own).get(attacker.visit(attacker.depart())), 400, "oauth_state_invalid")


def test_two_tabs(own):
    browser = Browser(own)
    first, second = browser.depart(), browser.depart()
    for address in (first, second):
        assert browser.get(browser.visit(address)).status == 200


def test_code_replayed(own, provider):
    """The provider's single use, in a sign-in of its own."""
    browser = Browser(own)
    code = parameters(browser.visit(browser.depart()))["code"]
    state = parameters(browser.depart())["state"]
    provider.codes.pop(code)
    refused(own, browser.get(f"/auth/google/callback?code={code}&state={state}"), 400, "oauth_code_refused")


def test_code_of_another_sign_in(own):
    """PKCE: a stolen code is of no use with another verifier."""
    thief, victim = Browser(own), Browser(own)
    code = parameters(victim.visit(victim.depart()))["code"]
    state = parameters(thief.depart())["state"]
    refused(own, thief.get(f"/auth/google/callback?code={code}&state={state}"), 400, "oauth_code_refused")


def test_person_does_not_agree(own):
    browser = Browser(own)
    state = parameters(browser.depart())["state"]
    answer = browser.get(f"/auth/google/callback?error=access_denied&state={state}")
    refused(own, answer, 400, "oauth_denied")
    assert "access_denied" in answer.error["message"]
    state = parameters(browser.depart())["state"]
    refused(own, browser.get(f"/auth/google/callback?state={state}"), 400, "oauth_code_missing")


def test_answer_of_another_provider(own):
    """RFC 9207: the mix-up attack."""
    browser = Browser(own)
    back = browser.visit(browser.depart())
    refused(own, browser.get(re.sub(r"iss=[^&]*", "iss=https%3A%2F%2Fevil.example", back)), 400, "oauth_issuer_mismatch")


NOW = int(time.time())
LIES = {
    "issuer": {"iss": "https://evil.example"},
    "audience": {"aud": "somebody-else"},
    "several audiences": {"aud": [oidc.CLIENT_ID, "somebody-else"]},
    "presenter": {"azp": "somebody-else"},
    "nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "expired": {"exp": NOW - 3600},
    "from the future": {"iat": NOW + 7200, "exp": NOW + 9000},
    "old": {"iat": NOW - 7200},
    "no subject": {"sub": ""},
}


@pytest.mark.parametrize("lie", LIES)
def test_provider_lies(own, provider, lie):
    provider.claims = LIES[lie] | {"email": "liar@corp.example"}
    refused(own, Browser(own).sign_in(), 401, "oauth_id_token_invalid")
    assert "liar@corp.example" not in emails(own)


def test_provider_lies_by_signature(own, provider):
    stranger = oidc.Key("first")
    for token in (
        stranger.sign,
        oidc.without_signature,
        oidc.with_public_key_as_secret(provider.key),
        lambda claims: oidc.Key("unknown").sign(claims),
        lambda claims: provider.key.sign(claims, alg="HS256"),
        lambda claims: provider.key.sign(claims)[:-20],
        lambda _: "no.jwt.atall",
    ):
        provider.token = token
        refused(own, Browser(own).sign_in(), 401, "oauth_id_token_invalid")


@pytest.mark.parametrize("claims", [{"email_verified": False}, {"email_verified": None}, {"email": None}])
def test_unverified_email(own, provider, claims):
    provider.claims = {"email": "unverified@corp.example"} | claims
    refused(own, Browser(own).sign_in(), 403, "email_not_verified")
    assert "unverified@corp.example" not in emails(own)


def test_provider_changes_its_keys(own, provider):
    assert Browser(own).sign_in().status == 200
    fetched = sum(path == "/jwks" for path, _ in provider.asked)
    assert Browser(own).sign_in().status == 200
    assert sum(path == "/jwks" for path, _ in provider.asked) == fetched, "known keys are kept"
    provider.key = oidc.Key("second")
    provider.keys = [*provider.keys, provider.key]
    assert Browser(own).sign_in().status == 200


@pytest.mark.parametrize("path", ["/token", "/jwks"])
def test_provider_answers_nonsense(own, provider, path):
    # An unknown key makes the server fetch the keys.
    provider.key = oidc.Key(f"new-{path}")
    redirect = {"Location": f"{provider.url}/elsewhere"}
    for answer, status, code in [
        ((500, {}, b"out of order"), 503, "oauth_provider_unreachable"),
        ((302, redirect, b""), 502, "oauth_provider_error"),
        ((307, redirect, b""), 502, "oauth_provider_error"),
        ((200, {}, b"<html>"), 502, "oauth_provider_error"),
        ((200, {}, b"{}"), 502, "oauth_provider_error"),
        ((200, {}, b'{"keys": "' + b"x" * 1_000_000 + b'"}'), 502, "oauth_provider_error"),
    ]:
        provider.answer = {path: answer}
        refused(own, Browser(own).sign_in(), status, code)
    assert not any(path == "/elsewhere" for path, _ in provider.asked), "no redirect is followed"


def test_provider_refuses_this_server(own, provider):
    provider.answer = {"/token": (401, {}, {"error": "invalid_client"})}
    answer = Browser(own).sign_in()
    refused(own, answer, 502, "oauth_provider_error")
    assert "auth.google.client_id and client_secret" in answer.error["message"]


def test_provider_is_slow(own, provider):
    browser = Browser(own)
    back = browser.visit(browser.depart())
    provider.delay = 3
    begin = time.monotonic()
    answer = browser.get(back)
    assert time.monotonic() - begin < 2.5
    refused(own, answer, 503, "oauth_provider_timeout")
    assert int(answer.headers["Retry-After"]) >= 1


def test_provider_is_down(make_server):
    """The server starts all the same, and says so only to whoever signs in."""
    provider = oidc.Provider()
    settings = provider.settings()
    provider.close()
    alone = make_server(env=settings)
    assert alone.chat().status == 200
    browser = Browser(alone)
    state = parameters(browser.depart())["state"]
    answer = browser.get(f"/auth/google/callback?code=x&state={state}")
    refused(alone, answer, 503, "oauth_provider_unreachable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_not_set_up(server):
    answer = server.get("/auth/google")
    assert answer.status == 503
    assert answer.error["code"] == "oauth_not_configured"
    for name in ("client_id", "client_secret", "redirect_url"):
        assert f"auth.google.{name}" in answer.error["message"]
    assert server.get("/auth/google/callback?code=x&state=y").error["code"] == "oauth_not_configured"


def test_what_is_missing_is_named(make_server):
    half = make_server(env={"JAN_SERVER__AUTH__GOOGLE__CLIENT_ID": "x"}, wait="live")
    message = half.get("/auth/google").error["message"]
    assert "auth.google.client_secret" in message
    assert "auth.google.client_id" not in message


def test_allowed_domains(make_server, provider):
    strict = make_server(env=provider.settings(allowed_domains="corp.example,other.example"), wait="live")
    assert Browser(strict).sign_in().status == 200
    provider.claims = {"sub": "2", "email": "eve@evil.example"}
    refused(strict, Browser(strict).sign_in(), 403, "domain_not_allowed")
    provider.claims = {"sub": "3", "email": "eve@corp.example", "hd": "evil.example"}
    refused(strict, Browser(strict).sign_in(), 403, "domain_not_allowed")
    assert emails(strict).count("ann@corp.example") == 1
    assert "eve@evil.example" not in emails(strict)


def exchange(server, code, browser=None, **fields):
    cookies = browser.cookies if browser else {}
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())} if cookies else {}
    return server.post("/auth/exchange", {"code": code} | fields, headers)


def come_back(browser, **query):
    """The code that a page gets."""
    location = browser.sign_in(**{"return_to": RETURN, "return_state": "s"} | query).headers["Location"]
    return location.split("#code=")[1].removesuffix("&state=s")


def test_return_address(own):
    browser = Browser(own)
    answer = browser.sign_in(return_to=RETURN, return_state="a&b=c#d")
    assert answer.status == 302, answer
    address, fragment = answer.headers["Location"].split("#")
    assert address == RETURN
    assert "token" not in fragment
    code = re.fullmatch(r"code=([\w-]{43})&state=a%26b%3Dc%23d", fragment)[1]
    tokens = exchange(own, code, browser)
    assert tokens.status == 200, tokens
    assert own.get("/api/v1/user/profile", key=tokens.json()["access_token"]).json()["email"] == "ann@corp.example"
    again = exchange(own, code, browser)
    assert (again.status, again.error["code"]) == (400, "invalid_code")
    for wrong in ("https://evil.example/", RETURN + "/", RETURN + "?x", "//evil.example", "javascript:alert(1)"):
        answer = own.get(f"/auth/google?return_to={wrong}&return_state=s")
        assert (answer.status, answer.error["code"]) == (400, "oauth_return_url_not_allowed"), wrong


def test_return_state_is_asked_for(own):
    for state, code in ((None, "missing_required_parameter"), ("", "invalid_value"), ("x" * 513, "invalid_value")):
        query = f"return_to={RETURN}" + (f"&return_state={state}" if state is not None else "")
        answer = own.get(f"/auth/google?{query}")
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, "return_state"), answer
    assert Browser(own).depart(return_to=RETURN, return_state="x" * 512)
    assert Browser(own).depart(), "nobody is returned to"


def test_codes_are_for_who_asked_for_them(own):
    """A code that somebody else has read is of no use to them, and then of none at all."""
    verifier = secrets.token_urlsafe(40)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    page = {"code_challenge": challenge, "code_challenge_method": "S256"}
    mine, other = Browser(own), Browser(own)
    other.sign_in()
    for thief in (None, other):
        code = come_back(mine)
        stolen = exchange(own, code, thief)
        assert (stolen.status, stolen.error["code"], stolen.error["param"]) == (400, "invalid_code", "code")
        assert exchange(own, code, mine).status == 400, "it is used up"
    # A page of another origin, which has no cookie.
    assert exchange(own, come_back(mine, **page), code_verifier=verifier).status == 200
    for wrong in ({}, {"code_verifier": verifier[1:]}, {"code_verifier": challenge}, {"code_verifier": ""}):
        answer = exchange(own, come_back(mine, **page), mine, **wrong)
        assert (answer.status, answer.error["code"]) == (400, "invalid_code"), wrong
    # Somebody took the challenge out on the way.
    assert exchange(own, come_back(mine), mine, code_verifier=verifier).status == 400
    for wrong in (
        {"code_challenge": challenge},
        {"code_challenge_method": "S256"},
        {"code_challenge": verifier, "code_challenge_method": "plain"},
        {"code_challenge": challenge + "=", "code_challenge_method": "S256"},
    ):
        query = urllib.parse.urlencode({"return_to": RETURN, "return_state": "s"} | wrong)
        answer = own.get(f"/auth/google?{query}")
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_value", "code_challenge")


def test_disabled_user_is_not_signed_in(own, provider):
    provider.claims = {"sub": "dis", "email": "disabled@corp.example"}
    token = Browser(own).sign_in().json()["access_token"]
    user = own.get("/api/v1/user/profile", key=token).json()["id"]
    assert own.patch(f"/api/v1/admin/users/{user}", {"disabled": True}, own.admin_key).status == 200
    refused(own, Browser(own).sign_in(), 403, "user_disabled")


def test_guest_becomes_a_member_and_keeps_everything(own, provider):
    """Data belong to the user, and the user stays the same; the guest's credentials do not become a member's."""
    guest = own.post("/auth/guest").json()["access_token"]
    before = own.get("/api/v1/user/profile", key=guest).json()
    key = own.post("/api/v1/user/api-keys", {"name": "k", "permissions": ["read"]}, key=guest).json()
    conversation = own.post("/api/v1/conversations", {"title": "a guest's"}, key=guest).json()
    provider.claims = {"sub": "was-guest", "email": "guest@corp.example"}
    member = Browser(own).sign_in(key=guest).json()["access_token"]
    assert own.get("/api/v1/conversations", key=member).json()["data"] == [conversation]
    after = own.get("/api/v1/user/profile", key=member).json()
    assert (before["role"], after["role"]) == ("guest", "member")
    assert after["email"] == "guest@corp.example"
    assert after["id"] == before["id"]
    assert after["created_at"] == before["created_at"]
    # Session fixation: whoever made somebody sign in from a guest of their own must not be signed in with them.
    for credential in (guest, key["key"]):
        assert own.get("/api/v1/user/profile", key=credential).status == 401


def test_guest_who_was_here_before(own, provider):
    """The guest's data go to the account that is there already."""
    provider.claims = {"sub": "old", "email": "old@corp.example"}
    first = Browser(own).sign_in().json()["access_token"]
    account = own.get("/api/v1/user/profile", key=first).json()["id"]
    guest = own.post("/auth/guest").json()["access_token"]
    guest_id = own.get("/api/v1/user/profile", key=guest).json()["id"]
    mine = own.post("/api/v1/conversations", {"title": "the account's"}, key=first).json()
    items = [{"role": "user", "content": "Hello"}]
    moved = [own.post("/api/v1/conversations", {"items": items}, key=guest).json() for _ in range(70)]
    link = own.post(f"/api/v1/conversations/{moved[0]['id']}/share", key=guest).json()["path"]
    member = Browser(own).sign_in(key=guest).json()["access_token"]
    assert own.get("/api/v1/user/profile", key=member).json()["id"] == account
    listed = own.get("/api/v1/conversations?limit=100", key=member).json()["data"]
    assert [one["id"] for one in listed] == [one["id"] for one in moved[::-1]] + [mine["id"]]
    history = own.get(f"/api/v1/conversations/{moved[0]['id']}", key=member).json()["messages"]
    assert [message["content"] for message in history] == ["Hello"]
    assert own.get(link).status == 200
    assert own.get("/api/v1/user/profile", key=guest).status == 401, "the guest is gone"
    assert own.get(f"/api/v1/admin/users/{guest_id}", key=own.admin_key).status == 404


def test_user_made_by_an_administrator(own, provider):
    user = own.new_user("invited@corp.example", "Invited")
    provider.claims = {"sub": "inv", "email": "Invited@corp.example"}
    token = Browser(own).sign_in().json()["access_token"]
    assert own.get("/api/v1/user/profile", key=token).json()["id"] == user


def test_failed_sign_ins_are_limited(make_server, provider):
    limited = make_server(
        env=provider.settings() | {"JAN_SERVER__RATE_LIMITS__SIGN_IN_FAILURES_PER_HOUR": 3}, wait="live"
    )
    for _ in range(3):
        assert limited.get("/auth/google/callback?code=x&state=y").status == 400
    browser = Browser(limited)
    back = browser.visit(browser.depart())
    answer = browser.get(back)
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
    assert int(answer.headers["Retry-After"]) >= 1


def test_secret_is_not_printed(own, provider):
    provider.answer = {"/token": (400, {}, {"error": "invalid_grant", "error_description": oidc.CLIENT_SECRET})}
    answer = Browser(own).sign_in()
    refused(own, answer, 400, "oauth_code_refused")
    wait_until(lambda: "sign-in failed" in own.log(), "the failure is logged")
    assert oidc.CLIENT_SECRET not in own.log()
