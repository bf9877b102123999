"""Bodies that are too large, too many, too slow or made of too many small things: none takes the server's memory."""

import contextlib
import json
import time

import pytest
from harness import MODEL, wait_until

MIB = 1 << 20
CHAT, RESPONSES = "/api/v1/chat/completions", "/api/v1/responses"
ACCOUNT = ("http.account_body_limit_bytes", MIB)
INFERENCE = ("http.inference_body_limit_bytes", 8 * MIB)
ITEMS = ("http.items_body_limit_bytes", 16 * MIB)
ROUTES = [
    ("POST", "/api/v1/user/api-keys", *ACCOUNT),
    ("PATCH", "/api/v1/user/profile", *ACCOUNT),
    ("POST", "/auth/exchange", *ACCOUNT),
    ("POST", "/auth/refresh", *ACCOUNT),
    ("POST", "/api/v1/admin/users", *ACCOUNT),
    ("POST", CHAT, *INFERENCE),
    ("POST", "/v1/completions", *INFERENCE),
    ("POST", "/v1/embeddings", *INFERENCE),
    ("POST", RESPONSES, *INFERENCE),
    ("POST", "/v1/responses/input_tokens", *INFERENCE),
    ("POST", "/v1/tokenize", *INFERENCE),
    ("POST", "/v1/detokenize", *INFERENCE),
    ("POST", "/v1/apply-template", *INFERENCE),
    ("POST", "/v1/conversations", *ITEMS),
]


def settings(http="", rest=""):
    return f"[http]\n{http}\n{rest}"


@pytest.fixture
def victim(make_server):
    """A server, and behind it all is as before."""
    own = make_server(config=settings())
    own.second = own.new_key(own.new_user("second@example.com"))["key"]
    worker = own.worker()
    yield own
    assert own.chat(key=own.second).status == 200
    assert own.process.poll() is None and own.worker() == worker


