"""The API reference's examples, as a reader pastes them; only the port and the token are this test's own."""

import json
import subprocess

import openai
import pytest
from harness import IS_BUNDLED, ROOT
from tokens import expired

MODELS = "curl http://localhost:8080/api/v1/models"
CHAT = """\
curl -X POST http://localhost:8080/api/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer " \\
  -d '{
    "model": "jan-v1-4b",
    "messages": [
      {"role": "user", "content": "Hello, how are you?"}
    ],
    "max_tokens": 100,
    "temperature": 0.7
  }'
"""
SHORT_CHAT = """\
curl -X POST http://localhost:8080/api/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "jan-v1-4b",
    "messages": [{"role": "user", "content": "Hello"}]
  }'
"""
STREAM = """\
curl -X POST http://localhost:8080/api/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "jan-v1-4b",
    "messages": [{"role": "user", "content": "Tell me a story"}],
    "stream": true
  }' \\
  --no-buffer
"""
COMPLETION = """\
curl -X POST http://localhost:8080/api/v1/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer " \\
  -d '{
    "model": "jan-v1-4b",
    "prompt": "The meaning of life is",
    "max_tokens": 50
  }'
"""
HEALTH = "curl http://localhost:8080/health"
STATUS = 'curl -H "Authorization: Bearer " \\\n  http://localhost:8080/api/v1/status'


GOOGLE = "curl http://localhost:8080/auth/google"
REFRESH = """\
curl -X POST http://localhost:8080/api/v1/auth/refresh \\
  -H "Authorization: Bearer "
"""
PROFILE = """\
curl -H "Authorization: Bearer " \\
  http://localhost:8080/api/v1/user/profile
"""
API_KEYS = """\
curl -X POST http://localhost:8080/api/v1/user/api-keys \\
  -H "Authorization: Bearer " \\
  -H "Content-Type: application/json" \\
  -d '{
    "name": "Development Key",
    "permissions": ["read", "write"]
  }'
"""
CREATE_CONVERSATION = """\
curl -X POST http://localhost:8080/api/v1/conversations \\
  -H "Authorization: Bearer " \\
  -H "Content-Type: application/json" \\
  -d '{
    "title": "My Conversation",
    "model": "jan-v1-4b"
  }'
"""
LIST_CONVERSATIONS = """\
curl -H "Authorization: Bearer " \\
  http://localhost:8080/api/v1/conversations
"""
GET_CONVERSATION = """\
curl -H "Authorization: Bearer " \\
  http://localhost:8080/api/v1/conversations/123
"""
PROTECTED = """\
curl -H "Authorization: Bearer " \\
  http://localhost:8080/api/v1/protected-endpoint
"""


@pytest.fixture(scope="module")
def user(server):
    return server.new_user("reference@example.com", "Reader")


@pytest.fixture
def session(server, user):
    return server.new_session(user)


def paste(server, command, token=""):
    """Runs the lines in a shell, with a token where the reference has a place for one. `localhost` may resolve to ::1 first; curl falls back to 127.0.0.1."""
    command = command.replace("localhost:8080", f"localhost:{server.port}").replace("Bearer ", f"Bearer {token}")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=280)
    return done.stdout


#: Every `curl` of the reference, and its status as it stands there, without a token.
CURLS = [
    (PROTECTED, 404), (CHAT, 200), (MODELS, 200), (COMPLETION, 200), (GOOGLE, 503), (REFRESH, 401), (PROFILE, 401),
    (API_KEYS, 401), (CREATE_CONVERSATION, 401), (LIST_CONVERSATIONS, 401), (GET_CONVERSATION, 401), (HEALTH, 200),
    (STATUS, 401), (SHORT_CHAT, 200), (STREAM, 200),
]  # fmt: skip


@pytest.mark.parametrize(("command", "status"), CURLS)
def test_every_curl_as_it_stands(server, command, status):
    """From a loopback address, with curl's own headers: nothing that keeps browsers' pages out may be in its way."""
    shown = paste(server, command.rstrip() + " -s -o /dev/null -w '%{http_code}'")
    assert shown == str(status)


def test_models(server):
    answer = json.loads(paste(server, MODELS))
    assert answer["object"] == "list"
    (model,) = [model for model in answer["data"] if model["id"] == "jan-v1-4b"]
    assert (model["object"], model["owned_by"]) == ("model", "jan")
    assert isinstance(model["created"], int)


def test_chat(server, session):
    for command, token in ((CHAT, ""), (CHAT, session["access_token"]), (SHORT_CHAT, "")):
        answer = json.loads(paste(server, command, token))
        assert answer["model"] == "jan-v1-4b"
        assert answer["choices"][0]["message"]["content"].strip()
        if IS_BUNDLED:
            assert answer["choices"][0]["finish_reason"] == "stop"


def test_stream(server):
    out = paste(server, STREAM)
    events = [json.loads(line[6:]) for line in out.splitlines() if line.startswith("data: {")]
    assert out.rstrip().endswith("data: [DONE]")
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert len(text.split()) > 20
    if IS_BUNDLED:
        # At the default temperature of 1 even the bundled model's stories differ in length.
        assert len(events) >= 40


def test_completion(server, session):
    answer = json.loads(paste(server, COMPLETION, session["access_token"]))
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"].strip()
    assert answer["usage"]["completion_tokens"] <= 50


def test_health_and_status(server, session):
    assert json.loads(paste(server, HEALTH))["status"] == "ok"
    status = json.loads(paste(server, STATUS, session["access_token"]))
    assert status["api_gateway"] == "healthy"
    assert status["database"] == "healthy"
    assert json.loads(paste(server, STATUS))["error"]["code"] == "missing_credentials"


