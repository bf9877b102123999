"""Nobody takes the places of others: answers a minute, and shares of a model's queue; on the real binary."""

import contextlib
import threading
import time

from harness import ENDLESS, MODEL, stopped, wait_until

CHAT = "/api/v1/chat/completions"
COMPLETIONS = "/api/v1/completions"
EMBEDDINGS = "/api/v1/embeddings"


def limits(**settings):
    return {f"JAN_SERVER__RATE_LIMITS__{name.upper()}": value for name, value in settings.items()}


def members(server, *names):
    return [server.new_key(server.new_user(f"{name}@places.example", name))["key"] for name in names]


def complete(server, key, prompts=1, **fields):
    body = {"model": MODEL, "prompt": "A" if prompts == 1 else ["A"] * prompts, "max_tokens": 1}
    return server.post(COMPLETIONS, body | fields, key=key)


def test_answers_are_limited_beside_requests(make_server):
    own = make_server(env=limits(inference_per_minute=10, answers_per_minute=20))
    ann, bob = members(own, "ann", "bob")
    for answer, field in [
        (own.chat(n=21, key=ann), "n"),
        (complete(own, ann, prompts=3, n=8), "n"),
        (complete(own, ann, best_of=21), "best_of"),
        (complete(own, ann, prompts=21), "prompt"),
    ]:
        assert (answer.status, answer.error["param"], answer.error["code"]) == (400, field, "invalid_value"), answer
        assert "20" in answer.error["message"] and "rate_limits.answers_per_minute" in answer.error["message"]
    assert own.chat(n=20, max_tokens=1, key=ann).status == 200
    refused = own.chat(n=2, max_tokens=1, key=ann)
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded"), refused
    assert "20 answers a minute" in refused.error["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 6
    # What is shown are the requests, six of which were made.
    assert int(refused.headers["X-RateLimit-Limit"]) == 10
    assert 4 <= int(refused.headers["X-RateLimit-Remaining"]) <= 6
    assert own.chat(n=20, max_tokens=1, key=bob).status == 200, "somebody else's"
    time.sleep(int(refused.headers["Retry-After"]))
    assert own.chat(n=2, max_tokens=1, key=ann).status == 200
    body = {"model": MODEL, "input": "Hello", "max_output_tokens": 16}
    assert own.post("/api/v1/responses", body, key=ann).status == 429, "a response is an answer"


def test_embeddings_are_no_answers(make_server):
    own = make_server(env=limits(inference_per_minute=3, answers_per_minute=3))
    (ann,) = members(own, "ann")
    assert own.post(EMBEDDINGS, {"model": MODEL, "input": ["a"] * 50}, key=ann).status == 200
    assert own.chat(max_tokens=1, key=ann).status == 200
    assert own.chat(max_tokens=1, key=ann).status == 200


def test_sixty_requests_for_one_answer_pass_in_a_minute_and_their_headers_are_the_references(make_server):
    own = make_server(env=limits(inference_per_minute=60))
    (ann,) = members(own, "ann")
    answers = []
    for number in range(60):
        match number % 3:
            case 0:
                answers.append(own.chat(max_tokens=1, key=ann))
            case 1:
                answers.append(complete(own, ann))
            case _:
                body = {"model": MODEL, "input": "Hello", "max_output_tokens": 16, "store": False}
                answers.append(own.post("/api/v1/responses", body, key=ann))
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"60"}
    remaining = [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers[:3]]
    # One may have come back meanwhile.
    assert remaining[0] == 59 and remaining[2] in (57, 58)
    # By default ten times as many answers, which one request may ask for at once.
    (bob,) = members(own, "bob")
    assert complete(own, bob, prompts=5, n=121).error["param"] == "n"


