#!/usr/bin/env python3
"""The memory of a worker by kind, after each of several kinds of work, and what it gives back when it is idle.

    JAN_TEST_MODEL=target/test-models/SmolLM2-135M-Instruct.Q4_1.gguf .venv/bin/python tests/bench/memory.py

`JAN_SERVER_BIN` and `JAN_TEST_MODEL` choose binary and model as for the suite. Prints a table in MiB; it takes 80 seconds and the work.
"""

import argparse
import pathlib
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
from harness import ENDLESS, MODEL, Server  # noqa: E402

#: Defaults in place of the suite's settings, so that sequences get cells of their own.
SETTINGS = {
    "JAN_SERVER__ENGINE__REPRODUCIBLE": "false",
    "JAN_SERVER__ENGINE__CONTEXT_LENGTH": "8192",
    "JAN_SERVER__ENGINE__KV_CELLS": "16384",
    "JAN_SERVER__ENGINE__CACHE_RAM_MIB": "2048",
}
KINDS = ["weights", "kv", "kv_lanes", "host_cache", "compute", "logits", "embeddings", "grammars", "constrained_answers", "other"]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "likes": {"type": "array", "items": {"type": "string"}}},
    "required": ["name", "age", "likes"],
}


def memory(server):
    """The last report on the suite's model."""
    for model in server.get("/api/v1/admin/models", key=server.admin_key).json()["data"]:
        if MODEL in (model["id"], *model["aliases"]):
            return model["replicas"][0]["memory"]
    raise SystemExit("the model is not listed")


def together(calls):
    threads = [threading.Thread(target=call) for call in calls]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def chat(server, number, **fields):
    # Nothing is shared but the template.
    text = f"{number} things that {number + 1} people say about number {number * 7}. " * 25
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 64, "logit_bias": ENDLESS} | fields
    # A machine that others use as well may be slow.
    answer = server.post("/api/v1/chat/completions", body, timeout=600)
    assert answer.status == 200, answer


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = []

    def row(name, wait=1.5):
        # Reports come once a second.
        time.sleep(wait)
        used = memory(server)
        mib = [used[kind]["bytes"] / (1 << 20) for kind in KINDS]
        rows.append([name, *mib, used["resident_bytes"] / (1 << 20), used["helper_bytes"] / (1 << 20)])
        print(name, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder, env=SETTINGS)
        try:
            row("ready")
            chat(server, 0)
            row("one chat")
            together([lambda number=number: chat(server, number, max_tokens=160) for number in range(1, 13)])
            row("twelve chats")
            form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
            together([lambda n=n: chat(server, n, response_format=form, logit_bias={}) for n in range(20, 24)])
            row("four answers under a schema")
            texts = [f"a text about number {number} " * 30 for number in range(32)]
            answer = server.post("/api/v1/embeddings", {"model": MODEL, "input": texts})
            assert answer.status == 200, answer
            row("32 embeddings")
            row("idle for 7 s", wait=6)
            row("idle for 63 s", wait=56)
            begin = time.monotonic()
            answer = server.post("/api/v1/embeddings", {"model": MODEL, "input": "a"})
            assert answer.status == 200, answer
            print(f"the first embedding afterwards took {1000 * (time.monotonic() - begin):.0f} ms")
            # The prompt is cached, so that what is left is compiling the schema.
            chat(server, 30, max_tokens=1)
            for required in ("age", "name"):
                form["json_schema"]["schema"] = SCHEMA | {"required": [required]}
                begin = time.monotonic()
                chat(server, 30, response_format=form, logit_bias={}, max_tokens=1)
                print(f"an answer under another schema took {1000 * (time.monotonic() - begin):.0f} ms")
        finally:
            server.close()
    print("| after |", " | ".join([*KINDS, "resident", "helper"]), "|")
    print("|---" * (len(KINDS) + 3) + "|")
    for name, *mib in rows:
        print(f"| {name} |", " | ".join(f"{one:.1f}" for one in mib), "|")


if __name__ == "__main__":
    main()
