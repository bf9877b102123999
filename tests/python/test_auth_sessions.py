"""Sessions: tokens, refreshing, reuse, logging out, guests, signing keys; also across restarts."""

import json
import re
import stat
import subprocess
import threading
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from harness import BINARY, Server, wait_until
from tokens import claims_of, encode_part, expired, forged, forgeries, header_of, sign, signing_keys

REFRESH = "/api/v1/auth/refresh"
SHORT = {"JAN_SERVER__AUTH__REFRESH_GRACE_S": 1, "JAN_SERVER__AUTH__REFRESH_WINDOW_S": 3600}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A grace that a test can wait out."""
    one = Server(tmp_path_factory.mktemp("sessions"), env=SHORT, wait="live")
    yield one
    one.close()


@pytest.fixture(scope="module")
def user(own):
    return own.new_user()


@pytest.fixture
def tokens(own, user):
    return own.new_session(user)


def with_access(server, token):
    return server.post(REFRESH, key=token)


def with_refresh(server, token):
    return server.post(REFRESH, {"refresh_token": token})


def works(server, token):
    answer = server.get("/api/v1/user/profile", key=token)
    assert answer.status in (200, 401), answer
    return answer.status == 200


def is_401(answer, code):
    assert answer.status == 401, answer
    assert answer.error["code"] == code, answer
    assert "WWW-Authenticate" in answer.headers


def test_tokens_are_what_they_should_be(own, user, tokens):
    assert tokens.keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 3600
    header, claims = header_of(tokens["access_token"]), claims_of(tokens["access_token"])
    assert header["alg"] == "EdDSA"
    assert header["kid"] in signing_keys(own)
    assert {"iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp", "typ"} <= claims.keys()
    assert claims["sub"] == user
    assert claims["exp"] - claims["iat"] == 3600
    assert abs(claims["iat"] - time.time()) < 5
    assert claims["jti"] != claims_of(tokens["refresh_token"])["jti"]


def test_public_keys(own, tokens):
    answer = own.get("/.well-known/jwks.json")
    assert answer.status == 200
    (key,) = [key for key in answer.json()["keys"] if key["kid"] == header_of(tokens["access_token"])["kid"]]
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("OKP", "Ed25519", "EdDSA", "sig")
    assert "d" not in key, "the private part stays here"
    public = signing_keys(own)[key["kid"]].public_key().public_bytes_raw()
    assert key["x"] == encode_part(public)


def test_key_files_are_private(own):
    assert stat.S_IMODE((own.data / "keys").stat().st_mode) == 0o700
    for path in (own.data / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_refresh_with_the_access_token(own, tokens):
    answer = with_access(own, tokens["access_token"])
    assert answer.status == 200, answer
    fresh = answer.json()
    assert fresh.keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert works(own, fresh["access_token"])
    assert claims_of(fresh["access_token"])["sid"] == claims_of(tokens["access_token"])["sid"]


def test_refresh_with_the_refresh_token(own, tokens):
    for path in (REFRESH, "/v1/auth/refresh", "/auth/refresh"):
        answer = own.post(path, {"refresh_token": tokens["refresh_token"]})
        assert answer.status == 200, answer
        tokens = answer.json()
    assert works(own, tokens["access_token"])


def test_refresh_with_an_expired_access_token(own, tokens):
    old = expired(own, tokens["access_token"], 1800)
    is_401(own.get("/api/v1/user/profile", key=old), "token_expired")
    assert with_access(own, old).status == 200


def test_refresh_window(make_server):
    """A session that nobody refreshed for the whole window is over."""
    short = make_server(
        env={"JAN_SERVER__AUTH__ACCESS_TOKEN_TTL_S": 1, "JAN_SERVER__AUTH__REFRESH_WINDOW_S": 3}, wait="live"
    )
    user = short.new_user()
    tokens, idle = short.new_session(user), short.new_session(user)
    assert tokens["expires_in"] == 1
    for _ in range(3):
        time.sleep(1.4)
        is_401(short.get("/api/v1/user/profile", key=tokens["access_token"]), "token_expired")
        answer = with_access(short, tokens["access_token"])
        assert answer.status == 200, answer
        tokens = answer.json()
    is_401(with_access(short, idle["access_token"]), "refresh_window_over")
    is_401(with_refresh(short, idle["refresh_token"]), "refresh_window_over")
    is_401(with_access(short, idle["access_token"]), "session_revoked")


@pytest.mark.parametrize("window", [0, 600])
def test_window_of_expired_access_tokens(make_server, window):
    """An expired access token refreshes for a time of its own, which does not touch the refresh token's."""
    short = make_server(env={"JAN_SERVER__AUTH__EXPIRED_TOKEN_REFRESH_S": window}, wait="live")
    user = short.new_user()
    tokens = short.new_session(user)
    for late in (window + 1, window + 3600):
        is_401(with_access(short, expired(short, tokens["access_token"], late)), "refresh_window_over")
    assert with_refresh(short, tokens["refresh_token"]).status == 200, "nothing of it ended the session"
    valid = short.new_session(user)
    assert with_access(short, valid["access_token"]).status == 200, "one that is still valid is none of it"
    if window:
        inside = short.new_session(user)
        assert with_access(short, expired(short, inside["access_token"], window - 60)).status == 200


