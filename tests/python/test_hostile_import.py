"""Imports that would break the store or give back what was taken away, and a store with a damaged record."""

import json
import os
import subprocess

import postgres
import pytest
from harness import BINARY, Server
from store_callers import export_of, import_into, records

ADMIN = "/api/v1/admin"


def run(*args, **kwargs):
    environment = os.environ | postgres.settings(args[args.index("--data-dir") + 1])
    return subprocess.run([str(BINARY), *map(str, args)], capture_output=True, timeout=120, env=environment, **kwargs)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("import"), wait="live", model=False)
    yield one
    one.close()


def export(server, user=None):
    whole = server.get(f"{ADMIN}/export" + (f"?user={user}" if user else ""), key=server.admin_key)
    assert whole.status == 200, whole
    return whole.body


def lines_of(whole):
    return [(line["kind"], line["key"], line["value"]) for line in map(json.loads, whole.splitlines()[1:-1])]


def profile(server, key):
    return server.get("/api/v1/user/profile", key=key).status


@pytest.mark.parametrize("kind", ["user", "key", "session", "usage", "conversation", "item", "response"])
@pytest.mark.parametrize("key", ["00", "", "ff" * 16, "ff" * 40])
def test_a_key_that_is_another_records_is_refused(own, kind, key):
    """A key of one byte made the store one that no start could open."""
    user = own.new_user(f"{kind}{len(key)}{key[:2]}@import.example")
    secret = own.new_key(user)["key"]
    own.new_session(user)
    own.post("/api/v1/conversations", {"items": [{"role": "user", "content": "x"}]}, key=secret)
    good = lines_of(export(own, user))
    value = next((value for name, _, value in good if name == kind), {"user": user})
    before = export(own, user)
    refused = import_into(own, export_of([(kind, key, value)]), status=400)
    assert refused.error["code"] == "invalid_export", refused
    assert lines_of(export(own, user)) == lines_of(before)


def test_two_records_of_one_import_for_one_address_are_refused(own):
    one, two = own.new_user("one@import.example"), own.new_user("two@import.example")
    good = {value["id"]: (kind, key, value) for kind, key, value in lines_of(export(own)) if kind == "user"}
    (_, first, a), (_, second, b) = good[one], good[two]
    same = [("user", first, a | {"email": "same@import.example"}), ("user", second, b | {"email": "same@import.example"})]
    refused = import_into(own, export_of(same), status=409)
    assert refused.error["code"] == "import_conflict"
    upper = import_into(own, export_of([("user", first, a | {"email": "ONE@import.example"})]), status=400)
    assert upper.error["code"] == "invalid_export"


def test_an_import_does_not_undo_what_was_revoked(own):
    user = own.new_user("revoked@import.example")
    keys = [own.new_key(user) for _ in range(2)]
    session = own.new_session(user)["access_token"]
    conversation = own.post("/api/v1/conversations", {"items": [{"role": "user", "content": "x"}]}, key=keys[0]["key"])
    path = f"/api/v1/conversations/{conversation.json()['id']}/share"
    token = own.post(path, key=keys[0]["key"]).json()["token"]
    before = export(own, user)
    assert own.delete(path, key=keys[0]["key"]).status == 200
    assert own.delete(f"/api/v1/user/api-keys/{keys[1]['id']}", key=session).status in (200, 204)
    assert own.post("/auth/logout", key=session).status in (200, 204)
    import_into(own, before)
    assert profile(own, keys[0]["key"]) == 200
    assert profile(own, keys[1]["key"]) == 401, "a revoked key"
    assert profile(own, session) == 401, "a session that was ended"
    assert own.get(f"/api/v1/shared/{token}").status == 404, "a link that was revoked"
    # Disabled since.
    assert own.patch(f"{ADMIN}/users/{user}", {"disabled": True}, key=own.admin_key).status == 200
    import_into(own, before)
    assert profile(own, keys[0]["key"]) in (401, 403)
    # Told to, it does.
    import_into(own, before, "?restore_revoked=true")
    assert [profile(own, secret) for secret in (keys[0]["key"], keys[1]["key"], session)] == [200, 200, 200]
    assert own.get(f"/api/v1/shared/{token}").status == 200


def test_a_deleted_users_keys_do_not_come_back_with_them(own):
    user = own.new_user("deleted@import.example")
    key = own.new_key(user)["key"]
    before = export(own, user)
    assert own.delete(f"{ADMIN}/users/{user}", key=own.admin_key).status in (200, 204)
    import_into(own, before)
    assert own.get(f"{ADMIN}/users/{user}", key=own.admin_key).status == 200
    assert profile(own, key) == 401


def test_an_import_keeps_an_administrator(own):
    admins = [line for line in lines_of(export(own)) if line[0] == "user" and line[2]["kind"] == "admin"]
    for change in ({"disabled": True}, {"kind": "member"}):
        worse = [(kind, key, value | change) for kind, key, value in admins]
        refused = import_into(own, export_of(worse), status=409)
        assert "administrator" in refused.error["message"], refused
        assert own.get(f"{ADMIN}/users", key=own.admin_key).status == 200
    # With another one it is taken.
    other = own.new_user("other-admin@import.example")
    assert own.patch(f"{ADMIN}/users/{other}", {"role": "admin"}, key=own.admin_key).status == 200
    import_into(own, export_of([("user", admins[0][1], admins[0][2] | {"name": "Renamed"})]))


def test_the_command_line(tmp_path):
    server = Server(tmp_path / "a", wait="live", model=False)
    user = server.new_user("ann@cli.example")
    key = server.new_key(user)
    before = export(server)
    assert server.delete(f"/api/v1/user/api-keys/{key['id']}", key=server.new_session(user)["access_token"]).status in (200, 204)
    data = server.data
    server.kill()
    file = tmp_path / "before.ndjson"
    file.write_bytes(before)
    for mode in ("--merge", "--replace"):
        done = run("import", "--data-dir", data, "--input", file, mode)
        assert done.returncode == 0, done
        server = Server(tmp_path / "a", wait="live", model=False)
        assert profile(server, key["key"]) == 401, mode
        server.kill()
    done = run("import", "--data-dir", data, "--input", file, "--merge", "--restore-revoked")
    assert done.returncode == 0, done
    server = Server(tmp_path / "a", wait="live", model=False)
    assert profile(server, key["key"]) == 200
    found = records(server)
    admin = next(line for line in found if line["kind"] == "user" and line["value"]["kind"] == "admin")
    server.kill()
    file.write_bytes(export_of([("user", admin["key"], admin["value"] | {"disabled": True})]))
    for mode in ("--merge", "--replace"):
        refused = run("import", "--data-dir", data, "--input", file, mode)
        assert refused.returncode != 0 and b"administrator" in refused.stderr, refused
    server = Server(tmp_path / "a", wait="live", model=False)
    assert server.get(f"{ADMIN}/users", key=server.admin_key).status == 200
    server.close()
