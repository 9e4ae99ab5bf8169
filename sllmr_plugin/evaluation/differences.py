"""What modes of a comparison gain over the plain model, paired by interaction and seed, in every stratum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import EvaluationError
from .statistics import paired_differences

BASELINE = "none"


@dataclass(frozen=True)
class Difference:
    """AUC of a mode minus that of the plain model, over the same interactions and seeds.

    Attributes
    ----------
    backbone, mode : str
        What is compared with the same backbone in mode ``none``.
    stratum, label : str
        ``all``, ``cold`` or ``tail`` with an empty label, or a user's column and one of its values.
    seeds : list of int
        Seeds that both modes have.
    n_interactions, n_users : int
        Interactions whose AUC is defined, and their users.
    mean, low, high : float
        Mean difference and its 95% interval, see `paired_differences`; NaN when there is none.
    p_value : float
        Of the sign-flip test over users.
    wins, ties, losses : int
        Users to whom the mode brings a higher, the same, a lower AUC.
    """

    backbone: str
    mode: str
    stratum: str
    label: str
    seeds: list[int]
    n_interactions: int
    n_users: int
    mean: float
    low: float
    high: float
    p_value: float
    wins: int
    ties: int
    losses: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero: only then may the difference be printed bold."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields with None for NaN, which JSON lacks."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Difference:
        """Undo `to_json`."""
        numbers: dict[str, Any] = {n: float("nan") if value is None else value for n, value in values.items()}
        return cls(**numbers)


def differences_to_plain(
    backbone: str, rankings: Mapping[tuple[str, int], pd.DataFrame], labels: pd.DataFrame | None = None
) -> list[Difference]:
    """Compare each mode of a backbone with its plain model.

    Parameters
    ----------
    backbone : str
        Name of the backbone.
    rankings : mapping of (str, int) to DataFrame
        Mode and seed -> ``user_id``, ``item_id``, ``auc``, ``cold`` and ``tail`` of the same interactions in the
        same order.
    labels : DataFrame or None, default=None
        ``user_id``, ``item_id`` and columns of labels, as `label_test` returns them.

    Returns
    -------
    list of Difference
        By stratum and mode; empty without plain runs. A mode is compared over the seeds that it shares with
        the plain runs; strata without an interaction are left out.

    Raises
    ------
    EvaluationError
        If two rankings are of different interactions.
    """
    modes = list(dict.fromkeys(mode for mode, _ in rankings if mode != BASELINE))
    shared = {mode: [s for m, s in rankings if m == mode and (BASELINE, s) in rankings] for mode in modes}
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for mode, common in shared.items():
        if common:
            by_seeds.setdefault(tuple(sorted(common)), []).append(mode)
    if not by_seeds:
        return []
    first = next(iter(rankings.values()))
    for (mode, seed), ranking in rankings.items():
        if not ranking[["user_id", "item_id"]].equals(first[["user_id", "item_id"]]):
            raise EvaluationError(
                f"{backbone} {mode} seed {seed} ranks other interactions than the runs before it; "
                "make the runs anew in an empty folder."
            )
    defined = first["auc"].notna().to_numpy()
    users = first["user_id"].to_numpy()
    found = []
    for stratum, label, mask in strata_masks(first, labels):
        rows = mask & defined
        if not rows.any():
            continue
        for seeds, group in by_seeds.items():  # modes of the same seeds share the resampling
            values = np.stack(
                [[rankings[mode, s]["auc"] - rankings[BASELINE, s]["auc"] for s in seeds] for mode in group]
            )[:, :, rows]
            n_users = len(np.unique(users[rows]))
            for mode, result in zip(group, paired_differences(values, users[rows]), strict=True):
                found.append(
                    Difference(backbone, mode, stratum, label, list(seeds), int(rows.sum()), n_users, **asdict(result))
                )
    return found


@dataclass(frozen=True)
class StratumAuc:
    """AUC of a mode on the test interactions of one label.

    Attributes
    ----------
    backbone, mode : str
        The runs.
    stratum, label : str
        The user's column and one of its values.
    n_interactions : int
        Interactions whose AUC is defined.
    aucs : list of float
        Mean AUC of each seed.
    """

    backbone: str
    mode: str
    stratum: str
    label: str
    n_interactions: int
    aucs: list[float]


def auc_by_label(
    backbone: str, rankings: Mapping[tuple[str, int], pd.DataFrame], labels: pd.DataFrame
) -> list[StratumAuc]:
    """Average the AUC of each mode over the interactions of each label; parameters as `differences_to_plain`."""
    first = next(iter(rankings.values()))
    defined = first["auc"].notna().to_numpy()
    found = []
    for stratum, label, mask in strata_masks(first, labels):
        rows = mask & defined
        if label and rows.any():
            for mode in dict.fromkeys(mode for mode, _ in rankings):
                own = [ranking["auc"].to_numpy() for (other, _), ranking in rankings.items() if other == mode]
                aucs = [float(auc[rows].mean()) for auc in own]
                found.append(StratumAuc(backbone, mode, stratum, label, int(rows.sum()), aucs))
    return found


def strata_masks(ranking: pd.DataFrame, labels: pd.DataFrame | None) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield stratum, label and (n,) mask of the interactions.

    Parameters
    ----------
    ranking : DataFrame
        ``user_id``, ``item_id``, ``cold`` and ``tail`` of the interactions.
    labels : DataFrame or None
        The user's strata, as `label_test` returns them.
    """
    yield "all", "", np.ones(len(ranking), dtype=bool)
    yield "cold", "", ranking["cold"].to_numpy()
    yield "tail", "", ranking["tail"].to_numpy()
    if labels is not None:
        aligned = ranking[["user_id", "item_id"]].merge(labels, on=["user_id", "item_id"], how="left")
        for column in _label_columns(labels):
            for label in sorted(labels[column].unique()):
                yield column, label, (aligned[column] == label).to_numpy()


def _label_columns(labels: pd.DataFrame) -> Sequence[str]:
    return [column for column in labels.columns if column not in ("user_id", "item_id")]
