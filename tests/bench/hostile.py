#!/usr/bin/env python3
"""Attacks of one caller while another chats: how long the other waits, and the memory that it takes.

    .venv/bin/python tests/bench/hostile.py [--seconds 6] [ATTACK ...]

`JAN_SERVER_BIN` chooses the binary, `JAN_TEST_MODEL` the model, as for the suite. Each attack has a server of its own with
small caches. Prints a row for each: the neighbour's time to the first token, alone (median) and beside the attack (the
longest), the median of `/livez` beside it, and the peaks of both processes, with the goals in the last row. The suite
holds the bounds that depend on no machine (tests/python/test_hostile_*.py).
"""

import argparse
import pathlib
import socket
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
from attacks import ATTACKS, SETTINGS, watch  # noqa: E402
from harness import Server  # noqa: E402

GOALS = ("goal", "", "2.000", "0.100", "512", "1024")


def measure(name, seconds, folder):
    server = Server(folder, config=SETTINGS)
    try:
        seen = watch(server, name, seconds)
    finally:
        server.close()
    longest, alive = max(seen.beside), statistics.median(seen.alive_beside)
    times = (statistics.median(seen.alone), longest, alive)
    return (name, *(f"{value:.3f}" for value in times), *(f"{value:.0f}" for value in seen.peaks))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=6, help="how long each attack is watched (6)")
    arguments.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of these: {', '.join(ATTACKS)}")
    given = arguments.parse_args()
    socket.setdefaulttimeout(120)
    columns = ("attack", "alone, s", "beside it, s", "/livez, s", "server, MiB", "worker, MiB")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name in given.attacks or ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = measure(name, given.seconds, pathlib.Path(folder))
            except (AssertionError, OSError, ValueError) as error:
                row = (name, f"failed: {str(error)[:80]}", "", "", "", "")
        print("| " + " | ".join(row) + " |", flush=True)
    print("| " + " | ".join(GOALS) + " |")


if __name__ == "__main__":
    main()
