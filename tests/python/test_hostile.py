"""Bodies that kill or hang a server that trusts what it parses, at every endpoint that takes one.

Each is answered, with what is wrong or, where it is only large, with an answer; and behind it the server and its
worker are the ones from before, and serve.
"""

import json

import pytest
from harness import MODEL, Server, described
from hostile import (
    BODIES, CHAT, CONVERSATIONS, DETOKENIZE, ITEMS, RESPONSES, TEMPLATE, TEMPLATED, TEXT, TOKENIZE, Victim, body, dumps,
    format_field, nested, text_field, tools,
)  # fmt: skip

MANY = 100_000
DIGITS = b"9" * 20_000_000


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    # Far above the defaults (test_hostile_bodies.py has those), so that what is behind the limits of bodies is reached.
    config = "[http]\nbody_limit_bytes = 33554432\nbody_limit_elements = 1000000\n"
    own = Server(tmp_path_factory.mktemp("hostile"), config=config)
    yield own
    own.close()


@pytest.fixture
def victim(running):
    one = Victim(running)
    yield one
    one.is_unharmed()


def numeric(schema):
    """The fields of a request that are numbers, as the description has them, and `logit_bias`, which has numbers."""
    fields = described(schema).items()
    return [name for name, field in fields if {"integer", "number"} & set(field.get("type", []))] + ["logit_bias"]


#: The fields with numbers of each endpoint.
NUMBERS = {
    CHAT: numeric("ChatRequest"),
    TEXT: [*numeric("CompletionRequest"), "prompt"],
    RESPONSES: numeric("CreateResponse"),
    DETOKENIZE: ["tokens"],
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 400, b"1e308", b"18446744073709551616", b"-0.0", b"1e-400"])
def test_numbers(victim, path, number):
    for field in [*NUMBERS.get(path, []), "unknown"]:
        value = {"logit_bias": b'{"5": %s}', "tokens": b"[%s]", "prompt": b"[%s]"}.get(field, b"%s") % number
        answer = victim.post(path, body(path, **{field: value}))
        # As a number that JSON's readers have no place for, the first ones are wrong wherever they are.
        assert answer.status == 400 or (b"e4" not in number and len(number) < 400), (field, answer)
        if answer.status >= 400:
            assert answer.error["code"] == "invalid_json" or answer.error["param"].startswith(field), (field, answer)


