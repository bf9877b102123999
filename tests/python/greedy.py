"""Compares greedy answers where floating point leaves a choice.

The same request can be computed in another order: beside other sequences, from the prefix cache, in other
chunks. The last bits of the logits then differ, and where two tokens are nearly equally likely, so can the
greedy choice. Such a difference is accepted, but only where it is *shown* that the two best candidates were
close, from outside and exactly: if raising a candidate's logit by `TIE` makes it the choice, and raising the
other's makes that one the choice, then their log-probabilities are at most `TIE` apart.
"""

import os
import os.path

from harness import VOCABULARY, delta

TIE = 0.05
CHAT = "/api/v1/chat/completions"
TEXT = "/api/v1/completions"


def pieces_of(server, path=CHAT, **request):
    """The answer as the pieces that its stream brings, about one a token."""
    with server.stream(path, **request) as stream:
        return [delta(event) for event in stream.events() if delta(event)]


def assert_same_text(server, path, request, expected, actual):
    """`actual` (text) is what `expected` (pieces) say, or parts from it at a shown tie; returns whether it does.

    `request` is the request that both come from, without streaming and with temperature 0.
    """
    if actual == "".join(expected):
        return False
    same, prefix = 0, ""
    while same < len(expected) and actual.startswith(prefix + expected[same]):
        prefix += expected[same]
        same += 1
    first = expected[same] if same < len(expected) else ""
    rest = actual[len(prefix) :]
    where = f"after {prefix[-60:]!r}: {first!r} or {rest[:20]!r}"
    shown = chosen_when_raised(server, path, request, prefix, first, rest) and chosen_when_raised(
        server, path, request, prefix, rest, first
    )
    if not shown and os.environ.get("JAN_TEST_MODEL"):
        # A real model's bias reaches every earlier position too, so a tie that is there is often not shown.
        # What a lost or doubled token looks like is refused all the same.
        assert not shifted(expected[same:], rest), f"a token is lost or doubled {where}"
        print(f"parted, tie not shown, {where}")
        return True
    assert shown, f"the texts differ, and not at a tie, {where}"
    print(f"tie {where}")
    return True


def shifted(expected, rest):
    """Whether `rest` goes on as `expected` (pieces) does, but for up to three pieces more or fewer."""
    whole = "".join(expected)
    without = ["".join(expected[skip:]) for skip in (1, 2, 3)]
    with_more = [rest[skip:] for skip in range(1, 40)]
    least = 24
    return any(len(text) >= least and rest.startswith(text[:least]) for text in without) or any(
        len(whole) >= least and text.startswith(whole[:least]) for text in with_more
    )


def chosen_when_raised(server, path, request, prefix, wanted, other):
    """Whether the answer goes from `prefix` to `wanted` rather than to `other` once the logits of all tokens
    that `wanted` can begin with are raised by `TIE`. "" stands for the end of the answer."""
    tokens = beginnings(wanted) if wanted else VOCABULARY.end_of_generation
    bias = dict(request.get("logit_bias") or {}) | {str(token): TIE for token in tokens}
    answer = server.post(path, request | {"logit_bias": bias, "stream": False}).json()["choices"][0]
    text = answer["message"]["content"] if path == CHAT else answer["text"]
    if not wanted:
        return text == prefix and answer["finish_reason"] == "stop"
    # As far as tells the two apart.
    apart = len(os.path.commonprefix([wanted, other])) + 1
    return text.startswith(prefix + wanted[:apart])


def beginnings(text):
    """Every token whose text is a beginning of this text."""
    data = text.encode()
    return [i for i, piece in enumerate(VOCABULARY.pieces) if piece and data.startswith(piece)]
