"""Requests that would cost memory many times their size, while somebody else chats; conftest.py measures the memory."""

import statistics
import threading
import time

import pytest
from harness import MODEL

ROOMY = """
[rate_limits]
answers_per_minute = 100_000
"""
#: Against hanging alone.
GUARD = 10.0

CHAT, TEXT = "/api/v1/chat/completions", "/api/v1/completions"
ASK = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}


def tools(count, length):
    def tool(number):
        function = {"name": f"f{number}", "description": "d" * length, "parameters": {"type": "object"}}
        return {"type": "function", "function": function}

    return [tool(number) for number in range(count)]


CASES = {
    "stop texts and biases without end": (
        TEXT,
        {
            "model": MODEL,
            "prompt": ["x"] * 8,
            "n": 127,
            "max_tokens": 2,
            "stop": ["s" * 100_000] * 4,
            "logit_bias": {str(token): -0.5 for token in range(2_000)},
        },
    ),
    "stop texts and biases": (
        TEXT,
        {
            "model": MODEL,
            "prompt": ["x"] * 8,
            "n": 127,
            "max_tokens": 2,
            "stop": [chr(0x4E00 + k) * 256 for k in range(4)],
            "logit_bias": {str(token): -0.5 for token in range(1024)},
        },
    ),
    "a constraint": (
        TEXT,
        {
            "model": MODEL,
            "prompt": ["x"] * 8,
            "n": 127,
            "max_tokens": 2,
            "guided_json": {"type": "string", "description": "d" * 200_000},
        },
    ),
    "tools": (CHAT, ASK | {"n": 128, "tools": tools(120, 4_000), "tool_choice": "required"}),
    "a prompt of many bytes and few tokens": (
        TEXT,
        {"model": MODEL, "prompt": [" " * 60_000] * 8, "n": 127, "max_tokens": 1},
    ),
    "a prompt that does not fit": (
        CHAT,
        ASK | {"n": 128, "messages": [{"role": "user", "content": "word " * 100_000}]},
    ),
}


def seconds(ask):
    begun = time.monotonic()
    answer = ask()
    assert answer.status == 200, answer
    return time.monotonic() - begun


@pytest.mark.parametrize("case", CASES)
def test_copies_cost_no_memory_and_nobody_waits(make_server, case):
    running = make_server(config=ROOMY)
    path, body = CASES[case]
    key = running.new_key(running.new_user("attacker@example.com"))["key"]
    neighbour = running.new_key(running.new_user("neighbour@example.com"))["key"]

    def chat():
        return running.chat("Hello", key=neighbour, max_tokens=1)

    alone = max(seconds(chat) for _ in range(3))
    worker = running.worker()
    running.reset_peaks()
    answers = []
    attack = threading.Thread(target=lambda: answers.append(running.post(path, body, key=key)))
    attack.start()
    time.sleep(0.2)
    waited = [seconds(chat)]
    probes = [seconds(lambda: running.get("/livez")) for _ in range(5)]
    attack.join(120)
    # Answered or refused, and never the server's fault.
    assert answers and answers[0].status < 500, answers
    assert running.worker() == worker
    assert waited[0] <= max(10 * alone, GUARD)
    assert statistics.median(probes) < GUARD
