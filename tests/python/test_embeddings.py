"""Embeddings: the SDK, raw HTTP, models that only embed, and everything that can be sent wrong."""

import base64
import itertools
import json
import math
import os
import random
import select
import signal
import struct
import threading
import time

import openai
import openai_schema
import pytest
import tiny_bert
from harness import BUNDLED, ENDLESS, GENERATES, IS_BUNDLED, MODEL, VOCABULARY, Server, wait_until
from langchain_openai import OpenAIEmbeddings

PATH = "/api/v1/embeddings"
TEXTS = [
    "How do I reset my password?", "I forgot my password and need a new one", "The sea is deep and blue", "Hello", "a b c d e",
    "x" * 300, "Chào bạn 🙂",
]  # fmt: skip

#: The first numbers of all-MiniLM-L6-v2's vectors, computed apart: NumPy in 64 bits, from the published weights.
OF_MINILM = {
    "How do I reset my password?": [0.00690, -0.06302, -0.07204, -0.03250, -0.04271, 0.07043, 0.00907, 0.01541],
    "I forgot my password and need a new one": [-0.10186, -0.07018, -0.01744, -0.02891, 0.01003, 0.06329, -0.01398, 0.00143],
    "The sea is deep and blue": [-0.02962, 0.03920, 0.06980, -0.04661, 0.01206, -0.01040, 0.02314, -0.02597],
    "Hello": [-0.06277, 0.05496, 0.05216, 0.08579, -0.08275, -0.07457, 0.06855, 0.01840],
}
OF_A_GENERATOR = pytest.mark.skipif(not GENERATES, reason="the model makes embeddings only")


def embed(server, *, model=MODEL, path=PATH, **fields):
    answer = server.post(path, {"model": model} | fields, key=server.admin_key)
    assert answer.status == 200, answer
    return answer.json()


def vectors(answer):
    assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
    return [one["embedding"] for one in answer["data"]]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def width():
    return VOCABULARY.metadata[VOCABULARY.metadata["general.architecture"] + ".embedding_length"]


def test_the_python_sdk(client):
    answer = client.embeddings.create(model=MODEL, input=TEXTS)
    assert (answer.object, answer.model) == ("list", MODEL)
    assert [one.index for one in answer.data] == list(range(len(TEXTS)))
    assert {one.object for one in answer.data} == {"embedding"}
    for one in answer.data:
        assert len(one.embedding) == width() and abs(dot(one.embedding, one.embedding) - 1) < 1e-4
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(TEXTS)


async def test_the_async_sdk(async_client):
    answer = await async_client.embeddings.create(model=MODEL, input="Hello", encoding_format="float")
    assert len(answer.data) == 1 and len(answer.data[0].embedding) == width()


@pytest.mark.skipif(openai_schema.FILE is None, reason=openai_schema.MISSING)
def test_the_body_is_openais(server):
    for fields in ({"input": "a"}, {"input": TEXTS}, {"input": [1, 2]}, {"input": [[1], [2, 3]]}):
        openai_schema.check("CreateEmbeddingResponse", embed(server, **fields))


def test_float_is_the_default_and_base64_has_the_same_numbers(server):
    plain = vectors(embed(server, input=TEXTS))
    assert vectors(embed(server, input=TEXTS, encoding_format="float")) == plain
    for packed, numbers in zip(vectors(embed(server, input=TEXTS, encoding_format="base64")), plain, strict=True):
        data = base64.b64decode(packed)
        assert dot(struct.unpack(f"<{len(data) // 4}f", data), numbers) > 0.999


def test_neighbours_in_a_batch_make_no_difference(server):
    together = vectors(embed(server, input=TEXTS * 3))
    for at, text in enumerate(TEXTS):
        alone = vectors(embed(server, input=text))[0]
        likeness = [dot(alone, other) for other in together]
        for index, like in enumerate(likeness):
            if index % len(TEXTS) == at:
                assert like > 0.999, (text, index)
            else:
                assert like < min(likeness[at :: len(TEXTS)]), (text, TEXTS[index % len(TEXTS)])


@pytest.mark.skipif(VOCABULARY.metadata.get("general.name") != "all-MiniLM-L6-v2", reason="the numbers are all-MiniLM-L6-v2's")
def test_the_vectors_are_those_of_the_published_weights(server):
    for text, vector in zip(OF_MINILM, vectors(embed(server, input=list(OF_MINILM))), strict=True):
        expected = OF_MINILM[text]
        assert max(abs(x - y) for x, y in zip(expected, vector)) < 1e-3, (text, vector[: len(expected)])


