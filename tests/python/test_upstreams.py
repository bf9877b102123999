"""Models on other servers: the real binary in front of scripted engines and of another Jan Server.

`JAN_UPSTREAM_BIN` names the binary of that other server, if it is to be another one.
"""

import contextlib
import json
import os
import pathlib
import threading

import harness
import pytest
from harness import MODEL, Server, wait_until
from scripted_engine import Engine

QUICK = """
[upstream]
probe_interval_ms = 100
stall_timeout_ms = 500
first_token_timeout_ms = 3000
breaker_failures = 3
breaker_cooldown_ms = 700
"""


def config(urls, name="words", resume="auto", **fields):
    """A configuration with one model on these upstreams."""
    text = f'{QUICK}\n[[models]]\nid = "away"\nbackend = "upstream"\nresume = "{resume}"\n'
    for url in urls:
        text += f'[[models.upstreams]]\nurl = "{url}"\nmodel = "{name}"\n'
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())
    return text


def status(server):
    return server.get("/api/v1/models/away", key=server.admin_key).json().get("status")


@contextlib.contextmanager
def front(folder, text, ready=True, env=None):
    server = Server(folder, config=text, wait="live", env=env)
    try:
        if ready:
            wait_until(lambda: status(server) == "ready", "the upstreams are found")
        yield server
    finally:
        server.close()


def ask(server, content="one two three", **fields):
    fields = {"max_tokens": 5} | fields
    return server.chat(content, key=server.admin_key, model="away", **fields)


def stream(server, content="one two three", **fields):
    """The chunks of a streamed answer."""
    answer = ask(server, content, stream=True, **fields)
    assert answer.status == 200, answer
    lines = [line[5:].strip() for line in answer.body.decode().split("\n") if line.startswith("data:")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(chunks):
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))


def upstreams(server):
    models = server.get("/api/v1/admin/models", key=server.admin_key).json()["data"]
    return next(model for model in models if model["id"] == "away")["replicas"]


def test_answers_are_those_of_the_engine_and_nothing_of_the_caller_reaches_it(tmp_path):
    engine = Engine(key="sk-engine")
    (tmp_path / "key").write_text("sk-engine\n")
    with front(tmp_path / "a", config([engine.url], key_file=str(tmp_path / "key"))) as server:
        answer = ask(server).json()
        assert answer["choices"][0]["message"]["content"] == "one two three one two "
        assert answer["usage"]["prompt_tokens"] == 3 and answer["usage"]["completion_tokens"] == 5
        assert answer["choices"][0]["finish_reason"] == "length"
        chunks = stream(server, "größe 𝄞 €", stream_options={"include_usage": True})
        assert text_of(chunks) == "größe 𝄞 € größe 𝄞 "
        assert chunks[-1]["usage"]["total_tokens"] == 8
        completion = {"model": "away", "prompt": "a b", "max_tokens": 3}
        answer = server.post("/api/v1/completions", completion, key=server.admin_key).json()
        assert answer["choices"][0]["text"] == "a b a "
        embeddings = {"model": "away", "input": ["a", "b"]}
        answer = server.post("/api/v1/embeddings", embeddings, key=server.admin_key).json()
        assert answer["data"][1]["embedding"] == pytest.approx([0.0, 0.6, 0.8]) and answer["usage"]["total_tokens"] == 4
        for _, headers, body in engine.got:
            assert headers["authorization"] == "Bearer sk-engine"
            assert server.admin_key not in str(headers) + str(body)
        (replica,) = upstreams(server)
        assert replica["state"] == "ready" and replica["upstream"]["kind"] == "vllm"
        assert replica["upstream"]["context_length"] == 512
        assert "sk-engine" not in server.log()
    engine.kill()


def test_refusals_name_what_is_wrong(tmp_path):
    engine = Engine()
    with front(tmp_path, config([engine.url])) as server:
        refused = ask(server, typical_p=0.5)
        assert (refused.status, refused.error["param"]) == (400, "typical_p"), refused
        refused = ask(server, "word " * 600)
        assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded"), refused
        assert "maximum context length is 512" in refused.error["message"]
        engine.act = ("status", 500)
        refused = ask(server)
        assert (refused.status, refused.error["code"]) == (502, "upstream_failed"), refused
    engine.kill()


def test_an_engine_that_refuses_the_key_is_not_used_and_the_key_not_told(tmp_path):
    engine = Engine(key="sk-other")
    with front(tmp_path, config([engine.url]), ready=False) as server:
        wait_until(lambda: status(server) == "unhealthy", "the key is refused")
        refused = ask(server)
        assert (refused.status, refused.error["code"]) == (503, "model_unavailable") and "Retry-After" in refused.headers
        assert "sk-other" not in refused.body.decode()
        assert "401" in upstreams(server)[0]["problem"]
    engine.kill()


