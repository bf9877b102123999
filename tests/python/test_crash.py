"""Streams survive whatever happens to the worker process."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time

import pytest
from greedy import Token, assert_same_text, assert_same_tokens, chat_tokens, pieces_of
from harness import BINARY, ENDLESS, IS_BUNDLED, MODEL, VOCABULARY, delta, parse_sse, stopped, wait_until

CHAT = "/api/v1/chat/completions"
TOPICS = (
    "a river", "a fox", "the moon", "an old house", "a king", "two friends", "a lost key", "the sea", "a small town",
    "a bird", "winter", "a garden", "a train", "a clock", "a long road", "a mountain", "bread", "a letter", "rain",
    "a teacher",
)  # fmt: skip


class Run:
    """One stream's outcome."""

    def __init__(self):
        self.pieces = []
        self.tokens = []
        self.reason = None
        self.usage = None
        self.problem = None

    @property
    def text(self):
        return "".join(self.pieces)


def story_request(topic, **fields):
    return {
        "model": MODEL, "messages": [{"role": "user", "content": f"Tell me a story about {topic}"}],
        "max_tokens": 80, "temperature": 0,
    } | fields  # fmt: skip


def shown_request(topic, **fields):
    """With what it takes to tell a tie from a difference."""
    return story_request(topic, logprobs=True, top_logprobs=20, **fields)


