"""Plain against wrapped FuxiCTR models: ``python benchmarks/fuxictr_compare.py --data FOLDER --backbone deepfm``.

FOLDER holds ``interactions.csv``, ``items.csv`` and ``llm_scores.parquet``; without it the bundled demo data are used,
whose scores are simulated. Every run is FuxiCTR's own: `NpzDataLoader` over .npz files, `fit` with validation rows
(each validation interaction beside 20 drawn items), the checkpoint of the best validation AUC reloaded at its end. Then
each test interaction is ranked against all items its user has not seen (or --rank-items drawn ones). Runs of a seed
share the rows, the initial weights and the order of the batches. Differences are to the plain model, over the same
interactions and seeds, with 95% intervals for new users and seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sllmr_plugin import ScoreTable, SelectiveConfig, wrap
from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.datasets.features import held_out_rows, training_rows
from sllmr_plugin.datasets.interactions import Interactions, load_interactions
from sllmr_plugin.evaluation.differences import differences_to_plain
from sllmr_plugin.evaluation.leakage import check_leakage
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.zoo.fuxictr import build_fuxictr, import_fuxictr, read_settings, write_dataset

SETTINGS = Path(__file__).parent.parent / "model_zoo_configs" / "fuxictr"
MODES = ("none", "global", "gated")
STRATA = ("all", "cold", "tail")


def run(
    data: Interactions, scores: ScoreTable, mode: str, seed: int, folder: Path, arguments: argparse.Namespace
) -> tuple[pd.DataFrame, float]:
    """Train once; return the ranking of the test interactions by raw ids, and the seconds in `fit`."""
    settings = read_settings(SETTINGS / f"{arguments.backbone}.yaml")
    rows = training_rows(data, seed=seed)
    check_leakage(data, rows, scores)
    splits = {"train": rows, "valid": held_out_rows(data, "valid", seed=seed)}
    feature_map = write_dataset(folder, data, splits, backbone=arguments.backbone, dataset_id=f"seed{seed}")
    model = build_fuxictr(feature_map=feature_map, model_root=folder / mode, seed=seed, **settings)
    if mode != "none":
        model = wrap(model, scores, user="user_id", item="item_id", config=SelectiveConfig.of_mode(mode))
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
    parser.add_argument("--epochs", type=int, default=3)
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
    rankings: dict[tuple[str, int], pd.DataFrame] = {}
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            for mode in arguments.modes.split(","):
                rankings[mode, seed], taken = run(data, scores, mode, seed, Path(folder), arguments)
                seconds.setdefault(mode, []).append(taken)
                print(
                    f"{mode} seed {seed}: AUC {rankings[mode, seed]['auc'].mean():.4f}, fit {taken:.1f} s", flush=True
                )
    differences = {(d.mode, d.stratum): d for d in differences_to_plain(arguments.backbone, rankings)}
    print(f"\n{arguments.backbone} (FuxiCTR), seeds 0 to {arguments.seeds - 1}")
    print(f"{'mode':8}" + "".join(f"{stratum:>18}" for stratum in STRATA) + f"{'fit seconds':>14}")
    for mode, times in seconds.items():
        cells = []
        for stratum in STRATA:
            own = [r if stratum == "all" else r[r[stratum]] for (m, _), r in rankings.items() if m == mode]
            means = [ranking["auc"].mean() for ranking in own]
            deviation = f" ± {np.std(means, ddof=1):.4f}" if len(means) > 1 else ""
            cells.append(f"{np.mean(means):.4f}{deviation}")
        print(f"{mode:8}" + "".join(f"{cell:>18}" for cell in cells) + f"{np.mean(times):>14.1f}")
    print("minus none")
    for mode in seconds:
        if mode != "none":
            told = [differences[mode, stratum] for stratum in STRATA]
            cells = [f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]" for d in told]
            print(f"{mode:8}" + "".join(f"{cell:>28}" for cell in cells))


if __name__ == "__main__":
    main()
