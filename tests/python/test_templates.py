"""Messages in every role and order that clients send: none is lost, in whatever template."""

import pathlib

import pytest
from harness import BUNDLED, Server, wait_until

TEMPLATES = pathlib.Path(__file__).parents[2] / "fixtures" / "templates"
NAMES = ["gemma", "llama3", "mistral", "qwen3", "qwen3-thinking", "smollm2"]
ORDERS = [
    ["developer", "user"],
    ["system", "developer", "user"],
    ["system"],
    ["developer"],
    ["user", "user"],
    ["user", "system", "user"],
    ["user", "assistant", "developer", "user"],
    ["system", "user", "assistant", "user", "user"],
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    models = "".join(
        f'[[models]]\nid = "{name}"\npath = "{BUNDLED}"\nchat_template = "{TEMPLATES / name}.jinja"\n' for name in NAMES
    )
    running = Server(folder, model=False, wait="live", config=models)
    loaded = lambda: all(model["status"] == "ready" for model in running.get("/v1/models").json()["data"])  # noqa: E731
    wait_until(loaded, "all models")
    yield running
    running.close()


def rendered(server, model, messages, **fields):
    answer = server.post("/v1/apply-template", {"model": model, "messages": messages, **fields})
    assert answer.status == 200, answer
    return answer.json()["prompt"]


@pytest.mark.parametrize("name", NAMES)
def test_no_role_is_lost(server, name):
    for roles in ORDERS:
        messages = [{"role": role, "content": f"text {number}."} for number, role in enumerate(roles)]
        prompt = rendered(server, name, messages)
        assert all(message["content"] in prompt for message in messages), (roles, prompt)
        assert "developer" not in prompt, "none of these models was trained on that role"


@pytest.mark.parametrize("name", NAMES)
def test_developer_is_system(server, name):
    for roles in (["{}", "user"], ["{}"], ["user", "assistant", "{}", "user"], ["{}", "{}", "user"]):
        system, developer = (
            [{"role": role.format(one), "content": f"text {number}."} for number, role in enumerate(roles)]
            for one in ("system", "developer")
        )
        assert rendered(server, name, system) == rendered(server, name, developer)


def test_responses_know_it_too(server):
    system = [{"role": "developer", "content": "rule " * 50}, {"role": "user", "content": "Hi"}]
    without = server.post("/v1/responses/input_tokens", {"model": "qwen3", "input": system[1:]}).json()["input_tokens"]
    with_rule = server.post("/v1/responses/input_tokens", {"model": "qwen3", "input": system}).json()["input_tokens"]
    assert with_rule > without + 50
