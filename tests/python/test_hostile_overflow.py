"""`max_tokens` beyond what the context has left: cut to it, or refused under a setting, with the field that was too large."""

import pytest
from harness import ENDLESS, MODEL, VOCABULARY

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
USER = [{"role": "user", "content": "Hi"}]
#: (path, field of the length, the rest of the body)
FIELDS = [
    (CHAT, "max_tokens", {"messages": USER}),
    (CHAT, "max_completion_tokens", {"messages": USER}),
    (TEXT, "max_tokens", {"prompt": "Hi"}),
    (RESPONSES, "max_output_tokens", {"input": "Hi"}),
]
TOO_MANY = [32_000, 2**31 - 1]
#: The model ends its answer at once.
ENDING = {"logit_bias": {str(token): 100 for token in VOCABULARY.end_of_generation[:1]}, "temperature": 0}


def context(server):
    return server.get(f"/v1/models/{MODEL}").json()["context_length"]


@pytest.mark.parametrize(("path", "field", "body"), FIELDS, ids=[f"{path} {field}" for path, field, _ in FIELDS])
@pytest.mark.parametrize("most", TOO_MANY)
def test_more_than_the_context_has_left_is_cut_to_it(server, path, field, body, most):
    assert most > context(server)
    answer = server.post(path, {"model": MODEL, field: most} | ENDING | body)
    assert answer.status == 200, answer
    shown = answer.json()
    if path == RESPONSES:
        assert shown["max_output_tokens"] == most
    else:
        assert shown["choices"][0]["finish_reason"] == "stop"


def test_such_an_answer_ends_with_the_context(server):
    limit = context(server)
    token = VOCABULARY.ids_of("a")[0]
    body = {"model": MODEL, "prompt": [token] * (limit - 6), "logit_bias": ENDLESS}
    for most in (1000, -1):
        answer = server.post(TEXT, body | {"max_tokens": most}).json()
        assert answer["usage"]["total_tokens"] == limit
        assert answer["choices"][0]["finish_reason"] == "length"
    assert server.post(TEXT, body | {"max_tokens": 5}).json()["usage"]["completion_tokens"] == 5
    # A prompt without room for a single token does not fit, and the prompt is at fault.
    full = server.post(TEXT, body | {"prompt": [token] * limit, "max_tokens": 1000})
    assert (full.status, full.error["code"], full.error["param"]) == (400, "context_length_exceeded", "prompt")


def test_no_limit_is_minus_one(server):
    for path, field, body in FIELDS:
        request = {"model": MODEL} | ENDING | body
        assert server.post(path, request | {field: -1}).status == 200
        for wrong in (-2, 0 if path != TEXT else -3):
            answer = server.post(path, request | {field: wrong})
            assert (answer.status, answer.error["param"]) == (400, field), answer
    # llama-server's name.
    for path, body in ((CHAT, {"messages": USER}), (TEXT, {"prompt": "Hi"})):
        answer = server.post(path, {"model": MODEL, "n_predict": 2, "logit_bias": ENDLESS} | body)
        assert answer.json()["usage"]["completion_tokens"] == 2 and not answer.headers["X-Ignored-Fields"]


def test_truncation_leaves_a_long_answer_half_of_the_context(server):
    words = "word " * (context(server) // 2)
    items = [{"role": "user", "content": words}, {"role": "user", "content": words}, {"role": "user", "content": "Hi"}]
    body = {"model": MODEL, "input": items, "truncation": "auto", "max_output_tokens": 32_000} | ENDING
    answer = server.post(RESPONSES, body)
    assert answer.status == 200, answer
    assert answer.json()["usage"]["input_tokens"] <= context(server) // 2


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    from harness import Server

    one = Server(tmp_path_factory.mktemp("refuse"), config='[engine]\nmax_tokens_overflow = "refuse"\n')
    yield one
    one.close()


@pytest.mark.parametrize(("path", "field", "body"), FIELDS, ids=[f"{path} {field}" for path, field, _ in FIELDS])
@pytest.mark.parametrize("stream", [False, True])
def test_refusing_names_the_field_that_was_too_large(refusing, path, field, body, stream):
    limit = context(refusing)
    answer = refusing.post(path, {"model": MODEL, field: limit, "stream": stream} | body)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "context_length_exceeded", field)
    begin = f"This model's maximum context length is {limit} tokens. However, you requested "
    assert answer.error["message"].startswith(begin), answer.error
    assert f" {limit} in the completion)" in answer.error["message"]


def test_the_default_context_is_what_the_model_was_trained_for(server):
    assert context(server) == VOCABULARY.context
