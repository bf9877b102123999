"""Conversations through the real server: kept, listed, branched, shared, and nobody else's."""

import json
import threading

import pytest
from harness import ENDLESS, MODEL, Server, Stream, text_of, wait_until

PATH = "/api/v1/conversations"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("conversations"))
    yield one
    one.close()


class Caller:
    """A user with a key, and what it asks of conversations."""

    count = 0

    def __init__(self, server, permissions=("read", "write")):
        Caller.count += 1
        self.server = server
        self.id = server.new_user(f"caller{Caller.count}@example.com")
        self.key = server.new_key(self.id, permissions)["key"]

    def get(self, path=""):
        return self.server.get(PATH + path, key=self.key)

    def post(self, path="", body=None):
        return self.server.post(PATH + path, body, key=self.key)

    def patch(self, path, body):
        return self.server.patch(PATH + path, body, key=self.key)

    def delete(self, path):
        return self.server.delete(PATH + path, key=self.key)

    def new(self, **fields):
        made = self.post("", fields)
        assert made.status == 201, made
        return made.json()["id"]

    def add(self, conversation, *texts, **fields):
        items = [{"role": "user", "content": text} for text in texts]
        added = self.post(f"/{conversation}/items", {"items": items} | fields)
        assert added.status == 200, added
        return [item["id"] for item in added.json()["data"]]

    def messages(self, conversation):
        answer = self.get(f"/{conversation}")
        assert answer.status == 200, answer
        return answer.json()["messages"]

    def texts(self, conversation):
        return [message["content"] for message in self.messages(conversation)]

    def chat(self, conversation, *texts, **fields):
        messages = [{"role": "user", "content": text} for text in texts]
        body = {"model": MODEL, "messages": messages, "conversation": conversation, "max_tokens": 8} | fields
        return self.server.post("/api/v1/chat/completions", body, key=self.key)

    def stream(self, conversation, *texts, **fields):
        messages = [{"role": "user", "content": text} for text in texts]
        body = {"model": MODEL, "messages": messages, "conversation": conversation, "stream": True}
        return Stream(self.server, "/api/v1/chat/completions", body | fields, key=self.key)


@pytest.fixture
def ann(own):
    return Caller(own)


@pytest.fixture
def bob(own):
    return Caller(own)


def test_a_conversation_from_beginning_to_end(own, ann):
    made = ann.post("", {"title": "My Conversation", "model": MODEL, "metadata": {"project": "a"}})
    assert made.status == 201
    conversation = made.json()
    assert conversation["id"].startswith("conv_")
    assert conversation["object"] == "conversation"
    assert (conversation["title"], conversation["model"]) == ("My Conversation", MODEL)
    assert conversation["metadata"] == {"project": "a"}
    assert made.headers["cache-control"] == "no-store"
    one = ann.get(f"/{conversation['id']}").json()
    assert one["messages"] == []
    assert {name: one[name] for name in conversation} == conversation
    # Both names of the API.
    assert own.get(f"/v1/conversations/{conversation['id']}", key=ann.key).json() == one
    changed = ann.patch(f"/{one['id']}", {"title": "Another", "metadata": None}).json()
    assert (changed["title"], changed["metadata"], changed["model"]) == ("Another", {}, MODEL)
    changed = ann.post(f"/{one['id']}", {"metadata": {"b": "c"}, "model": None}).json()
    assert (changed["title"], changed["metadata"], changed["model"]) == ("Another", {"b": "c"}, None)
    gone = ann.delete(f"/{one['id']}")
    assert gone.json() == {"id": one["id"], "object": "conversation.deleted", "deleted": True}
    assert ann.get(f"/{one['id']}").status == 404
    assert ann.delete(f"/{one['id']}").status == 404
    assert ann.get().json()["data"] == []


def test_nothing_at_all_makes_a_conversation(ann):
    for body in (None, {}, {"items": None, "metadata": None, "title": None}):
        made = ann.post("", body)
        assert made.status == 201
        assert (made.json()["title"], made.json()["metadata"]) == (None, {})


