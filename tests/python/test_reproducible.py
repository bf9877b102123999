"""`engine.reproducible`: the same request gives the same tokens, and the same log-probabilities to the last bit."""

import concurrent.futures
import os
import signal
import threading

import pytest
from harness import MODEL, delta

CHAT = "/api/v1/chat/completions"
# A run of words long enough that it is read in several pieces, which differ with what else is read.
FILLER = "The garden was quiet and the old gate moved in the wind. Nobody knew who had left the window open. "


@pytest.fixture(scope="module")
def reproducible(tmp_path_factory):
    from harness import Server

    # Few cells, so that they are used up and all sequences moved while they run.
    cells = {"JAN_SERVER__ENGINE__CONTEXT_LENGTH": 1024, "JAN_SERVER__ENGINE__KV_CELLS": 1536}
    server = Server(tmp_path_factory.mktemp("reproducible"), env=cells | {"JAN_SERVER__ENGINE__REPRODUCIBLE": "true"})
    yield server
    server.close()


def question(topic, before="", **fields):
    content = f"{before}Tell me a story about {topic}"
    return {
        "model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 60, "temperature": 0,
        "logprobs": True, "top_logprobs": 5,
    } | fields  # fmt: skip


QUESTIONS = [
    question("a river"),
    question("a fox", before=FILLER * 3),
    question("the moon", before=FILLER * 12),
    question("a king", temperature=1.3, seed=7),
    question("two friends", before=FILLER, temperature=0.9, top_p=0.9, seed=11),
]


def answer(server, request):
    """All tokens with their log-probabilities and those of the likeliest others, as they were sent."""
    reply = server.post(CHAT, request)
    assert reply.status == 200, reply
    return reply.json()["choices"][0]["logprobs"]["content"]


@pytest.fixture(scope="module")
def alone(reproducible):
    answers = [answer(reproducible, request) for request in QUESTIONS]
    assert all(len(one) > 20 for one in answers)
    return answers


def others(server, stop, number):
    """Keeps the engine busy with requests of other lengths, whose beginnings are partly those of the questions."""
    count = 0
    while not stop.is_set():
        count += 1
        before = FILLER * ((number * 5 + count * 3) % 14)
        server.post(CHAT, question(f"{number} and {count}", before=before, max_tokens=5 + (number * 7 + count * 11) % 50))


def test_what_runs_beside_changes_nothing(reproducible, alone):
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        busy = [pool.submit(others, reproducible, stop, number) for number in range(6)]
        try:
            for _ in range(3):
                assert list(pool.map(lambda request: answer(reproducible, request), QUESTIONS)) == alone
        finally:
            stop.set()
        assert all(one.result() is None for one in busy)


def test_several_choices_are_drawn_as_alone(reproducible):
    request = question("a bird", temperature=1.2, seed=3, n=3)
    one = reproducible.post(CHAT, request).json()["choices"]
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(others, reproducible, stop, number) for number in range(3)]
        try:
            assert reproducible.post(CHAT, request).json()["choices"] == one
        finally:
            stop.set()
        assert all(one.result() is None for one in busy)


def test_a_worker_that_dies_changes_nothing(reproducible, alone):
    for at in (3, 25):
        seen, dead = [], False
        with reproducible.stream(**QUESTIONS[1]) as stream:
            for event in stream.events():
                seen += [token for choice in event["choices"] for token in (choice.get("logprobs") or {}).get("content") or []]
                if not dead and delta(event) and len(seen) >= at:
                    os.kill(reproducible.worker(), signal.SIGKILL)
                    dead = True
        assert dead
        assert seen == alone[1]


def test_the_questions_differ(alone):
    """So that equal answers mean something."""
    assert len({str([token["logprob"] for token in one]) for one in alone}) == len(alone)


def test_it_is_not_for_gpus(make_server):
    env = {"JAN_SERVER__ENGINE__REPRODUCIBLE": "true", "JAN_SERVER__ENGINE__GPU_LAYERS": 1}
    own = make_server(env=env, wait="live")
    reply = own.chat()
    assert reply.status == 503, reply
    assert "engine.gpu_layers" in own.log_path.read_text()
