"""Results as tables: text, Markdown, LaTeX and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ..regularizer.gates import GATES
from .comparison import Comparison
from .differences import Difference
from .run import GATE_MEANS, RunResult
from .trials import Trial, gate_name, uses_uncertainty
from .tune import TuneResult

_METRICS = {"auc": "AUC", "auc_cold": "cold users", "auc_tail": "long-tail items"}
_STRATA = {"all": "AUC", "cold": "cold users", "tail": "long-tail items"}
_MORE = {
    "ranking": {"ndcg@10": "NDCG@10", "recall@10": "Recall@10", "mrr": "MRR"},
    "clicks": {"ctr_auc": "CTR AUC", "gauc": "GAUC", "logloss": "logloss", "ece": "ECE"},
}


@dataclass(frozen=True)
class Cell:
    """A text, and whether it is a difference whose interval leaves out zero."""

    text: str
    clear: bool = False


@dataclass(frozen=True)
class Section:
    """Rows of named cells under headings.

    Attributes
    ----------
    head : str
        Heading of the row names.
    headings : list of str
        One a column.
    rows : list of (str, list of Cell)
        Name and cells.
    """

    head: str
    headings: list[str]
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)

    def add(self, name: str, texts: Sequence[str]) -> None:
        """Add a row of plain cells."""
        self.rows.append((name, [Cell(text) for text in texts]))


@dataclass(frozen=True)
class BackboneTable:
    """All about one backbone: what was measured, the sections, and remarks on them."""

    caption: list[str]
    sections: list[Section]
    remarks: list[str]


def tables(comparison: Comparison, *, more: bool = False) -> list[BackboneTable]:
    """Lay out a comparison.

    Parameters
    ----------
    comparison : Comparison
        Its runs may be of several backbones.
    more : bool, default=False
        Add the other ranking metrics and the click metrics.

    Returns
    -------
    list of BackboneTable
        One a backbone. Means over the seeds, with ``±`` the standard deviation over the seeds (n - 1) where
        there are two or more; differences with their 95% intervals.
    """
    return [_table(backbone, comparison, more) for backbone in dict.fromkeys(run.backbone for run in comparison)]


def _table(backbone: str, comparison: Comparison, more: bool) -> BackboneTable:
    runs = [run for run in comparison if run.backbone == backbone]
    modes = {mode: [run for run in runs if run.mode == mode] for mode in dict.fromkeys(r.mode for r in runs)}
    differences = [difference for difference in comparison.differences if difference.backbone == backbone]
    sections = [
        _results(modes, comparison.untrained),
        *_differences(differences),
        *_gates(modes),
        *_labels(backbone, comparison),
    ]
    if more:
        sections += _more(modes)
    remarks = [*_remarks(differences), *_below_untrained(modes, comparison.untrained)]
    return BackboneTable(_caption(backbone, runs), sections, remarks)


def _caption(backbone: str, runs: list[RunResult]) -> list[str]:
    seeds = list(dict.fromkeys(run.seed for run in runs))
    first = runs[0]
    return [
        f"{backbone}, {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}: "
        f"{'sampled' if first.test_items else 'full-ranking'} AUC of {first.n_test} test interactions",
        f"({first.n_cold} of cold users, {first.n_tail} of long-tail items)",
        *([f"left out: {first.n_undefined} of users who have seen the whole catalogue"] if first.n_undefined else []),
        *_sampling(runs),
    ]


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


def _results(modes: dict[str, list[RunResult]], untrained: Mapping[str, Mapping[str, float]]) -> Section:
    section = Section("mode", [*_METRICS.values(), "kept epoch", "fit seconds"])
    for mode, runs in modes.items():
        means = [spread([getattr(run, metric) for run in runs]) for metric in _METRICS]
        section.add(mode, [*means, *(f"{np.mean([getattr(r, f) for r in runs]):.1f}" for f in ("epoch", "seconds"))])
    for name, aucs in untrained.items():
        section.add(name, [*(spread([aucs[metric]]) for metric in _METRICS), "-", "-"])
    return section


def _below_untrained(modes: dict[str, list[RunResult]], untrained: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say which modes rank worse than something that needs no training."""
    means = {mode: float(np.mean([run.auc for run in runs])) for mode, runs in modes.items()}
    below = {name: [mode for mode, auc in means.items() if auc < aucs["auc"]] for name, aucs in untrained.items()}
    return [f"below {name}, which needs no training: {', '.join(found)}" for name, found in below.items() if found]


