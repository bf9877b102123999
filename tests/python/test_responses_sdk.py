"""`client.responses` of the OpenAI Python SDK, as its users call it."""

import asyncio

import openai
import openai_schema
import pydantic
import pytest
from harness import ENDLESS, MODEL, stopped, wait_until

ASK = {"model": MODEL, "input": "Tell me a story", "max_output_tokens": 24, "temperature": 0}
LONG = {"extra_body": {"logit_bias": ENDLESS}}


def test_create_and_retrieve(client):
    made = client.responses.create(**ASK, instructions="Be brief.", metadata={"a": "b"}, **LONG)
    assert made.status == "incomplete" and made.incomplete_details.reason == "max_output_tokens"
    assert made.output_text == made.output[0].content[0].text
    assert made.usage.output_tokens == 24
    assert client.responses.retrieve(made.id) == made
    openai_schema.check("Response", client.responses.with_raw_response.retrieve(made.id).http_response.json())


def test_stream(client):
    with client.responses.create(**ASK, stream=True, **LONG) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == text and text


def test_stream_helper(client):
    with client.responses.stream(**ASK, **LONG) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text


def test_stream_helper_final_response(client):
    """`get_final_response` needs a response that ends by itself, so the end is forced after nothing."""
    end = {token: 100 for token in ENDLESS}
    with client.responses.stream(**ASK, extra_body={"logit_bias": end}) as stream:
        final = stream.get_final_response()
    assert final.status == "completed" and final.output_text == ""


async def test_async(async_client):
    made = await async_client.responses.create(**ASK, **LONG)
    assert made.output_text
    stream = await async_client.responses.create(**ASK, stream=True, **LONG)
    events = [event async for event in stream]
    assert events[-1].response.output_text == made.output_text or events[-1].response.usage.output_tokens == 24
    async with async_client.responses.stream(**ASK, **LONG) as helper:
        kinds = [event.type async for event in helper]
    assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete"
    answers = await asyncio.gather(*(async_client.responses.create(**ASK, **LONG) for _ in range(8)))
    assert len({answer.id for answer in answers}) == 8


def test_continue(client):
    first = client.responses.create(**ASK, **LONG)
    second = client.responses.create(**ASK | {"input": "Go on"}, previous_response_id=first.id, **LONG)
    assert second.usage.input_tokens > first.usage.input_tokens
    by_hand = client.responses.create(
        **ASK | {"input": [{"role": "user", "content": ASK["input"]}, *first.output, {"role": "user", "content": "Go on"}]},
        store=False,
        **LONG,
    )
    assert by_hand.usage.input_tokens == second.usage.input_tokens


def test_input_items(client):
    texts = [f"text {n}" for n in range(25)]
    made = client.responses.create(**ASK | {"input": [{"role": "user", "content": text} for text in texts]})
    # The SDK turns the pages.
    listed = list(client.responses.input_items.list(made.id, order="asc", limit=10))
    assert [item.content[0].text for item in listed] == texts
    newest = client.responses.input_items.list(made.id, limit=1, include=["message.output_text.logprobs"])
    assert newest.data[0].content[0].text == texts[-1] and newest.has_more
    behind = client.responses.input_items.list(made.id, order="asc", after=listed[-2].id)
    assert [item.id for item in behind.data] == [listed[-1].id]


def test_delete(client):
    made = client.responses.create(**ASK)
    assert client.responses.delete(made.id) is None
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_background_polling(client):
    made = client.responses.create(**ASK, background=True, **LONG)
    assert made.status == "queued"
    ended = wait_until(
        lambda: (now := client.responses.retrieve(made.id)).status not in ("queued", "in_progress") and now, "its end", 120
    )
    assert ended.status == "incomplete" and ended.output_text


def test_background_stream_is_taken_up(client):
    seen = []
    with client.responses.create(**ASK, background=True, stream=True, **LONG) as stream:
        for event in stream:
            seen.append(event)
            if len(seen) == 7:
                break
    rest = client.responses.retrieve(seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number)
    seen += list(rest)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert text == seen[-1].response.output_text
    # The helper takes up streams, too.
    with client.responses.stream(response_id=seen[0].response.id, starting_after=5) as helper:
        assert [event.sequence_number for event in helper] == [event.sequence_number for event in seen[6:]]


def test_cancel(make_server):
    server = make_server(env={"JAN_SERVER__WORKER__STEP_TIMEOUT_MS": "600000"})
    with openai.OpenAI(base_url=server.base_url, api_key=server.admin_key, max_retries=0, timeout=120) as client:
        with stopped(server.worker()):
            made = client.responses.create(**ASK, background=True, **LONG)
            cancelled = client.responses.cancel(made.id)
        assert cancelled.status == "cancelled"
        assert client.responses.retrieve(made.id).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="background"):
            client.responses.cancel(client.responses.create(**ASK).id)


def test_count_tokens(client):
    counted = client.responses.input_tokens.count(model=MODEL, input="Tell me a story")
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == client.responses.create(**ASK).usage.input_tokens


def test_logprobs(client):
    made = client.responses.create(**ASK, include=["message.output_text.logprobs"], top_logprobs=2, **LONG)
    logprobs = made.output[0].content[0].logprobs
    assert len(logprobs) == 24 and all(len(entry.top_logprobs) == 2 for entry in logprobs)


def test_parse(client):
    """Plain text passes through `parse`; with a schema the answer satisfies it, plain and streaming."""
    parsed = client.responses.parse(**ASK, **LONG)
    assert parsed.output_text and parsed.output_parsed is None

    class Story(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        title: str = pydantic.Field(max_length=20)
        sad: bool

    answer = client.responses.parse(**ASK | {"max_output_tokens": 200}, text_format=Story)
    assert isinstance(answer.output_parsed, Story)
    assert answer.status == "completed"
    assert answer.text.format.type == "json_schema" and answer.text.format.name == "Story"
    with client.responses.stream(**ASK | {"max_output_tokens": 200, "temperature": 2}, text_format=Story) as stream:
        assert any(event.type == "response.output_text.delta" for event in stream)
        assert isinstance(stream.get_final_response().output_parsed, Story)
    last = client.responses.retrieve(answer.id)
    assert last.text.format.schema_ == answer.text.format.schema_


def test_errors(client, server):
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nope", input="x")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**ASK | {"max_output_tokens": 1})
    assert refused.value.param == "max_output_tokens"
    with openai.OpenAI(base_url=server.base_url, api_key="sk-jan-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.responses.create(**ASK)
