"""All that a report shows, as plain values made from a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..differences import BASELINE, auc_levels, gains_by_size, levels_by_size
from ..plots import REGIONS, WEIGHT
from ..pooled import POOLED
from ..run import RunResult, replace_nan
from ..store import RunFolder

_GATED = ("gated", "joint")  # the others have no gate, or one that is always open


def summarise(folder: RunFolder) -> dict[str, Any]:
    """Work out what a report shows.

    Parameters
    ----------
    folder : RunFolder
        With one run or more; the comparison may be unfinished.

    Returns
    -------
    dict
        Plain JSON values, None for what JSON lacks or nobody has recorded. ``runs`` (of `RunResult`, without
        epochs and versions), ``differences`` to the plain model, ``additions`` (differences of combined modes to what
        they add to) and ``gains_by_size`` (of `Difference`, ``clear`` added), ``levels`` (of `Level`, with what needs
        no training beside the modes), ``levels_by_size`` (means by history length and popularity), ``pace``
        (seconds of an epoch of ``fit``, mean over seeds, and ``ratio`` to the plain model's), ``labelled`` (AUC over
        labelled rows, mean and deviation over seeds, likewise; empty under protocols without such rows),
        ``untrained``, ``curves`` and ``gate`` (means over seeds by backbone, mode and epoch), ``gate_maps`` (means over
        seeds by backbone and mode of the kept epochs' `gate_map`), ``versions`` (name -> all
        that the runs had), and ``settings``, ``inputs``, ``reliability`` and ``examples`` as the folder has them.
    """
    keys = sorted(folder.runs, key=lambda key: key[2])
    differences = folder.comparison(keys).differences
    labels = folder.labels()
    untrained_rankings = {(name, 0): ranking for name, ranking in folder.untrained_rankings().items()}
    levels, by_size, aucs_by_size = [], [], []
    for backbone in dict.fromkeys(key[0] for key in keys):
        rankings = {key[1:]: folder.ranking(key) for key in keys if key[0] == backbone}
        levels += [level.to_json() for level in auc_levels(backbone, rankings, labels)]
        levels += _untrained_levels(backbone, folder)
        by_size += gains_by_size(backbone, rankings)
        aucs_by_size += levels_by_size(backbone, {**rankings, **untrained_rankings})
    runs = [folder.runs[key] for key in keys]
    epochs = _epochs(runs)
    gated = epochs["mode"].isin([mode for mode in epochs["mode"] if mode.rpartition("+")[2] in _GATED])
    return {
        "runs": [_without_epochs(run) for run in runs],
        "levels": levels,
        "differences": [{**d.to_json(), "clear": d.clear} for d in differences if d.baseline == BASELINE],
        "additions": [{**d.to_json(), "clear": d.clear} for d in differences if d.baseline != BASELINE],
        "labelled": replace_nan(_labelled(runs, folder.untrained)),
        "untrained": replace_nan(folder.untrained),
        "gains_by_size": [{**d.to_json(), "clear": d.clear} for d in by_size],
        "levels_by_size": aucs_by_size,
        "pace": _pace(runs),
        "curves": _means(epochs, ["valid_auc", "loss"]),
        "gate": _means(
            epochs[gated],
            [key for key in epochs if key in REGIONS or key.startswith(WEIGHT)],
        ),
        "gate_maps": _gate_maps(runs),
        "versions": _versions(runs),
        "settings": folder.settings,
        "inputs": folder.inputs,
        "reliability": folder.reliability,
        "examples": folder.examples,
    }


def _pace(runs: list[RunResult]) -> list[dict[str, Any]]:
    """Return how long an epoch takes: an entry a backbone and mode; none of runs made before epochs were kept."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        if run.epochs:
            seconds.setdefault((run.backbone, run.mode), []).append(run.seconds / len(run.epochs))
    found = []
    for (backbone, mode), own in seconds.items():
        mean, plain = float(np.mean(own)), seconds.get((backbone, BASELINE))
        ratio = None if plain is None else mean / float(np.mean(plain))
        found.append({"backbone": backbone, "mode": mode, "seconds": mean, "ratio": ratio})
    return found


def _untrained_levels(backbone: str, folder: RunFolder) -> list[dict[str, Any]]:
    """Return what needs no training as rows beside the modes of a backbone."""
    return [
        {
            "backbone": backbone,
            "mode": name,
            "stratum": stratum,
            "label": "",
            "mean": aucs[key],
            "low": None,
            "high": None,
        }
        for name, aucs in replace_nan(folder.untrained).items()
        for stratum, key in (("all", "auc"), ("cold", "auc_cold"), ("tail", "auc_tail"))
    ]


def _labelled(runs: list[RunResult], untrained: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return the AUC over labelled rows: an entry a backbone and mode, or what needs no training; none without rows."""
    found = []
    known = [run for run in runs if all(name in run.metrics for name in POOLED)]
    for backbone in dict.fromkeys(run.backbone for run in known):
        of_row: dict[str, list[Mapping[str, float]]] = {}
        for run in known:
            if run.backbone == backbone:
                of_row.setdefault(run.mode, []).append(run.metrics)
        of_row |= {name: [aucs] for name, aucs in untrained.items() if all(metric in aucs for metric in POOLED)}
        for mode, own in of_row.items():
            values = {metric: [metrics[metric] for metrics in own] for metric in POOLED}
            found.append({"backbone": backbone, "mode": mode, **{key: _spread(aucs) for key, aucs in values.items()}})
    return found


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation}


def _without_epochs(run: RunResult) -> dict[str, Any]:
    return {key: value for key, value in run.to_json().items() if key not in ("epochs", "versions", "gate_map")}


def _epochs(runs: list[RunResult]) -> pd.DataFrame:
    """Return a row a run and epoch."""
    rows = [
        {"backbone": run.backbone, "mode": run.mode, "epoch": number, **values}
        for run in runs
        for number, values in enumerate(run.epochs, start=1)
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["backbone", "mode", "epoch", "valid_auc", "loss"])


def _means(epochs: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Average columns over the seeds; a column that a mode does not have is left out of its rows."""
    found: list[dict[str, Any]] = []
    for (backbone, mode), part in epochs.groupby(["backbone", "mode"], sort=False):
        known = [column for column in columns if part[column].notna().any()]
        means = part.groupby("epoch")[known].mean().reset_index()
        for row in means.to_dict("records"):
            values = {key: None if value != value else value for key, value in row.items()}
            found.append({"backbone": backbone, "mode": mode, **values})
    return found


def _gate_maps(runs: list[RunResult]) -> list[dict[str, Any]]:
    """Return the mean map of a mode's gates: an entry a backbone and mode, without those that have no gate."""
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for run in runs:
        if run.gate_map is not None:
            found.setdefault((run.backbone, run.mode), []).append(pd.DataFrame(run.gate_map))
    return [
        {"backbone": backbone, "mode": mode, "map": maps[0].assign(alpha=mean).to_dict("records")}
        for (backbone, mode), maps in found.items()
        for mean in [np.mean([one["alpha"] for one in maps], axis=0)]
    ]


def _versions(runs: list[RunResult]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for run in runs for name in run.versions)
    return {name: sorted({run.versions[name] for run in runs if name in run.versions}) for name in names}