def _differences(differences: list[Difference]) -> list[Section]:
    """Return the gains over the plain model, and how many users have them."""
    gains, users = Section("minus none", list(_STRATA.values())), Section("users", ["p", "better / same / worse"])
    for mode in dict.fromkeys(difference.mode for difference in differences):
        by_stratum = {d.stratum: d for d in differences if d.mode == mode and not d.label}
        gains.rows.append((mode, [gain_cell(by_stratum.get(stratum)) for stratum in _STRATA]))
        whole = by_stratum["all"]
        p_value = f"{whole.p_value:.4f}" if whole.p_value == whole.p_value else "-"
        users.add(mode, [p_value, f"{whole.wins} / {whole.ties} / {whole.losses}"])
    return [gains, users] if gains.rows else []


def gain_cell(difference: Difference | None) -> Cell:
    """Lay out a difference with its interval, where it has one."""
    if difference is None:
        return Cell("-")
    if difference.low != difference.low:
        return Cell(f"{difference.mean:+.4f}")
    return Cell(f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]", difference.clear)


def _remarks(differences: list[Difference]) -> list[str]:
    if not differences:
        return []
    if max(len(difference.seeds) for difference in differences) > 1:
        return ["minus none: 95% intervals for new users and seeds; p and counts: of users, given these models"]
    return ["minus none: 95% intervals for new users; one seed cannot tell how much another would differ"]


def _gates(modes: dict[str, list[RunResult]]) -> list[Section]:
    # A mode without a gate follows the LLM everywhere: its means are 1 and say nothing.
    section = Section("mean gate", ["all pairs", "cold users", "long-tail items", "neither"])
    for mode in modes:
        if mode.rpartition("+")[2] not in ("joint", "gated"):
            continue
        gates = [run.gate for run in modes.get(mode, []) if run.gate]
        if gates:
            section.add(mode, [spread([gate[name] for gate in gates], 3) for name in GATE_MEANS])
    return [section] if section.rows else []


def _labels(backbone: str, comparison: Comparison) -> list[Section]:
    """Return a section a column of the user's strata, with a row a label and mode."""
    own = [stratum for stratum in comparison.strata if stratum.backbone == backbone]
    gains = {(d.stratum, d.label, d.mode): d for d in comparison.differences if d.backbone == backbone}
    sections = []
    for column in dict.fromkeys(stratum.stratum for stratum in own):
        section, named = Section(f"by {column}", ["mode", "AUC", "minus none"]), set()
        for stratum in (stratum for stratum in own if stratum.stratum == column):
            gain = gains.get((column, stratum.label, stratum.mode))
            cells = [Cell(stratum.mode), Cell(spread(stratum.aucs)), Cell("") if gain is None else gain_cell(gain)]
            name = "" if stratum.label in named else f"{stratum.label} ({stratum.n_interactions})"
            named.add(stratum.label)
            section.rows.append((name, cells))
        sections.append(section)
    return sections


