"""A real Chromium without a window, which talks to nobody but the server under test."""

import contextlib
import shutil

from playwright.sync_api import sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"]


def executable():
    for name in NAMES:
        if found := shutil.which(name):
            return found
    raise AssertionError(f"none of {', '.join(NAMES)} is installed; `make setup-test` installs it, or says how")


class Page:
    """One page, with everything that it asked for and complained about."""

    def __init__(self, context):
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "console", lambda line: self.complaints.append(line.text) if line.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def outside(self, server):
        """What it asked others than the server for."""
        ours = (f"http://localhost:{server.port}/", f"{server.url}/", "data:", "blob:")
        return [url for url in self.requests if not url.startswith(ours)]


@contextlib.contextmanager
def open_page(**options):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), headless=True, args=FLAGS)
        try:
            context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
            yield Page(context)
        finally:
            browser.close()
