"""Grammars in llama.cpp's notation that are wrong or too large: which error there is, and that no stream begins."""

import pytest
from harness import MODEL

CHAT = "/api/v1/chat/completions"
TEXT = "/api/v1/completions"

WRONG = [
    ('start: "a"', "line 1: expected '::=' after 'start', got \": \\\"a\\\"\""),
    ('a ::= "b"', "it has no rule 'root'"),
    ("root ::= other", "the rule 'other' is not defined"),
    ('root ::= "a"\nroot ::= "b"', "line 2: the rule 'root' is defined twice, got \"\""),
    ("\n\nroot ::= %", "line 3: expected a part of a rule, got \"%\""),
    ('root ::= "a"{9999}', "line 1: expected '{m}', '{m,}' or '{m,n}' up to 2000, got \"{9999}\""),
    ("root ::= [z-a]", "line 1: a range of characters that goes backwards, got \"]\""),
    ('root ::= "a"' + "?" * 200, "line 1: more than 50 repetitions of repetitions; write one suffix each, got \"" + "?" * 20 + '"'),
    ("root ::= " + "(" * 100 + '"a"' + ")" * 100, "line 1: more than 50 parentheses in each other, got \"" + "(" * 20 + '"'),
    ("".join(f'r{n} ::= "a"\n' for n in range(1200)), "it has more than 1000 rules"),
]  # fmt: skip


def body_of(path):
    said = {"messages": [{"role": "user", "content": "x"}]} if path == CHAT else {"prompt": "x"}
    return {"model": MODEL, "max_tokens": 4} | said


def fields(grammar):
    """How a request gives a grammar, and the field that errors name."""
    yield {"grammar": grammar}, "grammar"
    if "::=" in grammar:
        yield {"guided_grammar": grammar}, "guided_grammar"
        yield {"structured_outputs": {"grammar": grammar}}, "structured_outputs.grammar"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("grammar, problem", WRONG, ids=range(len(WRONG)))
def test_a_wrong_grammar_is_refused_before_anything_begins(server, path, grammar, problem, stream):
    for given, field in fields(grammar):
        answer = server.post(path, body_of(path) | given | {"stream": stream})
        assert answer.status == 400, (given, answer)
        assert (answer.error["code"], answer.error["param"]) == ("invalid_value", field)
        assert answer.error["message"] == f"Invalid '{field}': not a grammar in llama.cpp's notation: {problem}."


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_the_answers_of_a_request_share_a_refusal(server, path):
    answer = server.post(path, body_of(path) | {"n": 16, "grammar": "root ::= nothing"})
    assert (answer.status, answer.error["param"]) == (400, "grammar")


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_lengths_are_bounded(server, path):
    for field, value, bound in [
        ("grammar", 'root ::= "' + "a" * 16_384 + '"', 16_384),
        ("guided_grammar", 'root ::= "' + "a" * 16_384 + '"', 16_384),
        ("guided_choice", ["." * 32_768, "a"], 65_536),
    ]:
        answer = server.post(path, body_of(path) | {field: value})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_value", field)
        assert answer.error["message"].startswith(f"Invalid '{field}': expected 1 to {bound} bytes, got "), answer


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_every_notation_holds(server, path):
    for given in [
        {"grammar": 'root ::= "ye" "s"'},
        {"guided_grammar": 'root ::= [y] es\nes ::= "es"'},
        {"structured_outputs": {"grammar": 'root ::= list\nlist ::= "yes" | "[" list "]"'}, "logit_bias": {}},
        {"guided_choice": ["yes"]},
        {"guided_choice": ["y.s|no"]},
        {"structured_outputs": {"choice": ["yes"]}},
        {"guided_regex": "yes"},
        {"guided_grammar": 'start: "yes"'},
    ]:
        answer = server.post(path, body_of(path) | given | {"max_tokens": 64})
        assert answer.status == 200, (given, answer)
        choice = answer.json()["choices"][0]
        text = choice["message"]["content"] if path == CHAT else choice["text"]
        assert text in ("yes", "y.s|no") or "[" in text, (given, text)
