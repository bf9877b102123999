"""Checks bodies against the schemas of OpenAI's API description.

The description is not part of this repository; it is looked for in `$JAN_OPENAI_OPENAPI` and beside the checkout, and
the checks are left out, with the reason printed, where it is not found.
"""

import functools
import os
import pathlib

import jsonschema
import yaml

from harness import ROOT

_given = os.environ.get("JAN_OPENAI_OPENAPI")
_places = [pathlib.Path(_given)] if _given else [
    folder / "shared/reference/openai-openapi.yaml" for folder in (ROOT.parent, *ROOT.parents)
] + [ROOT.parent / "reference/openai-openapi.yaml"]
FILE = next((place for place in _places if place.is_file()), None)
MISSING = "OpenAI's API description is not here (JAN_OPENAI_OPENAPI names it)"

#: Beyond which a deep or recursive schema is not followed.
_DEPTH = 24


@functools.cache
def _schemas():
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(FILE.read_text(), loader)["components"]["schemas"]


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
    kept.pop("format", None)
    if kept.pop("nullable", False):
        kept = {"anyOf": [kept, {"type": "null"}]}
    return kept


@functools.cache
def _document():
    return {"components": {"schemas": _json_schema(_schemas())}}


@functools.cache
def _validator(name):
    schema = {"$ref": f"#/components/schemas/{name}"} | _document()
    return jsonschema.Draft202012Validator(schema)


def check(name, body):
    """Fails where `body` is not what the schema `name` says. Without the description it says so and passes."""
    if FILE is None:
        print(f"not checked against {name}: {MISSING}")
        return
    errors = sorted(_validator(name).iter_errors(body), key=lambda error: -len(list(error.absolute_path)))
    assert not errors, f"{name}: {[(list(e.absolute_path), e.message[:300]) for e in errors[:4]]}\n{body}"


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
