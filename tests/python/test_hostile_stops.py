"""Stop texts and `max_tokens` inside calls that are held to their form: a call, a cut call or nothing, never its markup."""

import json

import pytest
from harness import MODEL

TOOL = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8, "pattern": "^[a-z]*$"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
NESTED = [{"type": "function", "function": TOOL}]
FLAT = [{"type": "function"} | TOOL]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
USER = [{"role": "user", "content": "How is the weather in Hanoi?"}]
STOPS = [["}"], ["city"], ['"}'], ["\n"], ["{"], ["name"], ["<"], ["tool"], ["_call>"], ["}\n</tool"], ["</tool_call>"]]


def body(**fields):
    request = {"model": MODEL, "messages": USER, "tools": NESTED, "temperature": 0, "max_tokens": 200}
    return request | {"parallel_tool_calls": False} | fields


def called(calls):
    (call,) = calls
    assert call["function"]["name"] == "get_weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city"}


@pytest.mark.parametrize("stop", STOPS, ids=str)
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_stop_texts_do_not_count_in_a_held_call(server, stop, choice):
    plain = server.post("/v1/chat/completions", body(tool_choice=choice)).json()
    answer = server.post("/v1/chat/completions", body(tool_choice=choice, stop=stop))
    assert answer.status == 200, answer
    (one,) = answer.json()["choices"]
    assert one["finish_reason"] == "tool_calls" and one["message"]["content"] is None
    called(one["message"]["tool_calls"])
    # The stop text changes nothing at all.
    arguments = [c["choices"][0]["message"]["tool_calls"][0]["function"] for c in (plain, answer.json())]
    assert arguments[0] == arguments[1]


@pytest.mark.parametrize("stop", STOPS[:6], ids=str)
def test_streams_and_responses_are_the_same(server, stop):
    with server.stream(**body(tool_choice="required", stop=stop)) as stream:
        choices = [event["choices"][0] for event in stream.read()]
    assert not any(choice["delta"].get("content") for choice in choices)
    assert choices[-1]["finish_reason"] == "tool_calls"
    deltas = [choice["delta"]["tool_calls"][0] for choice in choices if "tool_calls" in choice["delta"]]
    json.loads("".join(delta["function"]["arguments"] for delta in deltas))
    request = {"model": MODEL, "input": "Weather?", "tools": FLAT, "tool_choice": "required", "temperature": 0}
    answer = server.post("/v1/responses", request | {"stop": stop, "parallel_tool_calls": False})
    assert answer.status == 200, answer
    assert answer.json()["status"] == "completed"
    (item,) = answer.json()["output"]
    assert item["type"] == "function_call" and set(json.loads(item["arguments"])) == {"city"}


def test_a_cut_call_is_no_text(server):
    """However early `max_tokens` cuts a required call, nothing of its markup is content."""
    begun = set()
    for most in range(1, 30):
        answer = server.post("/v1/chat/completions", body(tool_choice="required", max_tokens=most))
        assert answer.status == 200, answer
        (one,) = answer.json()["choices"]
        assert not one["message"]["content"], (most, one)
        begun.add(bool(one["message"].get("tool_calls")))
        if one["finish_reason"] == "tool_calls":
            break
        assert one["finish_reason"] == "length", (most, one)
        with server.stream(**body(tool_choice="required", max_tokens=most)) as stream:
            choices = [event["choices"][0] for event in stream.read()]
        assert not any(choice["delta"].get("content") for choice in choices), (most, choices)
        assert choices[-1]["finish_reason"] == "length"
    assert begun == {True, False}, "some were cut before the call's name, some behind it"


def test_a_cut_response_has_no_message_of_markup(server):
    request = {"model": MODEL, "input": "Weather?", "tools": FLAT, "tool_choice": "required", "temperature": 0}
    answer = server.post("/v1/responses", request | {"max_output_tokens": 16})
    assert answer.status == 200, answer
    shown = answer.json()
    texts = [part["text"] for item in shown["output"] if item["type"] == "message" for part in item["content"]]
    assert not any(texts), shown
    assert shown["status"] in ("incomplete", "completed")


def test_stop_texts_still_count_in_text_and_in_formats(server):
    said = server.chat(temperature=0, max_tokens=20).json()["choices"][0]["message"]["content"]
    word = said.split()[1]
    cut = server.chat(temperature=0, max_tokens=20, stop=[word]).json()["choices"][0]
    assert cut["message"]["content"] == said[: said.index(word)] and cut["finish_reason"] == "stop"
    schema = {"type": "object", "properties": {"a": {"const": "xyz"}}, "required": ["a"], "additionalProperties": False}
    answer_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = server.chat(response_format=answer_format, stop=["y"], max_tokens=50).json()["choices"][0]
    assert answer["message"]["content"] == '{"a": "x'
    # Either a call or the format: the format's text is cut, as without tools.
    fields = {"tools": [{"type": "function", "function": TOOL | {"strict": True}}], "stop": ["y"], "max_tokens": 50}
    for seed in range(3):
        one = server.chat(response_format=answer_format, seed=seed, **fields).json()["choices"][0]
        assert one["message"].get("tool_calls") or one["message"]["content"] == '{"a": "x', one
