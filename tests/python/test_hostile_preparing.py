"""Constraints that are costly to refuse, asked for often and by callers that have gone."""

import json
import pathlib
import threading
import time

import pytest
from harness import MODEL, Server, children, stopped, wait_until

#: Refused after some seconds of work: twenty expressions that have to hold at once.
COSTLY = {
    "type": "string",
    "allOf": [{"pattern": f"a{n}.*b"} for n in range(20)],
    "maxLength": 200,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    own = Server(tmp_path_factory.mktemp("preparing"))
    yield own
    own.close()


def costly(prompts, n, salt):
    schema = COSTLY | {"maxLength": 200 + salt}
    return {"model": MODEL, "prompt": ["x"] * prompts, "n": n, "max_tokens": 1, "guided_json": schema}


def abandon(server, body, key):
    """Sends a request and goes away without its answer."""
    content = json.dumps(body).encode()
    head = (
        "POST /api/v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = server.connect()
    connection.sendall(head.encode() + content)
    time.sleep(0.3)
    connection.close()


def test_others_are_served_while_abandoned_requests_wait(running):
    worker = running.worker()
    attacker = running.new_key(running.new_user("gone@example.com"))["key"]
    neighbour = running.new_key(running.new_user("neighbour@example.com"))["key"]
    for salt in range(1, 4):
        abandon(running, costly(8, 40, salt), attacker)
    answers = []

    def chat():
        answers.append(running.chat("Hello", key=neighbour, max_tokens=4).status)

    asking = threading.Thread(target=chat)
    asking.start()
    asking.join(60)
    assert answers == [200]
    assert running.worker() == worker
    wait_until(lambda: running.chat("Hello", key=neighbour, max_tokens=1).status == 200, "the worker answers", 30)


def patterns(objects, properties):
    """Objects that have to hold at once, each with patterns for the same properties."""
    return {
        "allOf": [
            {
                "type": "object",
                "properties": {f"p{p}": {"type": "string", "pattern": f"^.*a{o}.*b$"} for p in range(properties)},
                "required": [f"p{p}" for p in range(properties)],
            }
            for o in range(objects)
        ]
    }


def intersected(terms):
    return "start: T\nT: " + " & ".join(f"/(.*a{{{n}}}.*b)+.*/" for n in range(1, terms + 1))


def multiples(count):
    names = [f"p{n}" for n in range(count)]
    integers = {name: {"type": "integer", "multipleOf": 9973 + n} for n, name in enumerate(names)}
    return {"type": "object", "properties": integers, "required": names}


#: Each takes minutes or gigabytes to compile.
ENDLESS = {
    "400 integers with multipleOf": {"guided_json": multiples(400)},
    "20 intersected terms": {"guided_grammar": intersected(20)},
    "24 intersected terms": {"guided_grammar": intersected(24)},
    "patterns of 30 objects": {"guided_json": patterns(30, 40)},
    "20 patterns": {"guided_json": COSTLY},
    "20 patterns in a tool": {
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": patterns(20, 1), "strict": True}}],
        "tool_choice": "required",
    },
}


#: Those whose cost does not show in their text.
COMPILED = {"400 integers with multipleOf"}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_constraint_is_refused_while_others_chat(running, name):
    worker, place = running.worker(), list(ENDLESS).index(name)
    attacker = running.new_key(running.new_user(f"endless-{place}@example.com"))["key"]
    neighbour = running.new_key(running.new_user(f"beside-{place}@example.com"))["key"]
    fields = ENDLESS[name]
    path = "/api/v1/chat/completions" if "messages" in fields else "/api/v1/completions"
    prompt = {} if "messages" in fields else {"prompt": ["x"] * 8}
    body = {"model": MODEL, "n": 16, "max_tokens": 8, **prompt, **fields}
    order = []

    def attack():
        answer = running.post(path, body, key=attacker)
        order.append(("refused", answer.status, answer.error.get("code"), answer.error.get("param")))

    attacking = threading.Thread(target=attack)
    attacking.start()
    time.sleep(0.2)
    assert running.chat("Hello", key=neighbour, max_tokens=1).status == 200
    assert running.get("/readyz").status == 200
    order.append("chatted")
    attacking.join(120)
    field = next(field for field in fields if field not in ("messages", "tool_choice"))
    refused = ("refused", 400, "constraint_too_expensive", field)
    # What its text does not tell is found out by compiling it, which others do not wait for.
    assert order == ["chatted", refused] if name in COMPILED else order in (["chatted", refused], [refused, "chatted"])
    # The refusal is remembered: nothing is compiled for the same request, so no helper begins anew.
    helpers = children(worker)
    again = running.post(path, body, key=attacker)
    assert (again.status, again.error["code"]) == (400, "constraint_too_expensive")
    assert children(worker) == helpers
    # What is fine stays fine, and the worker was never in danger.
    schema = {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 5}}, "required": ["a"]}
    fine = running.chat("Hello", key=neighbour, response_format={"type": "json_schema", "json_schema": {"name": name.replace(" ", "-"), "schema": schema}})
    assert fine.status == 200
    assert running.worker() == worker


