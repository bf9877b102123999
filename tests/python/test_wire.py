"""What is on the wire: event framing, keep-alive, pipelining, HTTP/2, request ids, health."""

import json
import subprocess
import time
from datetime import UTC, datetime

from harness import ENDLESS, MODEL, parse_sse, stopped

CHAT = "/api/v1/chat/completions"


def http_request(method, path, body=None, headers=()):
    data = json.dumps(body).encode() if body is not None else b""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}", *headers]
    if data:
        lines.append("Content-Type: application/json")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def read_answer(file):
    """One answer off a socket file: (status, headers, body), chunked or not."""
    status = int(file.readline().split()[1])
    headers = {}
    while (line := file.readline().strip()) != b"":
        name, value = line.split(b":", 1)
        headers[name.strip().lower().decode()] = value.strip().decode()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while (size := int(file.readline().strip(), 16)) > 0:
            body += file.read(size)
            file.readline()
        file.readline()
    else:
        body = file.read(int(headers.get("content-length", 0)))
    return status, headers, body


def chat_body(**fields):
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6} | fields


def test_raw_event_stream(server):
    with server.connect() as connection, connection.makefile("rb") as file:
        body = chat_body(stream=True, stream_options={"include_usage": True}, logit_bias=ENDLESS)
        connection.sendall(http_request("POST", CHAT, body))
        status, headers, raw = read_answer(file)
    assert status == 200
    assert headers["content-type"].split(";")[0] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert raw.endswith(b"data: [DONE]\n\n")
    frames = parse_sse(raw)
    assert all(frame.startswith(b"data: ") and b"\n" not in frame for frame in frames)
    assert frames[-1] == b"data: [DONE]"
    *chunks, usage = [json.loads(frame[6:]) for frame in frames[:-1]]
    first, last = chunks[0], chunks[-1]
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert first["choices"][0]["finish_reason"] is None
    assert "role" not in chunks[1]["choices"][0]["delta"]
    assert last["choices"][0]["finish_reason"] == "length"
    assert not last["choices"][0]["delta"].get("content")
    assert all(chunk["usage"] is None for chunk in chunks), "asked for usage, every other chunk has null"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 6
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + 6
    assert "cached_tokens" in usage["usage"]["prompt_tokens_details"]
    for chunk in [*chunks, usage]:
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["model"] == MODEL


def test_two_pipelined_requests(server):
    """Two requests in one packet get two answers in order on one connection."""
    with server.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(http_request("POST", CHAT, chat_body()) + http_request("GET", "/health"))
        status, _, body = read_answer(file)
        assert status == 200
        assert json.loads(body)["object"] == "chat.completion"
        status, _, body = read_answer(file)
        assert (status, json.loads(body)["status"]) == (200, "ok")


def test_keep_alive_survives_an_error(server):
    with server.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(http_request("POST", CHAT, chat_body(temperature=9)))
        assert read_answer(file)[0] == 400
        connection.sendall(http_request("GET", "/health"))
        assert read_answer(file)[0] == 200


def test_h2c_with_prior_knowledge(server):
    answer = subprocess.run(
        ["curl", "-sS", "--http2-prior-knowledge", "-w", "\n%{http_version} %{http_code}", "-H",
         "Content-Type: application/json", "-d", json.dumps(chat_body(stream=True)), server.base_url +
         "/chat/completions"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    assert "HTTP2" in version, "this curl cannot speak HTTP/2, so the test cannot tell"
    assert answer.returncode == 0, answer
    body, figures = answer.stdout.rsplit("\n", 1)
    assert figures == "2 200"
    assert body.rstrip().endswith("data: [DONE]")


def test_alias_path(server):
    """/v1 is /api/v1."""
    assert server.get("/v1/models").json() == server.get("/api/v1/models").json()
    assert server.post("/v1/chat/completions", chat_body()).status == 200
    assert server.post("/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1}).status == 200


def test_health(server):
    for path in ("/health", "/api/v1/health", "/v1/health", "/livez", "/readyz"):
        before = time.time()
        answer = server.get(path)
        assert answer.status == 200
        assert answer.json().keys() == {"status", "timestamp"}
        assert answer.json()["status"] == "ok"
        # As the API reference shows it: whole seconds. Strict clients parse exactly this form.
        said = datetime.strptime(answer.json()["timestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert int(before) <= said.timestamp() <= time.time()


def test_health_answers_at_once_while_the_engine_hangs(server):
    def took():
        begin = time.perf_counter()
        assert server.get("/health").status == 200
        return time.perf_counter() - begin

    with server.stream(max_tokens=1000, logit_bias=ENDLESS) as stream:
        next(stream.events())
        with stopped(server.worker()):
            times = sorted(took() for _ in range(50))
    assert times[25] < 0.01, times
    assert times[-1] < 0.25, times


def test_status(server):
    status = server.get("/api/v1/status", key=server.admin_key).json()
    assert status["api_gateway"] == "healthy"
    assert status["inference_model"] == "healthy"
    assert status["database"] == "healthy"
    assert status["external_apis"] == {"serper": "not_configured"}


def test_request_id(server):
    own = server.get("/health").headers["X-Request-Id"]
    assert own
    assert own != server.get("/health").headers["X-Request-Id"]
    assert server.get("/health", {"X-Request-Id": "my-id.42"}).headers["X-Request-Id"] == "my-id.42"
    assert server.post(CHAT, chat_body(), {"X-Request-Id": "chat-7"}).headers["X-Request-Id"] == "chat-7"
    for insane in ("x" * 1000, "a b", 'quo"te', "\u00e9"):
        kept = server.get("/health", {"X-Request-Id": insane}).headers["X-Request-Id"]
        assert kept
        assert kept != insane
    assert server.get("/nothing", {"X-Request-Id": "lost"}).headers["X-Request-Id"] == "lost"
    assert "chat-7" in server.log()


def test_empty_credentials_are_none(server):
    """The API reference's examples send an empty bearer token."""
    for headers in ({"Authorization": "Bearer "}, {"Authorization": "Bearer"}, {"X-API-Key": ""}):
        assert server.post(CHAT, chat_body(), headers).status == 200, headers


def test_no_answer_is_sniffed(server):
    """Answers, errors, pages and streams."""
    asked = [
        server.get("/health"),
        server.get("/nowhere"),
        server.get("/api/swagger/index.html"),
        server.get("/api/v1/models", key="sk-jan-wrong"),
        server.post("/api/v1/models", {}),
        server.chat(stream=True),
        server.chat(max_tokens=-1),
    ]
    assert [answer.headers.get("x-content-type-options") for answer in asked] == ["nosniff"] * len(asked)


def test_a_new_data_folder_is_private(server):
    assert server.data.stat().st_mode & 0o777 == 0o700
