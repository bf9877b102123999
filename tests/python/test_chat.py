"""Chat completions through the OpenAI Python SDK."""

import asyncio
import json

import pytest
from greedy import CHAT, TEXT, assert_same_text, pieces_of
from harness import ENDLESS, IS_BUNDLED, MODEL, VOCABULARY

STORY = [{"role": "user", "content": "Tell me a story"}]
#: With the end banned, what follows the short answer is a model's guesswork: nothing in it is sure, so every setting shows.
UNSURE = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 80, "logit_bias": ENDLESS}


def test_plain(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=30, temperature=0
    )
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    (choice,) = answer.choices
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    assert 0 < answer.usage.completion_tokens <= 30
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    if IS_BUNDLED:
        assert choice.finish_reason == "stop"


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_usage_in_every_chunk_counts_up_to_the_total(server, path):
    """vLLM's `continuous_usage_stats`, of several answers together."""
    body = {"model": MODEL, "max_tokens": 20, "temperature": 1, "seed": 3, "n": 2, "stream": True, "logit_bias": ENDLESS}
    body |= {"messages": STORY} if path == CHAT else {"prompt": "Once upon a time"}
    body["stream_options"] = {"continuous_usage_stats": True, "include_usage": True}
    answer = server.post(path, body, key=server.admin_key)
    assert answer.status == 200 and answer.headers["X-Ignored-Fields"] is None, answer
    lines = [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: {")]
    *chunks, last = map(json.loads, lines)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert all(a <= b for a, b in zip(counts, counts[1:], strict=False)) and len(set(counts)) > 10, counts
    assert counts[-1] == last["usage"]["completion_tokens"] == 40
    assert chunks[-1]["usage"] == last["usage"] and last["choices"] == []
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {last["usage"]["prompt_tokens"]}


def test_stream_equals_plain(client, server):
    request = {"model": MODEL, "messages": STORY, "max_tokens": 60, "temperature": 0}
    plain = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.created for chunk in chunks}) == 1
    *deltas, usage = chunks
    pieces = [chunk.choices[0].delta.content or "" for chunk in deltas]
    tie = assert_same_text(server, CHAT, request, pieces, plain.choices[0].message.content)
    assert deltas[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in deltas[1:])
    assert [c.choices[0].finish_reason for c in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].choices[0].finish_reason in ("stop", "length")
    assert usage.choices == []
    assert usage.usage.prompt_tokens == plain.usage.prompt_tokens
    if not tie:
        assert deltas[-1].choices[0].finish_reason == plain.choices[0].finish_reason
        assert usage.usage.completion_tokens == plain.usage.completion_tokens


def test_no_usage_chunk_unless_asked(client):
    for chunk in client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=5, stream=True):
        assert len(chunk.choices) == 1
        assert chunk.usage is None


async def test_async(async_client):
    async def one(i):
        answer = await async_client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": f"Hello number {i}"}], max_tokens=10
        )
        return answer.choices[0].message.content

    assert all(await asyncio.gather(*(one(i) for i in range(8))))


async def test_async_stream(async_client):
    stream = await async_client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=20, stream=True)
    parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(parts).strip()


def test_cancel_mid_stream_then_ask_again(client):
    """Closing a stream leaves client and server able to go on at once."""
    for _ in range(5):
        with client.chat.completions.create(
            model=MODEL, messages=STORY, max_tokens=1000, logit_bias=ENDLESS, stream=True
        ) as stream:
            for count, _chunk in enumerate(stream):
                if count == 5:
                    break
        answer = client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=3)
        assert answer.usage.completion_tokens == 3


async def test_async_cancel(async_client):
    async def endless():
        async for _ in await async_client.chat.completions.create(
            model=MODEL, messages=STORY, max_tokens=1000, logit_bias=ENDLESS, stream=True
        ):
            pass

    task = asyncio.create_task(endless())
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    answer = await async_client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=3)
    assert answer.usage.completion_tokens == 3


def test_n_answers(client):
    answer = client.chat.completions.create(model=MODEL, n=4, temperature=1.5, seed=7, **UNSURE)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.completion_tokens == 320
    assert len({choice.message.content for choice in answer.choices}) > 1, "n answers must be n draws"


