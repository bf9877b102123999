"""Web search in responses and chat, against a search service of the tests' own.

What the model says is made certain by structured output, so that it cites the first source.
"""

import itertools
import json
import time

import openai_schema
import pytest
import serper
from conftest import sdk
from harness import MODEL, Server, wait_until

CHAT = "/api/v1/chat/completions"
RESPONSES = "/api/v1/responses"
SCHEMA = {
    "type": "object", "properties": {"a": {"const": "Yes [1]."}}, "required": ["a"], "additionalProperties": False,
}
CITING = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
TOOL = {"type": "web_search"}
#: OpenAI's description knows only the older name here; the newer one does as well.
CHOICE = {"type": "web_search_preview"}
FORCED = {"tools": [TOOL], "tool_choice": CHOICE, "text": CITING, "max_output_tokens": 60}
_numbers = itertools.count(1)


def question():
    """One that nobody has asked yet, so that nothing is remembered of it."""
    return f"What about question {next(_numbers)}?"


@pytest.fixture(scope="module")
def service():
    one = serper.Serper()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def honest(service):
    yield
    service.reset()


@pytest.fixture(scope="module")
def own(tmp_path_factory, service):
    one = Server(tmp_path_factory.mktemp("web"), env=service.settings(retries=1, timeout_ms=4000))
    yield one
    one.close()


@pytest.fixture
def client(own):
    with sdk(own) as one:
        yield one


def chat(server, content=None, **fields):
    fields = {"web_search_options": {}, "guided_regex": r"Yes \[1\]\.", "max_tokens": 20} | fields
    return server.chat(content or question(), key=server.admin_key, **fields)


def respond(server, **fields):
    return server.post(RESPONSES, {"model": MODEL, "input": question()} | FORCED | fields, key=server.admin_key)


def serper_status(server):
    return server.get("/api/v1/status", key=server.admin_key).json()["external_apis"]["serper"]


def test_without_a_key_it_is_refused(server):
    for path, fields, param in (
        (RESPONSES, {"input": "x", "tools": [TOOL]}, "tools[0].type"),
        (RESPONSES, {"input": "x", "tools": [{"type": "web_search_preview"}]}, "tools[0].type"),
        (CHAT, {"messages": [{"role": "user", "content": "x"}], "web_search_options": {}}, "web_search_options"),
    ):
        answer = server.post(path, {"model": MODEL} | fields, key=server.admin_key)
        assert answer.status == 400, answer
        assert (answer.error["code"], answer.error["param"]) == ("web_search_not_configured", param)
        assert "web_search.api_key" in answer.error["message"]
    assert serper_status(server) == "not_configured"


def test_a_chat_searches_and_cites(own, client, service):
    service.asked.clear()
    asked = question()
    made = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
                               {"role": "user", "content": asked}],
        web_search_options={}, max_tokens=20, extra_body={"guided_regex": r"Ünd \[2\] yes \[1\]\."},
    )
    message = made.choices[0].message
    assert message.content == "Ünd [2] yes [1]."
    cited = [one.url_citation for one in message.annotations]
    assert [(one.start_index, one.end_index) for one in cited] == [(4, 7), (12, 15)]
    assert [one.title for one in cited] == [serper.TITLE.format(2), serper.TITLE.format(1)]
    assert cited[0].url == "https://site2.example/page?n=2"
    openai_schema.check("CreateChatCompletionResponse", made.model_dump(mode="json", by_alias=True, exclude_unset=True))
    assert service.asked == [("/search", serper.KEY, {"q": asked, "num": 5})]
    assert serper_status(own) == "healthy"


def test_the_results_are_in_the_prompt(own):
    """The same question without the search is a much shorter prompt."""
    asked = question()
    without = own.chat(asked, key=own.admin_key).json()["usage"]["prompt_tokens"]
    assert chat(own, asked).json()["usage"]["prompt_tokens"] > without + 100


