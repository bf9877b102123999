"""Starts the real binary with a real model on a free port and looks at it from outside.

Settings of the environment:
  JAN_SERVER_BIN   the binary; default target/release/jan-server
  JAN_TEST_MODEL   a GGUF file to run the suite with; default: the bundled model
  JAN_TEST_LAYOUT  the layout of the KV cache (`engine.kv_layout`) of servers that set none; default: the default
  JAN_TEST_STORAGE sled (the default), postgres, or pgbouncer for PostgreSQL behind one (postgres.py)
  JAN_TEST_WORKER  the program of the workers, for a binary without the engine; default: the binary itself
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import openai_schema
import postgres
from gguf_vocab import Vocabulary

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("JAN_SERVER_BIN") or ROOT / "target/release/jan-server")
BUNDLED = ROOT / "fixtures/models/jan-tiny.gguf"
_given = os.environ.get("JAN_TEST_MODEL") or None
MODEL_FILE = pathlib.Path(_given).resolve() if _given else BUNDLED
LAYOUT = os.environ.get("JAN_TEST_LAYOUT")
#: Whether the suite runs with the model in the binary, whose answers are known.
IS_BUNDLED = _given is None
#: The id that the API reference uses: an alias of the bundled model, or the given model's own id.
MODEL = "jan-v1-4b"
VOCABULARY = Vocabulary(MODEL_FILE)
#: Whether it answers, too: an encoder makes embeddings only.
GENERATES = VOCABULARY.metadata.get(VOCABULARY.metadata["general.architecture"] + ".attention.causal", True)
#: `logit_bias` that keeps the model from ending its answer, for streams that must last.
ENDLESS = {str(token): -100 for token in VOCABULARY.end_of_generation}


def described(schema):
    """The fields of a request, as the recorded description has them."""
    description = json.loads((ROOT / "fixtures/openapi.json").read_text())
    return description["components"]["schemas"][schema]["properties"]


#: Limits that no test reaches by accident; the tests of limits set their own.
ROOMY = {
    "JAN_SERVER__RATE_LIMITS__ANONYMOUS_PER_HOUR": "1000000",
    "JAN_SERVER__RATE_LIMITS__AUTHENTICATED_PER_HOUR": "1000000",
    "JAN_SERVER__RATE_LIMITS__INFERENCE_PER_MINUTE": "1000000",
    "JAN_SERVER__RATE_LIMITS__SIGN_IN_FAILURES_PER_HOUR": "1000000",
}

#: Caches so small that the memory that a process takes is its requests' (the hostile tests measure that); those of the
#: second model hold more.
SMALL_CACHES = {"JAN_SERVER__STORAGE__CACHE_MIB": "64", "JAN_SERVER__ENGINE__CACHE_RAM_MIB": "128"} if IS_BUNDLED else {}

#: (time limit, what is being waited for) of everything that a fresh server does; generous for slow machines.
START_TIMEOUT = 60


def wait_until(condition, what, timeout=30.0, every=0.02):
    """Polls until `condition()` is truthy and returns that value; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(every)


