"""Time of wrapped against plain `fit`, alternating in one run: ``python benchmarks/step_overhead.py``.

Random data at two settings: the paper's (embedding 64, batch 128, 22,000 users and 12,000 items, the size of
Amazon Beauty) and a small one (embedding 16, batch 1024, 4,500 users and 2,800 items, the size of the video games
data). Every repetition times the plain model, then each variant; the table gives the median of the ratios of
neighbours, so a machine that slows down for a while does not favour either side. ``--clock cpu`` counts the processor
time of this process instead of the time on the wall, for machines that others use too. The setting up of a `fit` is
part of its time, so the more steps, the closer the ratios come to those of a long training.

The variants ``align, ...`` are not wrapped: the plain model with a step loss of `sllmr_plugin.align`, vectors of 256
numbers for every item. ``align, users`` has vectors of users, too.

``--library fuxictr`` times FuxiCTR's `fit` over ready batches instead, without its evaluation and checkpoints.

``--faults`` also counts page faults (not on Windows): memory that the allocator has given back to the system and gets
again, page by page. With tensors of tens of megabytes a step they can outweigh everything else; see docs/scale.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sllmr_plugin import ScoreTable, SelectiveConfig, Vectors, align, wrap
from sllmr_plugin.backends.deepctr import import_deepctr_torch
from sllmr_plugin.knowledge.id_vectors import IdVectors
from sllmr_plugin.zoo.fuxictr import FUXICTR_BACKBONES, build_fuxictr, import_fuxictr

BACKBONES = ("deepfm", "xdeepfm", "autoint", "dcn", "dcnv2", "din")
SETTINGS = {"(64, 128)": (64, 128, 22_000, 12_000), "(16, 1024)": (16, 1024, 4_500, 2_800)}
HISTORY = 10


def variants(batch_size: int) -> dict[str, SelectiveConfig]:
    """Return what is timed beside the plain model, by name."""
    return {
        "weight 0": SelectiveConfig(weight=0.0),
        "global": SelectiveConfig(gate="none"),
        "gated": SelectiveConfig(),
        "gated, four times the users": SelectiveConfig(users_per_step=min(64, batch_size // 4)),
        "joint, mc_dropout(8)": SelectiveConfig(gate="joint", uncertainty="mc_dropout", mc_samples=8),
    }


ALIGNED: dict[str, dict[str, str]] = {
    "align, contrastive": {"kind": "contrastive"},
    "align, users": {"kind": "contrastive"},
    "align, generative": {"kind": "generative"},
    "align, soft": {"kind": "soft"},
}
"""What is aligned instead of wrapped, by name: arguments of `align`."""


def random_vectors(n_users: int, n_items: int, users: bool) -> Vectors:
    """Return a random vector for every item and, if asked for, for every user."""
    rng = np.random.default_rng(1)
    sides = [
        IdVectors(pd.Series(np.arange(1, n + 1)), rng.standard_normal((n, 256)).astype(np.float32))
        for n in (n_items, n_users)
    ]
    return Vectors(sides[0], sides[1] if users else None, "random vectors")


def build(name: str, dim: int, n_users: int, n_items: int) -> torch.nn.Module:
    """Build a backbone with dropout 0.1 and DeepCTR-Torch's other defaults."""
    import_deepctr_torch()
    from deepctr_torch import models
    from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat

    columns = [SparseFeat("user_id", n_users + 1, dim), SparseFeat("item_id", n_items + 1, dim)]
    if name == "din":
        item = SparseFeat("hist_item_id", n_items + 1, dim, embedding_name="item_id")
        columns.append(VarLenSparseFeat(item, HISTORY, length_name="seq_length"))
        model = models.DIN(columns, ["item_id"], dnn_dropout=0.1)
        model.compile("adam", "binary_crossentropy")
        return model
    classes = {"deepfm": "DeepFM", "xdeepfm": "xDeepFM", "autoint": "AutoInt", "dcn": "DCN", "dcnv2": "DCN"}
    options = {"dcn": {"cross_parameterization": "vector"}, "dcnv2": {"cross_parameterization": "matrix"}}
    model = getattr(models, classes[name])(columns, columns, dnn_dropout=0.1, **options.get(name, {}))
    model.compile("adam", "binary_crossentropy")
    return model


def build_of_fuxictr(name: str, dim: int, n_users: int, n_items: int) -> torch.nn.Module:
    """Build a FuxiCTR backbone with dropout 0.1; it neither evaluates nor keeps checkpoints."""
    feature_map = import_fuxictr("fuxictr.features").FeatureMap("random", tempfile.gettempdir())
    item = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": n_items + 1}
    feature_map.features = {"user_id": item | {"vocab_size": n_users + 1}, "item_id": item}
    if name == "din":
        feature_map.features["hist_item_id"] = item | {
            "type": "sequence",
            "max_len": HISTORY,
            "share_embedding": "item_id",
        }
    feature_map.labels, feature_map.num_fields = ["label"], len(feature_map.features)
    model = build_fuxictr(name, feature_map, model_root=Path(tempfile.gettempdir()), embedding_dim=dim, net_dropout=0.1)
    model.eval_step = lambda: None
    model.load_weights = lambda checkpoint: None
    return model


