"""`/responses`: what is kept and continued, and what goes on without its client."""

import contextlib
import os
import signal

import openai_schema
import pytest
from harness import ENDLESS, MODEL, VOCABULARY, Server, stopped
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
    # More than the context holds is counted all the same; many times more is not counted to the end.
    long = own.post(path, {"model": MODEL, "input": "word " * (VOCABULARY.context + 100)}, key=ann)
    assert long.status == 200 and long.json()["input_tokens"] > VOCABULARY.context, long
    far = own.post(path, {"model": MODEL, "input": "word " * 200_000}, key=ann)
    assert far.status == 200 and far.json()["input_tokens"] > 1000, far


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
