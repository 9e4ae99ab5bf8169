"""What all plots share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SLLMRError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY, ORANGE, GREEN = "#2b6cb0", "#c53030", "0.55", "#dd6b20", "#2f855a"  # told apart in grey print as well
_DPI = 150


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
