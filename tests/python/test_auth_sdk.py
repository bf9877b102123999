"""The OpenAI Python SDK with a key and with a JWT, where callers need one."""

import openai
import pytest
from conftest import sdk
from harness import MODEL

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def credentials(make_server):
    own = make_server(env={"JAN_SERVER__AUTH__ANONYMOUS": "deny"})
    user = own.new_user()
    return own, {"key": own.new_key(user)["key"], "jwt": own.new_session(user)["access_token"]}


def test_sdk_with_a_key_and_with_a_jwt(credentials):
    own, both = credentials
    for credential in both.values():
        with sdk(own, api_key=credential) as client:
            assert MODEL in [model.id for model in client.models.list()]
            answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5)
            assert answer.choices[0].message.content
            stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5, stream=True)
            assert len(list(stream)) > 1
            assert client.completions.create(model=MODEL, prompt="x", max_tokens=2).choices
            raw = client.models.with_raw_response.list()
            assert int(raw.headers["x-ratelimit-remaining"]) > 0


def test_sdk_errors(credentials):
    own, both = credentials
    for wrong in ("sk-jan-wrong", both["jwt"][:-8] + "AAAAAAAA"):
        with sdk(own, api_key=wrong) as client, pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert caught.value.code in ("invalid_api_key", "token_bad_signature")
    read_only = own.new_key(own.new_user("reader@example.com"), ["read"])["key"]
    with sdk(own, api_key=read_only) as client, pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert caught.value.code == "insufficient_permissions"


async def test_async_sdk_with_a_jwt(credentials):
    own, both = credentials
    async with openai.AsyncOpenAI(base_url=own.base_url, api_key=both["jwt"], max_retries=0) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2)
        assert answer.choices[0].message.content
