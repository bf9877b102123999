"""Every documented field is checked before anything runs; errors have OpenAI's shape."""

import json

import openai
import pytest
from harness import ENDLESS, MODEL, VOCABULARY, described

CHAT = "/api/v1/chat/completions"
TEXT = "/api/v1/completions"
MESSAGE = {"role": "user", "content": "x"}

# (field that `param` must name, the bad value); None deletes the field.
BOTH = [
    ("model", 5),
    ("model", None),
    ("max_tokens", "ten"),
    ("max_tokens", -2),
    ("max_tokens", 1.5),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", "hot"),
    ("top_p", -0.1),
    ("top_p", 1.1),
    ("top_p", "x"),
    ("top_k", 1.5),
    ("top_k", "x"),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("min_p", "x"),
    ("typical_p", 0),
    ("typical_p", 1.1),
    ("typical_p", "x"),
    ("repeat_penalty", 0),
    ("repeat_penalty", 2.1),
    ("repeat_penalty", "x"),
    ("repetition_penalty", -1),
    ("repetition_penalty", 2.1),
    ("typical_p", 0),
    ("typical_p", 1.1),
    ("typical_p", "x"),
    ("repeat_penalty", 0),
    ("repeat_penalty", 2.1),
    ("repetition_penalty", "x"),
    ("n", 0),
    ("n", -1),
    ("n", 129),
    ("n", "x"),
    ("n", 1.5),
    ("seed", "x"),
    ("seed", 1.5),
    ("stop", ["a", "b", "c", "d", "e"]),
    ("stop", [1]),
    ("stop", 5),
    ("stop", {}),
    ("stream", "yes"),
    ("stream", 1),
    ("stream_options", "x"),
    ("stream_options", {"include_usage": "x"}),
    ("presence_penalty", -2.1),
    ("presence_penalty", 2.1),
    ("presence_penalty", "x"),
    ("frequency_penalty", -2.1),
    ("frequency_penalty", 2.1),
    ("frequency_penalty", "x"),
    ("logit_bias", [1]),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"1": "x"}),
    ("logit_bias", {"1": 101}),
    ("logit_bias", {"1": -101}),
    ("logit_bias", {"99999999": 1}),
    ("user", 5),
]
CHAT_ONLY = [
    ("messages", None),
    ("messages", []),
    ("messages", "x"),
    ("messages", [{}]),
    ("messages", ["x"]),
    ("messages", [{"role": "robot", "content": "x"}]),
    ("messages", [{"role": "user"}]),
    ("messages", [{"role": "user", "content": 5}]),
    ("messages", [{"role": "user", "content": None}]),
    ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
    ("messages", [{"role": "user", "content": [{"type": "nonsense", "text": "x"}]}]),
    ("messages", [{"role": "user", "content": "x", "name": 5}]),
    ("max_completion_tokens", -2),
    ("max_completion_tokens", "x"),
    ("metadata", "x"),
    ("metadata", {"key": 5}),
    ("metadata", {f"key{i}": "x" for i in range(17)}),
    ("metadata", {"k" * 65: "x"}),
    ("metadata", {"k": "x" * 513}),
]
TEXT_ONLY = [
    ("prompt", 5),
    ("prompt", {}),
    ("prompt", ["a", 1]),
    ("prompt", [[1], "a"]),
    ("prompt", [-1]),
    ("prompt", [99999999]),
    ("prompt", [1.5]),
    ("echo", "x"),
    ("logprobs", True),
    ("logprobs", 6),
    ("best_of", 129),
    ("suffix", 5),
    ("guided_regex", 5),
    ("response_format", {"type": "x"}),
]
UNSUPPORTED_CHAT = [
    ("suffix", "x"),
]
UNSUPPORTED_TEXT = [("prompt_logprobs", 1)]


def body_of(path, field=None, value=None):
    body = {"model": MODEL, "max_tokens": 1}
    body |= {"messages": [MESSAGE]} if path == CHAT else {"prompt": "x"}
    if field:
        body[field] = value
        if value is None:
            del body[field]
    return body


