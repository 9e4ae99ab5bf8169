"""Draw the first table of the benchmarks: ``python benchmarks/gain_picture.py docs/benchmarks.md docs/gain.png``."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt

SHOWN = {
    "none": "plain DeepFM",
    "gated": "+ gated LLM pairs",
    "kar": "KAR",
    "llm_cf": "LLM-CF",
    "curec": "CURec",
    "init": "started from texts",
    "init+gated": "started from texts + gated LLM pairs",
    "embed+gated": "vectors as inputs + gated LLM pairs",
}
UNTRAINED = ("popularity", "content+popularity")
_ROW = re.compile(r"^\| \*{0,2}([\w+]+)\*{0,2}(?: \([^|]*\))? \| \*{0,2}(0\.\d+)(?: ± (0\.\d+))?\*{0,2} \|")


@dataclass(frozen=True)
class Row:
    """AUC of a mode, its standard deviation over seeds, and whether its inputs have to be served."""

    auc: float
    deviation: float
    served: bool


def read_table(path: Path) -> dict[str, Row]:
    """Return the rows of the first table that has a row ``none``."""
    rows: dict[str, Row] = {}
    served = False
    for line in path.read_text(encoding="utf-8").splitlines():
        served = served or line.startswith("| *served")
        found = _ROW.match(line)
        if found:
            rows[found[1]] = Row(float(found[2]), float(found[3] or 0), served)
        elif rows and not line.startswith("|"):
            break
    return rows


def draw(rows: dict[str, Row], out: Path) -> None:
    """Draw AUC of the modes shown, with what needs no training as lines."""
    figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
    for place, mode in enumerate(SHOWN):
        row = rows[mode]
        colour = "#b3541e" if row.served else "#1f5fa8"
        axis.errorbar(row.auc, place, xerr=row.deviation, fmt="o", color=colour, capsize=3)
        axis.annotate(f"{row.auc:.3f}", (row.auc + row.deviation, place), (6, -4), textcoords="offset points", size=9)
    for mode in UNTRAINED:
        axis.axvline(rows[mode].auc, color="grey", linestyle=":", linewidth=1)
        axis.annotate(
            mode.replace("content+popularity", "similarity of texts\nand popularity"),
            (rows[mode].auc, 1.01),
            xycoords=("data", "axes fraction"),
            ha="center",
            size=8,
            color="dimgrey",
        )
    axis.set_yticks(range(len(SHOWN)), SHOWN.values())
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel("AUC, video games, mean and standard deviation over three seeds")
    for label, colour in (("nothing to serve", "#1f5fa8"), ("further inputs to serve", "#b3541e")):
        axis.plot([], [], "o", color=colour, label=label)
    axis.legend(loc="lower left", fontsize=8, frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(out, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", type=Path, help="Markdown file")
    parser.add_argument("out", type=Path, help="PNG or SVG file")
    arguments = parser.parse_args()
    draw(read_table(arguments.table), arguments.out)


if __name__ == "__main__":
    main()
