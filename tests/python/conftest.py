"""Fixtures: `server` (shared, default settings), `make_server` (one with settings of its own), SDK clients."""

import sys

import openai
import postgres
import pytest
from harness import IS_BUNDLED, Server

pytest_plugins = ["openai_watch"]

# What is about callers, stores, the wire and refusals has nothing to do with the model that answers: once is enough.
WITHOUT_MODEL = [
    "test_audit.py", "test_auth_*.py", "test_chat_templates.py", "test_conversations.py",
    "test_conversations_crash.py", "test_conversations_sdk.py",
    "test_disk_full.py", "test_docs_*.py", "test_errors.py", "test_export.py", "test_hostile*.py", "test_lifecycle.py",
    "test_limits.py", "test_models.py", "test_reference.py", "test_responses_kept.py", "test_schemas.py", "test_store_refusals.py", "test_templates.py",
    "test_upstreams.py", "test_usage.py", "test_wire.py",
]
collect_ignore_glob = [] if IS_BUNDLED else WITHOUT_MODEL


def pytest_report_header():
    lines = [] if IS_BUNDLED else [f"run with the bundled model alone: {' '.join(WITHOUT_MODEL)}"]
    return lines + [f"storage: {postgres.KIND}"]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server with default settings that the tests share; no test may disturb it."""
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


#: MiB that a hostile test may bring the server, and a process that it started, to at most.
MOST_OF_SERVER, MOST_OF_WORKER = 512, 1024


@pytest.fixture(autouse=True)
def memory_under_attack(request):
    """Holds every hostile test, whatever it tries, to the memory that a server with small caches may take."""
    if not request.path.name.startswith("test_hostile"):
        yield
        return
    Server.peaks_of_ended.clear()
    for one in Server.running:
        one.reset_peaks()
    yield
    for server, worker in [*Server.peaks_of_ended, *(one.peaks() for one in Server.running)]:
        assert server <= MOST_OF_SERVER and worker <= MOST_OF_WORKER, f"{server:.0f} and {worker:.0f} MiB"


@pytest.fixture
def make_server(tmp_path):
    """Starts servers with settings of their own and ends them with the test."""
    started = []

    def make(*args, **settings):
        one = Server(tmp_path / f"server{len(started)}", *args, **settings)
        started.append(one)
        return one

    yield make
    for one in started:
        one.close()


def sdk(server, **options):
    """The SDK as a user sets it up, but failing at the first error."""
    options = {"api_key": server.admin_key} | options
    return openai.OpenAI(base_url=server.base_url, max_retries=0, timeout=120, **options)


@pytest.fixture
def client(server):
    with sdk(server) as one:
        yield one


@pytest.fixture
async def async_client(server):
    async with openai.AsyncOpenAI(
        base_url=server.base_url, api_key=server.admin_key, max_retries=0, timeout=120
    ) as one:
        yield one


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the servers' last log lines with a failed test."""
    report = yield
    if report.failed:
        for one in Server.running:
            report.sections.append((f"log of server {one.pid}", one.log_tail()))
    return report


def pytest_terminal_summary(terminalreporter):
    """How many templates and conversations were compared with Jinja2, and what was adapted."""
    compared = sys.modules.get("test_chat_templates")
    if compared and compared.reasons:
        terminalreporter.section("chat templates")
        counts = ", ".join(f"{reason} {count}" for reason, count in compared.reasons.most_common())
        terminalreporter.line(f"{len(compared.SOURCES)} templates; conversations as they are or adapted, by reason: {counts}")
