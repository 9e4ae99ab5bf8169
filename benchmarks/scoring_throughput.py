"""How near the scoring runner comes to the rate that concurrency and latency allow, and whether its memory grows.

    python benchmarks/scoring_throughput.py
    python benchmarks/scoring_throughput.py --memory 100000

A server in a process of its own answers every request after a fixed time. The ideal rate is concurrency / latency.
Every answer goes through the openai client, the parser and the ledger, commits synced to disk, as in `sllmr score`.
With --memory the same process asks that many requests with no latency, then goes through them again (all of them
read from the ledger), and prints its resident memory on the way.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.openai_client import OpenAIClient
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.request import ScoringRequest
from sllmr_plugin.scoring.run import run
from sllmr_plugin.scoring.run_summary import RunLimits

ROOT = Path(__file__).parent.parent


class Requests:
    """Requests made as they are needed, 20 candidates and 10 titles of history each."""

    def __init__(self, first, count):
        self.first, self.count = first, count

    def __len__(self):
        return self.count

    def __iter__(self):
        for user in range(self.first, self.first + self.count):
            history = tuple(f"Something that user {user} bought, number {k}" for k in range(10))
            titles = tuple(f"Item {(user * 7 + k * 13) % 5000}: a title of the usual length" for k in range(20))
            yield ScoringRequest(user, history, tuple(range(20)), titles)


def resident_mebibytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def ask(requests, ledger, base_url, concurrency):
    """Return seconds of wall clock and of this process's processor time."""
    client = OpenAIClient("bench", base_url=base_url)
    wall, processor = time.perf_counter(), time.process_time()
    summary = run(
        requests, Questions("bench"), client, ledger, limits=RunLimits(concurrency=concurrency), verbose=False
    )
    assert summary.unanswered == summary.failed == 0, summary
    return time.perf_counter() - wall, time.process_time() - processor


def rates(base_url, latency, seconds, folder):
    load = os.getloadavg()[0]
    print(f"latency {latency} s, {os.cpu_count()} cores with a load of {load:.1f} before this, ledger on {folder}\n")
    print("concurrency   requests   requests/s   ideal   share of ideal   processor ms a request")
    first = 0
    with Ledger(folder / "rates.sqlite") as ledger:
        ask(Requests(10**9, 8), ledger, base_url, 8)  # imports and connections are not what is measured
        for concurrency in (1, 8, 64, 256):
            count = max(10, round(seconds * concurrency / latency))
            wall, processor = ask(Requests(first, count), ledger, base_url, concurrency)
            first += count
            rate, ideal = count / wall, concurrency / latency
            print(
                f"{concurrency:11d} {count:10d} {rate:12.1f} {ideal:7.0f} {rate / ideal:16.1%} "
                f"{1000 * processor / count:24.2f}",
                flush=True,
            )


def memory(base_url, total, folder):
    parts = 10
    with Ledger(folder / "memory.sqlite") as ledger:
        for turn in ("asked", "read from the ledger"):
            print(f"\n{turn:>20}   seconds   resident MiB")
            for part in range(parts):
                count = total // parts
                wall, _ = ask(Requests(part * count, count), ledger, base_url, 64)
                print(f"{(part + 1) * count:20d} {wall:9.1f} {resident_mebibytes():14.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=1.0, metavar="SECONDS", help="of the server (default: 1)")
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long at each concurrency (default: 20)")
    parser.add_argument("--memory", type=int, metavar="N", help="watch memory over N requests instead")
    arguments = parser.parse_args()
    latency = 0.0 if arguments.memory else arguments.latency
    os.environ.setdefault("OPENAI_API_KEY", "unused")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.scoring_server", "--latency", str(latency)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        base_url = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            if arguments.memory:
                memory(base_url, arguments.memory, Path(folder))
            else:
                rates(base_url, latency, arguments.seconds, Path(folder))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