def test_google_sign_in_that_is_not_set_up(server):
    answer = json.loads(paste(server, GOOGLE))
    assert answer["error"]["code"] == "oauth_not_configured"


def test_refresh(server, session):
    answer = json.loads(paste(server, REFRESH, session["access_token"]))
    assert answer["token_type"] == "Bearer"
    assert json.loads(paste(server, PROFILE, answer["access_token"]))["email"] == "reference@example.com"


def test_refresh_of_an_expired_token(server, session):
    """As the reference says it: "Refresh expired JWT tokens", with the token itself as Bearer."""
    old = expired(server, session["access_token"], 3600)
    assert json.loads(paste(server, PROFILE, old))["error"]["code"] == "token_expired"
    answer = json.loads(paste(server, REFRESH, old))
    assert answer["token_type"] == "Bearer"
    assert json.loads(paste(server, PROFILE, answer["access_token"]))["email"] == "reference@example.com"
    older = expired(server, session["access_token"], 8 * 86400)
    assert json.loads(paste(server, REFRESH, older))["error"]["code"] == "refresh_window_over"


def test_profile_and_api_keys(server, session):
    profile = json.loads(paste(server, PROFILE, session["access_token"]))
    assert (profile["email"], profile["name"]) == ("reference@example.com", "Reader")
    made = json.loads(paste(server, API_KEYS, session["access_token"]))
    assert (made["name"], made["permissions"]) == ("Development Key", ["read", "write"])
    assert json.loads(paste(server, PROFILE, made["key"]))["email"] == "reference@example.com"


def test_conversations(server, session):
    token = session["access_token"]
    made = json.loads(paste(server, CREATE_CONVERSATION, token))
    assert (made["title"], made["model"]) == ("My Conversation", "jan-v1-4b")
    assert made["id"] in [one["id"] for one in json.loads(paste(server, LIST_CONVERSATIONS, token))["data"]]
    # 123 stands for the id of one.
    got = json.loads(paste(server, GET_CONVERSATION.replace("/123", f"/{made['id']}"), token))
    assert (got["title"], got["messages"]) == ("My Conversation", [])
    assert json.loads(paste(server, GET_CONVERSATION, token))["error"]["type"] == "invalid_request_error"
    for command in (CREATE_CONVERSATION, LIST_CONVERSATIONS, GET_CONVERSATION):
        assert json.loads(paste(server, command))["error"]["code"] == "missing_credentials"


def test_the_protected_endpoint_is_a_name_for_any(server, session):
    """There is no such path, and the answer says so in the documented shape."""
    error = json.loads(paste(server, PROTECTED, session["access_token"]))["error"]
    assert error["type"] == "invalid_request_error" and error["message"]


def test_chats_parameters(server):
    """Each of the table, and for `temperature` its range."""
    body = {"model": "jan-v1-4b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    for temperature, status in ((0.0, 200), (2.0, 200), (2.1, 400), (-0.1, 400)):
        answer = server.post("/api/v1/chat/completions", body | {"temperature": temperature, "stream": False})
        assert answer.status == status, answer
        if status == 200:
            assert answer.json()["usage"]["completion_tokens"] <= 3
        else:
            assert answer.error["param"] == "temperature"


#: Verbatim, for versions of the SDK below 1.0, which has an environment of its own.
OLD_PYTHON = """\
import openai

openai.api_base = "http://localhost:8080/api/v1"
openai.api_key = "your-jwt-token"

response = openai.ChatCompletion.create(
    model="jan-v1-4b",
    messages=[
        {"role": "user", "content": "Hello!"}
    ]
)
"""
CALLBACK = "http://localhost:8080/auth/google/callback?code=&state="
SWAGGER = "http://localhost:8080/api/swagger/index.html#/"


def test_old_python_sdk(server, session):
    code = OLD_PYTHON.replace("localhost:8080", f"127.0.0.1:{server.port}")
    code = code.replace("your-jwt-token", session["access_token"])
    code += "\nimport json; print(json.dumps(response))"
    python = ROOT / "target/openai-old-venv/bin/python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["object"], answer["model"]) == ("chat.completion", "jan-v1-4b")
    assert answer["choices"][0]["message"]["content"].strip()


def test_todays_python_sdk(server, session):
    """The same call in the form of the versions from 1.0 on."""
    with openai.OpenAI(base_url=server.base_url, api_key=session["access_token"]) as client:
        response = client.chat.completions.create(model="jan-v1-4b", messages=[{"role": "user", "content": "Hello!"}])
    assert response.model == "jan-v1-4b"
    assert response.choices[0].message.content.strip()


def test_both_kinds_of_credential_go_in_one_header(server, user, session):
    key = server.new_key(user)["key"]
    for credential in (session["access_token"], key):
        assert json.loads(paste(server, PROFILE, credential))["email"] == "reference@example.com"


def test_callback_without_a_sign_in(server):
    answer = json.loads(paste(server, f"curl '{CALLBACK}'"))
    assert answer["error"]["type"] in ("invalid_request_error", "server_error")
    assert answer["error"]["code"].startswith("oauth_")


def test_swagger_is_where_it_should_be(server):
    assert "swagger-ui" in paste(server, f"curl --silent --fail '{SWAGGER}'")


def test_errors_have_the_documented_shape(server):
    answer = server.post("/api/v1/chat/completions", b"{")
    assert answer.status == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_json")
    assert error["message"]


def test_every_documented_status_is_described(server):
    described = server.get("/api/swagger/openapi.json").json()["paths"]["/api/v1/chat/completions"]["post"]["responses"]
    for status in ("400", "401", "403", "404", "429", "500", "503"):
        assert status in described, status


def test_rate_limit_headers_are_there(server):
    answer = server.get("/api/v1/models")
    for name in ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"):
        assert int(answer.headers[name]) >= 0