@pytest.mark.parametrize("path", BODIES)
def test_twenty_megabytes_of_digits(victim, path):
    for field in (*NUMBERS.get(path, [])[:1], "unknown", "model" if path != ITEMS else "parent"):
        value = b"[%s]" % DIGITS if field == "tokens" else DIGITS
        assert victim.post(path, body(path, **{field: value})).status == 400, field
    # In a text they are a text, which only the template's endpoint has room for.
    answer = victim.post(path, body(path, **text_field(path, DIGITS)))
    assert (answer.status == 200) == (path == TEMPLATE), answer.status
    assert answer.status == 200 or answer.error["param"], answer


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("text", [rb"\ud800", rb"\udc00\ud800", rb"a\ud83d", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80"])
def test_lone_surrogates_and_broken_utf8(victim, path, text):
    fields = [text_field(path, text)]
    fields += [{name: b'"%s"' % text} for name in ("model", "user", "unknown", "title")]
    fields += [{"metadata": b'{"%s": "x"}' % text}, {"metadata": b'{"x": "%s"}' % text}, {"stop": b'["%s"]' % text}]
    for field in fields:
        answer = victim.post(path, body(path, **field))
        assert answer.status == 400, (field, answer)
        assert answer.error["code"] == "invalid_json", (field, answer)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("head", "tail"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[", b""), (b'[{"a":', b"")])
def test_deep_nesting(victim, path, head, tail):
    deep = nested(head, tail, inner=b"1")
    for field in (*BODIES[path], "unknown", "metadata", "tools", "tool_choice", "functions", "function_call",
                  "response_format", "text", "conversation"):
        answer = victim.post(path, body(path, **{field: deep}))
        assert answer.status == 400, (field, answer)
    assert victim.post(path, deep).status == 400


def many(part, count=MANY):
    return b"[" + b",".join([part] * count) + b"]"


MESSAGE = b'{"role": "user", "content": ""}'


@pytest.mark.parametrize(
    ("path", "field", "value", "status"),
    [
        (CHAT, "messages", many(MESSAGE), 400),
        (CHAT, "messages", many(b"{}"), 400),
        (CHAT, "messages", many(b'{"role": "user", "content": []}'), 400),
        (CHAT, "messages", b'[{"role": "user", "content": %s}]' % many(b'{"type": "text", "text": ""}'), None),
        (CHAT, "messages", b'[{"role": "user", "content": %s}]' % many(b'{"type": "text", "text": "a"}'), 400),
        (CHAT, "messages", b'[{"role": "assistant", "tool_calls": %s}]' % many(
            b'{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}', 20_000), 400),
        (CHAT, "messages", many(b'{"role": "function", "name": "f", "content": ""}'), 400),
        (CHAT, "messages", many(b'{"role": "function", "name": "f", "content": ""}', 8_000), None),
        (CHAT, "messages", many(
            b'{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}', 8_000), None),
        (CHAT, "tools", many(b'{"type": "function", "function": {"name": "f"}}'), 400),
        (CHAT, "functions", many(b'{"name": "f"}'), 400),
        (CHAT, "function_call", many(b'{"name": "f"}'), 400),
        (CHAT, "stop", many(b'"a"'), 400),
        (CHAT, "logit_bias", b"{" + b",".join(b'"%d": 1' % n for n in range(MANY)) + b"}", 400),
        (CHAT, "metadata", b"{" + b",".join(b'"%d": "1"' % n for n in range(MANY)) + b"}", 400),
        (CHAT, "guided_choice", many(b'"a"'), None),
        (CHAT, "guided_choice", many(b'""'), 400),
        (TEXT, "prompt", many(b'""'), 400),
        (TEXT, "prompt", many(b"[]"), 400),
        (TEXT, "prompt", many(b"[1]"), None),
        (TEXT, "prompt", many(b"1"), 400),
        (RESPONSES, "input", many(MESSAGE), 400),
        (RESPONSES, "input", many(b"{}"), 400),
        (RESPONSES, "input", many(b'{"type": "function_call_output", "call_id": "x", "output": ""}'), 400),
        (RESPONSES, "include", many(b'"x"'), 400),
        (RESPONSES, "tools", many(b'{"type": "function", "name": "f"}'), 400),
        (CONVERSATIONS, "items", many(MESSAGE), 400),
        (CONVERSATIONS, "messages", many(MESSAGE), 400),
        (CONVERSATIONS, "metadata", b"{" + b",".join(b'"%d": "1"' % n for n in range(MANY)) + b"}", 400),
        (ITEMS, "items", many(MESSAGE), 400),
        (ITEMS, "items", b'[{"role": "user", "content": %s}]' % many(b'{"type": "input_text", "text": ""}'), None),
        (TEMPLATE, "messages", many(MESSAGE), None),
        (TOKENIZE, "messages", many(MESSAGE), None),
        (TOKENIZE, "prompt", b'"' + rb"\n" * 900_000 + b'"', None),
        (TOKENIZE, "prompt", b'"' + b"<|im_end|>" * 90_000 + b'"', None),
        (TOKENIZE, "prompt", b'"' + b" " * 900_000 + b'"', None),
        (TOKENIZE, "prompt", b'"' + b"a" * 900_000 + b'"', None),
        (DETOKENIZE, "tokens", many(b"1"), None),
        (DETOKENIZE, "tokens", many(b"[]"), 400),
        (DETOKENIZE, "tokens", many(b"null"), 400),
    ],
)  # fmt: skip
def test_a_hundred_thousand(victim, path, field, value, status):
    """Of what one has a few of. None: it is only large, and may be answered."""
    answer = victim.post(path, body(path, **{field: value}))
    assert answer.status in ((200, 400) if status is None else (status,)), answer
    if answer.status == 400:
        assert answer.error["param"].startswith(field), answer


@pytest.mark.parametrize("path", BODIES)
def test_repeated_keys(victim, path):
    """Which of them counts is open; that there is one answer is not."""
    for field in BODIES[path]:
        value = dumps(BODIES[path][field])
        twice = body(path)[:-1] + b', "%s": %s}' % (field.encode(), value)
        assert victim.post(path, twice).status in (200, 400), field
        often = b"{" + b", ".join([b'"%s": %s' % (field.encode(), value)] * MANY) + b"}"
        assert victim.post(path, often).status in (200, 400), field
    spread = body(path)[:-1] + b"".join(b', "unknown%d": 1' % n for n in range(MANY)) + b"}"
    answer = victim.post(path, spread)
    assert answer.status in (200, 201, 400, 431), answer


def test_repeated_keys_inside(victim):
    message = b'[{"role": "user", "role": "system", "content": "a", "content": "b"}]'
    for path in (CHAT, TEMPLATE, TOKENIZE):
        assert victim.post(path, body(path, messages=message)).status in (200, 400)
    assert victim.post(RESPONSES, body(RESPONSES, input=message)).status in (200, 400)
    assert victim.post(ITEMS, body(ITEMS, items=message)).status in (200, 400)
    schema = b'{"type": "object", "type": "string", "properties": {"a": {}, "a": {"type": "null"}}}'
    for path in TEMPLATED:
        assert victim.post(path, body(path, tools=tools(path, schema, strict=False))).status in (200, 400)
    for path in (CHAT, RESPONSES):
        assert victim.post(path, body(path, **format_field(path, schema))).status in (200, 400)


def test_arguments_of_calls_are_texts(victim):
    """What a caller says that a model called is only a text, however it looks."""
    for arguments in ("[" * MANY, "{" * MANY, "1e400", '"\\ud800"', "9" * 900_000, "\0", "{}" * 1000):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
        messages.append({"role": "tool", "tool_call_id": "c", "content": arguments})
        for path in (CHAT, TEMPLATE, TOKENIZE):
            answer = victim.post(path, body(path, messages=dumps(messages)))
            assert answer.status in (200, 400), answer
        items = [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments},
            {"type": "function_call_output", "call_id": "c", "output": arguments},
        ]
        assert victim.post(RESPONSES, body(RESPONSES, input=dumps(items))).status in (200, 400)
        assert victim.post(ITEMS, body(ITEMS, items=dumps(items))).status in (200, 400)


def test_special_texts_are_texts(victim):
    """Controls, marks that go the other way, and a template's own signs."""
    for text in ("\0", "\u202e\u2066", "{{ 7*7 }}{% for x in range(10**9) %}{% endfor %}", "<|im_end|>" * 50, "\U0010ffff"):
        for path in BODIES:
            answer = victim.post(path, body(path, **text_field(path, json.dumps(text)[1:-1].encode())))
            # Where it is a model's name, there is no such model.
            assert answer.status in ((400, 404) if path == DETOKENIZE else (200, 201, 400)), answer
        shown = victim.post(TEMPLATE, dumps({"model": MODEL, "messages": [{"role": "user", "content": text}]})).json()
        assert text.strip() in shown["prompt"]
