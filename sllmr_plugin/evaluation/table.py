"""The table of a comparison as plain text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .run import GATE_MEANS, RunResult

_METRICS = {"auc": "AUC", "auc_cold": "cold users", "auc_tail": "long-tail items"}
_WIDTH = 18


def format_table(runs: Sequence[RunResult]) -> str:
    """Lay out the runs of a comparison: AUC by mode, differences to ``none``, and gate means.

    Parameters
    ----------
    runs : sequence of RunResult
        As `compare` returns them; each backbone gets a table of its own.

    Returns
    -------
    str
        Means over the seeds, with ``±`` the standard deviation over the seeds (n - 1) where there are two or
        more. Differences are taken seed by seed before they are averaged.
    """
    tables = []
    for backbone, group in itertools.groupby(runs, key=lambda run: run.backbone):
        tables.append("\n".join(_backbone_table(backbone, list(group))))
    return "\n\n\n".join(tables)


def _backbone_table(backbone: str, runs: list[RunResult]) -> list[str]:
    modes = {mode: [run for run in runs if run.mode == mode] for mode in dict.fromkeys(r.mode for r in runs)}
    seeds = list(dict.fromkeys(run.seed for run in runs))
    first = runs[0]
    lines = [
        f"{backbone}, {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}: "
        f"{'sampled' if first.test_items else 'full-ranking'} AUC of {first.n_test} test interactions",
        f"({first.n_cold} of cold users, {first.n_tail} of long-tail items)",
        *_sampling(runs),
        "",
        _line("mode", [*_METRICS.values(), "kept epoch", "fit seconds"]),
    ]
    for mode, group in modes.items():
        cells = [_mean(group, metric) for metric in _METRICS]
        lines.append(_line(mode, [*cells, _average(group, "epoch"), _average(group, "seconds")]))

    plain = {run.seed: run for run in modes.get("none", [])}
    if plain and len(modes) > 1:
        lines += ["", _line("minus none", list(_METRICS.values()))]
        for mode, group in modes.items():
            if mode != "none":
                lines.append(_line(mode, [_difference(group, plain, metric) for metric in _METRICS]))

    # A mode without a gate follows the LLM everywhere: its means are 1 and say nothing.
    gated = {mode: [run.gate for run in modes.get(mode, []) if run.gate] for mode in ("joint", "gated")}
    if any(gated.values()):
        headings = ["all pairs", "cold users", "long-tail items", "neither"]
        lines += ["", _line("mean gate", headings)]
        for mode, gates in gated.items():
            if gates:
                lines.append(_line(mode, [_spread([gate[name] for gate in gates], 3) for name in GATE_MEANS]))
    return lines


def _sampling(runs: Sequence[RunResult]) -> list[str]:
    """Say how the items were drawn, if they were, and what that costs in precision."""
    errors = [run.sampling_error for run in runs if run.sampling_error]
    if not errors:
        return []
    worst = [np.fmax.reduce([error[metric] for error in errors]) for metric in _METRICS]
    told = [f"{error:.4f} ({name})" for error, name in zip(worst, _METRICS.values(), strict=True) if error == error]
    return [
        f"each against {runs[0].test_items} items drawn at random from those its user has not seen;",
        f"standard error from the draw, at most: {', '.join(told)}",
    ]


def _line(head: str, cells: Sequence[str]) -> str:
    return (head.ljust(15) + "".join(cell.ljust(_WIDTH) for cell in cells)).rstrip()


def _mean(runs: Sequence[RunResult], metric: str) -> str:
    return _spread([getattr(run, metric) for run in runs], 4)


def _average(runs: Sequence[RunResult], field: str) -> str:
    return f"{np.mean([getattr(run, field) for run in runs]):.1f}"


def _difference(runs: Sequence[RunResult], plain: dict[int, RunResult], metric: str) -> str:
    return _spread([getattr(run, metric) - getattr(plain[run.seed], metric) for run in runs], 4, sign="+")


def _spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    mean = float(np.mean(values))
    if np.isnan(mean):
        return "-"
    text = f"{mean:{sign}.{digits}f}"
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text
