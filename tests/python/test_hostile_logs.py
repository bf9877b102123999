"""What requests say is in no log at the usual level, and paths of the server's files are in no answer."""

import re

import pytest
from harness import MODEL, wait_until

MARK = "Zanzibar-7741"
CHAT = "/api/v1/chat/completions"
USER = [{"role": "user", "content": MARK}]
SCHEMA = {"type": "object", "properties": {MARK: {"type": MARK}}, "pattern": f"({MARK}"}
FUNCTION = {"type": "function", "function": {"name": "f", "description": MARK, "parameters": SCHEMA, "strict": True}}
BODIES = [
    (CHAT, {"model": MODEL, "messages": USER, "max_tokens": 4}),
    (CHAT, {"model": MODEL, "messages": USER, "max_tokens": 4, "stream": True}),
    (CHAT, {"model": MARK, "messages": USER}),
    (CHAT, {"model": MODEL, "messages": MARK}),
    (CHAT, {"model": MODEL, "messages": [MARK]}),
    (CHAT, {"model": MODEL, "messages": [{"role": MARK, "content": "x"}]}),
    (CHAT, {"model": MODEL, "messages": [{"role": "user", "content": [{"type": MARK}]}]}),
    (CHAT, {"model": MODEL, "messages": USER, "temperature": MARK}),
    (CHAT, {"model": MODEL, "messages": USER, MARK: 1, "max_tokens": 1}),
    (CHAT, {"model": MODEL, "messages": USER, "metadata": {MARK: 1}}),
    (CHAT, {"model": MODEL, "messages": USER, "tools": [FUNCTION]}),
    (CHAT, {"model": MODEL, "messages": USER, "tool_choice": MARK}),
    (CHAT, {"model": MODEL, "messages": USER, "logit_bias": {MARK: 1}}),
    (CHAT, {"model": MODEL, "messages": USER, "grammar": f"root ::= {MARK} ("}),
    (CHAT, {"model": MODEL, "messages": USER, "response_format": {"type": MARK}}),
    (CHAT, {"model": MODEL, "messages": USER,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
    (CHAT, {"model": MODEL, "messages": USER, "chat_template_kwargs": {MARK: MARK}, "max_tokens": 1}),
    ("/v1/completions", {"model": MODEL, "prompt": MARK * 5000}),
    ("/v1/completions", {"model": MODEL, "prompt": [[MARK]]}),
    ("/v1/embeddings", {"model": MODEL, "input": {MARK: 1}}),
    ("/v1/responses", {"model": MODEL, "input": [{"type": MARK}]}),
    ("/v1/responses", {"model": MODEL, "input": MARK, "previous_response_id": MARK}),
    ("/v1/conversations", {"title": MARK, "items": [{"type": MARK}]}),
    ("/v1/conversations", {"title": MARK, "metadata": {MARK: MARK}}),
    ("/v1/conversations", {"metadata": {MARK: MARK * 100}}),
    ("/v1/tokenize", {"model": MODEL, "prompt": MARK, "content": MARK}),
    ("/v1/apply-template", {"model": MODEL, "messages": [{"role": MARK, "content": MARK}]}),
    ("/v1/user/api-keys", {"name": MARK, "permissions": [MARK]}),
    ("/v1/admin/users", {"email": MARK, "name": MARK}),
    ("/auth/exchange", {"code": MARK}),
    ("/auth/refresh", {"refresh_token": MARK}),
]  # fmt: skip


def test_requests_are_in_no_log(make_server):
    own = make_server()
    statuses = set()
    for path, body in BODIES:
        key = None if path.startswith("/auth/") else own.admin_key
        answer = own.post(path, body, key=key)
        assert answer.status < 500, (path, body, answer)
        statuses.add(answer.status)
        own.post(path, f'{{"x": {MARK}'.encode(), key=key)
        own.post(path, b"{}", {"Content-Type": f"text/{MARK}"}, key=key)
    assert {200, 400, 404} <= statuses
    own.get(f"/v1/usage?start={MARK}", key=own.admin_key)
    own.get("/livez")
    own.get("/api/v1/nothing-more", key=own.admin_key)
    wait_until(lambda: "/api/v1/nothing-more" in own.log(), "the log is written")
    log = own.log()
    assert '"code":"invalid_value"' in log and "request refused" in log
    assert MARK.lower() not in log.lower(), [line for line in log.splitlines() if MARK.lower() in line.lower()][0]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    from harness import Server

    folder = tmp_path_factory.mktemp("secret-folder")
    (folder / "text.gguf").write_text("no model at all")
    (folder / "cut off.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    (folder / "folder.gguf").mkdir()
    names = {"missing": "missing.gguf", "text": "text.gguf", "cut": "cut off.gguf", "folder": "folder.gguf"}
    one = Server(folder / "server", *[part for id, name in names.items() for part in ("--model", f"{id}={folder}/{name}")])
    one.names, one.folder = names, folder
    yield one
    one.close()


def test_paths_are_for_administrators(broken):
    """Whoever else asks hears what is wrong, and not where."""
    member = broken.new_key(broken.new_user())["key"]
    for name, file in broken.names.items():
        path = f"{broken.folder}/{file}"
        admin = wait_until(
            lambda name=name: broken.get(f"/v1/models/{name}", key=broken.admin_key).json().get("problem"), "a problem", 60
        )
        assert path in admin, admin
        for key in (None, member):
            shown = broken.get(f"/v1/models/{name}", key=key)
            listed = broken.get("/v1/models", key=key)
            assert len(shown.json()["problem"]) > 10
            refusals = [
                broken.chat(model=name, key=key),
                broken.chat(model=name, key=key, stream=True),
                broken.post("/v1/completions", {"model": name, "prompt": "x"}, key=key),
                broken.post("/v1/embeddings", {"model": name, "input": "x"}, key=key),
                broken.post("/v1/tokenize", {"model": name, "prompt": "x"}, key=key),
                broken.post("/v1/responses", {"model": name, "input": "x"}, key=key),
            ]
            assert all(answer.status == 503 for answer in refusals), refusals
            for answer in (shown, listed, *refusals):
                text = answer.body.decode()
                assert file not in text and str(broken.folder) not in text, text
                for word in re.findall(r'"(?:problem|message)":"([^"]*)"', text):
                    assert "/" not in word, word
