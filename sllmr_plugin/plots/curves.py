"""Training curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from .figure import WIDTH, mode_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
