"""The deprecated `functions` and `function_call` of chat: tools in their form until 2023, which some clients still send."""

import json
import subprocess

import jsonschema
import openai
import openai_schema
import pytest
from harness import MODEL, ROOT, described

USER = [{"role": "user", "content": "How is the weather in Hanoi?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER = {"name": "get_weather", "description": "The weather of a city", "parameters": CITY}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
NAMED = {"name": "get_weather"}


def ask(client, **fields):
    request = {"model": MODEL, "messages": USER, "functions": [WEATHER, CLOCK], "max_tokens": 200, "temperature": 0}
    return client.chat.completions.create(**(request | fields))


def test_the_named_function_is_called(client):
    (choice,) = ask(client, function_call=NAMED).choices
    assert choice.finish_reason == "function_call"
    message = choice.message
    assert (message.content, message.tool_calls) == (None, None)
    assert message.function_call.name == "get_weather"
    jsonschema.validate(json.loads(message.function_call.arguments), CITY)


def test_several_answers_have_a_call_each(client):
    answer = ask(client, function_call=NAMED, n=2, temperature=1, seed=3)
    assert [choice.message.function_call.name for choice in answer.choices] == ["get_weather"] * 2
    for choice in answer.choices:
        jsonschema.validate(json.loads(choice.message.function_call.arguments), CITY)


def test_a_stream_has_deltas_of_the_call(server, client):
    expected = ask(client, function_call=NAMED).choices[0].message.function_call
    chunks = list(ask(client, function_call=NAMED, stream=True))
    calls = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices[0].delta.function_call]
    assert (calls[0].name, calls[0].arguments) == ("get_weather", "")
    assert all(call.name is None for call in calls[1:]) and len(calls) > 2, "arguments come while they are generated"
    assert "".join(call.arguments for call in calls) == expected.arguments
    assert not any(chunk.choices[0].delta.tool_calls for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "function_call"
    body = {"messages": USER, "functions": [WEATHER], "function_call": NAMED, "max_tokens": 200, "temperature": 0}
    with server.stream(**body) as stream:
        for event in stream.read():
            openai_schema.check("CreateChatCompletionStreamResponse", event)
    openai_schema.check("CreateChatCompletionResponse", server.chat(**body).json())


def test_functions_are_shown_as_tools(server):
    """The same prompt as with `tools`, with any choice; of the results, too."""
    function = {"name": "clock", "arguments": "{}"}
    old = {
        "messages": USER + [
            {"role": "assistant", "content": None, "function_call": function},
            {"role": "function", "name": "clock", "content": "noon"},
        ],
    }
    rendered = server.post("/api/v1/apply-template", {"model": MODEL} | old, key=server.admin_key).json()["prompt"]
    assert "noon" in rendered and "clock" in rendered
    new = {
        "messages": USER + [
            {"role": "assistant", "content": None,
             "tool_calls": [{"id": "call00001", "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": "call00001", "name": "clock", "content": "noon"},
        ],
    }
    again = server.post("/api/v1/apply-template", {"model": MODEL} | new, key=server.admin_key).json()["prompt"]
    assert rendered == again, "the bundled model's template shows no ids"

    def prompt_tokens(**fields):
        answer = server.chat(key=server.admin_key, max_tokens=1, **fields)
        assert answer.status == 200, answer
        return answer.json()["usage"]["prompt_tokens"]

    tools = [{"type": "function", "function": function} for function in (WEATHER, CLOCK)]
    expected = prompt_tokens(tools=tools, **new)
    for choice in ("none", "auto", NAMED):
        assert prompt_tokens(functions=[WEATHER, CLOCK], function_call=choice, **old) == expected, choice


def test_a_loop_of_calls_and_results(client):
    """What clients do: the call goes back as it came, with its result behind it."""
    message = ask(client, function_call=NAMED).choices[0].message
    result = {"role": "function", "name": message.function_call.name, "content": "sunny"}
    messages = USER + [message.model_dump(exclude_none=True), result]
    answer = ask(client, messages=messages, function_call="none", max_tokens=4)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.choices[0].message.function_call is None
    assert answer.usage.prompt_tokens > ask(client, function_call="none", max_tokens=4).usage.prompt_tokens


def test_a_call_in_a_conversation_has_its_result_by_id(server):
    key = server.new_key(server.new_user("functions@example.com"))["key"]
    conversation = server.post("/api/v1/conversations", {}, key=key).json()["id"]
    fields = {"functions": [WEATHER], "conversation": conversation, "temperature": 0, "max_tokens": 200}
    answer = server.chat(key=key, function_call=NAMED, **fields)
    assert answer.json()["choices"][0]["finish_reason"] == "function_call", answer
    items = server.get(f"/api/v1/conversations/{conversation}/items", key=key).json()["data"]
    call = next(item for item in items if item["type"] == "function_call")
    refused = server.chat(key=key, messages=[{"role": "function", "name": "get_weather", "content": "x"}], **fields)
    assert (refused.status, refused.error["param"]) == (400, "messages[0].role"), refused
    messages = [{"role": "tool", "tool_call_id": call["call_id"], "content": "sunny"}]
    assert server.chat(key=key, messages=messages, **fields | {"max_tokens": 4}).status == 200


#: A program of 2023, for the SDK of that time.
PROGRAM = """\
import json
import sys

import openai

openai.api_base, openai.api_key, model, fields = *sys.argv[1:4], json.loads(sys.argv[4])
messages = [{"role": "user", "content": "How is the weather in Hanoi?"}]
message = openai.ChatCompletion.create(model=model, messages=messages, **fields).choices[0].message
call = message["function_call"]
messages += [message, {"role": "function", "name": call["name"], "content": "sunny"}]
fields["function_call"] = "none"
answer = openai.ChatCompletion.create(model=model, messages=messages, **fields)
assert answer.choices[0].message.get("function_call") is None
print(call["arguments"])
"""


def test_an_sdk_of_that_time(server):
    python = ROOT / "target/openai-old-venv/bin/python"
    fields = {"functions": [WEATHER], "function_call": NAMED, "temperature": 0, "max_tokens": 200}
    command = [str(python), "-c", PROGRAM, server.base_url, server.admin_key, MODEL, json.dumps(fields)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    jsonschema.validate(json.loads(done.stdout), CITY)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [WEATHER], "tools": [{"type": "function", "function": WEATHER}]}, "functions"),
        ({"functions": [WEATHER | {"name": f"f{i}"} for i in range(129)]}, "functions"),
        ({"functions": [WEATHER, WEATHER]}, "functions[1].name"),
        ({"functions": [{"parameters": {}}]}, "functions[0].name"),
        ({"functions": [WEATHER], "function_call": "required"}, "function_call"),
        ({"functions": [WEATHER], "function_call": {"name": "no"}}, "function_call.name"),
        ({"functions": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"functions": [WEATHER | {"parameters": {"type": "nothing"}}]}, "functions[0].parameters.type"),
        ({"functions": [WEATHER], "guided_regex": "a"}, "guided_regex"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call.arguments"),
        ({"messages": [{"role": "assistant", "function_call": "f"}]}, "messages[0].function_call"),
    ],
)
def test_what_is_wrong_is_named(server, fields, param):
    answer = server.chat(key=server.admin_key, **fields)
    assert (answer.status, answer.error["param"]) == (400, param), answer
    assert len(answer.error["message"]) > 10


def test_a_grammar_beside_functions_is_named(client):
    with pytest.raises(openai.BadRequestError, match="'guided_choice' and 'functions' are mutually exclusive"):
        ask(client, extra_body={"guided_choice": ["a"]})


def test_the_fields_are_described_as_deprecated():
    properties = described("ChatRequest")
    assert properties["functions"]["deprecated"] and properties["function_call"]["deprecated"]