def data(n_rows: int, n_users: int, n_items: int) -> tuple[dict[str, np.ndarray], np.ndarray, ScoreTable]:
    """Return random training rows and a score table of 1,500 users with 20 candidates each."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, HISTORY + 1, n_rows)
    history = rng.integers(1, n_items + 1, (n_rows, HISTORY))
    x = {
        "user_id": rng.integers(1, n_users + 1, n_rows),
        "item_id": rng.integers(1, n_items + 1, n_rows),
        "hist_item_id": np.where(np.arange(HISTORY) < length[:, None], history, 0),
        "seq_length": length,
    }
    users = np.unique(x["user_id"])[:1500]
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(users, 20),
            "item_id": np.concatenate([rng.choice(n_items, 20, replace=False) + 1 for _ in users]),
            "score": rng.random(len(users) * 20),
            "kind": "candidate",
        }
    )
    # probes that the gate believes in, so that it is open and used
    frame.loc[frame["user_id"].isin(users[:300]) & ~frame.duplicated("user_id"), ["score", "kind"]] = [1.0, "probe"]
    return x, (rng.random(n_rows) < 0.5).astype(np.float32), ScoreTable.read(frame)


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(
    model: torch.nn.Module, x: dict[str, np.ndarray], y: np.ndarray, batch_size: int, now: Callable[[], float]
) -> float:
    """Return the time of one epoch."""
    inputs = {name: x[name].copy() for name in model.feature_index}
    with contextlib.redirect_stdout(io.StringIO()):
        start = now()
        model.fit(inputs, y, batch_size=batch_size, epochs=1, verbose=0)
        return now() - start


def seconds_of_fuxictr(
    model: torch.nn.Module, x: dict[str, np.ndarray], y: np.ndarray, batch_size: int, now: Callable[[], float]
) -> float:
    """Return the time of one epoch over batches that are ready."""
    columns = {name: torch.from_numpy(x[name]) for name in model.feature_map.features} | {"label": torch.from_numpy(y)}
    starts = range(0, len(y), batch_size)
    batches = [{name: values[s : s + batch_size] for name, values in columns.items()} for s in starts]
    start = now()
    model.fit(batches, epochs=1)
    return now() - start


def page_faults() -> int:
    """Return how many pages this process has had to get from the system so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


LIBRARIES: dict[str, tuple[Callable, Callable, tuple[str, ...]]] = {
    "deepctr": (build, seconds, BACKBONES),
    "fuxictr": (build_of_fuxictr, seconds_of_fuxictr, FUXICTR_BACKBONES),
}


def alternate(
    models: dict[str, torch.nn.Module],
    wanted: Sequence[str],
    repeats: int,
    timed: Callable[[torch.nn.Module], tuple[float, int]],
) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Time the plain model before each of the others, and return times and page faults of each, in order."""
    times: dict[str, list[float]] = {which: [] for which in models}
    faults: dict[str, list[int]] = {which: [] for which in models}
    for model in models.values():
        timed(model)  # warm-up
    for _ in range(repeats):
        for variant in wanted:
            for which in ("plain", variant):
                taken, missed = timed(models[which])
                times[which].append(taken)
                faults[which].append(missed)
    return times, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES, default="deepctr")
    parser.add_argument("--backbones", help="default: all that the library has")
    parser.add_argument("--settings", default=";".join(SETTINGS), help='one or both, such as "(64, 128);(16, 1024)"')
    parser.add_argument("--steps", type=int, default=40, help="training steps of a timing (default 40)")
    parser.add_argument("--repeats", type=int, default=5, help="alternating repetitions (default 5)")
    parser.add_argument(
        "--variants", help="some of them, separated by semicolons, as in the first line printed (default: all)"
    )
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--faults", action="store_true", help="also print page faults of a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    build_model, time_epoch, backbones = LIBRARIES[arguments.library]
    now = CLOCKS[arguments.clock]
    page_faults_so_far = page_faults if arguments.faults else lambda: 0

    def timed(model: torch.nn.Module, batch_size: int, x: dict[str, np.ndarray], y: np.ndarray) -> tuple[float, int]:
        before = page_faults_so_far()
        taken = time_epoch(model, x, y, batch_size, now)
        return taken, page_faults_so_far() - before

    wanted = arguments.variants.split(";") if arguments.variants else [*variants(1024), *ALIGNED]
    print(f"{'setting':11}{'backbone':9}{'plain ms/step':>14}  " + "  ".join(f"{name:>20}" for name in wanted))
    for setting in arguments.settings.split(";"):
        dim, batch_size, n_users, n_items = SETTINGS[setting]
        configs = variants(batch_size)
        x, y, table = data(arguments.steps * batch_size, n_users, n_items)
        for name in (arguments.backbones or ",".join(backbones)).split(","):
            models = {"plain": build_model(name, dim, n_users, n_items)}
            for variant in wanted:
                model = models[variant] = build_model(name, dim, n_users, n_items)
                if variant in ALIGNED:
                    vectors = random_vectors(n_users, n_items, users="users" in variant)
                    align(model, vectors, user="user_id", item="item_id", **ALIGNED[variant])
                else:
                    wrap(model, table, user="user_id", item="item_id", config=configs[variant])
            times, faults = alternate(
                models, wanted, arguments.repeats, functools.partial(timed, batch_size=batch_size, x=x, y=y)
            )
            ratios = {
                variant: [
                    own / plain for own, plain in zip(times[variant], times["plain"][k :: len(wanted)], strict=True)
                ]
                for k, variant in enumerate(wanted)
            }
            cells = "  ".join(
                f"{statistics.median(values):>{max(len(variant), 20) - 1}.2f}x" for variant, values in ratios.items()
            )
            per_step = statistics.median(times["plain"]) / arguments.steps * 1000
            print(f"{setting:11}{name:9}{per_step:>14.1f}  {cells}", flush=True)
            if arguments.faults:
                medians = {which: statistics.median(counts) / arguments.steps for which, counts in faults.items()}
                counts = ", ".join(f"{which} {count:.0f}" for which, count in medians.items())
                print(f"{'':20}page faults a step: {counts}", flush=True)


if __name__ == "__main__":
    main()
