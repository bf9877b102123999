"""A full disk: what would change something is 507, what is there is read, and all is well when there is room again."""

import os
import subprocess
import sys
import time

import pytest
from harness import IS_BUNDLED, Server, wait_until

pytestmark = pytest.mark.skipif(not IS_BUNDLED, reason="the disk is the same whichever model answers")

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A folder for a server on a file system of 32 MiB."""
    data = tmp_path / "data"
    data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(data)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"this system has no mount: {error}")
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(data)], check=True)


def fill(folder, leave):
    """Takes all room but `leave` bytes."""
    filler = folder / "data" / "filler"
    with filler.open("ab", buffering=0) as file:
        free = os.statvfs(folder / "data")
        rest = max(0, free.f_bavail * free.f_frsize - leave)
        while rest > 0:
            try:
                rest -= file.write(b"\0" * min(rest, MIB))
            except OSError:
                break
    return filler


def look(server, user, key):
    """Reads, credentials and answers of models go on."""
    assert server.get("/api/v1/user/profile", key=key).json()["id"] == user
    assert server.get(f"/api/v1/admin/users/{user}", key=server.admin_key).status == 200
    assert server.get("/api/v1/usage", key=key).status == 200
    assert server.get("/api/v1/admin/export", key=server.admin_key).body.count(b'"kind":"trailer"') == 1


def test_the_reserve_keeps_the_database_from_a_full_disk(small_disk):
    server = Server(small_disk, env={"JAN_SERVER__STORAGE__MIN_FREE_MIB": "8"})
    user = server.new_user()
    key = server.new_key(user)["key"]
    filler = fill(small_disk, 6 * MIB)
    for answer in (
        server.post("/api/v1/admin/users", {"email": "b@x.example", "name": "b"}, key=server.admin_key),
        server.patch("/api/v1/user/profile", {"name": "c"}, key=key),
        server.delete(f"/api/v1/admin/users/{user}", key=server.admin_key),
        server.post("/api/v1/auth/guest"),
        server.post("/api/v1/admin/import", server.get("/api/v1/admin/export", key=server.admin_key).body,
                    {"Content-Type": "application/x-ndjson"}, key=server.admin_key),
    ):
        assert answer.status == 507, answer
        assert answer.error["code"] == "insufficient_storage" and answer.error["type"] == "server_error"
        assert "disk is full" in answer.error["message"]
    look(server, user, key)
    chat = server.chat(key=key)
    assert chat.status == 200, "answers need no disk"
    assert "nothing is changed until there is room again" in server.log()

    filler.unlink()
    made = server.post("/api/v1/admin/users", {"email": "b@x.example", "name": "b"}, key=server.admin_key)
    assert made.status == 201, made
    # What was used meanwhile is not forgotten.
    tokens = chat.json()["usage"]["completion_tokens"]

    def counted():
        data = server.get("/api/v1/usage", key=key).json()["data"]
        return data and data[0]["results"][0]["output_tokens"] == tokens

    wait_until(counted, "the usage of that time")
    server.close()


def test_without_a_reserve_a_full_disk_costs_nothing_acknowledged(small_disk):
    server = Server(small_disk, env={"JAN_SERVER__STORAGE__MIN_FREE_MIB": "0"})
    admin = server.admin_key
    kept = [server.new_user(f"u{number}@x.example", "n" * 200) for number in range(20)]
    key = server.new_key(kept[0])["key"]
    filler = fill(small_disk, 0)
    refused = []
    for number in range(400):
        made = server.post("/api/v1/admin/users", {"email": f"v{number}@x.example", "name": "n" * 200}, key=admin)
        if made.status == 201:
            kept.append(made.json()["id"])
        else:
            # 503: the database is being opened again, perhaps since a write of its own, or of the audit log, failed.
            assert made.status in (503, 507), made
            refused.append(made.status)
            time.sleep(0.1)
        if len(refused) > 8 and 507 in refused:
            break
    assert 507 in refused, refused
    # Credentials are checked in memory, whatever the database does.
    assert server.chat(key=key).status == 200

    filler.unlink()
    email = {"email": "after@x.example", "name": "after"}
    after = wait_until(
        lambda: (made := server.post("/api/v1/admin/users", email, key=admin)).status == 201 and made,
        "changes are taken again",
        60,
        every=0.5,
    )
    kept.append(after.json()["id"])
    look(server, kept[0], key)
    for user in kept:
        assert server.get(f"/api/v1/admin/users/{user}", key=admin).status == 200, "acknowledged"
    server.kill()
    server = Server(small_disk, env={"JAN_SERVER__STORAGE__MIN_FREE_MIB": "0"})
    for user in kept:
        assert server.get(f"/api/v1/admin/users/{user}", key=admin).status == 200, "acknowledged"
    server.close()
