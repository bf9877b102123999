"""Export and import: whole or not at all, and every trace of a user who was deleted is gone."""

import hashlib
import json
import os
import re
import subprocess

import postgres
import pytest
from harness import BINARY, MODEL, Server

ANN = "ann@example.com"


def run(*args, **kwargs):
    data = args[args.index("--data-dir") + 1]
    environment = os.environ | postgres.settings(data)
    return subprocess.run([str(BINARY), *map(str, args)], capture_output=True, timeout=120, env=environment, **kwargs)


def lines(export):
    return [json.loads(line) for line in export.splitlines()]


def verify(export):
    """What whoever keeps an export can check without this program."""
    *body, last = export.splitlines(keepends=True)
    trailer = json.loads(last)
    assert trailer["kind"] == "trailer"
    assert trailer["sha256"] == hashlib.sha256(b"".join(body)).hexdigest()
    counts = {}
    for line in body[1:]:
        kind = json.loads(line)["kind"]
        counts[kind] = counts.get(kind, 0) + 1
    assert trailer["records"] == counts
    return without_audit(counts)


def without_audit(counts):
    """How much the audit log has is for its own test."""
    return {kind: count for kind, count in counts.items() if kind != "audit"}


def without_log(export):
    """The lines of an export but those of the audit log, which goes on with every export and keeps ids."""
    return b"".join(line for line in export.splitlines(keepends=True) if not line.startswith(b'{"kind":"audit"'))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A stopped server's data folder with two users, and what is in it."""
    folder = tmp_path_factory.mktemp("kept")
    server = Server(folder)
    ann, bob = server.new_user(ANN), server.new_user("bob@example.com", "Bob")
    keys = server.new_key(ann), server.new_key(bob)
    session = server.new_session(ann)["access_token"]
    for key in keys:
        assert server.chat(key=key["key"]).status == 200
    usage = server.get("/api/v1/admin/usage?group_by=user,key,model", key=server.admin_key).json()
    online = server.get("/api/v1/admin/export", key=server.admin_key).body
    server.terminate()
    server.process.wait(60)
    server.close()
    return {"folder": folder, "data": server.data, "ann": ann, "bob": bob, "keys": keys, "session": session,
            "usage": usage, "admin": server.admin_key, "online": online}


def export_of(kept, *args):
    done = run("export", "--data-dir", kept["data"], *args)
    assert done.returncode == 0, done
    return done.stdout


def test_an_export_is_readable_and_verifiable_and_has_no_secret(kept):
    export = export_of(kept)
    counts = verify(export)
    assert counts == {"user": 3, "key": 3, "session": 1, "usage": 2}
    header = lines(export)[0]
    assert (header["kind"], header["format"]) == ("header", 1)
    file = "store.id" if postgres.KIND == "sled" else "postgres.id"
    assert header["store"] == (kept["data"] / file).read_text().split()[0]
    for secret in [kept["admin"], *(key["key"] for key in kept["keys"])]:
        assert secret.encode() not in export
    for file in (kept["data"] / "keys").iterdir():
        for text in re.findall(r"[A-Za-z0-9_-]{40,}", file.read_text()):
            assert text.encode() not in export, "a signing key"


def test_the_running_server_exports_the_same(kept):
    # When a key was last used is written down later.
    def records(export):
        return sorted(
            re.sub(r'"last_used_at":(null|\d+)', "", json.dumps(line, separators=(",", ":")))
            for line in lines(without_log(export))[1:-1]
        )

    assert verify(kept["online"]) == verify(export_of(kept))
    assert records(kept["online"]) == records(export_of(kept))


def test_one_users_export_has_that_users_records_alone(kept):
    for name in (ANN, "ANN@example.com", kept["ann"]):
        export = export_of(kept, "--user", name)
        assert verify(export) == {"user": 1, "key": 1, "session": 1, "usage": 1}
        assert kept["bob"].encode() not in export and b"bob@example.com" not in export
    unknown = run("export", "--data-dir", kept["data"], "--user", "nobody@example.com")
    assert unknown.returncode == 1 and b"user nobody@example.com does not exist" in unknown.stderr


