"""The gate over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import SLLMRError
from .figure import BLUE, GREEN, GREY, ORANGE, save

_REGIONS = {
    "sllmr_gate": ("all pairs", GREY),
    "sllmr_gate_cold": ("cold users", BLUE),
    "sllmr_gate_tail": ("with a long-tail item", ORANGE),
    "sllmr_gate_neither": ("neither", GREEN),
}
_WEIGHT = "sllmr_gate_w_"


def plot_gate(epochs: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draw mean alpha by region, and the gate's weights, over the epochs of a training.

    Parameters
    ----------
    epochs : sequence of mapping
        The ``sllmr_*`` values of each epoch: ``model.sllmr.status().epochs``.
    path : path
        PNG, SVG or PDF file.

    Raises
    ------
    SLLMRError
        If no epoch had a gate, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    if not any("sllmr_gate" in epoch for epoch in epochs):
        raise SLLMRError("no epoch had a gate. Train with mode='gated' or mode='joint' first.")
    number = range(1, len(epochs) + 1)
    weights = [key for key in epochs[-1] if key.startswith(_WEIGHT)]
    figure = Figure(figsize=(9 if weights else 5, 3.4), layout="constrained")
    left, *rest = figure.subplots(1, 2 if weights else 1, squeeze=False)[0]
    for key, (name, colour) in _REGIONS.items():
        left.plot(number, [epoch[key] for epoch in epochs], "o-", color=colour, label=name)
    left.set_ylim(-0.02, 1.02)
    left.set_title("mean alpha: how far the LLM is followed", fontsize=10, loc="left")
    for axes in rest:
        for key in weights:
            axes.plot(number, [epoch[key] for epoch in epochs], "o-", label=key.removeprefix(_WEIGHT))
        axes.axhline(0, color="0.3", linewidth=1, linestyle="--")
        axes.set_title("weights of the gate's signals", fontsize=10, loc="left")
    for axes in (left, *rest):
        axes.set_xlabel("epoch")
        axes.set_xticks(list(number))
        axes.grid(color="0.9")
        axes.legend(fontsize=8)
    save(figure, path)
