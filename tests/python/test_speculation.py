"""`engine.speculation`: answers that repeat what is there are computed several tokens at a time, and are the same as without."""

import concurrent.futures
import os
import re
import signal

import pytest
from harness import ENDLESS, IS_BUNDLED, MODEL, Server, delta

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CODE = """def total_of_orders(orders, currency):
    total = 0.0
    for order in orders:
        if order["currency"] == currency:
            total += order["amount"]
    return total
"""
LIST = "\n".join(f"{number}. The old gate moved in the wind, and the window was open." for number in range(1, 9))
#: Few cells, so that refused drafts use them up and all sequences are moved while they run.
CELLS = {"JAN_SERVER__ENGINE__CONTEXT_LENGTH": 1024, "JAN_SERVER__ENGINE__KV_CELLS": 1536}


def server(tmp_path_factory, name, speculation, reproducible, **more):
    env = {
        "JAN_SERVER__ENGINE__SPECULATION": speculation,
        "JAN_SERVER__ENGINE__REPRODUCIBLE": str(reproducible).lower(),
        "JAN_SERVER__LOG__LEVEL": "info,jan_engine=debug",
    }
    return Server(tmp_path_factory.mktemp(name), env=CELLS | env | more)


@pytest.fixture(scope="module")
def drafting(tmp_path_factory):
    own = server(tmp_path_factory, "drafting", "auto", True)
    yield own
    own.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    own = server(tmp_path_factory, "plain", "off", True)
    yield own
    own.close()


def user(content):
    return {"role": "user", "content": content}


def chat(content, **fields):
    body = {"messages": [user(content)], "max_tokens": 120, "temperature": 0, "logit_bias": ENDLESS}
    return CHAT, {"model": MODEL} | body | fields


def completion(prompt, **fields):
    return COMPLETIONS, {"model": MODEL, "prompt": prompt, "max_tokens": 120, "temperature": 0, "logit_bias": ENDLESS} | fields


SCHEMA = {
    "type": "object",
    "properties": {"lines": {"type": "array", "minItems": 4, "maxItems": 6, "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "amount": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["name", "amount"], "additionalProperties": False}}},
    "required": ["lines"], "additionalProperties": False,
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "total", "parameters": SCHEMA, "strict": True}}
LOGPROBS = {"logprobs": True, "top_logprobs": 5}
COPY = f"Repeat this text:\n{LIST}\n\n{LIST}\n\n{LIST}\n"
EDIT = f"{CODE}\n\n{CODE}\n\ndef total_of_orders(orders, money):\n"

REQUESTS = {
    "copy": chat(COPY, **LOGPROBS),
    "copy, completion": completion(COPY, logprobs=5),
    "edit": completion(EDIT, logprobs=5),
    "drawn": completion(COPY, temperature=0.8, seed=5, logprobs=2),
    "drawn from few": completion(EDIT, temperature=1.2, seed=6, top_p=0.8, top_k=20, min_p=0.02),
    "penalties": completion(COPY, frequency_penalty=0.2, presence_penalty=0.1, logprobs=2),
    "repeat penalty": completion(COPY, repetition_penalty=1.1, logprobs=2),
    "stop texts": completion(COPY, stop=["6. The", "window was open.\n5"]),
    "least": completion(COPY, stop=["gate"], min_tokens=40, logit_bias={}),
    "may end": chat("Say hello, hello, hello, hello.", max_tokens=200, logit_bias={}, **LOGPROBS),
    "one token": completion(COPY, max_tokens=1),
    "two tokens": completion(COPY, max_tokens=2),
    "full context": completion(COPY, max_tokens=2000),
    "echo": completion(COPY, echo=True, logprobs=1),
    "two answers": completion(COPY, n=2, temperature=0.9, seed=3, logprobs=1),
    "schema": chat(COPY, max_tokens=300, logit_bias={}, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}, **LOGPROBS),
    "schema without log-probabilities": chat(COPY, max_tokens=300, logit_bias={}, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}),
    "schema, drawn": chat(EDIT, temperature=1, seed=9, max_tokens=300, logit_bias={}, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}),
    "choice of tools": chat(COPY, tools=[TOOL], max_tokens=200, logit_bias={}),
    "tool": chat(COPY, tools=[TOOL], tool_choice="required", max_tokens=300, logit_bias={}),
}  # fmt: skip


