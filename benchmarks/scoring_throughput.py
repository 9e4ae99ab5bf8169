"""How near the scoring runner comes to a bare HTTP client, what a quota costs, and whether memory grows.

    python benchmarks/scoring_throughput.py
    python benchmarks/scoring_throughput.py --latency 0.5 --concurrency 256
    python benchmarks/scoring_throughput.py --quota 90 --concurrency 32
    python benchmarks/scoring_throughput.py --memory 100000

A server in a process of its own answers every request after a fixed time. The ideal rate is concurrency / latency.
Every answer of the runner goes through the openai client, the parser and the ledger, commits synced to disk, as in
`sllmr score`. The bare client is the AsyncClient that the openai library is built on, which posts bodies that are
ready and reads the JSON of the answers; the two take turns, with as many requests each.
With --quota the server grants so many requests a minute: from a bucket of tokens that holds --burst of them, refuses
the others at once with 429, and the number of attempts is counted; with --headers it tells what is left, with
--retry-after how long to wait. With --memory the same process asks that many requests with no latency, then goes
through them again (all of them read from the ledger), and prints its resident memory on the way.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import openai

from sllmr_plugin.scoring.client import OpenAIClient
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.prices import RunLimits
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.requests import ScoringRequest
from sllmr_plugin.scoring.run import run

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


async def post_bare(bodies, base_url, concurrency):
    """Post bodies with the client under the openai library, and nothing else."""
    waiting = iter(bodies)
    headers = {"Authorization": "Bearer unused", "Content-Type": "application/json"}
    bare = openai.DefaultAsyncHttpxClient.__base__  # httpx.AsyncClient; newer versions of the library bring their own
    httpx = sys.modules[bare.__module__.partition(".")[0]]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with bare(timeout=60, limits=limits, headers=headers) as client:

        async def work():
            for body in waiting:
                response = await client.post(f"{base_url}/chat/completions", content=body)
                assert response.status_code == 200
                response.json()

        await asyncio.gather(*(work() for _ in range(concurrency)))


def ask_bare(requests, base_url, concurrency):
    """Return seconds of wall clock and of this process's processor time."""
    client, questions = OpenAIClient("bench", base_url=base_url), Questions("bench")
    asked = [(request, questions.first(request)) for request in requests]
    bodies = [
        json.dumps(client.body(question.messages, request.n_candidates, question.parameters)).encode()
        for request, question in asked
    ]
    wall, processor = time.perf_counter(), time.process_time()
    asyncio.run(post_bare(bodies, base_url, concurrency))
    return time.perf_counter() - wall, time.process_time() - processor


def rates(base_url, latency, seconds, rounds, concurrencies, folder):
    load = os.getloadavg()[0]
    print(f"latency {latency} s, {os.cpu_count()} cores with a load of {load:.1f} before this, ledger on {folder}\n")
    print("                        requests/s                   processor ms a request")
    print("concurrency  requests  ideal   bare  runner  runner/bare   bare  runner")
    first = 0
    with Ledger(folder / "rates.sqlite") as ledger:
        ask(Requests(10**9, 8), ledger, base_url, 8)  # imports and connections are not what is measured
        for concurrency in concurrencies:
            count = max(10, round(seconds * concurrency / latency))
            for _ in range(rounds):
                bare = ask_bare(Requests(first, count), base_url, concurrency)
                runner = ask(Requests(first, count), ledger, base_url, concurrency)
                first += count
                print(
                    f"{concurrency:11d} {count:9d} {concurrency / latency:6.0f} {count / bare[0]:6.1f} "
                    f"{count / runner[0]:7.1f} {bare[0] / runner[0]:12.1%} {1000 * bare[1] / count:6.2f} "
                    f"{1000 * runner[1] / count:7.2f}",
                    flush=True,
                )


def quota(base_url, count, concurrencies, folder):
    print("concurrency   answers   attempts   attempts an answer   seconds")
    first = 0
    with Ledger(folder / "quota.sqlite") as ledger:
        for concurrency in concurrencies:
            before = attempts(base_url)
            wall, _ = ask(Requests(first, count), ledger, base_url, concurrency)
            made = attempts(base_url) - before
            first += count
            print(f"{concurrency:11d} {count:9d} {made:10d} {made / count:20.2f} {wall:9.1f}", flush=True)


def attempts(base_url):
    """Ask the server how many completions it has been asked for."""
    with urllib.request.urlopen(f"{base_url}/attempts") as response:
        return int(response.read())


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
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64, 256], metavar="N")
    parser.add_argument("--rounds", type=int, default=1, help="of bare client and runner, by turns (default: 1)")
    parser.add_argument("--quota", type=float, metavar="N", help="requests a minute that the server grants")
    parser.add_argument("--burst", type=int, metavar="N", help="that its bucket holds (default: as --quota)")
    parser.add_argument("--headers", action="store_true", help="have the server tell what is left of the quota")
    parser.add_argument("--retry-after", action="store_true", help="have the server tell how long to wait")
    parser.add_argument("--answers", type=int, default=120, metavar="N", help="to ask for with --quota (default: 120)")
    arguments = parser.parse_args()
    latency = 0.0 if arguments.memory else arguments.latency
    os.environ.setdefault("OPENAI_API_KEY", "unused")
    command = [sys.executable, "-m", "tests.scoring_server", "--latency", str(latency)]
    if arguments.quota:
        command += ["--quota", str(arguments.quota), "--burst", str(arguments.burst or round(arguments.quota))]
        command += ["--headers"] * arguments.headers + ["--retry-after"] * arguments.retry_after
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        base_url = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            if arguments.memory:
                memory(base_url, arguments.memory, Path(folder))
            elif arguments.quota:
                quota(base_url, arguments.answers, arguments.concurrency, Path(folder))
            else:
                settings = arguments.seconds, arguments.rounds, arguments.concurrency
                rates(base_url, latency, *settings, Path(folder))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
