"""The description as programs use it: validators accept it, clients made from it compile and work, samples run."""

import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import openapi_spec_validator
import pytest
from harness import ROOT

NODE = ROOT / "tests/node"
TOOLS = pathlib.Path(sys.executable).parent


def run(command, env=None, **options):
    path = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path} | (env or {}),
        timeout=250,
        **options,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if "generate" in command else "")


@pytest.fixture(scope="module")
def description(server):
    return server.get("/api/swagger/openapi.json").json()


@pytest.fixture(scope="module")
def file(description, tmp_path_factory):
    path = tmp_path_factory.mktemp("description") / "openapi.json"
    path.write_text(json.dumps(description))
    return path


@pytest.fixture(scope="module")
def key(server):
    return server.new_key(server.new_user("clients@example.com", "Clients"))["key"]


def test_openapi_spec_validator(description):
    openapi_spec_validator.validate(description, cls=openapi_spec_validator.OpenAPIV31SpecValidator)


def test_swagger_parser(file, description):
    out = run(["node", NODE / "clients/validate.mjs", file]).split()
    assert out == [description["openapi"], str(len(description["paths"]))]


def test_typescript_client(server, key, file):
    # Beside the packages, where the compiler and Node find them.
    folder = NODE / "node_modules/.generated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    program = shutil.copy(NODE / "clients/generated.ts", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    binaries = NODE / "node_modules/.bin"
    run([binaries / "openapi-typescript", file, "--default-non-nullable=false", "--output", folder / "openapi.ts"])
    strict = ["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck"]
    run([binaries / "tsc", *strict, "--outDir", folder / "out", program], cwd=folder)
    (folder / "out/package.json").write_text('{"type": "module"}')
    out = json.loads(run(["node", folder / "out/generated.js"], {"JAN_SERVER_URL": server.url, "JAN_API_KEY": key}))
    assert "jan-v1-4b" in out["ids"]
    assert 1 <= out["tokens"] <= 5
    assert out["code"] == "model_not_found"


def test_python_client(server, key, file, tmp_path):
    command = [TOOLS / "openapi-python-client", "generate", "--path", file, "--meta", "none"]
    out = run([*command, "--output-path", tmp_path / "jan_client"], cwd=tmp_path)
    # It knows neither YAML nor NDJSON, and says so of the operations that send or take them.
    unknown = {"GET /api/swagger/openapi.yaml", "GET /api/v1/admin/export", "POST /api/v1/admin/import"}
    assert set(re.findall(r"WARNING parsing (\S+ \S+) ", out)) == unknown, out
    assert out.count("WARNING") == len(unknown), out
    run([sys.executable, "-m", "compileall", "-q", tmp_path / "jan_client"])
    sys.path.insert(0, str(tmp_path))
    try:
        client = importlib.import_module("jan_client").AuthenticatedClient(base_url=server.url, token=key)
        api, models = (importlib.import_module(f"jan_client.{name}") for name in ("api", "models"))
        listing = importlib.import_module("jan_client.api.models.list_models").sync(client=client)
        assert "jan-v1-4b" in [model.id for model in listing.data]
        request = models.ChatRequest(
            model="jan-v1-4b",
            messages=[models.Message(role=models.MessageRole.USER, content="Hello")],
            max_tokens=5,
        )
        answer = importlib.import_module("jan_client.api.chat.create_chat_completion").sync(client=client, body=request)
        assert 1 <= answer.usage.completion_tokens <= 5
        assert answer.choices[0].message.role == "assistant"
        missing = importlib.import_module("jan_client.api.models.retrieve_model").sync("nothing", client=client)
        assert missing.error.code == "model_not_found"
        assert api
    finally:
        sys.path.remove(str(tmp_path))


def samples(description, label):
    """(name, operation, source) of each sample in one language."""
    for path, item in description["paths"].items():
        for method, operation in item.items():
            for sample in operation.get("x-codeSamples", []):
                if sample["label"] == label:
                    yield f"{method} {path}", operation, sample["source"]


@pytest.mark.parametrize("label", ["curl", "Python", "JavaScript"])
def test_samples_run_as_printed(make_server, description, label, tmp_path):
    """Only the port is another. What they name need not be there, so an answer of the description's is enough; and
    those for whoever has not signed in yet get a refusal."""
    server = make_server()
    admin = server.new_user("samples@example.com", "Samples")
    assert server.patch(f"/api/v1/admin/users/{admin}", {"role": "admin"}, key=server.admin_key).status == 200
    fine, tried = 0, 0
    # What importStore sends.
    (tmp_path / "export.ndjson").write_bytes(server.get("/api/v1/admin/export", key=server.admin_key).body)
    for name, operation, source in samples(description, label):
        # Each with a key of its own: some end what they are called with.
        if operation["operationId"] == "deleteProfile":
            holder = server.new_user("gone@example.com", "Gone")
        else:
            holder = admin
        permissions = ("read", "write", "keys") if holder != admin else ("read", "write", "keys", "admin")
        key = server.new_key(holder, permissions)["key"]
        env = {"JAN_API_KEY": key}
        source = source.replace("localhost:8080", f"127.0.0.1:{server.port}")
        if label == "curl":
            out = run(["bash", "-c", source.replace("curl", "curl -sS --fail-with-body -w '\\n%{http_code}' ", 1) + " || true"], env, cwd=tmp_path)
            status = out.rstrip().rsplit("\n", 1)[-1]
            assert status in operation["responses"], (name, out)
            fine += status < "400"
        elif label == "Python":
            run([sys.executable, "-c", source], env, cwd=tmp_path)
        else:
            script = tmp_path / "sample.mjs"
            script.write_text(source)
            run(["node", script], env, cwd=tmp_path)
        tried += 1
    assert tried >= 30
    if label == "curl":
        assert fine >= tried / 3, (fine, tried)
