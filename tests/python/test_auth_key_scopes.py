"""Keys for some models, from some addresses, for some things."""

import json

import pytest
from harness import MODEL, Server

KEYS = "/api/v1/user/api-keys"
PROFILE = "/api/v1/user/profile"
CHAT = ("POST", "/api/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
INFERENCE = [
    ("GET", "/api/v1/models", None),
    ("GET", f"/api/v1/models/{MODEL}", None),
    CHAT,
    ("POST", "/api/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1}),
    ("POST", "/api/v1/embeddings", {"model": MODEL, "input": "x"}),
    ("POST", "/api/v1/responses", {"model": MODEL, "input": "x", "max_output_tokens": 16}),
    ("POST", "/api/v1/responses/input_tokens", {"model": MODEL, "input": "x"}),
    ("POST", "/api/v1/tokenize", {"model": MODEL, "prompt": "x"}),
    ("POST", "/api/v1/detokenize", {"model": MODEL, "tokens": [1]}),
    ("POST", "/api/v1/apply-template", {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}),
]
AREAS = {
    "inference": INFERENCE,
    "conversations": [("GET", "/api/v1/conversations", None), ("POST", "/api/v1/conversations", {"title": "t"})],
    "usage": [("GET", "/api/v1/usage", None)],
    "keys": [
        ("GET", KEYS, None),
        ("GET", "/auth/sessions", None),
        ("DELETE", "/auth/sessions/sess_00000000000000000000000000000000", None),
        ("DELETE", f"{KEYS}/key_00000000000000000000000000000000", None),
    ],
    "admin": [("GET", "/api/v1/admin/users", None), ("GET", "/api/v1/admin/usage", None)],
    "": [("GET", PROFILE, None), ("PATCH", PROFILE, {"name": "x"}), ("GET", "/api/v1/status", None)],
}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    settings = {"JAN_SERVER__AUTH__ANONYMOUS": "deny", "JAN_SERVER__HTTP__TRUSTED_PROXIES": "127.0.0.1"}
    one = Server(tmp_path_factory.mktemp("key-scopes"), env=settings)
    yield one
    one.close()


@pytest.fixture(scope="module")
def boss(own):
    """A session of an administrator."""
    user = own.new_user("boss@example.com")
    assert own.patch(f"/api/v1/admin/users/{user}", {"role": "admin"}, own.admin_key).status == 200
    return own.new_session(user)["access_token"]


def make(server, key, permissions=("read", "write"), **fields):
    made = server.post(KEYS, {"name": "test", "permissions": list(permissions)} | fields, key=key)
    assert made.status == 201, made
    return made.json()


def call(server, case, key, headers=None):
    method, path, body = case
    return server.post(path, body, headers, key=key, method=method)


def is_error(answer, status, code, param=None):
    assert answer.status == status, answer
    assert answer.error["code"] == code, answer
    if param:
        assert answer.error["param"] == param, answer


@pytest.mark.parametrize("scope", ["inference", "conversations", "usage", "keys", "admin"])
def test_a_scope_is_its_area_and_nothing_else(own, boss, scope):
    made = make(own, boss, [scope])
    assert made["permissions"] == [scope]
    for area, cases in AREAS.items():
        for case in cases:
            answer = call(own, case, made["key"])
            if area == scope:
                assert answer.status not in (401, 403), (case, answer)
            else:
                is_error(answer, 403, "insufficient_permissions")
                if area:
                    assert f"`{area}`" in answer.error["message"], (case, answer)


def test_read_and_write_mean_what_they_mean(own, boss):
    """And give inference, as the API reference has it."""
    made = make(own, boss, ["read", "write"])
    assert made["permissions"] == ["read", "write"]
    for area in ("inference", "conversations", "usage", ""):
        for case in AREAS[area]:
            assert call(own, case, made["key"]).status not in (401, 403), case
    # Scopes that are in them say nothing new.
    assert make(own, boss, ["read", "write", "inference", "usage"])["permissions"] == ["read", "write"]
    assert make(own, boss, ["usage", "inference"])["permissions"] == ["inference", "usage"]


def test_inference_does_not_reach_conversations(own, boss):
    """Not by naming one in a request, either: the model would tell what is in it."""
    conversation = own.post("/api/v1/conversations", {"title": "t"}, key=boss).json()["id"]
    cases = [
        ("POST", "/api/v1/chat/completions", CHAT[2] | {"conversation": conversation}),
        ("POST", "/api/v1/responses", {"model": MODEL, "input": "x", "max_output_tokens": 16, "conversation": conversation}),
        ("POST", "/api/v1/responses/input_tokens", {"model": MODEL, "input": "x", "conversation": conversation}),
    ]
    narrow = make(own, boss, ["inference"])["key"]
    for case in cases:
        is_error(call(own, case, narrow), 403, "insufficient_permissions")
    for permissions in (["inference", "conversations"], ["write"]):
        wide = make(own, boss, permissions)["key"]
        for case in cases:
            assert call(own, case, wide).status == 200, (permissions, case)


def test_scopes_are_granted_by_who_has_them(own, boss):
    writer = make(own, boss, ["write", "keys", "usage"])["key"]
    assert make(own, writer, ["usage"])["permissions"] == ["usage"]
    for scope in ("inference", "conversations", "read", "admin"):
        answer = own.post(KEYS, {"name": "n", "permissions": [scope]}, key=writer)
        is_error(answer, 403, "insufficient_permissions", "permissions")
    full = make(own, boss, ["read", "write", "keys"])
    child = make(own, full["key"], ["inference", "conversations", "usage"])
    assert child["permissions"] == ["inference", "conversations", "usage"]
    assert own.patch(f"{KEYS}/{full['id']}", {"permissions": ["read", "keys"]}, boss).status == 200
    is_error(call(own, CHAT, child["key"]), 403, "insufficient_permissions")
    assert own.get("/api/v1/models", key=child["key"]).status == 200


def test_models(own, boss):
    """By id or by alias; `jan-tiny` is the id behind the alias."""
    for names, allowed in ((["jan-tiny"], True), ([MODEL, "other"], True), (["other"], False)):
        made = make(own, boss, models=names)
        assert made["models"] == names
        for case in INFERENCE[1:]:
            answer = call(own, case, made["key"])
            if allowed:
                assert answer.status in (200, 400), (case, answer)
            else:
                is_error(answer, 403, "model_not_allowed", "model")
        listed = own.get("/api/v1/models", key=made["key"]).json()["data"]
        assert {model["root"] for model in listed} == ({"jan-tiny"} if allowed else set())
        unknown = call(own, (*CHAT[:2], CHAT[2] | {"model": "none-such"}), made["key"])
        is_error(unknown, 404, "model_not_found")
    assert make(own, boss)["models"] is None


def from_there(address):
    """What the trusted proxy on this machine says of its client."""
    return {"X-Forwarded-For": address}


def test_addresses(own, boss):
    made = make(own, boss, addresses=["203.0.113.7", "10.1.2.3/8", "2001:db8::/32"])
    assert made["addresses"] == ["203.0.113.7", "10.0.0.0/8", "2001:db8::/32"]
    for address in ("203.0.113.7", "10.255.0.1", "2001:db8:ffff::1", "::ffff:10.0.0.1"):
        assert own.get(PROFILE, from_there(address), made["key"]).status == 200, address
        assert own.get(PROFILE, from_there(address) | {"X-API-Key": made["key"]}).status == 200, address
    for address in ("203.0.113.8", "11.0.0.1", "2001:db9::1", "127.0.0.1"):
        answer = own.get(PROFILE, from_there(address), made["key"])
        is_error(answer, 401, "address_not_allowed")
        assert "WWW-Authenticate" in answer.headers
    is_error(own.get(PROFILE, key=made["key"]), 401, "address_not_allowed")
    is_error(own.get("/health", key=made["key"]), 401, "address_not_allowed")


def test_it_can_be_changed_back_and_forth_with_a_session(own, boss):
    made = make(own, boss)
    path = f"{KEYS}/{made['id']}"
    changed = own.patch(path, {"models": ["other"], "addresses": ["203.0.113.7"]}, boss).json()
    assert (changed["models"], changed["addresses"]) == (["other"], ["203.0.113.7"])
    is_error(own.get(PROFILE, key=made["key"]), 401, "address_not_allowed")
    assert own.patch(path, {"name": "n"}, boss).json()["addresses"] == ["203.0.113.7"], "what is absent stays"
    changed = own.patch(path, {"models": None, "addresses": None}, boss).json()
    assert (changed["models"], changed["addresses"]) == (None, None)
    assert call(own, CHAT, made["key"]).status == 200


def test_keys_narrow_only(own, boss):
    bound = make(own, boss, ["read", "write", "keys"], models=["jan-tiny", "other"], addresses=["127.0.0.0/8", "10.0.0.0/8"])
    path, key = f"{KEYS}/{bound['id']}", bound["key"]
    for fields, param in [
        ({"models": None}, "models"),
        ({"models": ["jan-tiny", "third"]}, "models"),
        ({"addresses": None}, "addresses"),
        ({"addresses": ["0.0.0.0/0"]}, "addresses"),
        ({"addresses": ["127.0.0.1", "192.0.2.1"]}, "addresses"),
    ]:
        is_error(own.patch(path, fields, key), 403, "insufficient_permissions", param)
        if None not in fields.values():
            made = own.post(KEYS, {"name": "n", "permissions": ["read"]} | fields, key=key)
            is_error(made, 403, "insufficient_permissions", param)
    child = make(own, key)
    assert (child["models"], child["addresses"]) == (bound["models"], bound["addresses"])
    less = make(own, key, models=["jan-tiny"], addresses=["127.0.0.1", "10.1.0.0/16"])
    assert call(own, CHAT, less["key"]).status == 200
    assert own.patch(path, {"models": ["other"], "addresses": ["127.0.0.1"]}, key).status == 200
    # What was made before follows.
    is_error(call(own, CHAT, less["key"]), 403, "model_not_allowed")
    is_error(own.get(PROFILE, from_there("10.1.0.1"), less["key"]), 401, "address_not_allowed")
    assert own.get(PROFILE, key=less["key"]).status == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"models": []}, "models"),
        ({"models": "jan-tiny"}, "models"),
        ({"models": [""]}, "models[0]"),
        ({"models": ["a", "x" * 257]}, "models[1]"),
        ({"models": ["a"] * 65}, "models"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["10.0.0.0/8", "10.0.0.0/33"]}, "addresses[1]"),
        ({"addresses": ["localhost"]}, "addresses[0]"),
        ({"addresses": ["::ffff:10.0.0.0/90"]}, "addresses[0]"),
        ({"addresses": [5]}, "addresses[0]"),
        ({"addresses": ["10.0.0.1"] * 65}, "addresses"),
        ({"permissions": ["inferences"]}, "permissions[0]"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_wrong_fields_are_named(own, boss, fields, param):
    body = {"name": "n", "permissions": ["read"]} | fields
    answer = own.post(KEYS, body, key=boss)
    assert (answer.status, answer.error["param"]) == (400, param), answer
    made = make(own, boss)
    answer = own.patch(f"{KEYS}/{made['id']}", fields, boss)
    assert (answer.status, answer.error["param"]) == (400, param), answer


def test_it_is_kept(tmp_path):
    one = Server(tmp_path, wait="live")
    token = one.new_session(one.new_user())["access_token"]
    made = make(one, token, ["inference", "usage"], models=["other"], addresses=["10.0.0.0/8"])
    one.kill()
    again = Server(tmp_path, wait="live")
    try:
        kept = again.get(f"{KEYS}/{made['id']}", key=token).json()
        assert kept == {name: value for name, value in made.items() if name != "key"}
        is_error(again.get("/api/v1/models", key=made["key"]), 401, "address_not_allowed")
    finally:
        again.close()
