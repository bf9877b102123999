"""What the model sees: templates, tokens and back."""

import pytest
from harness import MODEL

USER = [{"role": "user", "content": "Chào bạn 🙂"}]


def ask(server, path, **fields):
    answer = server.post(f"/api/v1/{path}", {"model": MODEL} | fields, key=server.admin_key)
    assert answer.status == 200, answer
    return answer.json()


def test_the_template_is_the_prompt_of_a_chat(server):
    prompt = ask(server, "apply-template", messages=USER)["prompt"]
    assert USER[0]["content"] in prompt
    tokens = ask(server, "tokenize", messages=USER, return_token_strs=True)
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    usage = server.chat(USER[0]["content"], key=server.admin_key).json()["usage"]
    assert usage["prompt_tokens"] == tokens["count"]
    assert tokens["max_model_len"] >= 256
    with_tool = ask(server, "apply-template", messages=USER, tools=[
        {"type": "function", "function": {"name": "zzz", "parameters": {"type": "object"}}}])
    assert "zzz" in with_tool["prompt"]


def test_how_a_prompt_ends(server):
    messages = USER + [{"role": "assistant", "content": "Once upon"}]
    whole = ask(server, "apply-template", messages=messages)["prompt"]
    bare = ask(server, "apply-template", messages=messages, add_generation_prompt=False)["prompt"]
    assert len(bare) < len(whole) and whole.startswith(bare)
    goes_on = ask(server, "apply-template", messages=messages, continue_final_message=True)["prompt"]
    assert goes_on.endswith("Once upon") and bare.startswith(goes_on)
    answer = server.chat(key=server.admin_key, messages=messages, continue_final_message=True)
    assert answer.json()["usage"]["prompt_tokens"] == ask(
        server, "tokenize", messages=messages, continue_final_message=True)["count"]


def test_texts_there_and_back(server):
    text = "Chào bạn 🙂, <|im_end|> is a token"
    tokens = ask(server, "tokenize", content=text)["tokens"]
    assert ask(server, "detokenize", tokens=tokens) == {"prompt": text, "content": text}
    pieces = ask(server, "tokenize", content=text, with_pieces=True)["tokens"]
    assert [piece["id"] for piece in pieces] == tokens
    assert len(ask(server, "tokenize", prompt=text)["tokens"]) >= len(tokens)
    assert ask(server, "detokenize", tokens=[])["content"] == ""


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("tokenize", {}, 400, "prompt"),
        ("tokenize", {"prompt": "a", "messages": USER}, 400, "prompt"),
        ("tokenize", {"prompt": "a" * (1 << 20) + "b"}, 400, "prompt"),
        ("tokenize", {"model": "nobody", "prompt": "a"}, 404, "model"),
        ("detokenize", {}, 400, "tokens"),
        ("detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("detokenize", {"tokens": [99999999]}, 400, "tokens"),
        ("apply-template", {}, 400, "messages"),
        ("apply-template", {"messages": []}, 400, "messages"),
        ("apply-template", {"messages": USER, "tools": [{"type": "x"}]}, 400, "tools[0].type"),
    ],
)
def test_what_is_wrong_is_named(server, path, fields, status, param):
    answer = server.post(f"/api/v1/{path}", {"model": MODEL} | fields, key=server.admin_key)
    assert (answer.status, answer.error["param"]) == (status, param), answer


def test_permissions(server):
    key = server.new_key(server.new_user("reader@tokens.example"), ["read"])["key"]
    assert server.post("/api/v1/tokenize", {"model": MODEL, "prompt": "a"}, key=key).status == 403


@pytest.mark.parametrize("prefix", ["", "/v1", "/api/v1"])
def test_the_routes_are_a_remote_tokenizer(server, prefix):
    """As lm-eval uses one: at the root, without a model's name."""
    info = server.get(f"{prefix}/tokenizer_info").json()
    assert info["eos_token"] and info["chat_template"] and info["pad_token"] is None
    assert info["model_max_length"] >= 256 and info["model"]
    named = server.get(f"{prefix}/tokenizer_info?model={info['model']}").json()
    assert named == info
    tokens = server.post(f"{prefix}/tokenize", {"prompt": "Hello", "add_special_tokens": False}).json()["tokens"]
    assert server.post(f"{prefix}/detokenize", {"tokens": tokens}).json()["prompt"] == "Hello"
    assert server.post(f"{prefix}/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False}).json()["count"] == 1
    assert server.get(f"{prefix}/tokenizer_info?model=nobody").status == 404
