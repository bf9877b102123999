"""Secrets are in no log at any level: a run at trace level through everything that has secrets."""

import re

import oidc
from harness import Server, wait_until
from oidc import Browser, parameters
from tokens import forgeries


def test_no_secret_in_a_trace_log(tmp_path):
    provider = oidc.Provider()
    settings = provider.settings(allowed_return_urls="https://app.example/in")
    server = Server(tmp_path, "--log-level", "trace", env=settings, wait="live")
    secrets = {"the client secret": oidc.CLIENT_SECRET}
    try:
        secrets["the admin key"] = server.admin_key
        browser = Browser(server)
        address = browser.depart()
        secrets |= {f"the sign-in's {name}": parameters(address)[name] for name in ("state", "nonce")}
        back = browser.visit(address)
        secrets["the provider's code"] = parameters(back)["code"]
        signed_in = browser.get(back).json()
        secrets["the cookie"] = next(iter(browser.cookies.values()))
        secrets["the verifier"] = [form for path, form in provider.asked if path == "/token"][-1]["code_verifier"]
        location = browser.sign_in(return_to="https://app.example/in", return_state="s").headers["Location"]
        secrets["the exchange code"] = location.split("#code=")[1].removesuffix("&state=s")
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        exchanged = server.post("/auth/exchange", {"code": secrets["the exchange code"]}, {"Cookie": cookie}).json()
        guest = server.post("/auth/guest").json()
        refreshed = server.post("/auth/refresh", {"refresh_token": guest["refresh_token"]}).json()
        for who, tokens in {
            "signed in": signed_in, "exchanged": exchanged, "guest": guest, "refreshed": refreshed
        }.items():  # fmt: skip
            secrets |= {f"{who}: {name}": tokens[name] for name in ("access_token", "refresh_token")}
        key = server.post(
            "/api/v1/user/api-keys", {"name": "n", "permissions": ["read"]}, key=signed_in["access_token"]
        ).json()
        secrets["an API key"] = key["key"]
        for credential in (key["key"], server.admin_key):
            server.get("/api/v1/models", key=credential)
            server.get("/api/v1/models", {"X-API-Key": credential})
        # Refused ones, too: a key with a typing error in it is nearly a key.
        secrets["a wrong key"] = "sk-jan-" + key["key"][7:-1] + ("A" if key["key"][-1] != "A" else "B")
        server.get("/api/v1/models", key=secrets["a wrong key"])
        for number, (_, token) in enumerate(forgeries(server, signed_in["access_token"])[5:]):
            secrets[f"forgery {number}"] = token
            server.get("/api/v1/models", key=token)
            server.post("/auth/refresh", {"refresh_token": token})
        server.get("/api/v1/models", {"Authorization": f"Basic {server.admin_key}"})
        server.post("/auth/refresh", {"refresh_token": server.admin_key})
        server.post("/auth/refresh", f'{{"refresh_token": "{guest["refresh_token"]}"'.encode(), {"Content-Type": "application/json"})
        server.post("/auth/exchange", {"code": server.admin_key})
        server.delete(f"/api/v1/user/api-keys/{key['id']}", signed_in["access_token"])
        server.post("/auth/logout", key=signed_in["access_token"])
        server.post("/auth/refresh", {"refresh_token": guest["refresh_token"]})
        server.get("/livez")
        wait_until(lambda: "/auth/logout" in server.log(), "the log is written")
    finally:
        server.terminate()
        server.process.wait(30)
        server.close()
        provider.close()
    log = server.log()
    assert re.search(r"TRACE|\"level\":\"TRACE\"", log), "this was no trace"
    assert len(log) > 100_000
    for what, secret in secrets.items():
        # The parts of a token that matter are its claims and its signature.
        for part in secret.split(".") if secret.count(".") == 2 else [secret]:
            if len(part) >= 16 and not part.startswith("eyJ0eXAiOi") and not part.startswith("eyJhbGciOi"):
                assert part.removeprefix("sk-jan-") not in log, what
    for path in (server.data / "keys").glob("*.json"):
        assert re.search(r'"private_key":"([^"]+)"', path.read_text())[1] not in log
