"""`models[].draft_path`: a smaller model proposes tokens, and the answers are the same as without.

The subjects are the tested model with more layers that add nothing, which takes longer and says the same, and the tested model
itself as its draft model, which is then always right."""

import concurrent.futures
import os
import pathlib
import re
import signal

import pytest
import tiny_models
from gguf_vocab import Vocabulary
from harness import BUNDLED, IS_BUNDLED, MODEL, MODEL_FILE, Server, children, delta, wait_until
from padded_models import pad
from test_speculation import CELLS, ENDLESS, REQUESTS, answer, completion, drafts

pytestmark = pytest.mark.skipif(not IS_BUNDLED, reason="a padded real model takes minutes; tests/bench/speculation.py measures one")

TIMES = 8
#: What no lookup knows: only a draft model can make drafts of it.
FREE = {
    "free": completion("Once upon a time there was a small house, and", max_tokens=100, logprobs=3),
    "free, drawn": completion("In the morning the old man", max_tokens=100, temperature=0.3, seed=4, logprobs=2),
    "free, two": completion("The sea was", max_tokens=60, n=2, temperature=0.5, seed=8, logprobs=1),
}
KNOWN = ("copy", "drawn", "penalties", "stop texts", "full context", "schema", "choice of tools", "tool", "one token")
ALL = FREE | {name: REQUESTS[name] for name in KNOWN}


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    path = tmp_path_factory.mktemp("padded") / "padded.gguf"
    pad(MODEL_FILE, path, TIMES)
    return path


def server(folder, model, draft, reproducible=True, wait="ready", **env):
    draft_line = f'draft_path = "{draft}"' if draft else ""
    config = f'[[models]]\nid = "{MODEL}"\npath = "{model}"\n{draft_line}\n'
    env = {"JAN_SERVER__ENGINE__REPRODUCIBLE": str(reproducible).lower(), "JAN_SERVER__LOG__LEVEL": "info,jan_engine=debug"} | env
    return Server(folder, env=CELLS | env, config=config, model=False, wait=wait)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, padded):
    own = server(tmp_path_factory.mktemp("plain"), padded, None, JAN_SERVER__ENGINE__SPECULATION="off")
    yield own
    own.close()


@pytest.fixture(scope="module")
def drafting(tmp_path_factory, padded):
    own = server(tmp_path_factory.mktemp("drafting"), padded, MODEL_FILE)
    yield own
    own.close()


@pytest.fixture(scope="module")
def expected(plain):
    return {name: answer(plain, request) for name, request in ALL.items()}


@pytest.mark.parametrize("name", ALL)
def test_drafts_change_nothing(drafting, expected, name):
    assert answer(drafting, ALL[name]) == expected[name]


def test_drafts_of_free_text_are_made_and_right(drafting, expected):
    before = drafts(drafting)
    assert answer(drafting, ALL["free"]) == expected["free"]
    drafted, accepted = (new - old for new, old in zip(drafts(drafting), before, strict=True))
    # All but the first token and one a step.
    assert accepted > 60 and accepted >= 0.9 * drafted, (drafted, accepted)


def test_beside_others_it_is_the_same(drafting, expected):
    names = [name for name in ALL if name != "full context"]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for name, one in zip(names, pool.map(lambda name: answer(drafting, ALL[name]), names), strict=True):
            assert one == expected[name], name


def worker_of(server, name):
    """The worker that has mapped a file."""

    def find():
        maps = {pid: pathlib.Path(f"/proc/{pid}/maps").read_text() for pid in children(server.pid)}
        return next((pid for pid, mapped in maps.items() if f"/{name}\n" in mapped), None)

    return wait_until(find, f"the worker of {name}")


@pytest.mark.parametrize("at", [2, 40])
def test_a_worker_that_dies_changes_nothing(drafting, at):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": 80, "temperature": 0}
    body |= {"logit_bias": ENDLESS, "logprobs": True}
    expected = drafting.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"]["content"]
    seen, dead = [], False
    with drafting.stream("/v1/chat/completions", **body) as stream:
        for event in stream.events():
            seen += [token for choice in event["choices"] for token in (choice.get("logprobs") or {}).get("content") or []]
            if not dead and delta(event) and len(seen) >= at:
                os.kill(worker_of(drafting, "padded.gguf"), signal.SIGKILL)
                dead = True
    assert dead
    assert seen == expected


def test_cancelled_answers_leave_nothing(drafting, expected):
    for count in range(1, 12):
        with drafting.stream("/v1/completions", **ALL["free"][1]) as stream:
            for _ in zip(range(count), stream.events(), strict=False):
                pass
    assert answer(drafting, ALL["free"]) == expected["free"]


def replica(server):
    """The report of the model's worker."""
    models = server.get("/v1/admin/models", key=server.admin_key).json()["data"]
    return next(model for model in models if model["id"] == MODEL)["replicas"][0]


def test_it_is_in_the_report_of_the_memory(drafting, plain):
    def draft_model(server):
        memory = replica(server)["memory"]
        return memory and memory["draft_model"]

    amount = wait_until(lambda: draft_model(drafting), "a report")
    # The weights, and the cells of its context.
    assert amount["bytes"] > 0.9 * MODEL_FILE.stat().st_size and amount["limit_bytes"] == amount["bytes"]
    assert wait_until(lambda: draft_model(plain), "a report") == {"bytes": 0, "limit_bytes": 0}


def test_an_idle_server_repeats_itself(tmp_path, padded):
    own = server(tmp_path, padded, MODEL_FILE, reproducible=False, JAN_SERVER__ENGINE__THREADS=1)
    try:
        first = {name: answer(own, ALL[name]) for name in FREE}
        for name in [*FREE, *FREE]:
            assert answer(own, ALL[name]) == first[name], name
        assert drafts(own)[1] > 0
    finally:
        own.close()


def test_a_wrong_draft_model_is_left_alone(tmp_path, padded, expected):
    wrong = tiny_models.write(tmp_path / "wrong.gguf", "llama", BUNDLED)
    own = server(tmp_path / "server", padded, wrong)
    try:
        for name in FREE:
            assert answer(own, ALL[name]) == expected[name], name
        drafted, accepted = drafts(own)
        assert accepted <= drafted < 100, (drafted, accepted)
    finally:
        own.close()


def with_another_token(path, target):
    """A copy in which one token has another text."""
    data = bytearray(path.read_bytes())
    piece = next(piece for piece in Vocabulary(path).pieces if re.fullmatch(rb"[a-z]{4,}", piece) and piece != piece[::-1])
    at = data.index(len(piece).to_bytes(8, "little") + piece) + 8
    data[at : at + len(piece)] = piece[::-1]
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("defect", ["missing", "no model", "another vocabulary"])
def test_a_draft_model_that_cannot_draft_is_refused(tmp_path, defect):
    draft = tmp_path / "draft.gguf"
    if defect == "no model":
        draft.write_text("a text")
    if defect == "another vocabulary":
        with_another_token(MODEL_FILE, draft)
    assert_refused(tmp_path, draft, {"missing": "no file", "no model": "not a GGUF", "another vocabulary": "vocabulary"}[defect])


def test_a_recurrent_draft_model_is_refused(tmp_path):
    assert_refused(tmp_path, tiny_models.write(tmp_path / "draft.gguf", "mamba2", BUNDLED), "recurrent")


def assert_refused(folder, draft, reason):
    own = server(folder / "server", MODEL_FILE, draft, wait="live")
    try:
        said = wait_until(lambda: replica(own)["problem"], "the problem")
        assert "draft" in said and reason in said, said
        assert own.chat().status == 503
    finally:
        own.close()