class Upload:
    """A request whose body comes in pieces."""

    def __init__(self, server, path, length, key=None, method="POST"):
        self.socket = server.connect()
        auth = f"Authorization: Bearer {key}\r\n" if key else ""
        length = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{auth}{length}\r\n\r\n"
        self.socket.sendall(head.encode())

    def send(self, data):
        """Whoever is refused may find the connection closed."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)
        return self

    def answer(self, timeout=30):
        """(status, head, error) of the answer."""
        self.socket.settimeout(timeout)
        with self.socket.makefile("rb") as file:
            status = int(file.readline().split()[1])
            headers = {}
            while (line := file.readline().strip()) != b"":
                name, value = line.decode().split(":", 1)
                headers[name.lower()] = value.strip()
            body = file.read(int(headers["content-length"]))
        return status, headers, json.loads(body).get("error")

    def is_answered(self):
        self.socket.setblocking(False)
        try:
            return bool(self.socket.recv(1, 2))  # MSG_PEEK
        except BlockingIOError:
            return False
        finally:
            self.socket.setblocking(True)

    def close(self):
        self.socket.close()


def is_too_large(answer, setting, limit):
    status, _, error = answer
    assert (status, error["code"], error["type"]) == (413, "request_too_large", "invalid_request_error"), answer
    assert f"`{setting}`" in error["message"] and str(limit) in error["message"], error


@pytest.mark.parametrize(("method", "path", "setting", "limit"), ROUTES, ids=[path for _, path, *_ in ROUTES])
def test_each_route_has_its_limit(server, method, path, setting, limit):
    key = None if path.startswith("/auth/") else server.admin_key
    # By what is announced, without a byte of it.
    upload = Upload(server, path, limit + 1, key, method)
    is_too_large(upload.answer(), setting, limit)
    upload.close()
    # By what comes.
    upload = Upload(server, path, None, key, method)
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    for _ in range(limit // 65536):
        upload.send(piece)
    upload.send(b"1\r\n \r\n")
    is_too_large(upload.answer(), setting, limit)
    upload.close()
    # One byte less is read to its end.
    upload = Upload(server, path, limit, key, method).send(b" " * limit)
    status, _, error = upload.answer()
    assert (status, error["code"]) == (400, "invalid_json"), error
    upload.close()


def test_the_limit_of_all_is_the_value_and_the_ceiling(make_server):
    own = make_server(config=settings(f"body_limit_bytes = {9 * MIB}"), wait="live")
    for path, setting, limit in (
        (CHAT, "http.body_limit_bytes", 9 * MIB),
        ("/v1/conversations", "http.body_limit_bytes", 9 * MIB),
        ("/v1/user/api-keys", *ACCOUNT),
    ):
        upload = Upload(own, path, limit + 1, own.admin_key)
        is_too_large(upload.answer(), setting, limit)
        upload.close()
        upload = Upload(own, path, limit, own.admin_key).send(b" " * limit)
        assert upload.answer()[2]["code"] == "invalid_json"
        upload.close()
    small = make_server(config=settings("body_limit_bytes = 500"), wait="live")
    for path in (CHAT, "/v1/conversations", "/v1/user/api-keys", "/v1/admin/users"):
        answer = small.post(path, b" " * 501, key=small.admin_key)
        assert (answer.status, "`http.body_limit_bytes`" in answer.error["message"]) == (413, True), answer
    # What is read as it comes has a limit of its own.
    export = small.get("/api/v1/admin/export", key=small.admin_key).body
    assert len(export) > 500
    lines = {"Content-Type": "application/x-ndjson"}
    assert small.post("/api/v1/admin/import", export, lines, key=small.admin_key).status == 200


def test_imports_have_a_limit(make_server):
    own = make_server(config=settings("import_limit_bytes = 500"), wait="live")
    export = own.get("/api/v1/admin/export", key=own.admin_key).body
    answer = own.post("/api/v1/admin/import", export, {"Content-Type": "application/x-ndjson"}, key=own.admin_key)
    assert (answer.status, "`http.import_limit_bytes`" in answer.error["message"]) == (413, True), answer


def test_elements_are_counted(victim):
    """Three bytes of JSON would become hundreds in memory."""
    key = victim.new_key(victim.new_user("small-things@example.com"))["key"]
    count = 2_500_000
    for path, field in ((RESPONSES, "input"), (CHAT, "messages"), ("/v1/completions", "prompt"), ("/v1/tokenize", "x")):
        for element in (b"{}", b"[]", b'""', b'{"":0}', b"null"):
            rows = b",".join([element] * (count // len(element)))
            body = b'{"model": "%s", "%s": [%s]}' % (MODEL.encode(), field.encode(), rows)
            answer = victim.post(path, body, key=key)
            assert answer.status == 413 and "`http.body_limit_elements`" in answer.error["message"], (path, element, answer)
    # As deep as it is wide.
    answer = victim.post(RESPONSES, b'{"x": %s}' % (b"[" * 200_000 + b"]" * 200_000), key=key)
    assert answer.status == 413, answer
    # Tokens are small: as many as /detokenize takes.
    tokens = victim.post("/v1/detokenize", {"model": MODEL, "tokens": [1] * MIB}, key=key)
    assert tokens.status == 200, tokens.status


def test_large_bodies_at_the_limits_stay_within_memory(victim):
    """Each is as large as one may be, and they come at once."""
    key = victim.new_key(victim.new_user("large@example.com"))["key"]
    items = json.dumps({"model": MODEL, "input": [{"role": "user", "content": ""}] * 19_000}).encode()
    text = json.dumps({"model": MODEL, "input": "x" * (8 * MIB - 100)}).encode()
    uploads = [Upload(victim, RESPONSES, len(body), key).send(body) for body in (items, text, items, text) * 3]
    assert victim.chat(key=victim.second).status == 200
    for upload in uploads:
        status, headers, error = upload.answer(60)
        assert status in (400, 503), error
        assert status == 400 or int(headers["retry-after"]) >= 1
        upload.close()


def test_clients_that_stall_before_the_last_byte(victim):
    attackers = [victim.new_key(victim.new_user(f"stalling{number}@example.com"))["key"] for number in range(4)]
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * (8 * MIB - 200)}]}).encode()
    stalled = [Upload(victim, CHAT, len(body), attackers[number % 4]).send(body[:-1]) for number in range(40)]
    refused = []
    # At most seven eighths of 128 MiB are held, in bodies of 8; the others learn why not.
    wait_until(lambda: sum(one.is_answered() for one in stalled) >= 24, "most are refused")
    assert victim.chat(key=victim.second).status == 200, "an eighth is for those who hold little"
    for upload in stalled:
        if upload.is_answered():
            status, headers, error = upload.answer()
            assert (status, error["code"], int(headers["retry-after"]) >= 1) == (503, "body_memory_full", True), error
            refused.append(upload)
    for upload in stalled:
        upload.close()
    wait_until(lambda: victim.chat(key=attackers[0]).status == 200, "there is room again")


def test_one_caller_leaves_room_for_others(victim):
    attacker = victim.new_key(victim.new_user("hoarder@example.com"))["key"]
    stalled = [Upload(victim, CHAT, 8 * MIB, attacker).send(b" " * (8 * MIB - 1)) for _ in range(12)]
    wait_until(lambda: sum(one.is_answered() for one in stalled) >= 6, "the caller has its fill")
    for _ in range(3):
        assert victim.chat(key=victim.second).status == 200
        assert victim.chat(content="x" * 100_000, key=victim.second).status == 400, "too long, and read"
    for upload in stalled:
        if upload.is_answered():
            error = upload.answer()[2]
            assert "`http.body_memory_per_caller_mib`" in error["message"], error
        upload.close()


def test_promises_hold_nothing(victim):
    """Room is for what has arrived."""
    key = victim.new_key(victim.new_user("promising@example.com"))["key"]
    stalled = [Upload(victim, CHAT, 8 * MIB, key).send(b" " * 1000) for _ in range(40)]
    body = b" " * (8 * MIB)
    upload = Upload(victim, CHAT, len(body), key).send(body)
    assert upload.answer()[2]["code"] == "invalid_json"
    upload.close()
    assert not any(one.is_answered() for one in stalled)
    for one in stalled:
        one.close()


def test_room_comes_back_when_time_is_up(make_server):
    own = make_server(config=settings("body_timeout_ms = 2500\nbody_memory_per_caller_mib = 1\nbody_memory_mib = 1\n"
                                      "body_limit_bytes = 1000000\nbody_limit_elements = 1000"), wait="live")  # fmt: skip
    key = own.admin_key
    first = Upload(own, "/v1/tokenize", 1_000_000, key).send(b" " * 900_000)
    # Until its bytes have been read.
    time.sleep(0.5)
    assert own.post("/v1/tokenize", b" " * 900_000, key=key).error["code"] == "body_memory_full"
    status, _, error = first.answer()
    assert (status, error["code"]) == (408, "request_timeout")
    first.close()
    assert own.post("/v1/tokenize", b" " * 900_000, key=key).error["code"] == "invalid_json"


def test_settings_are_described(server):
    """Whoever meets a limit finds it in the description."""
    described = server.get("/api/swagger/openapi.json").json()["paths"]["/api/v1/chat/completions"]["post"]["responses"]
    assert {"413", "503"} <= set(described)
