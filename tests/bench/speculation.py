#!/usr/bin/env python3
"""Measures drafts (`engine.speculation`): tokens a second with them and without, in turns, where an answer repeats its prompt and
where it does not.

    .venv/bin/python tests/bench/speculation.py --model MODEL.gguf --turns 5

docs/benchmarks.md says what the workloads are."""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import compare
from compare import ROOT, say

ARTICLE = """The harbour of Velmora was built between 1874 and 1881 by the engineer Ada Brinkmann, who had studied in Zurich and \
Leeds. Its two breakwaters are 1,240 and 860 metres long and enclose a basin of 47 hectares. The first steamer, the Corvina, \
arrived on 3 May 1881 with 212 passengers and a cargo of copper wire, tea and sewing machines. In the winter of 1902 a storm \
broke the eastern breakwater at three places; the repairs took fourteen months and cost 318,000 crowns, most of which the city \
borrowed from the Bank of Trieste. The lighthouse at the northern end has had an electric lamp since 1911, and its light can be \
seen from a distance of 21 nautical miles. Today the harbour serves fishing boats, ferries to the islands of Sarn and Olwe, and \
about ninety sailing yachts; the old customs house is a museum of navigation with some 4,000 objects.
"""

CODE = '''def read_orders(path, limit):
    """Reads the orders of a file, at most `limit` of them."""
    orders = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.strip():
                continue
            fields = line.rstrip().split(";")
            if len(fields) != 4:
                raise ValueError(f"{path}: a line has {len(fields)} fields: {line!r}")
            number, customer, amount, currency = fields
            orders.append({"number": int(number), "customer": customer, "amount": float(amount), "currency": currency})
            if len(orders) >= limit:
                break
    return orders


def total_of_orders(orders, currency):
    """The sum of the orders in one currency."""
    total = 0.0
    for order in orders:
        if order["currency"] == currency:
            total += order["amount"]
    return total
'''

NEW_CODE = CODE.replace("limit", "maximum")

EXTRACT = f"The report:\n\n{ARTICLE}\nThe report, copied word for word:\n\n{ARTICLE}\nOnce more:\n\n{ARTICLE[:140]}"
EDITED = CODE.replace("orders", "sales")
EDIT = f"""# Before:

{CODE}

# After `orders` was renamed to `sales`:

{EDITED}

# After `limit` was renamed to `maximum`, with the old names:

{CODE.replace("limit", "maximum")[:200]}"""
STORY = "Once upon a time there was a small house by the river, and"

#: Streams, prompt and temperature. Completions that a small model has no other choice than to continue with what is there: one
#: copy and one change have been made, the next is under way.
WORKLOADS = {
    "extractive": (1, EXTRACT, 0),
    "code edit": (1, EDIT, 0),
    "free text": (1, STORY, 1),
    "free text, greedy": (1, "It was a long winter, and nobody in the village", 0),
    "8 x free text": (8, STORY, 1),
}


def ask(options, url, prompt, temperature, seed):
    body = {"model": "bench", "prompt": prompt, "max_tokens": options.tokens, "temperature": temperature, "seed": seed}
    body |= {"stream": True, "stream_options": {"include_usage": True}, "logit_bias": {str(token): -100 for token in options.ban}}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    first, tokens, text = None, 0, ""
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            first = first or time.perf_counter()
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            text += "".join(choice.get("text") or "" for choice in event["choices"])
    return first, time.perf_counter(), tokens, text


def turn(options, url, streams, prompt, temperature, number):
    """Tokens a second from the last stream's first event on, and the texts."""
    seeds = [number * 100 + stream for stream in range(streams)]
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        done = list(pool.map(lambda seed: ask(options, url, prompt, temperature, seed), seeds))
    begin, end = min(first for first, *_ in done), max(end for _, end, *_ in done)
    return sum(tokens for *_, tokens, _ in done) / (end - begin), [text for *_, text in done]


def wait_for_quiet(longest):
    """Waits until nothing else uses the cores, or for so many seconds."""
    times = lambda: list(map(int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]))
    end = time.monotonic() + longest
    while time.monotonic() < end:
        before = times()
        time.sleep(0.5)
        used = [new - old for new, old in zip(times(), before, strict=True)]
        if used[3] > 0.95 * sum(used):
            break


