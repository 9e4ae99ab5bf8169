"""How many users have to be paid for: ``python benchmarks/paid_users.py --data FOLDER --out FOLDER``.

Of the LLM's table the first N users of a random order are kept, for every N of ``--paid``. Backbones are trained with
these scores alone, and with the table that `extend_scores` makes of them: all users, items of the whole catalogue,
every validation item a probe. 0 stands for models without any score, which the gains are over: the plain one, and for
modes with init the one whose embeddings start from the same texts. A table is written even where `extend_scores` would
refuse it; the last column says so. Prints AUC of the test interactions overall, of cold users and of long-tail items as
means over seeds, and what the users cost. Tables and runs that are in the folder already are not made again: another
``--choose`` or ``--corrupt`` needs another folder.

``--choose active`` lets `choose_users` choose whom to pay for next, in rounds from one number of ``--paid`` to the
next; the first of them are random. ``--corrupt`` makes the LLM's scores wrong before anything is learnt from them, in
one of the ways of ``sllmr compare``.

``--active`` asks instead which users to pay for: from the first of ``--paid`` users, chosen at random, rounds lead to
the next number, once by chance and once by `choose_users`, with and without a plain model of ``--backbone`` beside the
student, ``--seeds`` times. Users whom no way may pay for are held out. Prints how far the student agrees with the LLM
about these, and its AUC of validation items, beside the differences to chance. Nothing else is trained.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sllmr_plugin import ScoreTable, extend_scores
from sllmr_plugin.datasets.interactions import Interactions, load_interactions
from sllmr_plugin.datasets.negatives import UnseenItems
from sllmr_plugin.evaluation.active import choose_users
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.corruption import CORRUPTIONS, corrupt
from sllmr_plugin.evaluation.extend import draw_distinct, fit_student, llm_scores, plain_backbone, student_features
from sllmr_plugin.evaluation.modes import Mode, Start
from sllmr_plugin.evaluation.strata import stratify
from sllmr_plugin.evaluation.student_report import Agreement
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.knowledge.pair_features import PairFeatures

METRICS = ("auc", "auc_cold", "auc_tail")
FOLDS = 5


def in_random_order(scores: pd.DataFrame, seed: int) -> np.ndarray:
    """Return the users of a table, shuffled; the first n are those paid for: fewer users are among more."""
    return np.random.default_rng(seed).permutation(np.sort(scores["user_id"].unique()))


def scores_of(scores: pd.DataFrame, users: np.ndarray) -> pd.DataFrame:
    """Return the rows of some users."""
    return scores[scores["user_id"].isin(users)].reset_index(drop=True)


def with_chosen(
    paid: np.ndarray, n: int, pool: np.ndarray, scores: pd.DataFrame, data: Interactions, **options: Any
) -> np.ndarray:
    """Return the paid users and those of the pool whom `choose_users` takes beside them, n in all."""
    if n <= len(paid):
        return paid
    left = scores_of(scores, pool).drop(columns="score")
    chosen = choose_users(scores_of(scores, paid), left, data, budget=n - len(paid), folds=FOLDS, **options)
    return np.concatenate([paid, chosen.users.loc[chosen.users["chosen"], "user_id"]])


def corrupted(scores: pd.DataFrame, data: Interactions, kind: str) -> pd.DataFrame:
    """Return scores that are wrong, as ``sllmr compare --corrupt`` makes them."""
    table = ScoreTable.read(scores, user_index=data.user_index, item_index=data.item_index)
    table = corrupt(table, kind, stratify(data))
    parts = [
        pd.DataFrame(
            {
                "user_id": data.user_ids[group.users[group.user_of_entry].numpy() - 1],
                "item_id": data.item_ids[group.items.numpy() - 1],
                "score": group.scores.numpy(),
                "kind": name,
            }
        )
        for name, group in (("candidate", table.candidates), ("probe", table.probes))
    ]
    return pd.concat(parts, ignore_index=True)


def extended(data: Interactions, scores: pd.DataFrame, texts: Path | None, path: Path) -> tuple[pd.DataFrame, bool]:
    """Return the extended table, and whether the student was clearly worse than what costs nothing."""
    if not path.exists():
        extend_scores(scores, data, texts=texts, out=path, write_anyway=True)
    return pd.read_parquet(path), json.loads(path.with_suffix(".json").read_text())["is_worse"]


def base_of(mode: str) -> str:
    """Return the mode without its LLM pairs."""
    return "+".join(Mode.of(mode).parts) or "none"


class Judge:
    """Measures students of paid users: on held-out users, and on validation items."""

    def __init__(self, data: Interactions, features: PairFeatures, rank_items: int, users: int) -> None:
        rng = np.random.default_rng(0)
        valid = data.valid.groupby("user").first().reset_index()
        valid = valid.iloc[rng.choice(len(valid), min(users, len(valid)), replace=False)].sort_values("user")
        known = [np.concatenate([part[side] for part in (data.train, data.valid)]) for side in ("user", "item")]
        unseen = UnseenItems(*known, n_users=data.n_users, n_items=data.n_items)
        user, item = draw_distinct(unseen, valid["user"].to_numpy(), rank_items, rng)
        self.data, self.features, self.owner = data, features, np.searchsorted(valid["user"], user)
        self.users = np.concatenate([valid["user"], user])
        self.pairs = features(self.users, np.concatenate([valid["item"], item]))

    def __call__(self, paid: pd.DataFrame, held_out: pd.DataFrame) -> np.ndarray:
        """Return correlation and same order on held-out users, and AUC of validation items."""
        student = fit_student(
            self.features, llm_scores(paid, self.data, FOLDS)[1], self.data.n_users, folds=FOLDS, seed=0
        )
        judged = llm_scores(held_out, self.data, FOLDS)[1].candidates
        predicted, _ = student.predict(judged.users[judged.user_of_entry].numpy(), judged.items.numpy())
        agreed = Agreement.of(judged, predicted)
        scores, _ = student.fitted.predict(self.pairs, self.users)
        above = scores[: len(scores) - len(self.owner)][self.owner] - scores[-len(self.owner) :]
        won = np.bincount(self.owner, (above > 0) + 0.5 * (above == 0)) / np.bincount(self.owner)
        return np.array([agreed.correlation, agreed.same_order, won.mean()])


def rounds(arguments: argparse.Namespace, data: Interactions, scores: pd.DataFrame, texts: Path | None) -> None:
    """Choose users in rounds, by chance and by `choose_users`, and print what their students are worth."""
    features, _ = student_features(data, texts)
    judge = Judge(data, features, arguments.rank_items, arguments.rank_users)
    ways: dict[str, Any] = {"random": None, "active": None}
    for name in arguments.backbone if arguments.active == "model" else []:
        ways[f"active, {name}"] = plain_backbone(data, name, seed=0)
    first, *later = arguments.paid
    print("| draw | users | chosen | correlation | same order | validation AUC | differences to random | | |")
    print("| --- " * 9 + "|")
    for draw in range(arguments.seeds):
        order = in_random_order(scores, draw)
        held_out = scores_of(scores, order[: arguments.held_out])
        pool = order[arguments.held_out :]
        random: dict[int, np.ndarray] = {}
        for way, model in ways.items():
            paid = pool[:first]
            for n in [first, *later]:
                if way == "random":
                    paid = pool[:n]
                else:
                    paid = with_chosen(paid, n, pool, scores, data, model=model, features=features, seed=draw)
                if n == first and way != "random":
                    continue
                found = judge(scores_of(scores, paid), held_out)
                random.setdefault(n, found)
                cells = [f"{value:.4f}" for value in found] + [f"{value:+.4f}" for value in found - random[n]]
                print(f"| {draw} | {n} | {way} | " + " | ".join(cells) + " |", flush=True)


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
    parser.add_argument(
        "--choose", choices=("random", "active"), default="random", help="whom to pay for (default: random)"
    )
    parser.add_argument("--corrupt", choices=CORRUPTIONS, help="make the LLM's scores wrong (default: leave them)")
    parser.add_argument(
        "--active",
        nargs="?",
        const="student",
        choices=("student", "model"),
        help="choose users in rounds; with model, also beside a plain model of each --backbone",
    )
    parser.add_argument("--held-out", type=int, default=500, help="users to agree about, of --active (default: 500)")
    parser.add_argument("--rank-users", type=int, default=1000, help="validation users of --active (default: 1000)")
    arguments = parser.parse_args()
    data = load_interactions(arguments.data / "interactions.csv", arguments.data / "items.csv")
    scores = pd.read_parquet(arguments.data / "llm_scores.parquet")
    given = scores
    if arguments.corrupt:
        scores = corrupted(scores, data, arguments.corrupt)
    texts = arguments.data / "llm_texts.parquet"
    if arguments.active:
        rounds(arguments, data, scores, texts if texts.exists() else None)
        return
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

    plain = run("paid0", given, list(dict.fromkeys(map(base_of, modes))))
    print("| backbone | mode | paid users | dollars | scores | AUC | cold users | long-tail items | gain | student |")
    print("| --- " * 10 + "|")
    for (backbone, mode), aucs in plain.items():
        show(backbone, mode, 0, 0.0, "none", aucs, aucs, "")
    pool = in_random_order(scores, arguments.draw)
    features = student_features(data, texts if texts.exists() else None)[0] if arguments.choose == "active" else None
    users = pool[:0]
    for n in sorted(n for n in arguments.paid if n):
        if features is None or len(users) == 0:
            users = pool[:n]
        else:
            users = with_chosen(users, n, pool, scores, data, features=features, seed=arguments.draw)
        paid = scores_of(scores, users)
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
