"""Tools and thinking in Responses: items, events, and going on with them."""

import json

import jsonschema
import openai_schema
import pytest
from harness import ENDLESS, MODEL, MODEL_FILE, ROOT, Server, wait_until

SCHEMA = {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"],
    "additionalProperties": False,
}
ADD = {"type": "function", "name": "add", "description": "x", "parameters": SCHEMA, "strict": True}
PATH = "/api/v1/responses"
FORCED = {"tools": [ADD], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 200, "temperature": 0}


def test_a_call_is_an_item(client):
    made = client.responses.create(model=MODEL, input="add", **FORCED)
    openai_schema.check("Response", made.model_dump(mode="json", by_alias=True, exclude_unset=True))
    (call,) = made.output
    assert (call.type, call.name, call.status) == ("function_call", "add", "completed")
    jsonschema.validate(json.loads(call.arguments), SCHEMA)
    assert made.tools[0].name == "add" and made.tool_choice == "required"
    # Its result is answered.
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "7"}
    after = client.responses.create(
        model=MODEL, previous_response_id=made.id, input=[result], tools=[ADD], tool_choice="none",
        max_output_tokens=16, temperature=0, extra_body={"logit_bias": ENDLESS},
    )
    assert after.output[0].type == "message"
    items = client.responses.input_items.list(after.id, order="asc").data
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"]


def test_a_streamed_call_has_openais_events(client):
    events = list(client.responses.create(model=MODEL, input="add", stream=True, **FORCED))
    for event in events:
        openai_schema.check("ResponseStreamEvent", event.model_dump(mode="json", by_alias=True, exclude_unset=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[2] == "response.output_item.added" and events[2].item.arguments == ""
    assert kinds[-3:] == [
        "response.function_call_arguments.done", "response.output_item.done", "response.completed",
    ]
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == events[-3].arguments == events[-1].response.output[0].arguments
    with client.responses.stream(model=MODEL, input="add", **FORCED) as stream:
        final = stream.get_final_response()
    jsonschema.validate(json.loads(final.output[0].arguments), SCHEMA)


def test_a_call_is_kept_in_its_conversation(client):
    conversation = client.conversations.create()
    made = client.responses.create(model=MODEL, input="add", conversation=conversation.id, **FORCED)
    call_id = made.output[0].call_id
    items = client.conversations.items.list(conversation.id, order="asc").data
    assert [item.type for item in items][0] == "message" and items[-1].type == "function_call"
    assert items[-1].call_id == call_id
    result = {"type": "function_call_output", "call_id": call_id, "output": "7"}
    after = client.responses.create(
        model=MODEL, input=[result], conversation=conversation.id, max_output_tokens=16, temperature=0,
        extra_body={"logit_bias": ENDLESS},
    )
    assert after.output[0].type == "message"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "name": "no"}}, "tool_choice"),
        ({"tools": [ADD | {"parameters": {"not": {}}}]}, "tools"),
        ({"reasoning": {"effort": "immense"}}, "reasoning.effort"),
    ],
)
def test_what_is_wrong_is_named(server, fields, param):
    answer = server.post(PATH, {"model": MODEL, "input": "x"} | fields, key=server.admin_key)
    assert answer.status == 400, answer
    assert answer.error["param"] == param, answer


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    template = ROOT / "fixtures/templates/qwen3-thinking.jinja"
    config = f"[[models]]\nid = 'thinker'\npath = '{MODEL_FILE}'\ncontext_length = 2048\nchat_template = '{template}'\n"
    one = Server(tmp_path_factory.mktemp("thinker"), config=config)
    wait_until(
        lambda: one.get("/api/v1/models/thinker", key=one.admin_key).json()["status"] == "ready", "the thinker", 60
    )
    yield one
    one.close()


def test_thinking_is_an_item(thinker):
    fields = {
        "model": "thinker", "input": "Hello", "max_output_tokens": 60, "seed": 5, "thinking_budget": 5,
        "logit_bias": ENDLESS,
    }
    made = thinker.post(PATH, fields, key=thinker.admin_key).json()
    openai_schema.check("Response", made)
    thought, message = made["output"]
    assert (thought["type"], message["type"]) == ("reasoning", "message")
    assert thought["content"][0]["text"] and "think>" not in json.dumps(made["output"])
    assert made["usage"]["output_tokens_details"]["reasoning_tokens"] > 5
    items = thinker.get(f"{PATH}/{made['id']}", key=thinker.admin_key).json()["output"]
    assert items == made["output"]
    after = thinker.post(
        PATH, fields | {"previous_response_id": made["id"], "reasoning": {"effort": "none"}, "thinking_budget": None},
        key=thinker.admin_key,
    ).json()
    assert [item["type"] for item in after["output"]] == ["message"], after