def test_titles_come_from_the_first_user_message(ann):
    long = "Tell me\n everything about " + "👨‍👩‍👧‍👦" * 20
    made = ann.post("", {"messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": long}]})
    title = made.json()["title"]
    assert title.startswith("Tell me everything about 👨‍👩‍👧‍👦")
    assert title.endswith("…")
    assert (len(title) - len("Tell me everything about …")) % len("👨‍👩‍👧‍👦") == 0, "cut between characters as people see them"
    later = ann.new()
    ann.add(later, "first words", "second words")
    assert ann.get(f"/{later}").json()["title"] == "first words"
    ann.patch(f"/{later}", {"title": None})
    ann.add(later, "third words")
    assert ann.get(f"/{later}").json()["title"] == "third words"


def test_items(ann):
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        call,
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"type": "reasoning", "summary": [], "encrypted_content": "xyz"},
        {"role": "assistant", "content": "Sunny."},
    ]
    conversation = ann.new(items=items[:1])
    added = ann.post(f"/{conversation}/items", {"items": items[1:]}).json()
    assert added["object"] == "list"
    assert added["first_id"] == added["data"][0]["id"]
    assert added["last_id"] == added["data"][-1]["id"]
    assert [item["type"] for item in added["data"]] == ["function_call", "function_call_output", "reasoning", "message"]
    assert [item["id"].split("_")[0] for item in added["data"]] == ["fc", "fco", "rs", "msg"]
    listed = ann.get(f"/{conversation}/items?order=asc").json()
    assert [item["status"] for item in listed["data"]] == ["completed"] * 5
    assert listed["data"][1:] == added["data"]
    assert listed["data"][4]["content"] == [{"type": "output_text", "text": "Sunny.", "annotations": []}]
    assert [item["parent_id"] for item in listed["data"]] == [None] + [item["id"] for item in listed["data"][:4]]
    assert [item["id"] for item in ann.get(f"/{conversation}/items").json()["data"]] == [
        item["id"] for item in reversed(listed["data"])
    ]
    # What comes only when asked for.
    thought = added["data"][2]
    assert "encrypted_content" not in thought
    for query in ("include=reasoning.encrypted_content", "include[]=reasoning.encrypted_content", "include%5B0%5D=reasoning.encrypted_content"):
        assert ann.get(f"/{conversation}/items/{thought['id']}?{query}").json()["encrypted_content"] == "xyz"
    messages = ann.messages(conversation)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"][0]["function"]["name"] == "weather"
    assert messages[2]["tool_call_id"] == "call_1"
    # Deleting one leaves the others.
    after = ann.delete(f"/{conversation}/items/{added['first_id']}").json()
    assert (after["object"], after["item_count"]) == ("conversation", 4)
    assert ann.get(f"/{conversation}/items/{added['first_id']}").status == 404
    assert ann.delete(f"/{conversation}/items/{added['first_id']}").status == 404
    left = ann.get(f"/{conversation}/items?order=asc").json()["data"]
    assert [item["type"] for item in left] == ["message", "function_call_output", "reasoning", "message"]
    assert left[1]["parent_id"] == left[0]["id"]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_item_cursors_neither_skip_nor_repeat(ann, order):
    conversation = ann.new()
    ids = []
    for start in range(0, 50, 10):
        ids += ann.add(conversation, *[f"text {number}" for number in range(start, start + 10)])
    wanted = list(ids) if order == "asc" else ids[::-1]
    seen, after = [], None
    for page_number in range(20):
        query = f"?limit=7&order={order}" + (f"&after={after}" if after else "")
        page = ann.get(f"/{conversation}/items{query}").json()
        seen += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = page["last_id"]
        if page_number == 2:
            # The cursor's own item goes, and something is added.
            assert ann.delete(f"/{conversation}/items/{after}").status == 200
            ids += ann.add(conversation, "meanwhile")
    assert seen[:50] == wanted
    assert seen[50:] == (ids[50:] if order == "asc" else [])


