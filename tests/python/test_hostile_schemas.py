"""Schemas, expressions and grammars that cannot be, or that would take all time and memory to follow."""

import functools
import json

import pytest
from harness import Server
from hostile import CHAT, RESPONSES, TEMPLATE, TEMPLATED, TOKENIZE, Victim, body, dumps, format_field, functions, nested, tools


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


def properties(count, **more):
    return dumps({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(count)}} | more)


def definitions(count, link):
    """A chain of references, each in its own definition; nothing in it is nested deeply."""
    chain = {f"d{n}": link({"$ref": f"#/$defs/d{n + 1}"}) for n in range(count)}
    return dumps({"$defs": chain | {f"d{count}": {"type": "null"}}, "$ref": "#/$defs/d0"})


#: {name: (schema, what a place that enforces it says)}: 400, or None where it is only large or strange.
SCHEMAS = {
    "nested 100,000 deep": (nested(b'{"type": "array", "items": ', b"}"), 400),
    "properties nested 100,000 deep": (nested(b'{"properties": {"a": ', b"}}"), 400),
    "1e400": (b'{"type": "number", "maximum": 1e400}', 400),
    "1e400 in a const": (b'{"const": [-1e400]}', 400),
    "20 MB of digits": (b'{"type": "integer", "maximum": %s}' % (b"9" * 20_000_000), 400),
    "lone surrogate": (rb'{"const": "\ud800"}', 400),
    "lone surrogate as a key": (rb'{"properties": {"\udc00": {}}}', 400),
    "broken UTF-8": (b'{"const": "\xff\xfe"}', 400),
    "10,000 properties": (properties(10_000), 400),
    "10,000 required properties": (properties(10_000, required=[f"p{n}" for n in range(10_000)]), 400),
    "2,000 properties": (properties(2000), None),
    "itself": (b'{"$ref": "#"}', 400),
    "two that are each other": (b'{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}', 400),
    "itself without an end": (
        b'{"$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"], '
        b'"additionalProperties": false}}, "$ref": "#/$defs/a"}', 400),
    "a reference to nothing": (b'{"$ref": "#/$defs/nothing"}', 400),
    "a reference elsewhere": (b'{"$ref": "file:///etc/passwd"}', 400),
    "empty enum": (b'{"enum": []}', 400),
    "contradictory numbers": (b'{"type": "integer", "minimum": 5, "maximum": 3}', 400),
    "contradictory lengths": (b'{"type": "string", "minLength": 5, "maxLength": 3}', 400),
    "contradictory constants": (b'{"allOf": [{"const": 1}, {"const": 2}]}', 400),
    "no schema at all": (b"false", 400),
    "(a{1000}){1000}": (b'{"type": "string", "pattern": "^(a{1000}){1000}$"}', 400),
    "(((a{100}){100}){100}){100}": (b'{"type": "string", "pattern": "(((a{100}){100}){100}){100}"}', 400),
    "(a+)+": (b'{"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}', None),
    "4,000,000,000 items": (b'{"type": "array", "minItems": 4000000000, "items": {"type": "null"}}', 400),
    "13,000 items": (dumps({"type": "array", "prefixItems": [{"type": "null"}] * 13_000, "items": False}), None),
    "20,000 constants": (dumps({"type": "object", "properties": {"a": {"enum": [f"e{n}" for n in range(20_000)]}}}), None),
    "two ways, 60 times": (dumps({
        "$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"type": "object", "properties": {"x": {"$ref": f"#/$defs/d{n + 1}"}}}]}
                  for n in range(60)} | {"d60": {"type": "null"}}, "$ref": "#/$defs/d0"}), None),
    "8 ways, 12 at once": (dumps({
        "allOf": [{"anyOf": [{"type": "object", "properties": {f"k{n}_{m}": {"type": "string"}}} for m in range(8)]} for n in range(12)]}), None),
    "a multiple of almost nothing": (b'{"type": "number", "multipleOf": 1e-300}', None),
    "a multiple of nothing": (b'{"type": "number", "multipleOf": 0}', 400),
    "the largest numbers": (b'{"type": "number", "minimum": -1e308, "maximum": 1e308}', None),
    "55 arrays": (dumps(functools.reduce(lambda inner, _: {"type": "array", "items": inner}, range(50), {})), None),
    "keys twice": (b'{"type": "object", "type": "object", "properties": {"a": {}, "a": {"type": "null"}}}', None),
}  # fmt: skip
SCHEMAS |= {
    "4,000 references": (definitions(4000, lambda to: to), 400),
    "1,000 references": (definitions(1000, lambda to: to), None),
    "a circle of 4,000 references": (dumps(json.loads(definitions(4000, lambda to: to).replace(b'"type": "null"', b'"$ref": "#/$defs/d0"'))), 400),
    "properties left over behind 500 references": (
        definitions(500, lambda to: {"unevaluatedProperties": False, "allOf": [to]}), 400),
    "items left over behind 2,000 references": (
        definitions(2000, lambda to: {"unevaluatedItems": False, "allOf": [to]}), 400),
    "3,000 arrays in each other": (definitions(3000, lambda to: {"type": "array", "items": to, "minItems": 1}), None),
    "4,000 patterns of properties": (
        dumps({"type": "object", "patternProperties": {f"^p{n}$": {"type": "null"} for n in range(4000)}}), None),
}  # fmt: skip


