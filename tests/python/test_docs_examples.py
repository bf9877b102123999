"""Runs every block of README and docs that is marked as runnable (```bash run, ```python run, ```javascript run).

Only the port is another than the reader's. The folder has `data/admin.key`, as the reader's has, and the
environment the key where SDKs look for it.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml
from harness import ROOT, parse_sse

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python|javascript) run(?:=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    for file in FILES:
        text = file.read_text()
        for found in BLOCK.finditer(text):
            line = text[: found.start()].count("\n") + 1
            yield pytest.param(*found.groups(), id=f"{file.name}:{line}")


@pytest.fixture(scope="module")
def place(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    (folder / "data").symlink_to(server.data)
    # Errors of the server are errors of the example.
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    (folder / "node_modules").symlink_to(ROOT / "tests/node/node_modules")
    return folder


@pytest.mark.parametrize(("language", "environment", "code"), list(blocks()))
def test_block(server, place, language, environment, code):
    code = code.replace("localhost:8080", f"127.0.0.1:{server.port}")
    if language == "bash":
        command = ["bash", "-euo", "pipefail", "-c", code]
    elif language == "python":
        # run=openai-old and run=instructor have environments of their own.
        python = ROOT / f"target/{environment}-venv/bin/python" if environment else sys.executable
        command = [str(python), "-c", code]
    else:
        (place / "example.mjs").write_text(code)
        command = ["node", "example.mjs"]
    tools = [pathlib.Path(sys.executable).parent, place / "node_modules/.bin"]
    done = subprocess.run(
        command,
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env=os.environ
        | {"PATH": os.pathsep.join([*map(str, tools), os.environ["PATH"]])}
        | {"OPENAI_API_KEY": server.admin_key, "CURL_HOME": str(place)},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    if not code.startswith("export "):
        assert done.stdout.strip(), f"it printed nothing\n{done.stderr}"


def test_there_are_blocks_of_every_language():
    assert {param.values[0] for param in blocks()} == {"bash", "python", "javascript"}
    assert len(list(blocks())) >= 15


def settings(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs/clients.md").read_text(), re.MULTILINE | re.DOTALL)
    return found


def ask_as_a_client(server, base, key, model, **fields):
    """What chat clients do with their settings: list the models, then stream a chat."""
    prefix = base.removeprefix("http://localhost:8080")
    listing = server.get(f"{prefix}/models", key=key)
    assert listing.status == 200
    assert model in [one["id"] for one in listing.json()["data"]]
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
    answer = server.post(
        f"{prefix}/chat/completions", {"model": model, "messages": messages, "stream": True} | fields, key=key
    )
    assert answer.status == 200, answer
    frames = parse_sse(answer.body)
    assert frames[-1] == b"data: [DONE]"
    assert "X-Ignored-Fields" not in answer.headers
    return [json.loads(frame[6:]) for frame in frames[:-1]]


def test_continue(server):
    (model,) = yaml.safe_load(settings("yaml continue"))["models"]
    assert model["provider"] == "openai"
    key = server.new_key(server.new_user("continue@example.com", "Continue"))["key"]
    ask_as_a_client(server, model["apiBase"], key, model["model"], max_tokens=64, temperature=0.5)


def test_open_webui(server):
    given = dict(line.split("=", 1) for line in settings("bash open-webui").splitlines())
    key = server.new_key(server.new_user("webui@example.com", "WebUI"))["key"]
    base = given["OPENAI_API_BASE_URL"]
    events = ask_as_a_client(server, base, key, "jan-v1-4b", stream_options={"include_usage": True})
    assert events[-1]["usage"]["total_tokens"] > 0
    # The chat's title comes from a request of its own.
    title = server.post(
        base.removeprefix("http://localhost:8080") + "/chat/completions",
        {
            "model": "jan-v1-4b",
            "messages": [{"role": "user", "content": "Make a title: Hello"}],
            "stream": False,
            "max_completion_tokens": 20,
        },
        key=key,
    )
    assert title.json()["choices"][0]["message"]["role"] == "assistant"
