"""The page at /api/swagger in a real browser: it loads from the server alone, and what it tries out works."""

import gzip
import json
import os
import socket

import oidc
import pytest
import yaml
from chromium import open_page
from harness import ROOT, rss_kib, wait_until

PAGE = "/api/swagger/index.html"
CHAT = "#operations-chat-createChatCompletion"


class Yaml12(yaml.SafeLoader):
    """YAML 1.2, which OpenAPI is written in, knows no times of day; PyYAML is of 1.1."""


Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def test_ways_to_the_page(server):
    for path in ("/", "/api/swagger", "/api/swagger/"):
        for method in ("GET", "HEAD"):
            answer = server.request(method, path)
            assert (answer.status, answer.headers["Location"]) == (302, PAGE), path
        assert server.post(path).status == 405
    assert f"{server.url}{PAGE}" in server.log()
    page = server.get(PAGE)
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    missing = server.get("/api/swagger/nothing.js")
    assert (missing.status, missing.error["code"]) == (404, "not_found")
    assert server.get("/api/swagger/..%2fapi.rs").status == 404


def test_files_are_compressed_for_those_who_take_it(server):
    plain = server.get("/api/swagger/swagger-ui-bundle.js")
    packed = server.get("/api/swagger/swagger-ui-bundle.js", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 2
    assert gzip.decompress(packed.body) == plain.body


def test_the_description_has_three_addresses(server):
    description = server.get("/api/swagger/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    assert server.get("/api/swagger/doc.json").json() == description
    assert yaml.load(server.get("/api/swagger/openapi.yaml").body, Loader=Yaml12) == description


def test_the_page_costs_little_memory(make_server):
    own = make_server(wait="live")
    before = rss_kib(own.pid)
    for path in ("index.html", "swagger-ui-bundle.js", "swagger-ui.css", "openapi.json", "openapi.yaml", "doc.json"):
        for _ in range(5):
            assert own.get(f"/api/swagger/{path}").status == 200
    assert rss_kib(own.pid) < before + 36 * 1024


@pytest.fixture(scope="module")
def key(server):
    return server.new_key(server.new_user("swagger@example.com", "Reader"))["key"]


def authorize(page, key):
    page.click("button.authorize")
    page.fill("#auth-bearer-value", key)
    page.click("form:has(#auth-bearer-value) button.authorize")
    page.click("button.btn-done")


def test_chat_with_streaming(server, key):
    with open_page() as one:
        page = one.page
        page.goto(f"{server.url}{PAGE}#/")
        page.wait_for_selector(CHAT)
        authorize(page, key)

        page.click(f"{CHAT} .opblock-summary-control")
        body = page.locator(f"{CHAT} textarea.body-param__text")
        # Samples are there before anything was sent, in three languages.
        for label, text in (("Python", "import requests"), ("JavaScript", "await fetch"), ("curl", "curl http")):
            page.click(f"{CHAT} .jan-samples >> text={label} >> nth=0")
            assert text in page.inner_text(f"{CHAT} .jan-samples pre")
        body.fill(
            json.dumps(
                {
                    "model": "jan-v1-4b",
                    "messages": [{"role": "user", "content": "Tell me a story"}],
                    "stream": True,
                    "seed": 7,
                }
            )
        )
        # What the page shows of the stream, time after time.
        page.evaluate(
            """() => {
                window.seen = [];
                new MutationObserver(() => {
                    const shown = document.querySelector(".jan-live");
                    if (shown) window.seen.push([shown.dataset.done, shown.querySelector(".jan-answer").textContent]);
                }).observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true});
            }"""
        )
        # Over a slow line: the small model is done before a busy browser draws anything.
        line = page.context.new_cdp_session(page)
        line.send("Network.enable")
        line.send(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 0, "downloadThroughput": 20_000, "uploadThroughput": -1},
        )
        with page.expect_request("**/chat/completions") as sent:
            page.click(f"{CHAT} button.execute")
        assert sent.value.headers["authorization"] == f"Bearer {key}"
        page.wait_for_selector(f"{CHAT} .jan-live[data-done=true]")
        line.detach()
        answer = page.inner_text(f"{CHAT} .jan-answer")
        events = page.inner_text(f"{CHAT} .jan-events")
        assert len(answer.split()) > 10
        assert events.rstrip().endswith("data: [DONE]")
        parts = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
        assert "".join(part["choices"][0]["delta"].get("content") or "" for part in parts).strip() == answer.strip()
        before_the_end = {text for done, text in page.evaluate("window.seen") if done == "false" and text}
        assert len(before_the_end) > 1, "the answer was shown only when it was whole"
        # Swagger UI's own answer, and the request as curl, Python and JavaScript.
        page.wait_for_selector(f"{CHAT} .live-responses-table >> text=200")
        for title, text in (("curl", "curl -X"), ("Python", "requests.request"), ("JavaScript", "await fetch")):
            page.click(f"{CHAT} .request-snippets >> text={title} >> nth=0")
            page.wait_for_function(
                "([at, text]) => document.querySelector(at).innerText.includes(text)",
                arg=[f"{CHAT} .request-snippets", text],
            )
        assert one.outside(server) == []
        assert one.complaints == []
        if os.environ.get("JAN_RECORD_SCREENSHOT"):
            page.locator(f"{CHAT} .jan-live").scroll_into_view_if_needed()
            page.evaluate(f"document.querySelector('{CHAT} .jan-samples').scrollIntoView()")
            page.screenshot(path=str(ROOT / "docs/swagger.png"))


def test_the_screenshot_is_there():
    picture = (ROOT / "docs/swagger.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 400_000
    assert "swagger.png" in (ROOT / "docs/api.md").read_text()


def test_a_wrong_key_is_shown_as_refused(server):
    with open_page() as one:
        page = one.page
        page.goto(f"{server.url}{PAGE}#/user/getProfile")
        page.wait_for_selector("#operations-user-getProfile")
        authorize(page, "sk-jan-wrong")
        if not page.locator("#operations-user-getProfile button.execute").is_visible():
            page.click("#operations-user-getProfile .opblock-summary-control")
        page.click("#operations-user-getProfile button.execute")
        page.wait_for_selector("#operations-user-getProfile .live-responses-table >> text=invalid_api_key")


def test_sign_in_with_google(make_server):
    """The provider is the tests' own; the browser goes there and comes back as it would with Google."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    provider = oidc.Provider()
    try:
        server = make_server(
            listen=f"127.0.0.1:{port}",
            env=provider.settings(redirect_url=f"http://127.0.0.1:{port}/auth/google/callback"),
        )
        with open_page() as one:
            page = one.page
            page.goto(f"{server.url}{PAGE}")
            page.wait_for_selector(CHAT)
            page.click("button.authorize")
            page.click("text=Sign in with Google")
            page.wait_for_url(f"{server.url}{PAGE}")
            page.wait_for_selector(CHAT)
            wait_until(lambda: page.locator("button.authorize.locked").count() > 0, "the page has a token", 30)
            page.click("#operations-user-getProfile .opblock-summary-control")
            page.click("#operations-user-getProfile button.execute")
            page.wait_for_selector("#operations-user-getProfile .live-responses-table >> text=ann@corp.example")
            assert "code=" not in page.url
    finally:
        provider.close()
