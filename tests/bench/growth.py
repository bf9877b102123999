#!/usr/bin/env python3
"""Measures how the rates grow with the work: from 1 to 32 streams, from 64 to 4,096 tokens of prompt, with and without a
shared beginning, with an ordinary Python client, and in conversations. Jan Server, llama.cpp's server and its raw engine with
own streams and with a unified cache run in turns; ratios are those of neighbouring turns.

    .venv/bin/python tests/bench/growth.py --llama-dir PATH/TO/llama.cpp/build/bin

docs/benchmarks.md says how to build these programs and what the workloads are."""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import compare
from compare import ROOT, jan, running, say

PYTHON_CLIENT = pathlib.Path(__file__).with_name("python_client.py")
SHARED = 1024
#: Streams and words of a prompt, about one token each.
GOALS = [(streams, words) for words in (64, 512, 1024) for streams in (4, 8, 16)]
GROWTH = [(streams, 64) for streams in (1, 2, 4, 8, 16, 32)] + [(4, words) for words in (256, 1024, 4096)]


def workloads(options):
    """Name, arguments of the Rust client or None, of the Python client or None, and of the raw engine or None."""
    rust = lambda streams, words, *more: ["throughput", "--streams", str(streams), "--prompt-words", str(words), *more]
    raw = lambda streams, *more: ["-npl", str(streams), *more]
    pairs = dict.fromkeys((GOALS if "unshared" in options.parts else []) + (GROWTH if "growth" in options.parts else []))
    for streams, words in pairs:
        yield f"{streams} x {words}", rust(streams, words), None, raw(streams)
    if "shared" in options.parts:
        shared = ["--shared-words", str(SHARED)]
        yield f"8 x {SHARED} shared", rust(8, 16, *shared), None, raw(8, "-pps")
        yield f"8 x {SHARED}, half shared", rust(8, 16, *shared, "--share-every", "2"), None, None
    if "mixed" in options.parts:
        for streams in (4, 8):
            yield f"prompts of 500 beside {streams}", ["mixed", "--streams", str(streams)], None, None
    if "python" in options.parts:
        for streams in (1, 4, 8, 16):
            yield f"{streams} x 64, Python client", None, ["streams", "--streams", str(streams)], None
    if "conversations" in options.parts:
        yield "6 conversations of 6 turns, Python client", None, ["conversations", "--streams", "6"], None


def llama_server(options, folder):
    def ready(_log):
        compare.get("http://127.0.0.1:18099/health")
        return "http://127.0.0.1:18099"

    command = [f"{options.llama_dir}/llama-server", "-m", options.model, "-t", str(options.threads), "--port", "18099"]
    # Without -kvu, each slot has a stream of its own with an equal part of the cells.
    return running([*command, "-np", str(options.slots), "-c", str(options.llama_cells)], f"{folder}/llama.log", ready)


def raw_rate(options, arguments, *more):
    """The decode rate of the raw engine; None if its context is too small for this."""
    command = [
        f"{options.llama_dir}/llama-batched-bench", "-m", options.model, "-t", str(options.threads), "-c", str(options.cells),
        "-b", "2048", "-ub", "512", "-ntg", str(options.tokens), "--output-format", "jsonl", *arguments, *more,
    ]  # fmt: skip
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return rows[0]["speed_tg"] if rows else None


def ask(options, tool, url, rust, python):
    """The figures of one turn of one server."""
    command = [tool, *rust] if rust else [sys.executable, str(PYTHON_CLIENT), *python]
    command += ["--url", url, "--model", "bench", "--ban", options.ban]
    if "mixed" not in command:
        command += ["--tokens", str(options.tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)}:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout)
    return result["rows"][0] if "rows" in result else result


def spread(pairs):
    """Median, lowest and highest ratio of neighbouring turns."""
    ratios = sorted(a / b for a, b in pairs if a and b)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})" if ratios else "-"


def columns(turns):
    """The ratios of one workload, by what is compared."""
    of = lambda who, *keys: [value(turn.get(who), keys) for turn in turns]
    pair = lambda ours, theirs: spread(zip(ours, theirs, strict=True))
    found = {}
    if any("llama" in turn for turn in turns):
        found["output tok/s"] = pair(of("jan", "output_tokens_per_s"), of("llama", "output_tokens_per_s"))
        found["TTFT p50"] = pair(of("jan", "ttft", "p50_ms"), of("llama", "ttft", "p50_ms"))
        found["inter-token p50"] = pair(of("jan", "inter_token", "p50_ms"), of("llama", "inter_token", "p50_ms"))
        found["inter-token p99"] = pair(of("jan", "inter_token", "p99_ms"), of("llama", "inter_token", "p99_ms"))
    if any(of("jan", "share_of_apart")):
        for who, name in (("jan", "share of apart"), ("llama", "llama-server's share")):
            found[name] = spread([(share, 1) for share in of(who, "share_of_apart")])
    if any("own" in turn for turn in turns):
        ours = of("jan", "decode_tokens_per_s")
        found["decode / own streams"] = pair(ours, of("own"))
        found["decode / unified"] = pair(ours, of("unified"))
    return found


