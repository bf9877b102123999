"""Compares greedy answers where floating point leaves a choice.

The same request can be computed in another order: beside other sequences, from the prefix cache, in other
chunks. The last bits of the logits then differ, and where two tokens are nearly equally likely, so can the
greedy choice. Such a difference is accepted, but only where it is *shown* to be a tie: the log-probabilities of the
two tokens, as the server gives them for an undisturbed run, are the two best at that step and at most `TIE` apart.

How far apart the same step can come out is the engine's matter. Attention sums up in the order of a sequence's cells, and
activations are rounded to 8 bits before each product, so that the smallest difference in a sum is either lost or becomes one
of such a step: with SmolLM2-135M the lead of the likeliest token over the next moves by 0.1 on average and by 0.55 at
worst. With `engine.reproducible` it does not move at all, and a given model runs with that (harness.py); the bundled one
shows that ties of the default are close ones.
"""

import os.path

from harness import delta

TIE = 0.05
CHAT = "/api/v1/chat/completions"
TEXT = "/api/v1/completions"


class Token:
    """One token of an answer, and the log-probabilities of the likeliest at its position by their bytes."""

    def __init__(self, data, logprob, top):
        self.data = data
        self.logprob = logprob
        self.top = top

    def __repr__(self):
        return repr(self.data.decode(errors="replace"))


def chat_tokens(choice):
    """The tokens of a chat choice (of a chunk, too) that was asked for with `logprobs`."""
    content = (choice.get("logprobs") or {}).get("content") or []
    return [
        Token(bytes(t["bytes"]), t["logprob"], best_of((bytes(c["bytes"]), c["logprob"]) for c in t["top_logprobs"]))
        for t in content
    ]


def text_tokens(choice):
    """The same of a completion."""
    given = choice["logprobs"]
    return [
        Token(raw(token), logprob, best_of((raw(text), value) for text, value in top.items()))
        for token, logprob, top in zip(given["tokens"], given["token_logprobs"], given["top_logprobs"], strict=True)
    ]


def best_of(candidates):
    """Of tokens with the same bytes (all that end the answer have none) the likeliest counts."""
    best = {}
    for data, logprob in candidates:
        best[data] = max(logprob, best.get(data, logprob))
    return best


def raw(text):
    """A completion's token as bytes."""
    if text.startswith("bytes:\\x"):
        return bytes.fromhex(text[6:].replace("\\x", ""))
    return text.encode()


def pieces_of(server, path=CHAT, **request):
    """The answer as the pieces that its stream brings, about one a token."""
    with server.stream(path, **request) as stream:
        return [delta(event) for event in stream.events() if delta(event)]


def tokens_of(server, path, **request):
    """An answer's tokens with their likeliest rivals."""
    wanted = {"logprobs": True, "top_logprobs": 20} if path == CHAT else {"logprobs": 5}
    choice = server.post(path, request | wanted | {"stream": False}).json()["choices"][0]
    return chat_tokens(choice) if path == CHAT else text_tokens(choice)


def assert_same_tokens(expected, actual, banned=()):
    """`actual` is what `expected` is, or parts from it at a shown tie; returns whether it parts."""
    same = len(os.path.commonprefix([[t.data for t in expected], [t.data for t in actual]]))
    if same == len(expected) == len(actual):
        return False
    assert same < len(expected), f"{actual[same:]} come behind the end, where no tie can be shown"
    # An answer that has ended chose a token without bytes.
    chosen = actual[same].data if same < len(actual) else b""
    assert_tie(expected[same].top, expected[same].data, chosen, expected[max(0, same - 8) : same], banned)
    return True


def assert_tie(top, one, other, before, banned=()):
    """Both are there, nothing else is likelier than either, and they are close."""
    where = f"after {before}: {one!r} or {other!r} of {top}"
    assert one in top and other in top, f"the texts differ, and not at a tie, {where}"
    gap = abs(top[one] - top[other])
    rivals = [data for data, logprob in top.items() if logprob > max(top[one], top[other]) + TIE and data not in banned]
    assert gap <= TIE and not rivals, f"the texts differ, and not at a tie, {where}"
    print(f"tie of {gap:.4f} {where}")


def assert_same_text(server, path, request, expected, actual):
    """`actual` (text) is what `expected` (pieces or text) says, or parts from it at a shown tie; returns whether it
    does.

    `request` is the request that both come from, without streaming and with temperature 0.
    """
    expected = "".join(expected)
    if actual == expected:
        return False
    parting = len(os.path.commonprefix([expected.encode(), actual.encode()]))
    # Whatever the likeliest is, it may be banned: only endings are, in the tests that do.
    banned = {b""} if request.get("logit_bias") else ()
    for _ in range(8):
        tokens = tokens_of(server, path, **request)
        at = 0
        for index, token in enumerate(tokens):
            if at + len(token.data) > parting or not expected.encode().startswith(data_of(tokens[: index + 1])):
                break
            at += len(token.data)
        else:
            index = len(tokens)
        # Another tie came before: this run says nothing of ours.
        if not expected.encode().startswith(data_of(tokens[:index])) or index == len(tokens):
            continue
        one = likeliest(tokens[index].top, expected.encode()[at:])
        other = likeliest(tokens[index].top, actual.encode()[at:])
        if one == other:
            continue
        assert_tie(tokens[index].top, one, other, tokens[max(0, index - 8) : index], banned)
        return True
    raise AssertionError(f"the texts differ, and no undisturbed run comes to that step: {expected!r}, {actual!r}")


def data_of(tokens):
    return b"".join(token.data for token in tokens)


def likeliest(top, rest):
    """The likeliest candidate that `rest` can begin with; without a rest, the end. None where there is none."""
    fitting = [data for data in top if (rest.startswith(data) and data if rest else not data)]
    return max(fitting, key=top.get, default=None)
