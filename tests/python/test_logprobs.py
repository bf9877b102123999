"""Log-probabilities through the OpenAI Python SDK."""

import math

import pytest
from greedy import CHAT
from harness import ENDLESS, MODEL, VOCABULARY

STORY = [{"role": "user", "content": "Tell me a story"}]


def chat(client, **fields):
    return client.chat.completions.create(
        **({"model": MODEL, "messages": STORY, "max_tokens": 30, "temperature": 0} | fields)
    )


def complete(client, **fields):
    return client.completions.create(
        **({"model": MODEL, "prompt": "The meaning of life is", "max_tokens": 16, "temperature": 0} | fields)
    )


def data_of(content):
    return b"".join(bytes(token.bytes) for token in content)


@pytest.mark.parametrize("top", [0, 1, 20])
def test_every_token_has_one(client, top):
    answer = chat(client, logprobs=True, top_logprobs=top)
    (choice,) = answer.choices
    content = choice.logprobs.content
    assert choice.logprobs.refusal is None
    assert len(content) == answer.usage.completion_tokens
    assert data_of(content) == choice.message.content.encode()
    for token in content:
        assert token.token == bytes(token.bytes).decode(errors="replace")
        assert -50 < token.logprob <= 0
        assert len(token.top_logprobs) == top
        values = [candidate.logprob for candidate in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert sum(math.exp(value) for value in values) <= 1.0001
        if top:
            # Greedy takes the likeliest.
            assert token.bytes == token.top_logprobs[0].bytes
            assert token.logprob == token.top_logprobs[0].logprob


def test_none_unless_asked(client):
    assert chat(client).choices[0].logprobs is None
    assert chat(client, logprobs=False, top_logprobs=0).choices[0].logprobs is None
    assert all(chunk.choices[0].logprobs is None for chunk in chat(client, stream=True))
    assert complete(client).choices[0].logprobs is None


def test_streamed_chunks_carry_those_of_their_text(client):
    chunks = [c.choices[0] for c in chat(client, logprobs=True, top_logprobs=2, stream=True, logit_bias=ENDLESS)]
    with_content = [chunk for chunk in chunks if chunk.logprobs]
    assert sum(len(chunk.logprobs.content) for chunk in with_content) == 30
    text = "".join(chunk.delta.content or "" for chunk in chunks)
    assert b"".join(data_of(chunk.logprobs.content) for chunk in with_content).decode(errors="replace") == text
    assert all(len(token.top_logprobs) == 2 for chunk in with_content for token in chunk.logprobs.content)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_has_none(client, stream):
    whole = chat(client).choices[0].message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    answer = chat(client, logprobs=True, stop=stop, stream=stream)
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    content = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    text = "".join((c.delta.content if stream else c.message.content) or "" for c in choices)
    assert stop not in text
    # The last token may reach into the stop text, but none begins in it.
    assert data_of(content).startswith(text.encode())
    assert len(data_of(content[:-1])) < len(text.encode())


def test_characters_of_several_tokens(client):
    """A character that no token holds whole: each of its bytes is a token with a log-probability of its own."""
    byte_tokens = VOCABULARY.ids_of(b"\xc3") + VOCABULARY.ids_of(b"\xa9")
    if len(byte_tokens) < 2:
        pytest.fail("the model has no tokens for single bytes")
    first, second = byte_tokens[0], byte_tokens[-1]
    for token, data in ((first, b"\xc3"), (second, b"\xa9")):
        choice = chat(client, logprobs=True, max_tokens=2, logit_bias={str(token): 100}).choices[0]
        assert [bytes(t.bytes) for t in choice.logprobs.content] == [data, data]
        assert choice.message.content == "\ufffd\ufffd"
        assert choice.logprobs.content[0].token == "\ufffd"


def test_they_are_the_models_own(client):
    """A bias changes the choice, not what the model thought of it."""
    token = VOCABULARY.ids_of("a")[0]
    plain = chat(client, logprobs=True, top_logprobs=3, max_tokens=1).choices[0].logprobs.content[0]
    forced = chat(client, logprobs=True, top_logprobs=3, max_tokens=1, logit_bias={str(token): 100})
    (content,) = forced.choices[0].logprobs.content
    assert content.token == "a"
    assert content.logprob < content.top_logprobs[0].logprob
    assert content.top_logprobs[0].bytes == plain.top_logprobs[0].bytes
    assert abs(content.top_logprobs[0].logprob - plain.top_logprobs[0].logprob) < 0.05


def test_completions(client):
    answer = complete(client, logprobs=3, logit_bias=ENDLESS)
    (choice,) = answer.choices
    given = choice.logprobs
    assert len(given.tokens) == len(given.token_logprobs) == len(given.top_logprobs) == len(given.text_offset) == 16
    assert "".join(given.tokens) == choice.text
    for token, offset, logprob, top in zip(
        given.tokens, given.text_offset, given.token_logprobs, given.top_logprobs, strict=True
    ):
        assert choice.text[offset:].startswith(token)
        assert top[token] == logprob
        assert 3 <= len(top) <= 4
    chunks = list(complete(client, logprobs=3, logit_bias=ENDLESS, stream=True))
    tokens = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.tokens]
    assert len(tokens) == 16
    assert "".join(tokens) == "".join(chunk.choices[0].text for chunk in chunks)


def test_several_answers_have_their_own(client):
    answer = chat(client, logprobs=True, n=3, temperature=1.5, seed=3, logit_bias=ENDLESS)
    for choice in answer.choices:
        assert len(choice.logprobs.content) == 30
        assert data_of(choice.logprobs.content).decode(errors="replace") == choice.message.content


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"logprobs": 1}, "logprobs"),
        ("/api/v1/completions", {"logprobs": 6}, "logprobs"),
    ],
)
def test_what_is_not_to_be_had_is_refused_by_name(server, path, fields, param):
    body = {"model": MODEL, "max_tokens": 1} | ({"messages": STORY} if path == CHAT else {"prompt": "x"}) | fields
    answer = server.post(path, body)
    assert answer.status == 400, answer
    assert answer.error["param"] == param
