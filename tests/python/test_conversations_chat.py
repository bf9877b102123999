"""Chat in stored conversations: what is kept of questions and answers, whatever happens in between."""

import threading

from conversation_callers import Caller, ann, own  # noqa: F401 - the fixtures are used by name
from harness import ENDLESS, MODEL, Server, text_of, wait_until


def test_chat_is_stored_and_goes_on(ann):
    conversation = ann.new(title="t")
    first = ann.chat(conversation, "My name is Ann.")
    assert first.status == 200, first
    answer = first.json()["choices"][0]["message"]["content"]
    assert first.json()["conversation"]["id"] == conversation
    messages = ann.messages(conversation)
    assert [(m["role"], m["content"], m["status"]) for m in messages] == [
        ("user", "My name is Ann.", "completed"),
        ("assistant", answer, "completed"),
    ]
    assert first.json()["conversation"]["item_id"] == messages[1]["id"]
    assert ann.get(f"/{conversation}").json()["model"] == MODEL
    # The history goes before what is new: more tokens than the message alone.
    second = ann.chat({"id": conversation}, "What is my name?")
    alone = ann.server.chat("What is my name?", key=ann.key)
    assert second.json()["usage"]["prompt_tokens"] > alone.json()["usage"]["prompt_tokens"] + 4
    assert len(ann.messages(conversation)) == 4


def test_chat_prompt_is_the_history(ann):
    """The prompt is what the same messages without a conversation are."""
    conversation = ann.new()
    history = [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}]
    ann.post(f"/{conversation}/items", {"items": history})
    stored = ann.chat(conversation, "Three", temperature=0, max_tokens=1)
    body = {"model": MODEL, "messages": [*history, {"role": "user", "content": "Three"}], "max_tokens": 1}
    plain = ann.server.post("/api/v1/chat/completions", body, key=ann.key)
    assert stored.json()["usage"]["prompt_tokens"] == plain.json()["usage"]["prompt_tokens"]


def test_streamed_chat_is_stored(ann):
    conversation = ann.new()
    with ann.stream(conversation, "Tell me a story", max_tokens=20) as stream:
        events = stream.read()
    assert stream.done
    assert all(event["conversation"]["id"] == conversation for event in events)
    assert ann.texts(conversation) == ["Tell me a story", text_of(events)]
    assert ann.messages(conversation)[1]["status"] == "completed"


def test_regenerate_and_edit(ann):
    conversation = ann.new()
    ann.chat(conversation, "First", seed=1)
    question, answer = [message["id"] for message in ann.messages(conversation)]
    # No new message: the answer is made again, beside the first.
    again = ann.chat(conversation, seed=2)
    assert again.status == 200, again
    messages = ann.messages(conversation)
    assert [message["id"] for message in messages] == [question, again.json()["conversation"]["item_id"]]
    branches = ann.get(f"/{conversation}/branches").json()["data"]
    assert [one["id"] for one in branches] == [answer, messages[1]["id"]]
    # The question is edited.
    edited = ann.chat({"id": conversation, "parent": None}, "First, edited")
    assert edited.status == 200
    assert ann.texts(conversation)[0] == "First, edited"
    assert len(ann.get(f"/{conversation}/branches").json()["data"]) == 3
    # Going on behind a certain item.
    ann.chat({"id": conversation, "parent": answer}, "Second")
    assert [message["id"] for message in ann.messages(conversation)][:2] == [question, answer]
    empty = ann.chat(ann.new())
    assert (empty.status, empty.error["param"]) == (400, "messages")


def test_instructions_are_stored_once(ann):
    conversation = ann.new()
    system = {"role": "system", "content": "Be brief."}
    for text in ("One", "Two"):
        answer = ann.chat(conversation, messages=[system, {"role": "user", "content": text}])
        assert answer.status == 200, answer
    assert [message["role"] for message in ann.messages(conversation)] == [
        "system", "user", "assistant", "user", "assistant",
    ]


def test_what_is_refused_leaves_nothing(ann):
    conversation = ann.new()
    for fields in ({"model": "none"}, {"n": 2}, {"temperature": 9}, {"messages": [{"role": "user", "content": "x " * 40_000}]}):
        refused = ann.chat(conversation, "x", **fields)
        assert refused.status in (400, 404), refused
    assert ann.messages(conversation) == []
    assert ann.get(f"/{conversation}").json()["title"] is None
    # And the conversation goes on.
    assert ann.chat(conversation, "Hello").status == 200
    assert len(ann.messages(conversation)) == 2


def test_a_client_that_vanishes_leaves_the_partial_answer(ann):
    conversation = ann.new()
    stream = ann.stream(conversation, "Tell me a story", max_tokens=1500, logit_bias=ENDLESS)
    heard = ""
    for event in stream.events():
        heard += text_of([event])
        if len(heard) > 40:
            break
    running = ann.messages(conversation)
    assert [message["status"] for message in running] == ["completed", "in_progress"]
    stream.close()
    wait_until(lambda: ann.messages(conversation)[1]["status"] == "incomplete", "the answer is incomplete")
    user, partial = ann.messages(conversation)
    assert user["content"] == "Tell me a story"
    assert partial["content"].startswith(heard)
    # Ready to be made again.
    again = ann.chat(conversation)
    assert again.status == 200
    assert [message["status"] for message in ann.messages(conversation)] == ["completed", "completed"]
    assert ann.messages(conversation)[0]["id"] == user["id"]


