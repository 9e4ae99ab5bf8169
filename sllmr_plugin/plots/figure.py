"""What all plots share."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SLLMRError

if TYPE_CHECKING:
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
