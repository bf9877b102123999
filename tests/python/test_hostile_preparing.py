"""Constraints that are costly to refuse, asked for often and by callers that have gone."""

import json
import threading
import time

import pytest
from harness import MODEL, Server, wait_until

#: Refused after some seconds of work: twenty expressions that have to hold at once.
COSTLY = {
    "type": "string",
    "allOf": [{"pattern": f"a{n}.*b"} for n in range(20)],
    "maxLength": 200,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    own = Server(tmp_path_factory.mktemp("preparing"))
    yield own
    own.close()


def costly(prompts, n, salt):
    schema = COSTLY | {"maxLength": 200 + salt}
    return {"model": MODEL, "prompt": ["x"] * prompts, "n": n, "max_tokens": 1, "guided_json": schema}


def abandon(server, body, key):
    """Sends a request and goes away without its answer."""
    content = json.dumps(body).encode()
    head = (
        "POST /api/v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = server.connect()
    connection.sendall(head.encode() + content)
    time.sleep(0.3)
    connection.close()


def test_others_are_served_while_abandoned_requests_wait(running):
    worker = running.worker()
    attacker = running.new_key(running.new_user("gone@example.com"))["key"]
    neighbour = running.new_key(running.new_user("neighbour@example.com"))["key"]
    for salt in range(1, 4):
        abandon(running, costly(8, 40, salt), attacker)
    answers = []

    def chat():
        answers.append(running.chat("Hello", key=neighbour, max_tokens=4).status)

    asking = threading.Thread(target=chat)
    asking.start()
    asking.join(60)
    assert answers == [200]
    assert running.worker() == worker
    wait_until(lambda: running.chat("Hello", key=neighbour, max_tokens=1).status == 200, "the worker answers", 30)