def test_requests_fail_over_before_the_first_token(tmp_path):
    engines = [Engine(), Engine(), Engine()]
    with front(tmp_path, config([engine.url for engine in engines])) as server:
        for act in [("status", 503), ("status", 429, 1), ("die", 0)]:
            engines[0].act = act
            for number in range(12):
                assert text_of(stream(server, f"w{number} x")) == f"w{number} x w{number} x w{number} "
        engines[0].kill()
        wait_until(lambda: status(server) == "degraded", "it is missed")
        for number in range(6):
            assert ask(server, f"v{number}").status == 200
        engines[0].act = None
        engines[0].start()
        wait_until(lambda: status(server) == "ready", "it is back")
    for engine in engines:
        engine.kill()


@pytest.mark.parametrize("act", ["die", "stall"])
def test_a_stream_that_breaks_off_ends_with_one_error(tmp_path, act):
    engines = [Engine(), Engine()]
    with front(tmp_path, config([engine.url for engine in engines], resume="off")) as server:
        for engine in engines:
            engine.act = (act, 3)
        chunks = stream(server)
        assert text_of(chunks) == "one two three "
        errors = [chunk["error"] for chunk in chunks if "error" in chunk]
        assert [error["code"] for error in errors] == ["upstream_failed"], errors
        assert sum(len(engine.got) for engine in engines) == 1
        if act == "stall":
            # Its list of models is good, its tokens are not.
            wait_until(lambda: status(server) == "degraded", "it counts as dead")
        for engine in engines:
            engine.act = None
        wait_until(lambda: status(server) == "ready", "a trial found that it works")
        assert text_of(stream(server)) == "one two three one two "
    for engine in engines:
        engine.kill()


@pytest.mark.parametrize("act", ["die", "stall"])
def test_a_stream_goes_on_elsewhere(tmp_path, act):
    engines = [Engine(), Engine()]
    with front(tmp_path, config([engine.url for engine in engines])) as server:
        for content in ["a b c d e f", "u v w x y z"]:
            for engine in engines:
                # Each of them fails once.
                engine.acts = [(act, 3)]
                engine.got.clear()
            answer = ask(server, content, stream=True, max_tokens=9, stream_options={"include_usage": True})
            assert answer.headers["X-Jan-Resume"] == "message"
            lines = [line[5:].strip() for line in answer.body.decode().split("\n") if line.startswith("data:")]
            chunks = [json.loads(line) for line in lines[:-1]]
            assert not any("error" in chunk for chunk in chunks), chunks
            words = content.split()
            got = [body for engine in engines for _, _, body in engine.got]
            assert len(text_of(chunks).split()) == 9 and text_of(chunks).split()[:3] == words[:3]
            assert chunks[-1]["usage"]["completion_tokens"] == 9 and chunks[-1]["usage"]["prompt_tokens"] == 6
            continued = [body["messages"][-1]["content"] for body in got if body.get("continue_final_message")]
            assert " ".join(words[:3]) in continued, got
            wait_until(lambda: status(server) == "ready", "all work again")
        schema = ask(server, response_format={"type": "json_object"})
        assert schema.headers["X-Jan-Resume"] == "none"
    for engine in engines:
        engine.kill()


def test_a_client_that_leaves_ends_the_work_of_the_engine(tmp_path):
    engine = Engine(pace=0.02)
    with front(tmp_path, config([engine.url])) as server:
        body = {"model": "away", "stream": True, "max_tokens": 400, "messages": [{"role": "user", "content": "a b"}]}
        head = f"POST /api/v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.admin_key}\r\n"
        data = json.dumps(body).encode()
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        with server.connect() as connection:
            connection.sendall(head.encode() + data)
            read = b""
            while read.count(b"data:") < 4:
                read += connection.recv(4096)
        wait_until(lambda: engine.left == 1, "the engine notices", 3)
        wait_until(lambda: upstreams(server)[0]["running"] == 0, "its place is free", 3)
    engine.kill()


def test_requests_wait_here_and_callers_take_turns(tmp_path):
    engine = Engine(pace=0.02)
    with front(tmp_path, config([engine.url], max_in_flight=1)) as server:
        keys = [server.new_key(server.new_user(f"u{n}@example.com"))["key"] for n in range(2)]
        ends = []

        def one(caller):
            answer = server.chat("a b", key=keys[caller], model="away", max_tokens=10)
            assert answer.status == 200, answer
            ends.append(caller)

        hog = [threading.Thread(target=one, args=(0,)) for _ in range(8)]
        for thread in hog:
            thread.start()
        wait_until(lambda: upstreams(server)[0]["waiting"] >= 5, "the hog waits")
        other = threading.Thread(target=one, args=(1,))
        other.start()
        for thread in [*hog, other]:
            thread.join(30)
        assert ends.index(1) <= 5 and len(ends) == 9, ends
    engine.kill()


