"""The store under callers who own much: what is large holds nobody up, and what is deleted is gone, whenever it ends."""

import json
import random
import threading
import time

import pytest
from harness import Server, wait_until
from store_callers import CONVERSATIONS, RESPONSES, Neighbour, export_of, fill, import_into, records, response_record

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