def test_an_expired_access_token_refreshes_for_a_week(own, user):
    day = 86400
    early, late = own.new_session(user), own.new_session(user)
    assert with_access(own, expired(own, early["access_token"], 7 * day - 60)).status == 200
    is_401(with_access(own, expired(own, late["access_token"], 7 * day + 1)), "refresh_window_over")


def test_an_expired_access_token_is_good_for_one_refresh(own, tokens):
    """Rotation, the grace and the detection of reuse hold for it as for the refresh token."""
    old = expired(own, tokens["access_token"], 3600)
    first = with_access(own, old)
    again = with_access(own, old)
    assert (first.status, again.status) == (200, 200), "the grace"
    generations = [claims_of(answer.json()["refresh_token"])["gen"] for answer in (first, again)]
    assert generations == [claims_of(tokens["refresh_token"])["gen"] + 1] * 2
    # The grace is a second, counted in whole ones.
    time.sleep(2.1)
    is_401(with_access(own, old), "token_reused")
    for one in (first, again):
        is_401(own.get("/api/v1/user/profile", key=one.json()["access_token"]), "session_revoked")
        is_401(with_refresh(own, one.json()["refresh_token"]), "session_revoked")


def test_lifetime_of_a_session(make_server):
    """No refresh lengthens a session beyond its lifetime, counted from the sign-in."""
    short = make_server(env={"JAN_SERVER__AUTH__SESSION_LIFETIME_S": 4}, wait="live")
    user = short.new_user()
    tokens = short.new_session(user)
    began = claims_of(tokens["access_token"])["iat"]
    for _ in range(2):
        for token in (tokens["access_token"], tokens["refresh_token"]):
            assert claims_of(token)["exp"] <= began + 4, "no token outlives its session"
        assert tokens["expires_in"] == claims_of(tokens["access_token"])["exp"] - claims_of(tokens["access_token"])["iat"]
        (session,) = short.get("/auth/sessions", key=tokens["access_token"]).json()["data"]
        assert session["created_at"] <= began
        assert session["expires_at"] == session["created_at"] + 4
        time.sleep(0.5)
        answer = with_refresh(short, tokens["refresh_token"])
        assert answer.status == 200, answer
        tokens = answer.json()
    time.sleep(began + 4.1 - time.time())
    is_401(short.get("/api/v1/user/profile", key=tokens["access_token"]), "token_expired")
    is_401(with_refresh(short, tokens["refresh_token"]), "refresh_window_over")
    is_401(with_access(short, tokens["access_token"]), "refresh_window_over")


def test_a_lower_lifetime_ends_sessions_that_began_before_it(tmp_path):
    """Whatever their tokens say, and over a restart: the sign-in's time is stored."""
    one = Server(tmp_path, env=SHORT, wait="live")
    user = one.new_user()
    old = one.new_session(user)
    one.kill()
    time.sleep(2)
    again = Server(tmp_path, env=SHORT | {"JAN_SERVER__AUTH__SESSION_LIFETIME_S": 2}, wait="live")
    try:
        is_401(again.get("/api/v1/user/profile", key=old["access_token"]), "session_revoked")
        is_401(with_refresh(again, old["refresh_token"]), "refresh_window_over")
        assert works(again, again.new_session(user)["access_token"])
    finally:
        again.close()


def test_refresh_refuses_what_is_no_token_of_its_kind(own, tokens):
    is_401(own.post(REFRESH), "missing_credentials")
    is_401(own.post(REFRESH, {}), "missing_credentials")
    is_401(with_refresh(own, tokens["access_token"]), "token_wrong_type")
    is_401(with_access(own, tokens["refresh_token"]), "token_wrong_type")
    is_401(own.get("/api/v1/user/profile", key=tokens["refresh_token"]), "token_wrong_type")
    is_401(with_access(own, own.admin_key), "malformed_token")
    is_401(with_refresh(own, "nonsense"), "malformed_token")
    for code, token in forgeries(own, tokens["access_token"]):
        if code != "token_expired":
            is_401(with_access(own, token), code)
    wrong = own.post(REFRESH, {"refresh_token": 5})
    assert (wrong.status, wrong.error["param"]) == (400, "refresh_token")
    assert with_refresh(own, tokens["refresh_token"]).status == 200, "none of that ended the session"


