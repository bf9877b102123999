"""What one user may keep: whoever has too much is refused by name, others go on, and the sums are right whatever happens."""


import threading

import pytest
from harness import Server
from store_callers import CONVERSATIONS, RESPONSES, export_of, import_into, records, response_record

QUOTAS = """
[storage]
max_user_mib = 2
max_user_conversations = 12
max_user_responses = 4
max_guest_mib = 1
max_guest_conversations = 3
[auth]
guests = "on"
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("quotas"), wait="live", model=False, config=QUOTAS)
    yield one
    one.close()


def member(server, name):
    user = server.new_user(f"{name}@quota.example")
    return user, server.new_key(user)["key"]


def begin(server, key, text="x"):
    return server.post(CONVERSATIONS, {"items": [{"role": "user", "content": text}]}, key=key)


def is_full(answer, quota):
    assert answer.status == 507, answer
    assert answer.error["code"] == "storage_quota_exceeded", answer
    assert quota in answer.error["message"], answer


def test_conversations_are_counted_through_deletes(own):
    (_, ann), (_, bob) = member(own, "ann-count"), member(own, "bob-count")
    made = [begin(own, ann).json()["id"] for _ in range(12)]
    is_full(begin(own, ann), "storage.max_user_conversations")
    assert begin(own, bob).status == 201, "others go on"
    # What is there can be read, changed, added to and deleted.
    path = f"{CONVERSATIONS}/{made[0]}"
    assert own.get(path, key=ann).status == 200
    assert own.patch(path, {"title": "another"}, key=ann).status == 200
    assert own.post(f"{path}/items", {"items": [{"role": "user", "content": "y"}]}, key=ann).status in (200, 201)
    for _ in range(3):
        assert own.delete(path, key=ann).status == 200
        again = begin(own, ann)
        assert again.status == 201, again
        path = f"{CONVERSATIONS}/{again.json()['id']}"
        is_full(begin(own, ann), "storage.max_user_conversations")


def test_bytes_are_counted_over_all_that_one_keeps(own):
    (user, ann), (_, bob) = member(own, "ann-bytes"), member(own, "bob-bytes")
    import_into(own, export_of([response_record(user, 1 << 20)]))
    large = begin(own, ann, "x" * 800_000)
    assert large.status == 201, large
    is_full(begin(own, ann, "x" * 300_000), "storage.max_user_mib")
    path = f"{CONVERSATIONS}/{large.json()['id']}"
    is_full(own.post(f"{path}/items", {"items": [{"role": "user", "content": "x" * 300_000}]}, key=ann), "storage.max_user_mib")
    is_full(begin(own, ann, "x" * 400_000), "storage.max_user_mib")
    assert begin(own, bob, "x" * 300_000).status == 201
    # A deleted item gives its bytes back.
    item = own.get(f"{path}/items", key=ann).json()["data"][0]["id"]
    assert own.delete(f"{path}/items/{item}", key=ann).status == 200
    assert begin(own, ann, "x" * 300_000).status == 201


def test_an_import_counts_and_replaces_without_counting_twice(own):
    user, ann = member(own, "ann-import")
    made = [begin(own, ann).json()["id"] for _ in range(11)]
    export = own.get(f"/api/v1/admin/export?user={user}", key=own.admin_key).body
    for _ in range(3):
        import_into(own, export)
    assert begin(own, ann).status == 201
    is_full(begin(own, ann), "storage.max_user_conversations")
    for conversation in made:
        assert own.delete(f"{CONVERSATIONS}/{conversation}", key=ann).status == 200
    for _ in range(11):
        assert begin(own, ann).status == 201
    is_full(begin(own, ann), "storage.max_user_conversations")


def test_many_at_a_time_pass_no_quota(own):
    """One fsync serves many: what is decided in one round counts for the next decision of the same round."""
    _, ann = member(own, "ann-race")
    statuses = []

    def work():
        for _ in range(4):
            statuses.append(begin(own, ann).status)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert (statuses.count(201), statuses.count(507)) == (12, 20), statuses


def test_guests_have_far_less(own):
    session = own.post("/auth/guest").json()
    key = session["access_token"]
    for _ in range(3):
        assert begin(own, key).status == 201
    is_full(begin(own, key), "storage.max_guest_conversations")


def test_the_sums_survive_kills(tmp_path):
    server = Server(tmp_path, wait="live", model=False, config=QUOTAS)
    user, ann = member(server, "ann-kill")
    made = []
    for round_number in range(3):
        made += [begin(server, ann).json()["id"] for _ in range(4)]
        if round_number == 1:
            assert server.delete(f"{CONVERSATIONS}/{made.pop()}", key=ann).status == 200
        server.kill()
        server = Server(tmp_path, wait="live", model=False, config=QUOTAS)
    assert begin(server, ann).status == 201
    is_full(begin(server, ann), "storage.max_user_conversations")
    kept = [record for record in records(server) if record["kind"] == "conversation"]
    assert len(kept) == 12
    server.close()


def test_responses_are_counted(tmp_path):
    server = Server(tmp_path, config=QUOTAS)
    (user, ann), (_, bob) = member(server, "ann-responses"), member(server, "bob-responses")
    body = {"model": "jan-v1-4b", "input": "Hello", "max_output_tokens": 16}
    import_into(server, export_of([response_record(user, 1 << 16) for _ in range(2)]))
    made = [server.post(RESPONSES, body, key=ann) for _ in range(2)]
    assert [answer.status for answer in made] == [200, 200], made
    is_full(server.post(RESPONSES, body, key=ann), "storage.max_user_responses")
    assert server.post(RESPONSES, body | {"store": False}, key=ann).status == 200, "what is not kept needs no room"
    assert server.post(RESPONSES, body, key=bob).status == 200
    assert server.delete(f"{RESPONSES}/{made[0].json()['id']}", key=ann).status == 200
    assert server.post(RESPONSES, body, key=ann).status == 200
    is_full(server.post(RESPONSES, body, key=ann), "storage.max_user_responses")
    server.close()


def test_what_was_asked_before_is_not_kept_again(tmp_path):
    """A response refers to its history: going on is cheap, and what is gone on from stays for it alone."""
    server = Server(tmp_path, config="[storage]\nmax_user_mib = 2\n")
    user, ann = member(server, "ann-history")
    import_into(server, export_of([response_record(user, 5 << 17)]))
    first = records_of(server, "response")[0]["value"]["id"]
    body = {"model": "jan-v1-4b", "input": "Go on", "max_output_tokens": 16, "truncation": "auto"}
    last = first
    # 640 KiB of history each: three would be more than there may be.
    for turn in range(6):
        made = server.post(RESPONSES, body | {"previous_response_id": last}, key=ann)
        assert made.status == 200, (turn, made)
        last = made.json()["id"]
    before = server.get(f"{RESPONSES}/{last}/input_items?limit=100", key=ann).json()["data"]
    assert server.delete(f"{RESPONSES}/{first}", key=ann).status == 200
    server.kill()
    server = Server(tmp_path, config="[storage]\nmax_user_mib = 2\n")
    assert server.get(f"{RESPONSES}/{first}", key=ann).status == 404
    assert server.get(f"{RESPONSES}/{first}/input_items", key=ann).status == 404
    gone = server.post(RESPONSES, body | {"previous_response_id": first}, key=ann)
    assert (gone.status, gone.error["code"]) == (400, "previous_response_not_found")
    assert server.get(f"{RESPONSES}/{last}/input_items?limit=100", key=ann).json()["data"] == before
    # What is kept for later ones is paid for: with 1,408 KiB more, it is 2 MiB.
    import_into(server, export_of([response_record(user, 11 << 16) for _ in range(2)]))
    is_full(server.post(RESPONSES, body, key=ann), "storage.max_user_mib")
    answer = server.post(RESPONSES, body | {"previous_response_id": last, "store": False}, key=ann)
    assert answer.status == 200
    server.close()


def records_of(server, kind):
    return [record for record in records(server) if record["kind"] == kind]
