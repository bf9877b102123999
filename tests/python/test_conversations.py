"""Conversations through the real server: kept, listed, branched, shared, and nobody else's."""

import json

import pytest
from conversation_callers import PATH, Caller, ann, bob, own  # noqa: F401 - the fixtures are used by name
from harness import MODEL, Server


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
    assert listed["data"][4]["content"] == [{"type": "output_text", "text": "Sunny.", "annotations": [], "logprobs": []}]
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
        (f"/{conversation}/items?after=msg_1", "after"),
        (f"/{conversation}/export?format=pdf", "format"),
    ):
        refused = ann.get(query)
        assert refused.status == 400, (query, refused)
        assert refused.error["param"] == param, (refused.error, param)
    for query in ("?after=conv_1", "?before=cur_x"):
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
    conversation = ann.new(title="ten letter")
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


@pytest.mark.parametrize("by", ["oneself", "an administrator"])
def test_deleting_a_user_deletes_everything(own, by):
    ann, bob = Caller(own, ("read", "write", "keys")), Caller(own)
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
    item = {"type": "mcp_list_tools", "server_label": "x", "tools": [{"name": "f", "input_schema": {"deep": deep}}]}
    assert ann.post(f"/{conversation}/items", {"items": [item]}).status == 200
