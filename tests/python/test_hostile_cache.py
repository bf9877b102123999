"""How much of a prompt was cached tells nothing of what other users asked."""

import itertools

import pytest
from harness import MODEL, Server

SYSTEM = "You answer for the harbour office. " * 12
SECRET = "My number is 402917, and I keep a boat at the third pier. " * 4


def server(folder, **engine):
    settings = "".join(f"{name} = {value}\n" for name, value in engine.items())
    return Server(folder, config=f"[engine]\n{settings}")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    own = server(tmp_path_factory.mktemp("cache"))
    yield own
    own.close()


_numbers = itertools.count()


def users(server):
    return [server.new_key(server.new_user(f"{next(_numbers)}@example.com"))["key"] for _ in range(2)]


def cached(server, key, content, system=None, **fields):
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    answer = server.chat(key=key, messages=messages, max_tokens=1, **fields)
    assert answer.status == 200, answer
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_users_do_not_see_what_others_asked(running):
    ann, bob = users(running)
    cached(running, ann, "Something short")
    template = cached(running, bob, "Something else")
    cached(running, ann, SECRET)
    assert cached(running, ann, SECRET) > 30
    assert cached(running, bob, SECRET) <= template
    # Nor by a raw prompt or by a response.
    for path, body in [
        ("/api/v1/completions", {"prompt": SECRET, "max_tokens": 1}),
        ("/api/v1/responses", {"input": "To the office: " + SECRET, "max_output_tokens": 16}),
    ]:
        counts = []
        for key in (ann, ann, bob):
            answer = running.post(path, {"model": MODEL} | body, key=key)
            usage = answer.json()["usage"]
            details = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
            counts.append(details["cached_tokens"])
        assert counts[1] > 30 and counts[2] <= template, counts


def test_users_do_not_see_what_is_asked_at_the_same_time(running):
    ann, bob = users(running)
    own = {"messages": [{"role": "user", "content": "ahoy " + SECRET}], "max_tokens": 40}
    with running.stream(key=ann, **own) as stream:
        assert cached(running, bob, "ahoy " + SECRET) <= 30
        stream.read()


def test_a_cache_key_keeps_requests_apart(running):
    ann, bob = users(running)
    content = "Tell me more. " + SECRET
    cached(running, ann, content, prompt_cache_key="a")
    assert cached(running, ann, content, prompt_cache_key="a") > 30
    assert cached(running, ann, content, prompt_cache_key="b") <= 30
    assert cached(running, bob, content, prompt_cache_key="a") <= 30


def test_what_is_named_common_is_shared(tmp_path):
    running = server(tmp_path, shared_prompts=f'["{SYSTEM}"]')
    try:
        ann, bob = users(running)
        cached(running, ann, SECRET, system=SYSTEM)
        shared = cached(running, bob, SECRET, system=SYSTEM)
        whole = cached(running, ann, SECRET, system=SYSTEM)
        assert 30 < shared < whole - 30
    finally:
        running.close()


def test_all_can_be_made_to_share(tmp_path):
    running = server(tmp_path, share_prefixes='"all"')
    try:
        ann, bob = users(running)
        cached(running, ann, SECRET)
        assert cached(running, bob, SECRET) > 30
        assert cached(running, bob, SECRET, prompt_cache_key="k") <= 30
    finally:
        running.close()
