"""A worker reads what strangers write: what it holds and may do, should one of them get hold of it."""

import pathlib

import pytest
from harness import Server

SECRETS = {
    "JAN_SERVER__AUTH__GOOGLE__CLIENT_SECRET": "the-sign-in-secret",
    "JAN_SERVER__WEB_SEARCH__API_KEY": "the-search-secret",
    "AWS_SECRET_ACCESS_KEY": "the-cloud-secret",
    "NVIDIA_API_KEY": "the-catalogue-secret",
    "DATABASE_URL": "postgres://name:the-database-secret@host/",
}
PASSED = {"LD_LIBRARY_PATH": "/nowhere/lib", "CUDA_VISIBLE_DEVICES": "7", "OMP_NUM_THREADS": "3", "LC_ALL": "C"}
CONFIG = "[worker]\nenvironment = ['JAN_TEST_NAMED', 'NOT_THERE']\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    own = Server(
        tmp_path_factory.mktemp("worker"), env=SECRETS | PASSED | {"JAN_TEST_NAMED": "named"}, config=CONFIG
    )
    yield own
    own.close()


def environment(pid):
    pairs = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def test_a_worker_has_no_secret_of_the_server(running):
    assert SECRETS.items() <= environment(running.pid).items()
    held = environment(running.worker())
    assert not [name for name, value in held.items() if "secret" in value or name in SECRETS], held
    assert not [name for name in held if name.startswith("JAN_SERVER")], held
    assert "PATH" not in held
    assert PASSED.items() <= held.items()
    assert held["JAN_TEST_NAMED"] == "named" and "NOT_THERE" not in held
