"""What text completions can be asked for beyond text: forms, the best of several, a prompt's likelihood, gaps."""

import json

import pytest
from gguf_vocab import with_numbers
from harness import BUNDLED, ENDLESS, MODEL, wait_until

PROMPT = "The meaning of life is"
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}


def create(client, **fields):
    return client.completions.create(**({"model": MODEL, "prompt": PROMPT, "max_tokens": 64, "temperature": 0} | fields))


def tokens_of(server, text):
    answer = server.post("/api/v1/tokenize", {"model": MODEL, "content": text}, key=server.admin_key)
    return answer.json()["tokens"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("form", "allowed"),
    [
        ({"guided_choice": ["yes", "no"]}, {"yes", "no"}),
        ({"guided_regex": "(red|green) [0-9]"}, {f"{c} {n}" for c in ("red", "green") for n in range(10)}),
        ({"guided_grammar": 'start: "a" | "b" start'}, None),
        ({"guided_json": SCHEMA}, None),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, None),
    ],
)
def test_answers_have_the_form(client, form, allowed, stream):
    # A number or a repetition without end may be cut off; this one ends.
    answer = create(client, extra_body=form, stream=stream, temperature=1, seed=4, max_tokens=200)
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    text = "".join(choice.text for choice in choices)
    if choices[-1].finish_reason != "stop":
        assert "guided_json" in form or "response_format" in form or "guided_grammar" in form, text
        return
    if allowed:
        assert text in allowed
    elif "guided_grammar" in form:
        assert text.rstrip("b") == "" or text.lstrip("b") == "a"
    else:
        value = json.loads(text)
        assert isinstance(value["answer"], int) and isinstance(value["sure"], bool) and len(value) == 2


def test_each_of_several_answers_has_the_form(client):
    answer = create(client, prompt=["A", "B"], n=3, temperature=1, extra_body={"guided_choice": ["one", "two"]})
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert all(choice.text in ("one", "two") for choice in answer.choices)


def test_what_cannot_be_enforced_is_refused(server):
    body = {"model": MODEL, "prompt": PROMPT}
    for form, param in [
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"guided_json": {"type": "string", "minLength": 2, "maxLength": 1}}, "guided_json"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice"),
    ]:
        answer = server.post("/api/v1/completions", body | form, key=server.admin_key)
        assert (answer.status, answer.error["param"]) == (400, param), answer


