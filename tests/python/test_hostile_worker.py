"""A worker reads what strangers write: what it holds and may do, should one of them get hold of it."""

import ctypes
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys

import pytest
import tiny_bert
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
        tmp_path_factory.mktemp("worker"),
        "--model",
        f"elsewhere={BUNDLED}",
        env=SECRETS | PASSED | {"JAN_TEST_NAMED": "named"},
        config=CONFIG,
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


#: Runs inside a worker, as somebody who got hold of it would: on a signal it tries things and says how each failed.
TAKEN_OVER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void tell(const char *name, long result) { dprintf(2, "tried %s=%d\n", name, result < 0 ? errno : 0); }
static void try_open(const char *name, const char *path, int flags) { tell(name, open(path, flags, 0600)); }

static void taken_over(int signal) {
    char path[64], byte;
    struct iovec here = {&byte, 1}, there = {(void *)taken_over, 1};
    int server = getppid();
    try_open("model", getenv("TRY_MODEL"), O_RDONLY);
    try_open("null", "/dev/null", O_RDWR);
    try_open("write-model", getenv("TRY_MODEL"), O_RDWR);
    try_open("key", getenv("TRY_KEY"), O_RDONLY);
    try_open("database", getenv("TRY_DATABASE"), O_RDONLY);
    try_open("passwords", "/etc/shadow", O_RDONLY);
    try_open("new", getenv("TRY_NEW"), O_WRONLY | O_CREAT);
    tell("cut", truncate(getenv("TRY_KEY"), 0));
    tell("remove", unlink(getenv("TRY_KEY")));
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, i ? "/proc/%d/mem" : "/proc/%d/environ", server);
        try_open(i ? "server-memory" : "server-environment", path, O_RDONLY);
    }
    tell("signal", kill(server, 0));
    tell("tcp", socket(AF_INET, SOCK_STREAM, 0));
    tell("udp", socket(AF_INET6, SOCK_DGRAM, 0));
    tell("unix", socket(AF_UNIX, SOCK_STREAM, 0));
    tell("ptrace", ptrace(PTRACE_SEIZE, server, 0, 0));
    tell("read-server", process_vm_readv(server, &here, 1, &there, 1, 0));
    tell("namespace", unshare(CLONE_NEWUSER));
    tell("clone3", syscall(SYS_clone3, 0, 0));
    tell("uring", syscall(SYS_io_uring_setup, 1, 0));
    tell("bpf", syscall(SYS_bpf, 0, 0, 0));
    tell("end", 0);
}

__attribute__((constructor)) static void begin(void) { signal(SIGUSR1, taken_over); }
"""
#: The numbers of errors: not permitted by seccomp or a scope, denied by landlock, no such call.
EPERM, EACCES, ENOSYS = 1, 13, 38
BY_LANDLOCK = ["write-model", "key", "database", "passwords", "new", "cut", "remove"]
BY_LANDLOCK += ["server-environment", "server-memory"]
BY_SECCOMP = ["tcp", "udp", "unix", "ptrace", "read-server", "namespace", "uring", "bpf"]


def test_whoever_gets_hold_of_a_worker_gets_nothing_else(tmp_path, make_server):
    source, library = tmp_path / "taken-over.c", tmp_path / "taken-over.so"
    source.write_text(TAKEN_OVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    data = tmp_path / "server0/data"
    paths = {"KEY": data / "admin.key", "DATABASE": data / "store.id", "NEW": data / "new", "MODEL": BUNDLED}
    given = {f"TRY_{name}": path for name, path in paths.items()} | {"LD_PRELOAD": library}
    names = [name for name in given if name != "LD_PRELOAD"]
    model = f"[[models]]\nid = 'jan-tiny'\naliases = ['{MODEL}']\npath = '{BUNDLED}'\n"
    server = make_server(config=f"[worker]\nenvironment = {names}\n{model}", env=given)
    worker = server.worker()
    os.kill(worker, signal.SIGUSR1)
    wait_until(lambda: "tried end=" in server.log(), "the end of the tries")
    tried = {name: int(error) for name, error in re.findall(r"tried ([a-z0-9-]+)=(\d+)", server.log())}
    assert (tried["model"], tried["null"]) == (0, 0)
    assert {name: tried[name] for name in BY_SECCOMP} == dict.fromkeys(BY_SECCOMP, EPERM)
    assert tried["clone3"] == ENOSYS
    version = landlock_version()
    print(f"landlock: {f'version {version}' if version > 0 else 'not in this kernel, so files were open'}")
    if version >= 3:
        assert {name: tried[name] for name in BY_LANDLOCK} == dict.fromkeys(BY_LANDLOCK, EACCES)
        assert tried["signal"] == (EPERM if version >= 6 else 0)
    assert schema_answer(server, n=8).status == 200
    assert server.worker() == worker and paths["KEY"].read_text()


def test_all_parts_of_a_split_model_are_read(tmp_path, make_server):
    whole = tiny_bert.write(tmp_path / "whole.gguf")
    parts = tmp_path / "parts"
    (parts / "elsewhere").mkdir(parents=True)
    first = tiny_bert.write_parts(parts, 3)
    # As downloaders lay files out: links to where they really are.
    for part in list(parts.glob("*.gguf")):
        part.symlink_to(part.rename(parts / "elsewhere" / part.name))
    server = make_server("--model", f"whole={whole}", "--model", f"split={first}")
    answers = []
    for model in ("whole", "split"):
        served = lambda model=model: server.get(f"/api/v1/models/{model}", key=server.admin_key).json()
        wait_until(lambda served=served: served()["status"] != "loading", "the model is loaded")
        assert served()["status"] == "ready", served()
        answer = server.post("/api/v1/embeddings", {"model": model, "input": "hello sea"}, key=server.admin_key)
        answers.append(answer.json()["data"][0]["embedding"])
    assert answers[0] == answers[1]
