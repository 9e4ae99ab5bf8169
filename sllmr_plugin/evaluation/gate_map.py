"""Where a gate is open: alpha over a grid of what it sees of a pair."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
import torch

from ..errors import ConfigError
from ..regularizer.signals import PairSignals

LONG_TAIL_ITEMS = (0, 1, 2)  # of the two of a pair
UNCERTAINTIES = (0.1, 0.5, 0.9)
GAPS = tuple(round(0.1 * k, 1) for k in range(1, 11))


@torch.no_grad()
def gate_map(model: Any) -> pd.DataFrame:
    """Return the alpha of a wrapped model's gate, as it is now, over a grid of signals.

    Signals that only a student's scores have (`STUDENT_SIGNALS`) are those of the LLM's own scores, 0.

    Parameters
    ----------
    model : torch.nn.Module
        A wrapped model, trained or loaded; before a training a gate that is fitted on probes is closed everywhere.

    Returns
    -------
    DataFrame
        ``cold`` (bool, of the user), ``long_tail_items`` (0 to 2, of the pair), ``uncertainty`` (of both items, from 0
        to 1), ``gap`` (LLM score of the first item minus that of the second) and ``alpha``.

    Raises
    ------
    ConfigError
        If the model is not wrapped, or its loss has no gate.

    Examples
    --------
    >>> gate_map(model).query("cold and gap == 0.5")  # doctest: +SKIP
    """
    handle = getattr(model, "sllmr", None)
    if handle is None or not handle.config.active or not handle.config.pairwise:
        raise ConfigError(
            "there is no gate to map: the model is not wrapped, its weight is 0, or its loss has no pairs."
        )
    grid = list(itertools.product((False, True), LONG_TAIL_ITEMS, UNCERTAINTIES, GAPS))
    table = pd.DataFrame(grid, columns=["cold", "long_tail_items", "uncertainty", "gap"])
    cold, tails, uncertainty, gap = torch.tensor(grid, dtype=torch.float32).T
    preferred = torch.stack([cold, (tails > 1).float(), uncertainty], dim=1)
    other = torch.stack([cold, (tails > 0).float(), uncertainty], dim=1)
    signals = PairSignals(preferred, other, gap).to(
        next((t.device for t in handle.gate.buffers()), torch.device("cpu"))
    )
    return table.assign(alpha=handle.gate(signals).cpu().numpy().astype(float))
