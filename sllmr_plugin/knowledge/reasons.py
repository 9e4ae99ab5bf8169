"""The reasons of each item as a padded list, and which of them a user may see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn


class ReasonLists(nn.Module):
    """The reasons of each item, and which of them each (user, item) sees.

    A user never sees a reason written about that user: it was written knowing that the user took the item. So the
    positive rows of a training whose user has a reason about the item see one reason less than others do, and a model
    that knows how many reasons the item has would tell these rows by that. Therefore, in a training step, a row whose
    user did not take the item in training leaves one reason of the item out as often as those who took it do: with the
    share (users with a reason about the item) / (users who took it), by a hash of user and item. Given the item, how
    many reasons a row sees, and which, then says nothing about its label. Predictions see all but the user's own.

    Parameters
    ----------
    pairs : tuple of ndarray
        (n,) int64 codes of the users and items of the reasons, each pair once.
    vectors : ndarray
        (n, d) float32 vectors of the reasons.
    positions : ndarray
        (n,) float64 places in time, NaN where they are not known.
    taken : tuple of ndarray or None
        (n_taken,) int64 codes of users and items: the training positives, among them all `pairs`. None leaves out the
        user's own reasons alone.
    most : int
        Reasons an item keeps, at most: the latest; of those without a place in time, by a hash.
    width : int
        Length of the learned vector that stands for an empty list.

    Attributes
    ----------
    lists : Tensor
        (n_listed + 1, longest) int64 numbers of reasons, in the order of `pairs`; n where a list has ended. The last
        row is empty, for items without a reason.
    missing : Parameter
        (width,) for an empty list; starts as zeros.
    """

    position: Tensor
    lists: Tensor
    vectors: Tensor
    owner: Tensor
    length: Tensor
    share: Tensor
    pairs_taken: Tensor

    def __init__(
        self,
        pairs: tuple[np.ndarray, np.ndarray],
        vectors: np.ndarray,
        positions: np.ndarray,
        taken: tuple[np.ndarray, np.ndarray] | None,
        *,
        most: int,
        width: int,
    ) -> None:
        super().__init__()
        frame = pd.DataFrame({"user": pairs[0], "item": pairs[1], "position": positions})
        # Not the order of the file: what a user sees must not depend on it.
        frame["hash"] = pd.util.hash_pandas_object(frame[["user", "item"]], index=False)
        frame = frame.sort_values(["item", "position", "hash"], ascending=[True, False, True])
        frame["place"] = frame.groupby("item").cumcount()
        frame = frame[frame["place"] < most]
        items, row = np.unique(frame["item"].to_numpy(), return_inverse=True)
        n, longest = len(pairs[0]), int(frame["place"].max() + 1) if len(frame) else 1
        lists = np.full((len(items) + 1, longest), n, dtype=np.int64)
        lists[row, frame["place"]] = frame.index
        position = np.full(int(items.max(initial=-1)) + 2, len(items), dtype=np.int64)
        position[items] = np.arange(len(items))
        length = (lists < n).sum(axis=1)
        self._balanced = taken is not None
        users_taken, items_taken = (np.asarray(part, dtype=np.int64) for part in taken or ((), ()))
        distinct = pd.DataFrame({"user": users_taken, "item": items_taken}).drop_duplicates()
        n_taken = distinct.groupby("item").size().reindex(items, fill_value=0).to_numpy()
        self._stride = max(int(items_taken.max(initial=0)), int(items.max(initial=0))) + 1
        for name, values in {
            "position": position,
            "lists": lists,
            "vectors": np.concatenate([vectors, np.zeros((1, vectors.shape[1]), dtype=np.float32)]),
            "owner": np.append(pairs[0], -1).astype(np.int64),
            "length": length,
            "share": np.append(length[:-1] / np.maximum(n_taken, 1), 0.0).astype(np.float32),
            # A pair beyond all others, so that a search never ends behind the last one.
            "pairs_taken": np.append(
                np.sort(distinct["user"] * self._stride + distinct["item"]), np.iinfo(np.int64).max
            ),
        }.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.missing = nn.Parameter(torch.zeros(width))
        self._hidden: tuple[int, ...] = ()

    def extra_repr(self) -> str:
        """Say how many there are."""
        return f"{int(self.length.sum())} reasons of {len(self.lists) - 1} items, at most {self.lists.shape[1]} of one"

    @contextmanager
    def without(self, numbers: Sequence[int]) -> Iterator[None]:
        """Hide reasons, by their numbers, from everybody for a while."""
        self._hidden = tuple(numbers)
        try:
            yield
        finally:
            self._hidden = ()

    def rows(self, items: Tensor) -> Tensor:
        """Return the (n,) rows of `lists` of int64 codes; the last one for an item without a reason."""
        inside = (items >= 0) & (items < len(self.position) - 1)
        return self.position[torch.where(inside, items, len(self.position) - 1)]

    def known(self, items: Tensor) -> Tensor:
        """Whether there is a reason about the item: (n,) bool."""
        return self.rows(items) < len(self.lists) - 1

    def seen(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Find the reasons that rows see.

        Parameters
        ----------
        users, items : Tensor
            (n,) int64 codes.

        Returns
        -------
        numbers : Tensor
            (n, longest) int64 numbers of the reasons of the items.
        there : Tensor
            (n, longest) bool, whether the row sees the reason.
        """
        row = self.rows(items)
        numbers = self.lists[row]
        there = (numbers < len(self.owner) - 1) & (self.owner[numbers] != users.unsqueeze(1))
        if self._balanced and torch.is_grad_enabled():
            there = there & (torch.arange(numbers.shape[1], device=items.device) != self._left_out(users, items, row))
        for hidden in self._hidden:
            there = there & (numbers != hidden)
        return numbers, there

    def _left_out(self, users: Tensor, items: Tensor, row: Tensor) -> Tensor:
        """Return which place of the list rows leave out that did not take their item, (n, 1); -1 for none."""
        inside = (items >= 0) & (items < self._stride)
        pair = torch.where(inside, users * self._stride + items, -1)
        took = self.pairs_taken[torch.searchsorted(self.pairs_taken, pair)] == pair
        key = _hashed(_hashed(users) ^ items)
        leaves_out = ~took & ((key >> 32) < self.share[row].double() * 2**31)
        place = (key & 0x7FFFFFFF) % self.length[row].clamp(min=1)
        return torch.where(leaves_out, place, -1).unsqueeze(1)


def _hashed(values: Tensor) -> Tensor:
    """Scatter int64 values over [0, 2^63), the same on every device."""
    for _ in range(2):
        values = values * 0x369DEA0F31A53F85 + 0x1405771B
        values = values ^ (values >> 31)
    return values & 0x7FFFFFFFFFFFFFFF
