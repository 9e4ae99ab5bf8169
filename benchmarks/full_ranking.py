"""Full ranking against the cross product: ``python benchmarks/full_ranking.py --data FOLDER``.

FOLDER holds ``interactions.csv`` and ``items.csv`` as `sllmr compare` takes them. For each backbone, the test
interactions of a few users are ranked in one run, alternating: by building the rows of users x items and calling
``model.predict`` with batch size 256 (its default) and larger ones, and by `full_ranking`, against all items and
against a sample. *forward alone* is the model's arithmetic on as many rows: the least that an exact ranking can take.
Fails if the AUCs differ by more than rounding can explain. Then `full_ranking` is given ever more users, in a process
of its own each, and its memory is printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step_overhead import BACKBONES

from sllmr_plugin.datasets.features import template_rows
from sllmr_plugin.datasets.interactions import Interactions, load_interactions
from sllmr_plugin.evaluation.model_scores import default_rows_per_block, evaluation_mode, template_matrix
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.zoo.deepctr import build_model, input_rows

BATCH_SIZES = (256, 1024, 8192)


def build(name: str, data: Interactions) -> torch.nn.Module:
    """Build a backbone whose scores differ enough to be ranked."""
    model = build_model(name, data, embedding_dim=16)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def cross_product(model: torch.nn.Module, data: Interactions, users: np.ndarray, batch_size: int) -> np.ndarray:
    """Rank by predicting every item for every user: the AUC of each test interaction, by user."""
    rows = template_rows(data, users, split="test")
    everything = {name: np.repeat(column, data.n_items, axis=0) for name, column in rows.items()}
    everything["item_id"] = np.tile(np.arange(1, data.n_items + 1), len(users))
    scores = model.predict(input_rows(model, everything), batch_size).reshape(len(users), data.n_items)
    seen = np.zeros((len(users), data.n_items + 1), dtype=bool)
    for frame in (data.train[data.train["label"] == 1], data.valid, data.test):
        mine = frame[frame["user"].isin(users)]
        seen[np.searchsorted(users, mine["user"]), mine["item"]] = True
    aucs = []
    for row, item in data.test.loc[data.test["user"].isin(users), ["user", "item"]].to_numpy():
        k = np.searchsorted(users, row)
        rivals, own = scores[k][~seen[k, 1:]], scores[k, item - 1]
        aucs.append((rivals < own).mean() + 0.5 * (rivals == own).mean())
    return np.array(aucs)


def forward_alone(model: torch.nn.Module, data: Interactions, users: np.ndarray) -> float:
    """Seconds of the model's own arithmetic on as many rows, made beforehand, in the blocks of `full_ranking`."""
    templates = template_matrix(model, data, users, "test")
    size = default_rows_per_block(model, templates)
    block = templates.repeat(-(-size // len(templates)), 1)[:size]
    start = time.perf_counter()
    with evaluation_mode(model):
        for _ in range(len(users) * data.n_items // size):
            model(block)
    return time.perf_counter() - start


def peak_memory(folder: Path, n_users: int, answer: multiprocessing.Queue) -> None:
    """Rank with DeepFM and answer with resident memory before and its peak during that, in MiB; Linux only."""
    torch.set_num_threads(1)
    data = load_interactions(folder / "interactions.csv", folder / "items.csv")
    model = build("deepfm", data)
    full_ranking(model, data, users=1, verbose=False)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _memory("VmHWM")
    full_ranking(model, data, users=n_users, verbose=False)
    answer.put((before, _memory("VmHWM")))


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sample", type=int, default=200, help="items of the sampled ranking")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_interactions(arguments.data / "interactions.csv", arguments.data / "items.csv")
    users = np.random.default_rng(0).choice(np.unique(data.test["user"]), arguments.users, replace=False)
    users.sort()
    print(f"{arguments.users} users x {data.n_items} items: seconds")
    heads = [*(f"predict({size})" for size in BATCH_SIZES), "full_ranking", "forward alone"]
    heads += ["256 / ours", "best / ours", f"256 / {arguments.sample} items", "rows/s"]
    print(f"{'':8}" + "".join(f"{head:>16}" for head in heads))
    for name in BACKBONES:
        model = build(name, data)
        times: dict[str, list[float]] = {}
        for _ in range(arguments.repeats):
            for size in BATCH_SIZES:
                expected = timed(times, f"predict({size})", cross_product, model, data, users, size)
            ranking = timed(times, "ours", full_ranking, model, data, users=users, verbose=False)
            timed(times, "sampled", full_ranking, model, data, users=users, n_items=arguments.sample, verbose=False)
            times.setdefault("forward", []).append(forward_alone(model, data, users))
        # predict rounds in other blocks: an item may change places with a few of its neighbours
        np.testing.assert_allclose(ranking["auc"], expected, atol=3 / data.n_items)
        median = {what: statistics.median(values) for what, values in times.items()}
        naive = [median[f"predict({size})"] for size in BATCH_SIZES]
        seconds = "".join(f"{value:>16.2f}" for value in [*naive, median["ours"], median["forward"]])
        ratios = [naive[0] / median["ours"], min(naive) / median["ours"], naive[0] / median["sampled"]]
        speed = len(users) * data.n_items / median["ours"]
        print(f"{name:8}{seconds}" + "".join(f"{ratio:>15.1f}x" for ratio in ratios) + f"{speed:>16,.0f}", flush=True)
    print("\nusers    MiB before    peak while ranking")
    context = multiprocessing.get_context("spawn")
    for n_users in (100, 1000, data.test["user"].nunique()):
        answer = context.Queue()
        process = context.Process(target=peak_memory, args=(arguments.data, n_users, answer))
        process.start()
        before, after = answer.get()
        process.join()
        print(f"{n_users:<9}{before:>10.0f}{after:>22.0f}", flush=True)


def timed(times: dict[str, list[float]], what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function, note the seconds it took, and return what it returned."""
    start = time.perf_counter()
    result = function(*args, **options)
    times.setdefault(what, []).append(time.perf_counter() - start)
    return result


if __name__ == "__main__":
    main()
