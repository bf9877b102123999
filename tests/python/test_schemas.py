"""Schemas as people write them: what they mean is enforced, however it is written; the rest is named and checked."""

import json
import re

import jsonschema
import pytest
from harness import MODEL, Server

#: Long enough for the answers of these schemas, whatever the model writes.
TOKENS = 300


def closed(schema):
    return {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}


def ask(server, schema, strict=None, tokens=TOKENS, **fields):
    named = {"name": "x", "schema": schema} | ({} if strict is None else {"strict": strict})
    form = {"response_format": {"type": "json_schema", "json_schema": named}}
    return server.chat("x", max_tokens=tokens, seed=1, temperature=1, **form, **fields)


def value_of(answer):
    assert answer.status == 200, answer
    (choice,) = answer.json()["choices"]
    if choice["finish_reason"] == "length":
        return None
    return json.loads(choice["message"]["content"])


def holds(server, schema, wrap=True, unenforced=None, **fields):
    """The answer's value, which satisfies the schema; None where it was cut."""
    asked = closed(schema) if wrap else schema
    answer = ask(server, asked, **fields)
    value = value_of(answer)
    assert answer.headers["X-Unenforced-Schema"] == unenforced, answer
    if value is not None:
        return value["a"] if wrap else value
    return None


def tag(value):
    return {"type": "object", "properties": {"kind": {"const": value}}, "required": ["kind"], "additionalProperties": False}


X, Y = tag("a"), tag("b")
REFERENCES = [{"$ref": "#/$defs/X"}, {"$ref": "#/$defs/Y"}]


