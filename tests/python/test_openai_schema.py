"""The check against OpenAI's description can fail: what is wrong is noticed, and where it is is said."""

import contextlib
import json

import openai_schema
import pytest

pytestmark = pytest.mark.skipif(openai_schema.FILE is None, reason=openai_schema.MISSING)

CHUNK = {
    "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
    "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
}  # fmt: skip
MODEL = {"id": "m", "object": "model", "created": 1, "owned_by": "jan"}


@contextlib.contextmanager
def noticed():
    """The violations inside the block, which are meant and do not fail the test."""
    real, openai_schema.violations = openai_schema.violations, []
    try:
        yield openai_schema.violations
    finally:
        openai_schema.violations = real


def stream(path, *events):
    watch = openai_schema.Events("POST", path)
    for event in events:
        # In pieces, as it may come.
        data = f"data: {json.dumps(event)}\n\n".encode()
        watch.feed(data[:10])
        watch.feed(data[10:])
    watch.feed(b"data: [DONE]\n\n")
    watch.end()


@pytest.mark.parametrize("path", ["/api/v1/models/m", "/v1/models/m?x=1"])
def test_bodies(path):
    with noticed() as found:
        def see(status, body):
            openai_schema.observe("GET", path, status, "application/json", body)

        see(200, json.dumps(MODEL | {"more": 1}))
        see(404, json.dumps({"error": {"message": "", "type": "t", "param": None, "code": None}}))
        assert found == []
        see(200, json.dumps(MODEL | {"created": "now"}))
        see(404, json.dumps({"error": {"message": "", "type": "t", "param": 5, "code": None}}))
        see(200, "{")
        assert ["at created" in found[0], "at error/param" in found[1], "not JSON" in found[2]] == [True] * 3, found
        assert all(f"GET {path}" in one for one in found)


def test_chunks():
    with noticed() as found:
        path = "/v1/chat/completions"
        stream(path, *[CHUNK] * 100, CHUNK | {"usage": None})
        assert found == []
        wrong = CHUNK | {"choices": [{"index": 0, "delta": {"content": 5}, "finish_reason": None}]}
        # The first fifty and the last ten are looked at.
        stream(path, *[CHUNK] * 50, wrong, *[CHUNK] * 10)
        assert found == []
        stream(path, wrong, *[CHUNK] * 60, wrong)
        assert len(found) == 2 and "event 1:" in found[0] and "event 62:" in found[1], found
        assert all("choices/0/delta/content" in one for one in found)


def test_events_of_a_response():
    with noticed() as found:
        delta = {
            "type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": "x",
            "sequence_number": 4, "logprobs": [],
        }  # fmt: skip
        stream("/v1/responses", delta)
        assert found == []
        stream("/v1/responses", delta | {"sequence_number": None}, {"type": "response.nonsense"})
        assert "at sequence_number" in found[0] and "ResponseStreamEvent" in found[1], found


def test_what_is_meant_passes():
    with noticed() as found:
        chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "usage": None}
        choice = {"index": 0, "text": "x", "logprobs": None, "finish_reason": None}
        stream("/v1/completions", chunk | {"choices": [choice]})
        assert found == []
        # In a whole answer the same would be wrong.
        openai_schema.observe("POST", "/v1/completions", 200, "application/json", json.dumps(chunk | {"choices": [choice]}))
        assert len(found) >= 2, found
