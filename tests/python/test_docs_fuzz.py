"""schemathesis against the real binary: whatever the description allows or forbids, the server does as described.

JAN_FUZZ_SECONDS   how long it goes on; without it, each operation is tried a few times. `make fuzz` sets it
JAN_FUZZ_SEED      what it draws from; fixed unless set, so that a failure comes again
"""

import json
import os
import subprocess
import sys

import oidc
import pytest
from harness import ROOT

SECONDS = os.environ.get("JAN_FUZZ_SECONDS")
# Without a time, so that a slow machine tries as much as a fast one.
BUDGET = ["--max-time", SECONDS] if SECONDS else ["--max-examples", "12"]
SEED = os.environ.get("JAN_FUZZ_SEED") or "4711"
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "ignored_auth",
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    return tmp_path_factory.mktemp("schemathesis")


@pytest.fixture
def provider():
    """Somebody to sign in with."""
    one = oidc.Provider()
    yield one
    one.close()


def without_large_bounds(value):
    """The description without bounds whose values take all of the time to be made; test_hostile_bounds.py tries them."""
    if isinstance(value, list):
        return [without_large_bounds(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    bounds = ("maxItems", "maxLength", "maxProperties")
    large = {name for name in bounds if isinstance(value.get(name), int) and value[name] > 600}
    return {name: without_large_bounds(entry) for name, entry in value.items() if name not in large}


@pytest.mark.timeout(int(SECONDS or 300) * 2 + 300)
def test_the_server_is_as_described(make_server, provider, reports):
    # Long answers are the model's business, and a guest more or less is nobody's.
    settings = {"JAN_SERVER__ENGINE__CONTEXT_LENGTH": "256", "JAN_SERVER__LOG__LEVEL": "warn"}
    server = make_server(env=settings | provider.settings())
    # A key of a second administrator's, so that what is tried out leaves the first alone.
    admin = server.new_user("fuzz@example.com", "Fuzz")
    assert server.patch(f"/api/v1/admin/users/{admin}", {"role": "admin"}, key=server.admin_key).status == 200
    made = server.new_key(admin, permissions=("read", "write", "keys", "admin"))
    key = made["key"]
    first = server.get("/api/v1/user/profile", key=server.admin_key).json()["id"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "tests/python"),
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "JAN_FUZZ_PROTECTED": f"{first} {admin} {made['id']}",
    }
    # These end what they are called with: a user of their own is what they may end.
    victim = server.new_user("victim@example.com", "Victim")
    config = (ROOT / "tests/python/schemathesis.toml").read_text()
    for place, credential in (
        ("VICTIM", server.new_key(victim, ("read", "write", "keys"))["key"]),
        ("FIRST_SESSION", server.new_session(victim)["access_token"]),
        ("SECOND_SESSION", server.new_session(victim)["access_token"]),
    ):
        config = config.replace(place, credential)
    (reports / "schemathesis.toml").write_text(config)
    description = server.get("/api/swagger/openapi.json")
    described = description.json()["paths"]
    (reports / "openapi.json").write_text(json.dumps(without_large_bounds(description.json())))
    command = [
        os.path.join(os.path.dirname(sys.executable), "schemathesis"),
        "--config-file",
        str(reports / "schemathesis.toml"),
        "run",
        # As a file: the operation that a description was loaded from is left out.
        str(reports / "openapi.json"),
        "--url",
        server.url,
        "--header",
        f"Authorization: Bearer {key}",
        "--checks",
        ",".join(CHECKS),
        *BUDGET,
        "--seed",
        SEED,
        "--no-color",
        "--continue-on-failure",
        "--request-timeout",
        "60",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=reports, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    # A key that was revoked on the way would have left nothing but refusals to look at.
    assert server.get("/api/v1/admin/users", key=key).status == 200
    wanted = sum(method in ("get", "post", "put", "patch", "delete") for item in described.values() for method in item)
    # It ends early without a failure where it cannot read an answer: one of more than 1 MiB is cut before it is read.
    assert f"Tested: {wanted}" in done.stdout, done.stdout + done.stderr[-2000:]
    print(done.stdout[-3000:])


def test_wrong_credentials_are_refused_everywhere(server):
    """The same for each operation and each way to be wrong, whatever the operation allows without a credential."""
    described = server.get("/api/swagger/openapi.json").json()["paths"]
    tried = 0
    for path, item in described.items():
        for method, operation in item.items():
            if method not in ("get", "post", "put", "patch", "delete") or operation["operationId"] == "refreshToken":
                continue
            for headers in (
                {"Authorization": "Bearer sk-jan-wrong"},
                {"Authorization": "Basic dXNlcjpwYXNz"},
                {"X-API-Key": "sk-jan-wrong"},
            ):
                answer = server.request(method.upper(), path.replace("{", "").replace("}", ""), headers=headers)
                assert answer.status == 401, (method, path, headers, answer)
                assert answer.headers["WWW-Authenticate"].startswith("Bearer"), (method, path)
                assert json.loads(answer.body)["error"]["code"], (method, path)
                tried += 1
    assert tried > 90
