#!/usr/bin/env python3
"""Measures what the prefix cache on disk is worth: the time to the first token of a conversation's sixth turn after a restart of the
server, over the time when all of it is read. The goal is at most a third.

    .venv/bin/python tests/bench/restart.py --model PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="GGUF file; default: the bundled model, too small to tell much")
parser.add_argument("--words", type=int, default=120, help="words of each message")
parser.add_argument("--tokens", type=int, default=60, help="tokens of each answer")
parser.add_argument("--repeat", type=int, default=3, help="restarts; the median counts")
options = parser.parse_args()
if options.model:
    os.environ["JAN_TEST_MODEL"] = options.model
sys.path.insert(0, str(ROOT / "tests/python"))

from harness import Server, delta  # noqa: E402

ENV = {"JAN_SERVER__ENGINE__CONTEXT_LENGTH": "4096", "JAN_SERVER__ENGINE__REPRODUCIBLE": "false", "JAN_SERVER__ENGINE__CACHE_RAM_MIB": "512"}


def message(turn):
    words = [f"word{(turn * 7919 + index * 31) % 997}" for index in range(options.words)]
    return {"role": "user", "content": " ".join(words)}


def ask(server, messages, tokens):
    """(seconds to the first token, text, cached tokens)"""
    begun = time.perf_counter()
    first, text, cached = None, "", None
    with server.stream(messages=messages, max_tokens=tokens, temperature=0, stream_options={"include_usage": True}) as stream:
        for event in stream.events():
            if delta(event) and first is None:
                first = time.perf_counter() - begun
            text += delta(event)
            if event.get("usage"):
                cached = event["usage"]["prompt_tokens_details"]["cached_tokens"]
                prompt = event["usage"]["prompt_tokens"]
    return first or time.perf_counter() - begun, text, (cached, prompt)


def stop(server):
    begun = time.perf_counter()
    server.terminate()
    server.process.wait(60)
    server.close()
    return time.perf_counter() - begun


def main():
    restored, read = [], []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder, env=ENV)
        messages = []
        for turn in range(5):
            messages.append(message(turn))
            messages.append({"role": "assistant", "content": ask(server, messages, options.tokens)[1]})
        messages.append(message(5))
        stopping = stop(server)
        size = sum(path.stat().st_size for path in pathlib.Path(server.data, "kv").rglob("*") if path.is_file())
        for _ in range(options.repeat):
            for env, times in ((ENV, restored), (ENV | {"JAN_SERVER__STORAGE__KV_MIB": "0"}, read)):
                server = Server(folder, env=env)
                # What a first request loads is no matter of the prefix.
                ask(server, [{"role": "user", "content": "Hello"}], 1)
                times.append(ask(server, messages, 8))
                # Killed, so that the next start finds what the conversation left.
                server.kill()
    seconds = [statistics.median(time for time, *_ in times) for times in (restored, read)]
    print(json.dumps({
        "ttft_after_restart_ms": round(seconds[0] * 1000, 1),
        "ttft_reading_all_ms": round(seconds[1] * 1000, 1),
        "ratio": round(seconds[0] / seconds[1], 3),
        "same_answer": restored[0][1] == read[0][1],
        "cached_of_prompt": restored[0][2],
        "kib_on_disk": size >> 10,
        "stop_s": round(stopping, 2),
    }, indent=2))  # fmt: skip


main()
