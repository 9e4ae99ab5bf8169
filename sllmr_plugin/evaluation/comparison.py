"""A comparison as one object: levels of each mode and differences to the plain model, by stratum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from .differences import Difference, StratumAuc, auc_by_label, differences_to_plain, strata_masks
from .run import RunResult
from .runs import RunFolder
from .statistics import paired_differences

_HISTORY_EDGES = (0, 1, 2, 3, 5, 10, 20)
_TENTHS = 10


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
    first = next(iter(rankings.values()))
    history = _ranges(first["history_length"].to_numpy(), _HISTORY_EDGES)
    popularity = _ranges(first["popularity"].to_numpy(), _tenths(first["popularity"].to_numpy()))
    labels = first[["user_id", "item_id"]].assign(history_length=history, popularity=popularity)
    found = [d for d in differences_to_plain(backbone, rankings, labels) if d.label]
    return sorted(found, key=lambda d: (d.stratum, int(d.label.split()[0])))


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


@dataclass(frozen=True)
class Comparison:
    """Runs and what follows from them; iterates over the runs.

    Attributes
    ----------
    runs : list of RunResult
        Without their rankings, which stay in the run folder.
    differences : list of Difference
        To the plain model of the same backbone.
    strata : list of StratumAuc
        AUC by the user's labels; empty without any.
    untrained : dict of str to dict of str to float
        AUC of what needs no training, by name, see `rank_untrained`.
    """

    runs: list[RunResult]
    differences: list[Difference] = field(default_factory=list)
    strata: list[StratumAuc] = field(default_factory=list)
    untrained: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[RunResult]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> RunResult:
        return self.runs[number]

    def __repr__(self) -> str:
        """Return a line a backbone and mode: the mean AUC over seeds."""
        lines = [f"Comparison of {len(self)} runs"]
        for key in dict.fromkeys((run.backbone, run.mode) for run in self):
            aucs = [run.auc for run in self if (run.backbone, run.mode) == key]
            lines.append(f"  {' '.join(key):<24}AUC {np.mean(aucs):.4f}  ({len(aucs)} seeds)")
        return "\n".join([*lines, "  (print sllmr_plugin.evaluation.format_table(comparison) for all of it)"])


def compare_runs(folder: RunFolder, keys: Sequence[tuple[str, str, int]]) -> Comparison:
    """Compare runs of a folder: differences to the plain model and AUC by the user's labels.

    Parameters
    ----------
    folder : RunFolder
        Holds the runs and their rankings.
    keys : sequence of (str, str, int)
        Backbone, mode and seed of the runs.

    Returns
    -------
    Comparison
        The runs in the order of `keys`.
    """
    labels = folder.labels()
    comparison = Comparison([folder.runs[key] for key in keys], untrained=folder.untrained)
    for backbone in dict.fromkeys(key[0] for key in keys):
        rankings = {key[1:]: folder.ranking(key) for key in keys if key[0] == backbone}
        comparison.differences.extend(differences_to_plain(backbone, rankings, labels))
        if labels is not None:
            comparison.strata.extend(auc_by_label(backbone, rankings, labels))
    return comparison
