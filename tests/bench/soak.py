#!/usr/bin/env python3
"""Many requests, some abandoned mid-stream; then looks for anything that they left behind.

    .venv/bin/python tests/bench/soak.py --requests 10000

The suite runs the same with fewer requests (tests/python/test_resources.py). `JAN_SERVER_BIN` and
`JAN_TEST_MODEL` choose binary and model as for the suite. Prints JSON; the exit status says whether it is clean.
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
from harness import ENDLESS, Server, delta, open_files, rss_kib, wait_until  # noqa: E402

#: So few sequences that a handful of leaked ones would stop the service, and so little memory for finished ones'
#: prefixes that it is full before the counting begins: filling it is no growth.
SETTINGS = {
    "JAN_SERVER__ENGINE__MAX_SEQUENCES": 8,
    "JAN_SERVER__ENGINE__CACHED_SEQUENCES": 8,
    "JAN_SERVER__ENGINE__CACHE_RAM_MIB": 16,
}
#: Growth that is allocator noise and no leak, in KiB, however many requests there were.
SERVER_GROWTH_KIB = 8 << 10
WORKER_GROWTH_KIB = 16 << 10


def drive(server, requests, abandoned_share, clients=16, progress=lambda done: None):
    """Sends the requests over some clients at a time; returns how many were abandoned and what went wrong."""
    numbers = iter(range(requests))
    lock = threading.Lock()
    tally = {"abandoned": 0, "finished": 0, "problems": []}

    def client(seed):
        draw = random.Random(seed)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                kind = one(draw, number)
            except Exception as error:  # noqa: BLE001 - it is the outcome
                with lock:
                    tally["problems"].append(repr(error))
                continue
            with lock:
                tally[kind] += 1
                done = tally["finished"] + tally["abandoned"]
            progress(done)

    def one(draw, number):
        question = {"messages": [{"role": "user", "content": f"Tell me a story about number {number}"}]}
        if draw.random() >= abandoned_share:
            if draw.random() < 0.5:
                answer = server.post("/v1/chat/completions", {"model": "jan-v1-4b", "max_tokens": 4} | question)
                assert answer.status == 200, answer
            else:
                with server.stream(max_tokens=4, **question) as stream:
                    stream.read()
                    assert stream.done
            return "finished"
        # Gone before the first token, or after a few.
        with server.stream(max_tokens=1000, logit_bias=ENDLESS, **question) as stream:
            seen, wanted = 0, draw.randrange(6)
            if wanted:
                for event in stream.events():
                    seen += bool(delta(event))
                    if seen >= wanted:
                        break
        return "abandoned"

    threads = [threading.Thread(target=client, args=(seed,), daemon=True) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def figures(server):
    worker = server.worker()
    return {
        "server_rss_kib": rss_kib(server.pid),
        "worker_rss_kib": rss_kib(worker),
        "server_files": open_files(server.pid),
        "worker_files": open_files(worker),
        "worker_pid": worker,
    }


def settle(server, before, what):
    """The figure once it is no higher than before, or after a while as it stands."""
    end = time.monotonic() + 10
    while figures(server)[what] > before[what] and time.monotonic() < end:
        time.sleep(0.1)
    return figures(server)[what]


def soak(server, requests, abandoned_share=0.3, progress=lambda done: None):
    """Runs the load; returns a report whose `problems` are empty when nothing was left behind."""
    # The first requests pay for pages that later ones use again.
    warm = drive(server, max(200, requests // 20), abandoned_share)
    # With everything abandoned gone, all sequences are free at once.
    wait_until(lambda: server.chat(max_tokens=1).status == 200, "an answer", 60)
    before = figures(server)
    begin = time.monotonic()
    tally = drive(server, requests, abandoned_share, progress=progress)
    took = time.monotonic() - begin
    problems = warm["problems"] + tally["problems"]
    for what in ("server_files", "worker_files"):
        if (now := settle(server, before, what)) > before[what]:
            problems.append(f"{what}: {before[what]} before, {now} after")
    after = figures(server)
    for what, limit in (("server_rss_kib", SERVER_GROWTH_KIB), ("worker_rss_kib", WORKER_GROWTH_KIB)):
        if after[what] - before[what] > limit:
            problems.append(f"{what}: {before[what]} before, {after[what]} after")
    if after["worker_pid"] != before["worker_pid"]:
        problems.append("the worker is another one")
    # Every sequence can be had: as many endless answers at a time as there are sequences.
    full = [server.stream(max_tokens=1900, logit_bias=ENDLESS) for _ in range(8)]
    if not all(any(delta(event) for event in stream.events()) for stream in full):
        problems.append("not every sequence is free")
    for stream in full:
        stream.close()
    return {"requests": requests, "took_s": took, "before": before, "after": after} | tally | {"problems": problems}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--abandoned", type=float, default=0.3, help="share of requests abandoned mid-stream")
    options = parser.parse_args()

    def progress(done):
        if done % 50 == 0:
            print(f"\r{done} of {options.requests} requests", end="", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder, env=SETTINGS)
        try:
            report = soak(server, options.requests, options.abandoned, progress)
        finally:
            server.close()
    print(file=sys.stderr)
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["problems"] else 0)


if __name__ == "__main__":
    main()