def test_there_and_back(kept, tmp_path):
    file = tmp_path / "export.ndjson"
    assert run("export", "--data-dir", kept["data"], "--output", file).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    data = tmp_path / "fresh" / "data"
    done = run("import", "--data-dir", data, "--input", file)
    assert done.returncode == 0, done
    assert re.search(rb"imported \d+ records: \d+ audit, 3 key, 1 session, 2 usage, 3 user", done.stderr)
    files = ["db", "store.commit", "store.id"] if postgres.KIND == "sled" else []
    assert sorted(path.name for path in data.iterdir()) == files

    again = run("export", "--data-dir", data).stdout
    assert lines(again)[1:-1] == lines(file.read_bytes())[1:-1]
    server = Server(tmp_path / "fresh", wait="live")
    # Keys work, the administrator's too; sessions do not, for what signs tokens is not in an export.
    assert server.get("/api/v1/user/profile", key=kept["keys"][0]["key"]).json()["email"] == ANN
    usage = server.get("/api/v1/admin/usage?group_by=user,key,model", key=kept["admin"]).json()
    assert usage == kept["usage"]
    assert server.get("/api/v1/user/profile", key=kept["session"]).status == 401
    taken = server.post("/api/v1/admin/users", {"email": ANN, "name": "x"}, key=kept["admin"])
    assert taken.status == 409, "found by address, too"
    server.close()


def test_a_store_with_data_is_not_overwritten_unless_told(kept, tmp_path):
    export = export_of(kept, "--user", ANN)
    server = Server(tmp_path, wait="live")
    eve = server.new_user("eve@example.com")
    admin = server.admin_key
    busy = run("export", "--data-dir", server.data)
    if postgres.KIND == "sled":
        assert busy.returncode == 1 and b"in use by another process" in busy.stderr
    else:
        assert busy.returncode == 0 and b"eve@example.com" in busy.stdout, "it reads beside the server"
    busy = run("import", "--data-dir", server.data, input=export)
    assert busy.returncode == 1 and b"in use by another process" in busy.stderr
    server.terminate()
    server.process.wait(60)
    server.close()

    refused = run("import", "--data-dir", server.data, input=export)
    assert refused.returncode == 1 and b"--replace" in refused.stderr and b"--merge" in refused.stderr
    merged = run("import", "--merge", "--data-dir", server.data, input=export)
    assert merged.returncode == 0, merged
    server = Server(tmp_path, wait="live")
    assert server.get(f"/api/v1/admin/users/{eve}", key=admin).status == 200
    assert server.get(f"/api/v1/admin/users/{kept['ann']}", key=admin).status == 200
    server.terminate()
    server.process.wait(60)
    server.close()

    replaced = run("import", "--replace", "--data-dir", server.data, input=export_of(kept))
    assert replaced.returncode == 0, replaced
    if postgres.KIND == "sled":
        assert len(list(server.data.glob("db.before-import-*"))) == 1
    else:
        schema = postgres.settings(server.data)["JAN_SERVER__STORAGE__SCHEMA"]
        kept_users = f"SELECT nspname FROM pg_namespace WHERE nspname LIKE '{schema}_before_import_%'"
        before = postgres.shared().sql(kept_users)
        assert "eve@example.com" in postgres.shared().sql(f"SELECT record FROM {before}.users")
    server = Server(tmp_path, wait="live")
    assert server.get(f"/api/v1/admin/users/{eve}", key=kept["admin"]).status == 404
    assert server.get(f"/api/v1/admin/users/{kept['bob']}", key=kept["admin"]).status == 200
    server.close()


def damaged(export):
    """(name, export, what the refusal says) of exports that are not to be taken in."""
    whole = export.splitlines(keepends=True)
    yield "cut in a line", whole[0] + whole[1][:-9], b"is not a record"
    yield "cut between lines", b"".join(whole[:-1]), b"truncated"
    yield "empty", b"", b"truncated"
    yield "a line lost", b"".join(whole[:2] + whole[3:]), b"damaged"
    yield "a line doubled", b"".join(whole[:2] + whole[1:]), b"damaged"
    yield "a byte changed", export.replace(b"Ann", b"Ana"), b"damaged"
    yield "no export", b"PK\x03\x04", b"not an export"
    yield "newer", export.replace(b'"format":1', b'"format":9'), b"newer version"
    yield "newer records", re.sub(rb'"schema":\d+', b'"schema":99', export), b"newer version"
    yield "twice", export + export, b"behind its trailer"


def test_damaged_exports_leave_nothing_behind(kept, tmp_path):
    export = export_of(kept)
    for number, (name, text, message) in enumerate(damaged(export)):
        data = tmp_path / str(number)
        done = run("import", "--data-dir", data, input=text)
        assert done.returncode == 1 and message in done.stderr, (name, done)
        assert list(data.iterdir()) == [], name


