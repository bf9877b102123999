"""`client.conversations` of the OpenAI Python SDK, unchanged."""

import openai
import pytest
from harness import MODEL

TEXT = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello!"}]}]


def test_conversations(client):
    made = client.conversations.create(metadata={"topic": "demo"}, items=TEXT)
    assert made.object == "conversation"
    assert made.metadata == {"topic": "demo"}
    assert made.created_at > 1_700_000_000
    assert client.conversations.retrieve(made.id).id == made.id
    changed = client.conversations.update(made.id, metadata={"topic": "another"})
    assert changed.metadata == {"topic": "another"}
    gone = client.conversations.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_nothing_given(client):
    made = client.conversations.create()
    assert made.metadata == {}


def test_items(client):
    conversation = client.conversations.create().id
    added = client.conversations.items.create(
        conversation,
        items=[
            *TEXT,
            {"type": "message", "role": "assistant", "content": "Hi."},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "42"},
        ],
        include=["message.output_text.logprobs"],
    )
    assert [item.type for item in added.data] == ["message", "message", "function_call", "function_call_output"]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[-1].id, False)
    assert added.data[0].content[0].text == "Hello!"
    assert added.data[1].content[0].type == "output_text"
    one = client.conversations.items.retrieve(added.data[2].id, conversation_id=conversation)
    assert (one.type, one.name, one.arguments, one.status) == ("function_call", "f", "{}", "completed")
    left = client.conversations.items.delete(one.id, conversation_id=conversation)
    assert left.id == conversation
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(one.id, conversation_id=conversation)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_the_sdks_own_paging(client, order):
    conversation = client.conversations.create().id
    ids = []
    for start in range(0, 45, 15):
        items = [{"role": "user", "content": f"text {number}"} for number in range(start, start + 15)]
        ids += [item.id for item in client.conversations.items.create(conversation, items=items).data]
    listed = client.conversations.items.list(conversation, limit=10, order=order, include=["reasoning.encrypted_content"])
    assert [item.id for item in listed] == (ids if order == "asc" else ids[::-1])


def test_chat_in_a_conversation(client):
    conversation = client.conversations.create().id
    message = {"role": "user", "content": "Hello"}
    answer = client.chat.completions.create(
        model=MODEL, messages=[message], max_tokens=5, extra_body={"conversation": conversation}
    )
    stream = client.chat.completions.create(
        model=MODEL, messages=[message], max_tokens=5, stream=True, extra_body={"conversation": {"id": conversation}}
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    items = list(client.conversations.items.list(conversation, order="asc"))
    assert [item.role for item in items] == ["user", "assistant", "user", "assistant"]
    said = ["".join(part.text for part in item.content) for item in items]
    assert said == ["Hello", answer.choices[0].message.content, "Hello", text]


def test_errors(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.conversations.create(items=[{"role": "user", "content": 5}])
    assert caught.value.param == "items[0].content"
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.list("conv_none")


async def test_async(async_client):
    made = await async_client.conversations.create(items=TEXT)
    listed = [item async for item in async_client.conversations.items.list(made.id)]
    assert [item.content[0].text for item in listed] == ["Hello!"]
    assert (await async_client.conversations.delete(made.id)).deleted
