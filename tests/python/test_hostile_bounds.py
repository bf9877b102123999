"""Bounds of the lists and short texts of requests: at the bound a request passes, above it the field is named."""

import pytest
from harness import MODEL

CHAT, COMPLETIONS, RESPONSES = "/api/v1/chat/completions", "/api/v1/completions", "/api/v1/responses"
SAID = [{"role": "user", "content": "hi"}]
BODIES = {
    CHAT: {"model": MODEL, "messages": SAID, "max_tokens": 1},
    COMPLETIONS: {"model": MODEL, "prompt": "hi", "max_tokens": 1},
    RESPONSES: {"model": MODEL, "input": "hi", "max_output_tokens": 16, "store": False},
}


def refused(server, path, body, param):
    answer = server.post(path, body)
    assert answer.status == 400, answer
    assert answer.error["param"] == param, answer
    assert f"'{param}'" in answer.error["message"] and "at most" in answer.error["message"], answer


def holds(server, path, within, above, param):
    answer = server.post(path, BODIES[path] | within)
    assert answer.status == 200, answer
    refused(server, path, BODIES[path] | above, param)


@pytest.mark.parametrize("path", BODIES)
class TestFieldsOfAllThree:
    def test_stop(self, server, path):
        # Characters, not bytes.
        for letter in ("#", "\u20ac"):
            longest = letter * 256
            holds(server, path, {"stop": longest}, {"stop": longest + letter}, "stop")
            holds(server, path, {"stop": [longest] * 4}, {"stop": ["#", longest + letter]}, "stop")

    def test_logit_bias(self, server, path):
        def biases(count):
            return {"logit_bias": {str(token): 0.5 for token in range(100, 100 + count)}}

        holds(server, path, {"logit_bias": {"1": 0}}, biases(1025), "logit_bias")
        # Whether the model has all these tokens is another question; their number is not what is wrong.
        answer = server.post(path, BODIES[path] | biases(1024))
        assert answer.status == 200 or "entries" not in answer.error["message"], answer

    def test_labels(self, server, path):
        for field in ["user", "prompt_cache_key"]:
            holds(server, path, {field: "u" * 512}, {field: "u" * 513}, field)

    def test_model(self, server, path):
        refused(server, path, BODIES[path] | {"model": "m" * 513}, "model")
        assert server.post(path, BODIES[path] | {"model": "m" * 512}).status == 404


def test_chat(server):
    def message(**fields):
        return {"messages": [SAID[0] | fields]}

    parts = [{"type": "text", "text": ""}]
    holds(server, CHAT, message(name="n" * 512), message(name="n" * 513), "messages[0].name")
    holds(server, CHAT, {}, message(content=parts * 4097), "messages[0].content")
    holds(server, CHAT, {}, {"messages": SAID * 16_385}, "messages")
    holds(server, CHAT, {"documents": [{}] * 1024}, {"documents": [{}] * 1025}, "documents")
    many = {f"v{n}": n for n in range(257)}
    few = dict(list(many.items())[:256])
    holds(server, CHAT, {"chat_template_kwargs": few}, {"chat_template_kwargs": many}, "chat_template_kwargs")
    refused(server, CHAT, BODIES[CHAT] | {"guided_choice": ["a"] * 8193}, "guided_choice")


def test_responses(server):
    text = [{"type": "input_text", "text": ""}]
    refused(server, RESPONSES, BODIES[RESPONSES] | {"input": SAID * 16_385}, "input")
    refused(server, RESPONSES, BODIES[RESPONSES] | {"input": [SAID[0] | {"content": text * 4097}]}, "input[0].content")
    refused(server, RESPONSES, BODIES[RESPONSES] | {"previous_response_id": "r" * 513}, "previous_response_id")
    refused(server, RESPONSES, BODIES[RESPONSES] | {"conversation": "c" * 513}, "conversation")
    named = ["message.output_text.logprobs"]
    holds(server, RESPONSES, {"include": named * 64}, {"include": named * 65}, "include")


def test_others(server):
    for path, body in (
        ("embeddings", {"input": "hi"}), ("tokenize", {"prompt": "hi"}), ("detokenize", {"tokens": [1]}),
        ("apply-template", {"messages": SAID}), ("responses/input_tokens", {"input": "hi"}),
    ):
        refused(server, f"/api/v1/{path}", body | {"model": "m" * 513}, "model")
    refused(server, "/api/v1/tokenize", {"model": MODEL, "messages": SAID * 16_385}, "messages")
    key = {"name": "n", "permissions": ["read"] * 65}
    user = server.new_user("bounds@example.com")
    answer = server.post(f"/api/v1/admin/users/{user}/api-keys", key, key=server.admin_key)
    assert (answer.status, answer.error["param"]) == (400, "permissions"), answer