def value(figures, keys):
    for key in keys:
        figures = (figures or {}).get(key)
    return figures


def table(found):
    names = list(dict.fromkeys(name for turns in found.values() for name in columns(turns)))
    lines = ["| workload | output tok/s | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for workload, turns in found.items():
        best = max(turn["jan"].get("output_tokens_per_s", 0) for turn in turns)
        cells = columns(turns)
        lines.append(f"| {workload} | {best:.0f} | " + " | ".join(cells.get(name, "-") for name in names) + " |")
    return "\n".join(lines)


def plots(found):
    """Best decode rates as Mermaid charts: over the streams, and over the words of the prompt."""
    blocks = []
    for title, shown in (
        ("decode tok/s by streams, 64 tokens of prompt", [pair for pair in GROWTH if pair[1] == 64]),
        ("decode tok/s by tokens of prompt, 4 streams", sorted((pair for pair in GROWTH if pair[0] == 4), key=lambda pair: pair[1])),
    ):
        turns = [found.get(f"{streams} x {words}") for streams, words in shown]
        if not all(turns):
            continue
        axis = [streams if len({words for _, words in shown}) == 1 else words for streams, words in shown]
        lines = [f'xychart-beta\n    title "{title}"\n    x-axis {axis}']
        for who, keys in (("jan", ["decode_tokens_per_s"]), ("llama", ["decode_tokens_per_s"]), ("own", []), ("unified", [])):
            rates = [max((value(turn.get(who), keys) or 0 for turn in each), default=0) for each in turns]
            if any(rates):
                lines.append(f"    line {[round(rate) for rate in rates]}")
        blocks.append("```mermaid\n" + "\n".join(lines) + "\n```\n")
    return "\n".join(blocks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["unshared", "growth", "shared", "mixed", "python", "conversations"]
    parser.add_argument("--model", default=ROOT / "target/test-models/SmolLM2-135M-Instruct.Q4_1.gguf", type=pathlib.Path)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    parser.add_argument("--server", default=target / "release/jan-server", help="the jan-server binary")
    parser.add_argument("--tool", help="the benchmark program; default: cargo builds it")
    parser.add_argument("--llama-dir", help="folder of llama-server and llama-batched-bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--cells", type=int, default=32768, help="KV cells of jan-server and of the raw engine")
    parser.add_argument("--llama-cells", type=int, default=147456, help="KV cells of llama-server, divided among its slots")
    parser.add_argument("--slots", type=int, default=32, help="streams at a time of each server")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads whose name begins with one of these")
    parser.add_argument("--jan-env", nargs="*", default=[], metavar="KEY=VALUE", help="settings of jan-server")
    parser.add_argument("--out", default=ROOT / "bench-results/growth.json", type=pathlib.Path)
    options = parser.parse_args()
    options.model = str(options.model.resolve())
    options.ban = ",".join(map(str, compare.Vocabulary(options.model).end_of_generation))
    # A slow machine may read the prompts of 16 streams for minutes.
    options.jan_env += [
        f"JAN_SERVER__ENGINE__KV_CELLS={options.cells}", f"JAN_SERVER__ENGINE__MAX_SEQUENCES={options.slots}",
        "JAN_SERVER__QUEUE__MAX_WAIT_MS=3600000",
    ]  # fmt: skip
    tool = compare.benchmark_tool(options.tool)

    found = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        urls = {"jan": stack.enter_context(jan(options, folder))}
        if options.llama_dir:
            urls["llama"] = stack.enter_context(llama_server(options, folder))
        for name, rust, python, raw in workloads(options):
            if options.only and not name.startswith(tuple(options.only)):
                continue
            for number in range(options.turns):
                say(f"{name}, turn {number + 1} of {options.turns}")
                order = list(urls)[:: -1 if number % 2 else 1]
                turn = {who: ask(options, tool, urls[who], rust, python) for who in order}
                if raw and options.llama_dir:
                    # As long as the servers' prompts, with the chat template.
                    row = turn["jan"]
                    raw_prompt = [*raw, "-npp", str(round(row["prompt_tokens"] / row["streams"]))]
                    turn |= {"own": raw_rate(options, raw_prompt), "unified": raw_rate(options, raw_prompt, "-kvu")}
                found.setdefault(name, []).append(turn)
            # What was measured is kept if the run is cut short.
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=2))
    print(table(found))
    print(plots(found))
    say(f"everything is in {options.out}")


if __name__ == "__main__":
    main()
