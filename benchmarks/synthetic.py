"""Synthetic and denoised rows on real data: what they do to AUC, overall, of cold users and of long-tail items.

    python -m benchmarks.synthetic FOLDER --out runs/synthetic --seeds 3

FOLDER holds interactions.csv, items.csv, llm_scores.parquet and llm_texts.parquet. Generator and discriminator are the
student of the LLM's scores that ``sllmr extend`` fits, not the language model itself: the scores that it was taught
with are the LLM's, what it makes of other pairs is its own. No test interaction is looked at before the rankings.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from sllmr_plugin import Interest, SyntheticInteractions, compare, extend_scores, load_interactions, pairs_to_judge
from sllmr_plugin.datasets.interactions import Interactions
from sllmr_plugin.errors import NotLearntError
from sllmr_plugin.evaluation import Refinement, RunSettings, Start, format_table
from sllmr_plugin.scoring import synthesize_interactions

MODES = ("none", "synthetic", "denoised", "refined", "init", "init+synthetic")


def _extended(folder: Path, out: Path, pairs: pd.DataFrame | None = None) -> None:
    """Have the student score, and say it where it is no better than what costs nothing."""
    if out.exists():
        return
    files = folder / "llm_scores.parquet", folder / "interactions.csv", folder / "items.csv"
    texts = folder / "llm_texts.parquet"
    try:
        print(extend_scores(*files, texts=texts, pairs=pairs, out=out), "\n")
    except NotLearntError as error:
        print(error.report)
        extend_scores(*files, texts=texts, pairs=pairs, out=out, write_anyway=True)


def _random_users(data: Interactions, synthetic: SyntheticInteractions) -> SyntheticInteractions:
    """Return synthetic rows with users drawn at random, of pairs that are in no split and each once."""
    generator = np.random.default_rng(0)
    parts = [part[["user", "item"]].to_numpy() for part in (data.train, data.valid, data.test, data.test_negatives)]
    taken = set(map(tuple, np.concatenate(parts).tolist()))
    users, able = [], np.flatnonzero(data.history_length > 0)
    for item in synthetic.items.tolist():
        user = next(user for user in generator.permutation(able).tolist() if (user, item) not in taken)
        taken.add((user, item))
        users.append(user)
    return SyntheticInteractions(np.array(users), synthetic.items, synthetic.weights, "random users")


def main(arguments: list[str] | None = None) -> None:
    """Make the rows, train, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/synthetic"))
    parser.add_argument("--backbone", default="deepfm")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--min-score", type=float, default=0.5, help="of a synthetic interaction")
    parser.add_argument("--per-item", type=int, default=3, help="synthetic interactions of an item, at most")
    parser.add_argument("--weight", type=float, default=0.1, help="of the synthetic rows' loss")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--rank-items", type=int, help="rank against so many items drawn at random (default: all)")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("always")
    chosen.out.mkdir(parents=True, exist_ok=True)
    clicks, items = chosen.folder / "interactions.csv", chosen.folder / "items.csv"
    data = load_interactions(clicks, items)
    extended, made, judged = (chosen.out / f"{name}.parquet" for name in ("extended", "synthetic", "interest"))
    _extended(chosen.folder, extended)
    how = {"min_score": chosen.min_score, "per_item": chosen.per_item}
    print(synthesize_interactions(clicks, items, from_scores=extended, out=made, verbose=False, **how), "\n")
    synthetic = SyntheticInteractions.of(made, data)
    _extended(chosen.folder, judged, pairs_to_judge(data, synthetic=synthetic))
    interest = Interest.of(judged, data, synthetic=synthetic)
    refinement = Refinement.read(data, synthetic=synthetic, interest=interest, weight=chosen.weight)
    print(interest)
    print(f"synthetic rows kept: {len(interest.filtered(data, synthetic))} of {len(synthetic)}")
    print(f"training rows doubted: {len(interest.doubted(data))} of {len(data.train)}\n")
    shared = {
        "backbone": chosen.backbone,
        "seeds": chosen.seeds,
        "settings": RunSettings(epochs=chosen.epochs, valid_items=chosen.rank_items, test_items=chosen.rank_items),
    }
    scores = chosen.folder / "llm_scores.parquet"
    modes = chosen.modes.split(",")
    if modes != ["control"]:
        start = (
            Start.read(chosen.folder / "llm_texts.parquet", items) if any("init" in mode for mode in modes) else None
        )
        found = compare(
            data, scores, out=chosen.out / "runs", modes=modes, start=start, refinement=refinement, **shared
        )
        print(format_table(found, "markdown"))
    # The same items, as often, of users drawn at random: what is left of the gain owes nothing to who was chosen.
    control = Refinement.read(data, synthetic=_random_users(data, synthetic), weight=chosen.weight)
    found = compare(data, scores, out=chosen.out / "control", modes=["synthetic"], refinement=control, **shared)
    print("\nControl: synthetic, of random users")
    print(format_table(found, "markdown"))


if __name__ == "__main__":
    main()