def test_a_running_server_takes_exports_in(kept, tmp_path):
    server = Server(tmp_path, wait="live")
    admin = server.admin_key

    def post(body, key=admin):
        return server.post("/api/v1/admin/import", body, {"Content-Type": "application/x-ndjson"}, key=key)

    export = export_of(kept)
    before = server.get("/api/v1/admin/users", key=admin).json()
    for name, text, message in damaged(export):
        answer = post(text)
        assert answer.status == 400 and message.decode() in answer.error["message"].lower(), (name, answer)
        assert answer.error["code"] == "invalid_export"
    assert server.get("/api/v1/admin/users", key=admin).json() == before, "nothing of it is here"

    eve = server.new_key(server.new_user("eve@example.com"))["key"]
    assert post(export, key=eve).status == 403
    for _ in range(2):
        answer = post(export)
        assert answer.status == 200, answer
        assert without_audit(answer.json()["records"]) == {"user": 3, "key": 3, "session": 1, "usage": 2}
        assert server.get("/api/v1/user/profile", key=kept["keys"][0]["key"]).json()["email"] == ANN
        assert server.get("/api/v1/user/profile", key=eve).status == 200
        usage = server.get("/api/v1/admin/usage?group_by=user,key,model", key=admin).json()
        assert usage == kept["usage"], "not added up a second time"

    # Somebody else has the address here: all of it is refused.
    assert server.delete(f"/api/v1/admin/users/{kept['ann']}", key=admin).status == 200
    server.new_user(ANN)
    answer = post(export)
    assert answer.status == 409 and answer.error["code"] == "import_conflict", answer
    assert ANN in answer.error["message"]
    server.close()


def keep_something(server, key):
    """A conversation with two branches, a large item and a share link, and a response; their ids."""
    def call(method, path, body=None, status=200):
        answer = server.post(f"/api/v1{path}", body, key=key, method=method)
        assert answer.status == status, answer
        return answer.json()

    conversation = call("POST", "/conversations", {"title": "Title unmistakable"}, 201)["id"]
    path = f"/conversations/{conversation}"
    # In several chunks, with characters of several bytes where they are cut.
    large = "Large unmistakable " + "Größe 🦀 " * 20_000
    items = [{"role": "user", "content": text} for text in ("Words unmistakable", large, "Third unmistakable")]
    first = call("POST", path + "/items", {"items": items})["data"][0]["id"]
    call("POST", path + "/branches", {"id": first})
    call("POST", path + "/items", {"items": [{"role": "user", "content": "Branch unmistakable"}]})
    deleted = call("POST", path + "/items", {"items": [{"role": "user", "content": "Deleted"}]})["data"][0]["id"]
    call("DELETE", f"{path}/items/{deleted}")
    token = call("POST", path + "/share")["token"]
    asked = {"model": MODEL, "input": "Response unmistakable", "max_output_tokens": 16}
    response = call("POST", "/responses", asked)["id"]
    return {"conversation": conversation, "item": first, "response": response, "token": token, "large": large}


def seen(server, key, made):
    """All that can be read of it."""
    paths = [
        "/conversations",
        f"/conversations/{made['conversation']}",
        f"/conversations/{made['conversation']}/items?limit=100",
        f"/conversations/{made['conversation']}/branches",
        f"/conversations/{made['conversation']}/items/{made['item']}",
        f"/conversations/{made['conversation']}/export?format=json",
        f"/shared/{made['token']}",
        f"/responses/{made['response']}",
        f"/responses/{made['response']}/input_items",
    ]
    answers = [server.get(f"/api/v1{path}", key=key) for path in paths]
    assert [(path, answer.status) for path, answer in zip(paths, answers) if answer.status != 200] == []
    return [answer.json() for answer in answers]


