"""The same state however a position is reached, on models of many architectures: read at once, in chunks of other sizes,
behind a beginning that is shared with a running or an ended sequence, was moved to host memory and cut or was on disk, after making room
for others, and after the worker's death.

With the bundled model the subjects are models made here (`tiny_models.py`), of which only the memory matters; with another
one, that model."""

import concurrent.futures
import functools
import os
import random
import signal

import pytest
import tiny_models
from gguf_vocab import Vocabulary
from harness import BUNDLED, IS_BUNDLED, MODEL_FILE, Server, children, wait_until

KNOWN = Vocabulary(MODEL_FILE)
WINDOW = KNOWN.metadata.get(KNOWN.metadata["general.architecture"] + ".attention.sliding_window", 0)
#: Tokens of a prompt: more than two windows.
LENGTH = 400 if IS_BUNDLED else 200 + 2 * WINDOW
#: How many tokens other prompts share with the one that was read: all but the last, around the edges of a window, a few.
CUTS = [LENGTH - 1, LENGTH - 20, LENGTH - 40, LENGTH * 2 // 3, LENGTH // 4, 33]
#: Nothing is kept.
FRESH = {"CACHE_CELLS": 0, "CACHED_SEQUENCES": 0, "CACHE_RAM_MIB": 0}
#: The settings of a server for each way.
WAYS = {
    "fresh": FRESH,
    "chunks": {**FRESH, "PREFILL_CHUNK": 48},
    "cells": {"CACHE_CELLS": 8192, "CACHE_RAM_MIB": 0},
    "memory": {"CACHE_CELLS": 0, "CACHE_RAM_MIB": 256},
    "few": {"CACHE_CELLS": 500 + LENGTH, "CACHE_RAM_MIB": 0, "KV_CELLS": 500 + LENGTH, "CONTEXT_LENGTH": 400 + LENGTH},
    "crowded": {"CACHE_CELLS": 0, "CACHE_RAM_MIB": 256, "KV_CELLS": 800, "CONTEXT_LENGTH": 700},
}
#: Where the beginning of a chat is kept between its turns.
WAYS_OF_CHATS = ["cells", "memory"]
#: Those whose memory is a state of the last position, in some layers or all: only whole sequences are taken over.
FIXED = {"mamba2", "granitehybrid", "lfm2"}
#: What keeps a model of random weights from ending.
NO_END = {str(token): -100 for token in KNOWN.end_of_generation}
SUBJECTS = list(tiny_models.ARCHITECTURES) if IS_BUNDLED else [MODEL_FILE.stem]
#: Log-probabilities of two ways may differ by this, or by a multiple of what batches of other sizes make of them.
NOISE, TIMES = 0.02, 8 if IS_BUNDLED else 3


class Models:
    """Servers with all models, one for each way, and what a fresh reading says."""

    def __init__(self, folder):
        self.folder = folder
        make = lambda name: tiny_models.write(folder / f"{name}.gguf", name, BUNDLED) if IS_BUNDLED else MODEL_FILE
        self.files = [(name, make(name)) for name in SUBJECTS]
        self.servers = {}

    def server(self, way):
        if way not in self.servers:
            # Room for the chat, which grows to nearly twice the length of a prompt.
            settings = {"KV_CELLS": 8192, "CONTEXT_LENGTH": max(2048, 2 * LENGTH), **WAYS[way]}
            models = [part for name, path in self.files for part in ("--model", f"{name}={path}")]
            env = {f"JAN_SERVER__ENGINE__{name}": value for name, value in settings.items()}
            server = Server(self.folder / way, *models, model=False, wait="live", env=env)
            self.servers[way] = server
            wait_until(lambda: all(model["status"] == "ready" for model in server.get("/v1/models").json()["data"]), "all models")
        return self.servers[way]

    def worker(self, server, name):
        def find():
            for pid in children(server.pid):
                with open(f"/proc/{pid}/maps") as maps:
                    if f"/{name}.gguf" in maps.read():
                        return pid
            return None

        return wait_until(find, f"the worker of {name}")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = Models(tmp_path_factory.mktemp("architectures"))
    yield made
    for server in made.servers.values():
        server.close()


def prompt_of(seed, length):
    draw = random.Random(seed)
    return [draw.randrange(300, 2000) for _ in range(length)]


def complete(server, name, prompt, tokens=1, **fields):
    body = {"model": name, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 5, "logit_bias": NO_END, **fields}
    answer = server.post("/v1/completions", body)
    assert answer.status == 200, answer
    return answer.json()


def likeliest(server, name, prompt):
    """The five likeliest next tokens, and how much of the prompt was cached."""
    answer = complete(server, name, prompt)
    return answer["choices"][0]["logprobs"]["top_logprobs"][0], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def distance(one, other):
    """The largest difference of log-probabilities; those that only one knows are as likely as the other's last, at most."""
    least = min(min(one.values()), min(other.values()))
    return max(abs(one.get(token, least) - other.get(token, least)) for token in one.keys() | other.keys())


def prompts_of(name):
    base = prompt_of(name, LENGTH)
    return [base] + [base[:cut] + prompt_of(f"{name} {cut}", 25) for cut in CUTS]


def read_afresh(models, name, prompts):
    """The answers without caches, and how far another way may be off: as far as other sizes of batches take them, of the prompt's
    chunks and of its last token's, which is computed alone only where no other sequence runs."""
    fresh = models.server("fresh")
    answers = [likeliest(fresh, name, prompt) for prompt in prompts]
    assert {cached for _, cached in answers} == {0}
    answers = [answer for answer, _ in answers]
    chunks = [likeliest(models.server("chunks"), name, prompt)[0] for prompt in prompts]
    other = prompt_of(f"{name} beside", 30)
    with fresh.stream("/v1/completions", model=name, prompt=other, max_tokens=900, logit_bias=NO_END) as running:
        next(running.events())
        beside = [likeliest(fresh, name, prompt)[0] for prompt in prompts]
    noise = max(distance(answer, other) for answer, *others in zip(answers, chunks, beside, strict=True) for other in others)
    assert not IS_BUNDLED or noise < 0.1, f"batches of other sizes change {noise}"
    return answers, NOISE + TIMES * noise


@pytest.fixture(scope="module")
def expected(models):
    """For each architecture: the answers to its prompts, and how far another way may be off."""
    return functools.cache(lambda name: read_afresh(models, name, prompts_of(name)))


ALL = pytest.mark.parametrize("name", SUBJECTS)


@ALL
@pytest.mark.parametrize("way", ["cells", "memory"])
def test_shared_beginnings_give_the_same_answer(models, expected, way, name):
    answers, bound = expected(name)
    server = models.server(way)
    for number, (prompt, answer) in enumerate(zip(prompts_of(name), answers, strict=True)):
        found, cached = likeliest(server, name, prompt)
        assert distance(answer, found) <= bound, f"{cached} of {len(prompt)} tokens cached"
        if number and name not in FIXED:
            # What is worth a copy is found, with what those before had in common.
            assert cached >= CUTS[number - 1] or CUTS[number - 1] < 64, cached


@pytest.fixture(scope="module")
def restarted(models):
    """A server that read all first prompts before it was stopped and started again."""
    WAYS["disk"] = WAYS["memory"]
    server = models.server("disk")
    for name in SUBJECTS:
        complete(server, name, prompts_of(name)[0])
    server.terminate()
    assert server.process.wait(60) == 0
    server.close()
    del models.servers["disk"]
    return models.server("disk")


@ALL
def test_what_was_on_disk_gives_the_same_answer(restarted, expected, name):
    answers, bound = expected(name)
    # The shortest beginning first: the file is read for it, and is in host memory for the others.
    for number, (prompt, answer) in reversed(list(enumerate(zip(prompts_of(name), answers, strict=True)))):
        found, cached = likeliest(restarted, name, prompt)
        assert distance(answer, found) <= bound, f"{cached} of {len(prompt)} tokens cached"
        if name in FIXED:
            assert cached == 0, "a state that cannot be cut is not kept"
        else:
            assert cached >= (CUTS[number - 1] if number else LENGTH - 1), cached


@ALL
def test_running_sequences_share_the_same_state(models, name):
    server = models.server("cells")
    # Of its own, so that it is not found among those that ended.
    first = [7, *prompts_of(name)[0]]
    reference, bound = read_afresh(models, name, [[7, *prompt] for prompt in prompts_of(name)[1:]])
    with server.stream("/v1/completions", model=name, prompt=first, max_tokens=900, logit_bias=NO_END) as running:
        events = running.events()
        next(events)
        for prompt, answer in zip(prompts_of(name)[1:], reference, strict=True):
            found, cached = likeliest(server, name, [7, *prompt])
            assert distance(answer, found) <= bound, f"{cached} of {len(prompt)} tokens cached"


@ALL
def test_cells_of_kept_sequences_are_not_taken(models, expected, name):
    """Where cells are few, new tokens go between those that are kept; a kept one that is cut has all that it needs."""
    _, bound = expected(name)
    draw = random.Random(name)
    base = prompt_of(name, LENGTH)
    for number in range(20 if IS_BUNDLED else 8):
        cut = draw.choice([0, 0, LENGTH // 6, LENGTH // 2, LENGTH * 3 // 4, LENGTH - 1])
        prompt = base[:cut] + prompt_of(f"{name} traffic {number}", draw.randrange(20, 250))
        answer, _ = likeliest(models.server("fresh"), name, prompt)
        found, cached = likeliest(models.server("few"), name, prompt)
        assert distance(answer, found) <= bound, f"{cached} of {len(prompt)} tokens cached, request {number}"


def tokens_of(answer):
    """Tokens and how much likelier each was than the second."""
    logprobs = answer["choices"][0]["logprobs"]
    leads = []
    for likely in logprobs["top_logprobs"]:
        first, second = sorted(likely.values(), reverse=True)[:2]
        leads.append(first - second)
    return list(zip(logprobs["tokens"], leads, strict=True))


def assert_same_until_unclear(reference, found, bound):
    """Equal tokens up to the first whose lead is within the noise: what follows that one may be another text."""
    assert len(reference) == len(found)
    for (token, lead), (other, _) in zip(reference, found, strict=True):
        if token != other:
            assert lead <= bound, f"{token!r} leads by {lead}, and {other!r} came"
            return


@ALL
def test_making_room_changes_nothing(models, expected, name):
    """Four at once where two fit: some are moved out or read again."""
    _, bound = expected(name)
    prompts = [prompt_of(f"{name} crowd {number}", 250 + 20 * number) for number in range(4)]
    reference = [tokens_of(complete(models.server("fresh"), name, prompt, 60)) for prompt in prompts]
    server = models.server("crowded")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: tokens_of(complete(server, name, prompt, 60)), prompts))
    for one, other in zip(reference, found, strict=True):
        assert_same_until_unclear(one, other, bound)


@ALL
def test_a_stream_goes_on_after_its_workers_death(models, expected, name):
    _, bound = expected(name)
    prompt = prompts_of(name)[0]
    reference = tokens_of(complete(models.server("fresh"), name, prompt, 80))
    server = models.server("cells")
    pieces, leads = [], []
    fields = {"model": name, "prompt": prompt, "max_tokens": 80, "temperature": 0, "logprobs": 5, "logit_bias": NO_END}
    with server.stream("/v1/completions", **fields) as stream:
        for event in stream.events():
            logprobs = event["choices"][0]["logprobs"] if event.get("choices") else None
            if logprobs:
                before = len(pieces)
                pieces += logprobs["tokens"]
                leads += [0.0] * len(logprobs["tokens"])
                if before < 20 <= len(pieces):
                    os.kill(models.worker(server, name), signal.SIGKILL)
    assert_same_until_unclear(reference, list(zip(pieces, leads, strict=True)), bound)


@pytest.mark.parametrize("name, way", [(name, way) for name in SUBJECTS for way in WAYS_OF_CHATS if way == "cells" or name not in FIXED])
def test_a_chat_of_ten_turns_is_read_once(models, name, way):
    """Each turn's prompt is the one before and what is new: nine tenths and more of the tokens are cached, whatever the memory."""
    server = models.server(way)
    prompt = prompt_of(f"{name} chat {way}", LENGTH)
    read = known = 0
    for turn in range(10):
        _, cached = likeliest(server, name, prompt)
        if turn:
            read, known = read + len(prompt), known + cached
        prompt = prompt + prompt_of(f"{name} chat {way} {turn}", LENGTH // 10)
    assert known >= 0.9 * read, f"{known} of {read} tokens cached"
