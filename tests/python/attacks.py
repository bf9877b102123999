"""Attacks of one caller while another chats, and what they cost the other and the server.

tests/bench/hostile.py prints the figures, test_hostile_attacks.py holds what depends on no machine.
"""

import contextlib
import dataclasses
import http.client
import json
import socket
import statistics
import threading
import time

from harness import ENDLESS, MODEL

#: Of the servers that are attacked.
SETTINGS = """
[auth]
guests = "on"
[rate_limits]
answers_per_minute = 1_000_000
"""
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


def chat(server, key):
    """Seconds to the first token of a chat, and to its end."""
    begun = time.monotonic()
    with server.stream(key=key, max_tokens=64, logit_bias=ENDLESS) as stream:
        events = stream.events()
        next(events)
        started = time.monotonic() - begun
        for _ in events:
            pass
    return started, time.monotonic() - begun


def alive(server):
    begun = time.monotonic()
    server.get("/livez")
    return time.monotonic() - begun


@dataclasses.dataclass
class Seen:
    """What somebody saw who chatted beside an attack: seconds of each, and the peaks of the processes in MiB."""

    #: To the first token of a chat, and to its end, before the attack.
    alone: list
    whole: list
    #: To the first token of chats that began while the attack went on.
    beside: list
    #: `/livez` before the attack and while it went on.
    alive_alone: list
    alive_beside: list
    #: Of the server, and of the largest process that it started.
    peaks: tuple


def quietly(go):
    """The server may end before its attackers."""
    with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
        go()


def watch(server, name, seconds):
    """Chats beside an attack for that long, or until the attack is over."""
    key = server.new_key(server.new_user("attacker@example.com"), ("read", "write", "keys"))["key"]
    neighbour = server.new_key(server.new_user("neighbour@example.com"))["key"]
    alone, whole = zip(*[chat(server, neighbour) for _ in range(5)], strict=True)
    alive_alone = [alive(server) for _ in range(5)]
    over = threading.Event()
    threads = [threading.Thread(target=quietly, args=(go,), daemon=True) for go in ATTACKS[name](server, key, over)]
    server.reset_peaks()
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    until = time.monotonic() + seconds
    beside, alive_beside = [], []
    while True:
        beside.append(chat(server, neighbour)[0])
        alive_beside.append(alive(server))
        if time.monotonic() > until or not any(thread.is_alive() for thread in threads):
            break
    peaks = server.peaks()
    # What is still being answered ends with the server.
    over.set()
    return Seen(alone, whole, beside, alive_alone, alive_beside, peaks)