def cases():
    for path, own in ((CHAT, CHAT_ONLY), (TEXT, TEXT_ONLY)):
        for field, value in BOTH + own:
            yield pytest.param(path, field, value, id=f"{path.split('/')[3]}-{field}-{json.dumps(value)[:40]}")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "field", "value"), list(cases()))
def test_bad_value(server, path, field, value, stream):
    body = body_of(path, field, value)
    if field != "stream":
        body["stream"] = stream
    if field == "stream_options":
        body["stream"] = True
    answer = server.post(path, body)
    assert answer.status == 400, answer
    assert answer.headers["Content-Type"].startswith("application/json")
    error = answer.error
    assert {"message", "type", "param", "code"} <= set(error) <= {"message", "type", "param", "code", "request_id"}
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(field), error
    assert len(error["message"]) > 10


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [(CHAT, *case) for case in UNSUPPORTED_CHAT] + [(TEXT, *case) for case in UNSUPPORTED_TEXT],
)
def test_unsupported_parameter(server, path, field, value):
    answer = server.post(path, body_of(path, field, value))
    assert answer.status == 400, answer
    assert answer.error["code"] == "unsupported_parameter"
    assert answer.error["param"] == field


def test_stream_options_without_stream(server):
    answer = server.post(CHAT, body_of(CHAT, "stream_options", {"include_usage": True}))
    assert answer.status == 400
    assert answer.error["param"].startswith("stream_options")


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_two_names_of_one_penalty(server, path):
    same = body_of(path) | {"repeat_penalty": 1.2, "repetition_penalty": 1.2}
    assert server.post(path, same).status == 200
    answer = server.post(path, same | {"repetition_penalty": 1.3})
    assert answer.status == 400
    assert answer.error["param"] == "repeat_penalty"


@pytest.mark.parametrize("path, schema", [(CHAT, "ChatRequest"), (TEXT, "CompletionRequest")])
def test_bounds_are_those_of_the_description(server, path, schema):
    """Values beyond the bounds of a number, and those of another type, are refused by name."""
    for field, bounds in described(schema).items():
        wrong = [bounds["minimum"] - 1] if "minimum" in bounds else []
        wrong += [bounds["maximum"] + 1] if "maximum" in bounds else []
        wrong += [bounds["exclusiveMinimum"]] if "exclusiveMinimum" in bounds else []
        for value in wrong + (["x", [], True] if wrong else []):
            answer = server.post(path, body_of(path, field, value))
            assert (answer.status, answer.error["param"]) == (400, field), (field, value, answer)


def test_good_limits_are_accepted(server):
    """The ends of the ranges and nulls, which OpenAI takes for the defaults."""
    for field, value in [
        ("temperature", 0), ("temperature", 2), ("top_p", 1), ("presence_penalty", -2), ("presence_penalty", 2),
        ("frequency_penalty", 2), ("logit_bias", {"5": 100}), ("logit_bias", {"5": -100}), ("logit_bias", {}),
        ("stop", ["a", "b", "c", "d"]), ("stop", "a"), ("seed", 0), ("seed", 2**31), ("user", "ann"), ("n", 1),
        ("typical_p", 0.001), ("typical_p", 1), ("repeat_penalty", 0.001), ("repetition_penalty", 2),
    ]:  # fmt: skip
        for path in (CHAT, TEXT):
            assert server.post(path, body_of(path, field, value)).status == 200, (path, field, value)
    for field in ("temperature", "top_p", "n", "stop", "seed", "stream", "logit_bias", "user", "max_tokens",
                  "presence_penalty", "frequency_penalty", "stream_options"):  # fmt: skip
        body = body_of(CHAT) | {"max_completion_tokens": 1, field: None}
        assert server.post(CHAT, body).status == 200, field
    assert server.post(CHAT, body_of(CHAT) | {"metadata": {"k": "v"}}).status == 200


