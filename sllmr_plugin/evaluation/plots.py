"""Plots of results: gains with intervals, learning curves, the gate, reliability."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import SLLMRError
from .hints import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREY, ORANGE, GREEN = "#2b6cb0", "#c53030", "0.45", "#dd6b20", "#2f855a"  # told apart in grey print as well
PURPLE = "#6b46c1"
WIDTH = 4.2  # inches: about a phone's width, so that text of 8 points is not made smaller there
_DPI = 150


@dataclass(frozen=True)
class Style:
    """Colour, marker and line of a series: any one of them tells it apart."""

    color: str
    marker: str
    line: str


_STYLES = [
    Style(BLUE, "o", "-"),
    Style(ORANGE, "^", "--"),
    Style(GREEN, "D", "-."),
    Style(RED, "v", ":"),
    Style(PURPLE, "P", (0, (6, 1, 1, 1, 1, 1))),  # type: ignore[arg-type]
]
_PLAIN = Style(GREY, "s", "-")


def mode_styles(modes: Sequence[str]) -> dict[str, Style]:
    """Return a style a mode: grey squares for ``none``, the others in their order."""
    others = [mode for mode in modes if mode != "none"]
    return {mode: _STYLES[k % len(_STYLES)] for k, mode in enumerate(others)} | {"none": _PLAIN}


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the ending of `path` decides the format.

    Raises
    ------
    SLLMRError
        If the folder is missing or the ending unknown.
    """
    try:
        figure.savefig(path, dpi=_DPI, facecolor="white")
    except (OSError, ValueError) as error:
        raise SLLMRError(f"{path}: the plot cannot be written ({error}). Give a .png, .svg or .pdf path.") from None


def svg_data_uri(figure: Figure) -> str:
    """Return a figure as the ``src`` of an image in a page that fetches nothing; the same figure, the same text."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "sllmr", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode("ascii")


_PANELS = {"valid_auc": "validation AUC", "loss": "training loss, the LLM's part included"}


def curves_figure(table: pd.DataFrame) -> Figure:
    """Draw validation AUC and training loss over the epochs, a line a mode.

    Parameters
    ----------
    table : DataFrame
        ``mode``, ``epoch`` (counted from 1), ``valid_auc`` and ``loss``.

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    styles = mode_styles(list(dict.fromkeys(table["mode"])))
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(2, 1), _PANELS.items(), strict=True):
        for mode, part in table.groupby("mode", sort=False):
            style = styles[str(mode)]
            axes.plot(
                part["epoch"], part[column], color=style.color, marker=style.marker, linestyle=style.line, label=mode
            )
            for epoch, value in zip(part["epoch"], part[column].astype(float), strict=True):
                say(axes, epoch, value, f"{mode}, epoch {epoch}: {value:.4f}")
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8)
        axes.grid(color="0.9")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower left",
        ncols=min(3, len(styles)),
        fontsize=8,
        frameon=False,
        handlelength=3,
    )
    return figure