def test_racing_tabs_get_the_same_tokens(own, tokens):
    """Within the grace: several tabs that refresh at once all go on, with one generation."""
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(with_refresh(own, tokens["refresh_token"]))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 8
    generations = {claims_of(answer.json()["refresh_token"]).get("gen") for answer in answers}
    assert len(generations) == 1
    for answer in answers:
        assert works(own, answer.json()["access_token"])


@pytest.mark.parametrize("kind", ["access", "refresh"])
def test_reuse_ends_the_session_and_its_family(own, user, kind):
    tokens, other = own.new_session(user), own.new_session(user)
    newer = with_refresh(own, tokens["refresh_token"]).json()
    newest = with_refresh(own, newer["refresh_token"]).json()
    time.sleep(1.6)
    old = tokens["refresh_token"] if kind == "refresh" else tokens["access_token"]
    is_401(with_refresh(own, old) if kind == "refresh" else with_access(own, old), "token_reused")
    for one in (tokens, newer, newest):
        is_401(own.get("/api/v1/user/profile", key=one["access_token"]), "session_revoked")
        assert with_refresh(own, one["refresh_token"]).status == 401
    assert works(own, other["access_token"]), "another session of the same user is not concerned"


def test_logout(own, user):
    tokens, other = own.new_session(user), own.new_session(user)
    for path in ("/auth/logout", "/api/v1/auth/logout"):
        assert own.post(path, key=tokens["access_token"]).status == 204
        is_401(own.get("/api/v1/user/profile", key=tokens["access_token"]), "session_revoked")
        is_401(with_refresh(own, tokens["refresh_token"]), "session_revoked")
        is_401(with_access(own, tokens["access_token"]), "session_revoked")
        tokens = own.new_session(user)
    assert works(own, other["access_token"])
    key = own.new_key(user)["key"]
    answer = own.post("/auth/logout", key=key)
    assert (answer.status, answer.error["code"]) == (400, "not_a_session")


def test_list_and_revoke_sessions(own):
    user = own.new_user("sessions@example.com")
    here, there = own.new_session(user), own.new_session(user)
    listed = own.get("/auth/sessions", key=here["access_token"]).json()
    assert listed["object"] == "list"
    assert [session["current"] for session in listed["data"]] == [True, False]
    for session in listed["data"]:
        assert session["created_at"] <= session["refreshed_at"] <= time.time() + 1 < session["expires_at"]
    target = listed["data"][1]["id"]
    assert target == claims_of(there["access_token"])["sid"]
    assert own.delete(f"/auth/sessions/{target}", here["access_token"]).json()["deleted"]
    is_401(own.get("/api/v1/user/profile", key=there["access_token"]), "session_revoked")
    assert own.delete(f"/auth/sessions/{target}", here["access_token"]).status == 404
    assert len(own.get("/auth/sessions", key=here["access_token"]).json()["data"]) == 1


def test_sessions_of_others_are_out_of_reach(own, user):
    """OWASP API1: ids of others are as good as none."""
    stranger = own.new_session(own.new_user("stranger@example.com"))
    mine = own.new_session(user)
    target = claims_of(mine["access_token"])["sid"]
    answer = own.delete(f"/auth/sessions/{target}", stranger["access_token"])
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert own.delete("/auth/sessions/nonsense", stranger["access_token"]).status == 404
    assert works(own, mine["access_token"])


def test_guest(own):
    answer = own.post("/auth/guest")
    assert answer.status == 201, answer
    token = answer.json()["access_token"]
    profile = own.get("/api/v1/user/profile", key=token).json()
    assert (profile["role"], profile["email"]) == ("guest", None)
    assert profile["permissions"] == ["read", "write"]
    assert with_access(own, token).status == 200


def test_guests_can_be_turned_off(make_server):
    off = make_server(env={"JAN_SERVER__AUTH__GUESTS": "off"}, wait="live")
    answer = off.post("/auth/guest")
    assert (answer.status, answer.error["code"]) == (403, "guests_disabled")


