"""The memory of workers: known by kind, within its bounds, and told to administrators alone."""

import json
import os
import signal

import pytest
from harness import ENDLESS, GENERATES, IS_BUNDLED, MODEL, rss_kib, wait_until

pytestmark = pytest.mark.skipif(not GENERATES, reason="the model generates nothing")

PATH = "/api/v1/admin/models"
KINDS = [
    "weights", "kv", "kv_lanes", "host_cache", "compute", "logits", "embeddings", "grammars", "constrained_answers",
]
#: What belongs to no kind takes at most this: the program, its stacks, the tokenizer's tables.
OTHER = 160 << 20


def replica(server):
    """The only replica of the suite's model, as administrators see it."""
    listed = server.get(PATH, key=server.admin_key)
    assert listed.status == 200 and listed.headers["Cache-Control"] == "no-store", listed
    models = listed.json()["data"]
    [found] = [model for model in models if MODEL in (model["id"], *model["aliases"])]
    assert found["object"] == "admin.model" and len(found["replicas"]) == 1
    return found["replicas"][0]


def checked(server):
    """Its memory, which is known and adds up."""
    memory = wait_until(lambda: replica(server)["memory"], "a report of the memory", 10)
    amounts = {kind: memory[kind]["bytes"] for kind in KINDS}
    for kind in KINDS:
        limit = memory[kind]["limit_bytes"]
        assert limit is None or amounts[kind] <= limit, (kind, memory[kind])
    known = sum(amounts.values()) - memory["device_bytes"]
    resident, other = memory["resident_bytes"], memory["other"]["bytes"]
    # Pages of these that were never needed are no part of the resident set.
    sparse = sum(amounts[kind] for kind in ("weights", "compute", "logits", "embeddings", "grammars"))
    assert known - sparse <= resident <= known + OTHER, memory
    assert other == max(0, resident - known) and memory["resident_file_bytes"] <= resident
    return memory


def settled(server, condition, what):
    """A report that satisfies `condition`; they come once a second."""
    return wait_until(lambda: condition(memory := checked(server)) and memory, what, 15, every=0.2)


def test_every_kind_is_known_before_during_and_after_requests(make_server):
    own = make_server()
    before = replica(own)
    assert (before["number"], before["state"], before["problem"]) == (0, "ready", None)
    assert (before["running"], before["waiting"], before["restarts"]) == (0, 0, 0)
    memory = checked(own)
    assert all(memory[kind]["bytes"] > 0 for kind in ("weights", "kv", "compute", "logits"))
    assert all(memory[kind]["bytes"] == 0 for kind in ("kv_lanes", "host_cache", "embeddings", "grammars"))
    assert memory["kv"]["limit_bytes"] == memory["kv"]["bytes"]
    with own.stream(max_tokens=1500, logit_bias=ENDLESS) as stream:
        events = stream.events()
        [next(events) for _ in range(3)]
        during = replica(own)
        assert (during["running"], during["waiting"]) == (1, 0)
        cells = during["kv_cells"]
        assert 0 < cells["used"] <= cells["total"] and cells["cached"] <= cells["used"]
        checked(own)
    wait_until(lambda: replica(own)["running"] == 0, "nothing runs")
    after = checked(own)
    assert after["weights"] == memory["weights"] and after["kv"] == memory["kv"]
    reported = after["resident_bytes"]
    assert abs(reported - (rss_kib(own.worker()) << 10)) < max(reported / 5, 32 << 20)


def test_the_host_cache_grows_and_stays_within_its_bound(make_server):
    mib = 1 if IS_BUNDLED else 24
    own = make_server(config=f"[engine]\ncache_ram_mib = {mib}\ncache_cells = 0\n", env={"JAN_SERVER__ENGINE__CACHE_RAM_MIB": mib})
    limit = checked(own)["host_cache"]["limit_bytes"]
    assert 0 < limit <= mib << 20
    seen = []
    for number in range(12):
        answer = own.chat(f"{number}: " + f"some words about the number {number}, " * 40, max_tokens=1)
        assert answer.status == 200
        seen.append(checked(own)["host_cache"]["bytes"])
    full = settled(own, lambda memory: memory["host_cache"]["bytes"] > limit / 2, "copies in host memory")
    assert max([*seen, full["host_cache"]["bytes"]]) <= limit
    # What is given back at rest is not the copies.
    wait_until(lambda: checked(own)["host_cache"] == full["host_cache"], "nothing more is copied")


def test_embeddings_and_grammars_are_counted(make_server):
    own = make_server()
    assert own.post("/api/v1/embeddings", {"model": MODEL, "input": "some words"}).status == 200
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    assert own.chat("How old?", max_tokens=60, response_format=form).status == 200
    memory = settled(
        own, lambda memory: memory["embeddings"]["bytes"] and memory["grammars"]["bytes"], "both are counted"
    )
    assert memory["grammars"]["limit_bytes"] > memory["grammars"]["bytes"]
    assert memory["helper_bytes"] > 1 << 20


def test_a_worker_that_is_replaced_is_counted_and_measured_anew(make_server):
    own = make_server()
    checked(own)
    os.kill(own.worker(), signal.SIGKILL)
    seen = set()

    def is_back():
        now = replica(own)
        seen.add(now["state"])
        return now["state"] == "ready" and now["restarts"] == 1 and now["memory"]

    wait_until(is_back, "another worker", every=0.005)
    assert seen <= {"ready", "restarting"}, seen
    checked(own)


def test_only_administrators_see_it(server):
    member = server.new_user("memory@example.com")
    for credential in (server.new_session(member)["access_token"], server.new_key(member)["key"]):
        refused = server.get(PATH, key=credential)
        assert refused.status == 403 and refused.error["code"] == "insufficient_permissions", refused
    assert server.get(PATH).status == 401
    assert json.loads(server.get(PATH, key=server.admin_key).body)["object"] == "list"
