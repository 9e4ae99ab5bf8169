"""What a plot tells a reader who points at a mark: kept beside the figure, and shown by the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS_PER_INCH = 72


@dataclass(frozen=True)
class Hint:
    """A text at a place of a figure.

    Attributes
    ----------
    x, y : float
        In points from the left and from the top.
    text : str
        What is there.
    """

    x: float
    y: float
    text: str


_SAID: WeakKeyDictionary[Axes, list[tuple[float, float, str]]] = WeakKeyDictionary()


def say(axes: Axes, x: float, y: float, text: str) -> None:
    """Have a text at a place, in the data's coordinates; nowhere if one of them is NaN."""
    if x == x and y == y:
        _SAID.setdefault(axes, []).append((x, y, text))


def hints(figure: Figure) -> list[Hint]:
    """Return what was said of a figure, at its places in the file that it was last written to.

    Its layout, which makes room for its texts, depends on how the format of the file measures them.
    """
    scale = _POINTS_PER_INCH / figure.dpi
    height = figure.get_figheight() * _POINTS_PER_INCH
    found = []
    for axes in figure.axes:
        for x, y, text in _SAID.get(axes, []):
            across, up = axes.transData.transform((x, y)) * scale
            found.append(Hint(round(float(across), 1), round(height - float(up), 1), text))
    return found


def size_in_points(figure: Figure) -> tuple[float, float]:
    """Return width and height of a figure, the scale of its hints."""
    width, height = figure.get_size_inches() * _POINTS_PER_INCH
    return round(float(width), 1), round(float(height), 1)