def with_definitions(one_of, **definitions):
    return {
        "$defs": {"X": X, "Y": Y} | definitions,
        "type": "object",
        "properties": {"x": {"oneOf": one_of}},
        "required": ["x"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("one_of", "more"),
    [
        (REFERENCES, {}),
        ([{"type": "null"}, {"$ref": "#/$defs/X"}], {}),
        ([{"type": "null"}, {"$ref": "#/$defs/S"}], {"S": {"enum": ["s", "t"]}}),
        ([{"$ref": "#/$defs/E"}, {"enum": ["c", "d"]}], {"E": {"enum": ["a", "b"]}}),
        ([{"$ref": "#/$defs/X"}, tag("c")], {}),
        ([{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/Y"}], {"A": {"allOf": [{"$ref": "#/$defs/X"}]}}),
        ([{"$ref": "#/$defs/U"}, {"type": "null"}], {"U": {"anyOf": REFERENCES}}),
        ([{"const": 1}, {"const": 2}], {}),
        ([{"const": True}, {"const": 1}, {"const": "1"}], {}),
        ([tag(1), tag(2), tag(None), tag(1.5)], {}),
        ([{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "integer", "minimum": 10, "maximum": 20}], {}),
        ([{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3, "maxLength": 5}], {}),
        ([tag("a"), {"type": "object", "properties": {}, "additionalProperties": False}], {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strict", [False, True])
def test_one_of_means_what_its_alternatives_mean(server, one_of, more, strict):
    schema = with_definitions(one_of, **more)
    value = holds(server, schema, wrap=False, strict=strict)
    jsonschema.validate(value, schema)


def test_one_of_beside_a_base(server):
    schema = {
        "type": "object",
        "properties": {"kind": {"type": "string"}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["kind"],
        "oneOf": [
            {"properties": {"kind": {"const": "a"}, "n": {"const": 1}}},
            {"properties": {"kind": {"const": "b"}, "n": {"const": 2}}},
        ],
        "additionalProperties": False,
    }
    jsonschema.validate(holds(server, schema, wrap=False, strict=True), schema)


def test_one_of_twice_the_same_is_a_contradiction(server):
    answer = ask(server, closed({"oneOf": [{"type": "null"}, {"type": "null"}]}))
    assert answer.status == 400 and "contradicts itself" in answer.error["message"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"const": 1}, "maxItems": 2, "uniqueItems": False},
        {"type": "array", "items": {"const": 1}, "uniqueItems": True, "maxItems": 1},
        {"type": "string", "maxLength": 3, "propertyNames": {}},
        {"type": "object", "properties": {"b": {"const": 1}}, "propertyNames": {"type": "string"}, "additionalProperties": False},
        {"type": "object", "properties": {"b": {"const": 1}}, "propertyNames": True, "additionalProperties": False},
        {"type": "object", "properties": {"b": {"const": 1}}, "dependentRequired": {}, "additionalProperties": False},
        {"type": "object", "properties": {"b": {"const": 1}, "c": {"const": 2}}, "required": ["b", "c"],
         "dependentRequired": {"b": ["c"]}, "additionalProperties": False},
        {"type": "object", "properties": {"b": {"const": 1}}, "dependentSchemas": {}, "additionalProperties": False},
        {"type": "object", "properties": {"b": {"const": 1}}, "unevaluatedProperties": True, "additionalProperties": False},
        {"type": "array", "items": {"const": 1}, "maxItems": 1, "unevaluatedItems": {}},
        {"type": "null", "then": {"type": "string"}},
        {"type": "null", "if": {"type": "string"}},
        {"type": "null", "not": False},
        {"type": "array", "contains": {}, "minContains": 0, "items": {"const": 1}, "maxItems": 1},
        {"type": "object", "minProperties": 0, "additionalProperties": False},
        {"type": "boolean", "uniqueItems": True, "maxItems": 0},
        {"type": "string", "minLength": 2.0, "maxLength": 3.0},
    ],
)  # fmt: skip
def test_keywords_that_demand_nothing(server, schema):
    jsonschema.validate(holds(server, schema, strict=True), schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "propertyNames": {"enum": ["b", "c"]}, "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
        {"type": "object", "propertyNames": {"pattern": "^[xy]$"}, "additionalProperties": {"const": 1}, "maxProperties": 3},
        {"type": "object", "properties": {"b": {"const": 1}, "c": {"const": 2}}, "dependentRequired": {"b": ["c"]},
          "additionalProperties": False, "minProperties": 1},
        {"type": "object", "properties": {"b": {"const": 1}, "c": {"enum": [2, 3]}}, "required": ["b"], "additionalProperties": False,
          "dependentSchemas": {"c": {"properties": {"c": {"const": 2}}}}},
        {"type": "object", "properties": {"k": {"enum": ["a", "b"]}, "v": {"enum": [1, 2]}}, "required": ["k", "v"],
          "additionalProperties": False, "if": {"properties": {"k": {"const": "a"}}},
          "then": {"properties": {"v": {"const": 1}}}, "else": {"properties": {"v": {"const": 2}}}},
        {"type": "string", "maxLength": 4, "not": {"enum": ["", "a", "ab"]}},
        {"type": "integer", "minimum": 0, "maximum": 5, "not": {"const": 3}},
        {"not": {"type": ["object", "array", "string"]}},
        {"type": "object", "properties": {"b": {"const": 1}, "c": {"const": 2}, "d": {"const": 3}}, "maxProperties": 2,
          "minProperties": 1, "additionalProperties": False},
        {"allOf": [{"type": "object", "properties": {"b": {"const": 1}}, "required": ["b"]}], "unevaluatedProperties": False,
          "properties": {"c": {"const": 2}}},
        {"type": "array", "items": [{"const": 1}, {"const": 2}], "additionalItems": False, "minItems": 2},
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rewritten_keywords_are_enforced(server, schema, seed):
    named = {"name": "x", "schema": closed(schema), "strict": True}
    answer = server.chat(
        "x", max_tokens=TOKENS, seed=seed, temperature=1.5, response_format={"type": "json_schema", "json_schema": named}
    )
    value = value_of(answer)
    if value is not None:
        dialect = jsonschema.Draft7Validator if "additionalItems" in schema else jsonschema.Draft202012Validator
        dialect(schema).validate(value["a"])


@pytest.mark.parametrize(
    "name",
    ["password", "byte", "url", "jwt", "cuid", "", "my-enum", "html-selector", "datetime", "int32", "uri-reference",
     "iri", "json-pointer", "regex", "idn-email"],
)  # fmt: skip
def test_formats_are_annotations(server, name):
    for schema in (
        {"enum": ["/a"], "format": name} if name not in ("iri", "idn-email") else {"const": 1, "format": name},
        {"enum": [1, 2], "format": name},
        {"type": "integer", "minimum": 0, "maximum": 9, "format": name},
    ):
        jsonschema.validate(holds(server, schema, strict=True), schema)
    holds(server, {"type": "string", "format": name}, strict=True, tokens=20)


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        ("date", r"\d{4}-\d\d-\d\d"),
        ("time", r"\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
        ("date-time", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
        ("duration", r"P[0-9YMDTHSW]+"),
        ("uri-reference", r"\S*"),
    ],
)
def test_standard_formats_are_enforced(server, form, shape):
    value = holds(server, {"type": "string", "format": form}, strict=True, tokens=120)
    assert value is None or re.fullmatch(shape, value)


@pytest.mark.parametrize(
    "dialect",
    [
        "https://json-schema.org/draft-07/schema#", "http://json-schema.org/draft/2020-12/schema",
        "http://json-schema.org/schema#", "https://spec.openapis.org/oas/3.1/dialect/base", None, "", 7, "nonsense",
        "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-03/schema",
    ],
)  # fmt: skip
def test_metadata_is_not_obeyed(server, dialect):
    schema = {"$schema": dialect, "description": None, "title": None, "default": {"no": "such"}, "examples": None,
              "$comment": 5, "x-anything": [1], "deprecated": "yes", "readOnly": None}  # fmt: skip
    schema |= closed({"const": 1, "title": None, "description": None})
    assert holds(server, schema, wrap=False, strict=True) == {"a": 1}


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        (r'^[!@#$%^&*()_+\-=[\]{};\':"\|,.<>/?]{3}$', r'[!@#$%^&*()_+\-=\[\]{};\':"|,.<>/?]{3}'),
        ("^[[]a$", r"\[a"),
        ("^[a&&b]{2}$", "[a&b]{2}"),
        ("^[a-z[0-9]]{2}$", r"[a-z\[0-9]\]{2}"),
        ("^[[:alpha:]]{2}$", r"[\[:alph]\]{2}"),
        (r"^[\b]$", "\b"),
        (r"^\0$", "\0"),
        (r"^\cA$", "\x01"),
        (r"^[a~~b]{2}$", "[a~b]{2}"),
        (r"^\/x\-\d$", "/x-[0-9]"),
        (r"^(?<y>[0-9])$", "[0-9]"),
        (r"^a{,2}$", re.escape("a{,2}")),
        (r"^\u0041[\x42-\x43]$", "A[BC]"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_expressions_are_those_of_ecma_262(server, pattern, matching, seed):
    value = holds(server, {"type": "string", "pattern": pattern}, strict=True)
    assert re.fullmatch(matching, value), value


@pytest.mark.parametrize(
    "name",
    ["Record<string,number>", "Foo[int]", "A|B", "é", "a b", "List`1[System.String]", "%41", "a/b", "a~b", "日本"],
)
def test_references_to_names_that_are_no_uris(server, name):
    escaped = name.replace("~", "~0").replace("/", "~1")
    schema = {"$defs": {name: {"const": 7}}, "$ref": f"#/$defs/{escaped}"}
    assert holds(server, schema, wrap=False, strict=True) == 7
    by_property = {"type": "object", "properties": {name: {"const": 1}, "z": {"$ref": f"#/properties/{escaped}"}},
                   "required": [name, "z"], "additionalProperties": False}  # fmt: skip
    assert holds(server, by_property, wrap=False, strict=True) == {name: 1, "z": 1}


def test_recursion_with_other_conditions(server):
    schema = {
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"v": {"enum": [1, 2]}, "next": {"allOf": [{"$ref": "#/$defs/Node"}, {"$ref": "#/$defs/One"}]}},
                "required": ["v"],
                "additionalProperties": False,
            },
            "One": {"properties": {"v": {"const": 1}}},
        },
        "$ref": "#/$defs/Node",
    }  # fmt: skip
    value = holds(server, schema, wrap=False, strict=True)
    if value is not None:
        jsonschema.validate(value, schema)


I64 = {"minimum": -(2**63), "maximum": 2**63 - 1}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"} | I64,
        {"type": "integer", "minimum": -(2**63)},
        {"type": "integer", "minimum": -1e20, "maximum": 1e20},
        {"const": -(2**63)},
        {"const": -(2**63 - 1)},
        {"const": 2**53 + 1},
        {"const": 2**63},
        {"const": 2**64 - 1},
        {"const": {"id": [2**53 + 1]}},
        {"enum": [1098765432109876543, 1198765432109876541]},
        {"enum": ["x", 2**62 + 1]},
        {"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 3},
        {"type": "integer", "exclusiveMinimum": 2**60, "exclusiveMaximum": 2**60 + 2},
        {"type": "integer", "minimum": 2**63},
        {"type": ["integer", "null"]} | I64,
        {"anyOf": [{"type": "integer", "minimum": 2**62 + 1, "maximum": 2**62 + 2}, {"type": "null"}]},
        {"oneOf": [{"const": 2**62}, {"const": 2**62 + 1}]},
        {"type": "array", "items": {"type": "integer"} | I64, "minItems": 1, "maxItems": 2},
        {"type": "object", "properties": {"id": {"const": 2**62 + 1}, "n": {"const": 1}}, "required": ["id"]},
    ],
)
def test_integers_are_exact(server, schema):
    """Python's integers have no bound, so this check has no rounding of its own."""
    value = holds(server, schema, strict=True, tokens=60)
    if value is not None:
        jsonschema.validate(value, schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "minimum": -1e22, "maximum": 1e22},
        {"type": "number", "minimum": 0, "maximum": 3.4e38},
        {"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1.7976931348623157e308},
    ],
)
def test_ranges_that_are_too_wide_to_enforce_are_checked(server, schema):
    answer = ask(server, closed(schema), tokens=60)
    assert answer.status == 200 and "m" in answer.headers["X-Unenforced-Schema"], answer
    value = value_of(answer)
    if value is not None:
        jsonschema.validate(value["a"], schema)


def test_a_number_that_was_rounded_on_its_way_is_refused(server):
    answer = ask(server, closed({"const": 1234567890123456789012345}))
    assert answer.status == 400 and "exactly" in answer.error["message"], answer


#: Pieces of messages that are not for callers.
FOREIGN = re.compile(r"backtrace|panic|coerce_one_of|llguidance|derivre|registry|[Rr]etriever|/src/|\.rs\b|Unimplemented|\(And|meta-schema")


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"type": "string"}, {"pattern": "^a"}]},
        {"type": "array", "uniqueItems": True},
        {"$ref": "https://example.com/other.json"},
        {"$ref": "#/$defs/none"},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "^(?=a)b"},
        {"type": "string", "pattern": "^(([a-z]{1,50}){1,50}){1,50}$"},
        {"type": "string", "allOf": [{"pattern": f"a{n}.*b"} for n in range(20)], "maxLength": 200},
        {"const": 1e300},
        {"type": "nothing"},
        {"minLength": -1},
        {"type": "object", "properties": 5},
        {"anyOf": []},
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "array", "contains": {"type": "string"}},
    ],
)
def test_refusals_are_in_words_of_their_own(server, schema):
    answer = ask(server, closed(schema), strict=True, tokens=5)
    assert answer.status == 400, answer
    message = answer.error["message"]
    assert not FOREIGN.search(message) and len(message) < 500, message
    assert answer.error["param"].startswith("response_format"), answer


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "items": {"enum": list("abcdefgh")}, "maxItems": 3, "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "^(?!a).*$", "maxLength": 3}, "pattern"),
        ({"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3, "contains": {"const": "a"}}, "contains"),
        ({"type": "string", "maxLength": 4, "not": {"pattern": "^a"}}, "not"),
    ],
)
def test_what_is_not_enforced_is_named_and_checked(server, schema, named):
    """The answer satisfies all of it, with more than one try where that takes more."""
    for seed in range(3):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": closed(schema)}}
        answer = server.chat("x", max_tokens=60, seed=seed, temperature=1, response_format=form)
        assert answer.status in (200, 500), answer
        if answer.status == 500:
            assert answer.error["code"] == "invalid_output"
            continue
        assert answer.headers["X-Unenforced-Schema"] == named
        value = value_of(answer)
        if value is not None:
            jsonschema.validate(value["a"], schema)


