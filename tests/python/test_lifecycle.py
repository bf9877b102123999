"""Starting, stopping, settings: what an operator meets."""

import contextlib
import http.client
import os
import resource
import signal
import socket
import subprocess
import time

import pytest
from harness import BINARY, ENDLESS, IS_BUNDLED, MODEL, MODEL_FILE, stopped, wait_until


def refuses_connections(server):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
        return False
    return True


def test_drain_lets_streams_finish(make_server):
    own = make_server()
    with own.stream(max_tokens=300, logit_bias=ENDLESS) as stream:
        events = stream.events()
        first = [next(events) for _ in range(3)]
        # Held still, so that the stream is sure to be open when the stop begins.
        with stopped(own.worker()):
            own.terminate()
            wait_until(lambda: refuses_connections(own), "no new connections", 5)
            time.sleep(0.2)
            assert own.process.poll() is None, "it waits for the stream"
        rest = list(events)
        assert stream.done
    assert (first + rest)[-1]["choices"][0]["finish_reason"] == "length"
    assert own.process.wait(10) == 0


def test_drain_ends_with_a_proper_event_when_time_is_up(make_server):
    own = make_server(env={"JAN_SERVER__HTTP__DRAIN_TIMEOUT_MS": 700})
    with own.stream(max_tokens=1500, logit_bias=ENDLESS) as stream:
        events = stream.events()
        next(events)
        with stopped(own.worker()):
            begin = time.monotonic()
            own.terminate()
            # http.client raises IncompleteRead if the body is cut off rather than ended.
            rest = list(events)
            took = time.monotonic() - begin
            last = rest[-1]
            assert "error" in last or last["choices"][0]["finish_reason"], last
            assert 0.5 < took < 5
            assert own.process.wait(10) == 0


def test_second_signal_stops_at_once(make_server):
    own = make_server()
    with own.stream(max_tokens=1500, logit_bias=ENDLESS) as stream:
        next(stream.events())
        worker = own.worker()
        with stopped(worker):
            own.terminate()
            time.sleep(0.3)
            assert own.process.poll() is None
            begin = time.monotonic()
            own.terminate()
            assert own.process.wait(5) != 0
            assert time.monotonic() - begin < 3
        wait_until(lambda: not os.path.exists(f"/proc/{worker}"), "the worker ends", 10)


def test_idle_connections_do_not_hold_up_the_stop(make_server):
    own = make_server()
    idle = http.client.HTTPConnection("127.0.0.1", own.port)
    idle.request("GET", "/health")
    idle.getresponse().read()
    begin = time.monotonic()
    own.process.send_signal(signal.SIGINT)
    assert own.process.wait(10) == 0
    assert time.monotonic() - begin < 5


