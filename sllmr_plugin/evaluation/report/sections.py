"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..comparison import POOLED_NAMES
from ..plots import REGIONS, WEIGHT
from ..reliability import MEASURES, untrained_names
from ..tables import Cell, Table
from .sentences import STRATA, interval

_Rows = Sequence[Mapping[str, Any]]
NOT_RECORDED = "not recorded"
SIZES = {"history_length": "training interactions of the user", "popularity": "training interactions of the item"}
"""Strata of `gains_by_size` -> what their ranges count."""
_ORIGIN = {
    "scorer": "scorer",
    "model": "model",
    "created": "date",
    "prompt_hash": "prompt hash",
    "tokens": "tokens",
    "cost": "cost in USD",
}
_RECORDED = {**_ORIGIN, "tokens.prompt": "tokens sent", "tokens.completion": "tokens written"}


def differences(rows: _Rows, head: str) -> Table:
    """Return differences to one mode: a row a backbone and mode, a column a stratum."""
    section = Table(head, [*STRATA.values(), "p", "users better / same / worse"])
    for (backbone, mode), own in grouped(rows, "backbone", "mode").items():
        strata = {row["stratum"]: row for row in own if not row["label"]}
        whole = strata["all"]
        cells = [_gain(strata.get(key)) for key in STRATA]
        cells += [Cell(_number(whole["p_value"])), Cell(f"{whole['wins']} / {whole['ties']} / {whole['losses']}")]
        section.rows.append((f"{backbone} {mode}", cells))
    return section


def levels(rows: _Rows) -> Table:
    """Return AUC: a row a backbone and mode, a column a stratum."""
    strata = list(dict.fromkeys((row["stratum"], row["label"]) for row in rows))
    section = Table("AUC", [stratum_name(*stratum) for stratum in strata])
    for (backbone, mode), own in grouped(rows, "backbone", "mode").items():
        found = {(row["stratum"], row["label"]): row for row in own}
        section.add(f"{backbone} {mode}", [interval(found[key]) if key in found else "-" for key in strata])
    return section


def labelled(rows: _Rows) -> Table:
    """Return the AUC over labelled rows: a row a backbone and mode, a column a stratum."""
    section = Table("AUC", list(POOLED_NAMES.values()))
    for row in rows:
        section.add(f"{row['backbone']} {row['mode']}", [_spread(row[metric]) for metric in POOLED_NAMES])
    return section


def gains(rows: _Rows, head: str) -> Table:
    """Return gains of one backbone by a range: a row a range, a column a mode."""
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    section = Table(head, ["test interactions", *modes])
    for (label,), own in grouped(rows, "label").items():
        found = {row["mode"]: row for row in own}
        section.rows.append((label, [Cell(str(own[0]["n_interactions"])), *(_gain(found.get(mode)) for mode in modes)]))
    return section


def reliability(regions: _Rows, name: Callable[[Mapping[str, Any]], str]) -> Table:
    """Return who is right, by region."""
    names = untrained_names(regions[0])
    headings = ["LLM right", "backbone right", "LLM right when they disagree", *(f"{name} right" for name in names)]
    section = Table("pairs of", ["pairs", "disagreements", *headings])
    for row in regions:
        shares = [
            interval({"mean": row[key], "low": row[f"{key}_low"], "high": row[f"{key}_high"]})
            for key in (*MEASURES, *(f"{name}_right" for name in names))
        ]
        section.add(name(row), [str(row["n_pairs"]), str(row["n_disagree"]), *shares])
    return section


def gate(rows: _Rows) -> Table:
    """Return the gate of one backbone and mode: a row an epoch."""
    columns = [*REGIONS, *(key for key in rows[-1] if key.startswith(WEIGHT))]
    section = Table("epoch", [REGIONS.get(key, f"weight of {key.removeprefix(WEIGHT)}") for key in columns])
    for row in rows:
        section.add(str(row["epoch"]), [_number(row.get(key)) for key in columns])
    return section


def curves(rows: _Rows) -> Table:
    """Return validation AUC and loss of one backbone: a row an epoch, two columns a mode."""
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    section = Table("epoch", [f"{mode}: {what}" for mode in modes for what in ("validation AUC", "loss")])
    for (epoch,), own in grouped(rows, "epoch").items():
        found = {row["mode"]: row for row in own}
        cells = [_number(found.get(mode, {}).get(key)) for mode in modes for key in ("valid_auc", "loss")]
        section.add(str(epoch), cells)
    return section