def answer(server, request):
    path, body = request
    reply = server.post(path, body)
    assert reply.status == 200, reply
    choices, usage = reply.json()["choices"], reply.json()["usage"]
    for choice in choices:
        for call in (choice.get("message") or {}).get("tool_calls") or []:
            # Drawn at random.
            call.pop("id")
    return choices, usage["completion_tokens"]


def drafts(server):
    """Drafts that were computed and that were right, of all answers that have ended."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", server.log_path.read_text())
    pairs = re.findall(r"drafted\W+(\d+)\W+accepted\W+(\d+)", log)
    return tuple(sum(int(pair[index]) for pair in pairs) for index in (0, 1))


@pytest.fixture(scope="module")
def expected(plain):
    return {name: answer(plain, request) for name, request in REQUESTS.items()}


@pytest.mark.parametrize("name", REQUESTS)
def test_drafts_change_nothing(drafting, expected, name):
    assert answer(drafting, REQUESTS[name]) == expected[name]


def test_drafts_are_made_and_right(drafting, expected):
    before = drafts(drafting)
    for name in ("copy", "edit", "schema"):
        assert answer(drafting, REQUESTS[name]) == expected[name]
    drafted, accepted = (new - old for new, old in zip(drafts(drafting), before, strict=True))
    assert drafted >= accepted > 50, (drafted, accepted)


def test_without_there_are_none(plain, expected):
    assert expected and drafts(plain) == (0, 0)


def test_beside_others_it_is_the_same(drafting, expected):
    names = [name for name in REQUESTS if name != "full context"]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for _ in range(2 if IS_BUNDLED else 1):
            for name, one in zip(names, pool.map(lambda name: answer(drafting, REQUESTS[name]), names), strict=True):
                assert one == expected[name], name


@pytest.mark.parametrize("at", [2, 40])
@pytest.mark.parametrize("name", ["copy", "schema"])
def test_a_worker_that_dies_changes_nothing(drafting, expected, name, at):
    path, body = REQUESTS[name]
    seen, dead = [], False
    with drafting.stream(path, **body) as stream:
        for event in stream.events():
            seen += [token for choice in event["choices"] for token in (choice.get("logprobs") or {}).get("content") or []]
            if not dead and delta(event) and len(seen) >= at:
                os.kill(drafting.worker(), signal.SIGKILL)
                dead = True
    assert dead
    assert seen == expected[name][0][0]["logprobs"]["content"]


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    # Beyond 256 tokens attention is summed up in a part for each thread, so it takes the same number of threads.
    own = server(tmp_path_factory, "default", "auto", False, JAN_SERVER__ENGINE__THREADS=1)
    yield own
    own.close()


def test_an_idle_server_repeats_itself(default):
    """The drafts of a sequence that runs alone depend on its tokens alone."""
    names = ("copy", "edit", "drawn", "penalties", "schema", "tool")
    first = {name: answer(default, REQUESTS[name]) for name in names}
    for _ in range(2):
        for name in names:
            assert answer(default, REQUESTS[name]) == first[name], name
    assert drafts(default)[1] > 0


def test_cancelled_answers_leave_nothing(drafting, expected):
    for count in range(1, 12):
        with drafting.stream(COMPLETIONS, **REQUESTS["copy, completion"][1]) as stream:
            for _ in zip(range(count), stream.events(), strict=False):
                pass
    assert answer(drafting, REQUESTS["copy, completion"]) == expected["copy, completion"]
