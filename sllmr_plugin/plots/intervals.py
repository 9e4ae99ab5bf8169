"""Values with their intervals, in panels below each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .figure import WIDTH, Style, mode_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
