"""The prefix cache on disk: what was computed before a restart is not computed again, and nobody else gets it."""

import itertools
import os
import pathlib
import shutil
import signal
import stat

import pytest
from harness import IS_BUNDLED, MODEL, Server, wait_until

#: With other models the first prompt is a long one as well.
SYSTEM = "You answer for the harbour office, and you know every pier of it. " * 6
TURNS = [f"Tell me about pier {number}, its boats and who keeps them there." for number in range(8)]

_numbers = itertools.count()


@pytest.fixture
def start(tmp_path):
    """Starts servers over one data folder, one after the other."""
    started = []

    def begin(**env):
        one = Server(tmp_path, env={f"JAN_SERVER__{name}": value for name, value in env.items()})
        started.append(one)
        return one

    yield begin
    for one in started:
        one.close()


def stop(server):
    """A graceful stop; workers have some seconds to write."""
    server.terminate()
    assert server.process.wait(30) == 0, server.log_tail()
    server.close()


def files(server):
    found = (server.data / "kv").rglob("*-*")
    return sorted(path for path in found if path.is_file() and path.name not in ("secret", "of-secret"))


def user(server):
    account = server.new_user(f"{next(_numbers)}@example.com")
    return account, server.new_key(account)["key"]


def turn(server, key, messages, **fields):
    """One turn of a conversation: (answer, prompt tokens, cached tokens); the answer is appended."""
    answer = server.chat(key=key, messages=messages, **({"max_tokens": 12, "temperature": 0} | fields))
    assert answer.status == 200, answer
    body = answer.json()
    message = body["choices"][0]["message"]
    messages.append({"role": "assistant", "content": message["content"] or ""})
    usage = body["usage"]
    return message["content"], usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def talk(server, key, turns=5, system=SYSTEM):
    """A conversation of so many turns, and the tokens of its last prompt."""
    messages = [{"role": "system", "content": system}]
    for content in TURNS[:turns]:
        messages.append({"role": "user", "content": content})
        _, tokens, _ = turn(server, key, messages)
    return messages, tokens


def ask(server, key, messages, content=TURNS[5], **fields):
    """The next turn, without a change of `messages`."""
    return turn(server, key, [*messages, {"role": "user", "content": content}], **fields)


@pytest.mark.parametrize("reproducible", ["false", "true"])
def test_the_next_turn_after_a_restart_reads_only_what_is_new(start, reproducible):
    engine = {"ENGINE__REPRODUCIBLE": reproducible}
    server = start(**engine)
    _, key = user(server)
    messages, before = talk(server, key)
    text, tokens, cached = ask(server, key, messages)
    assert cached >= before
    stop(server)
    assert files(server)
    server = start(**engine)
    again, same, restored = ask(server, key, messages)
    assert (again, same) == (text, tokens)
    assert restored >= before, (restored, before, tokens, server.log_tail())
    # The same as a server that reads it all.
    stop(server)
    shutil.rmtree(server.data / "kv")
    server = start(**engine)
    fresh, _, cached = ask(server, key, messages)
    assert (fresh, cached < 30) == (text, True)


def test_what_leaves_host_memory_is_there_later(start):
    # Room for about one conversation in host memory, and for none in the cells.
    engine = {"ENGINE__CACHE_RAM_MIB": "1", "ENGINE__CACHE_CELLS": "0"} if IS_BUNDLED else {"ENGINE__CACHE_RAM_MIB": "16"}
    server = start(**engine)
    _, key = user(server)
    messages, before = talk(server, key, turns=2)
    for number in range(40):
        ask(server, key, [{"role": "system", "content": f"{number} " + SYSTEM * 3}], max_tokens=1)
        if files(server):
            break
    wait_until(lambda: files(server), "something on disk")
    server.kill()
    server = start(**engine)
    lengths = [ask(server, key, [{"role": "system", "content": f"{number} " + SYSTEM * 3}], max_tokens=1) for number in range(3)]
    lengths.append(ask(server, key, messages, content=TURNS[2]))
    assert any(cached > tokens / 2 for _, tokens, cached in lengths), lengths


