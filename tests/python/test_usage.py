"""What is used is counted, by user, key, model and day, and counted once, whatever dies."""

import datetime
import os
import signal
import threading

import pytest
from harness import ENDLESS, MODEL, Server, wait_until


def today():
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def total(answer):
    """All results of a report added up: (requests, input, cached, output)."""
    assert answer.status == 200, answer
    names = ("num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens")
    results = [result for bucket in answer.json()["data"] for result in bucket["results"]]
    return tuple(sum(result[name] for result in results) for name in names)


def of(usage):
    """The same of one answer's own `usage`."""
    return 1, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens"]


def plus(*parts):
    return tuple(map(sum, zip(*parts, strict=True)))


@pytest.fixture(scope="module")
def usage_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("usage"))
    yield server
    server.close()


def test_every_way_of_asking_is_counted_for_its_key(usage_server):
    server = usage_server
    user = server.new_user("ways@example.com")
    one, two = server.new_key(user), server.new_key(user)
    session = server.new_session(user)["access_token"]
    assert server.get("/api/v1/usage", key=session).json()["data"] == [], "nothing yet"

    plain = server.chat(key=one["key"], n=2).json()["usage"]
    text = server.post(
        "/api/v1/completions", {"model": MODEL, "prompt": ["One", "Two three"], "max_tokens": 3}, key=two["key"]
    ).json()["usage"]
    with server.stream(key=session, max_tokens=5, stream_options={"include_usage": True}) as stream:
        streamed = stream.read()[-1]["usage"]

    # An answer that has ended is counted: nothing to wait for.
    expected = plus(of(plain), of(text), of(streamed))
    assert total(server.get("/api/v1/usage", key=session)) == expected

    page = server.get("/api/v1/usage?group_by=key,model", key=session).json()
    assert (page["object"], page["has_more"], page["next_page"]) == ("page", False, None)
    (bucket,) = page["data"]
    assert (bucket["object"], bucket["date"]) == ("bucket", today())
    assert bucket["end_time"] - bucket["start_time"] == 86400
    by_key = {result["api_key_id"]: result for result in bucket["results"]}
    assert set(by_key) == {one["id"], two["id"], None}
    assert {result["model"] for result in bucket["results"]} == {
        server.get(f"/api/v1/models/{MODEL}", key=session).json().get("root", MODEL)
    }
    assert by_key[one["id"]]["output_tokens"] == plain["completion_tokens"]
    assert by_key[two["id"]]["input_tokens"] == text["prompt_tokens"]
    assert by_key[None]["output_tokens"] == streamed["completion_tokens"]
    assert all(result["user_id"] is None for result in bucket["results"]), "not asked for"

    # An administrator sees the same of that user, and others only their own.
    assert total(server.get(f"/api/v1/admin/usage?user={user}", key=server.admin_key)) == expected
    assert server.get("/api/v1/admin/usage", key=session).status == 403
    other = server.new_key(server.new_user("other@example.com"))["key"]
    assert server.get("/api/v1/usage", key=other).json()["data"] == []
    assert server.get("/api/v1/usage").status == 401
    assert server.get(f"/api/v1/usage?user={user}", key=other).error["param"] == "user"


def test_callers_without_a_credential_are_one_principal(usage_server):
    server = usage_server
    path = "/api/v1/admin/usage?user=anonymous&group_by=user"
    before = total(server.get(path, key=server.admin_key))
    used = of(server.chat().json()["usage"])
    after = server.get(path, key=server.admin_key)
    assert total(after) == plus(before, used)
    assert {r["user_id"] for r in after.json()["data"][0]["results"]} == {"anonymous"}


def test_refused_requests_are_not_counted(usage_server):
    server = usage_server
    key = server.new_key(server.new_user("refused@example.com"))["key"]
    assert server.chat(key=key, temperature=9).status == 400
    assert server.post("/api/v1/chat/completions", {"model": "none", "messages": []}, key=key).status in (400, 404)
    assert server.get("/api/v1/usage", key=key).json()["data"] == []


