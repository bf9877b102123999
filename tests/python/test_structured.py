"""Structured output: answers that are what a schema, an expression or a grammar asks for, whatever the model."""

import json
import os
import re
import signal
import typing

import openai
import pydantic
import pytest
from harness import MODEL, wait_until

USER = [{"role": "user", "content": "Tell me about a cat in JSON"}]


class Closed(pydantic.BaseModel):
    """As the strict mode of OpenAI's service demands: nothing but what is named."""

    model_config = pydantic.ConfigDict(extra="forbid")


class Toy(Closed):
    label: typing.Literal["ball", "mouse", "string"]
    loud: bool


class Cat(Closed):
    name: str = pydantic.Field(max_length=12)
    age: int = pydantic.Field(ge=0, le=30)
    mood: typing.Literal["sleepy", "hungry"]
    toys: list[Toy] = pydantic.Field(max_length=2)


def schema_format(schema, name="cat"):
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


CAT = schema_format(Cat.model_json_schema())


def test_parse_helper(client):
    answer = client.chat.completions.parse(
        model=MODEL, messages=USER, max_tokens=300, temperature=0, response_format=Cat
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Cat)


@pytest.mark.parametrize("seed", range(4))
def test_hot_sampling_satisfies_the_schema(client, seed):
    """At temperature 2 a model of this size writes noise; the schema holds all the same, for each of n answers."""
    answer = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=400, temperature=2, seed=seed, n=3, response_format=CAT
    )
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 3
    for choice in answer.choices:
        Cat.model_validate_json(choice.message.content)
    assert answer.usage.completion_tokens >= 3 * 8


def test_stream_helper(client):
    with client.chat.completions.stream(
        model=MODEL, messages=USER, max_tokens=300, temperature=0.7, seed=1, response_format=Cat
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert len(pieces) > 1
    assert "".join(pieces) == final.choices[0].message.content
    assert isinstance(final.choices[0].message.parsed, Cat)


def test_forced_tokens_stream_like_others(client):
    request = {"model": MODEL, "messages": USER, "max_tokens": 300, "temperature": 0, "response_format": CAT}
    plain = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert Cat.model_validate_json(text).mood in ("sleepy", "hungry")
    assert plain.usage.prompt_tokens == chunks[-1].usage.prompt_tokens
    assert text.startswith('{"name": "')


def test_json_object(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=60, temperature=1, seed=3, response_format={"type": "json_object"}
    )
    (choice,) = answer.choices
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


def test_cut_by_length_is_said(client):
    answer = client.chat.completions.create(model=MODEL, messages=USER, max_tokens=3, response_format=CAT)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_stop_text_cuts(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=300, response_format=CAT, stop=['"age"']
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content.startswith('{"name": ')
    assert '"age"' not in answer.choices[0].message.content


def test_logprobs_are_the_models_own(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=40, temperature=0, response_format=CAT, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"guided_choice": ["yes", "no", "may.be"]}, "yes|no|may\\.be"),
        ({"guided_regex": "[a-c]{3}-[0-9]{2}"}, "[a-c]{3}-[0-9]{2}"),
        ({"guided_grammar": 'start: "<" WORD ">"\nWORD: /[a-z]{2,4}/'}, "<[a-z]{2,4}>"),
        ({"guided_json": {"type": "object", "properties": {"a": {"const": 7}}, "required": ["a"], "additionalProperties": False}}, '\\{"a": 7\\}'),
    ],
)  # fmt: skip
def test_guided(client, extra, expected):
    held_to(client, extra, expected)


#: A grammar that leads back to itself, in the notation of llama.cpp; its texts have their marks in pairs.
NESTED = r'''
root ::= "[" item? ("," item)* "]"   # a list
item ::= root
  | [1-9]{1,2} | "\"" [a-cß]+ "\""
'''


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"structured_outputs": {"choice": ["yes", "no", "may.be"]}}, "yes|no|may\\.be"),
        ({"structured_outputs": {"regex": "[a-c]{3}-[0-9]{2}"}}, "[a-c]{3}-[0-9]{2}"),
        ({"structured_outputs": {"grammar": 'start: "a" | "b"'}}, "a|b"),
        ({"structured_outputs": {"grammar": 'root ::= "a" | "b"'}}, "a|b"),
        ({"structured_outputs": {"json": {"const": 7}}}, "7"),
        ({"json_schema": {"enum": [7, "x"]}}, '7|"x"'),
        ({"grammar": 'root ::= "<" word ">"\nword ::= [a-z]{2,4}'}, "<[a-z]{2,4}>"),
        ({"guided_grammar": 'root ::= ("é" | [^a-z]) "!"'}, "é!|[^a-z]!"),
    ],
)
def test_guided_as_vllm_and_llama_server_name_it(client, extra, expected):
    held_to(client, extra, expected)


