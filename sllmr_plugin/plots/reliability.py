"""The reliability map: where the LLM is the better judge."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .figure import BLUE, GREY, RED, save

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
    from matplotlib.figure import Figure

    rows = table[table["n_disagree"] > 0][::-1].reset_index(drop=True)
    figure = Figure(figsize=(7.5, 1.2 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for position, row in rows.iterrows():
        low, high = row[f"{_SHARE}_low"], row[f"{_SHARE}_high"]
        colour = BLUE if low > 0.5 else RED if high < 0.5 else GREY
        axes.plot([low, high], [position, position], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(row[_SHARE], position, "o", color=colour, markersize=6)
        axes.text(1.02, position, f"{row['n_disagree']:,} of {row['n_pairs']:,}", va="center", fontsize=8, color="0.35")
    axes.axvline(0.5, color="0.3", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [_name(row) for _, row in rows.iterrows()], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("P(LLM right | they disagree), 95% interval over users")
    axes.set_title("Where is the LLM the better judge?  (right: disagreements of pairs)", fontsize=10, loc="left")
    axes.grid(axis="x", color="0.9")
    save(figure, path)


def _name(row: dict) -> str:
    parts = [
        f"{row['users']} users" if row["users"] != "all" else "",
        {"tail": "long-tail item", "head": "popular items"}.get(row["items"], ""),
        f"{row['uncertainty']} uncertainty" if row["uncertainty"] != "all" else "",
        f"LLM gap {row['llm_gap']}" if row["llm_gap"] != "all" else "",
    ]
    return ", ".join(part for part in parts if part) or "all pairs"
