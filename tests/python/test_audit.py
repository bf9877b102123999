"""The audit log: who did what, from where, on what, with which outcome; bounded, private, kept and on a stream."""

import json
import os
import re
import subprocess
import time

import oidc
import postgres
import pytest
from harness import BINARY, Server, wait_until
from oidc import Browser
from store_callers import CONVERSATIONS, export_of, import_into

AUDIT = "/api/v1/admin/audit"
ADMIN = "/api/v1/admin/users"
KEYS = "/api/v1/user/api-keys"
NDJSON = {"Content-Type": "application/x-ndjson"}


def listed(server, key=None, **query):
    """All records that a query gives, newest first, page by page."""
    found, after = [], None
    while True:
        parts = query | ({"after": after} if after else {})
        page = server.get(f"{AUDIT}?" + "&".join(f"{name}={value}" for name, value in parts.items()), key=key or server.admin_key)
        assert page.status == 200, page
        page = page.json()
        found += page["data"]
        assert (page["next"] is None) == (not page["has_more"])
        if not page["has_more"]:
            return found
        after = page["next"]


def newest(server, action, **fields):
    """The newest record of an action that has these fields, once it is there."""

    def find():
        for record in listed(server, action=action, limit=100):
            if all(record[name] == value for name, value in fields.items()):
                return record
        return None

    return wait_until(find, f"a record of {action} with {fields}", 5)


