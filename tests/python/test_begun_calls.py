"""Calls that a model begins of its own accord, in the form of each family: they are held to the tool's schema.

A model that can repeat what it read is shown a call with an argument that the schema does not have."""

import json

import pytest
from harness import MODEL, MODEL_FILE, VOCABULARY, Server

WRONG = {
    "llama3": '{"name": "get_weather", "parameters": {"town": "Paris"}}',
    "llama4": '[get_weather(town="Paris")]',
    "lfm2": '<|tool_call_start|>[get_weather(town="Paris")]<|tool_call_end|>',
    "glm": "<tool_call>get_weather\n<arg_key>town</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
    "qwen-xml": "<tool_call>\n<function=get_weather>\n<parameter=town>\nParis\n</parameter>\n</function>\n</tool_call>",
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}, "days": {"type": "integer"}},
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}


@pytest.mark.skipif(VOCABULARY.metadata.get("general.basename") != "smollm2", reason="about a model that repeats")
@pytest.mark.parametrize("form", WRONG)
def test_a_begun_call_is_held_to_the_schema(form, tmp_path):
    config = f'[[models]]\nid = "{MODEL}"\npath = "{MODEL_FILE}"\ntool_format = "{form}"\n'
    server = Server(tmp_path, config=config, model=False)
    try:
        said = {"role": "user", "content": WRONG[form]}, {"role": "assistant", "content": WRONG[form] + " "}
        messages = [{"role": "system", "content": "Repeat what the user says."}, *said, *said, said[0]]
        tools = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
        fields = {"messages": messages, "tools": tools, "temperature": 0, "max_tokens": 200}
        message = server.chat(**fields).json()["choices"][0]["message"]
        (call,) = message["tool_calls"]
        assert message["content"] is None
        with server.stream(**fields) as stream:
            deltas = [choice["delta"] for event in stream.read() for choice in event["choices"]]
        parts = [part["function"] for delta in deltas for part in delta.get("tool_calls") or []]
        streamed = {key: "".join(part.get(key) or "" for part in parts) for key in ("name", "arguments")}
        for function in (call["function"], streamed):
            arguments = json.loads(function["arguments"])
            assert function["name"] == "get_weather"
            assert list(arguments) == ["city", "unit", "days"] and arguments["unit"] in ("celsius", "kelvin")
            assert isinstance(arguments["city"], str) and isinstance(arguments["days"], int)
    finally:
        server.close()
