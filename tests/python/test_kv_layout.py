"""Sequences that run beside each other and share little decode in cells of their own ("lanes"), and no client can tell."""

import concurrent.futures
import os
import signal
import time

import pytest
from harness import ENDLESS, GENERATES, IS_BUNDLED, text_of, wait_until
from test_memory import checked

pytestmark = pytest.mark.skipif(not GENERATES, reason="the model generates nothing")

#: The suite runs real models with `reproducible`, which has no lanes.
LANES = {"JAN_SERVER__ENGINE__REPRODUCIBLE": "false"}
COUNT = 5
TOKENS = 120


def messages(number):
    text = f"{number}: " + f"In house {number} of the street there lives a person with {number} boats. " * 4
    return [{"role": "user", "content": text}]


def ask(server, key, history, tokens=TOKENS):
    """One streamed answer: its text and its usage."""
    fields = {"temperature": 0, "logit_bias": ENDLESS, "stream_options": {"include_usage": True}}
    with server.stream(key=key, messages=history, max_tokens=tokens, **fields) as stream:
        events = stream.read()
    return text_of(events), events[-1]["usage"]


def ask_all(server, keys, while_running=lambda: None, tokens=TOKENS):
    """The answers to different questions, asked at once."""
    with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
        asked = [pool.submit(ask, server, keys[number], messages(number), tokens) for number in range(COUNT)]
        while_running()
        return [answer.result() for answer in asked]


def lane_bytes(server):
    return checked(server)["kv_lanes"]["bytes"]


def users(server, count=COUNT):
    return [server.new_key(server.new_user(f"{time.monotonic_ns()}@example.com"))["key"] for _ in range(count)]


def test_sequences_that_share_little_get_cells_of_their_own(make_server):
    own = make_server(env=LANES)
    keys = users(own)
    answers = ask_all(own, keys, lambda: wait_until(lambda: lane_bytes(own) > 0, "lanes", 90))
    for number, (text, usage) in enumerate(answers):
        assert usage["completion_tokens"] == TOKENS
        # The next turn takes prompt and answer from the cache, and nobody else's does.
        history = [*messages(number), {"role": "assistant", "content": text}, {"role": "user", "content": "Go on."}]
        _, next_usage = ask(own, keys[number], history, 1)
        cached = next_usage["prompt_tokens_details"]["cached_tokens"]
        assert cached > usage["prompt_tokens"] and cached > 0.8 * (usage["prompt_tokens"] + TOKENS)
        _, of_other = ask(own, keys[number - 1], history, 1)
        assert of_other["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"] / 2


def test_streams_in_lanes_survive_the_death_of_their_worker(make_server):
    own = make_server(env=LANES)
    keys = users(own)
    expected = [text for text, _ in ask_all(own, keys)]

    def kill():
        wait_until(lambda: lane_bytes(own) > 0, "lanes", 90)
        os.kill(own.worker(), signal.SIGKILL)

    answers = ask_all(own, keys, kill)
    assert all(usage["completion_tokens"] == TOKENS for _, usage in answers)
    # Cells in another order sum up to other last bits, so that an answer may turn where two tokens are about as likely: with a real
    # model all do, sooner or later, as they do without lanes.
    same = sum(text == before for (text, _), before in zip(answers, expected, strict=True))
    assert same >= COUNT - 2 or not IS_BUNDLED, [text for text, _ in answers]


def test_lanes_compute_what_the_unified_cache_computes(make_server):
    """Up to the last bits: as long as the tokens are the same, they are about as likely."""
    beside, alone = make_server(env=LANES), make_server(env=LANES | {"JAN_SERVER__ENGINE__KV_LAYOUT": "unified"})

    def scored(server, number):
        fields = {"max_tokens": TOKENS, "temperature": 0, "logit_bias": ENDLESS, "logprobs": True}
        answer = server.chat(messages=messages(number), **fields)
        assert answer.status == 200, answer
        return [(token["token"], token["logprob"]) for token in answer.json()["choices"][0]["logprobs"]["content"]]

    with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
        asked = [pool.submit(scored, beside, number) for number in range(COUNT)]
        wait_until(lambda: lane_bytes(beside) > 0, "lanes", 90)
        answers = [answer.result() for answer in asked]
    common = 0
    for number, answer in enumerate(answers):
        for (token, logprob), (other, expected) in zip(answer, scored(alone, number), strict=True):
            if token != other:
                break
            common += 1
            assert abs(logprob - expected) < 0.6, (number, common, logprob, expected)
    assert common > 2 * COUNT


@pytest.mark.parametrize("setting", ["KV_LAYOUT=unified", "REPRODUCIBLE=true"])
def test_there_are_no_lanes_where_none_are_wanted(make_server, setting):
    name, value = setting.split("=")
    own = make_server(env=LANES | {f"JAN_SERVER__ENGINE__{name}": value})
    seen = []
    answers = ask_all(own, users(own), lambda: [seen.append(lane_bytes(own)) for _ in range(8) if not time.sleep(0.2)])
    assert all(usage["completion_tokens"] == TOKENS for _, usage in answers)
    assert seen and not any(seen)


def test_sequences_leave_lanes_that_become_too_small(make_server):
    """Lanes of 256 cells, the least: the answers go on in the unified cache."""
    own = make_server(env=LANES | {"JAN_SERVER__ENGINE__LANE_CELLS": 256 * 8, "JAN_SERVER__ENGINE__KV_CELLS": 8192})
    answers = ask_all(own, users(own), lambda: wait_until(lambda: lane_bytes(own) > 0, "lanes", 90), 250)
    assert all(usage["completion_tokens"] == 250 for _, usage in answers)
