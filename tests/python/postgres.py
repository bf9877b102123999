"""A throw-away PostgreSQL server for whole servers under test: JAN_TEST_STORAGE=postgres runs the suite on it.

It listens on a Unix socket in a temporary folder, as a user that is not root, and ends with this process. Each data folder has a
schema of its own there. JAN_TEST_STORAGE=pgbouncer puts pgbouncer in transaction mode in between.
"""

import atexit
import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.parse

KIND = os.environ.get("JAN_TEST_STORAGE") or "sled"
assert KIND in ("sled", "postgres", "pgbouncer"), f"JAN_TEST_STORAGE is {KIND!r}, not sled, postgres or pgbouncer"


def programs():
    """The folder of PostgreSQL's programs."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    assert initdb, "these tests need a PostgreSQL server; `make setup-test` installs it"
    return pathlib.Path(initdb).parent


# Nobody and nobody's group, whose name differs between systems.
NOBODY = 65534


def unprivileged(*command):
    """A command as a user that PostgreSQL accepts."""
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"] if os.geteuid() == 0 else []
    return [*as_nobody, *map(str, command)]


class Cluster:
    """One PostgreSQL server. Its log and its socket are in `folder`."""

    def __init__(self, *settings, prepare=None, port=5432, of=None):
        """`prepare` is called with it before it starts for the first time. `of`: it is a standby of that one."""
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="jan-pg-", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self.folder, NOBODY, NOBODY)
        self.data = self.folder / "data"
        self.port = port
        options = ["--auth=trust", "--username=jan", "--encoding=UTF8", "--locale=C", "--no-sync"]
        command = [programs() / "initdb", *options, "-D", self.data]
        if of:
            command = [programs() / "pg_basebackup", "-h", of.folder, "-U", "jan", "-R", "-c", "fast", "-D", self.data]
        made = subprocess.run(unprivileged(*command), capture_output=True, cwd="/", timeout=120)
        assert made.returncode == 0, made
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\nmax_connections = 300\n")
            file.write("".join(f"{setting}\n" for setting in settings))
        self.process = None
        self.bouncer = None
        if prepare:
            prepare(self)
        self.start()
        atexit.register(self.close)

    def start(self):
        """Starts it, or starts it again, and waits until it answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                unprivileged(programs() / "postgres", "-D", self.data), stdout=log, stderr=log, cwd="/"
            )
        end = time.monotonic() + 60
        ready = [str(programs() / "pg_isready"), "--quiet", "-h", str(self.folder), "-p", str(self.port), "-U", "jan", "-d", "postgres"]
        while subprocess.run(ready, timeout=60).returncode != 0:
            assert time.monotonic() < end and self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, how="INT"):
        """Ends it: INT cuts all connections, QUIT is a crash, after which it recovers from its log."""
        # Through the keeper of the process, which may be another user's.
        self.process.send_signal({"INT": 2, "QUIT": 3, "TERM": 15}[how])
        self.process.wait(60)

    def sql(self, statements):
        """The rows of statements, as lines with tabs."""
        command = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-p", self.port, "-U", "jan", "-d", "postgres"]
        done = subprocess.run([*map(str, command), "-c", statements], capture_output=True, timeout=60, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def bounced(self):
        """The folder of a pgbouncer's socket in front of it, in transaction mode."""
        if self.bouncer is None:
            folder = self.folder / "bouncer"
            folder.mkdir(exist_ok=True)
            (folder / "users").write_text('"jan" ""\n')
            (folder / "bouncer.ini").write_text(
                f"[databases]\npostgres = host={self.folder} dbname=postgres user=jan\n[pgbouncer]\nlisten_addr =\n"
                f"unix_socket_dir = {folder}\nlisten_port = 5432\nauth_type = any\nauth_file = {folder}/users\n"
                f"pool_mode = transaction\ndefault_pool_size = 40\nmax_client_conn = 1000\nlogfile = {folder}/log\n"
                f"pidfile = {folder}/pid\n"
            )
            if os.geteuid() == 0:
                for path in (folder, folder / "users", folder / "bouncer.ini"):
                    shutil.chown(path, NOBODY, NOBODY)
            program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
            assert pathlib.Path(program).exists(), "these tests need pgbouncer; `make setup-test` installs it"
            self.bouncer = subprocess.Popen(
                unprivileged(program, "-q", folder / "bouncer.ini"), stderr=subprocess.DEVNULL, cwd="/"
            )
            end = time.monotonic() + 30
            while not (folder / ".s.PGSQL.5432").exists():
                assert time.monotonic() < end and self.bouncer.poll() is None, "pgbouncer does not start"
                time.sleep(0.05)
        return self.folder / "bouncer"

    def close(self):
        """Ends it and removes everything."""
        for process in (self.bouncer, self.process):
            if process is not None and process.poll() is None:
                process.send_signal(2)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


_shared = []


def shared():
    """The cluster of this process. It keeps nothing, so it need not wait for the disk."""
    if not _shared:
        _shared.append(Cluster("fsync = off", "autovacuum = on"))
    return _shared[0]


def url(*folders):
    hosts = ",".join(urllib.parse.quote(str(folder), safe="") for folder in folders)
    return f"postgres://jan@{hosts}/postgres"


def settings(data, cluster=None):
    """The variables of a server, or of a command, with that data folder."""
    if KIND == "sled" and cluster is None:
        return {}
    cluster = cluster or shared()
    schema = "s" + hashlib.sha256(str(pathlib.Path(data).resolve()).encode()).hexdigest()[:16]
    of_pool = cluster.bounced() if KIND == "pgbouncer" else cluster.folder
    return {
        "JAN_SERVER__STORAGE__KIND": "postgres",
        "JAN_SERVER__STORAGE__URL": url(of_pool),
        "JAN_SERVER__STORAGE__DIRECT_URL": url(cluster.folder),
        "JAN_SERVER__STORAGE__SCHEMA": schema,
        "JAN_SERVER__STORAGE__ALLOW_UNSAFE_DURABILITY": "true",
    }