def test_unknown_fields_are_named(server):
    answer = server.post(CHAT, body_of(CHAT) | {"frobnicate": 1, "quux": {"a": 2}})
    assert answer.status == 200
    named = {name.strip() for name in answer.headers["X-Ignored-Fields"].split(",")}
    assert named == {"frobnicate", "quux"}
    assert server.post(CHAT, body_of(CHAT)).headers["X-Ignored-Fields"] is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_context_length_exceeded(server, path, stream):
    """A prompt that is too long by itself, before the stream begins; test_hostile_overflow.py has answers that are."""
    context = server.get(f"/api/v1/models/{MODEL}").json()["context_length"]
    token = VOCABULARY.ids_of("a")[0]
    too_long = " a" * (context + 10)
    prompts = [{"messages": [{"role": "user", "content": too_long}]}] if path == CHAT else [
        {"prompt": too_long}, {"prompt": [token] * (context + 1)}
    ]  # fmt: skip
    for prompt in prompts:
        answer = server.post(path, {"model": MODEL, "stream": stream, "max_tokens": 1} | prompt)
        assert answer.status == 400, answer
        assert answer.error["code"] == "context_length_exceeded"
        assert answer.error["type"] == "invalid_request_error"
        assert answer.error["param"] in ("messages", "prompt")
        assert str(context) in answer.error["message"]
        message = f"This model's maximum context length is {context} tokens. However, your messages resulted in "
        assert answer.error["message"].startswith(message), "OpenAI's words, which clients match on"


def test_answer_to_the_end_of_the_context(server):
    """Without `max_tokens` a chat answer runs until the context is full, and says so."""
    context = server.get(f"/api/v1/models/{MODEL}").json()["context_length"]
    token = VOCABULARY.ids_of("a")[0]
    body = {"model": MODEL, "prompt": [token] * (context - 5), "max_tokens": 5, "logit_bias": ENDLESS}
    answer = server.post(TEXT, body)
    assert answer.status == 200, answer
    assert answer.json()["usage"]["total_tokens"] == context
    fill = " a" * (context - 150)
    chat = {"model": MODEL, "messages": [{"role": "user", "content": fill}], "logit_bias": ENDLESS}
    answer = server.post(CHAT, chat)
    assert answer.status == 200, answer
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert context - 1 <= answer.json()["usage"]["total_tokens"] <= context


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"model": NaN}'])
def test_not_json(server, raw):
    answer = server.post(CHAT, raw)
    assert answer.status == 400, answer
    assert answer.error["type"] == "invalid_request_error"


def test_invalid_json_has_the_reference_code(server):
    assert server.post(CHAT, b"{").error["code"] == "invalid_json"


def test_415(server):
    answer = server.post(CHAT, json.dumps(body_of(CHAT)).encode(), {"Content-Type": "text/plain"})
    assert answer.status == 415, answer
    assert answer.error["type"] == "invalid_request_error"
    answer = server.post(CHAT, body_of(CHAT), {"Content-Type": "application/json; charset=utf-8"})
    assert answer.status == 200, answer


def test_413(server):
    answer = server.post(CHAT, b'{"x":"' + b"a" * (33 << 20) + b'"}')
    assert answer.status == 413, answer
    assert answer.error["type"] == "invalid_request_error"


def test_404_and_405(server):
    answer = server.get("/api/v1/nothing")
    assert (answer.status, answer.error["type"]) == (404, "invalid_request_error")
    answer = server.get(CHAT)
    assert (answer.status, answer.error["type"]) == (405, "invalid_request_error")
    assert "POST" in answer.headers["Allow"]
    assert server.request("DELETE", "/api/v1/models").status == 405


def test_sdk_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[MESSAGE], temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[MESSAGE], temperature=3, stream=True)
    assert caught.value.param == "temperature"


def test_bad_requests_reach_no_worker(server):
    """After all the above the worker is still the first one."""
    assert "engine_crashed" not in server.log()
    assert server.worker()
