"""Hostile bodies for every endpoint that takes one: JSON written by hand, since no library writes what is here."""

import itertools
import json

from harness import MODEL

_numbers = itertools.count()

#: The endpoints, and of each a good body whose fields the cases replace. `ITEMS` stands for a conversation of its own.
ITEMS = "/api/v1/conversations/{conversation}/items"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
BODIES = {
    "/api/v1/chat/completions": ASK | {"max_tokens": 1},
    "/api/v1/completions": {"model": MODEL, "prompt": "x", "max_tokens": 1},
    "/api/v1/responses": {"model": MODEL, "input": "x", "max_output_tokens": 16},
    "/api/v1/conversations": {},
    ITEMS: {"items": [{"role": "user", "content": "x"}]},
    "/api/v1/apply-template": ASK,
    "/api/v1/tokenize": {"model": MODEL, "prompt": "x"},
    "/api/v1/detokenize": {"model": MODEL, "tokens": [1]},
}
CHAT, TEXT, RESPONSES, CONVERSATIONS, _, TEMPLATE, TOKENIZE, DETOKENIZE = BODIES
TEMPLATED = [CHAT, RESPONSES, TEMPLATE, TOKENIZE]


def body(path, **fields):
    """The good body with other fields, each of them the bytes of its JSON."""
    good = {name: json.dumps(value).encode() for name, value in BODIES[path].items()} | fields
    if path == TOKENIZE and "messages" in fields:
        del good["prompt"]
    return b"{" + b", ".join(b'"%s": %s' % (name.encode(), value) for name, value in good.items()) + b"}"


def nested(head, tail, depth=100_000, inner=b"{}"):
    return head * depth + inner + tail * depth


def tools(path, parameters, strict=True):
    """`tools` with one function of these parameters."""
    function = b'"name": "f", "strict": %s, "parameters": %s' % (b"true" if strict else b"false", parameters)
    if path == RESPONSES:
        return b'[{"type": "function", %s}]' % function
    return b'[{"type": "function", "function": {%s}}]' % function


def functions(parameters):
    """Chat's older form of the same."""
    return b'[{"name": "f", "parameters": %s}]' % parameters


def format_field(path, schema):
    """({field: JSON} that asks for an answer of that schema."""
    if path == RESPONSES:
        return {"text": b'{"format": {"type": "json_schema", "name": "x", "schema": %s}}' % schema}
    return {"response_format": b'{"type": "json_schema", "json_schema": {"name": "x", "schema": %s}}' % schema}


def text_field(path, text):
    """{field: JSON} with the text, as it is inside its quotation marks, where the endpoint takes one."""
    message = b'[{"role": "user", "content": "%s"}]' % text
    return {
        CHAT: {"messages": message},
        TEXT: {"prompt": b'"%s"' % text},
        RESPONSES: {"input": b'"%s"' % text},
        CONVERSATIONS: {"messages": message},
        ITEMS: {"items": message},
        TEMPLATE: {"messages": message},
        TOKENIZE: {"prompt": b'"%s"' % text},
        DETOKENIZE: {"model": b'"%s"' % text},
    }[path]


def dumps(value):
    return json.dumps(value).encode()


class Victim:
    """A server under attack: every answer is one that may be, and behind it all is as before."""

    def __init__(self, server):
        self.server, self.pid, self.worker = server, server.pid, server.worker()
        self.key = server.new_key(server.new_user(f"attacker{next(_numbers)}@example.com"))["key"]
        self.conversation = server.post(CONVERSATIONS, {}, key=self.key).json()["id"]

    def post(self, path, raw, timeout=60):
        """The bound is for what hangs, and leaves room for a slow machine."""
        answer = self.server.post(path.replace("{conversation}", self.conversation), raw, key=self.key, timeout=timeout)
        assert answer.status < 500, answer
        assert answer.headers["Content-Type"] == "application/json", answer
        if answer.status >= 400:
            error = answer.error
            assert error["type"] == "invalid_request_error" and len(error["message"]) > 10, answer
            # No error repeats the megabytes that it is about.
            assert {"message", "param", "code"} <= set(error) and len(answer.body) < 4000, answer
        return answer

    def is_unharmed(self):
        assert self.server.get("/health").status == 200
        assert self.server.chat(key=self.key).status == 200
        assert (self.server.process.poll(), self.server.pid) == (None, self.pid)
        # One that is replaced in good order, since computations go on in it that nothing ends, is none that was lost.
        retired = "worker retired, another one is started" in self.server.log()
        assert self.server.worker() == self.worker or retired, "the worker is another one"