def test_nobody_else_gets_it(start):
    server = start()
    (_, ann), (_, bob) = user(server), user(server)
    messages, before = talk(server, ann)
    stop(server)
    server = start()
    # The beginning of the template is all that others may share.
    assert ask(server, bob, messages)[2] < 30
    assert ask(server, ann, messages, prompt_cache_key="k")[2] < 30
    assert ask(server, ann, messages)[2] >= before


def test_a_cache_key_keeps_its_own(start):
    server = start()
    _, ann = user(server)
    messages = [{"role": "system", "content": SYSTEM}]
    ask(server, ann, messages, prompt_cache_key="a")
    stop(server)
    server = start()
    assert ask(server, ann, messages)[2] < 30
    assert ask(server, ann, messages, prompt_cache_key="b")[2] < 30
    assert ask(server, ann, messages, prompt_cache_key="a")[2] > 60


def test_files_are_private_and_their_names_tell_nothing(start):
    server = start()
    account, key = user(server)
    talk(server, key, turns=1)
    stop(server)
    paths = [server.data / "kv", *(server.data / "kv").rglob("*")]
    assert any(path.is_file() for path in paths)
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.is_file() else 0o700), path
        assert account.split("_")[-1] not in str(path)
        if path.is_file():
            assert b"harbour" not in path.read_bytes()


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def damage_first_tokens(path):
    content = bytearray(path.read_bytes())
    content[110] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"x" * 64)


def empty(path):
    path.write_bytes(b"")


def other(path):
    path.write_bytes(pathlib.Path("/dev/urandom").open("rb").read(path.stat().st_size))


@pytest.mark.parametrize("harm", [damage_byte, damage_first_tokens, cut, lengthen, empty, other])
def test_a_damaged_file_is_read_anew(start, harm):
    server = start()
    _, key = user(server)
    messages, _ = talk(server, key)
    text, _, _ = ask(server, key, messages)
    stop(server)
    for path in files(server):
        harm(path)
    server = start()
    worker = server.worker()
    again, _, cached = ask(server, key, messages)
    assert (again, cached < 30, server.worker()) == (text, True, worker), (cached, server.log_tail())
    assert "discarded" in server.log()
    # It is gone, and the conversation is kept anew.
    assert ask(server, key, messages)[2] > 60
    stop(server)
    server = start()
    assert ask(server, key, messages)[2] > 60


def test_a_file_in_another_tenants_place_is_not_used(start):
    server = start()
    (_, ann), (_, bob) = user(server), user(server)
    messages, _ = talk(server, ann)
    stop(server)
    of_ann = files(server)
    server = start()
    ask(server, bob, [{"role": "system", "content": "Something of bob's own, which is long enough to be kept. " * 4}])
    stop(server)
    places = {path.parent for path in files(server)} - {path.parent for path in of_ann}
    assert len(places) == 1
    for path in of_ann:
        shutil.copy2(path, places.pop() / path.name if places else path)
    server = start()
    assert ask(server, bob, messages)[2] < 30
    assert "discarded" in server.log()
    assert ask(server, ann, messages)[2] > 60


def test_another_models_file_is_not_used(start):
    server = start(ENGINE__REPRODUCIBLE="false")
    _, key = user(server)
    messages, _ = talk(server, key)
    stop(server)
    # The same weights, but read with other kernels: not the same bits.
    server = start(ENGINE__REPRODUCIBLE="true")
    assert ask(server, key, messages)[2] < 30
    assert "another version" in server.log()


