"""Rows of embedding tables are pulled towards where they started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .embeddings import KnownIds, tables_of
from .step_losses import LossRun, StepLoss

NAME = "anchor"
"""Of the loss on the model, and its account: ``sllmr_anchor``, ``sllmr_anchor_ids``."""


class AnchorLoss(StepLoss):
    """``weight * ||E - E0||^2``, the mean over the ids of a step that started from vectors.

    Only these ids: a term over whole tables would cost another pass over them in each step, and would move rows, by
    Adam's step size, that no data has moved.

    Parameters
    ----------
    starts : mapping of str to KnownIds
        By parameter name, the rows E0 that ids of a table started from; they may be shorter than the table's.
    weight : float
        Of the mean.
    """

    def __init__(self, starts: Mapping[str, KnownIds], weight: float) -> None:
        super().__init__(NAME, weight)
        self.names = tuple(starts)
        self.starts = nn.ModuleList(starts.values())

    def open(self, model: Any) -> LossRun:
        """Return what a call of `fit` holds."""
        starts: Any = self.starts
        found = [tables_of(model, start.feature)[name] for name, start in zip(self.names, starts, strict=True)]
        return _AnchorRun(self, list(zip(starts, found, strict=True)))


class _AnchorRun(LossRun):
    """An `AnchorLoss` during one call of `fit`."""

    def __init__(self, loss: AnchorLoss, tables: list[tuple[KnownIds, nn.Embedding]]) -> None:
        features = tuple(dict.fromkeys(start.feature for start, _ in tables))
        super().__init__(loss.name, loss.weight, features, [table for _, table in tables])
        self._tables = tables

    def compute(self, codes: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Return the mean squared distance of a step's ids from their start, added up over tables, and the ids."""
        total, n_ids = torch.zeros(()), 0
        for start, table in self._tables:
            rows = start.rows(codes[start.feature])
            if len(rows) == 0:
                continue
            before = start.values[rows]
            distance = (start.look_up(rows, table, self.lookups)[:, : before.shape[1]] - before).square().sum(dim=1)
            total = total.to(distance.device) + distance.mean()
            n_ids += len(rows)
        return total, n_ids
