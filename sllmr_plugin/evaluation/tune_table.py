"""What a search prints: its trials, best first, and what the best one is worth."""

from __future__ import annotations

from collections.abc import Sequence

from ..regularizer.gates import GATES
from .search_space import gate_name, uses_uncertainty
from .trials import Trial
from .tune import TuneResult

_HEADINGS = ("trial", "gate", "uncertainty", "weight", "margin", "validation AUC", "minus plain", "kept epoch", "")


def format_trials(result: TuneResult) -> str:
    """Write the trials down, by validation AUC, and what to make of the chosen one.

    Parameters
    ----------
    result : TuneResult
        As `tune` returns it.

    Returns
    -------
    str
    """
    ranked = sorted(result.trials, key=lambda trial: (-trial.auc, trial.number))
    spread = "mean ± standard deviation over" if len(result.seeds) > 1 else "of"
    seeds = "seeds" if len(result.seeds) > 1 else "seed"
    head = (
        f"{result.backbone}, {len(ranked)} trials: validation AUC, {spread} {seeds} {', '.join(map(str, result.seeds))}"
    )
    lines = [head, "", *_columns([_HEADINGS, *(_row(trial, result) for trial in ranked)])]
    return "\n".join([*lines, "", *_verdict(result), *_cautions(result)])


def _row(trial: Trial, result: TuneResult) -> tuple[str, ...]:
    name = " (default)" if trial.number == result.default.number else ""
    regularized = trial.number != result.plain.number
    return (
        str(trial.number),
        gate_name(trial.config) + name,
        trial.config.uncertainty if uses_uncertainty(trial.config) else "-",
        f"{trial.config.weight:g}" if regularized else "-",
        f"{trial.config.resolved_margin:g}" if regularized else "-",
        _with_deviation(trial.auc, trial.auc_sd),
        _with_deviation(*trial.minus(result.plain), sign="+") if regularized else "",
        ", ".join(str(run.epoch) for run in trial.runs),
        "<- chosen" if trial.number == result.chosen.number else "",
    )


def _verdict(result: TuneResult) -> list[str]:
    if result.chosen.number == result.plain.number:
        return [
            "Chosen: the plain model. No trial has a higher validation AUC, so on these data, with these scores and",
            "settings, train without the regularizer. `sllmr coverage` and more scored users may tell why.",
        ]
    lines = []
    for name, other in (("plain model", result.plain), ("default config", result.default)):
        if result.chosen.number == other.number:
            lines.append(f"Trial {other.number} is the {name}: tuning found nothing better.")
            continue
        gain, deviation = result.chosen.minus(other)
        note = " (no more than its deviation over seeds: may well be luck)" if (deviation or 0.0) >= gain else ""
        lines.append(f"Trial {result.chosen.number} minus {name}: {_with_deviation(gain, deviation, sign='+')}{note}")
    return lines


def _cautions(result: TuneResult) -> list[str]:
    lines = [
        f"The best of {len(result.trials)} trials is partly the luckiest, so its validation AUC promises too much. "
        "The test part,",
        "which was not looked at, tells what it is worth.",
    ]
    if len(result.seeds) == 1:
        lines.append("With one seed nothing is known about luck; more seeds add to these trials.")
    if result.n_probes:
        on_probes = " and ".join(name for name, gate in GATES.items() if gate.needs_probes)
        lines += [
            f"{result.n_probes} of the {result.n_valid} validation interactions are probes, which the gates "
            f"{on_probes}",
            "are fitted on: validation may flatter them.",
        ]
    return lines


def _with_deviation(value: float, deviation: float | None, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + (f" ± {deviation:.4f}" if deviation is not None else "")


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
