"""Rankings without the padding of histories: most users have far fewer interactions than a model has columns for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .model_scores import evaluation_mode

_CHECKED = 8
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class HistoryColumns:
    """The columns of histories that a model can do without where they are padding.

    DIN computes attention for every column of a history, padding included, and then masks it; averages do the same.
    Reading only the columns in use gives the same scores, up to rounding.

    Attributes
    ----------
    spans : mapping of str to (int, int)
        Feature -> first column and the one after its last, as the model's ``feature_index`` has them. Empty for a
        model that reads no history or for which padding counts.
    """

    spans: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, model: Any, templates: Tensor) -> HistoryColumns:
        """Find them, by the scores of the users of shortest history with and without padding.

        Parameters
        ----------
        model : BaseModel
            Scores a few rows.
        templates : Tensor
            (n_users, n_inputs) input rows, histories filled up with 0 behind.
        """
        spans = {name: span for name, span in model.feature_index.items() if name.startswith("hist_")}
        found = cls(spans)
        if not spans or not len(templates):
            return found
        used = torch.stack([templates[:, slice(*span)].ne(0).sum(dim=1) for span in spans.values()]).sum(dim=0)
        rows = templates[used.argsort(stable=True)[:_CHECKED]]
        rows = rows.repeat(2, 1)  # DeepCTR-Torch's DCNMix fails on a batch of one
        with evaluation_mode(model):
            whole = model(rows)
            with found.cut(model, rows):
                cut = model(rows)
        return found if torch.allclose(whole, cut, rtol=0, atol=_TOLERANCE) else cls({})

    @contextmanager
    def cut(self, model: Any, templates: Tensor) -> Iterator[None]:
        """Let a model read the columns that some of these rows use; afterwards it reads all of them again."""
        widths: dict[int, int] = {}  # histories of one length stand side by side in a model: they are cut together
        for first, end in self.spans.values():
            used = templates[:, first:end].ne(0).any(dim=0).nonzero()
            needed = int(used.max()) + 1 if len(used) else 1
            widths[end - first] = max(widths.get(end - first, 1), needed)
        try:
            model.feature_index.update(
                {name: (first, first + widths[end - first]) for name, (first, end) in self.spans.items()}
            )
            yield
        finally:
            model.feature_index.update(self.spans)
