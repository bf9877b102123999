"""What the tests of `/responses` share: who calls, and how events are read and checked."""

import http.client
import json

import openai_schema
import pytest
from harness import ENDLESS, MODEL, Server, wait_until

PATH = "/api/v1/responses"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("responses"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def ann(own):
    return own.new_key(own.new_user("ann@responses.example"))["key"]


@pytest.fixture(scope="module")
def bob(own):
    return own.new_key(own.new_user("bob@responses.example"))["key"]


def body(input="Hello", **fields):
    return {"model": MODEL, "input": input, "max_output_tokens": 16, "temperature": 0} | fields


def create(server, key, input="Hello", **fields):
    made = server.post(PATH, body(input, **fields), key=key)
    assert made.status == 200, made
    return made.json()


def endless(**fields):
    """Fields of a response that lasts until it is stopped, or for a long while."""
    return {"logit_bias": ENDLESS, "max_output_tokens": None, "input": "Tell me a story"} | fields


def is_error(answer, status, code, param=None):
    assert answer.status == status, answer
    assert answer.error["code"] == code, answer
    if param:
        assert answer.error["param"] == param, answer


class Events:
    """A stream of events, read frame by frame; `with` closes it, like a client that goes away."""

    def __init__(self, server, method, path, key, fields=None):
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = json.dumps(fields).encode() if fields is not None else None
        self.connection.request(method, path, data, headers)
        self.answer = self.connection.getresponse()
        self.watch = openai_schema.Events(method, path, self.answer.status)

    def __iter__(self):
        assert self.answer.status == 200, self.answer.read()
        assert self.answer.headers["Content-Type"] == "text/event-stream"
        name = None
        for line in self.answer:
            self.watch.feed(line)
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                assert event["type"] == name, "the line before names the event"
                yield event

    def close(self):
        self.watch.end()
        self.connection.close()
        self.answer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def stream(server, key, **fields):
    return Events(server, "POST", PATH, key, body(**fields) | {"stream": True})


def taken_up(server, key, id, after=None):
    query = "?stream=true" + (f"&starting_after={after}" if after is not None else "")
    return Events(server, "GET", f"{PATH}/{id}{query}", key)


def text_of(response):
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def check_events(events):
    for number, event in enumerate(events):
        assert event["sequence_number"] == number, "from 0 without gaps"
        openai_schema.check(openai_schema.EVENTS[event["type"]], event)


def wait_for_end(server, key, id):
    def ended():
        now = server.get(f"{PATH}/{id}", key=key)
        assert now.status == 200, now
        return now.json()["status"] not in ("queued", "in_progress") and now.json()

    return wait_until(ended, f"{id} has ended", 120)


# Plain
