"""Score tables from a million pairs to a hundred: ``python benchmarks/score_table.py --folder /tmp/tables``.

For every size, one after the other and each in a process of its own, so that memory is its own: parquet files are
generated (users in random order, 20 candidates each), built into a folder of memory-mapped arrays, opened, and
drawn from as a training does: `usable_scores` with a training row a user, then steps of 64 users. ``rss`` is the most
resident memory the process ever had, ``while drawing`` the most it had between steps; both count the libraries,
some 350 MB. Look-ups (drawing users, reading their candidates' items and scores) are compared with the processor time
of a step of plain DeepFM at two settings; a model with a million users would take longer. The whole plan is
look-ups, choice of pairs and input rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import step_overhead
import torch

from sllmr_plugin import ScoreTable, SelectiveConfig
from sllmr_plugin.handle import Handle
from sllmr_plugin.training.rows import ArrayRows, Features
from sllmr_plugin.training.session import TrainingSession

PER_USER, N_ITEMS, FILE_ROWS = 20, 1_000_003, 5_000_000  # a prime number of items
STEPS = 2000


def generate(n_pairs: int, folder: Path) -> dict[str, float]:
    rng = np.random.default_rng(0)
    users = rng.permutation(n_pairs // PER_USER)
    (folder / "scores").mkdir(parents=True)
    per_file = FILE_ROWS // PER_USER
    for number, first in enumerate(range(0, len(users), per_file)):
        some = users[first : first + per_file]
        start, stride = rng.integers(1, N_ITEMS, (2, len(some), 1))
        columns = {
            "user_id": np.repeat(some, PER_USER),
            "item_id": ((start + stride * np.arange(PER_USER)) % N_ITEMS).ravel(),
            "score": rng.integers(0, 101, len(some) * PER_USER) / 100,
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "scores" / f"part-{number:04}.parquet")
    return {"MB": size_of(folder / "scores")}


def build(n_pairs: int, folder: Path) -> dict[str, float]:
    table = ScoreTable.build(folder / "scores", folder / "table")
    assert len(table.candidates) == n_pairs
    return {"MB": size_of(folder / "table")}


def open_table(n_pairs: int, folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    ScoreTable.open(folder / "table")
    return {"open": time.perf_counter() - start}


def draw(n_pairs: int, folder: Path) -> dict[str, float]:
    table = ScoreTable.open(folder / "table")
    n_users = n_pairs // PER_USER
    rng = np.random.default_rng(1)
    x = [np.arange(n_users), rng.integers(0, N_ITEMS, n_users)]
    layout = {"user_id": (0, 1), "item_id": (1, 2)}
    features = Features("user_id", "item_id", ("item_id",), layout, n_users, N_ITEMS)
    config = SelectiveConfig(gate="none", users_per_step=64)
    options: dict[str, Any] = {"task": 0, "item_values": None, "shapes": {}, "user_index": None, "item_index": None}
    handle = Handle("DeepFM", features, table, config, **options)
    start = time.perf_counter()
    usable = handle.usable(ArrayRows(x, np.ones(n_users, dtype=np.float32), layout, n_users))
    prepared = time.perf_counter() - start
    columns: dict[str, Any] = {"user_column": 0, "item_column": 1}
    session = TrainingSession(
        config, handle.gate, usable, score_rows=lambda rows: (rows, rows, rows), seed=0, **columns
    )
    session.begin_epoch(0)
    batch, looked_up, most = torch.zeros(128, 2), 0.0, 0.0
    start = time.process_time()
    for step in range(STEPS):
        session.plan(batch)
        if step % 5 == 0:
            most = max(most, resident())
    planned = time.process_time() - start
    sampler, scored = session._sampler, usable.candidates
    start = time.process_time()
    for _ in range(STEPS):
        block = sampler.draw(64)
        entry = block.entry[block.valid]
        scored.scores[entry], scored.items[entry]
    looked_up = time.process_time() - start
    return {
        "prepare": prepared,
        "drawing MB": most,
        "plan ms": planned / STEPS * 1000,
        "look-up ms": looked_up / STEPS * 1000,
    }


def plain_step(setting: str, folder: Path) -> dict[str, float]:
    dim, batch_size, n_users, n_items = step_overhead.SETTINGS[setting]
    x, y, _ = step_overhead.data(40 * batch_size, n_users, n_items)
    model = step_overhead.build("deepfm", dim, n_users, n_items)
    model.compile("adam", "binary_crossentropy")
    times = [step_overhead.seconds(model, x, y, batch_size, time.process_time) / 40 * 1000 for _ in range(6)]
    return {"step ms": float(np.median(times[1:]))}


def size_of(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*")) / 1e6


def resident() -> float:
    """Return the megabytes that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def in_child(job: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Run a job in a process of its own; add its seconds and its peak resident memory in megabytes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, job, arguments).result()


def _measured(job: Callable[..., dict[str, float]], arguments: tuple) -> dict[str, float]:
    torch.set_num_threads(1)
    start, busy = time.perf_counter(), time.process_time()
    result = job(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    spent = {"seconds": time.perf_counter() - start, "cpu seconds": time.process_time() - busy}
    return {**spent, "rss": peak, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, required=True, help="a place that does not exist yet; deleted at the end"
    )
    parser.add_argument(
        "--sizes", default="1e6,1e7,1e8", help="pairs (default 1e6,1e7,1e8: 3 GB, and 5 while building)"
    )
    parser.add_argument("--json", type=Path, help="also write all measurements there")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    steps = {setting: in_child(plain_step, setting, arguments.folder)["step ms"] for setting in step_overhead.SETTINGS}
    print("plain DeepFM: " + ", ".join(f"{value:.1f} ms a step at {setting}" for setting, value in steps.items()))
    print(
        f"{'pairs':>7}  {'parquet MB':>10}  {'build s':>7} {'cpu s':>6} {'rss MB':>6}  {'table MB':>8}  {'open s':>7}  "
        f"{'prepare s':>9} {'rss MB':>6} {'while drawing MB':>16}  {'look-up ms':>10} {'share of a step':>18}  "
        f"{'whole plan ms':>13}",
        flush=True,
    )
    everything: dict[str, Any] = {"step ms": steps}
    try:
        for text in arguments.sizes.split(","):
            n_pairs, folder = int(float(text)), arguments.folder / text
            jobs = {"generate": generate, "build": build, "open": open_table, "draw": draw}
            made = {name: in_child(job, n_pairs, folder) for name, job in jobs.items()}
            everything[text] = made
            look_up = made["draw"]["look-up ms"]
            shares = " / ".join(f"{look_up / value:.1%}" for value in steps.values())
            print(
                f"{text:>7}  {made['generate']['MB']:>10.0f}  {made['build']['seconds']:>7.1f} "
                f"{made['build']['cpu seconds']:>6.1f} "
                f"{made['build']['rss']:>6.0f}  {made['build']['MB']:>8.0f}  {made['open']['open']:>7.4f}  "
                f"{made['draw']['prepare']:>9.2f} {made['draw']['rss']:>6.0f} {made['draw']['drawing MB']:>16.0f}  "
                f"{look_up:>10.3f} {shares:>18}  {made['draw']['plan ms']:>13.3f}",
                flush=True,
            )
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
