"""Full queues, long waits, slow clients: bounded, and said clearly."""

import contextlib
import json
import socket
import threading
import time

from harness import ENDLESS, MODEL, VOCABULARY, open_files, stopped, wait_until


def in_background(function, count):
    """Runs `function` in threads; returns (threads, results)."""
    results = []
    threads = [threading.Thread(target=lambda: results.append(function()), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def test_full_queue(make_server):
    own = make_server(env={"JAN_SERVER__QUEUE__MAX_REQUESTS": 4})
    with stopped(own.worker()):
        threads, results = in_background(own.chat, 4)
        time.sleep(0.7)
        for stream in (False, True):
            begin = time.monotonic()
            answer = own.chat(stream=stream)
            assert time.monotonic() - begin < 1, "at once"
            assert answer.status == 503, answer
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.error["type"] == "server_error"
            assert answer.error["code"]
        assert own.get("/health").status == 200
        assert results == []
    for thread in threads:
        thread.join(60)
    assert [answer.status for answer in results] == [200] * 4
    assert own.chat().status == 200


def test_one_request_cannot_overfill_the_queue(make_server):
    """n answers and lists of prompts take a place each, and are refused as a whole."""
    own = make_server(env={"JAN_SERVER__QUEUE__MAX_REQUESTS": 4})
    answer = own.chat(n=5)
    assert answer.status in (400, 503), answer
    assert own.chat(n=4).status == 200


def test_longest_wait(make_server):
    own = make_server(env={"JAN_SERVER__QUEUE__MAX_WAIT_MS": 700})
    with stopped(own.worker()):
        for stream in (False, True):
            begin = time.monotonic()
            answer = own.chat(stream=stream)
            took = time.monotonic() - begin
            assert answer.status == 503, answer
            assert int(answer.headers["Retry-After"]) >= 1
            assert 0.5 < took < 4
    assert own.chat().status == 200


def test_waiting_behind_others_is_bounded_too(make_server):
    """One sequence at a time: whoever does not get a turn in time is told so, whoever does is answered."""
    own = make_server(env={"JAN_SERVER__QUEUE__MAX_WAIT_MS": 300, "JAN_SERVER__ENGINE__MAX_SEQUENCES": 1})
    threads, results = in_background(lambda: own.chat(max_tokens=500, logit_bias=ENDLESS), 12)
    for thread in threads:
        thread.join(120)
    statuses = sorted(answer.status for answer in results)
    assert set(statuses) <= {200, 503}
    assert statuses[0] == 200
    assert own.chat().status == 200


def short_answer_takes(own):
    """Seconds that a one-token answer takes on this machine now."""
    begin = time.monotonic()
    assert own.chat(max_tokens=1).status == 200
    return time.monotonic() - begin


def test_abandoned_stream_frees_its_sequence_at_once(make_server):
    own = make_server(env={"JAN_SERVER__ENGINE__MAX_SEQUENCES": 1})
    usual = max(short_answer_takes(own) for _ in range(3))
    for _ in range(5):
        stream = own.stream(max_tokens=1900, logit_bias=ENDLESS)
        events = stream.events()
        for _ in range(3):
            next(events)
        stream.close()
        # 1900 tokens would take hundreds of times as long.
        assert short_answer_takes(own) < 1 + 3 * usual


def test_abandoned_plain_request_frees_its_sequence_at_once(make_server):
    own = make_server(env={"JAN_SERVER__ENGINE__MAX_SEQUENCES": 1})
    usual = max(short_answer_takes(own) for _ in range(3))
    for _ in range(3):
        connection = own.connect()
        body = (
            b'{"model":"%s","messages":[{"role":"user","content":"Hello"}],"max_tokens":1900,"logit_bias":{%s}}'
            % (MODEL.encode(), ",".join(f'"{token}":-100' for token in ENDLESS).encode())
        )
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        time.sleep(0.1)
        connection.close()
        # 1900 tokens would take hundreds of times as long.
        assert short_answer_takes(own) < 1 + 3 * usual


def read_to_end(connection, timeout):
    connection.settimeout(timeout)
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(4096):
            data += part
    return data


def test_slow_headers_and_bodies(make_server):
    own = make_server(
        env={"JAN_SERVER__HTTP__HEADER_TIMEOUT_MS": 600, "JAN_SERVER__HTTP__BODY_TIMEOUT_MS": 600}
    )
    with own.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow")
        begin = time.monotonic()
        data = read_to_end(connection, 5)
        assert time.monotonic() - begin < 4
        assert data == b"" or data.startswith(b"HTTP/1.1 408"), data
    with own.connect() as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 500\r\n\r\n{"model":'
        )
        begin = time.monotonic()
        data = read_to_end(connection, 5)
        assert time.monotonic() - begin < 4
        assert data.startswith(b"HTTP/1.1 408"), data
        assert b'"error"' in data
    assert own.get("/health").status == 200


def test_client_that_does_not_read(make_server):
    """A stream whose client stops reading is cut off, and costs no other request its place."""
    own = make_server(env={"JAN_SERVER__HTTP__WRITE_TIMEOUT_MS": 1000})
    assert own.chat().status == 200
    time.sleep(0.5)
    before = open_files(own.pid)
    # 128 echoes of a long prompt are more than the buffers on the way can hold.
    longest = max((i for i, p in enumerate(VOCABULARY.pieces) if p.isalnum()), key=lambda i: len(VOCABULARY.pieces[i]))
    length = (3 << 20) // (128 * len(VOCABULARY.pieces[longest])) + 1
    body = json.dumps(
        {"model": MODEL, "prompt": [longest] * length, "echo": True, "n": 128, "max_tokens": 1, "stream": True}
    ).encode()
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.connect(("127.0.0.1", own.port))
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until(lambda: open_files(own.pid) > before, "the connection is open")
        wait_until(lambda: open_files(own.pid) <= before, "the connection is cut", 120)
        got = read_to_end(raw, 5)
        assert got.startswith(b"HTTP/1.1 200 "), got[:500]
        assert b"[DONE]" not in got
    assert own.chat().status == 200


def test_readiness_follows_the_model(make_server):
    own = make_server(wait="live")
    answer = own.get("/readyz")
    assert answer.status in (200, 503)
    wait_until(lambda: own.get("/readyz").status == 200, "ready", 60)
