"""The plots of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..differences import BASELINE
from ..plots import (
    curves_figure,
    gate_figure,
    gate_map_figure,
    interval_figure,
    reliability_figure,
    size_figure,
    users_figure,
)
from .sections import SIZES, stratum_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Plot:
    """A plot of the page.

    Attributes
    ----------
    name : str
        Of its PNG file, without the ending.
    caption : str
        What it is of.
    alt : str
        What it shows, for those who do not see it.
    figure : Figure
        As drawn.
    """

    name: str
    caption: str
    alt: str
    figure: Figure


_DRAWN = 3


def first_plots(summary: Mapping[str, Any]) -> list[Plot]:
    """Draw what a reader looks at first: AUC by history length and by popularity, and who gains; by backbone."""
    plots = []
    for backbone, rows in _by_backbone(summary["levels_by_size"]):
        shown = shown_modes(backbone, summary)
        for size, name in SIZES.items():
            own = [row for row in rows if row["stratum"] == size and row["mode"] in shown]
            if len({row["label"] for row in own}) < 2:
                continue
            table = pd.DataFrame(own).assign(trained=[row["mode"] not in summary["untrained"] for row in own])
            table = table.iloc[table["mode"].map(shown.index).argsort(kind="stable")]
            what = "history length" if size == "history_length" else "popularity"
            alt = f"AUC of {backbone} by {name}, a line for each of {', '.join(shown)}."
            figure = size_figure(table, f"AUC by {what}", name)
            plots.append(Plot(f"auc-by-{size.replace('_', '-')}-{backbone}", backbone, alt, figure))
    for backbone, rows in _by_backbone(summary["differences"]):
        shown = shown_modes(backbone, summary)
        own = [row for row in rows if row["stratum"] == "all" and not row["label"] and row["mode"] in shown]
        own = [row for row in own if row["wins"] + row["ties"] + row["losses"]]
        if own:
            alt = f"Shares of users for whom AUC is better, the same and worse than with the plain {backbone}. {_TABLE}"
            figure = users_figure(pd.DataFrame(own), "users, compared with the plain model")
            plots.append(Plot(f"users-{backbone}", backbone, alt, figure))
    return plots


def shown_modes(backbone: str, summary: Mapping[str, Any]) -> list[str]:
    """Name what fits into a plot: the plain model, the modes of highest AUC, popularity and the like."""
    aucs = {
        row["mode"]: row["mean"]
        for row in summary["levels"]
        if row["backbone"] == backbone and row["stratum"] == "all" and row["mode"] not in summary["untrained"]
    }
    best = sorted((mode for mode in aucs if mode != BASELINE), key=lambda mode: aucs[mode])[-_DRAWN:]
    modes = [mode for mode in aucs if mode == BASELINE or mode in best]
    return modes + [name for name in summary["untrained"] if name != "content"]


def difference_plots(summary: Mapping[str, Any]) -> list[Plot]:
    """Draw the differences to the plain model by stratum, a plot a backbone."""
    plots = []
    for backbone, rows in _by_backbone(summary["differences"]):
        figure = interval_figure(_intervals(rows), "AUC minus that of the plain model", zero=True)
        alt = f"Differences in AUC to the plain {backbone} with 95% intervals, by mode, for: {_strata(rows)}. {_TABLE}"
        plots.append(Plot(f"differences-{backbone}", backbone, alt, figure))
    return plots


def level_plots(summary: Mapping[str, Any]) -> list[Plot]:
    """Draw AUC by stratum, a plot a backbone."""
    plots = []
    for backbone, rows in _by_backbone(summary["levels"]):
        figure = interval_figure(_intervals(rows), "AUC", zero=False)
        alt = f"AUC of {backbone} with 95% intervals, by mode, for: {_strata(rows)}. {_TABLE}"
        plots.append(Plot(f"auc-{backbone}", backbone, alt, figure))
    return plots


def gain_plots(summary: Mapping[str, Any], size: str) -> list[Plot]:
    """Draw the gain by history length or popularity, a plot a backbone."""
    plots = []
    for backbone, rows in _by_backbone([row for row in summary["gains_by_size"] if row["stratum"] == size]):
        table = _intervals(rows).assign(panel=SIZES[size], row=[row["label"] for row in rows])
        figure = interval_figure(table, "AUC minus that of the plain model", zero=True)
        alt = f"Differences in AUC to the plain {backbone} with 95% intervals, by {SIZES[size]}. {_TABLE}"
        plots.append(Plot(f"gain-by-{size.replace('_', '-')}-{backbone}", backbone, alt, figure))
    return plots


def reliability_plots(summary: Mapping[str, Any]) -> list[Plot]:
    """Draw who is right where LLM and backbone disagree, without the finest regions; nothing if it is not known."""
    content = summary["reliability"]
    if content is None:
        return []
    table = pd.DataFrame(coarse_regions(content["regions"]))
    if not table["n_disagree"].any():
        return []
    model = f"{content['backbone']}, seed {content['seed']}" if "backbone" in content else "a plain backbone"
    alt = f"Share of disagreements in which the LLM is right, with 95% intervals, by region. {_TABLE}"
    return [Plot("reliability", f"the LLM beside {model}", alt, reliability_figure(table))]


def coarse_regions(regions: _Rows) -> list[Mapping[str, Any]]:
    """Leave out the regions that cross users, items and uncertainty: small, many and hardly legible."""
    return [row for row in regions if "all" in (row["users"], row["items"], row["uncertainty"])]


def gate_plots(summary: Mapping[str, Any]) -> list[tuple[Plot, list[Mapping[str, Any]]]]:
    """Draw the gate over epochs, a plot a backbone and mode, each with its rows; nothing where there is no gate."""
    plots = []
    for backbone, rows in _by_backbone(summary["gate"]):
        for mode in dict.fromkeys(row["mode"] for row in rows):
            own = [row for row in rows if row["mode"] == mode and row.get("sllmr_gate") is not None]
            if own:
                alt = f"Mean alpha by region and the gate's weights over the epochs, {backbone} {mode}. {_TABLE}"
                plot = Plot(f"gate-{backbone}-{mode}", f"{backbone} {mode}", alt, gate_figure(own))
                plots.append((plot, own))
    return plots


def gate_map_plots(summary: Mapping[str, Any]) -> list[Plot]:
    """Draw where the gate of the kept epochs is open, a plot a backbone and mode."""
    plots = []
    for one in summary["gate_maps"]:
        name = f"{one['backbone']} {one['mode']}"
        alt = f"Alpha of {name} by cold and warm users, long-tail items of the pair, uncertainty and gap of LLM scores."
        figure = gate_map_figure(pd.DataFrame(one["map"]))
        plots.append(Plot(f"gate-map-{one['backbone']}-{one['mode']}", name, alt, figure))
    return plots


def curve_plots(summary: Mapping[str, Any]) -> list[Plot]:
    """Draw validation AUC and loss over the epochs, a plot a backbone; nothing in folders that lack them."""
    plots = []
    for backbone, rows in _by_backbone(summary["curves"]):
        alt = f"Validation AUC and training loss of {backbone} over the epochs, by mode. {_TABLE}"
        plots.append(Plot(f"curves-{backbone}", backbone, alt, curves_figure(pd.DataFrame(rows))))
    return plots


_TABLE = "The table below has the figures."


def _by_backbone(rows: _Rows) -> list[tuple[str, list[Mapping[str, Any]]]]:
    names = dict.fromkeys(row["backbone"] for row in rows)
    return [(name, [row for row in rows if row["backbone"] == name]) for name in names]


def _intervals(rows: _Rows) -> pd.DataFrame:
    """Return what `interval_figure` draws: a panel a stratum, a row a mode."""
    table = pd.DataFrame(
        {"panel": [stratum_name(row["stratum"], row["label"]) if row["stratum"] not in SIZES else "" for row in rows]}
    )
    table["row"] = table["mode"] = [row["mode"] for row in rows]
    for key in ("mean", "low", "high"):
        table[key] = [float("nan") if row[key] is None else row[key] for row in rows]
    return table


def _strata(rows: _Rows) -> str:
    return ", ".join(dict.fromkeys(stratum_name(row["stratum"], row["label"]) for row in rows))
