"""Checks what the server answers against OpenAI's own API description.

The description is not part of this repository; it is looked for in `$JAN_OPENAI_SPEC` and beside the checkout, and the
checks are left out, with the reason printed, where it is not found.

`check` is for one body. `observe` and `Events` are for whatever goes over the wire: `harness.py`, the SDK's transport
(`openai_watch.py`) and the Node tests give them every answer, and the test in which one was wrong fails. Extra fields
are allowed wherever the description does not forbid them.
"""

import collections
import functools
import hashlib
import json
import os
import pathlib
import re

import jsonschema_rs
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
_given = os.environ.get("JAN_OPENAI_SPEC")
_places = [pathlib.Path(_given)] if _given else [
    folder / "shared/reference/openai-openapi.yaml" for folder in (ROOT.parent, *ROOT.parents)
] + [ROOT.parent / "reference/openai-openapi.yaml"]
FILE = next((place for place in _places if place.is_file()), None)
MISSING = f"OpenAI's API description is not at {_given or _places[0]} (JAN_OPENAI_SPEC names it)"

#: Of a long stream only so many events are checked: the first and the last.
FIRST, LAST = 50, 10

# Where this server's answers are meant to differ, as patterns of (schema, place, message).
DEVIATIONS = [
    # The description gives the chunks of a stream the schema of the whole answer, in which a choice has always ended.
    # OpenAI's service, too, has null there until the last one.
    (r"CreateCompletionResponse \(event\)", r"choices/\d+/finish_reason", "null is not "),
    # `stream_options.include_usage`, in the description's own words: all other chunks have a usage of null.
    (r"CreateCompletionResponse \(event\)", "usage", "null is not "),
    # With `echo` nothing came before the first token; OpenAI's service, too, has null there.
    (r"CreateCompletionResponse( \(event\))?", r"choices/\d+/logprobs", r'"token_logprobs":\[null'),
    # The SDKs ask for base64, which OpenAI's service sends as a string; the description only knows arrays.
    (r"CreateEmbeddingResponse", r"data/\d+/embedding", r'^"[A-Za-z0-9+/=]+" is not of type "array"$'),
]


def _json_schema(node):
    """OpenAPI's `nullable` as JSON Schema has it; references lead into the same document."""
    if isinstance(node, list):
        return [_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _json_schema(value) for key, value in node.items() if key not in ("example", "examples", "discriminator")}
    # Where several alternatives fit (a message is an easy message too), one is enough.
    if isinstance(kept.get("oneOf"), list):
        kept["anyOf"] = kept.pop("oneOf")
    # Names of formats that are OpenAI's own.
    if isinstance(kept.get("format"), str):
        kept.pop("format")
    if kept.pop("nullable", False) is True:
        kept = {"anyOf": [kept, {"type": "null"}]}
    return kept


@functools.cache
def _document():
    """The schemas, and for each path what its answers are. Reading the YAML takes seconds, so that is kept as JSON."""
    text = FILE.read_bytes()
    # The key covers this file too, which makes one out of the other.
    key = hashlib.sha256(text + pathlib.Path(__file__).read_bytes()).hexdigest()[:16]
    kept = ROOT / f"target/openai-spec/{key}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    read = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    paths = [
        (path, method, answer["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1])
        for path, operations in read["paths"].items()
        for method, operation in operations.items()
        for status, answer in (operation.get("responses") or {}).items()
        if path.startswith(("/chat/", "/completions", "/models", "/responses", "/conversations", "/embeddings"))
        and status == "200" and "?" not in path and "$ref" in answer.get("content", {}).get("application/json", {}).get("schema", {})
    ]  # fmt: skip
    made = {"components": {"schemas": _json_schema(read["components"]["schemas"])}, "paths": paths}
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(made))
    part.rename(kept)
    return made


