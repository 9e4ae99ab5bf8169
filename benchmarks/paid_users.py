"""How many users have to be paid for: ``python benchmarks/paid_users.py --data FOLDER --out FOLDER``.

Of the LLM's table the first N users of a random order are kept, for every N of ``--paid``. Backbones are trained with
these scores alone, and with the table that `extend_scores` makes of them: all users, items of the whole catalogue,
every validation item a probe. 0 stands for models without any score, which the gains are over: the plain one, and for
modes with init the one whose embeddings start from the same texts. A table is written even where `extend_scores` would
refuse it; the last column says so. Prints AUC of the test interactions overall, of cold users and of long-tail items as
means over seeds, and what the users cost. Tables and runs that are in the folder already are not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sllmr_plugin import extend_scores
from sllmr_plugin.datasets.interactions import Interactions, load_interactions
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.modes import Mode, Start
from sllmr_plugin.evaluation.training import RunSettings

METRICS = ("auc", "auc_cold", "auc_tail")


def paid_scores(scores: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Return the rows of the first `n` users of a random order: fewer users are among more."""
    users = np.random.default_rng(seed).permutation(np.sort(scores["user_id"].unique()))[:n]
    return scores[scores["user_id"].isin(users)].reset_index(drop=True)


def extended(data: Interactions, scores: pd.DataFrame, texts: Path | None, path: Path) -> tuple[pd.DataFrame, bool]:
    """Return the extended table, and whether the student was clearly worse than what costs nothing."""
    if not path.exists():
        extend_scores(scores, data, texts=texts, out=path, write_anyway=True)
    return pd.read_parquet(path), json.loads(path.with_suffix(".json").read_text())["is_worse"]


def base_of(mode: str) -> str:
    """Return the mode without its LLM pairs."""
    return "+".join(Mode.of(mode).parts) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of interactions.csv, items.csv, llm_*.parquet")
    parser.add_argument("--out", type=Path, required=True, help="what is there already is not made again")
    parser.add_argument("--paid", type=int, nargs="+", default=[0, 50, 100, 300, 1500], help="users paid for")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to N-1 (default: 1)")
    parser.add_argument("--backbone", nargs="+", default=["deepfm"])
    parser.add_argument("--modes", nargs="+", default=["gated", "init+gated"])
    parser.add_argument("--rank-items", type=int, default=300, help="unseen items ranked against (default: 300)")
    parser.add_argument(
        "--price",
        type=float,
        default=0.00020,
        help="dollars a scored user (default: %(default)s, of gpt-4o-mini)",
    )
    parser.add_argument("--draw", type=int, default=0, help="seed of the order of users (default: 0)")
    arguments = parser.parse_args()
    data = load_interactions(arguments.data / "interactions.csv", arguments.data / "items.csv")
    scores = pd.read_parquet(arguments.data / "llm_scores.parquet")
    texts = arguments.data / "llm_texts.parquet"
    start = Start.read(texts, arguments.data / "items.csv") if texts.exists() else None
    modes = [mode for mode in arguments.modes if start is not None or Mode.of(mode).parts == ()]
    settings = RunSettings(test_items=arguments.rank_items, valid_items=arguments.rank_items)

    def run(folder: str, table: pd.DataFrame, wanted: list[str]) -> dict[tuple[str, str], np.ndarray]:
        """Return (n_seeds, 3) AUC by backbone and mode."""
        needs = start if any(Mode.of(mode).needs("vectors") for mode in wanted) else None
        out = arguments.out / folder
        options: dict[str, Any] = {"backbone": arguments.backbone, "modes": wanted, "seeds": arguments.seeds}
        runs = compare(data, table, out=out, settings=settings, start=needs, **options)
        found: dict[tuple[str, str], list[list[float]]] = {}
        for one in runs:
            found.setdefault((one.backbone, one.mode), []).append([getattr(one, metric) for metric in METRICS])
        return {key: np.array(values) for key, values in found.items()}

    plain = run("paid0", scores, list(dict.fromkeys(map(base_of, modes))))
    print("| backbone | mode | paid users | dollars | scores | AUC | cold users | long-tail items | gain | student |")
    print("| --- " * 10 + "|")
    for (backbone, mode), aucs in plain.items():
        show(backbone, mode, 0, 0.0, "none", aucs, aucs, "")
    for n in (n for n in arguments.paid if n):
        paid = paid_scores(scores, n, arguments.draw)
        more, is_worse = extended(data, paid, texts if texts.exists() else None, arguments.out / f"paid{n}.parquet")
        for name, table in (("the LLM's", paid), ("extended", more)):
            for (backbone, mode), aucs in run(
                f"paid{n}-{'llm' if table is paid else 'extended'}", table, modes
            ).items():
                said = "" if table is paid else "refused" if is_worse else "written"
                count = paid["user_id"].nunique()
                base = plain[backbone, base_of(mode)]
                show(backbone, mode, count, count * arguments.price, name, aucs, base, said)


def show(
    backbone: str, mode: str, n: int, dollars: float, scores: str, aucs: np.ndarray, base: np.ndarray, said: str
) -> None:
    """Print a row of a Markdown table; the gain is in AUC overall, with its deviation over seeds."""
    gains = (aucs - base)[:, 0]
    gain = f"{gains.mean():+.4f}" + (f" ± {gains.std(ddof=1):.4f}" if len(gains) > 1 else "")
    cells = [f"{value:.4f}" for value in aucs.mean(axis=0)]
    print("| " + " | ".join([backbone, mode, str(n), f"{dollars:.2f}", scores, *cells, gain, said]) + " |", flush=True)


if __name__ == "__main__":
    main()