def test_a_long_input_is_read_in_pieces_and_like_itself(server):
    """Beside others its pieces are cut elsewhere."""
    # An encoder reads at most what it was trained for.
    words = "the sea and the moon " * (150 if GENERATES else 90)
    alone = vectors(embed(server, input=words))[0]
    assert embed(server, input=words)["usage"]["prompt_tokens"] > 256, "it is no longer than one piece"
    beside = vectors(embed(server, input=["Hello there", words, "a b"]))[1]
    assert dot(alone, beside) > 0.999


def test_tokens_are_the_text(server):
    text = TEXTS[0]
    tokens = server.post("/api/v1/tokenize", {"model": MODEL, "prompt": text}, key=server.admin_key).json()["tokens"]
    by_text, by_tokens, by_list = (embed(server, input=given) for given in (text, tokens, [tokens, tokens[:2]]))
    assert by_text["usage"] == by_tokens["usage"] == {"prompt_tokens": len(tokens), "total_tokens": len(tokens)}
    assert dot(vectors(by_text)[0], vectors(by_tokens)[0]) > 0.999
    assert dot(vectors(by_text)[0], vectors(by_list)[0]) > 0.999 and len(by_list["data"]) == 2


def test_dimensions_cut_and_scale(server, client):
    whole = vectors(embed(server, input="Hello"))[0]
    for dimensions in (1, 10, width()):
        short = vectors(embed(server, input="Hello", dimensions=dimensions))[0]
        assert len(short) == dimensions and abs(dot(short, short) - 1) < 1e-4
        length = math.sqrt(dot(whole[:dimensions], whole[:dimensions]))
        assert dot(short, whole[:dimensions]) / length > 0.999
    assert len(client.embeddings.create(model=MODEL, input="Hello", dimensions=8).data[0].embedding) == 8
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=MODEL, input="Hello", dimensions=width() + 1)
    assert error.value.param == "dimensions" and str(width()) in error.value.message


def test_langchain(server):
    made = OpenAIEmbeddings(
        model=MODEL, base_url=server.base_url, api_key=server.admin_key, check_embedding_ctx_length=False
    )
    found = made.embed_documents(TEXTS[:3])
    query = made.embed_query(TEXTS[0])
    assert [len(one) for one in found] == [width()] * 3 and dot(query, found[0]) > 0.999


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({}, 400, "input", "missing_required_parameter"),
        ({"input": None}, 400, "input", "invalid_value"),
        ({"input": ""}, 400, "input", "invalid_value"),
        ({"input": []}, 400, "input", "invalid_value"),
        ({"input": ["a", ""]}, 400, "input[1]", "invalid_value"),
        ({"input": [""]}, 400, "input", "invalid_value"),
        ({"input": [[]]}, 400, None, "invalid_value"),
        ({"input": [1, "a"]}, 400, None, "invalid_type"),
        ({"input": ["a", None]}, 400, None, "invalid_type"),
        ({"input": {"text": "a"}}, 400, "input", "invalid_type"),
        ({"input": 3}, 400, "input", "invalid_type"),
        ({"input": [1.5]}, 400, None, "invalid_type"),
        ({"input": [-1]}, 400, None, "invalid_value"),
        ({"input": [2147483648]}, 400, None, "invalid_value"),
        ({"input": [2147483647]}, 400, "input", "invalid_value"),
        ({"input": [[1], [99999999]]}, 400, "input", "invalid_value"),
        ({"input": ["a"] * 2049}, 400, None, "invalid_value"),
        ({"input": [[1]] * 2049}, 400, None, "invalid_value"),
        ({"input": "a", "dimensions": 0}, 400, "dimensions", "invalid_value"),
        ({"input": "a", "dimensions": -1}, 400, "dimensions", "invalid_value"),
        ({"input": "a", "dimensions": 1 << 40}, 400, "dimensions", "invalid_value"),
        ({"input": "a", "dimensions": 1000000}, 400, "dimensions", "invalid_value"),
        ({"input": "a", "dimensions": 1.5}, 400, "dimensions", "invalid_type"),
        ({"input": "a", "dimensions": "8"}, 400, "dimensions", "invalid_type"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format", "invalid_value"),
        ({"input": "a", "encoding_format": 1}, 400, "encoding_format", "invalid_type"),
        ({"input": "a", "user": 1}, 400, "user", "invalid_type"),
        ({"input": "a", "model": ""}, 400, "model", "invalid_value"),
        ({"input": "a", "model": "nobody"}, 404, "model", "model_not_found"),
    ],
)
def test_what_is_wrong_is_named(server, fields, status, param, code):
    answer = server.post(PATH, {"model": MODEL} | fields, key=server.admin_key)
    assert answer.status == status, answer
    assert param is None or answer.error["param"] == param, answer
    assert param or answer.error["param"].startswith("input"), answer
    assert code is None or answer.error["code"] == code, answer


