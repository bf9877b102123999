"""An inference engine for tests: speaks vLLM's dialect of OpenAI's API, and misbehaves as told.

The words of a prompt are its tokens, and an answer repeats them from the first. Its health and its list of models stay good
whatever it does with requests, as those of real engines do.
"""

import contextlib
import http.server
import json
import socket
import threading
import time

CONTEXT = 512


class Engine:
    """One engine on a port of loopback; `act` says what it does with requests for answers:

    None          answers
    ("status", n) refuses with that status; ("status", n, s) with `Retry-After: s`
    ("die", n)    closes the connection behind n tokens
    ("stall", n)  sends nothing any more behind n tokens
    """

    def __init__(self, key=None, pace=0.0):
        self.act, self.key, self.pace = None, key, pace
        #: What it does with the next requests, before `act`.
        self.acts = []
        #: (path, headers, body) of each request for an answer.
        self.got = []
        #: Streams that their client left.
        self.left = 0
        self.port = 0
        self.start()

    def start(self):
        self._stopping = threading.Event()
        engine = self

        class Handler(_Handler):
            pass

        Handler.engine = engine
        self._connections = set()
        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._server.engine = self
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def kill(self):
        """Closes its port and all connections."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def process_request(self, request, client_address):
        self.engine._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.engine._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Clients leave on purpose."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine = None

    def log_message(self, *_):
        pass

    def _json(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _authorized(self):
        key = self.engine.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self._json(401, {"error": {"message": f"wrong key, not {key}", "type": "Unauthorized", "code": 401}})
        return False

    def do_GET(self):
        if self.path == "/health":
            self._json(200, {})
        elif self.path == "/v1/models" and self._authorized():
            model = {"id": "words", "object": "model", "owned_by": "vllm", "root": "words", "max_model_len": CONTEXT}
            self._json(200, {"object": "list", "data": [model]})
        elif self.path != "/v1/models":
            self._json(404, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._authorized():
            return
        words = self._words(body)
        if self.path == "/tokenize":
            self._json(200, {"count": len(words), "max_model_len": CONTEXT, "tokens": list(range(len(words)))})
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.engine.got.append((self.path, headers, body))
        if self.path == "/v1/embeddings":
            data = [{"index": index, "embedding": [0.0, 3.0, 4.0]} for index in range(len(body["input"]))]
            self._json(200, {"data": data, "usage": {"prompt_tokens": 2 * len(data), "total_tokens": 2 * len(data)}})
            return
        act = self.engine.acts.pop(0) if self.engine.acts else self.engine.act
        if act and act[0] == "status":
            headers = [("Retry-After", str(act[2]))] if len(act) > 2 else []
            self._json(act[1], {"error": {"message": "scripted", "code": act[1]}}, headers)
            return
        most = body.get("max_tokens") or len(words)
        if len(words) + most > CONTEXT:
            message = (
                f"This model's maximum context length is {CONTEXT} tokens. However, you requested {most} output tokens "
                f"and your prompt contains at least {len(words)} input tokens, for a total of at least {len(words) + most} tokens."
            )
            self._json(400, {"error": {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}})
            return
        try:
            self._stream(body, words, most, act)
        except OSError:
            self.engine.left += 1
            self.close_connection = True

    @staticmethod
    def _words(body):
        texts = [message.get("content") or "" for message in body.get("messages", [])]
        if isinstance(body.get("prompt"), str):
            texts.append(body["prompt"])
        return " ".join(texts).split()

    def _chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _event(self, tokens, prompt, **choice):
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        event = {"id": "x", "choices": [{"index": 0} | choice], "usage": usage}
        self._chunk(f"data: {json.dumps(event)}\n\n".encode())

    def _stream(self, body, words, most, act):
        # A trial, which no caller sent, needs no usage.
        assert body["stream"] and (body["max_tokens"] == 1 or body["stream_options"]["continuous_usage_stats"])
        is_chat = "messages" in body
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if is_chat:
            self._event(0, len(words), delta={"role": "assistant", "content": ""}, finish_reason=None)
        for number in range(most):
            # A dead engine is dead for trials, too, which have no seed.
            if act and (number == act[1] or (act[0] == "stall" and "seed" not in body)):
                if act[0] == "stall":
                    self.engine._stopping.wait(30)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if self.engine.pace:
                time.sleep(self.engine.pace)
            text = words[number % len(words)] + " "
            said = {"delta": {"content": text}} if is_chat else {"text": text}
            self._event(number + 1, len(words), **said, finish_reason=None)
        said = {"delta": {}} if is_chat else {"text": ""}
        self._event(most, len(words), **said, finish_reason="length")
        usage = {"prompt_tokens": len(words), "completion_tokens": most, "total_tokens": len(words) + most}
        self._chunk(f"data: {json.dumps({'id': 'x', 'choices': [], 'usage': usage})}\n\n".encode())
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")
