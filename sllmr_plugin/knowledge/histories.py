"""Vectors of users as means over what they took, without what is being trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .vectors import TextVectors, row_of_codes, sorted_codes


class HistoryVectors(nn.Module):
    """Directions of users: the mean over the vectors of the items that they took in training.

    In a training step the item of the row is left out of the mean, as often as the user took it: with it, the mean
    would tell positives from negatives, of users who took one item completely. A user who took nothing, or nothing
    else, gets a learned vector, which starts as zeros. Predictions take the mean of everything.

    Parameters
    ----------
    items : TextVectors
        (n_items, d) vectors; items without one do not count.
    taken : tuple of numpy.ndarray
        (n,) int64 codes of users and of items: the training positives.
    """

    users: Tensor
    sums: Tensor
    counts: Tensor
    pairs: Tensor
    times: Tensor

    def __init__(self, items: TextVectors, taken: tuple[np.ndarray, np.ndarray]) -> None:
        super().__init__()
        users, codes = (torch.from_numpy(np.asarray(part, dtype=np.int64)) for part in taken)
        known = items.known(codes)
        distinct, owner = torch.unique(users[known], return_inverse=True)
        item = items.rows(codes[known])
        n_users, dim = len(distinct) + 1, items.vectors.shape[1]
        self.n_items = len(items.vectors)
        sums = torch.zeros(n_users, dim).index_add_(0, owner, items.vectors[item])
        pairs, times = torch.unique(owner * self.n_items + item, return_counts=True)
        for name, tensor in {
            "users": sorted_codes(distinct),
            "sums": sums,
            "counts": torch.bincount(owner, minlength=n_users).float(),
            # A pair beyond all others, so that a search never ends behind the last one.
            "pairs": torch.cat([pairs, torch.tensor([torch.iinfo(torch.int64).max])]),
            "times": torch.cat([times, torch.zeros(1, dtype=torch.int64)]),
        }.items():
            self.register_buffer(name, tensor, persistent=False)
        self.missing = nn.Parameter(torch.zeros(dim))

    def rows(self, users: Tensor) -> Tensor:
        """Return the (n,) rows of `sums` of int64 codes; the last one, which is empty, for others."""
        return row_of_codes(self.users, users)

    def known(self, users: Tensor) -> Tensor:
        """Whether a user took anything: (n,) bool."""
        return self.counts[self.rows(users)] > 0

    def forward(self, users: Tensor, without: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return (n, d) directions of (n,) users.

        Without items where these are given: (n,) rows of the items' vectors, and what stands there.
        """
        row = self.rows(users)
        sums, counts = self.sums[row], self.counts[row]
        if without is not None:
            items, vectors = without
            times = self._times(row, items).to(sums.dtype)
            sums, counts = sums - times.unsqueeze(1) * vectors, counts - times
        size = sums.square().mean(dim=1, keepdim=True).sqrt()
        return torch.where((counts > 0).unsqueeze(1), sums / size.clamp(min=1e-6), self.missing)

    def _times(self, users: Tensor, items: Tensor) -> Tensor:
        """Return how often each user took the item, (n,) int64, by rows of `sums` and of the items' vectors."""
        pair = users * self.n_items + items
        place = torch.searchsorted(self.pairs, pair)
        return torch.where(self.pairs[place] == pair, self.times[place], 0)
