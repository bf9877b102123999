"""The store under callers who own much: what is large holds nobody up, and what is deleted is gone, whenever it ends."""

import contextlib
import json
import random
import threading
import time

import pytest
from harness import Server, wait_until
from store_callers import CONVERSATIONS, RESPONSES, Neighbour, export_of, fill, import_into, records, response_record, uuid7

#: A guard, far above a step of the store and an fsync, far below what a job of the sizes here took in one piece.
PAUSE = 1.0

@pytest.fixture(scope="module")
def own(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("store"), wait="live", model=False)
    yield one
    one.close()


@pytest.fixture(scope="module")
def neighbour(own):
    return own.new_key(own.new_user("neighbour@store.example"))["key"]


def of(user, found):
    """What an export has of a user; that it was made and deleted stays in the audit log, which has ids alone."""
    return [record for record in found if record["kind"] != "audit" and user in json.dumps(record)]


def test_deleting_a_large_account_holds_nobody_up(own, neighbour):
    user = own.new_user("large@store.example")
    key = own.new_key(user)["key"]
    fill(own, key, conversations=1000, items=20, size=300)
    import_into(own, export_of([response_record(user, 6 << 20) for _ in range(3)]))
    with Neighbour(own, neighbour) as other:
        before = len(other.took)
        deleted = own.delete(f"/api/v1/admin/users/{user}", key=own.admin_key)
        assert deleted.status in (200, 204), deleted
        # At once, for everybody who may look.
        found = records(own)
        assert of(user, found) == []
        assert own.get(CONVERSATIONS, key=key).status == 401
        wait_until(lambda: len(other.took) > before + 200, "the neighbour goes on")
    assert max(other.took[before:]) < PAUSE, sorted(other.took)[-5:]
    marker = f"marker-{key[-8:]}"
    assert not any(marker in json.dumps(record) for record in records(own))