#: The grammar does not know it, and no answer satisfies it: every try fails.
NEVER = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2, "uniqueItems": True}


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    config = "[structured]\nretries = 3\nbuffer_streams = true\n"
    own = Server(tmp_path_factory.mktemp("patient"), config=config)
    yield own
    own.close()


def test_tries_end_and_are_charged(server, patient):
    for own, tries in ((server, 3), (patient, 4)):
        before = completion_tokens(own)
        answer = ask(own, closed(NEVER))
        assert answer.status == 500 and answer.error["code"] == "invalid_output", answer
        cost = completion_tokens(own) - before
        before = completion_tokens(own)
        one = ask(own, closed(NEVER | {"uniqueItems": False}))
        assert value_of(one) == {"a": [1, 1]}
        assert cost == tries * (completion_tokens(own) - before)


def completion_tokens(server):
    usage = server.get("/api/v1/admin/usage?user=anonymous&group_by=user", key=server.admin_key).json()
    return sum(result["output_tokens"] for bucket in usage["data"] for result in bucket["results"])


def test_another_try_can_pass(patient):
    """Pairs of two letters: at temperature 0 the first one repeats itself, a later try need not."""
    unique = {"type": "array", "items": {"enum": list("abcdefgh")}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    passed = 0
    for seed in range(6):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": closed(unique)}}
        answer = patient.chat("x", max_tokens=60, seed=seed, temperature=0, response_format=form)
        assert answer.status in (200, 500)
        if answer.status == 200:
            passed += 1
            first, second = value_of(answer)["a"]
            assert first != second
            assert answer.json()["usage"]["total_tokens"] > answer.json()["usage"]["completion_tokens"]
    assert passed


def test_streams_end_with_an_error_or_are_held_back(server, patient):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": closed(NEVER)}}
    for own, held in ((server, False), (patient, True)):
        with own.stream(max_tokens=60, response_format=form) as stream:
            assert stream.headers["X-Unenforced-Schema"] == "uniqueItems"
            events = list(stream.events())
        errors = [event for event in events if "error" in event]
        assert [error["error"]["code"] for error in errors] == ["invalid_output"]
        texts = [event["choices"][0]["delta"].get("content") for event in events if event.get("choices")]
        assert any(texts) != held


def tool(name, parameters, **more):
    return {"type": "function", "function": {"name": name, "parameters": parameters} | more}


CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"], "additionalProperties": False}


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a": {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "maxItems": 1}}},
        {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True, "maxItems": 2, "items": {"enum": list(range(50))}}}},
        {"type": "object", "properties": {"a": {"type": "string", "format": "my", "maxLength": 3}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?!x)", "maxLength": 3}}},
        {"type": "object", "propertyNames": {"minLength": 1}, "additionalProperties": {"const": 1}, "maxProperties": 2},
        {"type": "object", "description": None, "properties": {"a": {"const": 1}}, "additionalProperties": False},
        {"type": "object", "required": None, "properties": {"a": {"const": 1}}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {"type": "array", "items": [{"const": 1}], "additionalItems": False}}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {"type": "nothing"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/no"}}},
        {"type": "object", "required": "a"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("named", [False, True])
def test_one_tool_does_not_refuse_all(server, parameters, named):
    choice = {"type": "function", "function": {"name": "city"}} if named else "required"
    tools = [tool("odd", parameters), tool("city", CITY)]
    answer = server.chat("x", max_tokens=200, tools=tools, tool_choice=choice, temperature=0, parallel_tool_calls=False)
    assert answer.status in ((200,) if named else (200, 500)), answer
    if named:
        (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
        jsonschema.validate(json.loads(call["function"]["arguments"]), CITY)
    strict = [tool("odd", parameters, strict=True), tool("city", CITY)]
    refused = server.chat("x", max_tokens=5, tools=strict, tool_choice="required")
    assert refused.status in (200, 400), refused
    if refused.status == 400:
        assert not FOREIGN.search(refused.error["message"])


def test_the_schema_of_a_json_object_is_enforced(server):
    schema = closed({"enum": [3, 4]})
    for form in ({"type": "json_object", "schema": schema},):
        answer = server.chat("x", max_tokens=60, response_format=form)
        assert value_of(answer)["a"] in (3, 4)
        assert answer.headers["X-Ignored-Fields"] is None
    answer = server.post("/v1/responses", {
        "model": MODEL, "input": "x", "max_output_tokens": 60, "text": {"format": {"type": "json_object", "schema": schema}}})  # fmt: skip
    assert answer.status == 200, answer
    assert json.loads(answer.json()["output"][-1]["content"][0]["text"])["a"] in (3, 4)
    for form in ({"type": "text", "schema": schema}, {"type": "json_object", "schema": {"type": "nothing"}}):
        answer = server.chat("x", max_tokens=5, response_format=form)
        assert answer.status == 400 and answer.error["param"] == "response_format.schema", answer


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_every_api_names_what_is_not_enforced(server, path):
    schema = closed({"type": "array", "items": {"enum": list("abcdefghijkl")}, "minItems": 1, "maxItems": 1, "allOf": [{"uniqueItems": True}]})
    body = {"model": MODEL}
    if path.endswith("responses"):
        body |= {"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
    elif path.endswith("chat/completions"):
        body |= {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    else:
        body |= {"prompt": "x", "guided_json": schema}
    body["max_output_tokens" if path.endswith("responses") else "max_tokens"] = 60
    answer = server.post(path, body)
    assert answer.status == 200 and answer.headers["X-Unenforced-Schema"] == "uniqueItems", answer
    exposed = server.request("GET", "/health", None, {"Origin": "http://localhost:1234"}, 10, None)
    assert exposed.status == 200
