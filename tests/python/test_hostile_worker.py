"""A worker reads what strangers write: what it holds and may do, should one of them get hold of it."""

import ctypes
import os
import pathlib
import platform
import signal
import sys

import pytest
from harness import BINARY, BUNDLED, MODEL, Server, children, wait_until

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
        tmp_path_factory.mktemp("worker"), "--model", f"elsewhere={BUNDLED}", env=SECRETS | PASSED | {"JAN_TEST_NAMED": "named"}, config=CONFIG
    )
    yield own
    own.close()


def environment(pid):
    pairs = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def test_a_worker_has_no_secret_of_the_server(running):
    assert SECRETS.items() <= environment(running.pid).items()
    held = environment(running.workers()[0])
    assert not [name for name, value in held.items() if "secret" in value or name in SECRETS], held
    assert not [name for name in held if name.startswith("JAN_SERVER")], held
    assert "PATH" not in held
    assert PASSED.items() <= held.items()
    assert held["JAN_TEST_NAMED"] == "named" and "NOT_THERE" not in held


#: What a confined process keeps of a superuser's capabilities: DAC_OVERRIDE, DAC_READ_SEARCH, IPC_LOCK, SYS_NICE.
KEPT = 1 << 1 | 1 << 2 | 1 << 14 | 1 << 23
LANDLOCK_CREATE_RULESET = 444
SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]


def landlock_version():
    """The kernel's version of landlock, negative where it has none."""
    return ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)


def statuses(pid):
    """`/proc/…/status` of all threads of a process."""
    texts = [task.joinpath("status").read_text() for task in pathlib.Path(f"/proc/{pid}/task").iterdir()]
    return [dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line) for text in texts]


def check_confined(pid, filters):
    """Every thread of it has given up what it should have."""
    for status in statuses(pid):
        assert status["NoNewPrivs"] == "1", status
        assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", str(filters)), status
        for held in ("CapEff", "CapPrm", "CapInh"):
            assert int(status[held], 16) & ~KEPT == 0, status


def schema_answer(server, **fields):
    schema = {"type": "object", "properties": {"n": {"enum": [fields.pop("n")]}}, "required": ["n"]}
    schema["additionalProperties"] = False
    answer_format = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    return server.chat(response_format=answer_format, max_tokens=40, **fields)


def test_workers_and_helpers_are_confined_and_all_works(running):
    version = landlock_version()
    print(f"landlock: {f'version {version}' if version > 0 else 'not in this kernel, so it was tried without'}")
    assert ("confined less than they could be" in running.log()) == (version < 3)
    assert {pid for pid in running.workers() if check_confined(pid, 2) is None} == set(running.workers())
    # The bundled model, which was unpacked, and one that lies elsewhere.
    for model in (MODEL, "elsewhere"):
        assert running.chat(model=model).status == 200
        answer = schema_answer(running, model=model, n=3)
        assert answer.json()["choices"][0]["message"]["content"].replace(" ", "") == '{"n":3}', answer
        body = {"model": model, "input": "a text"}
        assert running.post("/api/v1/embeddings", body, key=running.admin_key).status == 200
    helpers = [helper for worker in running.workers() for helper in children(worker)]
    assert len(helpers) == 2
    for helper in helpers:
        check_confined(helper, 4)
        assert not [name for name in environment(helper) if name.startswith("JAN_SERVER")]


def test_a_replaced_worker_is_confined_too(running):
    for pid in (before := running.workers()):
        os.kill(pid, signal.SIGKILL)
    after = wait_until(lambda: set(running.workers()) - set(before), "another worker")
    running.wait_ready()
    assert schema_answer(running, n=4).status == 200
    for pid in after:
        check_confined(pid, 2)


def old_kernel(folder):
    """A program that runs the binary as on a kernel without landlock and seccomp's call."""
    program = folder / "old-kernel"
    program.write_text(
        f"""#!{sys.executable} -IS
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
def op(code, yes, no, value):
    return struct.pack("=HBBI", code, yes, no, value)
# The call's number; landlock's and seccomp's are not implemented, the others are.
code = op(0x20, 0, 0, 0) + op(0x15, 1, 0, {LANDLOCK_CREATE_RULESET}) + op(0x15, 0, 1, {SECCOMP})
code += op(0x06, 0, 0, 0x00050000 | 38) + op(0x06, 0, 0, 0x7FFF0000)
buffer = ctypes.create_string_buffer(code)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(5, ctypes.addressof(buffer))), 0, 0) == 0
os.execv({str(BINARY)!r}, ["jan-server", *sys.argv[1:]])
"""
    )
    program.chmod(0o755)
    return program


def test_an_old_kernel_does_without_and_says_so_once(tmp_path, make_server):
    config = f"[worker]\nprogram = '{old_kernel(tmp_path)}'\n"
    server = make_server("--model", f"elsewhere={BUNDLED}", config=config)
    warnings = [line for line in server.log().splitlines() if "confined less than they could be" in line]
    assert len(warnings) == 1, server.log_tail()
    assert "landlock" in warnings[0] and "seccomp" in warnings[0]
    assert schema_answer(server, n=5).status == 200
    status = statuses(server.workers()[0])[0]
    assert (status["NoNewPrivs"], status["Seccomp_filters"]) == ("1", "1")


@pytest.mark.parametrize("name", ["landlock", "seccomp"])
def test_what_is_required_and_lacking_is_an_error(name, tmp_path, make_server):
    config = f"[worker]\nprogram = '{old_kernel(tmp_path)}'\n{name} = 'require'\n"
    server = make_server(config=config, wait="live")

    def problem():
        return server.get(f"/api/v1/models/{MODEL}", key=server.admin_key).json().get("problem")

    text = wait_until(problem, "a problem")
    assert f'worker.{name} is "require"' in text and "auto" in text, text
    assert server.get("/readyz").status == 503
    assert server.chat(key=server.admin_key).status == 503


def test_each_can_be_required_or_off(make_server):
    off = make_server(config="[worker]\nlandlock = 'off'\nseccomp = 'off'\nno_new_privs = 'off'\n")
    status = statuses(off.worker())[0]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("0", "0")
    assert schema_answer(off, n=6).status == 200
    assert "confined less" not in off.log()
    required = "no_new_privs = 'require'\nseccomp = 'require'\n"
    if landlock_version() >= 3:
        required += "landlock = 'require'\n"
    server = make_server(config="[worker]\n" + required)
    assert schema_answer(server, n=7).status == 200
    check_confined(server.worker(), 2)
