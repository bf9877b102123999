"""Fields of sibling APIs and of other servers: enforced, ignored by name, or refused with the right name; never dropped."""

import json

import pytest
from harness import ENDLESS, MODEL, VOCABULARY

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
USER = [{"role": "user", "content": "Hi"}]
BODIES = {
    CHAT: {"model": MODEL, "messages": USER, "max_tokens": 4},
    TEXT: {"model": MODEL, "prompt": "Hi", "max_tokens": 4},
    RESPONSES: {"model": MODEL, "input": "Hi", "max_output_tokens": 16},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
MISPLACED = [
    (CHAT, "max_output_tokens", 5, "'max_completion_tokens'"),
    (CHAT, "input", "x", "'messages'"),
    (CHAT, "prompt", "x", "'messages'"),
    (CHAT, "instructions", "Be brief.", "'system'"),
    (CHAT, "previous_response_id", "resp_x", "'conversation'"),
    (TEXT, "max_completion_tokens", 3, "'max_tokens'"),
    (TEXT, "max_output_tokens", 3, "'max_tokens'"),
    (TEXT, "messages", USER, "'prompt'"),
    (TEXT, "tools", [], "/chat/completions"),
    (RESPONSES, "response_format", FORMAT, "'text.format'"),
    (RESPONSES, "max_tokens", 5, "'max_output_tokens'"),
    (RESPONSES, "max_completion_tokens", 5, "'max_output_tokens'"),
    (RESPONSES, "messages", USER, "'input'"),
    (RESPONSES, "reasoning_effort", "low", "'reasoning.effort'"),
    (RESPONSES, "functions", [], "'tools'"),
    ("/v1/responses/input_tokens", "messages", USER, "'input'"),
]


@pytest.mark.parametrize(("path", "field", "value", "instead"), MISPLACED, ids=lambda value: str(value)[:24])
def test_a_field_of_a_sibling_api_is_refused_with_the_right_name(server, path, field, value, instead):
    body = BODIES.get(path, {"model": MODEL, "input": "Hi"})
    answer = server.post(path, body | {field: value})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "unsupported_parameter", field), answer
    assert instead in answer.error["message"]
    assert server.post(path, body | {field: None}).status == 200, "null is nothing"


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        (CHAT, {"verbosity": "low"}, "verbosity"),
        (CHAT, {"verbosity": "high"}, "verbosity"),
        (CHAT, {"verbosity": "medium"}, None),
        (CHAT, {"store": True}, "store"),
        (CHAT, {"store": False}, None),
        (CHAT, {"prediction": {"type": "content", "content": "x"}}, "prediction"),
        (RESPONSES, {"text": {"verbosity": "low"}}, "text.verbosity"),
        (RESPONSES, {"text": {"verbosity": "high"}}, "text.verbosity"),
        (RESPONSES, {"text": {"verbosity": "medium"}}, None),
    ],
    ids=str,
)
def test_preferences_are_ignored_by_name(server, path, fields, named):
    answer = server.post(path, BODIES[path] | fields)
    assert answer.status == 200, answer
    assert answer.headers["X-Ignored-Fields"] == named


def test_wrong_verbosity_is_refused(server):
    answer = server.post(RESPONSES, BODIES[RESPONSES] | {"text": {"verbosity": "loud"}})
    assert (answer.status, answer.error["param"]) == (400, "text.verbosity")


SCHEMA = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
TURNED = {"additionalProperties": False, "required": ["a"], "properties": {"a": {"const": 1}}, "type": "object"}
GRAMMAR = 'root ::= "yes" | "no"'


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_two_names_with_one_value_are_one(server, path):
    body = BODIES[path] | {"max_tokens": 20}
    for same in (
        {"guided_grammar": GRAMMAR, "structured_outputs": {"grammar": GRAMMAR}},
        {"guided_grammar": GRAMMAR, "grammar": GRAMMAR, "ebnf": GRAMMAR},
        {"guided_json": SCHEMA, "json_schema": TURNED, "structured_outputs": {"json": SCHEMA}},
        {"guided_regex": "yes|no", "regex": "yes|no"},
        {"max_tokens": 3, "n_predict": 3},
    ):
        answer = server.post(path, body | same)
        assert answer.status == 200, (same, answer)
    for different in (
        {"guided_grammar": GRAMMAR, "structured_outputs": {"grammar": 'root ::= "a"'}},
        {"guided_json": SCHEMA, "json_schema": {"type": "object"}},
        {"guided_regex": "yes|no", "regex": "yes"},
        {"guided_regex": "yes|no", "guided_choice": ["yes", "no"]},
        {"max_tokens": 3, "n_predict": 4},
    ):
        answer = server.post(path, body | different)
        assert (answer.status, answer.error["code"]) == (400, "invalid_value"), (different, answer)
        assert answer.error["param"].split(".")[0] in different
    same = {"thinking_budget": 5, "thinking_token_budget": 5}
    assert server.post(CHAT, BODIES[CHAT] | same).status == 200
    assert server.post(CHAT, BODIES[CHAT] | same | {"thinking_token_budget": 6}).status == 400


