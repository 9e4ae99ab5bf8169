"""How well a student has learnt the LLM's judgement, and whether it ranks better than what costs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..datasets.interactions import Interactions
from ..errors import EvaluationError
from ..knowledge.pair_features import PairFeatures
from ..knowledge.student import CrossFitted
from ..scores.arrays import UserScores
from ..scores.table import ScoreTable
from .metrics import predict_rows
from .ranking import full_ranking
from .statistics import paired_differences
from .tables import Sheet, Table
from .untrained import ROWS_PER_BLOCK, untrained_models

CLEARLY_APART = 0.1
"""Difference of two of the LLM's scores from which their order counts."""
_PAIRS = 1 << 22  # pairs of scores held at a time


class Student(nn.Module):
    """A cross-fitted student that scores rows of user and item codes, as `full_ranking` asks a model to.

    Parameters
    ----------
    features : PairFeatures
        Of the codes.
    fitted : CrossFitted
        On these features.
    """

    def __init__(self, features: PairFeatures, fitted: CrossFitted) -> None:
        super().__init__()
        self.feature_index = {"user_id": (0, 1), "item_id": (1, 2)}
        self.placed = nn.Parameter(torch.zeros(()), requires_grad=False)  # says which device the model is on
        self._features, self.fitted = features, fitted

    def predict(self, users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and spread of (n,) codes, see `CrossFitted.predict`."""
        return self.fitted.predict(self._features(users, items), users)

    def predict_taken(self, users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same of training interactions, as if they had not been made."""
        return self.fitted.predict(self._features.as_if_not_taken(users, items), users)

    def forward(self, rows: Tensor) -> Tensor:
        """Score (n, 2) rows of user and item codes: (n, 1)."""
        users, items = rows.detach().cpu().numpy().astype(np.int64).T
        return torch.from_numpy(self.predict(users, items)[0].astype(np.float32))[:, None].to(rows.device)


@dataclass(frozen=True)
class Agreement:
    """How far the student agrees with the LLM about candidates of users whom it has not learnt from.

    Attributes
    ----------
    n_users, n_pairs : int
        Users and scores.
    correlation : float
        Of the student's scores and the LLM's; NaN where one of them is constant.
    n_apart : int
        Pairs of a user's candidates that the LLM puts more than `CLEARLY_APART` apart.
    same_order : float
        Share of them that the student puts in the same order, a tie counting half; NaN where there are none.
    """

    n_users: int
    n_pairs: int
    correlation: float
    n_apart: int
    same_order: float

    @classmethod
    def of(cls, scores: UserScores, predicted: np.ndarray) -> Agreement:
        """Measure it on all entries of `scores`, whose (n_pairs,) predictions are given."""
        llm = scores.scores.numpy().astype(np.float64)
        varies = llm.std() > 0 and predicted.std() > 0
        correlation = float(np.corrcoef(llm, predicted)[0, 1]) if varies else float("nan")
        apart, agreed = 0, 0.0
        width = int(scores.counts.max()) if len(scores) else 1
        for block in torch.arange(len(scores.users)).split(max(1, _PAIRS // width**2)):
            entry, valid = scores.block(block)
            own = np.where(valid, llm[entry], np.nan)  # NaN is more than nothing apart from anything
            guess = predicted[entry]
            clear = own[:, :, None] - own[:, None, :] > CLEARLY_APART + 1e-6  # float32 scores, 0.3 - 0.2
            difference = (guess[:, :, None] - guess[:, None, :])[clear]
            apart += len(difference)
            agreed += float((difference > 0).sum() + 0.5 * (difference == 0).sum())
        return cls(len(scores.users), len(scores), correlation, apart, agreed / apart if apart else float("nan"))


@dataclass(frozen=True)
class Ranked:
    """How one way of scoring ranks held-out items.

    Attributes
    ----------
    name : str
        ``student``, a name of `UNTRAINED`, or a backbone's.
    auc, auc_cold, auc_tail : float
        Of validation items against the catalogue: all, of cold users, of long-tail items; NaN where there are none.
    below : float
        The student's AUC minus this one's, on the same users and items; 0 for the student.
    low, high : float
        95% interval of `below` over users.
    probe_auc : float
        Of the LLM's probes against the candidates that the LLM was shown with them; NaN without probes.
    """

    name: str
    auc: float
    auc_cold: float
    auc_tail: float
    below: float
    low: float
    high: float
    probe_auc: float


@dataclass(frozen=True, eq=False, repr=False)
class Extension:
    """A student of an LLM, what it agrees with, and the table that it extended; print it.

    Attributes
    ----------
    agreement : Agreement
        With the LLM, on held-out users.
    ranked : list of Ranked
        The student first, then what it has to beat.
    llm_probe_auc : float
        AUC of the LLM on its own probes, NaN without any.
    n_ranked, n_items : int
        Validation interactions ranked, and items drawn for each of their users.
    frame : pandas.DataFrame
        The extended table: the LLM's rows as they were, then the student's; ``source`` is ``llm`` or ``student``, and
        ``spread`` the standard deviation over the students of all folds. Empty where nothing was scored.
    path : pathlib.Path or None
        Where it was written.
    """

    agreement: Agreement
    ranked: list[Ranked]
    llm_probe_auc: float
    n_ranked: int
    n_items: int
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    path: Path | None = None

    @property
    def best_other(self) -> Ranked:
        """What ranks best of all but the student."""
        return max(self.ranked[1:], key=lambda one: one.auc)

    @property
    def is_worse(self) -> bool:
        """Whether the student's AUC on validation is clearly below another: by an interval that leaves out zero.

        With too few users for an interval, by the means.
        """
        other = self.best_other
        return other.below < 0 if np.isnan(other.high) else other.high < 0

    def content(self) -> dict[str, Any]:
        """Return all figures as plain JSON values, with None for NaN, which JSON lacks."""

        def plain(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: None if value != value else value for name, value in values.items()}

        counts = self.frame.groupby(["source", "kind"]).size() if len(self.frame) else {}
        return {
            "agreement": plain(asdict(self.agreement)),
            "ranked": [plain(asdict(one)) for one in self.ranked],
            **plain({"llm_probe_auc": self.llm_probe_auc}),
            "n_ranked": self.n_ranked,
            "n_items": self.n_items,
            "is_worse": self.is_worse,
            "rows": {f"{source} {kind}": int(n) for (source, kind), n in dict(counts).items()},
        }

    def sheet(self) -> Sheet:
        """Return the figures as a table, with the verdict below."""
        found = self.agreement
        caption = [
            f"student of {found.n_pairs} scores of {found.n_users} users, each predicted without their own scores:",
            f"correlation with the LLM {found.correlation:.2f}; same order as the LLM {found.same_order:.1%} of "
            f"{found.n_apart} pairs that it puts more than {CLEARLY_APART:g} apart",
            f"AUC of {self.n_ranked} validation items against {self.n_items} items of the catalogue; probes: of the "
            "LLM's own, against the candidates that it was shown",
        ]
        table = Table("", ["AUC", "cold users", "long-tail items", "student above it by", "probes"], narrow=True)
        for one in self.ranked:
            below = "" if one is self.ranked[0] else f"{one.below:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
            aucs = [_cell(value) for value in (one.auc, one.auc_cold, one.auc_tail)]
            table.add(one.name, [*aucs, below, _cell(one.probe_auc)])
        table.add("LLM", ["", "", "", "", _cell(self.llm_probe_auc)])
        return Sheet(caption, [table], [self.verdict(), *self._written()])

    def verdict(self) -> str:
        """Say whether the student is worth its pairs."""
        other = self.best_other
        figures = f"{self.ranked[0].auc:.4f} against {other.auc:.4f} of {other.name}"
        if self.is_worse:
            return f"the student ranks validation items clearly worse than what costs less: {figures}"
        if other.low > 0:
            return f"the student ranks validation items better than all others: {figures}"
        return (
            f"the student ranks validation items no better than what costs less, as far as these can tell: {figures}; "
            "compare a training with the extended table and one without"
        )

    def _written(self) -> list[str]:
        if not len(self.frame):
            return []
        of_student = self.frame[self.frame["source"] == "student"]
        probes = int((of_student["kind"] == "probe").sum())
        told = [
            f"{len(self.frame)} rows: {len(self.frame) - len(of_student)} of the LLM, {len(of_student) - probes} "
            f"candidates and {probes} probes of the student, of {of_student['user_id'].nunique()} users"
        ]
        return told + ([f"written: {self.path}, {self.path.with_suffix('.json')}"] if self.path is not None else [])

    def __str__(self) -> str:
        return self.sheet().write()

    def _repr_html_(self) -> str:
        return self.sheet().write("html")

    def __repr__(self) -> str:
        return f"Extension of {len(self.frame)} rows; {self.verdict()}  (print it for the figures)"


def judge(
    data: Interactions,
    table: ScoreTable,
    student: Student,
    texts: Sequence[str] | None,
    others: Mapping[str, Any],
    *,
    users: int | None,
    n_items: int | None,
    seed: int,
) -> Extension:
    """Compare a student with the LLM on users held out, and on validation items with what costs nothing.

    Parameters
    ----------
    data : Interactions
        Its test interactions are not looked at.
    table : ScoreTable
        What the student was fitted on, by code.
    student : Student
        Cross-fitted.
    texts : sequence of str or None
        (n_items,) what content ranks by.
    others : mapping of str to model
        Further models that the student has to beat.
    users, n_items, seed : int
        As of `full_ranking`.
    """
    of_llm = table.candidates
    predicted, _ = student.predict(of_llm.users[of_llm.user_of_entry].numpy(), of_llm.items.numpy())
    agreement = Agreement.of(of_llm, predicted)
    models = {"student": student, **untrained_models(data, texts, users=users, n_items=n_items), **others}
    rankings = {}
    for name, model in models.items():
        block = None if name in others else ROWS_PER_BLOCK
        found = full_ranking(
            model, data, "valid", users=users, n_items=n_items, seed=seed, rows_per_block=block, verbose=False
        )
        rankings[name] = found[found["auc"].notna()]
    own = rankings["student"]
    if own.empty:
        raise EvaluationError(
            "every validation user has interacted with the whole catalogue, so nothing can be ranked; pass the full "
            "list of items."
        )
    above = np.stack([(own["auc"] - ranking["auc"]).to_numpy() for ranking in rankings.values()])
    differences = paired_differences(above[:, None, :], own["user"].to_numpy(), permutations=1, seed=seed)
    ranked = []
    for (name, ranking), below in zip(rankings.items(), differences, strict=True):
        auc, cold, tail = (
            float(part["auc"].mean()) for part in (ranking, ranking[ranking["cold"]], ranking[ranking["tail"]])
        )
        probes = _probe_auc(table, lambda pairs, name=name: predict_rows(models[name], data, pairs, split="valid"))
        ranked.append(Ranked(name, auc, cold, tail, below.mean, below.low, below.high, probes))
    llm = _probe_auc(table, lambda pairs: pairs["score"].to_numpy())
    return Extension(agreement, ranked, llm, len(own), n_items or data.n_items)


def _probe_auc(table: ScoreTable, score: Any) -> float:
    """Return how often a probe stands above a candidate of the same user, a tie counting half, averaged over users."""
    probes, candidates = (
        pd.DataFrame(
            {
                "user": part.users[part.user_of_entry].numpy(),
                "item": part.items.numpy(),
                "score": part.scores.numpy(),
            }
        )
        for part in (table.probes, table.candidates)
    )
    candidates = candidates[candidates["user"].isin(probes["user"])]
    if candidates.empty:
        return float("nan")
    pairs = probes.assign(of=score(probes)).merge(candidates.assign(of=score(candidates)), on="user")
    won = (pairs["of_x"] > pairs["of_y"]) + 0.5 * (pairs["of_x"] == pairs["of_y"])
    return float(won.groupby(pairs["user"]).mean().mean())


def _cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