def run_streams(server, requests, on_piece=lambda: None):
    """Streams all requests at once; `on_piece` is called for every piece of text that comes."""
    runs = [Run() for _ in requests]

    def one(run, request):
        try:
            with server.stream(stream_options={"include_usage": True}, **request) as stream:
                for event in stream.events():
                    if "error" in event:
                        run.problem = event["error"]
                        continue
                    if event.get("usage"):
                        run.usage = event["usage"]
                    if piece := delta(event):
                        run.pieces.append(piece)
                        on_piece()
                    for choice in event["choices"]:
                        run.tokens += chat_tokens(choice)
                        run.reason = choice["finish_reason"] or run.reason
                if not stream.done:
                    run.problem = run.problem or "no [DONE]"
        except Exception as error:  # noqa: BLE001 - it is the outcome
            run.problem = repr(error)

    threads = [
        threading.Thread(target=one, args=(run, request), daemon=True)
        for run, request in zip(runs, requests, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
        assert not thread.is_alive(), "a stream hangs"
    return runs


def end_process(pid, number):
    """Signals until the process is gone: Rust's handler for stack overflows takes a first SIGSEGV that no
    instruction caused, and leaves the second one to the system."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        if number == signal.SIGSEGV:
            time.sleep(0.05)
            os.kill(pid, number)


class Killer:
    """Counts pieces of text over all streams and signals the worker each time a threshold is passed."""

    def __init__(self, server, thresholds, number):
        self.server = server
        self.thresholds = sorted(thresholds)
        self.number = number
        self.count = 0
        self.killed = []
        self.moved = threading.Condition()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def piece(self):
        with self.moved:
            self.count += 1
            self.moved.notify()

    def _run(self):
        for threshold in self.thresholds:
            with self.moved:
                if not self.moved.wait_for(lambda t=threshold: self.count >= t, timeout=200):
                    return
            # Not only where a token has just come out, but anywhere in a step.
            time.sleep(random.uniform(0, 0.02))
            pid = wait_until(lambda: next((p for p in [self.server.worker()] if p not in self.killed), None), "a worker")
            end_process(pid, self.number)
            self.killed.append(pid)


def assert_same(expected, actual, banned=()):
    """An undisturbed and a disturbed run are the same, or part at a shown tie; returns whether they part. `banned`:
    bytes of tokens that the request bans, however likely they are.

    Behind a tie the texts have nothing in common any more, but a token that is lost or doubled there shows all the
    same: the server counts what it generated, and the text is that of the tokens.
    """
    assert actual.problem is None, actual.problem
    assert len(actual.tokens) == actual.usage["completion_tokens"], "tokens are lost or doubled"
    data = b"".join(token.data for token in actual.tokens)
    assert actual.text == data.decode(errors="replace")
    tie = assert_same_tokens(expected.tokens, actual.tokens, banned)
    if not tie:
        assert actual.reason == expected.reason
        assert actual.usage["completion_tokens"] == expected.usage["completion_tokens"]
    return tie


@pytest.fixture(scope="module")
def undisturbed(server):
    """What 20 greedy streams give when nothing happens."""
    requests = [shown_request(topic) for topic in TOPICS]
    runs = run_streams(server, requests)
    for run in runs:
        assert assert_same(run, run) is False
        assert run.problem is None
        assert run.pieces
        assert run.reason
    return requests, runs


def changed(run, tokens, **fields):
    """The same outcome with other tokens."""
    other = Run()
    other.tokens, other.pieces = tokens, [b"".join(token.data for token in tokens).decode(errors="replace")]
    other.reason, other.usage = run.reason, run.usage | fields
    return other


def test_the_comparison_can_fail(undisturbed):
    """A lost, doubled or different token is noticed, so that the tests below mean something."""
    _, (run, *_) = undisturbed
    lost, doubled = run.tokens[:5] + run.tokens[6:], run.tokens[:6] + run.tokens[5:]
    for tokens in (lost, doubled):
        with pytest.raises(AssertionError, match="lost or doubled"):
            assert_same(run, changed(run, tokens))
        with pytest.raises(AssertionError, match="not at a tie"):
            assert_same(run, changed(run, tokens, completion_tokens=len(tokens)))
    # The clearest choice of the answer, made otherwise.
    def lead(index):
        first, second = sorted(run.tokens[index].top.values(), reverse=True)[:2]
        return first - second

    index = max(range(len(run.tokens)), key=lead)
    data, logprob = sorted(run.tokens[index].top.items(), key=lambda item: -item[1])[1]
    other = run.tokens[:index] + [Token(data, logprob, run.tokens[index].top)] + run.tokens[index + 1 :]
    with pytest.raises(AssertionError, match="not at a tie"):
        assert_same(run, changed(run, other))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_streams_survive_worker_deaths(make_server, undisturbed, number):
    requests, expected = undisturbed
    own = make_server()
    total = sum(len(run.pieces) for run in expected)
    kills = 5 if number == signal.SIGKILL else 2
    thresholds = [random.randrange(1, int(total * 0.7)) for _ in range(kills)]
    killer = Killer(own, thresholds, number)
    actual = run_streams(own, requests, killer.piece)
    killer.thread.join(30)
    assert len(killer.killed) == kills, f"killed {killer.killed} of {thresholds}, {killer.count} pieces came"
    print(f"killed at pieces {killer.thresholds} of {total}")
    ties = [assert_same(*case) for case in zip(expected, actual, strict=True)]
    # A tie is a rare thing; if it were the rule, the comparison would show nothing. There is none for a given model, which
    # runs with `engine.reproducible`.
    assert sum(ties) <= (len(ties) // 4 if IS_BUNDLED else 0)
    assert own.chat().status == 200


def test_sampled_streams_survive_too(make_server):
    """The draw at each position depends on the seed and the position alone, so it is the same after a resume."""
    own = make_server()
    # Another batch changes the last bits of the logits, and a draw at a boundary with them; among few words at a high
    # temperature and over few tokens that is rare. Draws of its own would make every stream another one.
    words = [i for i, piece in enumerate(VOCABULARY.pieces) if piece.isalpha() and len(piece) > 2][:24]
    fields = {"temperature": 2, "max_tokens": 20, "frequency_penalty": 2, "logit_bias": {str(i): 100 for i in words}}
    requests = [story_request(topic, seed=i, **fields) for i, topic in enumerate(TOPICS[:8])]
    expected = run_streams(own, requests)
    assert all(len(set(run.pieces)) > 8 for run in expected)
    first, killed = own.worker(), threading.Event()

    def kill():
        # At the first piece and by its reader: all of it is over in some hundredths of a second.
        if not killed.is_set():
            killed.set()
            end_process(first, signal.SIGKILL)

    actual = run_streams(own, requests, kill)
    assert own.worker() != first
    assert all(run.problem is None for run in actual)
    same = sum(a.text == b.text for a, b in zip(expected, actual, strict=True))
    assert same > 0
    print(f"{same} of {len(requests)} sampled streams are the same to the last token")


def test_plain_answers_survive(make_server):
    own = make_server()
    request = story_request("a river", max_tokens=60, logit_bias=ENDLESS)
    pieces = pieces_of(own, **request)
    results = []
    thread = threading.Thread(target=lambda: results.append(own.post(CHAT, request | {"n": 4})))
    first = own.worker()
    with stopped(first):
        thread.start()
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
    thread.join(100)
    (answer,) = results
    assert answer.status == 200, answer
    assert answer.json()["usage"]["completion_tokens"] == 240
    for choice in answer.json()["choices"]:
        assert_same_text(own, CHAT, request, pieces, choice["message"]["content"])


def test_hung_worker_is_replaced(make_server):
    own = make_server(env={"JAN_SERVER__WORKER__STEP_TIMEOUT_MS": 1500})
    request = shown_request("a river", logit_bias=ENDLESS)
    (expected,) = run_streams(own, [request])
    first = own.worker()
    hung = threading.Event()

    def hang():
        if not hung.is_set():
            hung.set()
            os.kill(first, signal.SIGSTOP)

    (actual,) = run_streams(own, [request], hang)
    assert_same(expected, actual, banned={b""})
    assert own.worker() != first
    assert first not in own.workers()


def test_idle_hung_worker_is_noticed_when_it_matters(make_server):
    own = make_server(env={"JAN_SERVER__WORKER__STEP_TIMEOUT_MS": 3000})
    os.kill(own.worker(), signal.SIGSTOP)
    answer = own.chat()
    assert answer.status == 200, answer


def poison_request():
    """Its prompt takes long to read, so that the worker can be killed while it is at it."""
    context = VOCABULARY.context
    # The bundled model reads thousands of tokens a second.
    words = " ".join(f"word{i}" for i in range(min(context, 2048) // (2 if IS_BUNDLED else 8)))
    return {
        "model": MODEL, "messages": [{"role": "user", "content": f"{time.time_ns()} {words}"}], "max_tokens": 1,
        "temperature": 0,
    }  # fmt: skip


def kill_while_it_reads(own, finished, pieces):
    """Kills each worker soon after it got the poison, until that request is over.

    A new worker takes up first who was blamed last, alone; the stream beside it follows once that is cleared or gone.
    """
    killed = []

    def ready():
        return own.log().count('"model ready"')

    while not finished.wait(0.03) and len(killed) < 8:
        before = ready()
        os.kill(own.worker(), signal.SIGKILL)
        killed.append(len(pieces))
        wait_until(lambda: finished.is_set() or ready() > before, "another worker is ready", 60, every=0.005)
    return killed


@pytest.mark.parametrize("stream", [False, True])
def test_poison_fails_alone(make_server, stream):
    """A request whose worker dies twice over it is given up; one that ran beside it goes on unharmed."""
    own = make_server()
    # Long enough to run until the poison is given up.
    length = 1500 if IS_BUNDLED else 600
    innocent = story_request("a fox", max_tokens=length, logit_bias=ENDLESS)
    runs, pieces = [], []
    beside = threading.Thread(
        target=lambda: runs.extend(run_streams(own, [innocent], lambda: pieces.append(1))), daemon=True
    )
    beside.start()
    wait_until(lambda: pieces, "the stream runs", 60)

    answers, finished = [], threading.Event()

    def ask():
        answers.append(own.post(CHAT, poison_request() | {"stream": stream}))
        finished.set()

    poison = threading.Thread(target=ask, daemon=True)
    # The first worker holds still until the poison is there, however fast it would read it: a worker that dies twice
    # over the stream alone gives that up.
    with stopped(own.worker()):
        poison.start()
        time.sleep(0.3)
        killed = kill_while_it_reads(own, finished, pieces)
    poison.join(60)
    (answer,) = answers
    print(f"workers killed: {len(killed)}, answer {answer}")
    assert len(killed) >= 2, "one death is not enough to blame a request"
    if stream and answer.status == 200:
        error = json.loads(parse_sse(answer.body)[-2][6:])["error"]
    else:
        assert answer.status == 500, answer
        error = answer.error
    assert error["code"] == "engine_crashed"
    assert error["type"] == "server_error"
    beside.join(200)
    (run,) = runs
    # Forced far past its end the text is noise, in which the last bits of a re-read prompt soon show; that texts
    # stay the same is what the tests above compare. Here every token must be there, and no error.
    assert run.problem is None, run.problem
    assert (run.reason, run.usage["completion_tokens"]) == ("length", length)
    assert own.chat().status == 200


def test_one_death_is_not_held_against_a_request(make_server):
    own = make_server()
    answers = []
    first = own.worker()
    with stopped(first):
        thread = threading.Thread(target=lambda: answers.append(own.post(CHAT, poison_request())), daemon=True)
        thread.start()
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
    thread.join(100)
    assert answers[0].status == 200, answers


def test_restart_intensity(make_server):
    """Too many deaths make the model unhealthy: 503 with Retry-After; later it is tried again."""
    own = make_server(
        env={
            "JAN_SERVER__WORKER__MAX_RESTARTS": 2,
            "JAN_SERVER__WORKER__RESTART_WINDOW_MS": 8_000,
            "JAN_SERVER__WORKER__COOLDOWN_MS": 4_000,
        }
    )
    killed = []
    for _ in range(3):
        pid = wait_until(lambda: next((p for p in [own.worker()] if p not in killed), None), "a worker")
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    def status():
        return own.get(f"/api/v1/models/{MODEL}").json()["status"]

    wait_until(lambda: status() == "unhealthy", "unhealthy", 20)
    answer = own.chat()
    assert answer.status == 503, answer
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.error["type"] == "server_error"
    streaming = own.chat(stream=True)
    assert streaming.status == 503, streaming
    assert own.get("/livez").status == 200
    assert own.get("/api/v1/status", key=own.admin_key).json()["inference_model"] == ("unhealthy" if IS_BUNDLED else "degraded")
    if IS_BUNDLED:
        assert own.get("/readyz").status == 503
    own.wait_ready(30)
    assert own.chat().status == 200
    assert own.get("/readyz").status == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphan_worker(make_server, number):
    own = make_server()
    stream = own.stream(max_tokens=1500, logit_bias=ENDLESS)
    next(stream.events())
    workers = own.workers()
    assert workers
    if number == signal.SIGTERM:
        stream.close()
    os.kill(own.pid, number)
    own.process.wait(40)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "the workers end", 10)


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], ids=["nothing", "preface"])
def test_worker_ends_with_a_server_that_never_spoke(said):
    """A server can die between starting its worker and opening the stream to it."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([BINARY, "worker"], stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    theirs.close()
    try:
        time.sleep(0.5)
        assert process.poll() is None
        ours.sendall(said)
        ours.close()
        process.wait(20)
    finally:
        process.kill()