def is_named(answer, *fields):
    """A refusal says which field it is about, but where the body could not be read at all."""
    if answer.status == 400:
        error = answer.error
        assert error["code"] in ("invalid_json", "context_length_exceeded") or error["param"].startswith(fields), answer


def each(cases):
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), id=name) for name, case in cases.items()]


@pytest.mark.parametrize(("schema", "status"), each(SCHEMAS))
def test_formats(victim, schema, status):
    for path, field in ((CHAT, "response_format"), (RESPONSES, "text")):
        answer = victim.post(path, body(path, **format_field(path, schema)))
        assert answer.status in ((200, 400) if status is None else (status,)), answer
        is_named(answer, field)
    answer = victim.post(CHAT, body(CHAT, guided_json=schema))
    assert answer.status in ((200, 400) if status is None else (status,)), answer
    is_named(answer, "guided_json")


@pytest.mark.parametrize(("schema", "status"), each(SCHEMAS))
@pytest.mark.parametrize("strict", [True, False])
def test_tools(victim, schema, status, strict):
    # Parameters are an object's, whatever else they are.
    wrapped = b'{"type": "object", "properties": {"x": %s}, "required": ["x"], "additionalProperties": false}' % schema
    for path in TEMPLATED:
        asked = {"tools": tools(path, wrapped, strict)}
        if path in (TOKENIZE, TEMPLATE):
            asked["messages"] = b'[{"role": "user", "content": "x"}]'
        else:
            asked["tool_choice"] = b'"required"'
        answer = victim.post(path, body(path, **asked))
        assert answer.status in (200, 400), answer
        is_named(answer, "tools")
    answer = victim.post(CHAT, body(CHAT, functions=functions(wrapped), function_call=b'{"name": "f"}'))
    assert answer.status in (200, 400), answer
    is_named(answer, "functions")


def test_parameters_that_are_no_object(victim):
    for schema in (b"5", b'"x"', b"[]", b"true", b"null", b'{"type": 5}', b'{"type": "nothing"}', b'{"properties": 5}'):
        for path in TEMPLATED:
            answer = victim.post(path, body(path, tools=tools(path, schema)))
            assert answer.status in (200, 400) if schema == b"null" else answer.status == 400, (schema, answer)
            is_named(answer, "tools")
        # Like a tool that is not strict, whose schema is not looked into.
        answer = victim.post(CHAT, body(CHAT, functions=functions(schema)))
        assert answer.status in (200, 400) if schema in (b"null", b'{"properties": 5}') else answer.status == 400, answer
        is_named(answer, "functions")


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_parameters_that_are_a_number(victim, path):
    asked = {"tools": tools(path, b'{"type": "integer"}'), "tool_choice": b'"required"'}
    asked["max_tokens" if path == CHAT else "max_output_tokens"] = b"30"
    answer = victim.post(path, body(path, **asked))
    assert answer.status == 400, answer
    is_named(answer, "tools")


EXPRESSIONS = {
    "(a{1000}){1000}": ("(a{1000}){1000}", 400),
    "((((a{100}){100}){100}){100}){100}": ("((((a{100}){100}){100}){100}){100}", 400),
    "100,000 brackets": ("(" * 100_000 + "a" + ")" * 100_000, 400),
    "100,000 alternatives": ("a|" * 100_000 + "a", None),
    "(a*)* 2,000 times": ("(a*)*" * 2000, None),
    "(a|b)*a(a|b){20000}": ("(a|b)*a(a|b){20000}", None),
    "120,000 letters": ("ab" * 60_000, None),
    "60,000 that may be": ("a?" * 60_000, None),
    "letters of all scripts": (r"\p{L}{500}", None),
    "look-ahead": ("(?=a)b", 400),
    "back-reference": (r"(a)\1", 400),
    "nothing fits": ("[a&&b]", 400),
    "an anchor in the middle": ("a$b", 400),
    "300,000 bytes": ("a" * 300_000, 400),
    "a zero": ("\0{100}", None),
}


@pytest.mark.parametrize(("expression", "status"), each(EXPRESSIONS))
def test_expressions(victim, expression, status):
    answer = victim.post(CHAT, body(CHAT, guided_regex=dumps(expression), max_tokens=b"8"))
    assert answer.status in ((200, 400) if status is None else (status,)), answer
    is_named(answer, "guided_regex")


def rules(count, rule, name="r"):
    return f"start: {name}0\n" + "".join(f"{name}{n}: " + rule.replace("NEXT", f"{name}{n + 1}") + "\n" for n in range(count)) + f'{name}{count}: "a"'


