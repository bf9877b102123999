"""Tools: calls that are what their schema asks for, whatever the model; and what is refused."""

import json
import os
import signal

import jsonschema
import openai
import openai_schema
import pytest
from harness import ENDLESS, MODEL, MODEL_FILE, ROOT, VOCABULARY, Server, wait_until

USER = [{"role": "user", "content": "How is the weather in Hanoi?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}


def tool(name="get_weather", parameters=CITY, **more):
    return {"type": "function", "function": {"name": name, "description": "x", "parameters": parameters} | more}


ADD = tool(
    "add",
    {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
    },
)
SCHEMAS = {"get_weather": CITY, "add": ADD["function"]["parameters"]}


def check(calls):
    assert calls
    for call in calls:
        assert call.type == "function" and call.id
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


def ask(client, **fields):
    request = {"model": MODEL, "messages": USER, "tools": [tool(), ADD], "max_tokens": 200, "temperature": 1}
    return client.chat.completions.create(**(request | fields))


@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_one(client, seed):
    answer = ask(client, tool_choice="required", parallel_tool_calls=False, seed=seed)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    check([call])


def test_the_named_tool_is_called(client):
    answer = ask(client, tool_choice={"type": "function", "function": {"name": "add"}}, temperature=2, seed=1)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "add"
    check([call])


def test_only_allowed_tools_are_called(client):
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = ask(client, tool_choice=choice, n=2, seed=4, parallel_tool_calls=False)
    for one in answer.choices:
        assert [call.function.name for call in one.message.tool_calls] == ["add"]


def test_a_stream_has_openais_deltas(server, client):
    fields = {"tool_choice": "required", "parallel_tool_calls": False, "temperature": 0}
    whole = ask(client, **fields).choices[0].message.tool_calls
    body = {"messages": USER, "tools": [tool(), ADD], "max_tokens": 200} | fields
    with server.stream(**body) as stream:
        events = stream.read()
    for event in events:
        openai_schema.check("CreateChatCompletionStreamResponse", event)
    choices = [event["choices"][0] for event in events]
    assert choices[0]["delta"]["role"] == "assistant"
    assert choices[-1]["finish_reason"] == "tool_calls"
    deltas = [choice["delta"]["tool_calls"] for choice in choices if "tool_calls" in choice["delta"]]
    assert all(len(delta) == 1 and delta[0]["index"] == 0 for delta in deltas)
    first, rest = deltas[0][0], [delta[0] for delta in deltas[1:]]
    assert first["type"] == "function" and first["id"]
    assert first["function"] == {"name": whole[0].function.name, "arguments": ""}
    assert all(set(delta) == {"index", "function"} and set(delta["function"]) == {"arguments"} for delta in rest)
    assert len(rest) > 1, "arguments are not held back to their end"
    assert "".join(delta["function"]["arguments"] for delta in rest) == whole[0].function.arguments
    with client.chat.completions.stream(model=MODEL, **body) as stream:
        final = stream.get_final_completion()
    check(final.choices[0].message.tool_calls)


def test_strict_tools_are_called_as_they_should_or_not_at_all(client):
    for seed in range(3):
        (choice,) = ask(client, tools=[tool(strict=True)], seed=seed, max_tokens=80, parallel_tool_calls=False).choices
        message = choice.message
        if message.tool_calls:
            # One that begins late is cut off.
            if choice.finish_reason == "tool_calls":
                check(message.tool_calls)
        else:
            assert message.content is not None


def test_free_calls_come_out_of_the_text(client):
    """What the model says is put into its mouth, so that it is known: a call is one, and what only looks like it is text."""
    said = '<tool_call>\n{"name": "add", "arguments": {"a": 7}}\n</tool_call>'
    fields = {"extra_body": {"guided_choice": [said]}, "temperature": 0}
    with pytest.raises(openai.BadRequestError, match="mutually exclusive"):
        ask(client, **fields)
    answer = ask(client, tools=openai.omit, **fields)
    assert answer.choices[0].message.content == said
    assert answer.choices[0].message.tool_calls is None


WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SUM = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}


@pytest.mark.skipif("Qwen2.5 Coder" not in VOCABULARY.metadata.get("general.name", ""), reason="about a model that calls by itself")
@pytest.mark.parametrize(
    ("asked", "choice", "expected"),
    [
        # It writes the call as the whole answer, without the mark that its template asks for.
        ("How is the weather in Hanoi?", "auto", [("get_weather", {"city": "Hanoi"})]),
        ("What is 17 plus 25? Use the tool.", "auto", [("add", {"a": 17, "b": 25})]),
        ("How is the weather in Hanoi?", "required", [("get_weather", {"city": "Hanoi"})]),
        ("How is the weather in Hanoi and in Paris? Call the tool for each.", "required",
         [("get_weather", {"city": "Hanoi"}), ("get_weather", {"city": "Paris"})]),
        ("How is the weather in Hanoi?", "none", []),
    ],
)  # fmt: skip
def test_a_model_that_was_trained_for_it_calls(client, asked, choice, expected):
    request = {
        "messages": [{"role": "user", "content": asked}], "tools": [tool(parameters=WEATHER), tool("add", SUM)],
        "tool_choice": choice, "temperature": 0,
    }  # fmt: skip
    answer = ask(client, **request).choices[0]
    with client.chat.completions.stream(model=MODEL, max_tokens=200, **request) as stream:
        streamed = stream.get_final_completion().choices[0]
    for one in (answer, streamed):
        found = [(call.function.name, json.loads(call.function.arguments)) for call in one.message.tool_calls or []]
        assert found == expected
        assert one.finish_reason == "tool_calls" if expected else one.message.content


def test_none_calls_nothing(client):
    answer = ask(client, tool_choice="none", max_tokens=10)
    assert answer.choices[0].message.tool_calls is None
    # The tools stay in the prompt, whose beginning is cached.
    shown = ask(client, max_tokens=1)
    assert answer.usage.prompt_tokens == shown.usage.prompt_tokens
    assert shown.usage.prompt_tokens > ask(client, tools=openai.omit, max_tokens=1).usage.prompt_tokens


def test_turns_with_results(client):
    call = {"id": "call00001", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = USER + [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "content": "it is 1"},
    ]
    answer = ask(client, messages=messages, max_tokens=4)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert answer.usage.prompt_tokens > ask(client, max_tokens=4).usage.prompt_tokens


def test_an_answer_in_json_or_a_call(client):
    answer_format = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}},
                        "required": ["ok"], "additionalProperties": False}},
    }
    for seed in range(3):
        fields = {"tools": [tool(strict=True)], "response_format": answer_format, "parallel_tool_calls": False, "seed": seed}
        message = ask(client, **fields).choices[0].message
        if message.tool_calls:
            check(message.tool_calls)
        else:
            assert isinstance(json.loads(message.content)["ok"], bool)