def body(value):
    return b'{"model": "%s", "input": %s}' % (MODEL.encode(), value)


@pytest.mark.parametrize(
    "value",
    [
        b"[" + b"1" * 20_000_000 + b"]",
        b"1e400",
        b"[1e400]",
        b'"\\ud800"',
        b'["a", "\\udfff\\ud800"]',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'"\xff\xfe"',
        b'"' + b"a " * 5_000_000 + b'"',
        b"[" + b",".join([b'"' + b"word " * 2000 + b'"'] * 2000) + b"]",
        b"[" + b",".join([b"1"] * 1_000_000) + b"]",
        b'"unfinished',
    ],
    ids=["digits", "1e400", "[1e400]", "surrogate", "surrogates", "arrays", "objects", "utf8", "long", "many", "tokens", "cut"],
)
def test_hostile_bodies_are_refused_soon(server, value):
    begin = time.monotonic()
    answer = server.post(PATH, body(value), key=server.admin_key)
    assert 400 <= answer.status < 500, answer
    assert time.monotonic() - begin < 30
    assert server.get("/health").status == 200
    assert len(embed(server, input="still there")["data"]) == 1


def test_a_text_that_is_too_long_is_told_its_place(server):
    limit = server.get(f"/api/v1/models/{MODEL}", key=server.admin_key).json()["context_length"]
    answer = server.post(PATH, {"model": MODEL, "input": ["a", "b", "sea " * (limit + 10)]}, key=server.admin_key)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "context_length_exceeded", "input"), answer
    assert str(limit) in answer.error["message"] and "input 2" in answer.error["message"].lower()


def test_a_request_has_a_bounded_number_of_tokens(server):
    answer = server.post(PATH, {"model": MODEL, "input": [[1] * 200] * 1501}, key=server.admin_key)
    assert (answer.status, answer.error["param"]) == (400, "input") and "300000" in answer.error["message"], answer


def test_permissions_and_methods(server):
    key = server.new_key(server.new_user("reader@embeddings.example"), ["read"])["key"]
    assert server.post(PATH, {"model": MODEL, "input": "a"}, key=key).status == 403
    wrong = server.get(PATH, key=server.admin_key)
    assert wrong.status == 405 and wrong.headers["Allow"] == "POST, OPTIONS"
    assert len(embed(server, path="/v1/embeddings", input="a")["data"]) == 1
    odd = server.post(PATH, {"model": MODEL, "input": "a", "inputs": 1}, key=server.admin_key)
    assert odd.status == 200 and odd.headers["X-Ignored-Fields"] == "inputs"


def test_what_is_read_is_counted(server):
    key = server.new_key(server.new_user("counted@embeddings.example"))["key"]
    used = 0
    for _ in range(2):
        answer = server.post(PATH, {"model": MODEL, "input": TEXTS}, key=key)
        used += answer.json()["usage"]["total_tokens"]
    buckets = server.get("/api/v1/usage", key=key).json()["data"]
    results = [result for bucket in buckets for result in bucket["results"]]
    assert sum(result["num_model_requests"] for result in results) == 2
    assert sum(result["input_tokens"] for result in results) == used
    assert sum(result["output_tokens"] for result in results) == 0


def test_tokens_that_are_read_count_against_the_limit(make_server):
    server = make_server(env={"JAN_SERVER__RATE_LIMITS__TOKENS_PER_MINUTE": "20"})
    key = server.new_key(server.new_user("limited@embeddings.example"))["key"]
    assert server.post(PATH, {"model": MODEL, "input": "sea " * 200}, key=key).status == 200
    refused = server.post(PATH, {"model": MODEL, "input": "a"}, key=key)
    assert refused.status == 429 and int(refused.headers["Retry-After"]) >= 1, refused


