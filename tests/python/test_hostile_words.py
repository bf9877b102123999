"""OpenAI's words in errors, which SDKs and gateways match on; codes and params beside them."""

import pytest
from harness import MODEL
from tokens import forgeries

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
PATH = "/v1/chat/completions"


def is_error(answer, status, code, begin):
    assert (answer.status, answer.error["code"]) == (status, code), answer
    assert answer.error["message"].startswith(begin), answer.error


def test_a_wrong_credential(server):
    is_error(server.post(PATH, CHAT, key="sk-jan-" + "A" * 43), 401, "invalid_api_key", "Incorrect API key provided.")
    session = server.new_session(server.new_user("words@example.com"))["access_token"]
    for code, token in forgeries(server, session):
        is_error(server.get("/v1/models", key=token), 401, code, "Incorrect API key provided: the ")
    is_error(server.get("/v1/user/profile"), 401, "missing_credentials", "You didn't provide an API key. ")


def test_a_revoked_key(server):
    made = server.new_key(server.new_user("revoked@example.com"), ("read", "write", "keys"))
    assert server.delete(f"/v1/user/api-keys/{made['id']}", key=made["key"]).status in (200, 204)
    is_error(server.get("/v1/models", key=made["key"]), 401, "api_key_revoked", "Incorrect API key provided: ")


def test_an_unknown_model(server):
    words = "The model `gpt-x` does not exist or you do not have access to it."
    for path, body in ((PATH, CHAT), ("/v1/completions", {"prompt": "x"}), ("/v1/responses", {"input": "x"}),
                       ("/v1/embeddings", {"input": "x"}), ("/v1/tokenize", {"prompt": "x"})):  # fmt: skip
        answer = server.post(path, body | {"model": "gpt-x"})
        is_error(answer, 404, "model_not_found", words)
        assert answer.error["param"] == "model"
    is_error(server.get("/v1/models/gpt-x"), 404, "model_not_found", words)


def test_a_wrong_content_type(server):
    answer = server.post(PATH, b"{}", {"Content-Type": "text/plain"})
    is_error(answer, 415, "unsupported_media_type", "Unsupported content type: 'text/plain'. This API method only accepts ")
    assert "'application/json'" in answer.error["message"]


@pytest.mark.parametrize("body", [b"{", b"", b'{"model": }', b"\xff"], ids=str)
def test_a_body_that_is_no_json(server, body):
    is_error(server.post(PATH, body), 400, "invalid_json", "We could not parse the JSON body of your request")


def test_a_rate_limit(make_server):
    own = make_server(env={"JAN_SERVER__RATE_LIMITS__INFERENCE_PER_MINUTE": 1})
    assert own.post(PATH, CHAT).status == 200
    answer = own.post(PATH, CHAT)
    is_error(answer, 429, "rate_limit_exceeded", "Rate limit reached: limit 1 inference requests a minute. Please try again in ")
    assert answer.error["message"].endswith(f" {answer.headers['Retry-After']}s.")


def test_the_descriptions_addresses_are_absolute(server, make_server):
    def flow(one, headers=None):
        document = one.get("/api/swagger/openapi.json", headers).json()
        return document["components"]["securitySchemes"]["google"]["flows"]["authorizationCode"]

    urls = flow(server)
    assert urls["authorizationUrl"] == f"{server.url}/auth/google"
    assert urls["tokenUrl"] == f"{server.url}/auth/exchange" and urls["refreshUrl"] == f"{server.url}/auth/refresh"
    assert f"{server.url}/auth/google" in server.get("/api/swagger/openapi.yaml").body.decode()
    assert flow(server, {"Host": "localhost:1", "X-Forwarded-Proto": "https"})["tokenUrl"] == "https://localhost:1/auth/exchange"
    own = make_server(config='[auth.google]\nredirect_url = "https://jan.example.com/auth/google/callback"\n', model=False, wait="live")
    assert flow(own)["authorizationUrl"] == "https://jan.example.com/auth/google"