def size_figure(table: pd.DataFrame, title: str, size: str) -> Figure:
    """Draw AUC over ranges of a size, a line a mode; what needs no training in black without markers.

    Parameters
    ----------
    table : DataFrame
        ``mode``, ``label`` (a range, in its order) and ``mean``; ``trained`` (bool) tells modes from what needs no
        training.
    title : str
        What is drawn.
    size : str
        What the ranges count.

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(table["label"]))
    styles = mode_styles(list(dict.fromkeys(table.loc[table["trained"], "mode"])))
    lines = iter([":", "--", "-."])
    figure = Figure(figsize=(1.2 * WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    for mode, part in table.groupby("mode", sort=False):
        places = [labels.index(label) for label in part["label"]]
        if mode in styles:
            style = styles[str(mode)]
            look: dict[str, Any] = {
                "color": style.color,
                "marker": style.marker,
                "linestyle": style.line,
                "linewidth": 1.8,
            }
        else:
            look = {"color": "black", "linestyle": next(lines), "linewidth": 1.2}
        axes.plot(places, part["mean"], label=mode, **look)
        for place, label, value in zip(places, part["label"], part["mean"].astype(float), strict=True):
            say(axes, place, value, f"{mode}, {label}: {value:.4f}")
    axes.axhline(0.5, color="0.6", linewidth=0.8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xticks(range(len(labels)), [label.replace(" or more", "+").replace(" to ", "-") for label in labels])
    axes.set_xlabel(size, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8, frameon=False, handlelength=3
    )
    return figure


def users_figure(table: pd.DataFrame, title: str) -> Figure:
    """Draw how many users gain and lose, a bar a mode.

    Parameters
    ----------
    table : DataFrame
        ``mode``, ``wins``, ``ties`` and ``losses``.
    title : str
        What is drawn.

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure

    counts = table[["wins", "ties", "losses"]].to_numpy(dtype=float)
    shares = counts / counts.sum(axis=1, keepdims=True)
    figure = Figure(figsize=(1.2 * WIDTH, 1.3 + 0.34 * len(table)), layout="constrained")
    axes = figure.subplots()
    start = np.zeros(len(table))
    parts = zip(("better", "same", "worse"), ("wins", "ties", "losses"), (BLUE, "0.8", ORANGE), shares.T, strict=True)
    for name, column, colour, part in parts:
        axes.barh(range(len(table)), part, left=start, color=colour, label=name, height=0.7)
        for place, (left, width) in enumerate(zip(start, part, strict=True)):
            mode, users = table[["mode", column]].iloc[place]
            say(axes, left + width / 2, place, f"{mode}, {name}: {users} users")
            if width > 0.08:  # a narrower part has no room for its figure
                ink = "black" if name == "same" else "white"
                axes.text(left + width / 2, place, f"{width:.0%}", ha="center", va="center", fontsize=8, color=ink)
        start = start + part
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_yticks(range(len(table)), table["mode"], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
    axes.tick_params(axis="x", labelsize=8)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    return figure


_ROW = 0.18  # inches between two intervals


def interval_figure(table: pd.DataFrame, title: str, *, zero: bool, share_scale: bool = False) -> Figure:
    """Draw intervals as horizontal lines.

    Parameters
    ----------
    table : DataFrame
        ``panel``, ``row`` and ``mode`` say where an interval stands, in the order of their first appearance;
        ``mean``, ``low`` and ``high`` are what is drawn. Without ``low`` and ``high`` (NaN) it is a marker alone.
        Rows that are modes are labelled by it, others by their own name and the modes by a legend.
    title : str
        What the values are.
    zero : bool
        Mark zero, and fill the markers of the intervals that leave it out only.
    share_scale : bool, default=False
        The same scale in all panels.

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(table["panel"]))
    modes = list(dict.fromkeys(table["mode"]))
    styles = mode_styles(modes)
    by_mode = bool((table["row"] == table["mode"]).all())
    drawn = [table[table["panel"] == panel] for panel in panels]
    heights = [_ROW * len(part) + 0.1 * part["row"].nunique() + 0.5 for part in drawn]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.7), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights, sharex=share_scale)
    for axes, panel, part in zip(grid[:, 0], panels, drawn, strict=True):
        _panel(axes, part, styles, zero)
        axes.set_title(panel, fontsize=9, loc="left", fontweight="bold")
    if not by_mode and len(modes) > 1:
        handles = [_handle(styles[mode], mode) for mode in modes]
        figure.legend(handles=handles, loc="outside lower left", ncols=min(3, len(modes)), fontsize=8, frameon=False)
    return figure


def _panel(axes: Axes, part: pd.DataFrame, styles: dict[str, Style], zero: bool) -> None:
    position, ticks, names = 0.0, [], []
    for name, group in part.groupby("row", sort=False):
        middle = position + _ROW * (len(group) - 1) / 2
        for value in group.itertuples():
            style = styles[str(value.mode)]
            full = not zero or value.low > 0 or value.high < 0  # NaN is never clear of zero
            axes.plot([value.low, value.high], [position, position], color=style.color, linewidth=1.8)
            axes.plot(
                value.mean,
                position,
                style.marker,
                color=style.color,
                markerfacecolor=style.color if full else "white",
                markersize=6,
            )
            sign = "+" if zero else ""
            interval = "" if np.isnan(value.low) else f" [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"
            of_mode = "" if value.mode == name else f"{value.mode}, "
            say(axes, value.mean, position, f"{of_mode}{name}: {value.mean:{sign}.4f}{interval}")
            position += _ROW
        ticks.append(middle)
        names.append(str(name))
        position += 0.1
    if zero:
        axes.axvline(0, color="0.3", linewidth=1, linestyle="--")
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_ylim(position - 0.1, -_ROW)
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=6)
    axes.margins(x=0.06)
    axes.grid(axis="x", color="0.9")
    ends = np.asarray(part[["mean", "low", "high"]], dtype=float)
    if np.nanmax(ends) == np.nanmin(ends):  # a single value: matplotlib would write its ticks with an offset
        axes.set_xlim(np.nanmax(ends) - 0.01, np.nanmax(ends) + 0.01)


def _handle(style: Style, label: str) -> object:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=style.color, marker=style.marker, linewidth=1.8, label=label)


REGIONS = {
    "sllmr_gate": "all pairs",
    "sllmr_gate_cold": "cold users",
    "sllmr_gate_tail": "with a long-tail item",
    "sllmr_gate_neither": "neither",
}
"""Key in the history -> what its mean alpha is over."""
WEIGHT = "sllmr_gate_w_"
"""How the keys of the gate's weights begin."""
_LINES = [(GREY, "s-"), (BLUE, "o--"), (ORANGE, "^-."), (GREEN, "D:"), (RED, "v-"), (PURPLE, "P--")]


def plot_gate(epochs: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draw mean alpha by region, and the gate's weights, over the epochs of a training.

    Parameters
    ----------
    epochs : sequence of mapping
        The ``sllmr_*`` values of each epoch: ``model.sllmr.status().epochs``. Where one names its ``epoch``, that
        number is shown, else its place in the sequence.
    path : path
        PNG, SVG or PDF file.

    Raises
    ------
    SLLMRError
        If no epoch had a gate, or the file cannot be written.
    """
    save(gate_figure(epochs), path)


def gate_figure(epochs: Sequence[Mapping[str, float]]) -> Figure:
    """Return what `plot_gate` writes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not any("sllmr_gate" in epoch for epoch in epochs):
        raise SLLMRError("no epoch had a gate. Train with a gate other than 'none' first.")
    number = [epoch.get("epoch", k) for k, epoch in enumerate(epochs, start=1)]
    weights = {key: key.removeprefix(WEIGHT) for key in epochs[-1] if key.startswith(WEIGHT)}
    panels = [("mean alpha: how far the LLM is followed", REGIONS)]
    panels += [("weights of the gate's signals", weights)] if weights else []
    figure = Figure(figsize=(WIDTH, 3.4 * len(panels)), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        for k, (key, name) in enumerate(series.items()):
            colour, style = _LINES[k % len(_LINES)]
            values = [math.nan if epoch.get(key) is None else epoch[key] for epoch in epochs]
            if not all(map(math.isnan, values)):  # a region may have no pair, in a table without a cold user for one
                axes.plot(number, values, style, color=colour, label=name)
                for epoch, value in zip(number, values, strict=True):
                    say(axes, epoch, value, f"{name}, epoch {epoch:g}: {value:.3f}")
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8)
        axes.grid(color="0.9")
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22), "ncols": 2}
        axes.legend(fontsize=8, frameon=False, handlelength=3, **below)
    figure.axes[0].set_ylim(-0.03, 1.03)
    for axes in figure.axes[1:]:
        axes.axhline(0, color="0.3", linewidth=1, linestyle="--")
    return figure


