"""Models: list, retrieve, alias."""

import openai
import pytest
from greedy import CHAT, assert_same_text, pieces_of
from harness import IS_BUNDLED, MODEL, VOCABULARY


def test_list(client):
    models = {model.id: model for model in client.models.list()}
    assert {"jan-tiny", "jan-v1-4b"} <= set(models)
    for model in models.values():
        assert model.object == "model"
        assert model.owned_by
        assert model.created > 1_500_000_000


def test_retrieve(client):
    model = client.models.retrieve(MODEL)
    assert model.id == MODEL
    extra = model.model_extra
    assert extra["status"] == "ready"
    assert 0 < extra["context_length"] <= VOCABULARY.context
    assert extra["root"] == ("jan-tiny" if IS_BUNDLED else MODEL)


def test_bundled_model_is_its_own_root(client):
    assert client.models.retrieve("jan-tiny").model_extra["root"] == "jan-tiny"


def test_alias_is_announced_at_the_start(server):
    mentioned = any(
        "jan-v1-4b" in line and "jan-tiny" in line and "warn" in line.lower() for line in server.log().splitlines()
    )
    assert mentioned == IS_BUNDLED


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"
    for create in (
        lambda: client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "x"}]),
        lambda: client.completions.create(model="no-such-model", prompt="x"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            create()
        assert caught.value.code == "model_not_found"
        assert caught.value.type == "invalid_request_error"
        assert caught.value.param == "model"
        assert "no-such-model" in caught.value.message


def test_alias_and_name_give_the_same_answer(client, server):
    request = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20, "temperature": 0}
    own = client.chat.completions.create(model="jan-tiny", **request)
    assert own.choices[0].message.content, "the bundled model is there, beside a real one too"
    assert own.model == "jan-tiny"
    if IS_BUNDLED:
        alias = {"model": "jan-v1-4b"} | request
        assert_same_text(server, CHAT, alias, pieces_of(server, **alias), own.choices[0].message.content)
        assert client.chat.completions.create(**alias).model == "jan-v1-4b"