def test_keys_and_users_with_limits_of_their_own(make_server):
    own = make_server(env=limits(inference_per_minute=60))
    user = own.new_user()
    narrow = own.new_key(user, limits={"inference_per_minute": 2})["key"]
    named = own.new_key(user, limits={"answers_per_minute": 3})
    assert named["limits"] == {"answers_per_minute": 3}
    assert "20 answers" in own.chat(n=21, key=narrow).error["message"]
    assert "3 answers" in own.chat(n=4, key=named["key"]).error["message"]
    assert own.chat(n=3, max_tokens=1, key=named["key"]).status == 200
    assert own.chat(max_tokens=1, key=named["key"]).status == 429
    assert own.chat(n=4, max_tokens=1, key=own.new_key(user)["key"]).status == 200
    path = f"/api/v1/admin/users/{user}"
    assert own.patch(path, {"limits": {"answers_per_minute": 2000}}, key=own.admin_key).status == 200
    whole = own.new_key(user)["key"]
    assert complete(own, whole, prompts=8, n=100).status == 200
    assert own.patch(path, {"limits": {"inference_per_minute": 30}}, key=own.admin_key).status == 200
    assert "300 answers" in complete(own, whole, prompts=5, n=61).error["message"]


def begin(own, key, path, **fields):
    """A request under way: a list that its answer goes to."""
    answers = []

    def run():
        # The server may be ended first.
        with contextlib.suppress(OSError):
            answers.append(own.post(path, {"model": MODEL} | fields, key=key))

    threading.Thread(target=run, daemon=True).start()
    return answers


def occupy(own, key):
    """An attack with all 1,024 places but 8, whose answers take minutes: a list that its answer goes to."""
    # Longer than the cells together hold, so that the engine is short of them, too.
    fields = {"prompt": ["Once"] * 8, "n": 127, "max_tokens": 1900, "logit_bias": ENDLESS}
    for _ in range(20):
        attack = begin(own, key, COMPLETIONS, **fields)
        time.sleep(0.5)
        # A probe that came first may have had too many of the places.
        if own.chat(n=9, max_tokens=1, key=key).status == 503 and not attack:
            return attack
        wait_until(lambda attack=attack: attack, "an attack that was refused has ended", 30)
    raise AssertionError("the attack never had its places")


def test_a_thousand_answers_do_not_hold_others_up(make_server):
    """Neither places nor running sequences nor KV cells are one caller's: others go on while the attack does."""
    own = make_server()
    ann, bob = members(own, "ann", "bob")

    def chat():
        begun = time.monotonic()
        answer = own.chat(key=bob, max_tokens=4)
        assert answer.status == 200, answer
        return time.monotonic() - begun

    usual = sorted(chat() for _ in range(5))[2]
    attack = occupy(own, ann)
    rest = begin(own, ann, COMPLETIONS, prompt="Once", n=8, max_tokens=1900, logit_bias=ENDLESS)
    time.sleep(0.5)
    took = sorted(chat() for _ in range(9))[4]
    embedded = own.post(EMBEDDINGS, {"model": MODEL, "input": ["a", "b"]}, key=bob)
    assert embedded.status == 200, embedded
    assert own.post("/api/v1/tokenize", {"model": MODEL, "content": "Once"}, key=bob).status == 200
    assert (attack, rest) == ([], []), "its work is not over"
    # A guard against hanging: the attack's answers take seconds each.
    assert took < max(10 * usual, 10), (took, usual)


def test_a_caller_beside_others_has_no_more_than_a_share(make_server):
    own = make_server(config="[queue]\nmax_requests = 8\n")
    ann, bob, cleo = members(own, "ann", "bob", "cleo")
    hello = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}

    def is_full(answer):
        assert (answer.status, answer.error["code"]) == (503, "queue_full"), answer
        assert int(answer.headers["Retry-After"]) >= 1

    with stopped(own.worker()):
        waiting = [begin(own, ann, CHAT, n=7, **hello)]
        time.sleep(0.5)
        waiting += [begin(own, bob, CHAT, n=4, **hello)]
        time.sleep(0.5)
        is_full(own.chat(key=bob))
        is_full(own.chat(key=ann))
        is_full(own.chat(n=3, key=cleo))
        is_full(own.post(EMBEDDINGS, {"model": MODEL, "input": ["a"] * 17}, key=cleo))
        waiting += [begin(own, cleo, EMBEDDINGS, input=["a"] * 16)]
        time.sleep(0.5)
        is_full(own.chat(key=cleo))
        assert waiting == [[], [], []]
    for answers in waiting:
        wait_until(lambda answers=answers: answers, "an answer", 30)
        assert answers[0].status == 200, answers
    # All places are back.
    assert own.chat(n=8, max_tokens=1, key=ann).status == 200
    is_full(own.chat(n=9, max_tokens=1, key=ann))
