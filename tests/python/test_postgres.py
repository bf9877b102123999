"""Servers on one PostgreSQL database: what one changes holds on the others, and the database may go away and come back."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import postgres
import pytest
from harness import BINARY, Server, wait_until

#: Credentials and revocations hold everywhere within this (seconds).
EVERYWHERE = 1.0


@pytest.fixture(scope="module")
def cluster():
    """One that waits for the disk."""
    one = postgres.Cluster("wal_writer_delay = 10s")
    yield one
    one.close()


def settings(cluster, schema, **more):
    of_pool = cluster.bounced() if postgres.KIND == "pgbouncer" else cluster.folder
    return {
        "JAN_SERVER__STORAGE__KIND": "postgres",
        "JAN_SERVER__STORAGE__URL": postgres.url(of_pool),
        "JAN_SERVER__STORAGE__DIRECT_URL": postgres.url(cluster.folder),
        "JAN_SERVER__STORAGE__SCHEMA": schema,
        "JAN_SERVER__STORAGE__STATEMENT_TIMEOUT_MS": "3000",
        "JAN_SERVER__STORAGE__ALLOW_UNSAFE_DURABILITY": "false",
        "JAN_SERVER__STORAGE__SHARED": "true",
    } | more


@pytest.fixture
def servers(cluster, tmp_path, request):
    """Two servers on one database, started one after the other."""
    schema = "t" + str(abs(hash(request.node.name)) % 10**9)
    started = []
    (tmp_path / "key").write_bytes(os.urandom(32))
    shared = settings(cluster, schema, JAN_SERVER__STORAGE__KEY_FILE=str(tmp_path / "key"))
    for name in ("one", "two"):
        started.append(Server(tmp_path / name, wait="live", model=False, env=shared))
    yield started
    for one in started:
        one.close()


def profile(server, key):
    return server.get("/api/v1/user/profile", key=key).status


def listed(server, key):
    """An answer that needs a credential, and nothing of the database."""
    return server.get("/api/v1/models", key=key)


def becomes(server, key, status, what):
    """Waits until a key gets that status, and returns how long that took."""
    begun = time.monotonic()
    wait_until(lambda: profile(server, key) == status, what, EVERYWHERE, every=0.01)
    return time.monotonic() - begun


def test_credentials_and_revocations_hold_everywhere(servers):
    one, two = servers
    admin = one.admin_key
    assert profile(two, admin) == 200 and not (two.data / "admin.key").exists(), "it was made once"
    took = []
    for number in range(8):
        here, there = (one, two) if number % 2 == 0 else (two, one)
        made = here.post("/api/v1/admin/users", {"email": f"{number}@example.com", "name": "Ann"}, key=admin)
        user = made.json()["id"]
        body = {"name": "test", "permissions": ["read", "write"]}
        key = here.post(f"/api/v1/admin/users/{user}/api-keys", body, key=admin).json()
        took.append(becomes(there, key["key"], 200, "the key is accepted"))
        if number < 4:
            assert here.delete(f"/api/v1/admin/users/{user}/api-keys/{key['id']}", key=admin).status == 200
        elif number < 6:
            assert here.patch(f"/api/v1/admin/users/{user}", {"disabled": True}, key=admin).status == 200
        else:
            assert here.delete(f"/api/v1/admin/users/{user}", key=admin).status == 200
        assert profile(here, key["key"]) == 401, "at once where it was changed"
        took.append(becomes(there, key["key"], 401, "the key is refused"))
    print(f"from server to server: {1000 * max(took):.0f} ms at most, {1000 * sum(took) / len(took):.0f} on average")


def test_sessions_hold_everywhere_also_after_a_rotation(servers, cluster):
    one, two = servers
    user = one.new_user("ann@example.com")
    admin = one.admin_key

    def kids(server):
        return {file.stem.split("-", 1)[1] for file in (server.data / "keys").iterdir()}

    def session(server):
        made = server.post(f"/api/v1/admin/users/{user}/sessions", key=admin)
        assert made.status == 201, made
        return made.json()["access_token"]

    wait_until(lambda: kids(one) == kids(two), "they have the same keys", 5)
    for _ in range(2):
        for here, there in ((one, two), (two, one)):
            token = session(here)
            wait_until(lambda: profile(there, token) == 200, "the token is accepted", 5)
        before = kids(one)
        rotated = subprocess.run([str(BINARY), "keys", "rotate", "--data-dir", str(two.data)], capture_output=True, timeout=60)
        assert rotated.returncode == 0, rotated
        wait_until(lambda: kids(one) == kids(two) > before, "the new key is everywhere", 5)
    # The database has them, and cannot read them.
    secrets = f"{schema_of(one)}.secrets"
    assert cluster.sql(f"SELECT count(*) FROM {secrets}") == str(len(kids(one)))
    assert cluster.sql(f"SELECT count(*) FROM {secrets} WHERE position('private'::bytea IN sealed) > 0") == "0"


def test_data_is_the_same_everywhere(servers):
    one, two = servers
    key = one.new_key(one.new_user("ann@example.com"))["key"]
    becomes(two, key, 200, "the key is accepted")
    made = one.post("/api/v1/conversations", {"title": "On one"}, key=key).json()["id"]
    items = {"items": [{"role": "user", "content": "Said on two"}]}
    assert two.post(f"/api/v1/conversations/{made}/items", items, key=key).status == 200
    assert "Said on two" in one.get(f"/api/v1/conversations/{made}/items", key=key).body.decode()
    # Both append to one conversation at once; nothing is lost.
    for number in range(20):
        for server in servers:
            item = {"items": [{"role": "user", "content": f"{number}"}]}
            assert server.post(f"/api/v1/conversations/{made}/items", item, key=key).status == 200
    listed = two.get(f"/api/v1/conversations/{made}/items?limit=100", key=key).json()["data"]
    assert len(listed) == 41
    assert two.delete(f"/api/v1/conversations/{made}", key=key).status == 200
    assert one.get(f"/api/v1/conversations/{made}", key=key).status == 404


@pytest.mark.parametrize("how", ["crash", "stand still"])
def test_database_may_go_away_and_come_back(servers, cluster, how):
    one, two = servers
    key = one.new_key(one.new_user("ann@example.com"))["key"]
    becomes(two, key, 200, "the key is accepted")
    made = [one.post("/api/v1/conversations", {"title": f"{n}"}, key=key).json()["id"] for n in range(5)]
    if how == "crash":
        cluster.stop("QUIT")
    else:
        stopped = subprocess.run(["pgrep", "-P", str(cluster.process.pid)], capture_output=True, text=True, timeout=30)
        stopped = [int(pid) for pid in stopped.stdout.split()] + [cluster.process.pid]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        for server in servers:
            # At first as before, and then no more: a revocation could not arrive.
            wait_until(lambda: listed(server, key).status == 503, "no credential is accepted", 10, every=0.05)
            refused = listed(server, key)
            assert refused.error["code"] == "storage_unavailable" and refused.headers["Retry-After"], refused
            assert server.get("/livez").status == 200
        assert time.monotonic() - began > 1, "it held for a while"
    finally:
        if how == "crash":
            cluster.start()
        else:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    for server in servers:
        wait_until(lambda: profile(server, key) == 200, "it comes back by itself", 30, every=0.1)
        wait_until(
            lambda: server.post("/api/v1/conversations", {"title": "again"}, key=key).status == 201, "changes work", 30
        )
        for conversation in made:
            assert server.get(f"/api/v1/conversations/{conversation}", key=key).status == 200, "it was acknowledged"


def test_kill_and_start_again(servers, cluster):
    one, two = servers
    key = one.new_key(one.new_user("ann@example.com"))["key"]
    admin = one.admin_key
    one.kill()
    becomes(two, key, 200, "the key is accepted")
    again = Server(one.data.parent, wait="live", model=False, env=settings(cluster, schema_of(two)))
    assert profile(again, admin) == 200 and profile(again, key) == 200
    again.close()


def schema_of(server):
    """The schema in the environment of a running server."""
    with open(f"/proc/{server.pid}/environ", "rb") as file:
        variables = dict(line.split(b"=", 1) for line in file.read().split(b"\0") if b"=" in line)
    return variables[b"JAN_SERVER__STORAGE__SCHEMA"].decode()


def refusal(tmp_path, **environment):
    """What a server says that does not start."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("JAN_SERVER_")} | environment
    tmp_path.mkdir(exist_ok=True)
    command = [str(BINARY), "serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, env=variables, capture_output=True, timeout=60, cwd=tmp_path)
    assert done.returncode != 0, done
    return (done.stderr + done.stdout).decode()


@pytest.mark.parametrize("synchronous", [True, False])
def test_failover(tmp_path, synchronous):
    """Nothing acknowledged is lost on a synchronous standby; on one that was behind, the server notices and changes nothing."""
    primary = postgres.Cluster()
    standby = postgres.Cluster(of=primary)
    wait_until(lambda: primary.sql("SELECT count(*) FROM pg_stat_replication") == "1", "the standby follows")
    if synchronous:
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.sql("SELECT pg_reload_conf()")
        wait_until(lambda: primary.sql("SELECT sync_state FROM pg_stat_replication") == "sync", "it is synchronous")
    both = postgres.url(primary.folder, standby.folder)
    one = settings(primary, "jan") | {"JAN_SERVER__STORAGE__URL": both, "JAN_SERVER__STORAGE__DIRECT_URL": both}
    server = Server(tmp_path, wait="live", model=False, env=one)
    key = server.new_key(server.new_user("ann@example.com"))["key"]

    def create():
        return server.post("/api/v1/conversations", {"title": "x"}, key=key)

    acknowledged, ended = [], threading.Event()

    def write():
        while not ended.is_set():
            with contextlib.suppress(OSError):
                made = create()
                if made.status == 201:
                    acknowledged.append(made.json()["id"])

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    wait_until(lambda: len(acknowledged) > 30, "some are acknowledged")
    if not synchronous:
        standby.stop()
        more = len(acknowledged) + 30
        wait_until(lambda: len(acknowledged) > more, "some that the standby does not have")
    primary.stop("QUIT")
    if not synchronous:
        standby.start()
    standby.sql("SELECT pg_promote()")
    try:
        if synchronous:
            before = len(acknowledged)
            wait_until(lambda: len(acknowledged) > before + 10, "it goes on at the new primary", 30)
        else:
            wait_until(lambda: "has lost what was stored last" in server.log(), "it notices", 30)
            assert create().status == 503
    finally:
        ended.set()
        for writer in writers:
            writer.join(60)
    if synchronous:
        for conversation in acknowledged:
            assert server.get(f"/api/v1/conversations/{conversation}", key=key).status == 200, "it was acknowledged"
    else:
        # To go on without what is gone is for an operator to decide.
        assert create().status == 503
        (server.data / "postgres.commit").unlink()
        wait_until(lambda: create().status == 201, "it goes on", 30)
    server.close()
    primary.close()
    standby.close()


def test_a_second_server_is_refused_unless_told(servers, cluster, tmp_path):
    alone = settings(cluster, schema_of(servers[0]), JAN_SERVER__STORAGE__SHARED="false")
    refused = refusal(tmp_path / "three", **alone)
    assert "2 other server(s)" in refused and "storage.shared" in refused, refused


def test_a_database_that_loses_data_is_refused(tmp_path):
    refused = refusal(tmp_path, **settings(postgres.shared(), "unsafe"))
    assert "fsync is off" in refused and "storage.allow_unsafe_durability" in refused, refused


def test_wrong_urls_are_explained_and_show_no_password(tmp_path, cluster):
    url = "JAN_SERVER__STORAGE__URL"
    for value, said in [
        ("postgres://jan:hunter2@127.0.0.1:22999/jan", "cannot connect to 127.0.0.1:22999/jan"),
        ("postgres://jan:hunter2@db.example/jan?sslmode=prefer", "sslmode=prefer"),
        ("mysql://jan:hunter2@db/jan", "no PostgreSQL URL"),
        (f"postgres://jan:hunter2@/nowhere?host={cluster.folder}", 'database "nowhere" does not exist'),
    ]:
        one = settings(cluster, "jan") | {url: value, "JAN_SERVER__STORAGE__DIRECT_URL": value}
        refused = refusal(tmp_path, **one)
        assert said in refused and "hunter2" not in refused, refused
    masked = subprocess.run([str(BINARY), "config"], env=os.environ | settings(cluster, "jan") | {url: value},
                            capture_output=True, timeout=60, text=True, cwd=tmp_path)
    assert masked.returncode == 0 and "hunter2" not in masked.stdout and 'url = "***"' in masked.stdout, masked


def certificates(folder):
    """A root that signed a certificate of `localhost`, and another root."""
    def openssl(*args):
        done = subprocess.run(["openssl", *map(str, args)], capture_output=True, timeout=60, cwd=folder)
        assert done.returncode == 0, done

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("root", "other"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}",
                "-addext", "basicConstraints=critical,CA:TRUE")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "server.pem")


