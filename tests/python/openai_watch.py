"""Every answer of the tests is checked against OpenAI's description: a pytest plugin, which `conftest.py` names.

The SDK's HTTP client is watched here, the requests of `harness.py` there.
"""

import httpx2
import openai_schema
import pytest

_sync, _async = httpx2.HTTPTransport.handle_request, httpx2.AsyncHTTPTransport.handle_async_request


class _Watch:
    """The bytes of one answer on their way to the SDK."""

    def __init__(self, request, response):
        self.stream, self.ended = response.stream, False
        self.answer = (request.method, request.url.raw_path.decode(), response.status_code)
        self.type = response.headers.get("content-type", "")
        # Only what is not compressed can be read on the way.
        self.events = openai_schema.Events(*self.answer) if self.type.startswith("text/event-stream") else None
        self.body = []

    def saw(self, part):
        if self.events:
            self.events.feed(part)
        else:
            self.body.append(part)

    def end(self, whole):
        if self.ended:
            return
        self.ended = True
        if self.events:
            self.events.end()
        elif whole:
            openai_schema.observe(*self.answer, self.type, b"".join(self.body))


class _SyncWatch(_Watch, httpx2.SyncByteStream):
    def __iter__(self):
        for part in self.stream:
            self.saw(part)
            yield part
        self.end(whole=True)

    def close(self):
        self.end(whole=False)
        self.stream.close()


class _AsyncWatch(_Watch, httpx2.AsyncByteStream):
    async def __aiter__(self):
        async for part in self.stream:
            self.saw(part)
            yield part
        self.end(whole=True)

    async def aclose(self):
        self.end(whole=False)
        await self.stream.aclose()


def _handle_request(self, request):
    response = _sync(self, request)
    if "content-encoding" not in response.headers:
        response.stream = _SyncWatch(request, response)
    return response


async def _handle_async_request(self, request):
    response = await _async(self, request)
    if "content-encoding" not in response.headers:
        response.stream = _AsyncWatch(request, response)
    return response


def pytest_configure():
    httpx2.HTTPTransport.handle_request = _handle_request
    httpx2.AsyncHTTPTransport.handle_async_request = _handle_async_request


def _fail_if_any():
    found, openai_schema.violations[:] = list(openai_schema.violations), []
    if found:
        pytest.fail(
            "not as OpenAI's description has it:\n" + "\n".join(dict.fromkeys(found[:20])), pytrace=False
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    result = yield
    _fail_if_any()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    _fail_if_any()
    return result


def pytest_terminal_summary(terminalreporter):
    if openai_schema.FILE is None:
        terminalreporter.section("OpenAI's description")
        terminalreporter.line(f"answers were NOT checked: {openai_schema.MISSING}")
    elif openai_schema.checked:
        terminalreporter.section("OpenAI's description")
        terminalreporter.line(
            f"{sum(openai_schema.checked.values())} answers and events checked: "
            + ", ".join(f"{count} {name}" for name, count in sorted(openai_schema.checked.items()))
        )