def test_a_streamed_chat_cites_at_its_end(client):
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question()}], web_search_options={"search_context_size": "low"},
        stream=True, max_tokens=20, extra_body={"guided_regex": r"Yes \[3\]\."},
    )
    chunks = list(stream)
    (annotations,) = [
        chunk.choices[0].delta.annotations for chunk in chunks
        if chunk.choices and getattr(chunk.choices[0].delta, "annotations", None)
    ]
    assert annotations[0]["type"] == "url_citation"
    assert annotations[0]["url_citation"]["url"] == "https://site3.example/page?n=3"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_response_searches_and_cites(client, service):
    service.asked.clear()
    asked = question()
    made = client.responses.create(model=MODEL, input=asked, **FORCED)
    openai_schema.check("Response", made.model_dump(mode="json", by_alias=True, exclude_unset=True))
    search, message = made.output
    assert (search.type, search.status, search.action.type) == ("web_search_call", "completed", "search")
    assert search.id.startswith("ws_") and search.action.query == asked
    assert search.action.sources is None
    (part,) = message.content
    (one,) = part.annotations
    assert part.text[one.start_index : one.end_index] == "[1]"
    assert (one.type, one.url, one.title) == ("url_citation", "https://site1.example/page?n=1", serper.TITLE.format(1))
    assert len(service.asked) == 1
    # It is kept, and can be gone on with.
    assert client.responses.retrieve(made.id).output == made.output
    after = client.responses.create(model=MODEL, previous_response_id=made.id, input="And?", max_output_tokens=16)
    kinds = [item.type for item in client.responses.input_items.list(after.id, order="asc").data]
    assert kinds == ["message", "web_search_call", "message", "message"]
    again = [{"role": "user", "content": "x"}, *[item.model_dump(exclude_none=True) for item in made.output],
             {"role": "user", "content": "And?"}]
    assert client.responses.create(model=MODEL, input=again, max_output_tokens=16).status in ("completed", "incomplete")


def test_every_way_to_have_it_search(own, service):
    for tool, choice in (
        ("web_search", {"type": "web_search"}), ("web_search_preview", {"type": "web_search_preview_2025_03_11"}),
        ("web_search_2025_08_26", "required"),
    ):
        made = respond(own, tools=[{"type": tool}], tool_choice=choice)
        assert made.status == 200, made
        assert [item["type"] for item in made.json()["output"]] == ["web_search_call", "message"]
        # Requests have several names for it, OpenAI's description of what answers choose from has one.
        assert made.json()["tool_choice"] in ({"type": "web_search_preview"}, "required")


def test_sources_are_shown_where_they_are_wanted(client):
    made = client.responses.create(model=MODEL, input=question(), include=["web_search_call.action.sources"], **FORCED)
    openai_schema.check("Response", made.model_dump(mode="json", by_alias=True, exclude_unset=True))
    sources = made.output[0].action.sources
    assert [one.url for one in sources][:2] == ["https://site1.example/page?n=1", "https://site2.example/page?n=2"]
    assert all(one.type == "url" for one in sources)


def test_a_streamed_response_has_openais_events(own, client):
    events = list(client.responses.create(model=MODEL, input=question(), stream=True, **FORCED))
    for event in events:
        body = event.model_dump(mode="json", by_alias=True, exclude_unset=True)
        openai_schema.check("ResponseStreamEvent", body)
        if event.type in openai_schema.EVENTS:
            openai_schema.check(openai_schema.EVENTS[event.type], body)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:9] == [
        "created", "in_progress", "output_item.added", "web_search_call.in_progress", "web_search_call.searching",
        "web_search_call.completed", "output_item.done", "output_item.added", "content_part.added",
    ]
    assert kinds[-5:] == [
        "output_text.annotation.added", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]
    assert events[2].item.status == "in_progress" and events[6].item.status == "completed"
    assert {events[index].item_id for index in (3, 4, 5)} == {events[2].item.id}
    final = events[-1].response
    assert events[-5].model_dump()["annotation"]["url"] == final.output[1].content[0].annotations[0].url
    assert final.output[0] == events[6].item
    # Made again from what is stored.
    assert list(client.responses.retrieve(final.id, stream=True)) == events