def test_the_best_of_several(client):
    fields = {"temperature": 1.5, "seed": 11, "max_tokens": 6, "logit_bias": ENDLESS, "logprobs": 0}
    every = create(client, n=5, **fields)
    best = create(client, n=2, best_of=5, **fields)
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.usage.completion_tokens == 30

    def likelihood(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    # The same seeds draw the same answers, but for what an engine's rounding changes in the last place.
    scores = sorted((likelihood(choice) for choice in every.choices), reverse=True)
    told = [likelihood(choice) for choice in best.choices]
    assert told == sorted(told, reverse=True)
    if {choice.text for choice in best.choices} <= {choice.text for choice in every.choices}:
        assert told == pytest.approx(scores[:2], abs=0.05)
    without = create(client, n=1, best_of=3, **(fields | {"logprobs": None}))
    assert without.choices[0].logprobs is None


def test_best_of_has_bounds(server):
    body = {"model": MODEL, "prompt": PROMPT}
    for fields in [{"best_of": 1, "n": 2}, {"best_of": 0}, {"best_of": 129}, {"best_of": 2, "stream": True}]:
        answer = server.post("/api/v1/completions", body | fields, key=server.admin_key)
        assert (answer.status, answer.error["param"]) == (400, "best_of"), fields


def echo_of(client, stream, **fields):
    answer = create(client, echo=True, stream=stream, **fields)
    if not stream:
        return answer.choices[0].text, answer.choices[0].logprobs.model_dump()
    text, joined = "", {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for chunk in answer:
        text += chunk.choices[0].text
        if chunk.choices[0].logprobs:
            for name, values in joined.items():
                values.extend(getattr(chunk.choices[0].logprobs, name))
    return text, joined


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_as_likely_as_it_was_when_it_was_made(client, server, stream):
    made = create(client, max_tokens=24, logprobs=2, logit_bias=ENDLESS).choices[0]
    assert len(made.logprobs.token_logprobs) == 24
    tokens = tokens_of(server, PROMPT + made.text)
    text, logprobs = echo_of(client, stream, prompt=tokens, max_tokens=0, logprobs=2)
    assert text == PROMPT + made.text
    lengths = {len(values) for values in logprobs.values()}
    assert lengths == {len(tokens)}
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
    assert "".join(logprobs["tokens"]) == text
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert text[offset:].startswith(token)
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    # The text need not fall apart into the tokens that it was made of.
    if logprobs["tokens"][-24:] == made.logprobs.tokens:
        again = logprobs["token_logprobs"][-24:]
        assert again == pytest.approx(made.logprobs.token_logprobs, abs=0.35)


def test_prompt_and_answer_follow_each_other(client, server):
    tokens = tokens_of(server, PROMPT)
    text, logprobs = echo_of(client, False, max_tokens=5, logprobs=1, logit_bias=ENDLESS)
    assert text.startswith(PROMPT)
    count = len(logprobs["tokens"])
    # The model's BOS, where it has one, is a token without text.
    assert count - 5 in (len(tokens), len(tokens) + 1)
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    assert logprobs["text_offset"][-5] == len(PROMPT)
    assert len(logprobs["top_logprobs"]) == len(logprobs["token_logprobs"]) == count


def test_many_prompts_are_scored_at_once(client, server):
    """More tokens than a step has logits for, several times over, among streams that go on."""
    prompts = [tokens_of(server, f"{word} " * 40) for word in ("one", "two", "three", "four", "five", "six")]
    answer = create(client, prompt=prompts, echo=True, logprobs=0, max_tokens=1)
    for prompt, choice in zip(prompts, answer.choices, strict=True):
        assert len(prompt) <= len(choice.logprobs.tokens) <= len(prompt) + 1
        assert choice.logprobs.token_logprobs.count(None) == 1
    again = create(client, prompt=prompts[0], echo=True, logprobs=0, max_tokens=0)
    first = answer.choices[0].logprobs.token_logprobs[: len(prompts[0])]
    assert again.choices[0].logprobs.token_logprobs[1:] == pytest.approx(first[1:], abs=0.35)


def test_gaps_need_a_model_that_fills_them(server):
    body = {"model": MODEL, "prompt": "def f(", "suffix": "return x"}
    answer = server.post("/api/v1/completions", body, key=server.admin_key)
    assert (answer.status, answer.error["param"]) == (400, "suffix"), answer
    assert "infill" in answer.error["message"]


def test_gaps_are_filled(make_server, tmp_path):
    tokens = {"fim_pre": 5, "fim_suf": 6, "fim_mid": 7}
    numbers = {f"tokenizer.ggml.{name}_token_id": token for name, token in tokens.items()}
    with_numbers(BUNDLED, tmp_path / "infill.gguf", numbers)
    server = make_server("--model", f"infill={tmp_path}/infill.gguf", model=False, wait="live")
    status = lambda: server.get("/v1/models/infill", key=server.admin_key).json().get("status")  # noqa: E731
    wait_until(lambda: status() == "ready", "the model to be loaded", 60)

    def length(text):
        body = {"model": "infill", "content": text}
        return server.post("/api/v1/tokenize", body, key=server.admin_key).json()["count"]

    body = {"model": "infill", "prompt": "def f(x):", "suffix": "return x", "max_tokens": 4, "temperature": 0}
    answer = server.post("/api/v1/completions", body, key=server.admin_key)
    assert answer.status == 200, answer
    usage = answer.json()["usage"]
    # The three marks, and the model's BOS.
    assert usage["prompt_tokens"] - length("def f(x):") - length("return x") in (3, 4)
    # What fills the gap, not what is around it.
    assert not answer.json()["choices"][0]["text"].startswith(body["prompt"])
    plain = server.post("/api/v1/completions", body | {"suffix": ""}, key=server.admin_key).json()
    assert plain["usage"]["prompt_tokens"] < usage["prompt_tokens"]
