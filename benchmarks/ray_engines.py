"""The engine ray beside the local one: ``python benchmarks/ray_engines.py --data FOLDER``.

FOLDER holds ``interactions.csv`` and ``items.csv`` as `sllmr compare` takes them. Two things are done by both engines
in turn, and the ratio local / ray of their times is printed, above 1 where Ray is faster: scoring requests by a server
in a process of its own that answers after a fixed time, and ranking all test interactions with DeepFM. The start of
Ray and of its workers is left out of the times and printed by itself. The processor time that this process takes for a
request bounds the requests a second that it can command, however many workers there are. Fails if results differ.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from full_ranking import build
from scoring_throughput import ROOT, Requests

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.parallel.engine import RayEngine
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.prices import RunLimits
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.ray import run_on_ray
from sllmr_plugin.scoring.run import run
from sllmr_plugin.scoring.settings import ServerSettings


class Timed(Requests):
    """Requests that note when they are first gone through: the start of workers lies before that."""

    first_began = None

    def __iter__(self):
        if self.first_began is None:
            self.first_began = time.perf_counter(), time.process_time()
        yield from super().__iter__()


def score(engine, server, concurrency, requests, path):
    """Return the seconds before the first request and after it, and this process's processor time after it."""
    questions, limits = Questions("bench"), RunLimits(concurrency=concurrency)
    start = time.perf_counter()
    with Ledger(path) as ledger:
        if engine is None:
            summary = run(requests, questions, server.client(), ledger, limits=limits, verbose=False)
        else:
            summary = run_on_ray(requests, questions, server, ledger, engine, limits=limits, verbose=False)
        wall, processor = time.perf_counter(), time.process_time()
        assert summary.asked == len(requests), summary
        scores = {request.user_id: answer.scores for request, answer in questions.stored_answers(requests, ledger)}
    began = requests.first_began
    return began[0] - start, wall - began[0], processor - began[1], scores


def compare_scoring(engine, latency, concurrency, n_requests, repeats):
    serving = subprocess.Popen(
        [sys.executable, "-m", "tests.scoring_server", "--latency", str(latency)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    times = {None: [], engine: []}
    try:
        server = ServerSettings("bench", base_url=serving.stdout.readline().strip())
        with tempfile.TemporaryDirectory() as folder:
            for repeat in range(repeats + 1):
                results = []
                for one in times:
                    requests = Timed(0, n_requests)
                    *measured, scores = score(
                        one, server, concurrency, requests, Path(folder) / f"{repeat}-{one is None}.sqlite"
                    )
                    results.append(scores)
                    if repeat:  # the first turn is for imports and connections
                        times[one].append(measured)
                assert results[0] == results[1], "the engines' scores differ"
    finally:
        serving.terminate()
        serving.wait()
    return [np.median(np.array(measured), axis=0) for measured in times.values()]


def compare_ranking(engine, folder, repeats):
    data = load_interactions(folder / "interactions.csv", folder / "items.csv")
    model = build("deepfm", data)
    times = {None: [], engine: []}
    for _ in range(repeats):
        found = []
        for one in times:
            start = time.perf_counter()
            found.append(full_ranking(model, data, engine=one, verbose=False))
            times[one].append(time.perf_counter() - start)
        pd.testing.assert_frame_equal(*found, check_exact=True)
    return [statistics.median(seconds) for seconds in times.values()], data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("OPENAI_API_KEY", "unused")
    load = os.getloadavg()[0]
    start = time.perf_counter()
    with RayEngine(arguments.workers) as engine:
        print(f"{os.cpu_count()} cores with a load of {load:.1f} before this, {arguments.workers} workers")
        print(f"start of Ray: {time.perf_counter() - start:.1f} s\n")
        print("scoring    concurrency   local req/s     ray req/s   local / ray   start s   ms here: local      ray")
        for latency, concurrency in ((0.5, 16), (0.5, 64), (0.0, 64)):
            local, there = compare_scoring(engine, latency, concurrency, arguments.requests, arguments.repeats)
            rates = arguments.requests / local[1], arguments.requests / there[1]
            here = 1000 * local[2] / arguments.requests, 1000 * there[2] / arguments.requests
            print(
                f"{latency:>4} s {concurrency:16d} {rates[0]:13.1f} {rates[1]:13.1f} {local[1] / there[1]:12.2f}x "
                f"{there[0]:9.1f} {here[0]:16.2f} {here[1]:8.2f}",
                flush=True,
            )
        (local_seconds, ray_seconds), data = compare_ranking(engine, arguments.data, arguments.repeats)
        print(
            f"\nranking {len(data.test)} test interactions against {data.n_items} items: local {local_seconds:.1f} s, "
            f"ray {ray_seconds:.1f} s, local / ray {local_seconds / ray_seconds:.2f}x; results equal to the bit"
        )


if __name__ == "__main__":
    main()
