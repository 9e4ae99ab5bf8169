"""A comparison as one object: runs, what follows from them, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from .differences import BASELINE, Difference, StratumAuc
from .run import GATE_MEANS, RunResult, replace_nan
from .tables import Cell, Sheet, Table

_METRICS = {"auc": "AUC", "auc_cold": "cold users", "auc_tail": "long-tail items"}
POOLED_NAMES = {"ctr_auc": "CTR AUC", "ctr_auc_cold": "cold rows", "ctr_auc_tail": "long-tail items"}
"""Names of `POOLED` -> what tables call them."""
_STRATA = {"all": "AUC", "cold": "cold users", "tail": "long-tail items"}
_WHERE = {
    "auc": "",
    "auc_cold": " for cold users",
    "auc_tail": " on long-tail items",
    "ctr_auc": " on labelled rows",
    "ctr_auc_cold": " on cold labelled rows",
    "ctr_auc_tail": " on labelled rows of long-tail items",
}
_MORE = {
    "ranking": {"ndcg@10": "NDCG@10", "recall@10": "Recall@10", "mrr": "MRR"},
    "unseen items": {
        "auc_unseen": "AUC",
        "auc_among_unseen": "AUC among unseen",
        "recall@20_among_unseen": "Recall@20 among unseen",
    },
    "clicks": {"ctr_auc": "CTR AUC", "gauc": "GAUC", "logloss": "logloss", "ece": "ECE"},
}


@dataclass(frozen=True)
class Comparison:
    """Runs and what follows from them; iterates over the runs.

    Attributes
    ----------
    runs : list of RunResult
        Without their rankings, which stay in the run folder.
    differences : list of Difference
        To the plain model of the same backbone, and of combined modes to what they add to.
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
        return "\n".join([*lines, "  (print it for all figures)"])

    def __str__(self) -> str:
        return format_table(self)

    def _repr_html_(self) -> str:
        return format_table(self, "html")


def tables(comparison: Comparison, *, more: bool = False) -> list[Sheet]:
    """Lay out a comparison.

    Parameters
    ----------
    comparison : Comparison
        Its runs may be of several backbones.
    more : bool, default=False
        Add the other ranking metrics and the click metrics.

    Returns
    -------
    list of Sheet
        One a backbone. Means over the seeds, with ``±`` the standard deviation over the seeds (n - 1) where
        there are two or more; differences with their 95% intervals.
    """
    return [_table(backbone, comparison, more) for backbone in dict.fromkeys(run.backbone for run in comparison)]


def _table(backbone: str, comparison: Comparison, more: bool) -> Sheet:
    runs = [run for run in comparison if run.backbone == backbone]
    modes = {mode: [run for run in runs if run.mode == mode] for mode in dict.fromkeys(r.mode for r in runs)}
    differences = [difference for difference in comparison.differences if difference.backbone == backbone]
    sections = [
        _results(modes, comparison.untrained),
        *_pooled(modes, comparison.untrained),
        *_differences(differences),
        *_gates(modes),
        *_labels(backbone, comparison),
    ]
    if more:
        sections += _more(modes)
    remarks = [
        *_remarks(differences),
        *below_untrained({mode: [run.auc for run in own] for mode, own in modes.items()}, comparison.untrained),
        *below_untrained(_pooled_aucs(modes), comparison.untrained, "ctr_auc"),
    ]
    return Sheet(_caption(backbone, runs), sections, remarks)


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


def _results(modes: dict[str, list[RunResult]], untrained: Mapping[str, Mapping[str, float]]) -> Table:
    section = Table("mode", [*_METRICS.values(), "kept epoch", "fit seconds"])
    for mode, runs in modes.items():
        means = [spread([getattr(run, metric) for run in runs]) for metric in _METRICS]
        section.add(mode, [*means, *(f"{np.mean([getattr(r, f) for r in runs]):.1f}" for f in ("epoch", "seconds"))])
    for name, aucs in untrained.items():
        section.add(name, [*(spread([aucs[metric]]) for metric in _METRICS), "-", "-"])
    return section


