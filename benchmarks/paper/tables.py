"""The paper's tables with ours: columns of ours first, the paper's own in columns that say so."""

from __future__ import annotations

from collections.abc import Sequence

from sllmr_plugin.evaluation.comparison import below_untrained, gain_cell, spread
from sllmr_plugin.evaluation.differences import BASELINE, Level
from sllmr_plugin.evaluation.tables import Cell, Sheet, Table

from .paper import STRATA, paper_figures
from .reproduction import OURS, Reproduction
from .results import DataResults

STRATUM_NAMES = {"all": "overall", "cold": "cold users", "tail": "long-tail items"}
_POOLED_NAMES = {"all": "overall", "cold": "cold rows", "tail": "long-tail items"}
_AUC = {"all": "auc", "cold": "auc_cold", "tail": "auc_tail"}
"""Stratum -> key of what needs no training; behind ``ctr_`` that of labelled rows."""
_NO_PAPER = [Cell("-"), Cell("")]  # the paper has nothing of the kind
_Rows = Sequence[tuple[str, str, str]]  # name in a sentence, backbone, mode


def table_2(results: DataResults, reproduction: Reproduction) -> Sheet:
    """Lay out Table 2 of a data set: a section a backbone, a row a mode."""
    paper = paper_figures()
    sections = []
    for backbone in reproduction.backbones:
        section = Table(_both(backbone, paper.backbones.get(backbone)), _headings(results))
        for mode in reproduction.modes_of_table(2):
            theirs = [paper.table_2.get((results.data, backbone, m)) for m in (mode, BASELINE)]
            cells = [*_ours(results, backbone, mode, "all"), *_theirs(mode, *theirs)]
            section.rows.append((_both(mode, paper.frameworks.get(mode)), cells))
        sections.append(section)
    if results.untrained:
        sections.append(Table("nothing trained", _headings(results), _untrained(results, "all")))
    rows = [(f"{backbone} {mode}", backbone, mode) for backbone, mode in _asked(reproduction, 2)]
    sections += _additions(results, rows, ("all",))
    below = _below(results, rows, ("all",))
    return Sheet(_caption("Table 2", results), sections, [*_remarks(results, reproduction), *below])


def table_3(results: DataResults, reproduction: Reproduction) -> Sheet:
    """Lay out Table 3 of a data set: a section a stratum, a row a mode."""
    paper = paper_figures()
    sections = []
    for stratum in STRATA:
        section = Table(_stratum_names(results)[stratum], _headings(results))
        for mode in reproduction.modes_of_table(3):
            theirs = [paper.table_3.get((results.data, m, stratum)) for m in (mode, BASELINE)]
            cells = [*_ours(results, paper.ablated, mode, stratum), *_theirs(mode, *theirs)]
            section.rows.append((_both(mode, paper.methods.get(mode)), cells))
        section.rows.extend(_untrained(results, stratum))
        sections.append(section)
    rows = [(mode, backbone, mode) for backbone, mode in _asked(reproduction, 3)]
    sections += _additions(results, rows, STRATA)
    remarks = [*_remarks(results, reproduction), *_below(results, rows, STRATA)]
    return Sheet(_caption(f"Table 3, {paper.ablated}", results), sections, remarks)


def figure_2(results: DataResults, reproduction: Reproduction) -> Sheet:
    """Lay out the values of Figure 2 of a data set: a section a stratum, a row a backbone."""
    paper = paper_figures()
    sections = []
    for stratum in STRATA:
        section = Table(_stratum_names(results)[stratum], [f"{OURS} minus none", "paper: Ours minus None"])
        for backbone in reproduction.backbones:
            ours = gain_cell(results.gains.get((backbone, OURS, stratum)))
            section.rows.append(
                (_both(backbone, paper.backbones.get(backbone)), [ours, _in_paper(results, backbone, stratum)])
            )
        sections.append(section)
    remarks = [
        "paper: its Figure 2 prints no values; overall from Table 2, cold users and long-tail items of "
        f"{paper.ablated} from Table 3",
        *_remarks(results, reproduction),
    ]
    return Sheet(_caption("Figure 2", results), sections, remarks)


def _asked(reproduction: Reproduction, table: int) -> list[tuple[str, str]]:
    """Return the backbones and modes of a table."""
    backbones = reproduction.backbones if table == 2 else (paper_figures().ablated,)
    return [(backbone, mode) for backbone in backbones for mode in reproduction.modes_of_table(table)]


def _untrained(results: DataResults, stratum: str) -> list[tuple[str, list[Cell]]]:
    """Return a row of each ranking that needs no training, under the headings of the models."""
    key = _AUC[stratum]
    rows = []
    for name, aucs in results.untrained.items():
        pooled = [Cell(spread([aucs[f"ctr_{key}"]]) if f"ctr_{key}" in aucs else "-"), Cell("")]
        rows.append((name, [Cell(spread([aucs[key]])), Cell(""), *(pooled if results.pooled else []), *_NO_PAPER]))
    return rows


