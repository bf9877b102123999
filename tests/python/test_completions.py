"""Text completions through the OpenAI Python SDK."""

from greedy import TEXT, assert_same_text, pieces_of
from harness import ENDLESS, IS_BUNDLED, MODEL, VOCABULARY

PROMPT = "The meaning of life is"


def create(client, **fields):
    return client.completions.create(**({"model": MODEL, "prompt": PROMPT, "max_tokens": 16, "temperature": 0} | fields))


def test_string_prompt(client):
    answer = create(client)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text.strip()
    assert answer.choices[0].index == 0
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    if IS_BUNDLED:
        assert len(answer.choices[0].text.split()) > 3


def completion(**fields):
    return {"model": MODEL, "prompt": PROMPT, "max_tokens": 16, "temperature": 0} | fields


def test_stream_equals_plain(client, server):
    plain = create(client)
    chunks = list(create(client, stream=True, stream_options={"include_usage": True}))
    *deltas, usage = chunks
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    pieces = [chunk.choices[0].text for chunk in deltas]
    tie = assert_same_text(server, TEXT, completion(), pieces, plain.choices[0].text)
    assert usage.choices == []
    assert usage.usage.prompt_tokens == plain.usage.prompt_tokens
    if not tie:
        assert deltas[-1].choices[0].finish_reason == plain.choices[0].finish_reason
        assert usage.usage.completion_tokens == plain.usage.completion_tokens


def test_default_max_tokens_is_16(client):
    answer = client.completions.create(model=MODEL, prompt=PROMPT, logit_bias=ENDLESS)
    assert answer.usage.completion_tokens == 16


def test_list_of_strings_keeps_order(client):
    prompts = [PROMPT, "Hello", "One two three"]
    together = create(client, prompt=prompts, logit_bias=ENDLESS)
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    for prompt, choice in zip(prompts, together.choices, strict=True):
        alone = create(client, prompt=prompt, logit_bias=ENDLESS, echo=True)
        assert alone.choices[0].text.startswith(prompt)
        assert choice.text
    assert together.usage.completion_tokens == 48


def test_n_answers_of_each_prompt(client):
    answer = create(client, prompt=["a", "b"], n=2, max_tokens=4, temperature=1, logit_bias=ENDLESS)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.completion_tokens == 16


def test_repeat_penalty_counts_prompt_and_answer(client):
    a, b, c = (VOCABULARY.ids_of(letter)[0] for letter in "abc")

    def answer(prompt, **fields):
        # Both far above the rest, even halved; "a" above "b" unless it alone is halved.
        return create(client, prompt=[prompt], max_tokens=3, logit_bias={a: 100, b: 80}, extra_body=fields).choices[0].text

    assert answer(c) == "aaa"
    assert answer(c, repeat_penalty=2) == "aba"
    assert answer(c, repetition_penalty=2) == "aba"
    assert answer(a, repeat_penalty=2) == "baa"


def test_echo(client, server):
    pieces = pieces_of(server, TEXT, **completion())
    plain = create(client, echo=True).choices[0].text
    streamed = "".join(chunk.choices[0].text for chunk in create(client, echo=True, stream=True))
    for text in (plain, streamed):
        assert text.startswith(PROMPT)
        assert_same_text(server, TEXT, completion(), pieces, text.removeprefix(PROMPT))


def test_echo_alone(client):
    answer = create(client, echo=True, max_tokens=0)
    assert answer.choices[0].text == PROMPT
    assert answer.usage.completion_tokens == 0


def test_token_array_is_taken_as_it_is(client):
    tokens = [VOCABULARY.ids_of(letter)[0] for letter in "abc"]
    answer = create(client, prompt=tokens, echo=True, max_tokens=3)
    assert answer.choices[0].text.startswith("abc")
    assert answer.usage.prompt_tokens == 3


def test_list_of_token_arrays(client):
    a, b = (VOCABULARY.ids_of(letter)[0] for letter in "ab")
    answer = create(client, prompt=[[a, b], [b]], echo=True, max_tokens=2)
    assert [choice.text[:1] for choice in answer.choices] == ["a", "b"]
    assert answer.choices[0].text.startswith("ab")
    assert answer.usage.prompt_tokens == 3


def test_stop(client, server):
    pieces = pieces_of(server, TEXT, **completion(max_tokens=30))
    whole = "".join(pieces)
    stop = whole[8:12]
    answer = create(client, max_tokens=30, stop=[stop]).choices[0]
    assert stop not in answer.text
    if answer.text == whole[: whole.index(stop)]:
        assert answer.finish_reason == "stop"
    else:
        assert_same_text(server, TEXT, completion(max_tokens=30), pieces, answer.text)