def test_conversations_and_responses_there_and_back(tmp_path):
    server = Server(tmp_path / "one")
    key, other = (server.new_key(server.new_user(email))["key"] for email in (ANN, "bob@example.com"))
    made, others = keep_something(server, key), keep_something(server, other)
    before = seen(server, key, made)
    assert made["large"] in json.dumps(before, ensure_ascii=False)
    online = server.get("/api/v1/admin/export", key=server.admin_key).body
    admin = server.admin_key
    server.terminate()
    server.process.wait(60)
    server.close()

    export = run("export", "--data-dir", server.data).stdout
    assert verify(export) == verify(online)
    counts = verify(export)
    # Four that are kept, one that was deleted, for each of the two.
    assert (counts["conversation"], counts["item"], counts["response"]) == (2, 10, 2)
    one = run("export", "--data-dir", server.data, "--user", ANN).stdout
    counts = verify(one)
    assert (counts["conversation"], counts["item"], counts["response"]) == (1, 5, 1)
    assert made["response"].encode() in one
    for name in ("conversation", "item", "response"):
        assert others[name].encode() not in one, name

    # All of it into a fresh folder.
    data = tmp_path / "two" / "data"
    done = run("import", "--data-dir", data, input=export)
    assert done.returncode == 0, done
    assert lines(run("export", "--data-dir", data).stdout)[1:-1] == lines(export)[1:-1]
    # The key is in the export as what it hashes to; its file is the administrator's to keep.
    (data / "admin.key").write_text(admin)
    server = Server(tmp_path / "two")
    assert seen(server, key, made) == before
    assert server.get(f"/api/v1/conversations/{made['conversation']}", key=other).status == 404
    assert server.get(f"/api/v1/responses/{made['response']}", key=other).status == 404

    # It goes on, with other changes, and an import takes it back to what it was.
    path = f"/api/v1/conversations/{made['conversation']}"
    later = {"items": [{"role": "user", "content": "Later"}]}
    for _ in range(2):
        assert server.post(path + "/items", later, key=key).status == 200
    assert server.delete(f"/api/v1/responses/{made['response']}", key=key).status == 200
    headers = {"Content-Type": "application/x-ndjson"}
    for body in (one, export):
        assert server.post("/api/v1/admin/import", body, headers, key=admin).status == 200
        assert seen(server, key, made) == before
    assert server.post(path + "/items", later, key=key).status == 200
    server.close()


def test_records_that_are_wrong_are_refused_by_line(kept, tmp_path):
    """With a checksum that fits: whoever edits an export can make one."""
    ids = {"conversation": "conv_" + "0" * 32, "number": 1, "parent": 1, "id": "msg_1", "created_at": 1,
           "deleted": False, "pending": False, "body": {}}
    key = "0" * 32 + "00000001"
    wrong = [
        ("item", key, ids),
        ("item", key, ids | {"parent": None, "id": "x" * 300}),
        ("item", "00", ids | {"parent": None}),
        ("item", key, {}),
        ("conversation", "0" * 32, {}),
        ("response", "0" * 32, {}),
        ("user", "0" * 32, {"id": "user_1"}),
        ("nothing", "00", {}),
    ]
    for number, (kind, key, value) in enumerate(wrong):
        header = export_of(kept).splitlines(keepends=True)[0]
        body = header + json.dumps({"kind": kind, "key": key, "value": value}, separators=(",", ":")).encode() + b"\n"
        digest = hashlib.sha256(body).hexdigest()
        trailer = json.dumps({"kind": "trailer", "records": {kind: 1}, "sha256": digest}, separators=(",", ":"))
        data = tmp_path / str(number)
        done = run("import", "--data-dir", data, input=body + trailer.encode() + b"\n")
        assert done.returncode == 1 and b"line 2 of the export is not a record" in done.stderr, (kind, value, done)
        assert list(data.iterdir()) == []


def test_a_deleted_user_leaves_no_trace(tmp_path):
    server = Server(tmp_path)
    ann = server.new_user(ANN, "Ann Unmistakable")
    key = server.new_key(ann, name="Keyname Unmistakable")
    server.new_session(ann)
    assert server.chat("Words unmistakable", key=key["key"]).status == 200
    made = keep_something(server, key["key"])
    kinds = {"user", "key", "session", "usage", "conversation", "item", "response"}
    names = [made[name] for name in ("conversation", "item", "response", "token")]
    traces = [ann, ANN, key["id"], "nmistakable", *names]

    def found(export):
        # The audit log keeps ids for as long as it keeps anything, and nothing else.
        assert not [trace for trace in traces if trace.encode() in export and "_" not in trace and trace.encode() not in without_log(export)]
        export = without_log(export)
        return [trace for trace in traces if trace.encode() in export]

    export = server.get("/api/v1/admin/export", key=server.admin_key).body
    assert found(export) == traces, "it can be found at all"
    one = server.get(f"/api/v1/admin/export?user={ann}", key=server.admin_key).body
    assert set(verify(one)) == kinds
    assert server.delete(f"/api/v1/admin/users/{ann}", key=server.admin_key).status == 200
    export = server.get("/api/v1/admin/export", key=server.admin_key).body
    assert not {"conversation", "item", "response", "session"} & set(verify(export))
    assert found(export) == []
    assert server.get(f"/api/v1/shared/{made['token']}").status == 404
    assert server.get(f"/api/v1/admin/export?user={ann}", key=server.admin_key).status == 404
    server.terminate()
    server.process.wait(60)
    server.close()
    assert found(run("export", "--data-dir", server.data).stdout) == []