def test_the_search_shows_before_it_ends(own, service):
    service.delay = 1.5
    with own.stream(RESPONSES, key=own.admin_key, input=question(), **FORCED) as stream:
        seen = {}
        for event in stream.events():
            seen.setdefault(event["type"], time.monotonic())
    searching, completed = (seen[f"response.web_search_call.{name}"] for name in ("searching", "completed"))
    assert completed - searching > 0.7


def test_a_model_that_calls_for_a_search_gets_it(client, service):
    """The first call is enforced, and no other is allowed."""
    service.asked.clear()
    function = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
    made = client.responses.create(
        model=MODEL, input=question(), text=CITING, max_output_tokens=800, max_tool_calls=1,
        parallel_tool_calls=False, tools=[function, TOOL | {"search_context_size": "low"}],
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
    )
    openai_schema.check("Response", made.model_dump(mode="json", by_alias=True, exclude_unset=True))
    search, message = made.output
    assert (search.type, search.status) == ("web_search_call", "completed")
    (asked,) = service.asked
    assert (asked[2]["q"], asked[2]["num"]) == (search.action.query, 3)
    assert message.content[0].annotations[0].url == "https://site1.example/page?n=1"
    assert made.usage.input_tokens > 100


def test_a_search_that_need_not_be(client, service):
    """Without any search left the model answers by itself."""
    service.asked.clear()
    for choice in (TOOL, "required", "auto", "none"):
        made = client.responses.create(
            model=MODEL, input=question(), tools=[TOOL], tool_choice=choice, max_tool_calls=0, text=CITING,
            max_output_tokens=60,
        )
        assert [item.type for item in made.output] == ["message"]
        assert made.output[0].content[0].annotations == []
    assert service.asked == []


def test_a_conversation_keeps_what_was_searched(client):
    conversation = client.conversations.create()
    made = client.responses.create(model=MODEL, input=question(), conversation=conversation.id, **FORCED)
    items = client.conversations.items.list(conversation.id, order="asc").data
    assert sorted(item.type for item in items) == ["message", "message", "web_search_call"]
    (said,) = [item for item in items if item.type == "message" and item.role == "assistant"]
    assert said.content[0].annotations[0].url == made.output[1].content[0].annotations[0].url
    asked = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question()}], web_search_options={}, max_tokens=20,
        extra_body={"guided_regex": r"Yes \[1\]\.", "conversation": conversation.id},
    )
    items = client.conversations.items.list(conversation.id, order="asc").data
    assert items[-1].content[0].annotations[0].title == serper.TITLE.format(1)
    assert asked.choices[0].message.annotations
    assert "Web search results" not in items[-2].content[0].text, "what is stored is what was said"


def test_in_the_background(own):
    made = respond(own, background=True)
    assert made.status == 200, made
    path = f"{RESPONSES}/{made.json()['id']}"
    done = wait_until(
        lambda: (now := own.get(path, key=own.admin_key).json())["status"] == "completed" and now, "the end", 60
    )
    assert [item["type"] for item in done["output"]] == ["web_search_call", "message"]


def test_wishes_reach_the_service(own, service):
    service.asked.clear()
    place = {"type": "approximate", "country": "de", "city": "Köln", "region": "NRW"}
    asked = question()
    tool = TOOL | {"search_context_size": "high", "user_location": place,
                   "filters": {"allowed_domains": ["Site2.example", "other.example"]}}
    made = respond(own, input=asked, tools=[tool], text={}, include=["web_search_call.action.sources"],
                   max_output_tokens=16)
    assert made.status == 200, made
    assert service.asked[0][2] == {
        "q": f"{asked} (site:site2.example OR site:other.example)", "num": 10, "gl": "de", "location": "Köln, NRW",
    }
    urls = [source["url"] for source in made.json()["output"][0]["action"]["sources"]]
    assert urls == ["https://site2.example/page?n=2"], "others are left out, whatever the service says"
    assert made.json()["tools"][0]["user_location"]["city"] == "Köln"
    chat(own, web_search_options={"user_location": {"type": "approximate", "approximate": {"country": "FR"}}})
    assert service.asked[1][2]["gl"] == "fr"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": [{"type": "file_search"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [{"type": "code_interpreter"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "invalid_value", "tools[1].type"),
        ({"tools": [], "tool_choice": TOOL}, "invalid_value", "tool_choice"),
        ({"tools": [TOOL | {"external_web_access": False}]}, "unsupported_parameter", "tools[0].external_web_access"),
        ({"tools": [TOOL | {"search_context_size": "huge"}]}, "invalid_value", "tools[0].search_context_size"),
        ({"tools": [TOOL | {"user_location": {"country": "Germany"}}]}, "invalid_value", "tools[0].user_location.country"),
        ({"tools": [TOOL | {"filters": {"allowed_domains": ["https://x"]}}]}, "invalid_value",
         "tools[0].filters.allowed_domains[0]"),
        ({"tools": [TOOL, {"type": "function", "name": "web_search"}], "tool_choice": "auto"}, "invalid_value",
         "tools[1].name"),
        ({"input": [{"role": "system", "content": "x"}]}, "invalid_value", "input"),
        ({"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]}, "missing_required_parameter",
         "input[0].action"),
    ],
)
def test_what_is_wrong_is_named(own, service, fields, code, param):
    service.asked.clear()
    answer = respond(own, **fields)
    assert answer.status == 400, answer
    assert (answer.error["code"], answer.error["param"]) == (code, param), answer
    assert service.asked == []