def test_revocation_holds_across_restarts(tmp_path):
    one = Server(tmp_path, env=SHORT, wait="live")
    user = one.new_user()
    kept, logged_out, reused = (one.new_session(user) for _ in range(3))
    assert one.post("/auth/logout", key=logged_out["access_token"]).status == 204
    newer = with_refresh(one, reused["refresh_token"]).json()
    newest = with_refresh(one, newer["refresh_token"]).json()
    time.sleep(1.6)
    is_401(with_refresh(one, reused["refresh_token"]), "token_reused")
    one.kill()
    again = Server(tmp_path, env=SHORT, wait="live")
    try:
        assert works(again, kept["access_token"])
        for dead in (logged_out, reused, newer, newest):
            is_401(again.get("/api/v1/user/profile", key=dead["access_token"]), "session_revoked")
            assert with_refresh(again, dead["refresh_token"]).status == 401
        assert with_refresh(again, kept["refresh_token"]).status == 200
    finally:
        again.close()


def rotate(server):
    done = subprocess.run(
        [str(BINARY), "keys", "rotate", "--data-dir", str(server.data)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done
    return re.search(r"new signing key (\S+)", done.stdout)[1]


def test_rotation_of_signing_keys(make_server):
    """By command, under a running server; old tokens go on, new ones have the new key."""
    own = make_server(env=SHORT, wait="live")
    user = own.new_user()
    before = own.new_session(user)
    kid = rotate(own)
    assert kid != header_of(before["access_token"])["kid"]
    wait_until(
        lambda: kid in [key["kid"] for key in own.get("/.well-known/jwks.json").json()["keys"]], "the key is published"
    )
    after = own.new_session(user)
    assert header_of(after["access_token"])["kid"] == kid
    assert works(own, before["access_token"])
    assert works(own, after["access_token"])
    refreshed = with_refresh(own, before["refresh_token"]).json()
    assert header_of(refreshed["access_token"])["kid"] == kid
    assert len(own.get("/.well-known/jwks.json").json()["keys"]) == 2
    # A key that nobody honours any more is none.
    header, claims = header_of(before["access_token"]), claims_of(before["access_token"])
    stranger = sign(header | {"kid": "x"}, claims, Ed25519PrivateKey.generate())
    is_401(own.get("/api/v1/user/profile", key=stranger), "token_unknown_key")


def test_old_signing_key_dies_with_its_tokens(tmp_path):
    env = {"JAN_SERVER__AUTH__ACCESS_TOKEN_TTL_S": 1, "JAN_SERVER__AUTH__REFRESH_WINDOW_S": 2}
    one = Server(tmp_path, env=env, wait="live")
    kid = rotate(one)
    wait_until(lambda: len(one.get("/.well-known/jwks.json").json()["keys"]) == 2, "both keys are published")
    one.kill()
    time.sleep(2.5)
    again = Server(tmp_path, env=env, wait="live")
    try:
        assert [key["kid"] for key in again.get("/.well-known/jwks.json").json()["keys"]] == [kid]
        assert list(signing_keys(again)) == [kid], "and its file is deleted"
    finally:
        again.close()


def test_disabled_user(own):
    user = own.new_user("disabled@example.com")
    tokens, key = own.new_session(user), own.new_key(user)["key"]
    assert own.patch(f"/api/v1/admin/users/{user}", {"disabled": True}, own.admin_key).json()["disabled"]
    for credential in (tokens["access_token"], key):
        is_401(own.get("/api/v1/models", key=credential), "user_disabled")
    is_401(with_refresh(own, tokens["refresh_token"]), "user_disabled")
    answer = own.post(f"/api/v1/admin/users/{user}/sessions", key=own.admin_key)
    assert (answer.status, answer.error["code"]) == (403, "user_disabled")
    assert own.patch(f"/api/v1/admin/users/{user}", {"disabled": False}, own.admin_key).status == 200
    assert works(own, key)


def test_token_of_another_server_is_refused(own, make_server):
    """Two servers with the same names: the signing key tells them apart."""
    other = make_server(wait="live")
    foreign = other.new_session(other.new_user())["access_token"]
    is_401(own.get("/api/v1/models", key=foreign), "token_unknown_key")


def test_subject_cannot_be_swapped(own, user, tokens):
    """Even with a good signature: the session belongs to one user."""
    other = own.new_user("swapped@example.com")
    answer = own.get("/api/v1/user/profile", key=forged(own, tokens["access_token"], sub=other))
    assert answer.status == 401, answer
    assert json.loads(answer.body)["error"]["code"] in ("session_revoked", "malformed_token", "token_bad_signature")