def runs(rows: _Rows) -> Table:
    """Return every run."""
    section = Table("run", ["AUC", "cold users", "long-tail items", "kept epoch", "fit seconds"])
    for row in rows:
        cells = [_number(row[key]) for key in ("auc", "auc_cold", "auc_tail")]
        cells += [str(row["epoch"]), f"{row['seconds']:.1f}"]
        section.add(f"{row['backbone']} {row['mode']} seed {row['seed']}", cells)
    return section


def example(ranked: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Table:
    """Return what runs show to a user: a row a run, from pairs of it and of an entry of `rank_examples`."""
    section = Table("trained", ["place of what was taken", "the first five"])
    for run, shown in ranked:
        name = f"{run['backbone']} {run['mode']} seed {run['seed']}"
        section.add(name, [f"{shown['rank']} of {shown['of']}", "; ".join(shown["top"])])
    return section


def pace(rows: _Rows) -> Table:
    """Return how long an epoch takes: a row a backbone and mode."""
    section = Table("training", ["seconds", "over plain"])
    for row in rows:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        section.add(f"{row['backbone']} {row['mode']}", [f"{row['seconds']:.1f}", ratio])
    return section


def metrics(rows: _Rows) -> Table:
    """Return the other metrics of every run."""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    section = Table("run", names)
    for row in rows:
        run = f"{row['backbone']} {row['mode']} seed {row['seed']}"
        section.add(run, [_number(row["metrics"].get(name)) for name in names])
    return section


def coverage(inputs: Mapping[str, Any] | None) -> Table:
    """Return what of the score table can be used."""
    section = Table("score table", ["count"])
    if inputs is None:
        section.add("coverage", [NOT_RECORDED])
        return section
    data, scores = inputs["interactions"], inputs["scores"]
    section.add("scored pairs read", [str(scores["n_read"])])
    section.add("candidates kept", [str(scores["n_candidates"])])
    section.add("probes kept", [f"{scores['n_probes']} of {scores['n_probe_users']} users"])
    for reason, count in scores["dropped"].items():
        section.add(f"dropped: {reason}", [str(count)])
    section.add("users with candidates", [f"{scores['n_users']} of {data['users']}"])
    section.add("cold users with candidates", [f"{scores['cold_users']} of {data['cold_users']}"])
    section.add("items among the candidates", [f"{scores['n_items']} of {data['items']}"])
    section.add("long-tail items among the candidates", [f"{scores['tail_items']} of {data['tail_items']}"])
    return section


def origin(inputs: Mapping[str, Any] | None) -> Table:
    """Return how the scores were made and what they cost, as far as their file says."""
    recorded = flatten((inputs or {}).get("origin", {}))
    section = Table("scores", ["recorded"])
    for key, value in recorded.items():
        section.add(_RECORDED.get(key, key), [NOT_RECORDED if value is None else str(value)])
    for key, name in _ORIGIN.items():
        if not any(key in part for part in recorded):
            section.add(name, [NOT_RECORDED])
    return section


def settings(values: Mapping[str, Any]) -> Table:
    """Return the configuration."""
    section = Table("setting", ["value"])
    for key, value in flatten(values).items():
        section.add(key, ["none" if value is None else str(value)])
    return section


def versions(values: Mapping[str, Sequence[str]]) -> Table:
    """Return the versions of the packages."""
    section = Table("package", ["version"])
    for name, found in values.items():
        section.add(name, [", ".join(found)])
    return section


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def stratum_name(stratum: str, label: str) -> str:
    """Return a stratum in words."""
    return f"{stratum}: {label}" if label else STRATA[stratum]


def _gain(row: Mapping[str, Any] | None) -> Cell:
    return Cell("-") if row is None else Cell(interval(row, signed=True), bool(row["clear"]))


def _spread(values: Mapping[str, float | None]) -> str:
    deviation = values["deviation"]
    return _number(values["mean"]) + (f" ± {deviation:.4f}" if deviation is not None else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def grouped(rows: _Rows, *keys: str) -> dict[tuple, list[Mapping[str, Any]]]:
    """Group rows by the values of keys, in the order of their first appearance."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups
