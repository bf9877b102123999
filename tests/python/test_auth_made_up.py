"""Keys that clients make up because they cannot be used without one: none where none is needed, wrong everywhere else."""

import pytest
from harness import MODEL

MADE_UP = ["EMPTY", "none", "ollama", "lm-studio", "not-needed", "sk-no-key-required", "sk-proj-abc", "llamafile", "a.b", "x" * 5000]
OURS = ["sk-jan-wrong", "sk-jan-" + "A" * 43, "a.b.c", "eyJhbGciOiJub25lIn0.e30."]
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
FREE = [("GET", "/v1/models", None), ("POST", "/v1/chat/completions", CHAT), ("GET", "/health", None)]
PERSONAL = [("GET", "/v1/user/profile", None), ("GET", "/v1/conversations", None), ("GET", "/v1/user/api-keys", None)]


def call(server, method, path, body, headers):
    return server.post(path, body, headers) if method == "POST" else server.get(path, headers)


def headers(text):
    return [{"Authorization": f"Bearer {text}"}, {"authorization": f"bearer  {text} "}, {"X-API-Key": text}]


@pytest.mark.parametrize("case", FREE, ids=lambda case: case[1])
@pytest.mark.parametrize("text", MADE_UP, ids=lambda text: text[:20])
def test_a_made_up_key_is_none_where_none_is_needed(server, case, text):
    for sent in headers(text):
        answer = call(server, *case, sent)
        assert answer.status == 200, answer


@pytest.mark.parametrize("text", OURS, ids=lambda text: text[:20])
def test_a_credential_of_our_form_is_judged_everywhere(server, text):
    for case in FREE + PERSONAL:
        for sent in headers(text):
            answer = call(server, *case, sent)
            assert answer.status == 401 and 'error="invalid_token"' in answer.headers["WWW-Authenticate"], answer


@pytest.mark.parametrize("case", PERSONAL, ids=lambda case: case[1])
def test_a_made_up_key_is_wrong_where_one_is_needed(server, case):
    for text in ("EMPTY", "sk-proj-abc"):
        answer = call(server, *case, {"Authorization": f"Bearer {text}"})
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), answer


def test_other_schemes_stay_refused(server):
    answer = server.get("/v1/models", {"Authorization": "Basic eDp5"})
    assert (answer.status, answer.error["code"]) == (401, "unsupported_auth_scheme")


def test_a_made_up_bearer_does_not_hide_a_key(server):
    answer = server.get("/v1/models", {"Authorization": "Bearer none", "X-API-Key": server.admin_key})
    assert answer.status == 200
    assert int(answer.headers["X-RateLimit-Limit"]) != 0
    wrong = server.get("/v1/models", {"Authorization": "Bearer none", "X-API-Key": "sk-jan-wrong"})
    assert wrong.status == 401


def test_where_anonymous_callers_are_denied_it_is_wrong(make_server):
    own = make_server(config='[auth]\nanonymous = "deny"\n')
    for text in MADE_UP[:4]:
        for case in FREE[:2]:
            answer = call(own, *case, {"Authorization": f"Bearer {text}"})
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), answer


def test_a_made_up_key_has_the_anonymous_limits_and_is_no_guess(make_server):
    limits = {"ANONYMOUS_PER_HOUR": 12, "SIGN_IN_FAILURES_PER_HOUR": 2}
    own = make_server(env={f"JAN_SERVER__RATE_LIMITS__{name}": value for name, value in limits.items()})
    for left in reversed(range(6)):
        answer = own.get("/v1/models", key="EMPTY")
        assert answer.status == 200 and answer.headers["X-RateLimit-Limit"] == "12", (left, answer)
    # Six of those were no failures to sign in: a real one is still judged as such.
    assert own.get("/v1/models", key="sk-jan-wrong").status == 401
    codes = {own.get("/v1/models", key="EMPTY").status for _ in range(9)}
    assert 429 in codes, "the address's bucket is empty"