@functools.cache
def _validator(name):
    schema = {"$ref": f"#/components/schemas/{name}", "components": _document()["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


def _leaves(error):
    """What is wrong in the alternative that comes closest, where none of several fits."""
    context = getattr(error.kind, "context", None)
    if not context:
        return [error]
    branches = [[leaf for inner in branch for leaf in _leaves(inner)] for branch in context if branch]
    if not branches:
        return [error]
    # One that differs in a constant (the type of an item) is another thing altogether.
    return min(branches, key=lambda leaves: (any(_is_another_thing(leaf) for leaf in leaves), len(leaves)))


def _is_another_thing(error):
    return bool(error.instance_path) and error.instance_path[-1] in ("type", "object", "role") and "enum" in error.schema_path


def _problems(name, body, event=False):
    shown = f"{name} (event)" if event else name
    found = []
    for error in _validator(name).iter_errors(body):
        for leaf in _leaves(error):
            place = "/".join(map(str, leaf.instance_path))
            if not any(
                re.fullmatch(schema, shown) and re.fullmatch(where, place) and re.search(what, leaf.message)
                for schema, where, what in DEVIATIONS
            ):
                found.append(f"{shown}: at {place or 'the top'}: {leaf.message[:300]}")
    return found


def check(name, body):
    """Fails where `body` is not what the schema `name` says. Without the description it says so and passes."""
    if FILE is None:
        print(f"not checked against {name}: {MISSING}")
        return
    problems = _problems(name, body)
    assert not problems, "\n".join([*problems[:4], str(body)])


#: The schema of each event that this server sends.
EVENTS = {
    "response.created": "ResponseCreatedEvent",
    "response.queued": "ResponseQueuedEvent",
    "response.in_progress": "ResponseInProgressEvent",
    "response.output_item.added": "ResponseOutputItemAddedEvent",
    "response.content_part.added": "ResponseContentPartAddedEvent",
    "response.output_text.delta": "ResponseTextDeltaEvent",
    "response.output_text.done": "ResponseTextDoneEvent",
    "response.output_text.annotation.added": "ResponseOutputTextAnnotationAddedEvent",
    "response.web_search_call.in_progress": "ResponseWebSearchCallInProgressEvent",
    "response.web_search_call.searching": "ResponseWebSearchCallSearchingEvent",
    "response.web_search_call.completed": "ResponseWebSearchCallCompletedEvent",
    "response.content_part.done": "ResponseContentPartDoneEvent",
    "response.output_item.done": "ResponseOutputItemDoneEvent",
    "response.completed": "ResponseCompletedEvent",
    "response.incomplete": "ResponseIncompleteEvent",
    "response.failed": "ResponseFailedEvent",
    "error": "ResponseErrorEvent",
}


# On the wire
# -----------

#: What was found wrong since the last test; `openai_watch.py` fails the test with it.
violations = []
#: How many bodies and events were checked against each schema.
checked = collections.Counter()


@functools.cache
def _schema_of(method, path):
    """The schema of a successful answer, None where the description has none."""
    found = re.fullmatch(r"(?:/api)?/v1(/[^?]*?)/?(\?.*)?", path)
    if not found:
        return None
    for template, its_method, name in sorted(_document()["paths"], key=lambda entry: entry[0].count("{")):
        if its_method == method.lower() and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), found[1]):
            return name
    return None


#: The start of the paths for which OpenAI's errors are checked.
_KNOWN = re.compile(r"(/api)?/v1/(chat/completions|completions|models|responses|conversations|embeddings)(/|\?|$)")


def _note(where, name, body, event=False):
    checked[name] += 1
    violations.extend(f"{where}: {problem}" for problem in _problems(name, body, event)[:4])


def observe(method, path, status, content_type, body):
    """Checks a whole answer: a body in JSON, or a stream that was read to its end."""
    if FILE is None or not _KNOWN.match(path):
        return
    where = f"{method} {path} {status}"
    if (content_type or "").startswith("text/event-stream"):
        events = Events(method, path, status)
        events.feed(body)
        events.end()
    elif (content_type or "").startswith("application/json"):
        name = "ErrorResponse" if status >= 400 else _schema_of(method, path) if status < 300 else None
        if name is None:
            return
        try:
            body = json.loads(body)
        except ValueError as error:
            violations.append(f"{where}: its body is not JSON: {error}")
            return
        _note(where, name, body)


class Events:
    """An event stream as it passes by: `feed` its bytes, and `end` it, be it cut off or not."""

    def __init__(self, method, path, status=200):
        self.where = f"{method} {path} {status}, event"
        self.schema = None
        if FILE is not None and status == 200 and _KNOWN.match(path):
            self.schema = _schema_of(method, path)
        self.rest, self.count, self.last = b"", 0, collections.deque(maxlen=LAST)

    def feed(self, data):
        if self.schema is None:
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                self.count += 1
                if self.count <= FIRST:
                    self._check(self.count, line)
                else:
                    self.last.append((self.count, line))

    def end(self):
        while self.last:
            self._check(*self.last.popleft())

    def _check(self, number, line):
        where = f"{self.where} {number}"
        try:
            event = json.loads(line[5:])
        except ValueError as error:
            violations.append(f"{where} is not JSON: {error}")
            return
        if self.schema == "Response":
            name = EVENTS.get(event.get("type"), "ResponseStreamEvent")
        elif set(event) == {"error"}:
            name = "ErrorResponse"
        elif self.schema == "CreateChatCompletionResponse":
            name = "CreateChatCompletionStreamResponse"
        else:
            name = self.schema
        _note(where, name, event, event=True)