def test_bad_model_files(make_server, tmp_path):
    """A model that cannot be loaded answers 503 and says why; everything else works."""
    good = MODEL_FILE.read_bytes()
    (tmp_path / "truncated.gguf").write_bytes(good[: len(good) // 2])
    (tmp_path / "header.gguf").write_bytes(good[:100])
    (tmp_path / "text.gguf").write_text("this is not a model\n" * 1000)
    (tmp_path / "empty.gguf").write_bytes(b"")
    names = ["missing", "truncated", "header", "text", "empty"]
    own = make_server(*[argument for name in names for argument in ("--model", f"{name}={tmp_path}/{name}.gguf")])
    for name in names:
        status = wait_until(
            lambda name=name: own.get(f"/api/v1/models/{name}").json()["status"] != "loading" or None, name, 60
        )
        assert status
        assert own.get(f"/api/v1/models/{name}").json()["status"] == "unhealthy"
        for stream in (False, True):
            answer = own.chat(model=name, stream=stream)
            assert answer.status == 503, (name, answer)
            assert int(answer.headers["Retry-After"]) >= 1
            assert name in answer.error["message"]
            assert len(answer.error["message"]) > 30, answer
        print(answer.error["message"])
    assert "no file" in own.chat(model="missing").error["message"].lower()
    assert "gguf" in own.chat(model="text").error["message"].lower()
    assert own.chat().status == 200
    assert own.get("/readyz").status == 200
    assert own.get("/api/v1/status", key=own.admin_key).json()["inference_model"] == "degraded"


def test_model_too_large_for_memory(make_server, tmp_path):
    """A context that does not fit into the memory allowed is an error, not the end of the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, hard))
    try:
        own = make_server(wait="live", env={"JAN_SERVER__ENGINE__KV_CELLS": 64_000_000})
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    wait_until(
        lambda: own.get(f"/api/v1/models/{MODEL}").json()["status"] == "unhealthy", "the model is given up", 90
    )
    answer = own.chat()
    assert answer.status == 503, answer
    assert "memory" in answer.error["message"].lower()
    assert own.get("/health").status == 200


def run(*arguments, env=None, **options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAN_SERVER_")} | (env or {})
    return subprocess.run(
        [BINARY, *arguments], capture_output=True, text=True, check=False, timeout=60, env=environment, **options
    )


def test_version_and_help():
    assert run("--version").stdout.startswith("jan-server 0.")
    text = run("--help").stdout
    for word in ("serve", "config", "--version"):
        assert word in text
    text = run("serve", "--help").stdout
    for word in ("--config", "--listen", "--data-dir", "--model"):
        assert word in text


def test_layers_of_configuration(tmp_path):
    """File < environment < flags, as `jan-server config` shows."""
    file = tmp_path / "jan.toml"
    file.write_text('[http]\nlisten = "127.0.0.1:1001"\nheader_timeout_ms = 1234\n[queue]\nmax_requests = 5\n')
    env = {"JAN_SERVER__HTTP__LISTEN": "127.0.0.1:1002", "JAN_SERVER__QUEUE__MAX_REQUESTS": "6"}
    shown = run("config", "--config", str(file)).stdout
    assert "127.0.0.1:1001" in shown
    assert "1234" in shown
    shown = run("config", "--config", str(file), env=env).stdout
    assert "127.0.0.1:1002" in shown
    assert "max_requests = 6" in shown
    shown = run("config", "--config", str(file), "--listen", "127.0.0.1:1003", env=env).stdout
    assert "127.0.0.1:1003" in shown
    # What is shown can be used as a file again.
    again = tmp_path / "again.toml"
    again.write_text(shown)
    assert run("config", "--config", str(again)).stdout == shown


@pytest.mark.parametrize(
    ("file", "env", "words"),
    [
        ("[http]\nlissten = 'x'\n", {}, ["lissten", "listen", "jan.toml"]),
        ("[htpt]\nlisten = 'x'\n", {}, ["htpt", "http"]),
        ("[queue]\nmax_requests = 'many'\n", {}, ["max_requests"]),
        ("[queue\n", {}, ["jan.toml"]),
        ("", {"JAN_SERVER__QUEUE__MAX_REQUEST": "5"}, ["MAX_REQUEST", "max_requests"]),
        ("", {"JAN_SERVER__QUEUE__MAX_REQUESTS": "x"}, ["MAX_REQUESTS"]),
    ],
)
def test_wrong_settings_are_named(tmp_path, file, env, words):
    path = tmp_path / "jan.toml"
    path.write_text(file)
    for command in ("serve", "config"):
        done = run(command, "--config", str(path), env=env, cwd=tmp_path)
        assert done.returncode not in (0, 101), done
        for word in words:
            assert word.lower() in done.stderr.lower(), (word, done.stderr)


def test_settings_that_cannot_work(server, tmp_path):
    busy = run("serve", "--listen", f"127.0.0.1:{server.port}", "--data-dir", str(tmp_path / "a"), cwd=tmp_path)
    assert busy.returncode not in (0, 101)
    assert str(server.port) in busy.stderr
    missing = run("serve", "--config", str(tmp_path / "none.toml"), cwd=tmp_path)
    assert missing.returncode not in (0, 101)
    assert "none.toml" in missing.stderr
    blocked = tmp_path / "file"
    blocked.write_text("")
    folder = run("serve", "--listen", "127.0.0.1:0", "--data-dir", str(blocked / "data"), cwd=tmp_path)
    assert folder.returncode not in (0, 101)
    assert "data" in folder.stderr


def test_json_logs(make_server):
    import json

    own = make_server("--log-format", "json")
    own.post("/api/v1/chat/completions", b"{", {"X-Request-Id": "traced-1"})
    own.chat()
    lines = [line for line in own.log().splitlines() if line.startswith("{")]
    assert lines
    for line in lines:
        record = json.loads(line)
        assert {"timestamp", "level"} <= set(record)
    assert any("traced-1" in line for line in lines)


def test_start_prints_the_address_and_a_line_to_paste(server):
    """The curl line that the server prints works as printed."""
    (line,) = [line for line in server.log().splitlines() if "curl " in line]
    command = line[line.index("curl ") :]
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=120)
    assert '"chat.completion"' in done.stdout.replace(" ", "")
    assert IS_BUNDLED or "jan-tiny" in command or MODEL in command
