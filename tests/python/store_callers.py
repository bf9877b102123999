"""What the tests of the store share: callers that write beside something large, and exports written by hand."""

import contextlib
import hashlib
import http.client
import json
import threading
import time
import uuid

CONVERSATIONS = "/api/v1/conversations"
RESPONSES = "/api/v1/responses"


def uuid7():
    """A version 7 UUID of now, as ids are made of."""
    millis = int(time.time() * 1000)
    return uuid.UUID(int=(millis << 80) | (0x7 << 76) | (uuid.uuid4().int & ((1 << 76) - 1)) & ~(0x3 << 62) | (0x2 << 62))


def export_of(records, store="elsewhere", schema=2):
    """An export of `[(kind, key in hexadecimal, value)]`, with a header and a trailer that agree."""
    dump = lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)  # noqa: E731
    header = {"kind": "header", "format": 1, "schema": schema, "store": store, "created_at": "2026-01-01T00:00:00Z"}
    lines = [dump(header)]
    counts = {}
    for kind, key, value in records:
        lines.append('{"kind":%s,"key":%s,"value":%s}' % (dump(kind), dump(key), dump(value)))
        counts[kind] = counts.get(kind, 0) + 1
    body = "".join(line + "\n" for line in lines).encode()
    trailer = {"kind": "trailer", "records": dict(sorted(counts.items())), "sha256": hashlib.sha256(body).hexdigest()}
    return body + dump(trailer).encode() + b"\n"


def import_into(server, export, query="", status=200):
    done = server.post("/api/v1/admin/import" + query, export, {"Content-Type": "application/x-ndjson"}, key=server.admin_key)
    assert done.status == status, done
    return done


def response_record(user, size, item=64 * 1024):
    """An ended response of about `size` bytes of input, as an export has it."""
    text = "x" * item
    items = [
        {"type": "message", "id": f"msg_{number}", "role": "user", "content": [{"type": "input_text", "text": text}]}
        for number in range(size // item)
    ]
    own = uuid7()
    shown = {"model": "m"}
    end = {"status": "completed", "at": 1, "problem": None, "usage": None}
    return ("response", own.hex, {
        "id": f"resp_{own.hex}", "user": user, "created_at": int(time.time()), "background": False, "shown": shown,
        "history": [], "input": items, "deltas": [{"t": "y"}], "end": end,
    })  # fmt: skip


def records(server):
    """What a whole export has, without header and trailer."""
    export = server.get("/api/v1/admin/export", key=server.admin_key)
    assert export.status == 200, export
    return [json.loads(line) for line in export.body.splitlines()[1:-1]]


class Neighbour(threading.Thread):
    """Another user who writes all the while; knows how long each write took."""

    def __init__(self, server, key):
        super().__init__(daemon=True)
        self.server, self.key = server, key
        self.took = []
        self.over = False
        self.problem = None

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            while not self.over:
                begun = time.monotonic()
                connection.request("POST", CONVERSATIONS, "{}", headers)
                answer = connection.getresponse()
                data = answer.read()
                if answer.status != 201 and answer.status != 200:
                    self.problem = (answer.status, data)
                    return
                self.took.append(time.monotonic() - begun)

    def __enter__(self):
        self.start()
        while len(self.took) < 20 and self.is_alive():
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.over = True
        self.join(60)
        assert self.problem is None, self.problem


def fill(server, key, conversations, items, size, threads=8):
    """Makes a user's conversations, several at a time; gives their ids."""
    made, lock, todo = [], threading.Lock(), list(range(conversations))

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        said = [{"role": "user", "content": f"marker-{key[-8:]} " + "x" * size} for _ in range(items)]
        body = json.dumps({"items": said})
        with contextlib.closing(connection):
            while True:
                with lock:
                    if not todo:
                        return
                    todo.pop()
                connection.request("POST", CONVERSATIONS, body, headers)
                answer = connection.getresponse()
                data = json.loads(answer.read())
                assert answer.status in (200, 201), data
                with lock:
                    made.append(data["id"])

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert len(made) == conversations
    return made