def test_a_call_goes_on_in_the_next_worker(make_server):
    # Among the characters of a text that has to be long, the best two are often nearly equal.
    own = make_server(env={"JAN_SERVER__ENGINE__REPRODUCIBLE": "true"})
    long = tool("write", {
        "type": "object", "properties": {"text": {"type": "string", "minLength": 200, "maxLength": 260}},
        "required": ["text"], "additionalProperties": False,
    })
    body = {"messages": USER, "tools": [long], "tool_choice": "required", "parallel_tool_calls": False,
            "temperature": 0, "max_tokens": 400}
    def arguments(events):
        deltas = [event["choices"][0]["delta"].get("tool_calls") for event in events if event["choices"]]
        return "".join(delta[0]["function"]["arguments"] for delta in deltas if delta)
    with own.stream(key=own.admin_key, **body) as stream:
        expected = arguments(stream.read())
    with own.stream(key=own.admin_key, **body) as stream:
        events = stream.events()
        got = [next(events) for _ in range(12)]
        os.kill(own.worker(), signal.SIGKILL)
        got += list(events)
    assert arguments(got) == expected
    for text in (arguments(got), expected):
        assert 200 <= len(json.loads(text)["text"]) <= 260


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name"),
        ({"tools": [tool(f"f{i}") for i in range(129)]}, "tools"),
        ({"tools": [tool(parameters={"type": "nothing"}, strict=True)]}, "tools[0].function.parameters.type"),
        ({"tools": [tool(parameters={"properties": {"a": {"type": "array", "uniqueItems": True}}}, strict=True)]},
         "tools[0].function.parameters"),
        ({"tools": [tool()], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": 1}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function"}}, "tool_choice.function.name"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools.mode"),
        ({"tools": [tool()], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"reasoning_effort": "immense"}, "reasoning_effort"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ],
)
def test_what_is_wrong_is_named(server, fields, param):
    answer = server.chat(key=server.admin_key, **fields)
    assert answer.status == 400, answer
    assert answer.error["param"] == param, answer


