#!/usr/bin/env python3
"""Streams chat completions with the openai package, as most clients do, and prints throughput and times as JSON.

    .venv/bin/python tests/bench/python_client.py streams --url http://127.0.0.1:8080 --streams 8
    .venv/bin/python tests/bench/python_client.py conversations --url http://127.0.0.1:8080

docs/benchmarks.md says what is compared."""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time

import openai

WORDS = "the house stands by a river and people come from far to see how old it is while birds sing in trees all day".split()


def unlike(words):
    """A text that no cache has seen."""
    return f"{random.getrandbits(30)}: " + " ".join(random.choices(WORDS, k=words))


async def stream(client, options, messages):
    """One streamed answer: its text, its tokens and the times of its events."""
    sent, events, text, usage = time.perf_counter(), [], "", None
    answer = await client.chat.completions.create(
        model=options.model, messages=messages, max_tokens=options.tokens, temperature=0, stream=True,
        stream_options={"include_usage": True}, logit_bias={str(token): -100 for token in options.ban},
    )  # fmt: skip
    async for chunk in answer:
        usage = chunk.usage or usage
        if chunk.choices and (piece := chunk.choices[0].delta.content):
            events.append(time.perf_counter())
            text += piece
    return text, usage, sent, events


async def streams(client, options):
    async def one():
        return await stream(client, options, [{"role": "user", "content": unlike(options.words) + " Tell a long story."}])

    return await asyncio.gather(*(one() for _ in range(options.streams)))


async def conversations(client, options):
    """Conversations side by side, each of some turns; the whole history is sent with each turn."""

    async def one():
        messages, answers = [], []
        for _ in range(options.turns):
            messages.append({"role": "user", "content": unlike(options.words) + " Go on."})
            answers.append(await stream(client, options, messages))
            messages.append({"role": "assistant", "content": answers[-1][0]})
        return answers

    return [answer for talk in await asyncio.gather(*(one() for _ in range(options.streams))) for answer in talk]


async def run(options):
    async with openai.AsyncOpenAI(base_url=options.url.rstrip("/") + "/v1", api_key="none", max_retries=0) as client:
        # Not measured: the first request pays for connections and pages that no later one does.
        await stream(client, argparse.Namespace(**vars(options) | {"tokens": 8}), [{"role": "user", "content": unlike(8)}])
        begin = time.perf_counter()
        answers = await {"streams": streams, "conversations": conversations}[options.scenario](client, options)
        wall = time.perf_counter() - begin
    tokens = sum(usage.completion_tokens for _, usage, _, _ in answers)
    gaps = sorted(1e3 * (b - a) for *_, events in answers for a, b in itertools.pairwise(events))
    firsts = sorted(1e3 * (events[0] - sent) for _, _, sent, events in answers)
    return {
        "streams": options.streams, "tokens": tokens, "wall_s": wall, "output_tokens_per_s": tokens / wall,
        "prompt_tokens": sum(usage.prompt_tokens for _, usage, _, _ in answers),
        "ttft": {"p50_ms": statistics.median(firsts), "max_ms": firsts[-1]},
        "inter_token": {"p50_ms": statistics.median(gaps), "p99_ms": gaps[int(0.99 * (len(gaps) - 1))]},
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=["streams", "conversations"])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", default="jan-v1-4b")
    parser.add_argument("--streams", type=int, default=8, help="streams or conversations at a time")
    parser.add_argument("--words", type=int, default=64, help="words of each message, about one token each")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--turns", type=int, default=6, help="turns of each conversation")
    parser.add_argument("--ban", type=lambda text: [int(token) for token in text.split(",") if token], default=[],
                        help="tokens that end an answer")  # fmt: skip
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