@OF_A_GENERATOR
def test_more_than_there_are_places_is_refused(make_server):
    server = make_server(env={"JAN_SERVER__QUEUE__MAX_REQUESTS": "1"})
    with server.stream(key=server.admin_key, max_tokens=400, logit_bias=ENDLESS) as stream:
        events = stream.events()
        next(events)
        refused = server.post(PATH, {"model": MODEL, "input": "a"}, key=server.admin_key)
        assert (refused.status, refused.error["code"]) == (503, "queue_full") and refused.headers["Retry-After"]
    wait_until(
        lambda: server.post(PATH, {"model": MODEL, "input": "a"}, key=server.admin_key).status == 200, "a place is free"
    )


@OF_A_GENERATOR
def test_streams_go_on_beside_embeddings_and_crashes(make_server):
    """A worker is killed while a stream and embeddings are made in it: both end as if nothing had happened."""
    server = make_server()
    texts = [f"{text} {number}" for number in range(100 if IS_BUNDLED else 25) for text in TEXTS[:4]]
    expected = vectors(embed(server, input=texts[:4]))
    answers = []
    worker = server.worker()
    with server.stream(key=server.admin_key, max_tokens=120, logit_bias=ENDLESS, temperature=0) as stream:
        events = stream.events()
        next(events)
        asking = threading.Thread(target=lambda: answers.append(embed(server, input=texts)))
        asking.start()
        for _ in range(5):
            next(events)
        os.kill(worker, signal.SIGKILL)
        rest = list(events)
    asking.join(120)
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    made = vectors(answers[0])
    assert len(made) == len(texts) and server.worker() != worker
    for before, after in zip(expected, made, strict=False):
        assert dot(before, after) > 0.999


