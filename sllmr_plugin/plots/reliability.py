"""The reliability map: where the LLM is the better judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .figure import BLUE, GREY, RED, WIDTH, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