def test_wrong_chats_are_named(own):
    for fields, param in (
        ({"web_search_options": {"search_context_size": "huge"}}, "web_search_options.search_context_size"),
        ({"web_search_options": {"user_location": {"type": "approximate", "approximate": {"country": "1"}}}},
         "web_search_options.user_location.approximate.country"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"tools": [TOOL]}, "tools[0].type"),
    ):
        answer = chat(own, **fields)
        assert (answer.status, answer.error["param"]) == (400, param), answer


def test_a_search_that_fails_is_told(make_server, service):
    """A response goes on without, and says so in its item; chat has no place for that, and fails."""
    own = make_server(env=service.settings(retries=1))
    assert serper_status(own) == "unknown"
    service.always = (500, {}, b"oops")
    service.asked.clear()
    made = respond(own, text={}, max_output_tokens=16)
    assert made.status == 200, made
    openai_schema.check("Response", made.json())
    search, message = made.json()["output"]
    assert (search["status"], message["type"]) == ("failed", "message")
    assert message["content"][0]["annotations"] == []
    assert len(service.asked) == 2, "one retry"
    assert serper_status(own) == "degraded"
    answer = chat(own)
    assert (answer.status, answer.error["code"]) == (503, "web_search_failed"), answer
    assert int(answer.headers["Retry-After"]) > 0 and answer.error["param"] == "web_search_options"
    with own.stream(RESPONSES, key=own.admin_key, input=question(), **FORCED) as stream:
        kinds = [event["type"] for event in stream.events()]
    assert "response.web_search_call.searching" in kinds and "response.web_search_call.completed" not in kinds
    assert kinds[-1] == "response.completed"
    assert serper_status(own) == "unhealthy"
    service.reset()
    assert chat(own).status == 200
    assert serper_status(own) == "healthy"


def test_too_many_for_the_service_and_then_not(own, service):
    service.answers = [(429, {"Retry-After": "0"}, b"")]
    service.asked.clear()
    answer = chat(own)
    assert answer.status == 200, answer
    assert len(service.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b"<html>nothing</html>"),
        (200, {}, b"[" * 100_000),
        (200, {}, {"organic": {"a": 1}}),
        (200, {}, b"\xff\xfe\x00"),
        (200, {}, b"{" + b" " * 20_000_000 + b"}"),
        (302, {"Location": "/search"}, b""),
        (400, {}, {"message": "Not enough credits"}),
    ],
    ids=["html", "deep", "shape", "bytes", "20 MB", "redirect", "refused"],
)
def test_answers_of_no_use(own, service, answer):
    service.always = answer
    service.asked.clear()
    refused = chat(own)
    assert (refused.status, refused.error["code"]) == (503, "web_search_failed"), refused
    assert len(service.asked) == 1, "asked again in vain"
    service.reset()
    assert chat(own).status == 200


