"""Clients that hold connections: unfinished HTTP/2 prefaces, and one address that wants every connection."""

import contextlib
import json
import socket
import time

import pytest
from harness import Server, wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
PING = b"\0\0\x08\6\0\0\0\0\0" + b"12345678"
PONG = b"\0\0\x08\6\1\0\0\0\0" + b"12345678"
#: Guard against hanging, far below the idle timeout.
GUARD = 20


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A server with a header timeout of half a second and the default idle timeout of two minutes."""
    own = Server(tmp_path_factory.mktemp("hasty"), env={"JAN_SERVER__HTTP__HEADER_TIMEOUT_MS": "500"}, wait="live")
    yield own
    own.close()


def connect(server, source="127.0.0.1"):
    return socket.create_connection((server.host, server.port), timeout=GUARD, source_address=(source, 0))


def is_closed(connection):
    """Waits for the end, whatever is sent before it."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def test_unfinished_preface_is_closed_at_the_header_timeout(hasty):
    # Each cut is a client that says no more; "PRI " is one of them, and so are beginnings that no preface has.
    beginnings = [PREFACE[:cut] for cut in range(1, len(PREFACE))]
    beginnings += [b"PRI /x HTTP/1.1\r\n", b"PRI * HTTP/1.1\r\nHost: localhost\r\n", b"PRI * HTTP/2.0\r\n\r", b"PRI  "]
    with contextlib.ExitStack() as stack:
        held = []
        for beginning in beginnings:
            connection = stack.enter_context(connect(hasty))
            connection.sendall(beginning)
            held.append((beginning, connection))
        still_open = [beginning for beginning, connection in held if not is_closed(connection)]
    assert still_open == []


def test_preface_that_drips_wins_no_time(hasty):
    with connect(hasty) as connection:
        begin = time.monotonic()
        try:
            for byte in PREFACE[:-1]:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
        except ConnectionError:
            pass
        assert is_closed(connection)
        assert time.monotonic() - begin < GUARD


def test_preface_with_another_end_is_no_http2(hasty):
    for wrong in [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", b"PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n"]:
        with connect(hasty) as connection:
            connection.sendall(wrong + SETTINGS)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(4096):
                    answer += piece
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), (wrong, answer)


def test_whole_preface_in_pieces_is_http2_and_may_be_idle(hasty):
    with connect(hasty) as connection:
        for piece in [PREFACE[:4], PREFACE[4:15], PREFACE[15:] + SETTINGS]:
            connection.sendall(piece)
            time.sleep(0.05)
        # Longer than the header timeout, which ended with the preface.
        time.sleep(1.2)
        connection.sendall(PING)
        received = b""
        while PONG not in received:
            piece = connection.recv(4096)
            assert piece, f"closed after {received!r}"
            received += piece


def ask(connection):
    """Status, headers' text and body of one request; the connection stays."""
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(4096)
        assert piece, received
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        piece = connection.recv(4096)
        assert piece, received
        body += piece
    return int(head[9:12]), head.lower().decode(), body


def hold(server, source="127.0.0.1"):
    """A connection that was served, kept open; tries again while earlier ones are being closed."""

    def attempt():
        connection = connect(server, source)
        try:
            if ask(connection)[0] == 200:
                return connection
        except (AssertionError, ConnectionError):
            pass
        connection.close()
        return None

    return wait_until(attempt, "a connection", timeout=GUARD)


def refusal(server, source="127.0.0.1"):
    # Nothing is sent: what is refused is answered unasked, and unread bytes could cost that answer.
    with connect(server, source) as connection:
        received = b""
        while piece := connection.recv(4096):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head[9:12]), head.lower().decode(), json.loads(body)["error"]


def test_one_address_does_not_take_every_connection(tmp_path):
    env = {"JAN_SERVER__HTTP__MAX_CONNECTIONS_PER_ADDRESS": "3"}
    server = Server(tmp_path, env=env, wait="live")
    with contextlib.ExitStack() as stack, contextlib.closing(server):
        held = [stack.enter_context(hold(server)) for _ in range(3)]
        for _ in range(3):
            status, head, error = refusal(server)
            assert (status, error["code"]) == (503, "too_many_connections"), error
            assert "http.max_connections_per_address" in error["message"]
            assert "\r\nretry-after: 1" in head and "\r\nconnection: close" in head, head
        # Another address is served, up to its own limit, and those that are open go on.
        others = [stack.enter_context(hold(server, "127.0.0.2")) for _ in range(3)]
        assert refusal(server, "127.0.0.2")[0] == 503
        assert [ask(connection)[0] for connection in held + others] == [200] * 6
        # A place that becomes free is given away again.
        held[0].close()
        stack.enter_context(hold(server))
        assert refusal(server)[0] == 503


def test_trusted_proxies_are_exempt(tmp_path):
    config = '[http]\nmax_connections_per_address = 2\ntrusted_proxies = ["127.0.0.2"]\n'
    server = Server(tmp_path, config=config, wait="live")
    with contextlib.ExitStack() as stack, contextlib.closing(server):
        for _ in range(6):
            stack.enter_context(hold(server, "127.0.0.2"))
        for _ in range(2):
            stack.enter_context(hold(server))
        assert refusal(server)[0] == 503