def test_n_answers_streamed(client):
    texts, reasons = {}, {}
    for chunk in client.chat.completions.create(
        model=MODEL, messages=STORY, n=3, max_tokens=15, temperature=0, stream=True, logit_bias=ENDLESS
    ):
        (choice,) = chunk.choices
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert set(texts) == {0, 1, 2}
    assert reasons == {0: "length", 1: "length", 2: "length"}


def test_max_tokens_and_max_completion_tokens(client):
    for field in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(
            model=MODEL, messages=STORY, logit_bias=ENDLESS, **{field: 11}
        )
        assert answer.usage.completion_tokens == 11
        assert answer.choices[0].finish_reason == "length"


def greedy(client, **fields):
    return client.chat.completions.create(
        **({"model": MODEL, "messages": STORY, "max_tokens": 60, "temperature": 0} | fields)
    ).choices[0]


def story(**fields):
    return {"model": MODEL, "messages": STORY, "max_tokens": 20, "temperature": 0} | fields


@pytest.mark.parametrize("as_list", [False, True])
def test_stop_text_is_never_part_of_the_answer(client, server, as_list):
    request = story(max_tokens=40)
    pieces = pieces_of(server, **request)
    whole = "".join(pieces)
    # A text from the middle of the answer that starts inside a word, so that it straddles tokens.
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    expected = whole[: whole.index(stop)]
    choice = greedy(client, max_tokens=40, stop=[stop, "\u0000never"] if as_list else stop)
    streamed = client.chat.completions.create(**request, stop=stop, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in streamed]
    for text in (choice.message.content, "".join(parts)):
        assert stop not in text
        if text != expected:
            assert_same_text(server, CHAT, request, pieces, text)
    if choice.message.content == expected:
        assert choice.finish_reason == "stop"


def test_temperature_zero_is_deterministic(server, client):
    pieces = pieces_of(server, **story(max_tokens=40))
    for _ in range(3):
        assert_same_text(server, CHAT, story(max_tokens=40), pieces, greedy(client, max_tokens=40).message.content)


def test_seed(client):
    words = [i for i, piece in enumerate(VOCABULARY.pieces) if piece.isalpha() and len(piece) > 2][:24]
    few = {"temperature": 2, "max_tokens": 20, "frequency_penalty": 2, "logit_bias": {str(i): 100 for i in words}}

    def draw(seed):
        return greedy(client, seed=seed, **few).message.content

    # The last bits of the logits can move a draw over a boundary, which among few words at a high temperature is rare:
    # where the cells of a sequence lie in another order, so do the sums. A given model runs with `engine.reproducible`.
    same = [draw(1) for _ in range(9)]
    assert max(same.count(text) for text in same) >= (3 if IS_BUNDLED else 9), same
    assert len({draw(seed) for seed in range(6)}) == 6


def test_narrow_samplers_are_greedy(client, server):
    """Hot sampling that leaves one candidate takes the likeliest, like temperature 0."""
    pieces = pieces_of(server, **story())
    hot = {"temperature": 2, "max_tokens": 20}
    for answer in (
        greedy(client, **hot, top_p=0.000001),
        greedy(client, **hot, extra_body={"top_k": 1}),
        greedy(client, **hot, extra_body={"min_p": 1.0}),
    ):
        assert_same_text(server, CHAT, story(), pieces, answer.message.content)


def test_logit_bias_forces_and_bans(client):
    token = VOCABULARY.ids_of("a")[0]
    forced = greedy(client, max_tokens=5, logit_bias={str(token): 100}).message.content
    assert forced == "aaaaa"
    first = greedy(client, max_tokens=1)
    ids = VOCABULARY.ids_of(first.message.content)
    assert ids, f"{first.message.content!r} is a token"
    banned = greedy(client, max_tokens=1, logit_bias={str(i): -100 for i in ids}).message.content
    assert banned != first.message.content


def test_penalties(client):
    """A forced token stops coming once its penalties outgrow the bias on it."""
    token = VOCABULARY.ids_of("a")[0]

    def count_of_a(**penalty):
        choice = greedy(client, max_tokens=40, logit_bias={str(token): 40} | ENDLESS, **penalty)
        return len(choice.message.content) - len(choice.message.content.lstrip("a"))

    plain = count_of_a()
    assert plain == 40
    assert count_of_a(frequency_penalty=2.0) < plain
    assert count_of_a(frequency_penalty=-2.0) == plain
    best = greedy(client, **UNSURE).message.content
    assert greedy(client, presence_penalty=2.0, frequency_penalty=2.0, **UNSURE).message.content != best


