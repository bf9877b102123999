"""kill -9 under load of key and session creation: what was acknowledged is there, what was revoked stays revoked.

`JAN_CRASH_ROUNDS` sets how many rounds; 40 take about half a minute. `make test-crash` runs 200.
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

ROUNDS = int(os.environ.get("JAN_CRASH_ROUNDS", "40"))
WRITERS = 4
PROFILE = "/api/v1/user/profile"
KEYS = "/api/v1/user/api-keys"


class Ledger:
    """What the server acknowledged, and what it may or may not have done when it died."""

    def __init__(self):
        self.lock = threading.Lock()
        # By id: the credential, and the one that may revoke it.
        self.keys = {}
        self.sessions = {}
        self.revoked_keys = {}
        self.ended_sessions = {}

    def note(self, kind, name, value):
        with self.lock:
            getattr(self, kind)[name] = value

    def take(self, kind, chance):
        """Something to revoke: from now on it is neither alive for sure nor revoked for sure."""
        with self.lock:
            items = getattr(self, kind)
            if items and chance.random() < 0.4:
                name = chance.choice(list(items))
                return name, items.pop(name)
        return None


class Writer(threading.Thread):
    """Makes and revokes keys and sessions on one connection until the server is gone."""

    def __init__(self, server, user, token, ledger, seed):
        super().__init__(daemon=True)
        self.server, self.user, self.token, self.ledger = server, user, token, ledger
        self.chance = random.Random(seed)
        self.done = 0
        self.problem = None

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)

        def ask(method, path, key, body=None):
            headers = {"Authorization": f"Bearer {key}"} | ({"Content-Type": "application/json"} if body else {})
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status >= 300:
                self.problem = (method, path, answer.status, data)
                raise http.client.HTTPException
            self.done += 1
            return json.loads(data) if data else None

        # The server's end ends this, between any two bytes.
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                made = ask("POST", KEYS, self.token, {"name": "k", "permissions": ["read"]})
                self.ledger.note("keys", made["id"], (made["key"], self.token))
                pair = ask("POST", f"/api/v1/admin/users/{self.user}/sessions", self.server.admin_key)
                session = ask("GET", "/auth/sessions", pair["access_token"])["data"]
                (current,) = [one["id"] for one in session if one["current"]]
                self.ledger.note("sessions", current, (pair["access_token"], pair["access_token"]))
                if victim := self.ledger.take("keys", self.chance):
                    ask("DELETE", f"{KEYS}/{victim[0]}", victim[1][1])
                    self.ledger.note("revoked_keys", *victim)
                if victim := self.ledger.take("sessions", self.chance):
                    ask("POST", "/auth/logout", victim[1][1])
                    self.ledger.note("ended_sessions", *victim)


@pytest.mark.timeout(1800)
def test_kill_under_load(tmp_path):
    chance = random.Random(4711)
    ledger, last_checked, acknowledged = Ledger(), {}, 0
    for round_number in range(ROUNDS):
        server = Server(tmp_path, wait="live", model=False)
        try:
            check(server, ledger, last_checked)
            # Users of the round's own keep lists short; what is checked are all credentials of the round before.
            last_checked = {kind: dict(getattr(ledger, kind)) for kind in vars(ledger) if kind != "lock"}
            ledger = Ledger()
            writers = []
            for number in range(WRITERS):
                user = server.new_user(f"round{round_number}-{number}@example.com")
                token = server.new_session(user)["access_token"]
                writers.append(Writer(server, user, token, ledger, chance.random()))
            for writer in writers:
                writer.start()
            time.sleep(chance.uniform(0.05, 0.6))
        finally:
            server.kill()
        for writer in writers:
            writer.join(30)
            assert writer.problem is None, writer.problem
        acknowledged += sum(writer.done for writer in writers)
    server = Server(tmp_path, wait="live", model=False)
    check(server, ledger, last_checked)
    server.close()
    print(f"{ROUNDS} rounds, {acknowledged} writes acknowledged")
    assert acknowledged > ROUNDS * WRITERS


def check(server, ledger, before):
    """Everything of the last round, and of the round before it once more."""
    for kind in ("keys", "sessions", "revoked_keys", "ended_sessions"):
        for name, (credential, _) in (before.get(kind, {}) | getattr(ledger, kind)).items():
            answer = server.get(PROFILE, key=credential)
            if kind in ("keys", "sessions"):
                assert answer.status == 200, (kind, name, answer)
            else:
                assert answer.status == 401, (kind, name, answer)
                assert answer.error["code"] in ("api_key_revoked", "session_revoked", "invalid_api_key"), answer