@pytest.fixture
def begin(tmp_path):
    begun = []

    def start(config=None):
        begun.append(Server(tmp_path, config=config))
        return begun[-1]

    yield start
    for server in begun:
        server.close()


def test_limits_of_compiling_are_settings(begin):
    own = begin("[engine]\nconstraint_cpu_ms = 50\n")
    refused = own.chat("Hello", guided_json=multiples(100))
    assert (refused.status, refused.error["code"]) == (400, "constraint_too_expensive")
    assert "50 ms" in refused.error["message"]


def test_a_helper_ends_with_its_worker(begin):
    own = begin()
    assert own.chat("Hello", guided_regex="[a-c]{3}").status == 200
    (helper,) = children(own.worker())
    own.kill()
    wait_until(lambda: not pathlib.Path(f"/proc/{helper}").exists(), "the helper ends")


def test_what_is_not_prepared_shows_in_readyz(running):
    asking = threading.Thread(target=lambda: running.chat("Hello", max_tokens=1))
    with stopped(running.worker()):
        assert running.get("/readyz").status == 200
        asking.start()
        wait_until(lambda: running.get("/readyz").status == 503, "not ready", 20)
        assert running.get("/livez").status == 200
    wait_until(lambda: running.get("/readyz").status == 200, "ready again", 20)
    asking.join(20)


def hidden():
    """Cheap to compile and to begin; what follows the first letters takes more and more."""
    both = " & ".join("/x(" + "|".join(f".*[^{c}].{{{40 * n}}}q" for c in "abcdefghij") + ").*/" for n in range(1, 6))
    return f"start: FIRST REST\nFIRST: /[a-z]{{3}}/\nBOTH: {both}\nREST: /x[r-z]{{30}}/ | BOTH"


def test_an_answer_that_becomes_too_expensive_ends_alone(begin):
    own = begin("[engine]\nmask_budget_ms = 50\n")
    worker = own.worker()
    statuses, over = [], threading.Event()

    def chat():
        while not over.is_set():
            statuses.append(own.chat("Hello", max_tokens=4).status)

    neighbour = threading.Thread(target=chat)
    neighbour.start()
    try:
        fields = {"guided_grammar": hidden(), "max_tokens": 64, "n": 8}
        refused = own.chat("Hello", **fields)
        assert (refused.status, refused.error["code"]) == (400, "constraint_too_expensive")
        assert refused.error["param"] == "guided_grammar"
        with own.stream(messages=[{"role": "user", "content": "Hello"}], **fields) as stream:
            # A first token of several letters leads into the expensive part before anything was sent.
            last = stream.read()[-1] if stream.status == 200 else json.loads(stream.answer.read())
        assert last["error"]["code"] == "constraint_too_expensive"
    finally:
        over.set()
        neighbour.join(30)
    assert statuses and set(statuses) == {200}
    # Other constrained answers go on.
    assert own.chat("Hello", guided_regex="[a-c]{3}").status == 200
    assert own.worker() == worker


def test_a_defect_in_a_library_refuses_one_constraint(running):
    both = "A: /.*a.{3}b.*/ & /.*c.{4}d.*/\\nB: (A /e.*/) & (/.*f/ A)\\nC: (B /g.*/) & (/.*h/ B)"
    worker = running.worker()
    answer = running.chat("Hello", guided_grammar=f'start: T\\n{both}\\nT: /y/ | ("x" C)'.replace("\\n", "\n"))
    assert answer.status in (200, 400)
    assert "panic" not in str(answer) and "backtrace" not in str(answer)
    assert running.worker() == worker
