"""Interactions whose training has not seen a share of the items, for zero-shot comparisons.

``python benchmarks/unseen_items.py interactions.csv --share 0.2 --seed 0 --out runs/unseen/interactions.csv`` draws
items and leaves their training and validation rows out; test rows stay. Where interactions have times, `sllmr prepare
--split period` makes a split that is nearer to life.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd


def without_items(interactions: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Return the rows without those of training and validation that have one of the items drawn."""
    items = np.sort(interactions["item_id"].unique())
    drawn = np.random.default_rng(seed).choice(items, round(share * len(items)), replace=False)
    return interactions[(interactions["split"] == "test") | ~interactions["item_id"].isin(drawn)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("interactions", type=Path, help="CSV with user_id, item_id and split")
    parser.add_argument("--share", type=float, default=0.2, help="of the items")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    arguments = parser.parse_args()
    read = pd.read_csv(arguments.interactions)
    kept = without_items(read, arguments.share, arguments.seed)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    kept.to_csv(arguments.out, index=False)
    seen = set(kept.loc[kept["split"] == "train", "item_id"])
    unseen = kept[(kept["split"] == "test") & ~kept["item_id"].isin(seen)]
    print(f"{len(read) - len(kept)} rows left out; {len(unseen)} test rows are of items that training has not seen")


if __name__ == "__main__":
    main()