GRAMMARS = {
    "50,000 brackets": ('start: "a" ' + "(" * 50_000 + "x" + ")" * 50_000, 400),
    "itself": ("start: start", 400),
    "two that are each other": ("start: a\na: b\nb: a", 400),
    "ambiguous": ("start: start start | ", None),
    "sums": ('start: e\ne: e "+" e | "a"', None),
    "a million": ("start: A{1000000}\nA: /a/", 400),
    "a thousand thousand": ('start: x{1000,1000}\nx: y{1000,1000}\ny: "a"', 400),
    "doubled 60 times": (rules(60, "NEXT NEXT"), 400),
    "60,000 texts": ("start: " + '"a" ' * 60_000, 400),
    "20,000 alternatives": ("start: " + "|".join(f'"a{n}"' for n in range(20_000)), None),
    "an expression": ("start: /(a{1000}){1000}/", 400),
    "a deep schema": ("start: %json " + '{"items":' * 20_000 + "{}" + "}" * 20_000, 400),
    "a schema that ends early": ('start: %json {"type":"array"', 400),
    "a token that is none": ("start: <[99999999]>", 400),
    "1e400": ('start[temperature=1e400]: "a"', None),
    "a rule after the other, 14,000 times": (rules(14_000, "NEXT"), None),
    "a text and the next, 11,000 times": (rules(11_000, '"a" NEXT'), None),
    "terminals, 11,000 times": (rules(11_000, '"a" NEXT', "R"), None),
    "9,000 properties": ("start: %json " + json.dumps({"type": "object", "properties": {f"p{n}": True for n in range(9000)}}), None),
}  # fmt: skip


@pytest.mark.parametrize(("grammar", "status"), each(GRAMMARS))
def test_grammars(victim, grammar, status):
    answer = victim.post(CHAT, body(CHAT, guided_grammar=dumps(grammar), max_tokens=b"8"))
    assert answer.status in ((200, 400) if status is None else (status,)), answer
    is_named(answer, "guided_grammar")


def llama_rules(count, rule):
    return 'root ::= r0\n' + "".join(f"r{n} ::= " + rule.replace("NEXT", f"r{n + 1}") + "\n" for n in range(count)) + f'r{count} ::= "a" root?'


LLAMA_GRAMMARS = {
    "10,800 times perhaps": ('root ::= "a"' + "?" * 10_800, 400),
    "10,800 times any number": ('root ::= "a"' + " *\n" * 5_000, 400),
    "5,000 times once": ('root ::= "a"' + "{1}" * 5_000, 400),
    "brackets with many suffixes each": ("root ::= " + "(" * 45 + '"a"' + (")" + "?" * 100) * 45, 400),
    "a chain of 998 rules": (llama_rules(997, "NEXT"), None),
    "8,000 brackets": ("root ::= " + "(" * 8_000 + '"x"' + ")" * 8_000, 400),
    "itself": ("root ::= root", 400),
    "two that are each other": ("root ::= b\nb ::= root", 400),
    "ambiguous": ('root ::= root root | "a" | ', None),
    "sums": ('root ::= root "+" root | "a"', None),
    "a billion": ('root ::= ((a{2000}){2000}){2000} root?\na ::= [a-z]', None),
    "a billion, an expression": ('root ::= ((a{2000}){2000}){2000}\na ::= [a-z]', None),
    "nothing, often": ('root ::= ((""*)*)* root?', None),
    "doubled 60 times": (llama_rules(60, "NEXT NEXT"), 400),
    "a rule after the other, 900 times": (llama_rules(900, "NEXT"), None),
    "a text and the next, 900 times": (llama_rules(900, '"a" NEXT'), None),
    "2,000 rules": (llama_rules(2_000, "NEXT"), 400),
    "16 KB of text": ('root ::= "' + "a" * 16_000 + '" root?', None),
    "16 KB of alternatives": ("root ::= " + "|".join(f'"{n}" root?' for n in range(1100)), None),
    "all characters": ("root ::= [\\U00000000-\\U0010FFFF]* root?", None),
    "a lone surrogate": ('root ::= "\\uD800"', 400),
    "20 MB": ('root ::= "' + "a" * 20_000_000 + '"', 400),
}  # fmt: skip


@pytest.mark.parametrize(("grammar", "status"), each(LLAMA_GRAMMARS))
def test_grammars_of_llama_server(victim, grammar, status):
    answer = victim.post(CHAT, body(CHAT, grammar=dumps(grammar), max_tokens=b"8"))
    assert answer.status in ((200, 400) if status is None else (status,)), answer
    is_named(answer, "grammar")


@pytest.mark.parametrize(
    ("choices", "status"),
    [
        (dumps([f"choice {n}" for n in range(20_000)]), None),
        (dumps(["a" * n + "b" for n in range(600)]), None),
        (dumps(["a" * 200_000]), None),
        (dumps(["a" * 10_000_000]), 400),
        (nested(b"[", b"]", inner=b""), 400),
        (dumps([""] * 100_000), 400),
        (rb'["\udc00"]', 400),
        (b"[1e400]", 400),
    ],
    ids=range(8),
)
def test_choices(victim, choices, status):
    answer = victim.post(CHAT, body(CHAT, guided_choice=choices, max_tokens=b"8"))
    assert answer.status in ((200, 400) if status is None else (status,)), answer
    is_named(answer, "guided_choice")