def test_the_limit_holds(start):
    limit = {"STORAGE__KV_MIB": "1" if IS_BUNDLED else "64"}
    server = start(**limit)
    (_, ann), (_, bob) = user(server), user(server)
    messages, before = talk(server, bob, turns=1)
    for number in range(30):
        ask(server, ann, [{"role": "system", "content": f"{number} " + SYSTEM * 3}], max_tokens=1)
    stop(server)
    bytes_on_disk = sum(path.stat().st_size for path in files(server))
    assert 0 < bytes_on_disk <= int(limit["STORAGE__KV_MIB"]) << 20
    server = start(**limit)
    # One user's many do not drive another's few out.
    assert ask(server, bob, messages)[2] >= before


def test_it_can_be_off(start):
    server = start(STORAGE__KV_MIB="0")
    _, key = user(server)
    messages, _ = talk(server, key)
    stop(server)
    assert not (server.data / "kv").exists()
    server = start(STORAGE__KV_MIB="0")
    assert ask(server, key, messages)[2] < 30


def test_a_deleted_users_files_go(start):
    server = start()
    (ann_id, ann), (_, bob) = user(server), user(server)
    talk(server, ann)
    messages, before = talk(server, bob)
    stop(server)
    both = len(files(server))
    server = start()
    # Its prefix is in memory again, too.
    assert server.delete(f"/api/v1/admin/users/{ann_id}", key=server.admin_key).status < 300
    wait_until(lambda: 0 < len(files(server)) < both, "the files of one user are gone")
    left = len(files(server))
    stop(server)
    assert len(files(server)) == left
    server = start()
    assert ask(server, bob, messages)[2] >= before


def test_what_a_deleted_user_left_in_memory_is_not_written(start):
    server = start()
    ann_id, ann = user(server)
    talk(server, ann)
    assert server.delete(f"/api/v1/admin/users/{ann_id}", key=server.admin_key).status < 300
    stop(server)
    assert not files(server)


def test_a_key_file(start, tmp_path):
    keys = [tmp_path / "one.key", tmp_path / "other.key"]
    for path in keys:
        path.write_bytes(os.urandom(32))
    server = start(STORAGE__KV_KEY_FILE=keys[0])
    _, key = user(server)
    messages, before = talk(server, key)
    stop(server)
    assert not (server.data / "kv/secret").exists()
    server = start(STORAGE__KV_KEY_FILE=keys[0])
    assert ask(server, key, messages)[2] >= before
    stop(server)
    server = start(STORAGE__KV_KEY_FILE=keys[1])
    assert not files(server) and "another one" in server.log()
    assert ask(server, key, messages)[2] < 30
    stop(server)
    with pytest.raises(AssertionError, match="kv_key_file"):
        inside = server.data / "kv.key"
        inside.write_bytes(os.urandom(32))
        start(STORAGE__KV_KEY_FILE=inside)


def test_a_killed_server_leaves_nothing_half(start):
    server = start()
    _, key = user(server)
    messages, _ = talk(server, key)
    text, _, _ = ask(server, key, messages)
    server.terminate()
    server.process.send_signal(signal.SIGKILL)
    server.close()
    for path in files(server):
        shutil.copy2(path, path.with_suffix(".part"))
    server = start()
    assert not [path for path in files(server) if path.suffix == ".part"]
    assert ask(server, key, messages)[0] == text


def test_a_worker_that_dies_is_none_the_worse(start):
    server = start()
    _, key = user(server)
    messages, before = talk(server, key)
    text, _, _ = ask(server, key, messages)
    stop(server)
    server = start()
    with server.stream(key=key, messages=[*messages, {"role": "user", "content": TURNS[5]}], max_tokens=12, temperature=0) as stream:
        os.kill(server.worker(), signal.SIGKILL)
        events = stream.read()
    assert "".join((event["choices"] or [{"delta": {}}])[0]["delta"].get("content") or "" for event in events) == text
    assert MODEL and server.get("/readyz").status in (200, 503)
    server.wait_ready()
    assert ask(server, key, messages)[0] == text
