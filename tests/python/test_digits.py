"""Numbers under a schema end, also where the model would write digits for ever."""

import json
import re

import jsonschema
import pytest
from harness import MODEL, VOCABULARY

USER = [{"role": "user", "content": "x"}]
#: The model's most likely tokens are those of one digit.
DIGIT = {str(token): 100 for text in ("7", ".") for token in VOCABULARY.ids_of(text)}
SCHEMAS = {
    "number": {"type": "number"},
    "range": {"type": "number", "minimum": 0, "maximum": 1},
    "below": {"type": "number", "maximum": 0.5},
    "integer": {"type": "integer"},
    "either": {"type": ["number", "null"]},
    "time": {"type": "string", "format": "time"},
    "date-time": {"type": "string", "format": "date-time"},
    "duration": {"type": "string", "format": "duration"},
}


def closed(schema):
    return {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}


def check(text, schema):
    jsonschema.validate(json.loads(text), schema)
    assert max(map(len, re.findall(r"[0-9]+", text)), default=0) <= 40, text
    assert max(map(len, re.findall(r"\.([0-9]+)", text)), default=0) <= 17, text


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_end(server, name):
    schema = closed(SCHEMAS[name])
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    fields = {"messages": USER, "response_format": form, "temperature": 0, "max_tokens": 300, "logit_bias": DIGIT}
    answer = server.chat(key=server.admin_key, **fields)
    assert answer.status == 200, answer
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "stop", choice
    check(choice["message"]["content"], schema)


def test_calls_end(server):
    parameters = closed(SCHEMAS["number"])
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    fields = {"messages": USER, "tools": tools, "temperature": 0, "max_tokens": 300, "logit_bias": DIGIT}
    answer = server.chat(key=server.admin_key, tool_choice="required", parallel_tool_calls=False, **fields)
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "tool_calls", choice
    check(choice["message"]["tool_calls"][0]["function"]["arguments"], parameters)


def test_expressions_are_the_callers(server):
    """Only JSON has numbers: an expression allows what it says."""
    body = {"model": MODEL, "prompt": "x", "guided_regex": "7\\.[0-9]{60}", "max_tokens": 100, "temperature": 0}
    answer = server.post("/v1/completions", body | {"logit_bias": DIGIT}, key=server.admin_key)
    assert re.fullmatch("7\\.[0-9]{60}", answer.json()["choices"][0]["text"]), answer