def test_typical_p(client):
    """A share so small that one token has it leaves nothing to the draw but ties in typicality."""

    def draws(**fields):
        return {
            greedy(client, temperature=2, seed=seed, max_tokens=24, logit_bias=ENDLESS, extra_body=fields).message.content
            for seed in range(10)
        }

    assert len(draws(typical_p=1e-6)) < len(draws())


def test_repeat_penalty(client):
    """Both names do something; what exactly is shown token by token in test_completions.py."""
    best = greedy(client, **UNSURE).message.content
    for name in ("repeat_penalty", "repetition_penalty"):
        assert greedy(client, extra_body={name: 1.8}, **UNSURE).message.content != best


def test_content_parts_are_joined_by_line_breaks(client, server):
    request = story(messages=[{"role": "user", "content": "Tell me\na story"}])
    parts = [{"type": "text", "text": "Tell me"}, {"type": "text", "text": "a story"}]
    answer = greedy(client, messages=[{"role": "user", "content": parts}], max_tokens=20)
    assert_same_text(server, CHAT, request, pieces_of(server, **request), answer.message.content)


def test_roles_and_names(client):
    messages = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Hello", "name": "ann"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Again?"},
    ]
    assert greedy(client, messages=messages).finish_reason
    messages[0]["role"] = "developer"
    assert greedy(client, messages=messages).finish_reason


def test_cached_tokens_are_true(client):
    """The second of two equal prompts comes from the prefix cache, a new prompt does not."""
    unlike = [{"role": "user", "content": "zebra quartz " * 40}]
    first = client.chat.completions.create(model=MODEL, messages=unlike, max_tokens=1).usage
    again = client.chat.completions.create(model=MODEL, messages=unlike, max_tokens=1).usage
    assert first.prompt_tokens == again.prompt_tokens > 80
    assert first.prompt_tokens_details.cached_tokens < 60
    # All of it but the last token, which must be read for its logits.
    assert again.prompt_tokens - 40 <= again.prompt_tokens_details.cached_tokens < again.prompt_tokens


def test_usage_counts_the_template(client):
    """Prompt tokens grow with the messages by what the text takes."""

    def prompt_tokens(content):
        request = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        return client.chat.completions.create(**request).usage.prompt_tokens

    short, long = prompt_tokens("a"), prompt_tokens("a" + " a" * 50)
    # A sentence-piece or byte-level vocabulary has " a" as one token; a byte fallback would take two.
    assert 50 <= long - short <= 100


def test_utf8_is_whole_in_every_chunk(client):
    """Characters of three byte tokens come out whole in streams, though each token is only a part of one."""
    pieces = [VOCABULARY.pieces.index(bytes([byte])) for byte in "ツ".encode()]
    streamed_whole = 0
    for seed in range(6):
        request = {
            "model": MODEL,
            "messages": STORY,
            "max_tokens": 60,
            "temperature": 2,
            "seed": seed,
            # Drawn often, a byte loses to the others, so that each has its turn.
            "frequency_penalty": 2,
            # So far above the rest that only the character's three bytes are drawn, in any order.
            "logit_bias": {str(token): 100 for token in pieces},
        }
        stream = client.chat.completions.create(**request, stream=True)
        parts = [chunk.choices[0].delta.content or "" for chunk in stream]
        # Any three-byte character of these bytes will do; U+FFFD stands for bytes that are none.
        streamed_whole += sum("\u3000" <= character < "\ufffd" for part in parts for character in part)
    assert streamed_whole > 0


def test_bundled_model_knows_itself(client):
    answer = greedy(client, messages=[{"role": "user", "content": "Who are you?"}], max_tokens=100)
    if IS_BUNDLED:
        assert "jan" in answer.message.content.lower()
        assert answer.finish_reason == "stop"
    else:
        assert answer.message.content


def test_bundled_model_tells_a_long_story(client):
    answer = client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=600, temperature=0)
    if IS_BUNDLED:
        assert answer.usage.completion_tokens >= 150
        assert answer.choices[0].finish_reason == "stop"
    else:
        assert answer.usage.completion_tokens > 20