def _more(modes: dict[str, list[RunResult]]) -> list[Section]:
    sections = []
    for head, metrics in _MORE.items():
        section = Section(head, list(metrics.values()))
        for mode, runs in modes.items():
            if all(name in run.metrics for run in runs for name in metrics):
                section.add(mode, [spread([run.metrics[name] for run in runs]) for name in metrics])
        sections += [section] if section.rows else []
    return sections


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Lay out a mean, with ``±`` the standard deviation (n - 1) where there are two values or more."""
    mean = float(np.mean(values))
    if np.isnan(mean):
        return "-"
    text = f"{mean:.{digits}f}"
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text


_WIDTH = 18
_LATEX = str.maketrans(
    {
        **{sign: "\\" + sign for sign in "_%&#${}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
    }
)


def format_table(comparison: Comparison, form: str = "text", *, more: bool = False) -> str:
    """Write a comparison down.

    A difference whose interval leaves out zero is set bold, in text marked with ``*``; no other is.

    Parameters
    ----------
    comparison : Comparison
        As `compare` returns it.
    form : {"text", "markdown", "latex", "json"}, default="text"
        LaTeX needs the package booktabs. JSON has all figures of the runs and differences, unrounded.
    more : bool, default=False
        Add NDCG, Recall, MRR and the click metrics; JSON has them always.

    Returns
    -------
    str
    """
    if form == "json":
        return _json(comparison)
    write = FORMATS[form]
    return "\n\n\n".join("\n".join(write(table)) for table in tables(comparison, more=more))


def _json(comparison: Comparison) -> str:
    content = {
        "runs": [run.to_json() for run in comparison],
        "differences": [{**difference.to_json(), "clear": difference.clear} for difference in comparison.differences],
        "strata": [asdict(stratum) for stratum in comparison.strata],
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _text(table: BackboneTable) -> list[str]:
    lines = list(table.caption)
    for section in table.sections:
        rows = [(name, [cell.text + "*" * cell.clear for cell in cells]) for name, cells in section.rows]
        columns = zip(section.headings, *(cells for _, cells in rows), strict=True)
        widths = [max(_WIDTH, *(len(text) + 1 for text in column)) for column in columns]
        lead = max(15, *(len(name) + 1 for name in (section.head, *(name for name, _ in rows))))
        lines.append("")
        for name, texts in [(section.head, section.headings), *rows]:
            cells = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
            lines.append((name.ljust(lead) + "".join(cells)).rstrip())
    if any(cell.clear for section in table.sections for _, cells in section.rows for cell in cells):
        lines += ["", "* the interval leaves out zero"]
    elif table.remarks:
        lines.append("")
    return [*lines, *table.remarks]


def _markdown(table: BackboneTable) -> list[str]:
    lines = [" ".join(table.caption)]
    for section in table.sections:
        lines += ["", _bars(section.head, section.headings), _bars("---", ["---:"] * len(section.headings))]
        for name, cells in section.rows:
            lines.append(_bars(name, [f"**{cell.text}**" if cell.clear else cell.text for cell in cells]))
    return [*lines, *([""] if table.remarks else []), *table.remarks]


def _bars(name: str, texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", r"\|") for text in [name, *texts]) + " |"


def _latex(table: BackboneTable) -> list[str]:
    lines = [f"% {line}" for line in [*table.caption, *table.remarks]]
    for section in table.sections:
        lines += ["", r"\begin{tabular}{l" + "r" * len(section.headings) + "}", r"\toprule"]
        lines += [_ampersands(section.head, [Cell(heading) for heading in section.headings]), r"\midrule"]
        lines += [_ampersands(name, cells) for name, cells in section.rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
    return lines


def _ampersands(name: str, cells: list[Cell]) -> str:
    texts = [name.translate(_LATEX)]
    for cell in cells:
        text = cell.text.translate(_LATEX)
        texts.append(rf"\textbf{{{text}}}" if cell.clear else text)
    return " & ".join(texts) + r" \\"


FORMATS: dict[str, Callable[[BackboneTable], list[str]]] = {"text": _text, "markdown": _markdown, "latex": _latex}
"""Names of forms that are laid out from tables; ``json`` is the fourth."""


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
        str(trial.config.uncertainty) if uses_uncertainty(trial.config) else "-",
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