class Response:
    """A whole HTTP answer."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json()["error"]

    def __repr__(self):
        return f"{self.status} {dict(self.headers)} {self.body[:500]!r}"


class Server:
    """One running `jan-server serve`."""

    running = []
    #: Of servers that ended: (most MiB of the server, most MiB of a process that it started).
    peaks_of_ended = []

    def __init__(self, folder, *args, env=None, config=None, model=True, wait="ready", listen="127.0.0.1:0"):
        """`wait`: "ready" for a model that answers, "live" for the HTTP port alone, None for neither."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        command = [str(BINARY), "serve", "--listen", listen, "--data-dir", str(self.data)]
        if config is not None:
            (folder / "jan-server.toml").write_text(config)
            command += ["--config", str(folder / "jan-server.toml")]
        if model and not IS_BUNDLED:
            command += ["--model", f"{MODEL}={MODEL_FILE}"]
        self.log_path = folder / "server.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAN_SERVER_")}
        if model and not IS_BUNDLED:
            # Filling the whole context of a larger model would take minutes.
            environment |= {"JAN_SERVER__ENGINE__CONTEXT_LENGTH": "2048", "JAN_SERVER__ENGINE__KV_CELLS": "8192"}
            # The bundled model shows the default; test_reproducible.py has both with it.
            environment |= {"JAN_SERVER__ENGINE__REPRODUCIBLE": "true"}
        if LAYOUT:
            environment["JAN_SERVER__ENGINE__KV_LAYOUT"] = LAYOUT
        if os.environ.get("JAN_TEST_WORKER"):
            environment |= {"JAN_SERVER__WORKER__PROGRAM": os.environ["JAN_TEST_WORKER"]}
        environment |= ROOMY | SMALL_CACHES | postgres.settings(self.data) | {k: str(v) for k, v in (env or {}).items()}
        # A second start in the same folder must not find the first one's address.
        self._log_begins = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command + list(args), env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        Server.running.append(self)
        self.pid = self.process.pid
        self.host, self.port = "127.0.0.1", None
        if wait:
            try:
                self._wait_for_port()
                path = "/readyz" if wait == "ready" else "/livez"
                wait_until(lambda: self._alive() and self.get(path).status == 200, path, START_TIMEOUT, every=0.1)
                if wait == "ready":
                    # With another model beside it, the server is ready before this one is.
                    self.wait_ready(START_TIMEOUT)
            except BaseException as error:
                self.close()
                raise AssertionError(f"server did not start: {error}\n{self.log_tail()}") from error

    def _wait_for_port(self):
        found = wait_until(
            lambda: self._alive() and re.search(r"listens on http://(127\.0\.0\.1|\[::1\]):(\d+)", self.log()),
            "the address in the output",
            START_TIMEOUT,
        )
        self.host, self.port = found[1].strip("[]"), int(found[2])

    def _alive(self):
        if self.process.poll() is not None:
            raise AssertionError(f"server ended with {self.process.returncode}\n{self.log_tail()}")
        return True

    def log(self):
        """Everything that it printed, without terminal colours."""
        printed = self.log_path.read_bytes()[self._log_begins :].decode(errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", printed)

    def log_tail(self, lines=60):
        """The end of it, without the polling of this harness."""
        return "\n".join([line for line in self.log().splitlines() if "/readyz" not in line][-lines:])

    @property
    def url(self):
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def base_url(self):
        return self.url + "/api/v1"

    @property
    def admin_key(self):
        """The key that the first start wrote down."""
        return (self.data / "admin.key").read_text().strip()

    def new_user(self, email="ann@example.com", name="Ann"):
        """The id of a new member."""
        made = self.post("/api/v1/admin/users", {"email": email, "name": name}, key=self.admin_key)
        assert made.status == 201, made
        return made.json()["id"]

    def new_session(self, user):
        """The tokens of a new session of that user."""
        made = self.post(f"/api/v1/admin/users/{user}/sessions", key=self.admin_key)
        assert made.status == 201, made
        return made.json()

    def new_key(self, user, permissions=("read", "write"), **fields):
        """A new key of that user, as it is answered."""
        body = {"name": "test", "permissions": list(permissions)} | fields
        made = self.post(f"/api/v1/admin/users/{user}/api-keys", body, key=self.admin_key)
        assert made.status == 201, made
        return made.json()

    def get(self, path, headers=None, key=None):
        return self.request("GET", path, headers=headers, key=key)

    def post(self, path, body=None, headers=None, timeout=120, key=None, method="POST"):
        """POSTs JSON (an object), bytes as they are, or nothing."""
        headers = headers or {}
        if body is not None:
            headers = {"Content-Type": "application/json"} | headers
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return self.request(method, path, data, headers, timeout, key)

    def patch(self, path, body, key=None):
        return self.post(path, body, key=key, method="PATCH")

    def delete(self, path, key=None):
        return self.request("DELETE", path, key=key)

    def request(self, method, path, body=None, headers=None, timeout=120, key=None):
        """`key` goes along as `Authorization: Bearer`, be it a key or a token."""
        headers = (headers or {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            whole = Response(answer.status, answer.headers, answer.read())
            if method != "HEAD":
                openai_schema.observe(method, path, whole.status, whole.headers["Content-Type"], whole.body)
            return whole

    def chat(self, content="Hello", key=None, headers=None, **fields):
        """POST /chat/completions of one user message."""
        return self.post(
            "/api/v1/chat/completions",
            {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 8} | fields,
            headers,
            key=key,
        )

    def stream(self, path="/api/v1/chat/completions", key=None, **fields):
        """An open stream; `max_tokens` and the rest come from `fields`."""
        body = {"model": MODEL, "stream": True} | fields
        if path.endswith("/chat/completions"):
            body = {"messages": [{"role": "user", "content": "Tell me a story"}]} | body
        return Stream(self, path, body, key=key)

    def connect(self):
        """A raw socket to the server."""
        return socket.create_connection((self.host, self.port), timeout=60)

    def workers(self):
        """Process ids of the live workers, oldest first."""
        found = []
        for pid in children(self.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
                if b"worker" in command and state != "Z":
                    found.append(pid)
        return sorted(found)

    def worker(self):
        """The process id of the worker that serves the suite's model; waits until it runs."""

        def find():
            pids = self.workers()
            if IS_BUNDLED:
                return pids[-1] if len(pids) == 1 else None
            for pid in pids:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if MODEL_FILE.name in pathlib.Path(f"/proc/{pid}/maps").read_text():
                        return pid
            return None

        return wait_until(find, f"a worker of {MODEL_FILE.name} among {self.workers()}", 60)

    def wait_ready(self, timeout=60):
        """Waits until the suite's model answers again."""
        wait_until(
            lambda: self.get(f"/api/v1/models/{MODEL}", key=self.admin_key).json().get("status") == "ready",
            "the model is ready",
            timeout,
        )

    def peaks(self):
        """(MiB of the server, MiB of the largest process that it started) at most so far; 0 of what runs no more."""

        def of(pid):
            with contextlib.suppress(OSError, AssertionError):
                return peak_mib(pid)
            return 0

        return of(self.pid), max((of(pid) for pid in children(self.pid)), default=0)

    def reset_peaks(self):
        """Has the peaks of all its processes count from now."""
        for pid in (self.pid, *children(self.pid)):
            with contextlib.suppress(OSError):
                reset_peak(pid)

    def kill(self):
        """`kill -9`, and waits until it is gone."""
        self.close()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def close(self):
        """Ends it, however it stands."""
        if self in Server.running:
            Server.running.remove(self)
            Server.peaks_of_ended.append(self.peaks())
        workers = self.workers() if self.process.poll() is None else []
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


def children(parent):
    """Process ids of a process's children."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def stopped(pid):
    """Holds a process still (SIGSTOP) inside the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def rss_kib(pid):
    """Resident memory of a process in KiB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no memory")


def reset_peak(pid):
    """Has the peak of a process's memory count from now."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid):
    """The most memory that a process had since then, in MiB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no VmHWM")


def open_files(pid):
    """How many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


class Stream:
    """A streaming answer read event by event, as the bytes come."""

    def __init__(self, server, path, body, timeout=120, key=None):
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.connection.request("POST", path, json.dumps(body), headers)
        self.answer = self.connection.getresponse()
        self.status = self.answer.status
        self.headers = self.answer.headers
        self.raw = b""
        self.done = False
        self.watch = openai_schema.Events("POST", path, self.status)

    def events(self):
        """Yields each event's data as an object, then ends at `[DONE]`."""
        assert self.status == 200, (self.status, self.answer.read())
        for line in self.answer:
            self.raw += line
            self.watch.feed(line)
            line = line.rstrip(b"\r\n")
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    self.done = True
                    continue
                yield json.loads(data)

    def read(self):
        """All events to the end. The end must be a whole one: http.client raises on a cut-off body."""
        return list(self.events())

    def close(self):
        """Goes away, like a client that was killed."""
        self.watch.end()
        with contextlib.suppress(OSError):
            if self.connection.sock:
                self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.answer.close()
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def delta(event):
    """The text of a chat or completion event, "" where it has none."""
    choices = event.get("choices") or []
    if not choices:
        return ""
    choice = choices[0]
    return (choice["delta"].get("content") if "delta" in choice else choice.get("text")) or ""


def text_of(events):
    return "".join(delta(event) for event in events)


def parse_sse(raw):
    """Splits a raw event stream into its data lines, comments left out."""
    frames = [frame for frame in raw.split(b"\n\n") if frame.strip()]
    return [frame for frame in frames if not frame.startswith(b":")]
