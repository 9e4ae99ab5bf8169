"""What a wrong LLM costs: ``python benchmarks/corruption.py --data FOLDER --out DIR``.

FOLDER holds ``interactions.csv``, ``items.csv`` and ``llm_scores.parquet`` as `sllmr compare` takes them. The scores
are spoilt, candidates and probes alike: inverted, shuffled, or inverted for warm users only. A DeepFM is trained plain,
gated and ungated on each. Runs that are in DIR already are not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.strata import stratify
from sllmr_plugin.evaluation.training import RunSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--eval-users", type=int, default=1500)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.error(f"{arguments.data}: no such folder; give one with interactions.csv and llm_scores.parquet")
    data = load_interactions(arguments.data / "interactions.csv", arguments.data / "items.csv")
    table = pd.read_parquet(arguments.data / "llm_scores.parquet")
    score = table["score"].to_numpy()
    warm = ~stratify(data).cold[data.user_index.reindex(table["user_id"]).to_numpy()]
    spoilt = {
        "as they are": score,
        "inverted": 1 - score,
        "shuffled": np.random.default_rng(0).permutation(score),
        "warm inverted": np.where(warm, 1 - score, score),
    }
    settings = RunSettings(valid_users=400, test_users=arguments.eval_users)
    print(
        f"{'scores':15}{'mode':8}{'AUC':>8}{'- plain':>10}{'cold':>10}{'tail':>10}{'alpha cold':>12}{'warm head':>11}"
    )
    plain = None
    for name, values in spoilt.items():
        for mode in ("none", "gated", "global"):
            if mode == "none" and plain is not None:
                continue  # the plain model reads no scores
            runs = compare(
                data,
                table.assign(score=values),
                out=arguments.out / f"{name.replace(' ', '_')}_{mode}",
                modes=[mode],
                seeds=arguments.seeds,
                settings=settings,
            )
            auc = np.array([[run.auc, run.auc_cold, run.auc_tail] for run in runs])
            if plain is None:
                plain = auc
                print(f"{'':15}{'none':8}{auc[:, 0].mean():>8.4f}")
                continue
            gain = "".join(f"{value:>+10.4f}" for value in (auc - plain).mean(axis=0))
            gates = [run.gate for run in runs if run.gate]
            alpha = "".join(
                f"{np.mean([gate[region] for gate in gates]):>{width}.3f}"
                for region, width in (("cold", 12), ("neither", 11))
            )
            print(f"{name:15}{mode:8}{auc[:, 0].mean():>8.4f}{gain}{alpha}", flush=True)


if __name__ == "__main__":
    main()