def test_reading_and_importing_a_large_response_hold_nobody_up(own, neighbour):
    user = own.new_user("reader@store.example")
    key = own.new_key(user)["key"]
    record = response_record(user, 15 << 20)
    path = f"{RESPONSES}/{record[2]['id']}"
    with Neighbour(own, neighbour) as other:
        before = len(other.took)
        import_into(own, export_of([record]))
        readers = [threading.Thread(target=own.get, args=(path + "/input_items?limit=1", None, key)) for _ in range(6)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
        assert own.delete(path, key=key).status == 200
        assert own.get(path, key=key).status == 404
    assert max(other.took[before:]) < PAUSE, sorted(other.took)[-5:]


def test_deleting_a_huge_conversation_holds_nobody_up(own, neighbour):
    key = own.new_key(own.new_user("huge@store.example"))["key"]
    (conversation,) = fill(own, key, conversations=1, items=1, size=1, threads=1)
    path = f"{CONVERSATIONS}/{conversation}"
    said = {"items": [{"role": "user", "content": f"huge {number} " + "x" * 1000} for number in range(20)]}
    for _ in range(150):
        added = own.post(f"{path}/items", said, key=key)
        assert added.status in (200, 201), added
    with Neighbour(own, neighbour) as other:
        before = len(other.took)
        assert own.delete(path, key=key).status == 200
        assert own.get(path, key=key).status == 404
        assert own.get(f"{path}/items", key=key).status == 404
        assert not any("huge 19 " in json.dumps(record) for record in records(own))
        wait_until(lambda: len(other.took) > before + 100, "the neighbour goes on")
    assert max(other.took[before:]) < PAUSE, sorted(other.took)[-5:]


def test_an_import_waits_for_what_is_being_removed(tmp_path):
    """What is left of a deleted account must not take with it what an import brings back of it."""
    server = Server(tmp_path, wait="live", model=False)
    user = server.new_user("again@store.example")
    key = server.new_key(user)["key"]
    made = fill(server, key, conversations=150, items=5, size=1000)
    export = server.get(f"/api/v1/admin/export?user={user}", key=server.admin_key).body
    assert server.delete(f"/api/v1/admin/users/{user}", key=server.admin_key).status in (200, 204)
    import_into(server, export)
    server.kill()
    server = Server(tmp_path, wait="live", model=False)
    found = records(server)
    kinds = [record["kind"] for record in found if record["kind"] in ("conversation", "item")]
    assert (kinds.count("conversation"), kinds.count("item")) == (len(made), 5 * len(made))
    server.close()


def test_deletions_survive_a_kill(tmp_path):
    """kill -9 at any moment of a deletion: it is whole or was never begun, and none that was acknowledged comes back."""
    chance = random.Random(4711)
    server = Server(tmp_path, wait="live", model=False)
    stays = server.new_user("stays@store.example")
    fill(server, server.new_key(stays)["key"], conversations=5, items=3, size=10)
    for number in range(3):
        user = server.new_user(f"goes{number}@store.example")
        key = server.new_key(user)["key"]
        fill(server, key, conversations=100, items=10, size=1000)
        acknowledged = []

        def delete(user=user, acknowledged=acknowledged):
            try:
                acknowledged.append(server.delete(f"/api/v1/admin/users/{user}", key=server.admin_key).status)
            except OSError:
                pass

        deleting = threading.Thread(target=delete)
        deleting.start()
        if number % 2 == 0:
            deleting.join(30)
        time.sleep(chance.uniform(0, 0.05))
        server.kill()
        deleting.join(30)
        server = Server(tmp_path, wait="live", model=False)
        left = of(user, records(server))
        kinds = [record["kind"] for record in records(server)]
        if acknowledged:
            assert left == []
        # Whole, or nothing of it; whoever stays has everything.
        assert (kinds.count("conversation"), kinds.count("item")) in [(5, 15), (105, 1015)], kinds
        if left:
            assert server.delete(f"/api/v1/admin/users/{user}", key=server.admin_key).status in (200, 204)
    server.close()


#: One request's worth of items, of 14 MB in all.
LARGE = [{"role": "user", "content": f"{number} " + "y" * 800_000} for number in range(18)]


def texts(items):
    return [item["content"][0]["text"] for item in items]


def folder_mib(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) >> 20


def test_large_items_hold_nobody_up(own, neighbour):
    """They are written beside the store's thread, and read, exported, imported and deleted as any others are."""
    user = own.new_user("items@store.example")
    key = own.new_key(user)["key"]
    expected = [item["content"] for item in LARGE]
    with Neighbour(own, neighbour) as other:
        before = len(other.took)
        made = own.post(CONVERSATIONS, {"items": LARGE}, key=key).json()["id"]
        path = f"{CONVERSATIONS}/{made}"
        mixed = LARGE[:2] + [{"role": "user", "content": "small"}]
        added = own.post(f"{path}/items", {"items": mixed}, key=key)
        assert texts(added.json()["data"]) == expected[:2] + ["small"]
        read = own.get(f"{path}/items?limit=100&order=asc", key=key).json()["data"]
        assert texts(read) == expected + expected[:2] + ["small"]
        assert [item["id"] for item in read[18:]] == [item["id"] for item in added.json()["data"]]
        one = own.get(f"{path}/items/{read[5]['id']}", key=key).json()
        assert texts([one]) == [expected[5]]
        assert own.delete(f"{path}/items/{read[5]['id']}", key=key).status == 200
        assert own.get(f"{path}/items/{read[5]['id']}", key=key).status == 404
        left = own.get(f"{path}/items?limit=100&order=asc", key=key).json()["data"]
        assert texts(left) == expected[:5] + expected[6:] + expected[:2] + ["small"]
    assert max(other.took[before:]) < PAUSE, sorted(other.took)[-5:]
    export = own.get(f"/api/v1/admin/export?user={user}", key=own.admin_key).body
    assert own.delete(path, key=key).status == 200
    assert own.get(f"{path}/items", key=key).status == 404
    import_into(own, export)
    assert own.get(f"{path}/items?limit=100&order=asc", key=key).json()["data"] == left


def test_large_items_survive_a_kill(tmp_path):
    server = Server(tmp_path, wait="live", model=False)
    key = server.new_key(server.new_user("kill@store.example"))["key"]
    made = server.post(CONVERSATIONS, {"items": LARGE[:3]}, key=key).json()["id"]
    path = f"{CONVERSATIONS}/{made}"

    def append():
        with contextlib.suppress(OSError):
            server.post(f"{path}/items", {"items": LARGE}, key=key)

    assert server.post(f"{path}/items", {"items": LARGE[3:6]}, key=key).status == 200
    appending = threading.Thread(target=append)
    appending.start()
    time.sleep(0.05)
    server.kill()
    appending.join(30)
    server = Server(tmp_path, wait="live", model=False)
    kept = texts(server.get(f"{path}/items?limit=100&order=asc", key=key).json()["data"])
    expected = [item["content"] for item in LARGE]
    assert kept in (expected[:6], expected[:6] + expected)
    server.close()


def test_refused_large_items_leave_nothing(tmp_path):
    """Neither one that has no conversation nor one that has no room takes the disk."""
    server = Server(tmp_path, wait="live", model=False, config="[conversations]\nmax_bytes = 20000000\n")
    key = server.new_key(server.new_user("full@store.example"))["key"]
    made = server.post(CONVERSATIONS, {"items": LARGE}, key=key).json()["id"]
    before = folder_mib(server.data)
    for _ in range(8):
        assert server.post(f"{CONVERSATIONS}/{made}/items", {"items": LARGE}, key=key).status == 400
        assert server.post(f"{CONVERSATIONS}/conv_{uuid7().hex}/items", {"items": LARGE}, key=key).status == 404
        fits_alone = {"items": LARGE[:2], "parent": "msg_unknown"}
        assert server.post(f"{CONVERSATIONS}/{made}/items", fits_alone, key=key).status == 404
    assert folder_mib(server.data) < before + 30, "each of the first two is 14 MB"
    server.close()
