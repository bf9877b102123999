"""A store that is not what it should be is refused with what to do, and an older one is brought up to date."""

import json
import pathlib
import shutil
import subprocess

import pytest
from harness import BINARY, ROOT, Server

FIXTURES = ROOT / "fixtures/stores"


def refusal(data):
    """What a start over that data folder says before it gives up."""
    done = subprocess.run(
        [str(BINARY), "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data)],
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.returncode == 1, done
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return message


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The data folder of a server that stopped, with some hundred users."""
    server = Server(tmp_path_factory.mktemp("stopped"), wait="live")
    for number in range(300):
        server.new_user(f"user{number}@example.com", "x" * 200)
    server.terminate()
    assert server.process.wait(60) == 0
    server.close()
    return server.data


@pytest.fixture
def data(stopped, tmp_path):
    return pathlib.Path(shutil.copytree(stopped, tmp_path / "data"))


def test_a_copy_of_the_whole_folder_is_fine(data):
    server = Server(data.parent, wait="live")
    assert len(server.get("/api/v1/admin/users?limit=100", key=server.admin_key).json()["data"]) == 100
    server.close()


@pytest.mark.parametrize("part", [0, 0.02, 0.25, 0.5, 0.75, 0.97])
def test_a_truncated_database_is_refused(data, part):
    file = data / "db/db"
    length = file.stat().st_size
    with file.open("r+b") as database:
        database.truncate(int(length * part))
    message = refusal(data)
    assert "estore" in message and "backup" in message, message
    # Nothing was made of it, and it is refused again.
    assert refusal(data)


@pytest.mark.parametrize("part", [0.25, 0.5, 0.9])
def test_so_is_one_that_lost_its_end_after_a_kill(tmp_path, part):
    server = Server(tmp_path, wait="live")
    for number in range(100):
        server.new_user(f"user{number}@example.com", "x" * 200)
    server.kill()
    file = server.data / "db/db"
    with file.open("r+b") as database:
        database.truncate(int(file.stat().st_size * part))
    message = refusal(server.data)
    assert "estore" in message and "backup" in message, message


def test_an_older_copy_of_the_database_is_refused_unless_wanted(tmp_path):
    server = Server(tmp_path, wait="live")
    server.terminate()
    server.process.wait(60)
    server.close()
    shutil.copytree(server.data / "db", tmp_path / "older")
    server = Server(tmp_path, wait="live")
    user = server.new_user()
    server.kill()
    shutil.rmtree(server.data / "db")
    shutil.copytree(tmp_path / "older", server.data / "db")
    message = refusal(server.data)
    assert "lost what was stored last" in message and "store.commit" in message
    # As it says.
    (server.data / "store.commit").unlink()
    server = Server(tmp_path, wait="live")
    assert server.get(f"/api/v1/admin/users/{user}", key=server.admin_key).status == 404
    server.close()


def test_a_foreign_database_is_refused(data, tmp_path):
    other = Server(tmp_path / "other", wait="live")
    other.terminate()
    other.process.wait(60)
    other.close()
    shutil.rmtree(data / "db")
    shutil.copytree(other.data / "db", data / "db")
    assert "not the one that belongs here" in refusal(data)
    shutil.rmtree(data / "db")
    assert "not there" in refusal(data)
    (data / "db").mkdir()
    (data / "db/db").write_bytes(b"This is no database. " * 1000)
    message = refusal(data)
    assert "estore" in message and "backup" in message, message


def test_a_newer_database_is_refused(data):
    # The only way to one is a newer program; its schema number is in the one place where this one's is.
    newer = FIXTURES / "newer"
    shutil.rmtree(data / "db")
    shutil.copytree(newer / "db", data / "db")
    shutil.copy(newer / "store.id", data / "store.id")
    (data / "store.commit").unlink()
    message = refusal(data)
    assert "newer version" in message and "schema 99" in message


def test_one_server_at_a_time(tmp_path):
    server = Server(tmp_path, wait="live")
    message = refusal(server.data)
    assert "in use by another process" in message and "--data-dir" in message
    server.new_user()
    server.close()


def test_a_store_of_schema_1_is_brought_up_to_date(tmp_path):
    shutil.copytree(FIXTURES / "v1", tmp_path / "data")
    known = json.loads((FIXTURES / "v1/known.json").read_text())

    def look(server):
        admin = known["admin_key"]
        assert server.admin_key == admin
        assert server.get(f"/api/v1/admin/users/{known['bob']}", key=admin).json()["name"] == "Bob"
        profile = server.get("/api/v1/user/profile", key=known["ann_key"]["key"])
        assert profile.json()["id"] == known["ann"]
        assert server.patch("/api/v1/user/profile", {"name": "x"}, key=known["bob_key"]["key"]).status == 403
        ours = server.get("/api/v1/user/api-keys", key=known["ann_key"]["key"]).json()["data"]
        assert known["ann_key"]["id"] in [key["id"] for key in ours]

    server = Server(tmp_path)
    assert "another schema" in server.log()
    look(server)
    assert server.chat(key=known["ann_key"]["key"]).status == 200
    server.kill()
    server = Server(tmp_path, wait="live")
    assert "another schema" not in server.log(), "once"
    look(server)
    assert server.get("/api/v1/usage", key=known["ann_key"]["key"]).json()["data"] != []
    export = server.get("/api/v1/admin/export", key=known["admin_key"]).body
    assert json.loads(export.splitlines()[0])["schema"] >= 2
    server.close()


def test_a_snapshot_that_was_cut_off_does_no_harm(tmp_path):
    """A process that is killed while the database is opened leaves one behind."""
    server = Server(tmp_path, wait="live")
    key = server.new_key(server.new_user())
    server.kill()
    leftover = tmp_path / "data/db/snap.7FFFFFFFFFFFFFFF.generating"
    leftover.write_bytes(b"")
    server = Server(tmp_path, wait="live")
    assert server.get("/api/v1/user/profile", key=key["key"]).status == 200
    assert not leftover.exists()
    server.close()


def test_a_migration_that_was_cut_off_is_done_again(tmp_path):
    shutil.copytree(FIXTURES / "v1", tmp_path / "data")
    known = json.loads((FIXTURES / "v1/known.json").read_text())
    for wait in (0.0, 0.005, 0.01, 0.02, 0.05, 0.1):
        process = subprocess.Popen(
            [str(BINARY), "serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait(30)
    server = Server(tmp_path, wait="live")
    assert server.get("/api/v1/user/profile", key=known["ann_key"]["key"]).json()["id"] == known["ann"]
    server.close()