def test_large_items(ann):
    """sled wants small values; a large item comes back whole all the same."""
    texts = ["ä" * 60_000, "b" * 200_000, "c" * 65_536]
    conversation = ann.new()
    ids = ann.add(conversation, *texts)
    assert ann.texts(conversation) == texts
    assert ann.delete(f"/{conversation}/items/{ids[1]}").status == 200
    assert ann.texts(conversation) == [texts[0], texts[2]]


def test_list_order_and_cursors(ann):
    ids = [ann.new(title=f"t{number}") for number in range(12)]
    listed = ann.get("?limit=100").json()
    assert [one["id"] for one in listed["data"]] == ids[::-1]
    assert not listed["has_more"]
    assert (listed["first_id"], listed["last_id"], listed["next_cursor"]) == (ids[-1], ids[0], None)
    assert [one["id"] for one in ann.get("?order=asc").json()["data"]] == ids
    # What is changed last comes first.
    ann.add(ids[3], "news")
    ids.append(ids.pop(3))
    assert ann.get("?limit=1").json()["data"][0]["id"] == ids[-1]
    for order, wanted in (("desc", ids[::-1]), ("asc", ids)):
        seen, after = [], ""
        while True:
            page = ann.get(f"?limit=5&order={order}{after}").json()
            seen += [one["id"] for one in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={page['next_cursor']}"
        assert seen == wanted
        # An id is a cursor, too.
        page = ann.get(f"?order={order}&limit=3&after={wanted[4]}").json()
        assert [one["id"] for one in page["data"]] == wanted[5:8]
        page = ann.get(f"?order={order}&limit=3&before={wanted[4]}").json()
        assert [one["id"] for one in page["data"]] == wanted[1:4]
        assert page["has_more"]
        page = ann.get(f"?order={order}&limit=3&before={page['next_cursor']}").json()
        assert [one["id"] for one in page["data"]] == wanted[:1]
        page = ann.get(f"?order={order}&after={wanted[2]}&before={wanted[5]}").json()
        assert [one["id"] for one in page["data"]] == wanted[3:5]
        assert ann.get(f"?order={order}&after={wanted[5]}&before={wanted[2]}").json()["data"] == []


def test_list_while_conversations_come_and_go(ann):
    ids = [ann.new(title=f"t{number}") for number in range(9)]
    page = ann.get("?limit=4").json()
    seen = [one["id"] for one in page["data"]]
    # The last one seen goes, one not seen yet goes, and new ones come.
    ann.delete(f"/{seen[-1]}")
    ann.delete(f"/{ids[2]}")
    new = [ann.new() for _ in range(3)]
    rest = ann.get(f"?limit=100&after={page['next_cursor']}").json()["data"]
    assert [one["id"] for one in rest] == [ids[4], ids[3], ids[1], ids[0]]
    assert not set(new) & {one["id"] for one in rest}


def test_search(ann):
    one = ann.new(title="Grüße aus BERLIN", model="a")
    two = ann.new(title="Other", model="b", items=[{"role": "user", "content": "I love Berlin in spring"}])
    ann.new(title="Third", model="b")
    found = lambda query: {c["id"] for c in ann.get(query).json()["data"]}  # noqa: E731
    assert found("?q=berlin") == {one, two}
    assert found("?q=gr%C3%BCsse") == set()
    assert found("?q=GR%C3%9C%C3%9FE") == {one}
    assert found("?q=spring&model=a") == set()
    assert found("?q=spring&model=b") == {two}
    assert len(found("?model=b")) == 2
    assert found("?q=nowhere") == set()


def test_somebody_elses_is_not_found(ann, bob):
    conversation = ann.new(items=[{"role": "user", "content": "secret"}])
    (item,) = ann.add(conversation, "more")
    never = "/conv_" + "0" * 32
    for base in (f"/{conversation}", never):
        for answer in (
            bob.get(base),
            bob.patch(base, {"title": "x"}),
            bob.post(base, {"metadata": {}}),
            bob.delete(base),
            bob.get(f"{base}/items"),
            bob.post(f"{base}/items", {"items": [{"role": "user", "content": "x"}]}),
            bob.get(f"{base}/items/{item}"),
            bob.delete(f"{base}/items/{item}"),
            bob.get(f"{base}/branches"),
            bob.post(f"{base}/branches", {"id": item}),
            bob.get(f"{base}/export"),
            bob.get(f"{base}/export?format=markdown"),
            bob.post(f"{base}/share"),
            bob.delete(f"{base}/share"),
            bob.get(f"?after={base[1:]}"),
            bob.chat(base[1:], "x"),
        ):
            assert answer.status == 404, answer
            assert answer.error["code"] == "not_found"
            assert "secret" not in answer.body.decode()
    assert bob.get().json()["data"] == []
    assert ann.texts(conversation) == ["secret", "more"]


def test_who_may_what(own, ann):
    conversation = ann.new()
    reader = own.new_key(ann.id, ["read"])["key"]
    assert own.get(f"{PATH}/{conversation}", key=reader).status == 200
    for method, path in (("POST", PATH), ("DELETE", f"{PATH}/{conversation}"), ("POST", f"{PATH}/{conversation}/items")):
        assert own.request(method, path, key=reader).status == 403
    for method, path in (("GET", PATH), ("POST", PATH), ("GET", f"{PATH}/{conversation}")):
        refused = own.request(method, path)
        assert refused.status == 401, refused
        assert refused.error["code"] == "missing_credentials"
    # Without a credential chat is open here, but there are no conversations.
    assert own.chat("x", conversation=conversation).status == 401
    assert own.request("PUT", f"{PATH}/{conversation}", key=ann.key).status == 405
    assert "PATCH" in own.request("OPTIONS", f"{PATH}/{conversation}").headers["allow"]


def test_wrong_fields_are_named(ann):
    conversation = ann.new()
    message = {"role": "user", "content": "x"}
    for path, body, param in (
        ("", {"title": 5}, "title"),
        ("", {"title": ""}, "title"),
        ("", {"title": "x" * 201}, "title"),
        ("", {"title": "a\nb"}, "title"),
        ("", {"model": ""}, "model"),
        ("", {"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ("", {"metadata": {"k": "v" * 513}}, "metadata.k"),
        ("", {"metadata": {"k" * 65: "v"}}, "metadata"),
        ("", {"metadata": {"k": 1}}, "metadata.k"),
        ("", {"items": [message] * 21}, "items"),
        ("", {"items": [{"role": "user"}]}, "items[0].content"),
        ("", {"items": [message], "messages": [message]}, "messages"),
        ("", {"messages": [message, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        (f"/{conversation}/items", {}, "items"),
        (f"/{conversation}/items", {"items": []}, "items"),
        (f"/{conversation}/items", {"items": [message] * 21}, "items"),
        (f"/{conversation}/items", {"items": ["x"]}, "items[0]"),
        (f"/{conversation}/items", {"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].type"),
        (f"/{conversation}/items", {"items": [{"role": "user", "content": "x" * (1 << 20)}]}, "items[0]"),
        (f"/{conversation}/items", {"items": [message], "parent": 5}, "parent"),
        (f"/{conversation}/branches", {}, "id"),
    ):
        refused = ann.post(path, body)
        assert refused.status == 400, (path, body, refused)
        assert refused.error["param"] == param, (refused.error, param)
    for query, param in (
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?limit=x", "limit"),
        ("?order=up", "order"),
        ("?q=" + "x" * 201, "q"),
        (f"/{conversation}/items?limit=-1", "limit"),
        (f"/{conversation}/items?order=", "order"),
        (f"/{conversation}/items?include=everything", "include"),
        (f"/{conversation}/items?after=a&after=b", "after"),
        (f"/{conversation}/export?format=pdf", "format"),
    ):
        refused = ann.get(query)
        assert refused.status == 400, (query, refused)
        assert refused.error["param"] == param, (refused.error, param)
    for query in ("?after=conv_1", "?before=cur_x", f"/{conversation}/items?after=msg_1"):
        assert ann.get(query).status == 404, query
    missing = ann.post(f"/{conversation}/items", {"items": [message], "parent": "msg_none"})
    assert missing.status == 404
    # Nothing of it was kept.
    assert ann.messages(conversation) == []


def test_a_full_conversation_says_so(make_server):
    own = make_server(
        env={
            "JAN_SERVER__CONVERSATIONS__MAX_ITEMS": "5",
            "JAN_SERVER__CONVERSATIONS__MAX_BYTES": "3000",
            "JAN_SERVER__CONVERSATIONS__MAX_ITEM_BYTES": "2000",
            "JAN_SERVER__CONVERSATIONS__MAX_TITLE_CHARS": "10",
            "JAN_SERVER__CONVERSATIONS__MAX_METADATA_PAIRS": "1",
        },
    )
    ann = Caller(own)
    assert ann.post("", {"title": "eleven char"}).error["param"] == "title"
    assert ann.post("", {"metadata": {"a": "b", "c": "d"}}).error["param"] == "metadata"
    conversation = ann.new(title="ten charas")
    ann.add(conversation, "1", "2", "3", "4")
    for texts in (["5", "6"], ["x" * 1000, "y" * 1000, "z" * 1000]):
        items = [{"role": "user", "content": text} for text in texts]
        refused = ann.post(f"/{conversation}/items", {"items": items})
        assert (refused.status, refused.error["code"]) == (400, "conversation_full"), refused
    refused = ann.post(f"/{conversation}/items", {"items": [{"role": "user", "content": "x" * 2000}]})
    assert (refused.status, refused.error["param"]) == (400, "items[0]")
    # A turn has two items, and is refused as a whole.
    refused = ann.chat(conversation, "5")
    assert (refused.status, refused.error["code"]) == (400, "conversation_full"), refused
    assert ann.texts(conversation) == ["1", "2", "3", "4"]


def test_branches(ann):
    conversation = ann.new()
    question, answer = ann.add(conversation, "question", "answer")
    ann.add(conversation, "more")
    # The question is edited: it begins the conversation once more.
    (edited,) = ann.add(conversation, "edited question", parent=None)
    assert ann.texts(conversation) == ["edited question"]
    # The answer is made again.
    (again,) = ann.add(conversation, "another answer", parent=question)
    assert ann.texts(conversation) == ["question", "another answer"]
    branches = ann.get(f"/{conversation}/branches").json()["data"]
    assert [(one["preview"], one["item_count"], one["active"]) for one in branches] == [
        ("more", 3, False),
        ("edited question", 1, False),
        ("another answer", 2, True),
    ]
    assert [one["fork_id"] for one in branches] == [question, None, question]
    assert [one["id"] for one in branches][1:] == [edited, again]
    # Nothing was overwritten.
    picked = ann.post(f"/{conversation}/branches", {"id": branches[0]["id"]})
    assert picked.json()["id"] == conversation
    assert ann.texts(conversation) == ["question", "answer", "more"]
    # Going on from further up.
    ann.post(f"/{conversation}/branches", {"id": answer})
    ann.add(conversation, "instead")
    assert ann.texts(conversation) == ["question", "answer", "instead"]
    assert ann.post(f"/{conversation}/branches", {"id": "msg_none"}).status == 404
    whole = ann.get(f"/{conversation}/export").json()
    assert [item["content"][0]["text"] for item in whole["items"]] == [
        "question", "answer", "more", "edited question", "another answer", "instead",
    ]
    assert whole["active_item_id"] == whole["items"][-1]["id"]


def test_export_as_markdown(ann):
    conversation = ann.new(title="A title")
    items = [{"role": "user", "content": "Say *hi*"}, {"role": "assistant", "content": "Hi."}]
    ann.post(f"/{conversation}/items", {"items": items})
    page = ann.get(f"/{conversation}/export?format=markdown")
    assert page.headers["content-type"].startswith("text/markdown")
    assert f'filename="{conversation}.md"' in page.headers["content-disposition"]
    assert page.body.decode() == "# A title\n\n## User\n\nSay *hi*\n\n## Assistant\n\nHi.\n"


def test_share_links(own, ann):
    conversation = ann.new(title="Shared", metadata={"private": "yes"}, items=[{"role": "system", "content": "hidden"}])
    ann.add(conversation, "to be seen")
    link = ann.post(f"/{conversation}/share").json()
    assert len(link["token"]) > 30
    # Anybody, without a credential.
    seen = own.get(link["path"])
    assert seen.status == 200
    assert (seen.headers["x-robots-tag"], seen.headers["cache-control"]) == ("noindex", "no-store")
    assert seen.json()["title"] == "Shared"
    assert [message["content"] for message in seen.json()["messages"]] == ["to be seen"]
    for secret in ("private", "hidden", "user_", conversation):
        assert secret not in seen.body.decode()
    assert b"to be seen" in own.get(link["path"] + "?format=markdown").body
    assert own.post(link["path"], {}).status == 405
    # What comes later is not in it until it is made again.
    ann.add(conversation, "later")
    assert len(own.get(link["path"]).json()["messages"]) == 1
    assert ann.post(f"/{conversation}/share").json()["token"] == link["token"]
    assert len(own.get(link["path"]).json()["messages"]) == 2
    assert ann.get(f"/{conversation}").json()["shared"] is True
    # Revoked, it leads nowhere, and the next one is another.
    assert ann.delete(f"/{conversation}/share").json()["deleted"] is True
    assert own.get(link["path"]).status == 404
    assert ann.delete(f"/{conversation}/share").status == 404
    other = ann.post(f"/{conversation}/share").json()
    assert other["token"] != link["token"]
    assert own.get(link["path"]).status == 404
    ann.delete(f"/{conversation}")
    assert own.get(other["path"]).status == 404
    assert own.get("/api/v1/shared/share_guess").status == 404


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


@pytest.mark.parametrize("by", ["oneself", "an administrator"])
def test_deleting_a_user_deletes_everything(own, by):
    ann, bob = Caller(own), Caller(own)
    ids = [ann.new(items=[{"role": "user", "content": "mine"}]) for _ in range(150)]
    kept = bob.new()
    links = [ann.post(f"/{one}/share").json()["path"] for one in ids[:2]]
    if by == "oneself":
        assert own.delete("/api/v1/user/profile", key=ann.key).status == 200
    else:
        assert own.delete(f"/api/v1/admin/users/{ann.id}", key=own.admin_key).status == 200
    assert ann.get().status == 401
    for link in links:
        assert own.get(link).status == 404
    assert [one["id"] for one in bob.get().json()["data"]] == [kept]


def test_survives_a_restart(tmp_path):
    own = Server(tmp_path, wait="live")
    ann = Caller(own)
    conversation = ann.new(title="kept", metadata={"a": "b"})
    ann.add(conversation, "one", "x" * 100_000)
    before = [ann.get(f"/{conversation}{rest}").json() for rest in ("", "/items", "/export")]
    own.kill()
    own = Server(tmp_path, wait="live")
    ann.server = own
    try:
        assert [ann.get(f"/{conversation}{rest}").json() for rest in ("", "/items", "/export")] == before
    finally:
        own.close()


def test_bad_bodies(ann):
    conversation = ann.new()
    for path in ("", f"/{conversation}", f"/{conversation}/items", f"/{conversation}/branches"):
        for body in (b"{", b"[]", b"\xff", b'{"items": [' + b"[" * 100_000, b"null"):
            refused = ann.server.post(PATH + path, body, key=ann.key)
            assert refused.status in (400, 413), (path, body[:20], refused)
            assert refused.error["code"] in ("invalid_json", "invalid_type", "request_too_large"), refused
    # A deep item that is JSON is kept or refused, and nothing breaks.
    deep = json.loads("[" * 60 + "]" * 60)
    item = {"type": "mcp_call", "output": deep}
    assert ann.post(f"/{conversation}/items", {"items": [item]}).status == 200
