"""kill -9 under concurrent appends: no acknowledged item is lost, none stands twice, and the list agrees with the items.

`JAN_CRASH_ROUNDS` sets how many rounds, 10 unless given.
"""

import contextlib
import http.client
import json
import os
import random
import threading
import time

import pytest
from harness import Server

ROUNDS = int(os.environ.get("JAN_CRASH_ROUNDS", "10"))
WRITERS = 6
PATH = "/api/v1/conversations"


class Ledger:
    """What the server acknowledged, by conversation."""

    def __init__(self):
        self.lock = threading.Lock()
        self.items = {}
        # What was sent and never acknowledged: it may be there or not.
        self.unsure = {}
        self.deleted = set()


class Writer(threading.Thread):
    """Appends on one connection until the server is gone, now and then to a conversation that others append to."""

    def __init__(self, server, key, shared, ledger, seed, name):
        super().__init__(daemon=True, name=name)
        self.server, self.key, self.shared, self.ledger = server, key, shared, ledger
        self.chance = random.Random(seed)
        self.done = 0
        self.problem = None

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)

        def ask(method, path, body=None):
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status >= 300:
                self.problem = (method, path, answer.status, data)
                raise http.client.HTTPException
            self.done += 1
            return json.loads(data)

        number = 0
        with contextlib.suppress(OSError, http.client.HTTPException):
            mine = None
            while True:
                number += 1
                if mine is None or self.chance.random() < 0.1:
                    mine = ask("POST", PATH, {"title": self.name})["id"]
                    with self.ledger.lock:
                        self.ledger.items[mine] = {}
                target = self.shared if self.chance.random() < 0.5 else mine
                # Several at a time are there together or not at all; some are large.
                size = 70_000 if self.chance.random() < 0.05 else 1
                texts = [f"{self.name}-{number}-{part}" + "x" * size for part in range(self.chance.choice([1, 1, 3]))]
                with self.ledger.lock:
                    self.ledger.unsure.setdefault(target, []).append(texts)
                items = [{"role": "user", "content": text} for text in texts]
                added = ask("POST", f"{PATH}/{target}/items", {"items": items})["data"]
                with self.ledger.lock:
                    self.ledger.unsure[target].remove(texts)
                    for item, text in zip(added, texts):
                        self.ledger.items[target][item["id"]] = text
                if target == mine and self.chance.random() < 0.05:
                    # Neither there nor gone for sure until it is acknowledged.
                    with self.ledger.lock:
                        del self.ledger.items[mine]
                    victim, mine = mine, None
                    ask("DELETE", f"{PATH}/{victim}")
                    with self.ledger.lock:
                        self.ledger.deleted.add(victim)


@pytest.mark.timeout(3600)
def test_kill_under_appends(tmp_path):
    chance = random.Random(4712)
    ledger, key, acknowledged = Ledger(), None, 0
    for round_number in range(ROUNDS):
        server = Server(tmp_path, wait="live", model=False)
        try:
            if key:
                check(server, key, ledger)
            # A user of the round's own keeps the list short.
            ledger, key = Ledger(), server.new_key(server.new_user(f"round{round_number}@example.com"))["key"]
            shared = server.post(PATH, {"title": "shared"}, key=key).json()["id"]
            ledger.items[shared] = {}
            writers = [
                Writer(server, key, shared, ledger, chance.random(), f"r{round_number}w{number}")
                for number in range(WRITERS)
            ]
            for writer in writers:
                writer.start()
            time.sleep(chance.uniform(0.1, 0.6))
        finally:
            server.kill()
        for writer in writers:
            writer.join(30)
            assert writer.problem is None, writer.problem
        acknowledged += sum(writer.done for writer in writers)
    server = Server(tmp_path, wait="live", model=False)
    check(server, key, ledger)
    server.close()
    print(f"{ROUNDS} rounds, {acknowledged} writes acknowledged")
    assert acknowledged > ROUNDS * WRITERS


def pages(server, key, path):
    found, cursor = [], ""
    while True:
        answer = server.get(f"{path}?limit=100&order=asc{cursor}", key=key)
        assert answer.status == 200, answer
        page = answer.json()
        found += page["data"]
        if not page["has_more"]:
            return found
        cursor = f"&after={page.get('next_cursor') or page['last_id']}"


def check(server, key, ledger):
    listed = {one["id"]: one for one in pages(server, key, PATH)}
    assert not ledger.deleted & listed.keys(), "what was deleted stays deleted"
    for conversation in ledger.deleted:
        assert server.get(f"{PATH}/{conversation}", key=key).status == 404
    for conversation, acknowledged in ledger.items.items():
        assert conversation in listed, "an acknowledged conversation is lost"
        items = pages(server, key, f"{PATH}/{conversation}/items")
        texts = [item["content"][0]["text"] for item in items]
        assert len(set(texts)) == len(texts), "an item stands twice"
        assert listed[conversation]["item_count"] == len(items), "the list and the items disagree"
        there = {item["id"]: text for item, text in zip(items, texts)}
        assert acknowledged.items() <= there.items(), "an acknowledged item is lost or changed"
        # What was not acknowledged is there as a whole or not at all, and nothing else is there.
        more = set(there.values()) - set(acknowledged.values())
        for together in ledger.unsure.get(conversation, []):
            part = more & set(together)
            assert not part or part == set(together), "a part of one request is there"
            more -= part
        assert not more, more
        history = server.get(f"{PATH}/{conversation}", key=key).json()["messages"]
        assert [message["id"] for message in history] == [item["id"] for item in items]
