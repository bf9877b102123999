"""Refusals of expressions and grammars: the place and the reason, in the server's words."""

import re

import pytest
from harness import MODEL

#: Pieces of messages that are not for callers.
FOREIGN = re.compile(
    r"backtrace|panic|llguidance|derivre|registry|/src/|\.rs\b|regex parse error|lexer|feature|Some\(|\{\w+:|\(And|token \w+, found|\n"
)

REGEXES = {
    "(": "at character 1: the group is not closed",
    "ab)": "at character 3: there is no open group",
    "a[b": "at character 2: the class is not closed",
    "é[z-a]": "at character 3: the range ends before it begins",
    "+": "at character 1: there is nothing to repeat",
    "a{3,1}": "at character 2: the maximum of the repetition is below its minimum",
    "(?=a)b": "at character 1: look-ahead and look-behind are not supported",
    "(a)\\1": "at character 4: references to groups are not supported",
    "\\p{Klingon}": "at character 1: there is no such class of characters",
    "a\\bb": "'^', '$' and '\\b' are not supported inside an expression",
}

GRAMMARS = {
    "start: nothing": "at line 1, column 8: 'nothing' is not defined",
    "start: NOTHING": "'NOTHING' is not defined",
    "begin: \"a\"": "there is no rule 'start'",
    "start: \"a\"\nstart: \"b\"": "the rule 'start' is defined twice",
    "start: \"a\"\nb: ( \"c\"": "at line 2, column 9: this is not expected here",
    "start: \"a\"\n) b": "at line 2, column 1: this is not expected here",
    "start: A\nA: /(/": "the expression '(': at character 1: the group is not closed",
    "start: A\nA: B\nB: A": "a terminal refers to itself",
    "start: <|nothing|>": "the model has no special token",
    "start: A\nA: %json {\"type\": \"null\"}": "a terminal contains something that only rules may contain",
}


def refused(server, **fields):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "temperature": 0} | fields
    answer = server.post("/v1/chat/completions", body, key=server.admin_key)
    assert answer.status == 400, answer
    (field,) = fields
    assert answer.error["param"] == field, answer
    assert not FOREIGN.search(answer.error["message"]), answer.error["message"]
    return answer.error["message"]


@pytest.mark.parametrize("regex", REGEXES)
def test_expressions(server, regex):
    assert REGEXES[regex] in refused(server, guided_regex=regex)


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_grammars(server, grammar):
    assert GRAMMARS[grammar] in refused(server, guided_grammar=grammar)


def test_long_names_are_cut(server):
    assert len(refused(server, guided_grammar="start: " + "x" * 10_000)) < 400


@pytest.mark.parametrize("keyword", ["oneOf", "anyOf"])
def test_a_thousand_overlapping_texts(server, keyword):
    """They compile, and are too much to follow at the first token that has to be chosen."""
    schema = {keyword: [{"type": "string", "minLength": length} for length in range(1000)]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    message = refused(server, response_format=form)
    assert "a step of it takes more work than is allowed" in message, message
    assert server.chat(key=server.admin_key).status == 200