def test_a_conversation_goes_where_its_beginning_is_known(tmp_path):
    engines = [Engine(), Engine(), Engine()]
    with front(tmp_path, config([engine.url for engine in engines])) as server:
        for conversation in range(4):
            before = [len(engine.got) for engine in engines]
            messages = []
            for turn in range(4):
                messages.append({"role": "user", "content": f"c{conversation} t{turn} " + "word " * 60})
                body = {"model": "away", "messages": messages, "max_tokens": 3}
                answer = server.post("/api/v1/chat/completions", body, key=server.admin_key)
                messages.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})
            grown = [len(engine.got) - count for engine, count in zip(engines, before, strict=True)]
            assert sorted(grown) == [0, 0, 4], grown
    for engine in engines:
        engine.kill()


def test_a_model_here_overflows(tmp_path):
    engine = Engine()
    text = config([engine.url]) + '[[models]]\nid = "here"\npath = "/no/such/file.gguf"\noverflow = "away"\n'
    with front(tmp_path, text) as server:
        answer = server.chat("a b", key=server.admin_key, model="here", max_tokens=3)
        assert answer.headers["X-Jan-Resume"] == "message"
        assert answer.json()["choices"][0]["message"]["content"] == "a b a " and answer.json()["model"] == "here"
        # What the engine lacks stays with the model here, which is not there.
        refused = server.chat("a b", key=server.admin_key, model="here", typical_p=0.5)
        assert (refused.status, refused.error["code"]) == (503, "model_unavailable"), refused
    engine.kill()


def test_wrong_settings_are_named(tmp_path):
    for text, words in [
        (config(["http://127.0.0.1:1/v1"], key_file="/no/such/file"), ["upstreams[0].key_file", "/no/such/file"]),
        (config(["http://127.0.0.1:1/v1"], key_env="JAN_NO_SUCH"), ["upstreams[0].key_env", "JAN_NO_SUCH"]),
        (config(["http://a:b@127.0.0.1:1/v1"]), ["models[0].upstreams[0].url", "without credentials"]),
        (config([]), ["models[0].upstreams", "needs one"]),
        ('[[models]]\nid = "a"\npath = "a.gguf"\noverflow = "b"\n', ["overflow of `a`", "no model `b`"]),
    ]:
        server = Server(tmp_path / "x", config=text, wait=None)
        assert server.process.wait(20) != 0
        log = server.log()
        assert all(word in log for word in words), log
        server.close()


def real_upstream(folder, **fields):
    binary, given = harness.BINARY, os.environ.get("JAN_UPSTREAM_BIN")
    harness.BINARY = pathlib.Path(given) if given else binary
    try:
        return Server(folder, **fields)
    finally:
        harness.BINARY = binary


def test_another_jan_server_is_an_upstream(tmp_path):
    away = [real_upstream(tmp_path / f"away{n}") for n in range(2)]
    keys = tmp_path / "keys"
    keys.mkdir()
    text = QUICK + '[[models]]\nid = "away"\nbackend = "upstream"\n'
    for number, one in enumerate(away):
        (keys / str(number)).write_text(one.admin_key)
        text += f'[[models.upstreams]]\nurl = "{one.base_url}"\nmodel = "{MODEL}"\nkey_file = "{keys / str(number)}"\n'
    with front(tmp_path / "front", text) as server:
        assert [one["upstream"]["kind"] for one in upstreams(server)] == ["jan", "jan"]
        for fields in [
            {"temperature": 0, "max_tokens": 24},
            {"temperature": 0, "max_tokens": 24, "logprobs": True, "top_logprobs": 2},
            {"temperature": 0, "max_tokens": 24, "response_format": {"type": "json_object"}},
            {"temperature": 0, "max_tokens": 24, "stop": ["."]},
        ]:
            here = ask(server, "Tell me a story", **fields).json()
            there = away[0].chat("Tell me a story", key=away[0].admin_key, **fields).json()
            for name in ("message", "finish_reason"):
                assert here["choices"][0][name] == there["choices"][0][name], (here, there)
            assert here["usage"]["prompt_tokens"] == there["usage"]["prompt_tokens"]
            assert here["usage"]["completion_tokens"] == there["usage"]["completion_tokens"]
        streamed = stream(server, "Tell me a story", temperature=0, max_tokens=24)
        whole = ask(server, "Tell me a story", temperature=0, max_tokens=24).json()
        assert text_of(streamed) == whole["choices"][0]["message"]["content"]
        count = {"model": "away", "input": "Tell me a story"}
        counted = server.post("/api/v1/responses/input_tokens", count, key=server.admin_key).json()
        assert counted["input_tokens"] == whole["usage"]["prompt_tokens"]
        embeddings = {"model": "away", "input": ["one", "two three"]}
        assert len(server.post("/api/v1/embeddings", embeddings, key=server.admin_key).json()["data"]) == 2
        # One of them is killed: whoever waits for a first token does not notice.
        away[0].kill()
        for _ in range(4):
            assert ask(server, "Tell me a story", temperature=0, max_tokens=24).json()["choices"] == whole["choices"]
        wait_until(lambda: status(server) == "degraded", "it is missed")
    away[1].close()
