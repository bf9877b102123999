"""`/responses`: what is sent, what is kept, what goes on without its client."""

import contextlib
import http.client
import json
import os
import re
import signal
import time

import openai_schema
import pytest
from harness import ENDLESS, IS_BUNDLED, MODEL, VOCABULARY, Server, stopped, wait_until

PATH = "/api/v1/responses"
@pytest.fixture(scope="module")
def own(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("responses"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def ann(own):
    return own.new_key(own.new_user("ann@responses.example"))["key"]


@pytest.fixture(scope="module")
def bob(own):
    return own.new_key(own.new_user("bob@responses.example"))["key"]


def body(input="Hello", **fields):
    return {"model": MODEL, "input": input, "max_output_tokens": 16, "temperature": 0} | fields


def create(server, key, input="Hello", **fields):
    made = server.post(PATH, body(input, **fields), key=key)
    assert made.status == 200, made
    return made.json()


def endless(**fields):
    """Fields of a response that lasts until it is stopped, or for a long while."""
    return {"logit_bias": ENDLESS, "max_output_tokens": None, "input": "Tell me a story"} | fields


def is_error(answer, status, code, param=None):
    assert answer.status == status, answer
    assert answer.error["code"] == code, answer
    if param:
        assert answer.error["param"] == param, answer


class Events:
    """A stream of events, read frame by frame; `with` closes it, like a client that goes away."""

    def __init__(self, server, method, path, key, fields=None):
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = json.dumps(fields).encode() if fields is not None else None
        self.connection.request(method, path, data, headers)
        self.answer = self.connection.getresponse()

    def __iter__(self):
        assert self.answer.status == 200, self.answer.read()
        assert self.answer.headers["Content-Type"] == "text/event-stream"
        name = None
        for line in self.answer:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                assert event["type"] == name, "the line before names the event"
                yield event

    def close(self):
        self.connection.close()
        self.answer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def stream(server, key, **fields):
    return Events(server, "POST", PATH, key, body(**fields) | {"stream": True})


def taken_up(server, key, id, after=None):
    query = "?stream=true" + (f"&starting_after={after}" if after is not None else "")
    return Events(server, "GET", f"{PATH}/{id}{query}", key)


def text_of(response):
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def check_events(events):
    for number, event in enumerate(events):
        assert event["sequence_number"] == number, "from 0 without gaps"
        openai_schema.check(openai_schema.EVENTS[event["type"]], event)


def wait_for_end(server, key, id):
    def ended():
        now = server.get(f"{PATH}/{id}", key=key)
        assert now.status == 200, now
        return now.json()["status"] not in ("queued", "in_progress") and now.json()

    return wait_until(ended, f"{id} has ended", 120)


# Plain


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
        {"role": "developer", "content": "Be kind."},
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
    ({"input": [{"type": "web_search_call", "id": "x"}]}, "unsupported_parameter", "input[0].type"),
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
    ({"text": {"verbosity": "high"}}, "unsupported_parameter", "text.verbosity"),
    ({"tools": [{"type": "function", "name": "f", "parameters": {}}]}, "unsupported_parameter", "tools"),
    ({"tool_choice": "required"}, "unsupported_parameter", "tool_choice"),
    ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
    ({"context_management": [{"type": "compaction"}]}, "unsupported_parameter", "context_management"),
    ({"reasoning": {"effort": "high"}}, "unsupported_parameter", "reasoning.effort"),
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


def test_a_response_continues_another(own, ann):
    first = create(own, ann, "My name is Ann", instructions="Always rhyme", logit_bias=ENDLESS)
    second = create(own, ann, "And yours?", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert second["instructions"] is None, "instructions are not carried over"
    flat = [
        {"role": "user", "content": "My name is Ann"},
        {"role": "assistant", "content": text_of(first)},
        {"role": "user", "content": "And yours?"},
    ]
    assert second["usage"]["input_tokens"] == create(own, ann, flat)["usage"]["input_tokens"]
    listed = own.get(f"{PATH}/{second['id']}/input_items?order=asc", key=ann).json()
    openai_schema.check("ResponseItemList", listed)
    assert [item["role"] for item in listed["data"]] == ["user", "assistant", "user"]
    assert listed["data"][1]["id"] == first["output"][0]["id"]
    # What it was made from stays, whatever becomes of the one before.
    assert own.delete(f"{PATH}/{first['id']}", key=ann).status == 200
    third = create(own, ann, "Bye", previous_response_id=second["id"])
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]
    # With nothing new, what there is is continued.
    assert own.post(PATH, {"model": MODEL, "previous_response_id": third["id"], "max_output_tokens": 16}, key=ann).status == 200


def test_item_references(own, ann, bob):
    first = create(own, ann, "My name is Ann", logit_bias=ENDLESS)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    given = create(own, ann, [{"role": "user", "content": "x"}, {"role": "assistant", "content": text_of(first)}, {"role": "user", "content": "y"}])
    referred = create(own, ann, [{"role": "user", "content": "x"}, reference, {"role": "user", "content": "y"}])
    assert referred["usage"]["input_tokens"] == given["usage"]["input_tokens"]
    for key, item in [(bob, reference), (ann, {"type": "item_reference", "id": "msg_nope"}), (ann, {"id": "x" * 300})]:
        is_error(own.post(PATH, body([item]), key=key), 404, "not_found", "input[0].id")


def test_large_input_is_kept_whole(own, ann):
    text = "a" * 300_000
    made = create(own, ann, [{"role": "user", "content": text}, {"role": "user", "content": "Hi"}], truncation="auto")
    listed = own.get(f"{PATH}/{made['id']}/input_items?order=asc", key=ann).json()
    assert listed["data"][0]["content"][0]["text"] == text


def test_truncation(own, ann):
    items = [{"role": "user", "content": f"{n} " + "word " * 200} for n in range(120)]
    refused = own.post(PATH, body(items), key=ann)
    is_error(refused, 400, "context_length_exceeded", "input")
    is_error(own.post(PATH, body(items, stream=True), key=ann), 400, "context_length_exceeded", "input")
    made = create(own, ann, items, truncation="auto", instructions="Stay")
    assert made["truncation"] == "auto"
    # The newest that fit, and not one fewer: with the next one it would not.
    assert made["usage"]["input_tokens"] > 16
    alone = [{"role": "user", "content": "word " * 40_000}]
    is_error(own.post(PATH, body(alone, truncation="auto"), key=ann), 400, "context_length_exceeded", "input")


def test_counting_tokens(own, ann):
    path = PATH + "/input_tokens"
    counted = own.post(path, {"model": MODEL, "input": "Hello", "instructions": "Be brief"}, key=ann)
    assert counted.status == 200, counted
    openai_schema.check("TokenCountsResource", counted.json())
    made = create(own, ann, "Hello", instructions="Be brief")
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": made["usage"]["input_tokens"]}
    after = own.post(path, {"model": MODEL, "input": "More", "previous_response_id": made["id"]}, key=ann).json()
    assert after["input_tokens"] == create(own, ann, "More", previous_response_id=made["id"])["usage"]["input_tokens"]
    is_error(own.post(path, {"model": MODEL}, key=ann), 400, "missing_required_parameter", "input")
    is_error(own.post(path, {"input": "x"}, key=ann), 400, "missing_required_parameter", "model")
    is_error(own.post(path, {"model": "nope", "input": "x"}, key=ann), 404, "model_not_found")
    long = own.post(path, {"model": MODEL, "input": "word " * 40_000}, key=ann)
    assert long.status == 200 and long.json()["input_tokens"] > 5_000, long


# Callers


def test_without_a_credential_nothing_is_kept(own):
    made = create(own, None)
    assert made["store"] is False
    with stream(own, None) as events:
        check_events(list(events))
    for fields, param in [
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_" + "0" * 32}, "previous_response_id"),
        ({"conversation": "conv_" + "0" * 32}, "conversation"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
    ]:
        is_error(own.post(PATH, body() | fields), 401, "missing_credentials", param)
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]:
        is_error(own.request(method, f"{PATH}/{made['id']}{path}"), 401, "missing_credentials")
    assert own.post(PATH + "/input_tokens", {"model": MODEL, "input": "x"}).status == 200


def test_permissions(own):
    user = own.new_user("carl@responses.example")
    reader, writer = own.new_key(user, ["read"])["key"], own.new_key(user, ["write"])["key"]
    made = create(own, writer)
    path = f"{PATH}/{made['id']}"
    assert own.get(path, key=reader).json() == made
    is_error(own.get(path, key=writer), 403, "insufficient_permissions")
    is_error(own.post(PATH, body(), key=reader), 403, "insufficient_permissions")
    is_error(own.post(PATH + "/input_tokens", body(), key=reader), 403, "insufficient_permissions")
    is_error(own.delete(path, key=reader), 403, "insufficient_permissions")
    is_error(own.post(path + "/cancel", key=reader), 403, "insufficient_permissions")


def test_it_counts_as_inference(make_server):
    server = make_server(env={"JAN_SERVER__RATE_LIMITS__INFERENCE_PER_MINUTE": "2"})
    key = server.new_key(server.new_user())["key"]
    made = create(server, key)
    assert server.post(PATH + "/input_tokens", {"model": MODEL, "input": "x"}, key=key).status == 200
    is_error(server.post(PATH, body(), key=key), 429, "rate_limit_exceeded")
    assert server.get(f"{PATH}/{made['id']}", key=key).status == 200, "looking costs no inference"


def test_a_user_goes_with_all_responses(own):
    user = own.new_user("dora@responses.example")
    key = own.new_key(user)["key"]
    secret = "a-secret-that-nobody-else-says"
    made = create(own, key, secret)
    assert own.get(f"{PATH}/{made['id']}", key=key).status == 200
    assert own.delete(f"/api/v1/admin/users/{user}", key=own.admin_key).status == 200
    is_error(own.get(f"{PATH}/{made['id']}", key=own.admin_key), 404, "not_found")


# Background


def test_background(own, ann):
    made = create(own, ann, background=True, logit_bias=ENDLESS)
    openai_schema.check("Response", made)
    assert made["status"] == "queued" and made["background"] is True and made["output"] == []
    ended = wait_for_end(own, ann, made["id"])
    openai_schema.check("Response", ended)
    assert ended["status"] == "incomplete" and ended["usage"]["output_tokens"] == 16
    with taken_up(own, ann, made["id"]) as events:
        events = list(events)
    check_events(events)
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert events[-1]["response"] == ended


def test_background_goes_on_when_the_client_leaves(own, ann):
    with stream(own, ann, background=True, max_output_tokens=200, logit_bias=ENDLESS) as events:
        id = next(iter(events))["response"]["id"]
    ended = wait_for_end(own, ann, id)
    assert ended["status"] == "incomplete" and ended["usage"]["output_tokens"] == 200
    with taken_up(own, ann, id) as events:
        check_events(list(events))


def test_a_background_failure_is_told(own, ann):
    made = create(own, ann, "word " * 40_000, background=True)
    ended = wait_for_end(own, ann, made["id"])
    openai_schema.check("Response", ended)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "invalid_prompt")
    assert "context" in ended["error"]["message"]
    with taken_up(own, ann, made["id"]) as events:
        events = list(events)
    check_events(events)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["code"] == "context_length_exceeded"


@pytest.fixture
def slow(make_server):
    """A server whose worker can be held, so that what runs does not end by itself."""
    return make_server(
        env={
            "JAN_SERVER__RESPONSES__MAX_BACKGROUND_PER_USER": "2",
            "JAN_SERVER__RESPONSES__MAX_BACKGROUND": "3",
            "JAN_SERVER__WORKER__STEP_TIMEOUT_MS": "600000",
        }
    )


def test_cancel(slow):
    key = slow.admin_key
    with stopped(slow.worker()):
        made = create(slow, key, **endless(background=True))
        with taken_up(slow, key, made["id"]) as events:
            cancelled = slow.post(f"{PATH}/{made['id']}/cancel", key=key)
            assert cancelled.status == 200, cancelled
            openai_schema.check("Response", cancelled.json())
            assert cancelled.json()["status"] == "cancelled"
            events = list(events)
        check_events(events)
        assert events[-1]["type"] == "response.incomplete"
        assert events[-1]["response"] == cancelled.json()
    assert slow.post(f"{PATH}/{made['id']}/cancel", key=key).json() == cancelled.json(), "once more changes nothing"
    assert slow.get(f"{PATH}/{made['id']}", key=key).json() == cancelled.json()
    foreground = create(slow, key)
    is_error(slow.post(f"{PATH}/{foreground['id']}/cancel", key=key), 400, "response_not_in_background")
    is_error(slow.post(f"{PATH}/resp_{'0' * 32}/cancel", key=key), 404, "not_found")


def test_not_too_many_run_in_the_background(slow):
    ann = slow.new_key(slow.new_user("ann@example.com"))["key"]
    bob = slow.new_key(slow.new_user("bob@example.com"))["key"]
    with stopped(slow.worker()):
        running = [create(slow, ann, background=True)["id"] for _ in range(2)]
        is_error(slow.post(PATH, body(background=True), key=ann), 429, "too_many_background_responses", "background")
        create(slow, bob, background=True)
        is_error(slow.post(PATH, body(background=True), key=bob), 429, "too_many_background_responses")
        is_error(slow.post(PATH, body(previous_response_id=running[0]), key=ann), 400, "invalid_value", "previous_response_id")
        assert slow.post(f"{PATH}/{running[0]}/cancel", key=ann).json()["status"] == "cancelled"
        create(slow, ann, background=True)
        assert slow.delete(f"{PATH}/{running[1]}", key=ann).status == 200
        is_error(slow.get(f"{PATH}/{running[1]}", key=ann), 404, "not_found")


def test_a_killed_server_leaves_nothing_running(tmp_path):
    first = Server(tmp_path, env={"JAN_SERVER__WORKER__STEP_TIMEOUT_MS": "600000"})
    key = first.admin_key
    ended = create(first, key)
    with stopped(first.worker()):
        running = create(first, key, "A question", background=True)
        first.kill()
    second = Server(tmp_path)
    try:
        assert second.get(f"{PATH}/{ended['id']}", key=key).json() == ended
        lost = second.get(f"{PATH}/{running['id']}", key=key).json()
        openai_schema.check("Response", lost)
        assert (lost["status"], lost["error"]["code"]) == ("failed", "server_error")
        assert "stopped" in lost["error"]["message"]
        items = second.get(f"{PATH}/{running['id']}/input_items", key=key).json()["data"]
        assert items[0]["content"][0]["text"] == "A question"
        with taken_up(second, key, running["id"]) as events:
            check_events(list(events))
        # Whatever its client had heard before, it hears of the end.
        with taken_up(second, key, running["id"], 40) as events:
            heard = [(event["sequence_number"], event["type"]) for event in events]
        assert heard == [(41, "error"), (42, "response.failed")]
        # Nothing is left half done: it can be asked again.
        assert create(second, key, "A question", background=True)["status"] == "queued"
    finally:
        second.close()


def test_a_worker_that_dies_costs_no_response(own, ann):
    with stream(own, ann, max_output_tokens=120, logit_bias=ENDLESS) as events:
        events = iter(events)
        seen = [next(events) for _ in range(8)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(own.worker(), signal.SIGKILL)
        seen += list(events)
    check_events(seen)
    assert seen[-1]["type"] == "response.incomplete"
    assert seen[-1]["response"]["usage"]["output_tokens"] == 120


# Conversations


def new_conversation(server, key):
    made = server.post("/api/v1/conversations", {}, key=key)
    if made.status == 404:
        pytest.skip("this build has no routes of conversations")
    assert made.status == 201, made
    return made.json()["id"]


def test_unknown_conversations(own, ann):
    for conversation in ("conv_" + "0" * 32, "nonsense", {"id": "conv_" + "0" * 32}):
        is_error(own.post(PATH, body(conversation=conversation), key=ann), 404, "not_found", "conversation")


def test_a_conversation_grows(own, ann, bob):
    conversation = new_conversation(own, ann)
    first = create(own, ann, "My name is Ann", conversation=conversation, logit_bias=ENDLESS)
    openai_schema.check("Response", first)
    assert first["conversation"] == {"id": conversation}
    second = create(own, ann, "And yours?", conversation={"id": conversation}, logit_bias=ENDLESS)
    items = own.get(f"/api/v1/conversations/{conversation}/items?order=asc", key=ann).json()["data"]
    assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant"]
    assert [item["id"] for item in items if item["role"] == "assistant"] == [
        response["output"][0]["id"] for response in (first, second)
    ]
    assert items[1]["content"][0]["text"] == text_of(first)
    listed = own.get(f"{PATH}/{second['id']}/input_items?order=asc", key=ann).json()["data"]
    assert [item["id"] for item in listed] == [item["id"] for item in items[:3]]
    flat = [{"role": item["role"], "content": item["content"][0]["text"]} for item in items[:3]]
    assert second["usage"]["input_tokens"] == create(own, ann, flat)["usage"]["input_tokens"]
    is_error(own.post(PATH, body(conversation=conversation), key=bob), 404, "not_found", "conversation")
    # What cannot be answered leaves no trace.
    is_error(own.post(PATH, body("word " * 40_000, conversation=conversation), key=ann), 400, "context_length_exceeded")
    assert own.get(f"/api/v1/conversations/{conversation}/items?order=asc", key=ann).json()["data"] == items


def test_conversation_with_background_and_stream(own, ann):
    conversation = new_conversation(own, ann)
    made = create(own, ann, "One", conversation=conversation, background=True, logit_bias=ENDLESS)
    with stream(own, ann, input="Two", conversation=conversation, logit_bias=ENDLESS) as events:
        check_events(list(events))
    ended = wait_for_end(own, ann, made["id"])
    items = own.get(f"/api/v1/conversations/{conversation}/items?order=asc", key=ann).json()["data"]
    assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant"], "one after the other"
    assert items[1]["content"][0]["text"] == text_of(ended)
