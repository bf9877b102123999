"""Memory, file descriptors, sequences: what the server costs and that nothing is left behind."""

import json
import os
import pathlib
import resource
import sys
import time

import pytest
from harness import IS_BUNDLED, MODEL, open_files, rss_kib, stopped, wait_until

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
import soak  # noqa: E402

# The second model is some twenty times slower, and what is left behind by a request does not depend on it.
REQUESTS = int(os.environ.get("JAN_SOAK_REQUESTS", "1000" if IS_BUNDLED else "250"))


@pytest.fixture(autouse=True, scope="module")
def many_files():
    """Room for this process's own ends of the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_server_process_is_small(make_server):
    own = make_server()
    own.chat()
    assert rss_kib(own.pid) < 40 << 10


def test_idle_connections_cost_little(make_server):
    own = make_server(config="[http]\nmax_connections_per_address = 2000\n")

    def connect(count):
        connections = []
        for _ in range(count):
            connection = own.connect()
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            connections.append(connection)
        return connections

    warm = connect(20)
    before = rss_kib(own.pid)
    idle = connect(1000)
    each = (rss_kib(own.pid) - before) / 1000
    print(f"{each:.1f} KiB a connection")
    assert open_files(own.pid) > 1000
    # 40 with what is shared, charged and told apart by tenant.
    assert each < 44
    for connection in warm + idle:
        connection.close()
    wait_until(lambda: open_files(own.pid) < 100, "the connections are gone", 20)


def test_queued_streams_cost_little(make_server):
    own = make_server()
    body = json.dumps(
        {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2, "stream": True}
    ).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
    )

    def queue(count):
        connections = [own.connect() for _ in range(count)]
        for connection in connections:
            connection.sendall(request)
        return connections

    def drain(connections):
        for connection in connections:
            data = b""
            while part := connection.recv(65536):
                data += part
            assert b"data: [DONE]" in data, data[:500]
            connection.close()

    drain(queue(20))
    before = rss_kib(own.pid)
    with stopped(own.worker()):
        waiting = queue(500)
        time.sleep(3)
        each = (rss_kib(own.pid) - before) / 500
    print(f"{each:.1f} KiB a queued stream")
    # 40 with what is shared, charged and told apart by tenant.
    assert each < 44
    drain(waiting)


def test_nothing_is_left_behind(make_server):
    own = make_server(env=soak.SETTINGS)
    report = soak.soak(own, REQUESTS)
    print(json.dumps(report, indent=2))
    assert report["problems"] == []
    assert report["finished"] + report["abandoned"] == REQUESTS
    assert report["abandoned"] > REQUESTS * 0.2
