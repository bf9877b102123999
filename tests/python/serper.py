"""A search service like Serper of the tests' own on a real socket, honest unless told otherwise."""

import contextlib
import http.server
import json
import threading
import time

KEY = "serper-key-4711"
TITLE = "Result {} about räuchern"


def results(count=10, snippet="says something about it"):
    """An answer as Serper has it."""
    organic = [
        {"title": TITLE.format(n), "link": f"https://site{n}.example/page?n={n}", "snippet": f"{snippet} ({n})",
         "position": n}
        for n in range(1, count + 1)
    ]
    return {"searchParameters": {"type": "search"}, "organic": organic, "credits": 1}


class Serper:
    """What it says and does can be changed between requests:

    answers  (status, headers, body) for the next requests, one after the other; then the honest answer again
    always   (status, headers, body) for all requests
    delay    seconds before each answer
    hang     never answers; `dropped` says whether who asked has left
    """

    def __init__(self):
        self.asked = []
        self.dropped = threading.Event()
        self.reset()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                service._serve(self, json.loads(body))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def reset(self):
        self.answers, self.always, self.delay, self.hang = [], None, 0, False
        self.dropped.clear()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def settings(self, **more):
        """The server's environment that makes it use this service."""
        settings = {"base_url": self.url, "api_key": KEY, "timeout_ms": 5000} | more
        return {f"JAN_SERVER__WEB_SEARCH__{name.upper()}": value for name, value in settings.items()}

    def _serve(self, handler, asked):
        self.asked.append((handler.path, handler.headers.get("X-API-KEY"), asked))
        if self.hang:
            handler.connection.settimeout(60)
            with contextlib.suppress(OSError):
                if handler.connection.recv(1) == b"":
                    self.dropped.set()
            handler.close_connection = True
            return
        time.sleep(self.delay)
        if self.answers:
            status, headers, body = self.answers.pop(0)
        elif self.always:
            status, headers, body = self.always
        elif handler.path != "/search" or handler.headers.get("X-API-KEY") != KEY:
            status, headers, body = 403, {}, {"message": "Unauthorized."}
        else:
            status, headers, body = 200, {}, results(asked["num"])
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.suppress(ConnectionError):
            handler.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