def children(parent):
    """The processes that a process has started."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def processor_time(pids):
    """Seconds of processor time that these processes have used."""
    fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(of_one[11]) + int(of_one[12]) for of_one in fields) / os.sysconf("SC_CLK_TCK")


def counts(log):
    """Drafts computed and accepted so far."""
    found = re.findall(r"drafted\W+(\d+)\W+accepted\W+(\d+)", re.sub(r"\x1b\[[0-9;]*m", "", pathlib.Path(log).read_text(errors="replace")))
    return [sum(int(pair[index]) for pair in found) for index in (0, 1)]


def batch_curve(options):
    """The time of a step by its tokens, in that of a step of one token, as the raw engine reads short prompts."""
    lengths = (2, 3, 4, 6, 8, 12, 16, 24, 32)
    command = [
        f"{options.llama_dir}/llama-batched-bench", "-m", options.model, "-t", str(options.threads), "-c", "2048", "-npl", "1",
        "-ntg", "64", "-npp", ",".join(map(str, lengths)), "--output-format", "jsonl",
    ]  # fmt: skip
    best = {}
    for _ in range(3):
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        for row in (json.loads(line) for line in out.splitlines() if line.startswith("{")):
            for tokens, seconds in ((row["pp"], row["t_pp"]), (1, row["t_tg"] / row["tg"])):
                best[tokens] = min(seconds, best.get(tokens, seconds))
    return [(tokens, best[tokens] / best[1]) for tokens in sorted(best)]


def bound(curve, tokens, drafted, accepted):
    """The ratio that the curve allows where so many drafts are made and right: an answer takes a step for each token that no draft
    was right about, and all steps are of one size."""
    steps = tokens - accepted
    size = 1 + drafted / steps
    (low, at_low), (high, at_high) = next(pair for pair in zip(curve, curve[1:]) if size <= pair[1][0] or pair[1] == curve[-1])
    return tokens / steps / (at_low + (at_high - at_low) * (size - low) / (high - low))


def spread(ratios):
    ratios = sorted(ratios)
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}..{ratios[-1]:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default=str(ROOT / "target/release/jan-server"))
    parser.add_argument("--model", default=str(ROOT / "target/test-models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--wait", type=float, default=10, help="most seconds to wait for a quiet machine before each turn")
    parser.add_argument("--only", action="append", choices=WORKLOADS)
    parser.add_argument("--draft-model", help="a smaller model that makes drafts beside the lookup")
    parser.add_argument("--llama-dir", help="folder of llama-batched-bench, for the bound that its batch curve gives at one stream")
    parser.add_argument("--show", action="store_true", help="print the answers")
    parser.add_argument("--jan-env", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.ban = sorted(compare.Vocabulary(options.model).end_of_generation)
    env = list(options.jan_env)
    curve = batch_curve(options) if options.llama_dir else None
    if curve:
        say("time of a step by its tokens: " + ", ".join(f"{tokens}: {time:.2f}" for tokens, time in curve))
    print("| workload | best tok/s off | auto | auto / off of the best | of neighbouring turns | by processor time | drafted | accepted | share of the bound |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with contextlib.ExitStack() as stack:
        urls, folders, workers = {}, {}, {}
        for mode in ("off", "auto"):
            folders[mode] = stack.enter_context(tempfile.TemporaryDirectory())
            older = children(os.getpid())
            options.jan_env = [*env, f"JAN_SERVER__ENGINE__SPECULATION={mode}", "JAN_SERVER__LOG__LEVEL=info,jan_engine=debug"]
            urls[mode] = stack.enter_context(compare.jan(options, folders[mode]))
            [server] = set(children(os.getpid())) - set(older)
            workers[mode] = children(server)
        for name, (streams, prompt, temperature) in WORKLOADS.items():
            if options.only and name not in options.only:
                continue
            rates, ratios, used, before = {"off": [], "auto": []}, [], {"off": 0.0, "auto": 0.0}, counts(f"{folders['auto']}/jan.log")
            for number in range(options.turns + 1):
                say(f"{name}, turn {number} of {options.turns}")
                found, texts = {}, {}
                for mode in ("off", "auto") if number % 2 else ("auto", "off"):
                    wait_for_quiet(options.wait)
                    begin = processor_time(workers[mode])
                    found[mode], texts[mode] = turn(options, urls[mode], streams, prompt, temperature, number)
                    if number > 0:
                        used[mode] += processor_time(workers[mode]) - begin
                if options.show and number == 0:
                    say(f"{texts['auto'][0]}\n{texts['auto'] == texts['off']}")
                # The first turn reads the prompts, the others have them cached.
                if number > 0:
                    for mode, rate in found.items():
                        rates[mode].append(rate)
                    ratios.append(found["auto"] / found["off"])
            drafted, accepted = (new - old for new, old in zip(counts(f"{folders['auto']}/jan.log"), before, strict=True))
            best = {mode: max(of_mode) for mode, of_mode in rates.items()}
            share = f"{accepted / drafted:.2f}" if drafted else "-"
            of_bound = "-"
            if curve and streams == 1:
                most = bound(curve, options.tokens * (options.turns + 1), drafted, accepted)
                of_bound = f"{statistics.median(ratios) / most:.2f} of {most:.2f}"
            print(f"| {name} | {best['off']:.0f} | {best['auto']:.0f} | {best['auto'] / best['off']:.2f} | {spread(ratios)} | {used['off'] / used['auto']:.3f} | {drafted} | {share} | {of_bound} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
