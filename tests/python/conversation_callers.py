"""Who calls in the tests of conversations: fixtures for the files that have them."""


import pytest
from harness import MODEL, Server, Stream

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