def test_a_client_that_goes_away_takes_its_work_along(make_server):
    server = make_server(env={"JAN_SERVER__QUEUE__MAX_REQUESTS": "1"})
    limit = min(server.get(f"/api/v1/models/{MODEL}", key=server.admin_key).json()["context_length"], 1000)
    data = json.dumps({"model": MODEL, "input": [[5] * limit] * (250_000 // limit)}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    request = f"{head}Authorization: Bearer {server.admin_key}\r\n\r\n".encode() + data

    def probe():
        return server.post(PATH, {"model": MODEL, "input": "a"}, key=server.admin_key).status

    def takes_the_place():
        connection = server.connect()
        connection.sendall(request)
        # An answer so soon is 503: a probe had the place.
        while not select.select([connection], [], [], 0.2)[0]:
            if probe() == 503:
                return connection
        connection.close()
        return None

    wait_until(takes_the_place, "it has the place").close()
    wait_until(lambda: probe() == 200, "the place is free")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A server with models that only embed, and one whose pooling is set."""
    folder = tmp_path_factory.mktemp("bert")
    files = {name: tiny_bert.write(folder / f"{name}.gguf", pooling) for name, pooling in
             (("mean", tiny_bert.MEAN), ("cls", tiny_bert.CLS), ("last", tiny_bert.LAST), ("cross", tiny_bert.RANK))}  # fmt: skip
    files["modern"] = tiny_bert.write(folder / "modern.gguf", tiny_bert.MEAN, architecture="modern-bert")
    files["modern-cross"] = tiny_bert.write(folder / "modern-cross.gguf", tiny_bert.RANK, architecture="modern-bert")
    models = [(name, path, None) for name, path in files.items()] + [("set", files["mean"], "cls"), ("cross-mean", files["cross"], "mean"), ("tiny-last", BUNDLED, "last")]
    config = "".join(
        f'[[models]]\nid = "{name}"\npath = "{path}"\n' + (f'pooling = "{pooling}"\n' if pooling else "")
        for name, path, pooling in models
    )
    server = Server(folder / "server", config=config)
    for name, _, _ in models:
        wait_until(
            lambda name=name: server.get(f"/api/v1/models/{name}", key=server.admin_key).json()["status"] == "ready", name, 60
        )
    yield server
    server.close()


def test_an_encoder_embeds(bert):
    answer = embed(bert, model="cls", input=["hello world", "the sea", "cats and dogs"])
    found = vectors(answer)
    assert {len(one) for one in found} == {tiny_bert.WIDTH}
    assert all(abs(dot(one, one) - 1) < 1e-4 for one in found)
    # CLS and SEP are around each.
    assert embed(bert, model="cls", input="hello world")["usage"]["prompt_tokens"] == 4
    assert embed(bert, model="cls", input=[2, 5, 6, 3])["usage"]["prompt_tokens"] == 4
    assert dot(found[0], vectors(embed(bert, model="cls", input=[2, 5, 6, 3]))[0]) > 0.999
    assert max(dot(found[0], found[1]), dot(found[0], found[2])) < 0.999
    together = vectors(embed(bert, model="cls", input=["hello world", "the sea"] * 100))
    assert min(dot(found[0], one) for one in together[::2]) > 0.999
    assert len(vectors(embed(bert, model="cls", input="hello", dimensions=7))[0]) == 7


def test_the_pooling_is_the_files_or_the_setting(bert):
    made = {name: vectors(embed(bert, model=name, input="hello world"))[0] for name in ("mean", "cls", "last", "set")}
    assert dot(made["set"], made["cls"]) > 0.999
    for one, other in (("mean", "cls"), ("mean", "last"), ("cls", "last")):
        assert dot(made[one], made[other]) < 0.999, (one, other)
    tokens = bert.post("/api/v1/tokenize", {"model": "tiny-last", "prompt": "one two three"}, key=bert.admin_key).json()["tokens"]
    last = [vectors(embed(bert, model="tiny-last", input=given))[0] for given in (tokens, tokens[:1])]
    assert dot(*last) < 0.999
    if IS_BUNDLED:
        mean = [vectors(embed(bert, model="jan-tiny", input=given))[0] for given in (tokens, tokens[:1])]
        assert dot(mean[1], last[1]) > 0.999, "of one token all poolings are the same"
        assert dot(mean[0], last[0]) < 0.999


def test_an_encoder_reads_as_much_as_it_was_trained_for_and_no_more(bert):
    full = [2] + [5] * (tiny_bert.CONTEXT - 2) + [3]
    assert embed(bert, model="mean", input=[full] * 20)["usage"]["total_tokens"] == 20 * tiny_bert.CONTEXT
    answer = bert.post(PATH, {"model": "mean", "input": [full, [*full, 3]]}, key=bert.admin_key)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded"), answer
    assert "Input 1 " in answer.error["message"] and str(tiny_bert.CONTEXT) in answer.error["message"]


def test_an_encoder_does_not_answer(bert):
    for path, fields in (
        ("/api/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/api/v1/completions", {"prompt": "hello"}),
        ("/api/v1/responses", {"input": "hello"}),
        ("/api/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "stream": True}),
    ):
        answer = bert.post(path, {"model": "cls"} | fields, key=bert.admin_key)
        assert (answer.status, answer.error["param"]) == (400, "model") and "embeddings" in answer.error["message"], answer
    assert len(embed(bert, model="cls", input="hello")["data"]) == 1


@pytest.mark.parametrize("model", ["mean", "cls", "last", "modern", "cross-mean"])
def test_an_encoders_vector_is_that_of_its_text_alone(bert, model):
    """Alone, after others, and beside others of many lengths: more than a window of ModernBERT, and more than a batch."""
    draw = random.Random(model)
    inputs = [[2, *(draw.randrange(5, 15) for _ in range(length)), 3] for length in (1, 3, 9, 20, 40, tiny_bert.CONTEXT - 2)]
    fresh = [vectors(embed(bert, model=model, input=one))[0] for one in inputs]
    for one, other in itertools.combinations(fresh, 2):
        assert dot(one, other) < 0.9999
    after = [vectors(embed(bert, model=model, input=one))[0] for one in reversed(inputs)][::-1]
    together = inputs * 12
    draw.shuffle(together)
    beside = vectors(embed(bert, model=model, input=together))
    # In batches of other sizes the last bits of attention differ.
    for one, again in [*zip(fresh, after, strict=True), *((fresh[inputs.index(one)], vector) for one, vector in zip(together, beside))]:
        assert max(abs(x - y) for x, y in zip(one, again, strict=True)) < 2e-3


def test_a_cross_encoder_makes_no_embeddings(bert):
    for model in ("cross", "modern-cross"):
        answer = bert.post(PATH, {"model": model, "input": "hello world"}, key=bert.admin_key)
        assert (answer.status, answer.error["param"]) == (400, "model") and "cross-encoder" in answer.error["message"], answer
    assert len(vectors(embed(bert, model="cross-mean", input="hello world"))[0]) == tiny_bert.WIDTH
