"""What runs come to, compared: levels and differences by stratum, paired by interaction and seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import EvaluationError
from .statistics import paired_differences

BASELINE = "none"
"""Mode of the plain model."""
_HISTORY_EDGES = (0, 1, 2, 3, 5, 10, 20)
_TENTHS = 10


@dataclass(frozen=True)
class Difference:
    """AUC of a mode minus that of another, over the same interactions and seeds.

    Attributes
    ----------
    backbone, mode : str
        What is compared.
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
    baseline : str, default="none"
        The mode that is subtracted: of the plain model, or what the mode adds its last part to (``init`` of
        ``init+gated``).
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
    baseline: str = BASELINE

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
    """Compare each mode of a backbone with its plain model, and combined modes with what they add to.

    ``init+gated`` is compared with ``none`` and, where there are such runs, with ``init``.

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
        By stratum, baseline and mode. Two modes are compared over the seeds that they share; strata without an
        interaction are left out.

    Raises
    ------
    EvaluationError
        If two rankings are of different interactions.
    """
    seeds_of: dict[str, list[int]] = {}
    for mode, seed in rankings:
        seeds_of.setdefault(mode, []).append(seed)
    by_seeds: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for mode in seeds_of:
        for baseline in dict.fromkeys([BASELINE, mode.rpartition("+")[0]]):
            common = sorted(set(seeds_of[mode]) & set(seeds_of.get(baseline, [])))
            if common and mode != baseline:
                by_seeds.setdefault(tuple(common), []).append((baseline, mode))
    if not by_seeds:
        return []
    first = next(iter(rankings.values()))
    for (mode, seed), ranking in rankings.items():
        if not ranking[["user_id", "item_id"]].equals(first[["user_id", "item_id"]]):
            raise EvaluationError(
                f"{backbone} {mode} seed {seed} ranks other interactions than the runs before it; "
                "make the runs again in an empty folder."
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
                [[rankings[mode, s]["auc"] - rankings[other, s]["auc"] for s in seeds] for other, mode in group]
            )[:, :, rows]
            n_users = len(np.unique(users[rows]))
            for (other, mode), result in zip(group, paired_differences(values, users[rows]), strict=True):
                counts = (int(rows.sum()), n_users)
                found.append(
                    Difference(backbone, mode, stratum, label, list(seeds), *counts, **asdict(result), baseline=other)
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


@dataclass(frozen=True)
class Level:
    """AUC of a mode on the test interactions of a stratum.

    Attributes
    ----------
    backbone, mode : str
        The runs.
    stratum, label : str
        As in `Difference`.
    seeds : list of int
        Seeds of the runs.
    n_interactions, n_users : int
        Interactions whose AUC is defined, and their users.
    mean, low, high : float
        Mean over interactions and seeds, and its 95% interval for new users and seeds (`paired_differences`, the AUC
        taken as the difference to nothing) within 0 and 1; NaN with fewer than ten users.
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

    def to_json(self) -> dict[str, Any]:
        """Return the fields with None for NaN, which JSON lacks."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def auc_levels(
    backbone: str, rankings: Mapping[tuple[str, int], pd.DataFrame], labels: pd.DataFrame | None = None
) -> list[Level]:
    """Average the AUC of each mode of a backbone in every stratum, with intervals.

    Parameters
    ----------
    backbone, rankings, labels
        As `differences_to_plain` takes them.

    Returns
    -------
    list of Level
        By stratum and mode; strata without an interaction are left out.
    """
    first = next(iter(rankings.values()))
    defined = first["auc"].notna().to_numpy()
    users = first["user_id"].to_numpy()
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for mode in dict.fromkeys(mode for mode, _ in rankings):
        by_seeds.setdefault(tuple(sorted(seed for other, seed in rankings if other == mode)), []).append(mode)
    found = []
    for stratum, label, mask in strata_masks(first, labels):
        rows = mask & defined
        if not rows.any():
            continue
        n_users = len(np.unique(users[rows]))
        for seeds, group in by_seeds.items():  # modes of the same seeds share the resampling
            aucs = np.stack([[rankings[mode, seed]["auc"].to_numpy()[rows] for seed in seeds] for mode in group])
            for mode, own in zip(group, paired_differences(aucs, users[rows], permutations=0), strict=True):
                low, high = (float(np.clip(end, 0, 1)) for end in (own.low, own.high))
                level = Level(
                    backbone, mode, stratum, label, list(seeds), int(rows.sum()), n_users, own.mean, low, high
                )
                found.append(level)
    return found


def gains_by_size(backbone: str, rankings: Mapping[tuple[str, int], pd.DataFrame]) -> list[Difference]:
    """Compare each mode with the plain model by the user's history length and by the item's popularity.

    Parameters
    ----------
    backbone, rankings
        As `differences_to_plain` takes them; the rankings also have ``history_length`` and ``popularity``.

    Returns
    -------
    list of Difference
        ``stratum`` is ``history_length`` or ``popularity``, ``label`` a range of training interactions, from small to
        large. Ranges of popularity are tenths of the test interactions; the same popularity is always in one range,
        so that there can be fewer than ten.
    """
    labels = _size_labels(next(iter(rankings.values())))
    found = [d for d in differences_to_plain(backbone, rankings, labels) if d.label and d.baseline == BASELINE]
    return sorted(found, key=lambda d: (d.stratum, int(d.label.split()[0])))


def levels_by_size(backbone: str, rankings: Mapping[tuple[str, int], pd.DataFrame]) -> list[dict[str, Any]]:
    """Average the AUC of each mode by the user's history length and by the item's popularity.

    Parameters
    ----------
    backbone, rankings
        As `gains_by_size` takes them.

    Returns
    -------
    list of dict
        ``backbone``, ``mode``, ``stratum`` and ``label`` as in `gains_by_size`, ``n_interactions``, and ``mean``, over
        interactions and seeds. Without intervals, which hold what the modes have in common and would take minutes.
    """
    first = next(iter(rankings.values()))
    defined, found = first["auc"].notna().to_numpy(), []
    for stratum, label, mask in strata_masks(first, _size_labels(first)):
        rows = mask & defined
        for mode in dict.fromkeys(mode for mode, _ in rankings) if label and rows.any() else ():
            aucs = [ranking["auc"].to_numpy()[rows] for (other, _), ranking in rankings.items() if other == mode]
            size = {"backbone": backbone, "mode": mode, "stratum": stratum, "label": label}
            found.append({**size, "n_interactions": int(rows.sum()), "mean": float(np.mean(aucs))})
    return sorted(found, key=lambda level: (level["stratum"], int(level["label"].split()[0])))


def _size_labels(ranking: pd.DataFrame) -> pd.DataFrame:
    history = _ranges(ranking["history_length"].to_numpy(), _HISTORY_EDGES)
    popularity = _ranges(ranking["popularity"].to_numpy(), _tenths(ranking["popularity"].to_numpy()))
    return ranking[["user_id", "item_id"]].assign(history_length=history, popularity=popularity)


def _tenths(values: np.ndarray) -> Sequence[int]:
    """Return the least value of each tenth, each once, from the smallest on."""
    return np.unique(np.quantile(values, np.arange(_TENTHS) / _TENTHS, method="higher")).astype(int).tolist()


def _ranges(values: np.ndarray, edges: Sequence[int]) -> np.ndarray:
    """Return the name of the range of each value; a range goes from an edge up to the next, the last one to the end."""
    last = [f"{edges[-1]} or more"]
    names = [
        str(low) if high == low + 1 else f"{low} to {high - 1}" for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    return np.array(names + last)[np.searchsorted(edges, values, side="right") - 1]