def test_a_grammar_that_leads_back_to_itself(client):
    """JSON is read as a check: it has the same texts, and more."""
    whole = 0
    for seed in range(12):
        answer = client.chat.completions.create(
            model=MODEL, messages=USER, max_tokens=40, temperature=1.5, seed=seed, extra_body={"grammar": NESTED}
        )
        (choice,) = answer.choices
        assert re.fullmatch(r'[\[\],0-9a-cß"]*', choice.message.content), choice.message.content
        if choice.finish_reason == "stop":
            whole += 1
            # A list may begin with a comma there.
            json.loads(choice.message.content.replace("[,", "["))
    assert whole


def test_an_object_as_vllm_asks_for_it(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=5, extra_body={"structured_outputs": {"json_object": True}}
    )
    assert answer.choices[0].message.content.startswith("{")


def held_to(client, extra, expected):
    for seed in range(3):
        answer = client.chat.completions.create(
            model=MODEL, messages=USER, max_tokens=40, temperature=1.5, seed=seed, extra_body=extra
        )
        (choice,) = answer.choices
        assert choice.finish_reason == "stop"
        assert re.fullmatch(expected, choice.message.content), choice.message.content


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": schema_format({"type": "object"}, name="a b")}, "response_format.json_schema.name"),
        ({"response_format": schema_format({"type": "thing"})}, "response_format.json_schema.schema"),
        ({"response_format": schema_format({"type": "array", "uniqueItems": True})}, "response_format"),
        ({"response_format": schema_format({"$ref": "http://127.0.0.1:9/a.json"})}, "response_format.json_schema.schema"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a" * 300_000}, "guided_regex"),
        ({"grammar": "root ::= nothing"}, "grammar"),
        ({"grammar": "root ::= root"}, "grammar"),
        ({"grammar": "root ::= " + "(" * 10_000}, "grammar"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"json": {"type": "thing"}}}, "structured_outputs.json"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_wishes(server, fields, param, stream):
    answer = server.post(
        "/v1/chat/completions", {"model": MODEL, "messages": USER, "max_tokens": 5, "stream": stream} | fields
    )
    assert answer.status == 400, answer
    assert answer.error["param"] == param, answer
    assert len(answer.error["message"]) > 20


def test_the_keyword_that_cannot_be_enforced_is_named(server):
    wanted = schema_format({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}})
    answer = server.post("/v1/chat/completions", {"model": MODEL, "messages": USER, "response_format": wanted})
    assert answer.status == 400
    assert "'uniqueItems'" in answer.error["message"]


def test_hostile_schemas_leave_the_server_up(server):
    deep = '{"type":"array","items":' * 100_000 + "{}" + "}" * 100_000
    body = (
        '{"model": "%s", "messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", '
        '"json_schema": {"name": "x", "schema": %s}}}' % (MODEL, deep)
    )
    assert server.post("/v1/chat/completions", body.encode()).status in (400, 413)
    number = body.replace(deep, '{"type": "number", "maximum": 1e400}')
    assert server.post("/v1/chat/completions", number.encode()).status == 400
    wide = {f"p{n}": {"type": "string", "pattern": "^(a|b){1,50}c$"} for n in range(1500)}
    answer = server.post(
        "/v1/chat/completions",
        {
            "model": MODEL,
            "messages": USER,
            "max_tokens": 5,
            "response_format": schema_format({"type": "object", "properties": wide}),
        },
    )
    assert answer.status in (200, 400), answer
    assert server.chat(max_tokens=2).status == 200


def test_an_answer_survives_its_worker(make_server):
    """Killed in the middle, an answer goes on inside its schema."""
    own = make_server()
    number = {"type": "integer", "minimum": 0, "maximum": 99_999}
    wanted = schema_format({"type": "array", "items": number, "minItems": 200, "maxItems": 200})
    with own.stream(messages=USER, max_tokens=1500, temperature=1, seed=5, response_format=wanted) as stream:
        events, text, killed = stream.events(), "", 0
        for event in events:
            choice = event["choices"][0]
            text += choice["delta"].get("content") or ""
            if killed < 2 and text.count(",") >= 15 * (killed + 1):
                worker = own.worker()
                os.kill(worker, signal.SIGKILL)
                killed += 1
                wait_until(lambda: own.worker() != worker, "another worker")
            reason = choice["finish_reason"] or None
    assert killed == 2
    if reason == "stop":
        assert len(json.loads(text)) == 200
    else:
        assert re.fullmatch(r"\[(\d{1,5}, )*\d{0,5},? ?", text), text[-100:]


def test_the_sdk_refuses_nothing_that_is_offered(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=USER, response_format={"type": "grammar"})
    assert error.value.param == "response_format.type"