def test_hostile_tools_leave_the_server_up(server):
    """Each of these kills or hangs a server that trusts what it parses."""
    head = b'{"model": "%s", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, ' % MODEL.encode()
    def parameters(text):
        function = b'{"name": "f", "strict": true, "parameters": ' + text + b"}"
        return head + b'"tools": [{"type": "function", "function": ' + function + b"}]}"
    nested = b'{"type": "object", "properties": {"a": ' * 100_000 + b"{}" + b"}}" * 100_000
    many = b'{"role": "user", "content": ""},' * 100_000
    for body in (
        parameters(nested),
        parameters(b'{"maximum": 1e400}'),
        parameters(b'{"const": "\\ud800"}'),
        parameters(b'{"maximum": ' + b"9" * 20_000_000 + b"}"),
        parameters(b'{"type": "string", "minLength": 900000000, "maxLength": 900000001}'),
        parameters(b'{"type": "string", "pattern": "(a{1000}){1000}"}'),
        head + b'"chat_template_kwargs": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"model": "%s", "max_tokens": 1, "messages": [' % MODEL.encode() + many[:-1] + b"]}",
    ):
        answer = server.post("/api/v1/chat/completions", body, key=server.admin_key, timeout=60)
        # What is only large, and not wrong, may be answered.
        assert (200 if b"900000000" in body or b"{1000}" in body else 400) <= answer.status < 500, (body[:300], answer)
    assert server.chat(key=server.admin_key).status == 200


THINKING = ROOT / "fixtures/templates/qwen3-thinking.jinja"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """The suite's model with the template of Qwen3-4B-Thinking: its prompt opens the thinking."""


    config = f"[[models]]\nid = 'thinker'\npath = '{MODEL_FILE}'\ncontext_length = 2048\nchat_template = '{THINKING}'\n"
    one = Server(tmp_path_factory.mktemp("thinker"), config=config)
    wait_until(
        lambda: one.get("/api/v1/models/thinker", key=one.admin_key).json()["status"] == "ready", "the thinker", 60
    )
    yield one
    one.close()


def think(server, **fields):
    body = {"model": "thinker", "messages": USER, "max_tokens": 60, "temperature": 1, "seed": 5}
    body |= {"logit_bias": ENDLESS} | fields
    answer = server.post("/api/v1/chat/completions", body, key=server.admin_key)
    assert answer.status == 200, answer
    return answer.json()


def test_thinking_is_apart_and_ends_with_its_budget(thinker):
    answer = think(thinker, thinking_budget=5)
    message, usage = answer["choices"][0]["message"], answer["usage"]
    assert message["reasoning_content"]
    # A model may open another thought in its answer; that is text.
    assert "think>" not in message["reasoning_content"] and "</think>" not in message["content"].split("<think>")[0]
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 5 < thought < usage["completion_tokens"] <= 60
    with thinker.stream(key=thinker.admin_key, **{
        "model": "thinker", "messages": USER, "max_tokens": 60, "temperature": 1, "seed": 5, "thinking_budget": 5,
        "logit_bias": ENDLESS,
    }) as stream:
        deltas = [event["choices"][0]["delta"] for event in stream.read()]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == message["reasoning_content"]
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]


def test_no_effort_is_no_thinking(thinker):
    message = think(thinker, reasoning_effort="none")["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert "think>" not in message["content"]


def test_endless_thinking_is_cut_by_length(thinker):
    answer = think(thinker, max_tokens=20)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 20


def test_a_schema_begins_behind_the_thinking(thinker):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    answer = think(
        thinker, thinking_budget=4, max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"]
    jsonschema.validate(json.loads(message["content"]), schema)


def test_a_call_comes_behind_the_thinking(thinker):
    answer = think(thinker, thinking_budget=4, tools=[tool()], tool_choice="required", max_tokens=200, parallel_tool_calls=False)
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"] and message["content"] is None
    jsonschema.validate(json.loads(message["tool_calls"][0]["function"]["arguments"]), CITY)


def test_stop_texts_are_for_the_answer(thinker):
    """What is only thought ends nothing."""
    thought = think(thinker, thinking_budget=8)["choices"][0]["message"]["reasoning_content"]
    again = think(thinker, thinking_budget=8, stop=[thought[1]])["choices"][0]["message"]
    assert again["reasoning_content"] == thought