def test_odd_results(own, service):
    odd = {"organic": [None, 7, {"title": "x", "link": "javascript:alert(1)"}, {"link": "https://only.example/"}]}
    service.answers = [(200, {}, odd)]
    made = chat(own)
    assert made.status == 200, made
    (one,) = made.json()["choices"][0]["message"]["annotations"]
    assert one["url_citation"]["url"] == "https://only.example/"
    service.answers = [(200, {}, {"organic": []})]
    made = chat(own)
    assert made.status == 200 and made.json()["choices"][0]["message"]["annotations"] == []


def test_a_refused_key_is_told_and_not_shown(make_server, service):
    key = "wrong-key-0815"
    own = make_server(env=service.settings(api_key=key))
    service.always = (403, {}, {"message": f"Unauthorized: {key}"})
    service.asked.clear()
    answer = chat(own)
    assert (answer.status, answer.error["code"]) == (503, "web_search_failed")
    assert "web_search.api_key" in answer.error["message"] and key not in answer.body.decode()
    assert len(service.asked) == 1
    assert serper_status(own) == "unhealthy"
    assert key not in own.log()


def test_a_slow_service(make_server, service):
    own = make_server(env=service.settings(timeout_ms=300, retries=5))
    service.delay = 3
    begin = time.monotonic()
    made = respond(own, text={}, max_output_tokens=16)
    assert made.status == 200 and made.json()["output"][0]["status"] == "failed", made
    assert time.monotonic() - begin < 2.9, "it did not wait for the service"


def test_who_leaves_takes_the_search_along(own, service):
    for path, fields in (
        (CHAT, {"web_search_options": {}}), (RESPONSES, FORCED | {"input": question(), "store": False}),
    ):
        service.reset()
        service.hang = True
        service.asked.clear()
        body = {"model": MODEL, "messages": [{"role": "user", "content": question()}]} | fields
        if path == RESPONSES:
            del body["messages"]
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer " \
               f"{own.admin_key}\r\nContent-Length: {len(data)}\r\n\r\n"
        with own.connect() as connection:
            connection.sendall(head.encode() + data)
            wait_until(lambda: service.asked, "the search")
        assert service.dropped.wait(3.5), "the search went on"


def test_cached_results_cost_no_credits(make_server, service):
    own = make_server(env=service.settings(credits_per_user_per_day=2))
    service.asked.clear()
    asked = question()
    for _ in range(3):
        assert chat(own, asked).status == 200
    assert len(service.asked) == 1, "it is remembered"
    assert chat(own).status == 200
    for refused in (chat(own), respond(own)):
        assert (refused.status, refused.error["code"]) == (429, "web_search_limit_reached"), refused
        assert "credits_per_user_per_day" in refused.error["message"] and int(refused.headers["Retry-After"]) > 0
    assert len(service.asked) == 2
    other = own.new_key(own.new_user())["key"]
    assert own.chat(question(), key=other, web_search_options={}).status == 200, "the limit is each user's own"


def test_credits_are_bounded_in_all(make_server, service):
    own = make_server(env=service.settings(credits_per_day=2))
    keys = [own.new_key(own.new_user(f"{name}@example.com"))["key"] for name in ("ann", "bob", "cleo")]
    answers = [own.chat(question(), key=key, web_search_options={}) for key in keys]
    assert [answer.status for answer in answers] == [200, 200, 429], answers
    refused = answers[-1]
    assert refused.error["code"] == "web_search_limit_reached", refused
    assert "web_search.credits_per_day" in refused.error["message"] and int(refused.headers["Retry-After"]) > 0
    assert own.chat(key=keys[-1]).status == 200, "without a search it goes on"


def test_results_make_room_for_the_answer(own, service):
    service.always = (200, {}, serper.results(10, "long " * 120))
    wide = chat(own, web_search_options={"search_context_size": "high"})
    assert wide.status == 200, wide
    context = own.get(f"/api/v1/models/{MODEL}", key=own.admin_key).json()["context_length"]
    tight = chat(own, web_search_options={"search_context_size": "high"}, max_tokens=context - 250)
    assert tight.status == 200, tight
    assert tight.json()["usage"]["prompt_tokens"] < wide.json()["usage"]["prompt_tokens"]
