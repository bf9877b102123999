"""A server that does nothing else answers the same request the same way each time, with its default settings: the same tokens, and
the same log-probabilities to the last bit. test_reproducible.py is about servers that do other things meanwhile."""

import json

import pytest
from harness import MODEL, Server

FILLER = "The garden was quiet and the old gate moved in the wind. Nobody knew who had left the window open. "
LOGPROBS = {"logprobs": True, "top_logprobs": 5}
TIMES = 6


def user(content):
    return {"role": "user", "content": content}


def chat(*messages, **fields):
    return "/v1/chat/completions", {"messages": list(messages), "max_tokens": 40, "temperature": 0} | LOGPROBS | fields


SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0,
          "maximum": 120}}, "required": ["name", "age"], "additionalProperties": False}  # fmt: skip
TURNS = [user("Name a colour."), {"role": "assistant", "content": "Blue is a colour."}, user("And another one?")]
REQUESTS = {
    "greedy": chat(user("Tell me a story about a cat.")),
    "seed": chat(user("Tell me a story about a cat."), temperature=1, seed=7),
    "short": chat(user("Hi")),
    "second turn": chat(*TURNS),
    "cached in part": chat(user(FILLER * 7 + "What is open?")),
    "schema": chat(user("Describe a king."), response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}),
    "completion": ("/v1/completions", {"prompt": "The old gate", "max_tokens": 40, "temperature": 0, "logprobs": 5}),
}
LONG = chat(user(FILLER * 40 + "What is open?"))


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """Default settings also with a given model (harness.py)."""
    server = Server(tmp_path_factory.mktemp("default"), env={"JAN_SERVER__ENGINE__REPRODUCIBLE": "false"})
    yield server
    server.close()


def answer(server, request):
    path, body = request
    reply = server.post(path, {"model": MODEL} | body)
    assert reply.status == 200, reply
    [choice] = reply.json()["choices"]
    return json.dumps([choice["logprobs"], choice["finish_reason"]])


@pytest.mark.parametrize("name", REQUESTS)
def test_same_request_in_a_row(default, name):
    answers = [answer(default, REQUESTS[name]) for _ in range(TIMES)]
    assert [answers.index(one) for one in answers] == [0] * TIMES


def test_same_requests_by_turns(default):
    first = {name: answer(default, request) for name, request in REQUESTS.items()}
    assert len(set(first.values())) > 3, "the answers differ, so that equal ones mean something"
    for _ in range(2):
        for name, request in REQUESTS.items():
            assert answer(default, request) == first[name], name


def test_turns_of_a_chat_asked_again(default):
    """The beginning is cached from the turn before, and then the whole."""
    messages = []
    for turn in range(3):
        messages.append(user(f"{FILLER}What happened on day {turn}?"))
        answers = [answer(default, chat(*messages, max_tokens=16)) for _ in range(3)]
        assert answers == answers[:1] * 3, turn
        text = "".join(token["token"] for token in json.loads(answers[0])[0]["content"])
        messages.append({"role": "assistant", "content": text})


def test_long_prompt(make_server):
    """Beyond 256 tokens attention is summed up in a part for each thread, so it takes the same number of threads."""
    own = make_server(env={"JAN_SERVER__ENGINE__REPRODUCIBLE": "false", "JAN_SERVER__ENGINE__THREADS": 1})
    answers = [answer(own, LONG) for _ in range(3)]
    answer(own, REQUESTS["greedy"])
    answers.append(answer(own, LONG))
    assert [answers.index(one) for one in answers] == [0] * 4