def plot_gate_map(table: pd.DataFrame, path: str | Path) -> None:
    """Draw where a gate is open.

    Parameters
    ----------
    table : DataFrame
        `sllmr_plugin.evaluation.gate_map` of a model.
    path : path
        PNG, SVG or PDF file.
    """
    save(gate_map_figure(table), path)


def gate_map_figure(table: pd.DataFrame) -> Figure:
    """Return what `plot_gate_map` writes: a panel an uncertainty, a row a kind of pair, a column a gap."""
    from matplotlib.figure import Figure

    panels = table["uncertainty"].unique()
    figure = Figure(figsize=(WIDTH, 0.6 + 1.9 * len(panels)), layout="constrained")
    for axes, uncertainty in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        part = table[table["uncertainty"] == uncertainty]
        grid = part.pivot(index=["cold", "long_tail_items"], columns="gap", values="alpha")
        axes.imshow(grid.to_numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), alpha in np.ndenumerate(grid.to_numpy()):
            colour = "white" if alpha > 0.6 else "0.2"
            axes.text(column, row, f"{alpha:.1f}", ha="center", va="center", fontsize=7, color=colour)
        names = [f"{'cold' if cold else 'warm'}, {tails} long-tail" for cold, tails in grid.index]
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xticks(range(grid.shape[1]), [f"{gap:g}" for gap in grid.columns], fontsize=8)
        axes.set_title(f"alpha at uncertainty {uncertainty:g}", fontsize=10, loc="left")
    figure.axes[-1].set_xlabel("gap of the pair's LLM scores", fontsize=9)
    return figure


