#!/usr/bin/env python3
"""Attacks of one caller while another chats: how long the other waits, and the memory that it takes.

    .venv/bin/python tests/bench/hostile.py [--seconds 6] [ATTACK ...]

`JAN_SERVER_BIN` chooses the binary, `JAN_TEST_MODEL` the model, as for the suite. Each attack has a server of its own with
small caches. Prints a row for each: the neighbour's time to the first token, alone (median) and beside the attack (the
longest), the median of `/livez` beside it, and the peaks of both processes, with the goals in the last row. The suite
holds the bounds that depend on no machine (tests/python/test_hostile_*.py).
"""

import argparse
import json
import pathlib
import socket
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
from harness import MODEL, Server, peak_mib, reset_peak  # noqa: E402

SETTINGS = """
[storage]
cache_mib = 64
[engine]
cache_ram_mib = 128
[auth]
guests = "on"
[rate_limits]
answers_per_minute = 1_000_000
"""
GOALS = ("goal", "", "2.000", "0.100", "512", "1024")
MIB = 1 << 20
CHAT, TEXT, RESPONSES = "/api/v1/chat/completions", "/api/v1/completions", "/api/v1/responses"
CONVERSATIONS = "/api/v1/conversations"


def ask(prompt, **fields):
    return {"model": MODEL, "prompt": prompt, "max_tokens": 1} | fields


def intersected(terms):
    parts = " & ".join(f"/.*{chr(97 + number)}.{{{number + 2}}}/" for number in range(terms))
    return f"start: x\nx: ({parts})"


def patterns(objects, properties):
    def one(number):
        named = {f"^[a-z]{{{number}}}x{place}": {"type": "string"} for place in range(properties)}
        return {"type": "object", "patternProperties": named}

    return {"allOf": [one(number) for number in range(objects)]}


def repeat(path, body):
    """The same request again and again, from several threads."""

    def attack(server, key, over):
        def go():
            while not over.is_set():
                try:
                    server.post(path, body, key=key, timeout=60)
                except OSError:
                    return

        return [go] * 3

    return attack


def stalled_bodies(server, key, over):
    body = json.dumps(ask("x" * (8 * MIB - 200))).encode()

    def go():
        held = []
        for _ in range(40):
            one = server.connect()
            head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            try:
                one.sendall(head.encode() + body[:-1])
            except OSError:
                pass
            held.append(one)
        over.wait()
        for one in held:
            one.close()

    return [go]


def prefaces(server, key, over):
    """From another address than the neighbour's: one address has so many connections, whoever they are."""
    host = server.url.removeprefix("http://").split(":")

    def connect():
        return socket.create_connection((host[0], int(host[1])), source_address=("127.0.0.2", 0))

    def go():
        held = []
        while not over.is_set():
            try:
                one = connect()
                one.sendall(b"PRI ")
                held.append(one)
            except OSError:
                time.sleep(0.05)
            if len(held) > 600:
                held.pop(0).close()
        for one in held:
            one.close()

    return [go] * 2


def guests(server, key, over):
    def go():
        while not over.is_set():
            made = server.post("/api/v1/auth/guest")
            if made.status != 201:
                time.sleep(0.05)
                continue
            token = made.json()["access_token"]
            for _ in range(20):
                server.post(TEXT, ask("x"), key=token)

    return [go] * 3


def fills_the_disk(server, key, over):
    guest = server.post("/api/v1/auth/guest").json()["access_token"]
    body = {"items": [{"role": "user", "content": "x" * 60_000}] * 15}

    def go():
        while not over.is_set():
            server.post(CONVERSATIONS, body, key=guest)

    return [go] * 3


def deletes_an_account(server, key, over):
    for _ in range(300):
        server.post(CONVERSATIONS, {"items": [{"role": "user", "content": "x"}] * 20}, key=key)
    return [lambda: server.delete("/api/v1/user/profile", key=key)]


ATTACKS = {
    "suffixes of a GBNF grammar": repeat(TEXT, ask("a", grammar='root ::= "a"' + "?" * 10_800)),
    "a grammar of intersections": repeat(TEXT, ask(["x"] * 8, n=16, guided_grammar=intersected(20))),
    "a schema of patterns": repeat(TEXT, ask("x", guided_json=patterns(30, 40))),
    "copies": repeat(
        TEXT,
        ask(["x"] * 8, n=127, stop=[chr(0x4E00 + k) * 256 for k in range(4)], logit_bias={str(k): -0.5 for k in range(1024)}),
    ),
    "a thousand answers": repeat(TEXT, ask(["x"] * 8, n=127, max_tokens=32)),
    "large prompts, many times": repeat(TEXT, ask(["word " * 12_000] * 8, n=127)),
    "large bodies": repeat(RESPONSES, {"model": MODEL, "input": [{"role": "user", "content": "x" * 1000}] * 7_000}),
    "bodies that stall": stalled_bodies,
    "connections that stall": prefaces,
    "guests": guests,
    "a guest who fills the disk": fills_the_disk,
    "an account that is deleted": deletes_an_account,
}


def first_token(server, key):
    begun = time.monotonic()
    with server.stream(key=key, messages=[{"role": "user", "content": "Hello"}], max_tokens=2, model=MODEL) as stream:
        next(iter(stream.events()), None)
    return time.monotonic() - begun


def alive(server):
    begun = time.monotonic()
    server.get("/livez")
    return time.monotonic() - begun


def measure(name, seconds, folder):
    server = Server(folder, config=SETTINGS)
    try:
        key = server.new_key(server.new_user("attacker@example.com"), ("read", "write", "keys"))["key"]
        neighbour = server.new_key(server.new_user("neighbour@example.com"))["key"]
        alone = statistics.median(first_token(server, neighbour) for _ in range(5))
        over = threading.Event()
        threads = [threading.Thread(target=go, daemon=True) for go in ATTACKS[name](server, key, over)]
        worker = server.worker()
        reset_peak(server.pid)
        reset_peak(worker)
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        until = time.monotonic() + seconds
        waits, probes = [], []
        while time.monotonic() < until:
            waits.append(first_token(server, neighbour))
            probes.append(alive(server))
        peaks = peak_mib(server.pid), peak_mib(server.worker())
        over.set()
        for thread in threads:
            thread.join(60)
        return (
            name,
            f"{alone:.3f}",
            f"{max(waits):.3f}",
            f"{statistics.median(probes):.3f}",
            f"{peaks[0]:.0f}",
            f"{peaks[1]:.0f}",
        )
    finally:
        server.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=6, help="how long each attack is watched (6)")
    arguments.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of these: {', '.join(ATTACKS)}")
    given = arguments.parse_args()
    socket.setdefaulttimeout(120)
    columns = ("attack", "alone, s", "beside it, s", "/livez, s", "server, MiB", "worker, MiB")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name in given.attacks or ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = measure(name, given.seconds, pathlib.Path(folder))
            except (AssertionError, OSError, StopIteration) as error:
                row = (name, f"failed: {str(error)[:80]}", "", "", "", "")
        print("| " + " | ".join(row) + " |", flush=True)
    print("| " + " | ".join(GOALS) + " |")


if __name__ == "__main__":
    main()
