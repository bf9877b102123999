"""An OpenID provider of the tests' own on a real socket, honest unless told otherwise."""

import contextlib
import hashlib
import hmac
import http.client
import http.server
import json
import secrets
import threading
import time
import urllib.parse

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tokens import encode_part

CLIENT_ID = "jan-test-client"
CLIENT_SECRET = "provider-secret-4711"
#: As it is registered with the provider; the tests take the browser to the server's real port instead.
REDIRECT_URL = "http://localhost:1/auth/google/callback"


class Key:
    def __init__(self, kid):
        self.kid = kid
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwk(self):
        numbers = self.private.public_key().public_numbers()
        n, e = (encode_part(value.to_bytes((value.bit_length() + 7) // 8, "big")) for value in (numbers.n, numbers.e))
        return {"kty": "RSA", "kid": self.kid, "alg": "RS256", "use": "sig", "n": n, "e": e}

    def sign(self, claims, **header):
        message = f"{encode_part({'alg': 'RS256', 'kid': self.kid, 'typ': 'JWT'} | header)}.{encode_part(claims)}"
        signature = self.private.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{message}.{encode_part(signature)}"


class Provider:
    """What it says and does can be changed between requests:

    claims   laid over the id_token's own
    token    claims -> id_token, to sign in another way
    answer   path -> (status, headers, body) in place of the honest answer
    delay    seconds before each answer
    """

    def __init__(self):
        self.key = Key("first")
        self.keys = [self.key]
        self.person = {"sub": "1001", "email": "ann@corp.example", "email_verified": True, "name": "Ann Example"}
        #: Those of the servers that were given settings: each has its own.
        self.redirect_urls = {REDIRECT_URL}
        self.reset()
        self.codes = {}
        self.asked = []
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                provider._serve(self, {})

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                provider._serve(self, dict(urllib.parse.parse_qsl(body)))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def reset(self):
        self.claims, self.token, self.answer, self.delay = {}, None, {}, 0

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def settings(self, **more):
        """The server's environment that makes it use this provider."""
        settings = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "redirect_url": REDIRECT_URL,
            "auth_url": f"{self.url}/authorize",
            "token_url": f"{self.url}/token",
            "jwks_url": f"{self.url}/jwks",
            "issuer": self.url,
            "timeout_ms": 2000,
        } | more
        self.redirect_urls.add(settings["redirect_url"])
        return {f"JAN_SERVER__AUTH__GOOGLE__{name.upper()}": value for name, value in settings.items()}

    def _serve(self, handler, form):
        url = urllib.parse.urlsplit(handler.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.asked.append((url.path, form))
        time.sleep(self.delay)
        if url.path in self.answer:
            status, headers, body = self.answer[url.path]
        elif url.path == "/authorize":
            status, headers, body = self._authorize(query)
        elif url.path == "/token":
            status, headers, body = self._exchange(form)
        elif url.path == "/jwks":
            status, headers, body = 200, {}, {"keys": [key.jwk() for key in self.keys]}
        else:
            status, headers, body = 404, {}, {}
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.suppress(ConnectionError):
            handler.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

    def _authorize(self, query):
        """The person agrees at once."""
        assert query["client_id"] == CLIENT_ID
        assert query["redirect_uri"] in self.redirect_urls
        assert query["response_type"] == "code"
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        back = urllib.parse.urlencode({"code": code, "state": query["state"], "iss": self.url})
        return 302, {"Location": f"{query['redirect_uri']}?{back}"}, b""

    def _exchange(self, form):
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return 401, {}, {"error": "invalid_client"}
        query = self.codes.pop(form.get("code"), None)
        challenge = encode_part(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if query is None or challenge != query["code_challenge"] or form.get("redirect_uri") != query["redirect_uri"]:
            return 400, {}, {"error": "invalid_grant", "error_description": "the code is not good (any more)"}
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": query["nonce"]}
        claims |= self.person | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        id_token = self.token(claims) if self.token else self.key.sign(claims)
        return 200, {}, {"access_token": "opaque", "token_type": "Bearer", "expires_in": 300, "id_token": id_token}


class Browser:
    """Follows a sign-in step by step and keeps cookies."""

    def __init__(self, server):
        self.server = server
        self.cookies = {}

    def get(self, path, headers=None, key=None):
        """One request to the server, whose cookies are kept. Redirects are not followed."""
        cookies = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())} if self.cookies else {}
        answer = self.server.get(path, cookies | (headers or {}), key=key)
        for line in answer.headers.get_all("Set-Cookie") or []:
            name, value = line.split(";")[0].split("=", 1)
            self.cookies[name] = value
        return answer

    def depart(self, key=None, path="/auth/google", **query):
        """Begins; returns the provider's address."""
        answer = self.get(path + (f"?{urllib.parse.urlencode(query)}" if query else ""), key=key)
        assert answer.status == 302, answer
        return answer.headers["Location"]

    def visit(self, address):
        """Goes to the provider; returns the path with which it sends the browser back."""
        url = urllib.parse.urlsplit(address)
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", f"{url.path}?{url.query}")
            answer = connection.getresponse()
            assert answer.status == 302, answer.read()
            back = urllib.parse.urlsplit(answer.headers["Location"])
        return f"{back.path}?{back.query}"

    def sign_in(self, key=None, **query):
        """All of it; returns the last answer."""
        return self.get(self.visit(self.depart(key=key, **query)))


def parameters(address):
    """The query of an address."""
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))


def without_signature(claims):
    """An unsigned token, as alg `none` has it."""
    return f"{encode_part({'alg': 'none'})}.{encode_part(claims)}."


def with_public_key_as_secret(key):
    """HS256 with the provider's public key as the secret: the classic confusion of algorithms."""

    def token(claims):
        secret = json.dumps(key.jwk()).encode()
        message = f"{encode_part({'alg': 'HS256', 'kid': key.kid})}.{encode_part(claims)}"
        return f"{message}.{encode_part(hmac.digest(secret, message.encode(), hashlib.sha256))}"

    return token
