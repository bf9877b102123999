#!/usr/bin/env python3
"""Runs the serving benchmark against Jan Server and, with --llama-dir, against llama.cpp's own programs in the
same sitting, and prints the ratios. docs/benchmarks.md says how to build those programs and what is compared.

    .venv/bin/python tests/bench/compare.py --llama-dir PATH/TO/llama.cpp/build/bin
"""

import argparse
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/python"))
from gguf_vocab import Vocabulary  # noqa: E402

SCENARIOS = ("raw", "throughput", "shared-prefix", "interference", "structured", "spin")
WIDTHS = "1,4,8,16"


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


def benchmark_tool(given):
    """The benchmark program; built if need be, from the same artefacts as the server."""
    if given:
        return given
    command = ["cargo", "bench", "--locked", "--bench", "serving", "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "serving":
            return message["executable"]
    sys.exit("error: cargo built no benchmark program")


@contextlib.contextmanager
def running(command, log, ready, env=None):
    """Runs a server in the block; `ready(log text)` gives its address once it answers."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=os.environ | (env or {})
        )
    try:
        end = time.monotonic() + 120
        while True:
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"error: {command[0]} did not start:\n{pathlib.Path(log).read_text(errors='replace')[-3000:]}")
            with contextlib.suppress(OSError):
                if url := ready(pathlib.Path(log).read_text(errors="replace")):
                    break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


def jan(options, folder, server=None):
    def ready(log):
        found = re.search(r"http://127\.0\.0\.1:\d+", log)
        if found and json.loads(get(f"{found[0]}/v1/models/bench"))["status"] == "ready":
            return found[0]
        return None

    command = [server or options.server, "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{folder}/data"]
    # Nobody signs in here, and the guests' limit is less than the turns make requests.
    limits = {f"JAN_SERVER__RATE_LIMITS__{name}": "1000000" for name in ("ANONYMOUS_PER_HOUR", "INFERENCE_PER_MINUTE")}
    env = {"JAN_SERVER__ENGINE__THREADS": str(options.threads)} | limits | dict(pair.split("=", 1) for pair in options.jan_env)
    config = f"[[models]]\nid = 'bench'\npath = '{options.model}'\n"
    if getattr(options, "draft_model", None):
        config += f"draft_path = '{options.draft_model}'\n"
    pathlib.Path(folder, "jan-server.toml").write_text(config)
    return running([*command, "--config", f"{folder}/jan-server.toml"], f"{folder}/jan.log", ready, env)


def llama_server(options, folder):
    def ready(_log):
        get("http://127.0.0.1:18099/health")
        return "http://127.0.0.1:18099"

    # A unified KV cache is its default with an automatic number of slots; it lets every slot use the whole.
    command = [f"{options.llama_dir}/llama-server", "-m", options.model, "-t", str(options.threads), "--port", "18099"]
    return running([*command, "-np", "16", "-kvu", "-c", "32768"], f"{folder}/llama-server.log", ready)


def batched_bench(options, width, *more):
    """The raw engine's decode rate (`speed_tg`) at a width."""
    command = [
        f"{options.llama_dir}/llama-batched-bench", "-m", options.model, "-t", str(options.threads), "-c", "8192",
        "-b", "2048", "-ub", "512", "-npp", "64", "-ntg", str(options.tokens), "-npl", str(width), "--output-format",
        "jsonl", *more,
    ]  # fmt: skip
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    (row,) = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return row["speed_tg"]


def against_raw_engine(options, tool, ban):
    """This server's decode rate beside the raw engine's, in short turns: a neighbour on a shared machine slows a
    turn down and never speeds it up, so the best turn of each is the nearest to what it can do, and the ratio of
    neighbouring turns suffers least from what changes slowly. The raw engine with a unified KV cache (`-kvu`), without
    which no beginning can be shared, is measured once a width: it shows what of the difference is the engine's."""
    result = {}
    with tempfile.TemporaryDirectory() as folder, jan(options, folder) as url:
        for width in map(int, WIDTHS.split(",")):
            turns = []
            for number in range(options.turns):
                say(f"{width} streams, turn {number + 1} of {options.turns}")
                command = [tool, "throughput", "--url", url, "--model", "bench", "--ban", ban]
                command += ["--tokens", str(options.tokens), "--streams", str(width)]
                row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["rows"][0]
                turns.append((row["decode_tokens_per_s"], batched_bench(options, width)))
            ours, raw = zip(*turns, strict=True)
            unified = batched_bench(options, width, "-kvu")
            result[width] = {
                "turns": turns,
                "best": [max(ours), max(raw)],
                "raw_unified": unified,
                "ratio_of_best": max(ours) / max(raw),
                "median_ratio": statistics.median(a / b for a, b in turns),
            }
    return result


def scenario_of(options, tool, url, ban, scenario, streams=WIDTHS):
    """One scenario against one server."""
    command = [tool, scenario, "--url", url, "--model", "bench", "--ban", ban]
    if scenario in ("throughput", "structured", "spin"):
        command += ["--tokens", str(options.tokens)]
    if scenario == "throughput":
        command += ["--streams", streams]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(options, tool, url, ban, name):
    results = {}
    for scenario in options.only:
        say(f"{name}: {scenario}")
        results[scenario] = scenario_of(options, tool, url, ban, scenario)
        time.sleep(1)
    return results


def beside_another(options, tool, ban):
    """Two jan-server binaries, in turns of one scenario (and width) each, the order changing from turn to turn. A
    neighbour on a shared machine slows a turn down and never speeds it up, so the best turns are compared, and the
    median of the turns' ratios is printed beside them."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        urls = []
        for number, server in enumerate((options.server, options.beside)):
            os.mkdir(f"{folder}/{number}")
            urls.append(stack.enter_context(jan(options, f"{folder}/{number}", server)))
        for scenario in options.only:
            for width in WIDTHS.split(",") if scenario == "throughput" else [""]:
                for turn in range(options.turns):
                    say(f"{scenario} {width}, turn {turn + 1} of {options.turns}")
                    pair = {}
                    for which in (0, 1) if turn % 2 else (1, 0):
                        result = scenario_of(options, tool, urls[which], ban, scenario, width)
                        pair[which] = figures([{"jan": {scenario: result}}], "jan")
                    for name in pair[0]:
                        found.setdefault(name, []).append((pair[0][name], pair[1][name]))
    return found


def beside_table(found):
    lines = [f"{'':46}{'here':>14}{'beside':>14}{'of the best':>14}{'median ratio':>14}"]
    for name, turns in found.items():
        best = max if "tok/s" in name or "share" in name or "of free" in name or "finished" in name else min
        here, there = (best(values) for values in zip(*turns, strict=True))
        if there:
            median = statistics.median(a / b for a, b in turns if b)
            lines.append(f"{name:46}{here:14.3f}{there:14.3f}{here / there:14.3f}{median:14.3f}")
    return "\n".join(lines)


def figures(rounds, who):
    """The numbers that are compared, each the median over the rounds."""
    found = {}

    def add(name, value):
        found.setdefault(name, []).append(value)

    for each in rounds:
        results = each.get(who) or {}
        for row in results.get("throughput", {}).get("rows", []):
            n = row["streams"]
            add(f"decode tok/s, {n} streams", row["decode_tokens_per_s"])
            add(f"output tok/s with prompts, {n} streams", row["output_tokens_per_s"])
            add(f"TTFT p50 ms, {n} streams", row["ttft"]["p50_ms"])
            add(f"TTFT p99 ms, {n} streams", row["ttft"]["p99_ms"])
            add(f"inter-token p50 ms, {n} streams", row["inter_token"]["p50_ms"])
            add(f"inter-token p99 ms, {n} streams", row["inter_token"]["p99_ms"])
        if shared := results.get("shared-prefix"):
            add("shared prefix: slowest TTFT ms", shared["slowest_ttft_ms"])
            add("shared prefix: prompt tokens read", shared["prompt_tokens_read"])
        if busy := results.get("interference"):
            add("interference: steady inter-token p99 ms", busy["steady_inter_token"]["p99_ms"])
            add("interference: long prompts finished", busy["long_prompts_finished"])
            add("interference: all done after s", busy["all_done_s"])
        if structured := results.get("structured"):
            add("structured: tok/s, 8 streams", structured["best_structured_tokens_per_s"])
            add("structured: free text tok/s, 8 streams", structured["best_free_tokens_per_s"])
            add("structured: of free text (median of turns)", structured["median_ratio"])
        if spin := results.get("spin"):
            add("spin: kept share of the decode rate", spin["kept"])
    return {name: statistics.median(values) for name, values in found.items()}


def table(columns):
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = [f"{'':46}" + "".join(f"{title:>16}" for title in columns)]
    for name in names:
        cells = ""
        for title, column in columns.items():
            value = column.get(name)
            cells += f"{value:16.3f}" if value is not None else f"{'-':>16}"
        lines.append(f"{name:46}{cells}")
    return "\n".join(lines)


def ratios(ours, theirs):
    return {name: ours[name] / theirs[name] for name in ours if theirs.get(name)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ROOT / "target/test-models/SmolLM2-135M-Instruct.Q4_1.gguf", type=pathlib.Path)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    parser.add_argument("--server", default=target / "release/jan-server", help="the jan-server binary")
    parser.add_argument("--tool", help="the benchmark program; default: cargo builds it")
    parser.add_argument("--llama-dir", help="folder of llama-server and llama-batched-bench")
    parser.add_argument("--beside", help="another jan-server binary; the two are compared in alternating turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=1, help="repeat everything, alternating; medians are compared")
    parser.add_argument("--turns", type=int, default=6, help="turns beside the raw engine or --beside")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--jan-env", nargs="*", default=[], metavar="KEY=VALUE", help="settings of jan-server")
    parser.add_argument("--out", default=ROOT / "bench-results", type=pathlib.Path, help="folder for the JSON")
    options = parser.parse_args()
    options.model = str(options.model.resolve())
    tool = benchmark_tool(options.tool)
    ban = ",".join(map(str, Vocabulary(options.model).end_of_generation))

    raw = {}
    if "raw" in options.only and options.llama_dir:
        raw = against_raw_engine(options, tool, ban)
    options.only = [scenario for scenario in options.only if scenario != "raw"]
    if options.beside:
        found = beside_another(options, tool, ban)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "beside.json").write_text(json.dumps(found, indent=2))
        print(beside_table(found))
        return

    rounds = []
    for number in range(options.rounds if options.only else 0):
        say(f"round {number + 1} of {options.rounds}")
        each = {}
        with tempfile.TemporaryDirectory() as folder:
            with jan(options, folder) as url:
                each["jan"] = measure(options, tool, url, ban, "jan-server")
            if options.llama_dir:
                with llama_server(options, folder) as url:
                    each["llama"] = measure(options, tool, url, ban, "llama-server")
        rounds.append(each)

    columns = {"jan-server": figures(rounds, "jan")}
    if options.llama_dir:
        columns["llama-server"] = figures(rounds, "llama")
        columns["jan/llama"] = ratios(columns["jan-server"], columns["llama-server"])
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "compare.json"
    path.write_text(json.dumps({"model": pathlib.Path(options.model).name, "threads": options.threads,
                                "raw": raw, "figures": columns, "rounds": rounds}, indent=2))  # fmt: skip
    for width, found in raw.items():
        ours, engine = found["best"]
        print(f"{width:>3} streams: {ours:6.1f} tok/s, raw engine {engine:6.1f} ({found['raw_unified']:.1f} with a unified "
              f"cache); of the best turns {found['ratio_of_best']:.3f}, median of the turns {found['median_ratio']:.3f}")  # fmt: skip
    if rounds:
        print(table(columns))
    say(f"everything is in {path}")


if __name__ == "__main__":
    main()
