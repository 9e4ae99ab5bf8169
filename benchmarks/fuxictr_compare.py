"""Plain against wrapped FuxiCTR models: ``python benchmarks/fuxictr_compare.py --data FOLDER --backbone deepfm``.

FOLDER holds ``interactions.csv``, ``items.csv``, ``llm_scores.parquet`` and, for modes with init,
``llm_texts.parquet``; without it the bundled demo data are used, whose scores are simulated. Every run is FuxiCTR's
own: `NpzDataLoader` over .npz files with four drawn negatives a positive, `fit` with validation rows (each validation
interaction beside 20 drawn items), early stopping, the checkpoint of the best validation AUC reloaded at its end. Then
each test interaction is ranked against all items its user has not seen (or --rank-items drawn ones). Runs of a seed
share the rows, the order of the batches and, but for what starts from texts, the initial weights. Differences are to
the plain model, over the same interactions and seeds, with 95% intervals for new users and seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sllmr_plugin import ScoreTable, SelectiveConfig, Vectors, initialise, wrap
from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.datasets.features import held_out_rows, training_rows
from sllmr_plugin.datasets.interactions import Interactions, load_interactions
from sllmr_plugin.evaluation.differences import differences_to_plain
from sllmr_plugin.evaluation.leakage import check_leakage
from sllmr_plugin.evaluation.modes import Mode
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.zoo.fuxictr import build_fuxictr, import_fuxictr, read_settings, write_dataset

SETTINGS = Path(__file__).parent.parent / "model_zoo_configs" / "fuxictr"
MODES = ("none", "global", "gated", "init", "init+gated")
NEGATIVES = 4
STRATA = ("all", "cold", "tail")


def run(
    data: Interactions,
    scores: ScoreTable,
    vectors: Vectors | None,
    mode: str,
    seed: int,
    folder: Path,
    arguments: argparse.Namespace,
) -> tuple[pd.DataFrame, float]:
    """Train once; return the ranking of the test interactions by raw ids, and the seconds in `fit`."""
    settings = read_settings(SETTINGS / f"{arguments.backbone}.yaml") | {"learning_rate": arguments.learning_rate}
    rows = training_rows(data, negatives=NEGATIVES, seed=seed)
    check_leakage(data, rows, scores)
    splits = {"train": rows, "valid": held_out_rows(data, "valid", seed=seed)}
    feature_map = write_dataset(folder, data, splits, backbone=arguments.backbone, dataset_id=f"seed{seed}")
    model = build_fuxictr(feature_map=feature_map, model_root=folder / mode, seed=seed, **settings)
    names = {"user": "user_id", "item": "item_id"}
    if Mode.of(mode).parts:
        codes = {"item_index": data.item_index, "user_index": data.user_index}
        initialise(model, vectors, x=rows[0], y=rows[1], **names, **codes)
    if Mode.of(mode).regularizer != "none":
        model = wrap(model, scores, config=SelectiveConfig.of_mode(Mode.of(mode).regularizer), **names)
    loader = import_fuxictr("fuxictr.pytorch.dataloaders.npz_dataloader").NpzDataLoader
    train, valid = (
        loader(
            feature_map,
            f"{feature_map.data_dir}/{split}.npz",
            batch_size=arguments.batch_size,
            shuffle=split == "train",
            num_workers=0,
        )
        for split in splits
    )
    torch.manual_seed(seed)
    start = time.perf_counter()
    model.fit(train, epochs=arguments.epochs, validation_data=valid)
    seconds = time.perf_counter() - start
    ranking = full_ranking(model, data, n_items=arguments.rank_items, verbose=False)
    ids = {"user_id": data.user_ids[ranking["user"] - 1], "item_id": data.item_ids[ranking["item"] - 1]}
    return ranking.assign(**ids), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data (default: the bundled demo data)")
    parser.add_argument("--backbone", default="deepfm", choices=("deepfm", "dcnv2", "din"))
    parser.add_argument("--modes", default=",".join(MODES), help=f"default: {','.join(MODES)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15, help="at most (default: 15)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rank-items", type=int, help="rank against so many drawn items (default: all)")
    arguments = parser.parse_args()
    bundled = demo_paths()
    paths = (
        (bundled.interactions, bundled.items, bundled.scores)
        if arguments.data is None
        else tuple(arguments.data / name for name in ("interactions.csv", "items.csv", "llm_scores.parquet"))
    )
    data = load_interactions(*paths[:2])
    scores = ScoreTable.read(paths[2], user_index=data.user_index, item_index=data.item_index)
    modes = arguments.modes.split(",")
    vectors = None
    if any(Mode.of(mode).parts for mode in modes):
        if arguments.data is None:
            parser.error("modes with init need --data, a folder with llm_texts.parquet; or give --modes none,gated")
        vectors = Vectors.read(arguments.data / "llm_texts.parquet", titles=paths[1])
    rankings: dict[tuple[str, int], pd.DataFrame] = {}
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            for mode in modes:
                rankings[mode, seed], taken = run(data, scores, vectors, mode, seed, Path(folder), arguments)
                seconds.setdefault(mode, []).append(taken)
                print(
                    f"{mode} seed {seed}: AUC {rankings[mode, seed]['auc'].mean():.4f}, fit {taken:.1f} s", flush=True
                )
    found = differences_to_plain(arguments.backbone, rankings)
    differences = {(d.mode, d.baseline, d.stratum): d for d in found}
    print(f"\n{arguments.backbone} (FuxiCTR), seeds 0 to {arguments.seeds - 1}")
    print(f"{'mode':24}" + "".join(f"{stratum:>18}" for stratum in STRATA) + f"{'fit seconds':>14}")
    for mode, times in seconds.items():
        cells = []
        for stratum in STRATA:
            own = [r if stratum == "all" else r[r[stratum]] for (m, _), r in rankings.items() if m == mode]
            means = [ranking["auc"].mean() for ranking in own]
            deviation = f" ± {np.std(means, ddof=1):.4f}" if len(means) > 1 else ""
            cells.append(f"{np.mean(means):.4f}{deviation}")
        print(f"{mode:24}" + "".join(f"{cell:>18}" for cell in cells) + f"{np.mean(times):>14.1f}")
    for mode, baseline in dict.fromkeys((d.mode, d.baseline) for d in found):
        told = [differences[mode, baseline, stratum] for stratum in STRATA]
        cells = [f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]" for d in told]
        print(f"{mode + ' minus ' + baseline:24}" + "".join(f"{cell:>28}" for cell in cells))


if __name__ == "__main__":
    main()