def text(answer):
    (choice,) = answer.json()["choices"]
    return choice["message"]["content"] if "message" in choice else choice["text"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_constraints_under_the_names_of_sglang(server, path):
    body = BODIES[path] | {"max_tokens": 20}
    assert text(server.post(path, body | {"regex": "[0-9]{3}x"}))[3:] == "x"
    assert text(server.post(path, body | {"ebnf": GRAMMAR})) in ("yes", "no")
    answer = server.post(path, body | {"regex": "("})
    assert (answer.status, answer.error["param"]) == (400, "regex")


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_answer_does_not_end_before_it_may(server, path):
    body = BODIES[path] | {"temperature": 0}
    # The model would end at once.
    ending = {str(token): 100 for token in VOCABULARY.end_of_generation[:1]}

    def tokens(**fields):
        answer = server.post(path, body | {"logit_bias": ending, "max_tokens": 30} | fields)
        assert answer.status == 200 and not answer.headers["X-Ignored-Fields"], answer
        return answer.json()["usage"]["completion_tokens"], answer.json()["choices"][0]["finish_reason"]

    assert tokens() == (0, "stop")
    assert tokens(min_tokens=7) == (7, "stop")
    assert tokens(ignore_eos=True) == (30, "length")
    assert tokens(ignore_eos=False, min_tokens=0) == (0, "stop")
    assert tokens(min_tokens=50) == (30, "length")
    # A stop text counts from there on.
    free = server.post(path, BODIES[path] | {"temperature": 0, "max_tokens": 12, "logit_bias": ENDLESS})
    first = text(free)[:1]
    stopped = server.post(path, BODIES[path] | {"temperature": 0, "max_tokens": 12, "logit_bias": ENDLESS, "stop": [first]})
    assert text(stopped) == ""
    later = {"temperature": 0, "max_tokens": 12, "logit_bias": ENDLESS, "stop": [first], "min_tokens": 3}
    assert text(server.post(path, BODIES[path] | later)).startswith(first)
    for wrong in ({"min_tokens": -1}, {"min_tokens": "x"}, {"ignore_eos": 1}):
        answer = server.post(path, body | wrong)
        assert (answer.status, answer.error["param"]) == (400, *wrong), answer


def test_empty_contents_however_they_are_said(server):
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call00001", "content": "x"}
    for messages in (
        [*USER, {"role": "assistant", "content": None, "reasoning_content": "hmm"}, *USER],
        [*USER, {"role": "assistant", "content": [], "reasoning_content": "hmm"}, *USER],
        [*USER, {"role": "assistant", "reasoning_content": "hmm"}, *USER],
        [*USER, asked | {"content": []}, result],
        [*USER, asked | {"content": ""}, result],
        [*USER, asked, result | {"content": None}],
        [*USER, asked, result | {"content": []}],
        [*USER, asked, result | {"content": ""}],
    ):
        answer = server.post(CHAT, BODIES[CHAT] | {"messages": messages})
        assert answer.status == 200, (messages, answer)
    for message in (
        {"role": "assistant", "content": None},
        {"role": "user", "content": None},
        {"role": "user", "content": []},
        {"role": "system", "content": None, "reasoning_content": "x"},
        {"role": "user", "content": [], "reasoning_content": "x"},
    ):
        answer = server.post(CHAT, BODIES[CHAT] | {"messages": [message]})
        assert (answer.status, answer.error["param"]) == (400, "messages[0].content"), (message, answer)


def test_enable_thinking_is_a_variable_of_the_template(server):
    answer = server.post(CHAT, BODIES[CHAT] | {"enable_thinking": False})
    assert answer.status == 200 and not answer.headers["X-Ignored-Fields"]
    assert server.post(CHAT, BODIES[CHAT] | {"enable_thinking": "x"}).error["param"] == "enable_thinking"


def test_logprobs_of_completions_may_be_false(server):
    answer = server.post(TEXT, BODIES[TEXT] | {"logprobs": False})
    assert answer.status == 200 and answer.json()["choices"][0]["logprobs"] is None
    assert server.post(TEXT, BODIES[TEXT] | {"logprobs": 0}).json()["choices"][0]["logprobs"]["tokens"]
    assert server.post(TEXT, BODIES[TEXT] | {"logprobs": True}).error["param"] == "logprobs"


@pytest.mark.parametrize("after", ["", "x", "msg_0", "é"], ids=str)
def test_an_item_that_is_not_in_a_list_is_named_alike(server, after):
    key = server.admin_key
    conversation = server.post("/v1/conversations", {}, key=key).json()["id"]
    response = server.post(RESPONSES, BODIES[RESPONSES], key=key).json()["id"]
    from urllib.parse import quote

    for path in (f"/v1/conversations/{conversation}/items", f"/v1/responses/{response}/input_items"):
        answer = server.get(f"{path}?after={quote(after)}", key=key)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_value", "after"), answer
    assert server.get("/v1/conversations/conv_x/items?after=x", key=key).status == 404


def raw(server, head):
    with server.connect() as socket:
        socket.sendall(head.encode())
        socket.settimeout(30)
        return socket.recv(65536).decode()


def test_a_request_names_one_host(server):
    for hosts, version, status in [
        ([], "1.1", 400),
        (["localhost", "localhost"], "1.1", 400),
        (["localhost", "127.0.0.1"], "1.1", 400),
        (["localhost"], "1.1", 200),
        ([], "1.0", 200),
    ]:
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        answer = raw(server, f"GET /livez HTTP/{version}\r\n{lines}Connection: close\r\n\r\n")
        assert answer.split()[1] == str(status), (hosts, answer)
        if status == 400:
            assert json.loads(answer.split("\r\n\r\n")[1])["error"]["code"] == "invalid_host"


def test_compressed_bodies_are_told_the_accepted_coding(server):
    answer = server.post(CHAT, b"x", {"Content-Encoding": "gzip"})
    assert answer.status == 415 and answer.headers["Accept-Encoding"] == "identity"