_SHARE = "llm_right_when_they_disagree"


def plot_reliability(table: pd.DataFrame, path: str | Path) -> None:
    """Draw P(the LLM is right | LLM and backbone disagree) by region.

    Parameters
    ----------
    table : DataFrame
        `Reliability.table`.
    path : path
        PNG, SVG or PDF file.
    """
    save(reliability_figure(table), path)


def reliability_figure(table: pd.DataFrame) -> Figure:
    """Return what `plot_reliability` writes."""
    from matplotlib.figure import Figure

    rows = table[table["n_disagree"] > 0][::-1].reset_index(drop=True)
    # Names of regions that cross everything are long.
    wide = max((len(region_name(row)) for _, row in rows.iterrows()), default=0) > 30
    figure = Figure(figsize=(WIDTH + 2.8 * wide, 1.3 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for position, row in rows.iterrows():
        low, high = row[f"{_SHARE}_low"], row[f"{_SHARE}_high"]
        colour, marker = (BLUE, ">") if low > 0.5 else (RED, "<") if high < 0.5 else (GREY, "o")
        axes.plot([low, high], [position, position], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(row[_SHARE], position, marker, color=colour, markersize=6)
        said = f"{row[_SHARE]:.2f} [{low:.2f}, {high:.2f}] of {row['n_disagree']:,}"
        say(axes, row[_SHARE], position, f"{region_name(row)}: {said}")
        axes.text(1.02, position, f"{row['n_disagree']:,}", va="center", fontsize=8, color="0.35")
    axes.axvline(0.5, color="0.3", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [region_name(row) for _, row in rows.iterrows()], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of disagreements where the LLM is right,\n95% interval over users", fontsize=9)
    axes.set_title("disagreements", fontsize=8, loc="right", color="0.35")
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="0.9")
    return figure


def region_name(row: Mapping) -> str:
    """Return a region in words; `row` has ``users``, ``items``, ``uncertainty`` and ``llm_gap``."""
    parts = [
        f"{row['users']} users" if row["users"] != "all" else "",
        {"tail": "long-tail item", "head": "popular items"}.get(row["items"], ""),
        f"{row['uncertainty']} uncertainty" if row["uncertainty"] != "all" else "",
        f"LLM gap {row['llm_gap']}" if row["llm_gap"] != "all" else "",
    ]
    return ", ".join(part for part in parts if part) or "all pairs"