def test_a_killed_server_leaves_the_partial_answer(tmp_path):
    settings = {"JAN_SERVER__CONVERSATIONS__CHECKPOINT_MS": "50"}
    own = Server(tmp_path, env=settings)
    ann = Caller(own)
    conversation = ann.new()
    stream = ann.stream(conversation, "Tell me a story", max_tokens=1500, logit_bias=ENDLESS)
    events = stream.events()
    for _ in range(5):
        next(events)
    # What has been stored so far is shown.
    wait_until(lambda: ann.messages(conversation)[1]["content"], "some of it is stored")
    own.kill()
    stream.close()
    own = Server(tmp_path, env=settings)
    ann.server = own
    try:
        user, partial = ann.messages(conversation)
        assert (user["content"], user["status"]) == ("Tell me a story", "completed")
        assert partial["status"] == "incomplete"
        assert partial["content"]
        item = ann.get(f"/{conversation}/items/{partial['id']}").json()
        assert item["status"] == "incomplete"
        again = ann.chat(conversation)
        assert again.status == 200
        assert [message["status"] for message in ann.messages(conversation)] == ["completed", "completed"]
        # The one that broke off is another branch, and still incomplete.
        assert ann.get(f"/{conversation}/items/{partial['id']}").json()["status"] == "incomplete"
    finally:
        own.close()


def test_a_server_that_stops_leaves_the_partial_answer(tmp_path):
    settings = {"JAN_SERVER__HTTP__DRAIN_TIMEOUT_MS": "0", "JAN_SERVER__CONVERSATIONS__CHECKPOINT_MS": "3600000"}
    own = Server(tmp_path, env=settings)
    ann = Caller(own)
    conversation = ann.new()
    heard = ""
    with ann.stream(conversation, "Tell me a story", max_tokens=1500, logit_bias=ENDLESS) as stream:
        for event in stream.events():
            heard += text_of([event])
            if len(heard) > 20 and not stream.done:
                own.terminate()
                break
        own.process.wait(30)
    own.close()
    own = Server(tmp_path, env=settings, wait="live")
    ann.server = own
    try:
        user, partial = ann.messages(conversation)
        assert user["content"] == "Tell me a story"
        assert partial["status"] == "incomplete"
        assert partial["content"].startswith(heard)
    finally:
        own.close()


def test_writers_to_one_conversation_are_serialised(ann):
    conversation = ann.new()
    texts = [f"Message {number}" for number in range(6)]
    answers = {}

    def ask(text):
        answers[text] = ann.chat(conversation, text, max_tokens=4)

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer.status == 200 for answer in answers.values()), answers
    messages = ann.messages(conversation)
    # Each question is followed by its own answer, none is lost and none stands twice.
    assert [message["role"] for message in messages] == ["user", "assistant"] * 6
    assert sorted(message["content"] for message in messages[::2]) == texts
    for question, answer in zip(messages[::2], messages[1::2]):
        assert answer["content"] == answers[question["content"]].json()["choices"][0]["message"]["content"]
        assert answer["id"] == answers[question["content"]].json()["conversation"]["item_id"]
    assert len(ann.get(f"/{conversation}/branches").json()["data"]) == 1


def test_items_added_while_an_answer_runs(ann):
    conversation = ann.new()
    stream = ann.stream(conversation, "Tell me a story", max_tokens=40, logit_bias=ENDLESS)
    events = stream.events()
    next(events)
    ann.add(conversation, "meanwhile")
    said = text_of(list(events))
    assert ann.texts(conversation) == ["Tell me a story", said, "meanwhile"]


def test_one_who_waits_too_long_is_told(make_server):
    own = make_server(env={"JAN_SERVER__CONVERSATIONS__TURN_WAIT_MS": "100"})
    ann = Caller(own)
    conversation = ann.new()
    with ann.stream(conversation, "Tell me a story", max_tokens=1500, logit_bias=ENDLESS) as stream:
        next(stream.events())
        refused = ann.chat(conversation, "Me too")
        assert (refused.status, refused.error["code"]) == (503, "conversation_busy"), refused
        assert int(refused.headers["retry-after"]) > 0
    assert "Me too" not in ann.texts(conversation)


def test_deleting_a_conversation_while_it_is_answered(ann):
    conversation = ann.new()
    stream = ann.stream(conversation, "Tell me a story", max_tokens=40, logit_bias=ENDLESS)
    events = stream.events()
    next(events)
    assert ann.delete(f"/{conversation}").status == 200
    assert text_of(list(events))
    assert stream.done
    assert ann.get(f"/{conversation}").status == 404