def _pooled(modes: dict[str, list[RunResult]], untrained: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """Return the pooled AUC over labelled rows, of runs under the protocol that has it by stratum."""
    section = Table("labelled rows", list(POOLED_NAMES.values()))
    for mode, runs in modes.items():
        if all(name in run.metrics for run in runs for name in POOLED_NAMES):
            section.add(mode, [spread([run.metrics[name] for run in runs]) for name in POOLED_NAMES])
    for name, aucs in untrained.items():
        if section.rows and all(metric in aucs for metric in POOLED_NAMES):
            section.add(name, [spread([aucs[metric]]) for metric in POOLED_NAMES])
    return [section] if section.rows else []


def _pooled_aucs(modes: dict[str, list[RunResult]]) -> dict[str, list[float]]:
    return {mode: [run.metrics.get("ctr_auc", np.nan) for run in runs] for mode, runs in modes.items()}


def below_untrained(
    aucs_of: Mapping[str, Sequence[float]], untrained: Mapping[str, Mapping[str, float]], metric: str = "auc"
) -> list[str]:
    """Say which models rank worse than something that needs no training.

    Parameters
    ----------
    aucs_of : mapping of str to sequence of float
        Name of a model -> its AUC with each seed.
    untrained : mapping of str to mapping of str to float
        As of `Comparison`.
    metric : {"auc", "auc_cold", "auc_tail", "ctr_auc", "ctr_auc_cold", "ctr_auc_tail"}, default="auc"
        Which AUC it is: of the ranking, or pooled over labelled rows. Where `untrained` lacks it, nothing is said.
    """
    means = {mode: float(np.mean(aucs)) for mode, aucs in aucs_of.items()}
    lines = []
    for name, aucs in untrained.items():
        found = [mode for mode, auc in means.items() if metric in aucs and auc < aucs[metric]]
        lines += [f"below {name}{_WHERE[metric]}, which needs no training: {', '.join(found)}"] if found else []
    return lines


def _differences(differences: list[Difference]) -> list[Table]:
    """Return the gains over the plain model and over what a mode adds to, and how many users have them."""
    found = []
    for baseline in dict.fromkeys(difference.baseline for difference in differences):
        head = f"minus {baseline}"
        gains, users = Table(head, list(_STRATA.values())), Table(f"{head}: users", ["p", "better / same / worse"])
        own = [difference for difference in differences if difference.baseline == baseline]
        for mode in dict.fromkeys(difference.mode for difference in own):
            by_stratum = {d.stratum: d for d in own if d.mode == mode and not d.label}
            gains.rows.append((mode, [gain_cell(by_stratum.get(stratum)) for stratum in _STRATA]))
            whole = by_stratum["all"]
            p_value = f"{whole.p_value:.4f}" if whole.p_value == whole.p_value else "-"
            users.add(mode, [p_value, f"{whole.wins} / {whole.ties} / {whole.losses}"])
        found += [gains, users]
    return found


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
        return ["differences: 95% intervals for new users and seeds; p and counts: of users, given these models"]
    return ["differences: 95% intervals for new users; one seed cannot tell how much another would differ"]


def _gates(modes: dict[str, list[RunResult]]) -> list[Table]:
    # A mode without a gate follows the LLM everywhere: its means are 1 and say nothing.
    section = Table("mean gate", ["all pairs", "cold users", "long-tail items", "neither"])
    for mode in modes:
        if mode.rpartition("+")[2] not in ("joint", "gated"):
            continue
        gates = [run.gate for run in modes.get(mode, []) if run.gate]
        if gates:
            section.add(mode, [spread([gate[name] for gate in gates], 3) for name in GATE_MEANS])
    return [section] if section.rows else []


def _labels(backbone: str, comparison: Comparison) -> list[Table]:
    """Return a section a column of the user's strata, with a row a label and mode."""
    own = [stratum for stratum in comparison.strata if stratum.backbone == backbone]
    plain = [d for d in comparison.differences if d.backbone == backbone and d.baseline == BASELINE]
    gains = {(d.stratum, d.label, d.mode): d for d in plain}
    sections = []
    for column in dict.fromkeys(stratum.stratum for stratum in own):
        section, named = Table(f"by {column}", ["mode", "AUC", "minus none"]), set()
        for stratum in (stratum for stratum in own if stratum.stratum == column):
            gain = gains.get((column, stratum.label, stratum.mode))
            cells = [Cell(stratum.mode), Cell(spread(stratum.aucs)), Cell("") if gain is None else gain_cell(gain)]
            name = "" if stratum.label in named else f"{stratum.label} ({stratum.n_interactions})"
            named.add(stratum.label)
            section.rows.append((name, cells))
        sections.append(section)
    return sections


def _more(modes: dict[str, list[RunResult]]) -> list[Table]:
    sections = []
    for head, metrics in _MORE.items():
        section = Table(head, list(metrics.values()))
        for mode, runs in modes.items():
            if all(name in run.metrics for run in runs for name in metrics):
                section.add(mode, [spread([run.metrics[name] for run in runs]) for name in metrics])
        sections += [section] if section.rows else []
    return sections


def spread(values: Sequence[float], digits: int = 4, *, sign: str = "") -> str:
    """Lay out a mean, with ``±`` the standard deviation (n - 1) where there are two values or more."""
    mean = float(np.mean(values))
    if np.isnan(mean):
        return "-"
    text = f"{mean:{sign}.{digits}f}"
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text


def format_table(comparison: Comparison, form: str = "text", *, more: bool = False) -> str:
    """Write a comparison down.

    A difference whose interval leaves out zero is set bold, in text marked with ``*``; no other is.

    Parameters
    ----------
    comparison : Comparison
        As `compare` returns it.
    form : {"text", "markdown", "latex", "html", "json"}, default="text"
        LaTeX needs the package booktabs. JSON has all figures of the runs and differences, unrounded.
    more : bool, default=False
        Add NDCG, Recall, MRR and the click metrics; JSON has them always.

    Returns
    -------
    str
    """
    if form == "json":
        return _json(comparison)
    return "\n\n\n".join(sheet.write(form) for sheet in tables(comparison, more=more))


def _json(comparison: Comparison) -> str:
    content = {
        "runs": [run.to_json() for run in comparison],
        "differences": [{**difference.to_json(), "clear": difference.clear} for difference in comparison.differences],
        "strata": [asdict(stratum) for stratum in comparison.strata],
        **replace_nan(comparison.untrained),
    }
    return json.dumps(content, indent=1, allow_nan=False)