def test_tls_verifies_the_host(tmp_path):
    certificates(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def prepare(cluster):
        for name in ("server.pem", "server.key"):
            shutil.copy(tmp_path / name, cluster.data / name)
            (cluster.data / name).chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(cluster.data / name, postgres.NOBODY, postgres.NOBODY)
        # Over TCP with TLS and a password alone.
        (cluster.data / "pg_hba.conf").write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")

    cluster = postgres.Cluster(
        "listen_addresses = '127.0.0.1'", f"port = {port}", "ssl = on", "ssl_cert_file = 'server.pem'",
        "ssl_key_file = 'server.key'", prepare=prepare, port=port,
    )
    cluster.sql("ALTER ROLE jan PASSWORD 'hunter2'")

    def migrate(host, parameters, password="hunter2"):
        url = f"postgres://jan:{password}@{host}:{port}/postgres?{parameters}"
        environment = os.environ | settings(cluster, "jan") | {
            "JAN_SERVER__STORAGE__URL": url, "JAN_SERVER__STORAGE__DIRECT_URL": url
        }
        done = subprocess.run([str(BINARY), "migrate"], env=environment, capture_output=True, timeout=60, text=True)
        assert "hunter2" not in done.stderr and "wrong2" not in done.stderr, done
        return done.returncode, done.stdout + done.stderr

    root, other = (f"sslmode=verify-full&sslrootcert={tmp_path / name}" for name in ("root.pem", "other.pem"))
    assert migrate("localhost", root) == (0, "applied: migration 1, tables\n")
    for host, parameters, password, said in [
        ("127.0.0.1", root, "hunter2", "certificate"),
        ("localhost", other, "hunter2", "certificate"),
        ("localhost", "sslmode=verify-full", "hunter2", "certificate"),
        ("localhost", "sslmode=disable", "hunter2", "no pg_hba.conf entry"),
        ("localhost", f"sslmode=verify-full&sslrootcert={tmp_path}/nowhere", "hunter2", "sslrootcert"),
        ("localhost", root, "wrong2", "password authentication failed"),
    ]:
        status, text = migrate(host, parameters, password)
        assert status == 1 and said in text, (host, parameters, text)
    cluster.close()


def test_migrations_can_be_looked_at_first(tmp_path, cluster):
    def migrate(*args):
        environment = os.environ | settings(cluster, "looked_at")
        done = subprocess.run([str(BINARY), "migrate", *args], env=environment, capture_output=True, timeout=60, text=True)
        assert done.returncode == 0, done
        return done.stdout

    for _ in range(2):
        assert migrate("--dry-run") == "missing: migration 1, tables\n"
    assert cluster.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'looked_at'") == "0"
    assert migrate() == "applied: migration 1, tables\n"
    assert migrate() == migrate("--dry-run") == "up to date: migration 1 of schema looked_at\n"


def test_a_store_moves_from_one_kind_to_the_other_and_back(tmp_path, cluster):
    """All that is kept, by count and by content; nothing of it depends on the kind of store."""
    sled = {"JAN_SERVER__STORAGE__KIND": "sled"}
    server = Server(tmp_path / "from", wait="live", model=False, env=sled)
    for number in range(20):
        user = server.new_user(f"{number}@example.com")
        key = server.new_key(user)["key"]
        server.new_session(user)
        made = server.post("/api/v1/conversations", {"title": f"Title {number} 🦀"}, key=key).json()["id"]
        large = "Größe 🦀 \0 " * (20_000 if number % 5 == 0 else 3)
        items = {"items": [{"role": "user", "content": text} for text in ("small", large)]}
        assert server.post(f"/api/v1/conversations/{made}/items", items, key=key).status == 200
        if number % 4 == 0:
            assert server.post(f"/api/v1/conversations/{made}/share", key=key).status in (200, 201)
    server.terminate()
    server.process.wait(60)
    server.close()

    def run(kind, data, *args, **more):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAN_SERVER_")} | kind
        command = [str(BINARY), args[0], "--data-dir", str(data), *args[1:]]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=120, **more)
        assert done.returncode == 0, done
        return done.stdout

    there = settings(cluster, "moved")
    first = run(sled, server.data, "export")
    run(there, tmp_path / "there", "import", input=first)
    second = run(there, tmp_path / "there", "export")
    run(sled, tmp_path / "back", "import", input=second)
    third = run(sled, tmp_path / "back", "export")

    def records(export):
        lines = [json.loads(line) for line in export.splitlines()]
        return lines[-1]["records"], lines[1:-1]

    counts, lines = records(first)
    assert (counts["conversation"], counts["item"], counts["key"]) == (20, 40, 21)
    assert records(second) == (counts, lines) and records(third) == (counts, lines)
    # A server on it shows what the one before showed.
    moved = Server(tmp_path / "moved", wait="live", model=False, env=there)
    listed = moved.get("/api/v1/conversations", key=key).json()["data"]
    assert [one["title"] for one in listed] == ["Title 19 🦀"]
    moved.close()
