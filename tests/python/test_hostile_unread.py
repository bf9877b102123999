"""Answers given before the request's body was read: the connection serves the next request, or says that it ends."""

import contextlib
import http.client
import json

import pytest

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
SMALL = b'{"model": "x"}'
LARGE = b" " * (1 << 20)
#: (method, path, headers, status)
EARLY = [
    ("POST", CHAT, {"Content-Type": "text/plain"}, 415),
    ("POST", CHAT, {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ("POST", CHAT, JSON | {"Content-Encoding": "gzip"}, 415),
    ("POST", CHAT, {}, 415),
    ("PUT", CHAT, JSON, 405),
    ("PATCH", CHAT, JSON, 405),
    ("OPTIONS", CHAT, JSON, 204),
    ("POST", "/health", JSON, 405),
    ("POST", "/nothing/here", JSON, 404),
    ("POST", "/v1/user/api-keys", JSON | {"Authorization": "Bearer sk-jan-x"}, 401),
    ("GET", "/health", JSON, 200),
    ("GET", "/v1/models", JSON, 200),
    ("GET", "/v1/models/none", JSON, 404),
    ("DELETE", "/v1/conversations/conv_x", JSON, 404),
    ("DELETE", "/v1/responses/resp_x", JSON, 404),
    ("POST", "/v1/responses/resp_x/cancel", JSON, 404),
    ("DELETE", "/v1/user/api-keys/key_x", JSON, 404),
    ("PATCH", "/v1/conversations/conv_x", JSON, 404),
    ("POST", "/v1/conversations/conv_x/items", JSON, 404),
]


@contextlib.contextmanager
def connection(server):
    one = http.client.HTTPConnection(server.host, server.port, timeout=30)
    # An answer must not be followed by a connection of http.client's own.
    one.auto_open = 0
    one.connect()
    with contextlib.closing(one):
        yield one


@pytest.mark.parametrize("payload", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(("method", "path", "headers", "status"), EARLY, ids=str)
def test_the_next_request_is_answered(server, method, path, headers, status, payload):
    key = {"Authorization": f"Bearer {server.admin_key}"}
    for _ in range(3):
        with connection(server) as one:
            for _ in range(3):
                one.request(method, path, payload, key | headers)
                answer = one.getresponse()
                answer.read()
                # Where the handler reads its body, what is wrong with that may come first.
                assert answer.status in {status, 400}, answer.status
                assert not answer.will_close
            one.request("GET", "/livez")
            assert one.getresponse().status == 200


def raw(server, *parts):
    """All that comes back for these bytes."""
    with server.connect() as socket:
        socket.settimeout(30)
        for part in parts:
            socket.sendall(part)
        answer = b""
        while chunk := socket.recv(65536):
            answer += chunk
    return answer


@pytest.mark.parametrize(("method", "path", "headers", "status"), EARLY, ids=str)
def test_a_client_that_waits_to_be_asked_is_told_that_the_connection_ends(server, method, path, headers, status):
    headers = {"Authorization": f"Bearer {server.admin_key}"} | headers
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Length: 14", "Expect: 100-continue"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = raw(server, "\r\n".join([*lines, "", ""]).encode()).split(b"\r\n\r\n")[0].decode().lower()
    assert head.startswith(f"http/1.1 {status}"), head
    assert "connection: close" in head


def test_a_client_that_is_asked_keeps_its_connection(server):
    body = json.dumps({"model": "jan-v1-4b", "prompt": "a", "max_tokens": 1}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with server.connect() as socket, socket.makefile("rb") as file:
        for _ in range(2):
            socket.sendall(f"{head}\r\nExpect: 100-continue\r\n\r\n".encode())
            assert file.readline() == b"HTTP/1.1 100 Continue\r\n" and file.readline() == b"\r\n"
            socket.sendall(body)
            assert file.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while line := file.readline().strip().lower():
                assert line != b"connection: close"
                length = int(line.split(b":")[1]) if line.startswith(b"content-length") else length
            file.read(length)


def test_a_body_that_does_not_arrive_ends_the_connection(make_server):
    server = make_server(config="[http]\nbody_timeout_ms = 200\n", model=False, wait="live")
    answer = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    head = answer.split(b"\r\n\r\n")[0].decode().lower()
    assert head.startswith("http/1.1 408") and "connection: close" in head