def stream_of(server):
    return [json.loads(line) for line in (server.data.parent / "audit.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def provider():
    one = oidc.Provider()
    yield one
    one.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory, provider):
    folder = tmp_path_factory.mktemp("audit")
    settings = provider.settings(allowed_return_urls="https://app.example/in")
    settings |= {"JAN_SERVER__AUDIT__STREAM": "audit.jsonl"}
    one = Server(folder, wait="live", model=False, env=settings)
    yield one
    one.close()


def test_every_change_is_recorded_with_ids_alone(own, provider):
    admin = own.admin_key
    secrets = {"the admin key": admin, "the client secret": oidc.CLIENT_SECRET}
    admin_record = newest(own, "settings.load")
    assert admin_record["actor"] == {"user_id": None, "key_id": None, "session_id": None}
    assert "auth.google.client_secret" in admin_record["fields"] and "audit.stream" in admin_record["fields"]

    # Users, by an administrator.
    ann = own.new_user("ann.unmistakable@corp.example", "Ann Unmistakable")
    made = newest(own, "user.create", user_id=ann)
    admin_user, admin_id = made["actor"]["user_id"], made["actor"]["key_id"]
    assert (made["outcome"], made["status"], made["address"], made["count"]) == ("ok", 201, "127.0.0.1", 1), made
    assert admin_user.startswith("user_") and admin_id.startswith("key_") and made["actor"]["session_id"] is None
    assert abs(made["created_at"] - time.time()) < 60
    assert own.patch(f"{ADMIN}/{ann}", {"name": "Ann Unmistakable II"}, key=admin).status == 200
    assert newest(own, "user.update", user_id=ann)["fields"] == ["name"]
    assert own.patch(f"{ADMIN}/{ann}", {"limits": {"requests_per_hour": 77777}}, key=admin).status == 200
    assert newest(own, "limits.update", user_id=ann)["fields"] == ["limits"]
    for disabled, action in ((True, "user.disable"), (False, "user.enable")):
        assert own.patch(f"{ADMIN}/{ann}", {"disabled": disabled}, key=admin).status == 200
        newest(own, action, user_id=ann, outcome="ok")

    # Sessions.
    tokens = own.new_session(ann)
    secrets |= {f"a session's {name}": tokens[name] for name in ("access_token", "refresh_token")}
    began = newest(own, "session.begin", user_id=ann, how="admin")
    session = began["target"]
    assert session.startswith("sess_") and began["actor"]["key_id"] == admin_id
    refreshed = own.post("/auth/refresh", {"refresh_token": tokens["refresh_token"]}).json()
    secrets |= {f"a new {name}": refreshed[name] for name in ("access_token", "refresh_token")}
    newest(own, "session.refresh", user_id=ann, target=session, outcome="ok")
    token = refreshed["access_token"]
    assert own.patch("/api/v1/user/profile", {"name": "Unmistakable III"}, key=token).status == 200
    by_herself = newest(own, "user.update", user_id=ann, fields=["name"])
    assert by_herself["actor"] == {"user_id": ann, "key_id": None, "session_id": session}

    # Keys.
    key = own.post(KEYS, {"name": "Keyname Unmistakable", "permissions": ["read"]}, key=token).json()
    secrets["her key"] = key["key"]
    assert newest(own, "key.create", target=key["id"])["user_id"] == ann
    changed = own.patch(f"{KEYS}/{key['id']}", {"limits": {"tokens_per_minute": 5}, "name": "Other"}, key=token)
    assert changed.status == 200
    assert newest(own, "key.update", target=key["id"])["fields"] == ["name", "limits"]
    newest(own, "limits.update", target=key["id"], user_id=ann)
    assert own.delete(f"{KEYS}/{key['id']}?cascade=true", key=token).status == 200
    assert newest(own, "key.revoke", target=key["id"])["fields"] == ["cascade"]
    other = own.new_key(ann)
    secrets["another key"] = other["key"]
    assert newest(own, "key.create", target=other["id"], user_id=ann)["actor"]["user_id"] == admin_user

    # Shares.
    said = {"items": [{"role": "user", "content": "Content unmistakable"}], "title": "Title unmistakable"}
    conversation = own.post(CONVERSATIONS, said, key=other["key"]).json()["id"]
    secrets["the link"] = own.post(f"{CONVERSATIONS}/{conversation}/share", key=other["key"]).json()["token"]
    shared = newest(own, "share.create", target=conversation)
    assert (shared["user_id"], shared["actor"]["key_id"]) == (ann, other["id"])
    assert own.delete(f"{ADMIN}/{ann}/shares/{conversation}", key=admin).status == 200
    newest(own, "share.end", target=conversation, user_id=ann)
    assert own.get(f"/api/v1/shared/{secrets['the link']}").status == 404

    # Signing in, out, and as a guest.
    browser = Browser(own)
    signed = browser.sign_in().json()
    secrets |= {f"signed in: {name}": signed[name] for name in ("access_token", "refresh_token")}
    signed_in = newest(own, "session.begin", how="google")
    assert newest(own, "user.create", user_id=signed_in["user_id"])["how"] == "google"
    location = browser.sign_in(return_to="https://app.example/in", return_state="statetext").headers["Location"]
    secrets["a code"] = location.split("#code=")[1].split("&")[0]
    newest(own, "sign_in", user_id=signed_in["user_id"], status=302)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    exchanged = own.post("/auth/exchange", {"code": secrets["a code"]}, {"Cookie": cookie}).json()
    secrets["exchanged"] = exchanged["access_token"]
    newest(own, "session.begin", how="exchange", user_id=signed_in["user_id"])
    guest = own.post("/auth/guest").json()
    secrets["a guest's"] = guest["refresh_token"]
    newest(own, "session.begin", how="guest")
    assert own.post("/auth/logout", key=signed["access_token"]).status == 204
    newest(own, "session.end", target=signed_in["target"], user_id=signed_in["user_id"])

    # Exports and imports.
    export = own.get(f"/api/v1/admin/export?user={ann}", key=admin).body
    newest(own, "export", user_id=ann)
    assert own.post("/api/v1/admin/import", export, NDJSON, key=admin).status == 200
    newest(own, "import", user_id=None, outcome="ok")

    # The user goes, the records stay.
    assert own.delete(f"{ADMIN}/{ann}/sessions/{session}", key=admin).status == 200
    newest(own, "session.end", target=session, user_id=ann)
    assert own.delete(f"{ADMIN}/{ann}", key=admin).status == 200
    newest(own, "user.delete", user_id=ann)
    assert len(listed(own, user_id=ann)) >= 15

    # The stream says the same, and neither has anything but ids and names.
    kept = {record["id"]: record for record in listed(own)}
    written = {record["id"]: record for record in stream_of(own)}
    assert kept.keys() <= written.keys()
    for number, record in kept.items():
        record["actor"] = {name: value for name, value in record["actor"].items() if value}
        assert written[number] == {name: value for name, value in record.items() if value not in (None, [], {}, "audit.record")}
    assert not any("nmistakable" in json.dumps(record) for record in kept.values())
    text = (own.data.parent / "audit.jsonl").read_text()
    for word in ("nmistakable", "@", "77777", "statetext", *secrets.values()):
        assert word not in text, word
        for part in word.split(".") if word.count(".") == 2 else ():
            assert part not in text or len(part) < 20


def test_refusals_are_recorded_with_their_code(own):
    admin = own.admin_key
    bob = own.new_user("bob@refused.example")
    key = own.new_key(bob)
    for call, action, code, fields in [
        (lambda: own.post(f"{ADMIN}", {"email": "x@y.example", "name": "x"}, key=key["key"]), "user.create", "insufficient_permissions", {"actor": key}),
        (lambda: own.delete(f"{ADMIN}/{bob}"), "user.delete", "missing_credentials", {"user_id": bob}),
        (lambda: own.delete(f"{ADMIN}/user_{'0' * 32}", key=admin), "user.delete", "not_found", {"user_id": f"user_{'0' * 32}"}),
        (lambda: own.delete(f"{ADMIN}/ann@corp.example", key=admin), "user.delete", "not_found", {"user_id": None}),
        (lambda: own.post(f"{ADMIN}", {"email": "bob@refused.example", "name": "x"}, key=admin), "user.create", "email_taken", {}),
        (lambda: own.post(f"{ADMIN}", {"email": "broken"}, key=admin), "user.create", "missing_required_parameter", {}),
        (lambda: own.post("/auth/exchange", {"code": "wrong-code"}), "session.begin", "invalid_code", {"how": "exchange"}),
        (lambda: own.get("/auth/google/callback?state=wrong&code=c"), "session.begin", "oauth_state_invalid", {"how": "google"}),
        (lambda: own.post("/auth/refresh", {"refresh_token": "a.b.c"}), "session.refresh", "malformed_token", {}),
        (lambda: own.get("/api/v1/models", key="sk-jan-" + "A" * 43), "credential.refused", "invalid_api_key", {}),
        (lambda: own.get("/api/v1/models", {"Authorization": f"Basic {admin}"}), "credential.refused", "unsupported_auth_scheme", {}),
        (lambda: own.post("/api/v1/admin/import", b"no export", NDJSON, key=admin), "import", "invalid_export", {}),
        (lambda: own.get(f"/api/v1/admin/export?user=user_{'0' * 32}", key=admin), "export", "not_found", {}),
    ]:  # fmt: skip
        answer = call()
        assert 400 <= answer.status < 500, (action, answer)
        if "actor" in fields:
            fields = {"actor": {"user_id": bob, "key_id": key["id"], "session_id": None}}
        record = newest(own, action, outcome="refused", code=answer.error["code"], **fields)
        assert record["status"] == answer.status and record["address"] == "127.0.0.1", record
    # A token that was used before is of a session that is known.
    tokens = own.new_session(bob)
    session = newest(own, "session.begin", user_id=bob)["target"]
    refresh = {"refresh_token": tokens["refresh_token"]}
    for _ in range(2):
        newer = own.post("/auth/refresh", refresh)
        assert newer.status == 200
        refresh = {"refresh_token": newer.json()["refresh_token"]}
    reused = own.post("/auth/refresh", {"refresh_token": tokens["refresh_token"]})
    assert (reused.status, reused.error["code"]) == (401, "token_reused")
    newest(own, "token.reused", outcome="refused", user_id=bob, target=session)
    # Whoever shows nothing, or reads, is no event.
    before = len(listed(own))
    assert own.get("/api/v1/user/profile").status == 401 and own.get(f"{ADMIN}/{bob}", key=admin).status == 200
    assert own.get("/nothing").status == 404
    time.sleep(0.1)
    assert len(listed(own)) == before


def test_a_client_that_hangs_up_hides_nothing(own):
    bob = own.new_user("hangs@up.example")
    body = json.dumps({"name": "hidden", "permissions": ["read"]})
    head = f"POST {ADMIN}/{bob}/api-keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {own.admin_key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

    def hang_up(text, after):
        connection = own.connect()
        connection.sendall(text.encode())
        time.sleep(after)
        connection.close()

    def recorded():
        records = listed(own, user_id=bob, action="key.create")
        return sum(record["count"] for record in records if record["outcome"] in ("ok", "unknown"))

    # Wherever the server is with it: some are not even begun, and what is made is recorded.
    for number in range(8):
        hang_up(head + body, number / 1000)
    hang_up(head + body, 0.1)
    made = lambda: own.get(f"{ADMIN}/{bob}/api-keys", key=own.admin_key).json()["data"]  # noqa: E731
    wait_until(made, "one of them at least is made", 5)
    time.sleep(0.2)
    assert 0 < len(made()) <= recorded()
    # Half a request is an attempt, too.
    before = len(listed(own, user_id=bob))
    hang_up(head + body[:-1], 0.1)
    wait_until(lambda: len(listed(own, user_id=bob)) > before, "a record of the attempt", 5)


def test_the_log_is_for_administrators_and_its_queries_are_checked(own):
    bob = own.new_user("asks@log.example")
    key = own.new_key(bob, ["read", "write", "keys"])
    assert own.get(AUDIT).status == 401
    refused = own.get(AUDIT, key=key["key"])
    assert (refused.status, refused.error["code"]) == (403, "insufficient_permissions")
    assert own.post(AUDIT, {}, key=own.admin_key).status == 405
    for query, param in [
        ("user_id=ann", "user_id"), ("actor=conv_1", "actor"), ("action=nothing", "action"), ("outcome=maybe", "outcome"),
        ("since=now", "since"), ("until=-1", "until"), ("since=2&until=1", "since"), ("after=x", "after"),
        ("limit=0", "limit"), ("limit=501", "limit"),
    ]:  # fmt: skip
        wrong = own.get(f"{AUDIT}?{query}", key=own.admin_key)
        assert (wrong.status, wrong.error["code"], wrong.error["param"]) == (400, "invalid_value", param), (query, wrong)
    assert own.get(f"{AUDIT}?limit=1&limit=2", key=own.admin_key).error["code"] == "invalid_query"

    for number in range(7):
        own.post(KEYS, {"name": str(number), "permissions": ["read"]}, key=key["key"])
    newest(own, "key.create", user_id=bob)
    everything = listed(own, limit=500)
    assert everything == sorted(everything, key=lambda record: record["id"], reverse=True)
    assert listed(own, limit=3, user_id=bob) == listed(own, limit=500, user_id=bob) == [
        record for record in everything if record["user_id"] == bob
    ]
    by_key = listed(own, actor=key["id"])
    assert len(by_key) == 7 and {record["action"] for record in by_key} == {"key.create"}
    assert listed(own, actor=bob) == by_key
    assert {record["action"].split(".")[0] for record in listed(own, action="key")} == {"key"}
    assert {record["outcome"] for record in listed(own, outcome="refused")} == {"refused"}
    at = everything[0]["created_at"]
    assert listed(own, since=at + 1) == [] and len(listed(own, until=at + 1)) == len(everything)
    assert listed(own, since=at, until=at) == []
    half = everything[len(everything) // 2]["created_at"]
    assert len(listed(own, since=half)) + len(listed(own, until=half)) == len(everything)


def restarted(server, folder, **settings):
    server.terminate()
    server.process.wait(60)
    server.close()
    return Server(folder, wait="live", model=False, **settings)


def test_refusals_in_numbers_are_counted(tmp_path):
    server = Server(tmp_path, wait="live", model=False)
    for number in range(300):
        assert server.get("/api/v1/models", key=f"sk-jan-{number:043}").status == 401
    for number in range(40):
        assert server.delete(f"{ADMIN}/user_{number:032}", key=server.admin_key).status == 404
    shown = listed(server, action="credential.refused")
    assert len(shown) == 10 and len(listed(server, action="user.delete")) == 10
    # The rest is one record each, a minute after the first or at the end.
    server = restarted(server, tmp_path)
    shown = listed(server, action="credential.refused")
    assert len(shown) == 11 and sum(record["count"] for record in shown) == 300
    shown = listed(server, action="user.delete")
    assert len(shown) == 11 and sum(record["count"] for record in shown) == 40
    assert [record["user_id"] for record in shown if record["count"] > 1] == [None]
    server.close()


def test_what_was_answered_is_kept_when_the_server_is_killed(tmp_path):
    server = Server(tmp_path, wait="live", model=False)
    admin = server.admin_key
    made = [server.new_user(f"killed{number}@corp.example") for number in range(20)]
    # Not in the change's own sync, but right behind it.
    time.sleep(0.25)
    server.kill()
    server = Server(tmp_path, wait="live", model=False)
    assert [record["user_id"] for record in listed(server, key=admin, action="user.create")] == made[::-1]
    assert len(listed(server, key=admin, action="settings.load")) == 2
    server.close()


def test_the_stream_is_a_private_file_that_can_be_rotated(tmp_path):
    stream = tmp_path / "logs" / "audit.jsonl"
    stream.parent.mkdir()
    config = f'[audit]\nstream = "{stream}"\nretention_days = 0\n'
    server = Server(tmp_path, wait="live", model=False, config=config)

    def actions(path=stream):
        return [json.loads(line)["action"] for line in path.read_text().splitlines()]

    def wait_for(count, path=stream):
        wait_until(lambda: path.exists() and len(actions(path)) >= count, f"{count} lines in {path}", 10)

    wait_for(1)
    assert stream.stat().st_mode & 0o777 == 0o600
    ann = server.new_user()
    wait_for(2)
    stream.rename(stream.with_suffix(".1"))
    key = server.new_key(ann)
    wait_for(1)
    assert actions() == ["key.create"] and actions(stream.with_suffix(".1")) == ["settings.load", "user.create"]
    # Nowhere to write: requests go on, and what is missing is told.
    for file in stream.parent.iterdir():
        file.unlink()
    stream.parent.rmdir()
    for _ in range(3):
        assert server.post(f"{ADMIN}/{ann}/api-keys", {"name": "n", "permissions": ["read"]}, key=server.admin_key).status == 201
    wait_until(lambda: "audit stream" in server.log(), "a warning", 10)
    stream.parent.mkdir()
    assert server.delete(f"{ADMIN}/{ann}/api-keys/{key['id']}", key=server.admin_key).status == 200
    wait_for(2)
    *others, last = [json.loads(line) for line in stream.read_text().splitlines()]
    # The last one or two may have waited until there was a folder again.
    assert [record["action"] for record in others[:1]] == ["audit.lost"] and last["action"] == "key.revoke"
    assert sum(record["count"] for record in others) == 3, others
    assert listed(server) == [], "nothing is kept in the store"
    server.close()


def test_the_stream_can_be_standard_error(tmp_path):
    server = Server(tmp_path, wait="live", model=False, env={"JAN_SERVER__AUDIT__STREAM": "stderr"})
    server.new_user()
    wait_until(lambda: '"action":"user.create"' in server.log(), "the line", 10)
    lines = [line for line in server.log().splitlines() if line.startswith('{"id":"audit_')]
    assert [json.loads(line)["action"] for line in lines] == ["settings.load", "user.create"]
    server.close()


def test_a_stream_that_cannot_be_opened_is_told_at_the_start(tmp_path):
    started = subprocess.run(
        [str(BINARY), "serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")],
        env={"JAN_SERVER__AUDIT__STREAM": str(tmp_path / "no/such/file")}, capture_output=True, timeout=60,
    )  # fmt: skip
    assert started.returncode != 0 and b"audit.stream" in started.stderr, started


def audit_record(created_at, **fields):
    own = f"{int(created_at * 1000):012x}7000" + "8" + f"{time.time_ns() % 16**15:015x}"
    record = {"id": f"audit_{own}", "created_at": int(created_at), "action": "user.create", "outcome": "ok", "count": 1}
    return ("audit", "00" + own, record | fields)


def test_records_are_exported_taken_in_and_grow_old(tmp_path):
    server = Server(tmp_path, wait="live", model=False)
    admin = server.admin_key
    ann = server.new_user()
    first = newest(server, "user.create", user_id=ann)
    old, older = audit_record(time.time() - 5 * 86400), audit_record(time.time() - 91 * 86400)
    import_into(server, export_of([old, older]))
    assert {record["id"] for record in listed(server)} >= {old[2]["id"], older[2]["id"], first["id"]}

    # What is here already is not changed by an import.
    export = server.get("/api/v1/admin/export", key=admin).body
    exported = [json.loads(line) for line in export.splitlines()]
    (mine,) = [line for line in exported if line["kind"] == "audit" and line["value"]["id"] == first["id"]]
    forged = mine["value"] | {"user_id": "user_" + "0" * 32}
    import_into(server, export_of([("audit", mine["key"], forged)], schema=4), query="?restore_revoked=true")
    assert first in listed(server)
    # Nor does one bring anything else in.
    for wrong in ({"action": "Ann did it"}, {"target": "sk-jan-x"}, {"note": "x"}, {"count": 0}, {"fields": ["a b"]}):
        refused = export_of([audit_record(time.time(), **wrong)])
        import_into(server, refused, status=400)
    import_into(server, export_of([audit_record(time.time() + 10 * 86400)]), status=400)

    server = restarted(server, tmp_path)
    wait_until(lambda: older[2]["id"] not in {record["id"] for record in listed(server)}, "what is too old is gone", 10)
    assert {record["id"] for record in listed(server)} >= {old[2]["id"], first["id"]}
    server = restarted(server, tmp_path, env={"JAN_SERVER__AUDIT__RETENTION_DAYS": "1"})
    wait_until(lambda: old[2]["id"] not in {record["id"] for record in listed(server)}, "what is too old is gone", 10)
    assert first in listed(server)
    server.terminate()
    server.process.wait(60)
    server.close()
    export = subprocess.run([str(BINARY), "export", "--data-dir", str(server.data)], capture_output=True, timeout=60,
                            env=os.environ | postgres.settings(server.data))
    kinds = re.findall(rb'^{"kind":"(\w+)"', export.stdout, re.M)
    assert kinds.count(b"audit") >= 2


def test_the_number_of_records_is_bounded_by_what_they_are(tmp_path):
    server = Server(tmp_path, wait="live", model=False, env={"JAN_SERVER__AUDIT__MAX_RECORDS": "20"})
    ann = server.new_user()
    newest(server, "user.create")
    time.sleep(0.3)
    # What anybody can cause does not push out what was done.
    for code in range(40):
        server.delete(f"{ADMIN}/user_{code:032}", key=server.admin_key)
        server.get("/api/v1/models", key="x" * code + "y")
    assert len(listed(server, action="user.create")) == 1
    keys = [server.new_key(ann)["id"] for _ in range(25)]
    newest(server, "key.create", target=keys[-1])
    kept = listed(server)
    assert len(kept) <= 20
    done = [record["target"] for record in kept if record["outcome"] == "ok"]
    # What came while they were counted at the start may be counted twice.
    assert 7 <= len(done) <= 10 and done == keys[: -len(done) - 1 : -1], "the newest ten"
    server.close()