def _additions(results: DataResults, rows: _Rows, strata: Sequence[str]) -> list[Table]:
    """Return what combined modes gain over what they add to: a section a baseline, a column a stratum."""
    sections: dict[str, Table] = {}
    headings = [_stratum_names(results)[stratum] for stratum in strata]
    for name, backbone, mode in rows:
        found = [results.additions.get((backbone, mode, stratum)) for stratum in strata]
        of = next((difference.baseline for difference in found if difference is not None), None)
        if of is not None:
            section = sections.setdefault(of, Table(f"minus {of}", headings))
            section.rows.append((name, [gain_cell(difference) for difference in found]))
    return list(sections.values())


def _below(results: DataResults, rows: _Rows, strata: Sequence[str]) -> list[str]:
    """Say which models are below what needs no training, in both metrics."""
    lines = []
    for stratum in strata:
        key = _AUC[stratum]
        levels = {name: results.levels.get((backbone, mode, stratum)) for name, backbone, mode in rows}
        ranked = {name: [level.mean] for name, level in levels.items() if level is not None}
        pooled = {
            name: list(results.pooled.get((backbone, mode, stratum), {}).values()) for name, backbone, mode in rows
        }
        lines += below_untrained(ranked, results.untrained, key)
        lines += below_untrained({name: own for name, own in pooled.items() if own}, results.untrained, f"ctr_{key}")
    return lines


def _in_paper(results: DataResults, backbone: str, stratum: str) -> Cell:
    paper = paper_figures()
    if stratum == "all":
        aucs = [paper.table_2.get((results.data, backbone, mode)) for mode in (OURS, BASELINE)]
    elif backbone == paper.ablated:
        aucs = [paper.table_3.get((results.data, mode, stratum)) for mode in (OURS, BASELINE)]
    else:
        aucs = [None, None]
    return _theirs(OURS, *aucs)[1]


def _headings(results: DataResults) -> list[str]:
    pooled = ["CTR AUC", "CTR AUC minus none"] if results.pooled else []
    return ["AUC", "minus none", *pooled, "paper: AUC", "paper: minus none"]


def _stratum_names(results: DataResults) -> dict[str, str]:
    return _POOLED_NAMES if results.pooled else STRATUM_NAMES


def _ours(results: DataResults, backbone: str, mode: str, stratum: str) -> list[Cell]:
    level = results.levels.get((backbone, mode, stratum))
    gain = Cell("") if mode == BASELINE else gain_cell(results.gains.get((backbone, mode, stratum)))
    return [_level_cell(level), gain, *(_pooled(results, backbone, mode, stratum) if results.pooled else [])]


def _pooled(results: DataResults, backbone: str, mode: str, stratum: str) -> list[Cell]:
    """Return the pooled AUC and its mean difference to the plain model's over the seeds of both."""
    own, plain = (results.pooled.get((backbone, name, stratum), {}) for name in (mode, BASELINE))
    gains = [own[seed] - plain[seed] for seed in own if seed in plain]
    level = Cell(spread(list(own.values())) if own else "-")
    if mode == BASELINE:
        return [level, Cell("")]
    return [level, Cell(spread(gains, sign="+") if gains else "-")]


def _level_cell(level: Level | None) -> Cell:
    if level is None:
        return Cell("-")
    if level.low != level.low:
        return Cell(f"{level.mean:.4f}")
    return Cell(f"{level.mean:.4f} [{level.low:.4f}, {level.high:.4f}]")


def _theirs(mode: str, auc: float | None, plain: float | None) -> list[Cell]:
    shown = "-" if auc is None else f"{auc:.4f}"
    if mode == BASELINE:
        return [Cell(shown), Cell("")]
    return [Cell(shown), Cell("-" if auc is None or plain is None else f"{auc - plain:+.4f}")]


def _both(ours: str, theirs: str | None) -> str:
    """Name a row by our name, and by the paper's where it has one that is not the same."""
    return ours if theirs is None or theirs.lower() == ours else f"{ours} ({theirs})"


def _caption(what: str, results: DataResults) -> list[str]:
    domain = paper_figures().domains.get(results.data)
    first = results.first
    ranked = f"sampled AUC, against {first.test_items} items," if first.test_items else "full-ranking AUC"
    return [
        f"{what}, {results.data}" + (f" (the paper's {domain})" if domain else ", which the paper does not have") + ":",
        f"{ranked} of {first.n_test} test interactions",
        f"({first.n_cold} {'cold at their time' if results.pooled else 'of cold users'}, "
        f"{first.n_tail} of long-tail items)",
    ]


def _remarks(results: DataResults, reproduction: Reproduction) -> list[str]:
    lines = ["brackets: 95% intervals, for new users" + (" and seeds" if reproduction.seeds > 1 else "; one seed")]
    if results.pooled:
        lines.append("CTR AUC: pooled over labelled rows, as the paper's; ± standard deviation over seeds")
    if results.content_of:
        lines.append(f"content: similarity of {results.content_of} to those of the user's training items")
    short = _short_of_seeds(results, reproduction)
    return [*lines, *([f"fewer than {reproduction.seeds} seeds so far: {', '.join(short)}"] if short else [])]


def _short_of_seeds(results: DataResults, reproduction: Reproduction) -> Sequence[str]:
    asked = dict.fromkeys((backbone, mode) for data, backbone, mode, _ in reproduction.runs() if data == results.data)
    seeds = dict.fromkeys(asked, 0)
    for run, _ in results.runs:
        seeds[run.backbone, run.mode] += 1
    return [f"{backbone} {mode} ({n})" for (backbone, mode), n in seeds.items() if n < reproduction.seeds]