def test_an_abandoned_stream_counts_what_was_generated(usage_server):
    server = usage_server
    key = server.new_key(server.new_user("gone@example.com"))["key"]
    with server.stream(key=key, max_tokens=200, logit_bias=ENDLESS) as stream:
        events = stream.events()
        for _ in range(6):
            next(events)
    wait_until(lambda: total(server.get("/api/v1/usage", key=key))[3] >= 4, "what it generated is counted")
    requests, prompt, _, output = total(server.get("/api/v1/usage", key=key))
    assert requests == 1 and prompt > 0 and 4 <= output <= 200


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("start=yesterday", "start"),
        ("end=2026-13-01", "end"),
        ("start=2026-02-01&end=2026-01-01", "start"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("group_by=user", "group_by"),
        ("after=last", "after"),
    ],
)
def test_wrong_parameters_are_named(usage_server, query, param):
    key = usage_server.new_session(usage_server.new_user(f"{os.urandom(4).hex()}@example.com"))["access_token"]
    answer = usage_server.get(f"/api/v1/usage?{query}", key=key)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_days_outside_are_left_out(usage_server):
    key = usage_server.new_key(usage_server.new_user("days@example.com"))["key"]
    assert usage_server.chat(key=key).status == 200
    assert len(usage_server.get(f"/api/v1/usage?start={today()}", key=key).json()["data"]) <= 2
    assert usage_server.get("/api/v1/usage?start=2020-01-01&end=2020-12-31", key=key).json()["data"] == []
    assert usage_server.get("/api/v1/usage?after=9999-12-31", key=key).json()["data"] == []


def test_tokens_of_a_resumed_request_are_counted_once(tmp_path):
    server = Server(tmp_path)
    key = server.new_key(server.new_user())["key"]
    with server.stream(key=key, max_tokens=120, logit_bias=ENDLESS, stream_options={"include_usage": True}) as stream:
        events = stream.events()
        seen = [next(events) for _ in range(10)]
        os.kill(server.worker(), signal.SIGKILL)
        seen += list(events)
    usage = seen[-1]["usage"]
    assert usage["completion_tokens"] == 120
    assert total(server.get("/api/v1/usage", key=key)) == of(usage)
    server.close()


def test_a_stopped_server_has_counted_everything(tmp_path):
    server = Server(tmp_path)
    key = server.new_key(server.new_user())["key"]
    used = plus(*(of(server.chat(key=key).json()["usage"]) for _ in range(3)))
    server.terminate()
    assert server.process.wait(60) == 0
    server.close()
    server = Server(tmp_path, wait="live")
    assert total(server.get("/api/v1/usage", key=key)) == used
    server.close()


def test_a_killed_server_has_counted_what_it_answered_and_nothing_twice(tmp_path):
    key, answered, sent = None, (0, 0, 0, 0), 0
    for _ in range(3):
        server = Server(tmp_path)
        if key is None:
            key = server.new_key(server.new_user())["key"]
        lock, results, asked = threading.Lock(), [], []
        stop = threading.Event()

        def ask(server=server, lock=lock, results=results, asked=asked, stop=stop):
            while not stop.is_set():
                with lock:
                    asked.append(1)
                try:
                    answer = server.chat(key=key)
                except OSError:
                    return
                with lock:
                    results.append(of(answer.json()["usage"]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda results=results: len(results) >= 12, "some answers")
        server.kill()
        stop.set()
        for thread in threads:
            thread.join()
        answered = plus(answered, *results)
        sent += len(asked)
    server = Server(tmp_path, wait="live")
    counted = total(server.get("/api/v1/usage", key=key))
    # All that was answered, and at most what was on its way when the server died besides.
    assert answered[0] <= counted[0] <= sent
    assert answered[1] <= counted[1] and answered[3] <= counted[3] <= 8 * sent
    server.close()


def test_what_a_deleted_user_used_stays_in_the_totals_without_a_name(tmp_path):
    server = Server(tmp_path)
    user = server.new_user()
    key = server.new_key(user)
    used = of(server.chat(key=key["key"]).json()["usage"])
    assert server.delete(f"/api/v1/admin/users/{user}", key=server.admin_key).status == 200
    report = server.get("/api/v1/admin/usage?group_by=user,key", key=server.admin_key)
    assert total(report) == used
    (result,) = report.json()["data"][0]["results"]
    assert (result["user_id"], result["api_key_id"]) == ("deleted", None)
    server.close()
