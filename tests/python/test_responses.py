"""`/responses`: what is sent, and what comes back."""

import json
import re
import time

import openai_schema
import pytest
from harness import ENDLESS, IS_BUNDLED, MODEL, VOCABULARY
from responses import (
    PATH,
    ann,
    bob,
    body,
    check_events,
    create,
    endless,
    is_error,
    own,
    stream,
    taken_up,
    text_of,
    wait_for_end,
)  # noqa: F401 - the fixtures are used by name


def test_create(own, ann):
    made = create(own, ann, metadata={"a": "b"}, instructions="Be brief.", user="u", logit_bias=ENDLESS)
    openai_schema.check("Response", made)
    assert re.fullmatch("resp_[0-9a-f]{32}", made["id"])
    assert made["object"] == "response"
    assert abs(made["created_at"] - time.time()) < 60
    assert (made["status"], made["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert made["completed_at"] is None and made["error"] is None
    assert made["usage"]["output_tokens"] == 16
    assert made["usage"]["total_tokens"] == made["usage"]["input_tokens"] + 16
    assert (made["instructions"], made["metadata"], made["user"]) == ("Be brief.", {"a": "b"}, "u")
    (message,) = made["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "incomplete")
    assert message["content"][0]["type"] == "output_text" and message["content"][0]["annotations"] == []


def test_defaults_are_openais(own, ann):
    made = own.post(PATH, {"model": MODEL, "input": "Hi", "max_output_tokens": 16}, key=ann).json()
    expected = {
        "background": False, "store": True, "temperature": 1, "top_p": 1, "truncation": "disabled", "tools": [],
        "tool_choice": "auto", "parallel_tool_calls": True, "previous_response_id": None, "conversation": None,
        "instructions": None, "metadata": {}, "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": {"effort": None, "summary": None}, "service_tier": "default", "top_logprobs": 0,
    }
    assert {name: made[name] for name in expected} == expected


def test_completed(own, ann):
    """A forced end of generation ends it by itself."""
    end = {str(token): 100 for token in VOCABULARY.end_of_generation}
    made = create(own, ann, logit_bias=end)
    openai_schema.check("Response", made)
    assert (made["status"], made["incomplete_details"]) == ("completed", None)
    assert made["completed_at"] >= made["created_at"]
    assert made["output"][0]["status"] == "completed"
    assert text_of(made) == ""


def test_the_answer_is_chats(own, ann):
    """The same question to both APIs."""
    chat = own.chat("Hello", key=ann, max_tokens=16, temperature=0, logit_bias=ENDLESS).json()
    made = create(own, ann, "Hello", logit_bias=ENDLESS)
    assert made["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    if IS_BUNDLED:
        assert text_of(made) == chat["choices"][0]["message"]["content"]


def test_forms_of_input(own, ann):
    """All forms of one message are the same prompt."""
    forms = [
        "Hello",
        [{"role": "user", "content": "Hello"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
    ]
    lengths = {json.dumps(form): create(own, ann, form)["usage"]["input_tokens"] for form in forms}
    assert len(set(lengths.values())) == 1, lengths
    with_more = [
        # Longer than the system message that a template puts where there is none.
        {"role": "developer", "content": "Be kind to whoever writes to you. " * 10},
        {"role": "user", "content": "Hello"},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "Hi", "annotations": []}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"role": "user", "content": "More"},
    ]
    assert create(own, ann, with_more)["usage"]["input_tokens"] > max(lengths.values())


def test_function_calls_as_history(own, ann):
    items = [
        {"role": "user", "content": "What time is it?"},
        {"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "noon"},
    ]
    made = create(own, ann, items)
    listed = own.get(f"{PATH}/{made['id']}/input_items?order=asc", key=ann).json()
    openai_schema.check("ResponseItemList", listed)
    assert [item["type"] for item in listed["data"]] == ["message", "function_call", "function_call_output"]


def test_logprobs(own, ann):
    include = ["message.output_text.logprobs"]
    made = create(own, ann, include=include, top_logprobs=3, logit_bias=ENDLESS)
    openai_schema.check("Response", made)
    logprobs = made["output"][0]["content"][0]["logprobs"]
    assert len(logprobs) == 16 and all(len(entry["top_logprobs"]) == 3 for entry in logprobs)
    assert own.get(f"{PATH}/{made['id']}?include[]={include[0]}", key=ann).json() == made
    with stream(own, ann, include=include, top_logprobs=3, logit_bias=ENDLESS) as events:
        events = list(events)
    check_events(events)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert sum(len(event["logprobs"]) for event in deltas) == 16
    assert create(own, ann, top_logprobs=3)["output"][0]["content"][0]["logprobs"] == []


BAD = [
    ({"input": 5}, "invalid_type", "input"),
    ({"input": None}, "missing_required_parameter", "input"),
    ({"input": []}, "missing_required_parameter", "input"),
    ({"input": [{"role": "robot", "content": "x"}]}, None, "input[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "invalid_value",
     "input[0].content[0].type"),
    ({"input": [{"type": "image_generation_call", "id": "x"}]}, "unsupported_parameter", "input[0].type"),
    ({"model": ""}, "invalid_value", "model"),
    ({"model": None}, "invalid_type", "model"),
    ({"max_output_tokens": 15}, "invalid_value", "max_output_tokens"),
    ({"max_output_tokens": "x"}, "invalid_type", "max_output_tokens"),
    ({"temperature": 2.1}, "invalid_value", "temperature"),
    ({"top_p": -1}, "invalid_value", "top_p"),
    ({"top_logprobs": 21}, "invalid_value", "top_logprobs"),
    ({"include": ["x"]}, "invalid_value", "include"),
    ({"truncation": "x"}, None, "truncation"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "missing_required_parameter", "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "a b"}}}, "invalid_value", "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "x"}}}}, "invalid_value", "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}}, "invalid_value", "text.format"),
    ({"text": {"format": {"type": "x"}}}, "invalid_value", "text.format.type"),
    ({"text": {"verbosity": "loud"}}, "invalid_value", "text.verbosity"),
    ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
    ({"context_management": [{"type": "compaction"}]}, "unsupported_parameter", "context_management"),
    ({"reasoning": {"summary": "x"}}, "invalid_value", "reasoning.summary"),
    ({"reasoning": 1}, "invalid_type", "reasoning"),
    ({"parallel_tool_calls": "x"}, "invalid_type", "parallel_tool_calls"),
    ({"store": "x"}, "invalid_type", "store"),
    ({"background": True, "store": False}, "invalid_value", "background"),
    ({"stream_options": {"include_obfuscation": True}}, "invalid_value", "stream_options"),
    ({"metadata": {"k": 1}}, "invalid_type", "metadata.k"),
    ({"metadata": {f"k{n}": "" for n in range(17)}}, "invalid_value", "metadata"),
    ({"service_tier": "gold"}, None, "service_tier"),
    ({"safety_identifier": "x" * 65}, "invalid_value", "safety_identifier"),
    ({"previous_response_id": "resp_" + "0" * 32}, "previous_response_not_found", "previous_response_id"),
    ({"previous_response_id": "nonsense"}, "previous_response_not_found", "previous_response_id"),
    ({"previous_response_id": "x", "conversation": "y"}, "invalid_value", "conversation"),
    ({"conversation": 5}, "invalid_type", "conversation"),
    ({"conversation": {}}, "missing_required_parameter", "conversation.id"),
]


@pytest.mark.parametrize("fields, code, param", BAD, ids=[json.dumps(fields)[:60] for fields, _, _ in BAD])
def test_what_is_wrong_is_named(own, ann, fields, code, param):
    answer = own.post(PATH, body() | fields, key=ann)
    assert answer.status == 400, answer
    assert answer.error["param"] == param, answer
    assert code is None or answer.error["code"] == code, answer
    if "conversation" not in fields and "metadata" not in fields:
        assert own.post(PATH, body() | fields | {"stream": True}, key=ann).status == 400 or fields.keys() == {"stream_options"}


def test_harmless_fields_pass_and_unknown_ones_are_named(own, ann):
    answer = own.post(
        PATH,
        body(
            tools=[], tool_choice="auto", parallel_tool_calls=False, max_tool_calls=3, service_tier="auto",
            reasoning={"effort": None, "summary": "auto"}, text={"format": {"type": "text"}}, prompt_cache_key="k",
            prompt_cache_retention="24h", safety_identifier="s", truncation="auto", nonsense=1, top_k=5, min_p=0.1, seed=1,
            stop=["zzzz"], presence_penalty=0, frequency_penalty=0, include=["reasoning.encrypted_content"],
        ),
        key=ann,
    )
    assert answer.status == 200, answer
    assert answer.headers["X-Ignored-Fields"] == "nonsense"


def test_unknown_model_and_bad_bodies(own, ann):
    for background in (False, True):
        is_error(own.post(PATH, body(model="nope", background=background), key=ann), 404, "model_not_found", "model")
    is_error(own.post(PATH, b"{", key=ann), 400, "invalid_json")
    is_error(own.post(PATH, b"[]", key=ann), 400, "invalid_type")
    is_error(own.post(PATH, {"input": "x"}, key=ann), 400, "missing_required_parameter", "model")
    assert own.request("PUT", PATH, key=ann).status == 405
    assert own.request("POST", PATH + "/resp_x", key=ann).status == 405


# Streaming


def test_the_sequence_of_events(own, ann):
    with stream(own, ann, logit_bias=ENDLESS) as events:
        events = list(events)
    check_events(events)
    names = [event["type"] for event in events]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert names[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]
    assert names[4:-4] == ["response.output_text.delta"] * len(deltas) and len(deltas) > 1
    assert names[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]
    text = "".join(event["delta"] for event in deltas)
    assert text == events[-4]["text"] == events[-3]["part"]["text"] == text_of(events[-1]["response"])
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    final = events[-1]["response"]
    assert len({event["item_id"] for event in deltas} | {final["output"][0]["id"]}) == 1
    assert own.get(f"{PATH}/{final['id']}", key=ann).json() == final


def test_any_part_of_an_ended_stream_can_be_had_again(own, ann):
    with stream(own, ann, logit_bias=ENDLESS) as events:
        events = list(events)
    id = events[0]["response"]["id"]
    with taken_up(own, ann, id) as again:
        assert list(again) == events
    for after in (0, 3, 7, len(events) - 2, len(events) - 1, 10**6):
        with taken_up(own, ann, id, after) as again:
            assert list(again) == events[after + 1 :]


def test_a_dropped_stream_is_taken_up_while_it_runs(own, ann):
    with stream(own, ann, **endless()) as first:
        seen = []
        for event in first:
            seen.append(event)
            if event["type"] == "response.output_text.delta" and len(seen) > 8:
                break
    id = seen[0]["response"]["id"]
    with taken_up(own, ann, id, seen[-1]["sequence_number"]) as again:
        for event in again:
            seen.append(event)
            if len(seen) > 30:
                break
        assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
        now = own.get(f"{PATH}/{id}", key=ann).json()
        if now["status"] == "in_progress":
            assert now["output"] == [] and "usage" not in now
    assert own.delete(f"{PATH}/{id}", key=ann).status == 200


def test_a_stream_that_nobody_takes_up_ends(make_server):
    server = make_server(env={"JAN_SERVER__RESPONSES__RESUME_GRACE_MS": "200"})
    key = server.admin_key
    with stream(server, key, **endless()) as events:
        id = next(iter(events))["response"]["id"]
    ended = wait_for_end(server, key, id)
    # The context of the bundled model is soon full, so it may have been faster.
    assert ended["status"] in ("cancelled", "incomplete")
    openai_schema.check("Response", ended)


def test_not_stored_is_not_kept(own, ann):
    made = create(own, ann, store=False)
    assert made["store"] is False
    is_error(own.get(f"{PATH}/{made['id']}", key=ann), 404, "not_found")
    is_error(own.post(PATH, body(previous_response_id=made["id"]), key=ann), 400, "previous_response_not_found")


# What is kept


def test_retrieve_and_delete(own, ann, bob):
    made = create(own, ann)
    path = f"{PATH}/{made['id']}"
    assert own.get(path, key=ann).json() == made
    assert own.get(path.replace("/api/v1", "/v1"), key=ann).json() == made
    for answer in (
        own.get(path, key=bob),
        own.get(path + "?stream=true", key=bob),
        own.get(path + "/input_items", key=bob),
        own.delete(path, key=bob),
        own.post(path + "/cancel", key=bob),
        own.get(path, key=own.admin_key),
    ):
        is_error(answer, 404, "not_found")
    is_error(own.post(PATH, body(previous_response_id=made["id"]), key=bob), 400, "previous_response_not_found")
    assert own.delete(path, key=ann).json() == {"id": made["id"], "object": "response", "deleted": True}
    for answer in (own.get(path, key=ann), own.delete(path, key=ann), own.get(path + "/input_items", key=ann)):
        is_error(answer, 404, "not_found")
    is_error(own.get(PATH + "/nonsense", key=ann), 404, "not_found")


def test_queries_that_cannot_be(own, ann):
    path = f"{PATH}/{create(own, ann)['id']}"
    for query, param in [
        ("?stream=maybe", "stream"), ("?starting_after=3", "starting_after"),
        ("?stream=true&starting_after=x", "starting_after"), ("?include=x", "include"),
        ("/input_items?limit=0", "limit"), ("/input_items?limit=101", "limit"), ("/input_items?order=up", "order"),
        ("/input_items?after=nope", "after"), ("/input_items?include[]=x", "include"),
    ]:
        answer = own.get(path + query, key=ann)
        assert (answer.status, answer.error["param"]) == (400, param), (query, answer)


def test_input_items_are_pages(own, ann):
    items = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"text {n}"} for n in range(7)]
    id = create(own, ann, items)["id"]
    for order in ("asc", "desc"):
        seen, after = [], ""
        while True:
            page = own.get(f"{PATH}/{id}/input_items?limit=3&order={order}{after}", key=ann).json()
            openai_schema.check("ResponseItemList", page)
            seen += page["data"]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        texts = [item["content"][0]["text"] for item in seen]
        assert (texts if order == "asc" else texts[::-1]) == [f"text {n}" for n in range(7)]
        assert len({item["id"] for item in seen}) == 7
    assert own.get(f"{PATH}/{id}/input_items", key=ann).json()["data"][0]["content"][0]["text"] == "text 6"
