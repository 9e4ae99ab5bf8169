"""Scores by user in compressed rows, in memory or mapped from files whose pages are given back."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

_PLACES = 512  # looked up before their pages go back; each can bring in 64 kB of neighbours from every file
_SMALL = 1 << 27  # bytes that may stay


class MappedPages:
    """The pages of memory-mapped files: fetched one by one or ahead of a walk, and given back now and then.

    Every place that is read stays in the process's resident memory for as long as the map lives, so a training
    that draws from a whole table would end up with all of it. Given back, a page is in the system's cache still
    and comes again without the disk, as long as nothing else needs that memory.

    Recent Linux caches what was read ahead, or written at once, in blocks of up to 2 MB, and brings in a whole block
    when a byte of it is read. So the system is told not to read ahead, and walks name what they need, which is then
    fetched together and cached page by page. All of this is advice: without it everything works, in more memory.

    Parameters
    ----------
    maps : mapping of mmap to int
        Map -> bytes of an entry of the table, 0 where the array is not one of entries. Never written to: what was
        written would be lost.
    """

    def __init__(self, maps: Mapping[mmap.mmap, int]) -> None:
        self._maps = maps if sum(map(len, maps)) > _SMALL else {}
        self._places = 0
        for each in self._maps:
            _advise(each, "MADV_RANDOM")

    def will_walk(self, entries: slice) -> None:
        """Have these entries of the table fetched."""
        for each, size in self._maps.items():
            start = entries.start * size // mmap.PAGESIZE * mmap.PAGESIZE
            length = min(entries.stop * size, len(each)) - start
            if length > 0:
                _advise(each, "MADV_WILLNEED", start, length)

    def looked_up(self, n_places: int) -> None:
        """Count places that were read; every so often, give the pages back."""
        self._places += n_places
        if self._places >= _PLACES:
            self.give_back()

    def give_back(self) -> None:
        """Give all pages back."""
        self._places = 0
        for each in self._maps:
            _advise(each, "MADV_DONTNEED")


def _advise(mapped: mmap.mmap, advice: str, *where: int) -> None:
    option = getattr(mmap, advice, None)  # Windows has none, and trims working sets by itself
    if option is not None:
        with contextlib.suppress(OSError):
            mapped.madvise(option, *where)


# Entries looked at together in a pass over the whole table; smaller pieces fragment the heap, which costs more.
_PIECE = 1 << 22


@dataclass(frozen=True)
class UserScores:
    """Scores grouped by user in compressed rows, users and items as model codes, sorted by both.

    Attributes
    ----------
    users : Tensor
        (n_users,) int64, ascending.
    offsets : Tensor
        (n_users + 1,) int64; the entries of ``users[k]`` are ``offsets[k]:offsets[k + 1]``.
    items : Tensor
        (n_pairs,) int64, ascending within a user.
    scores : Tensor
        (n_pairs,) float32 in [0, 1].
    pages : MappedPages or None, default=None
        Of the files behind the tensors, where there are any.
    """

    users: Tensor
    offsets: Tensor
    items: Tensor
    scores: Tensor
    pages: MappedPages | None = field(default=None, repr=False)

    @classmethod
    def from_arrays(cls, users: np.ndarray, items: np.ndarray, scores: np.ndarray) -> UserScores:
        """Group (n_pairs,) arrays, in any order and without duplicates."""
        order = np.lexsort((items, users))
        unique, counts = np.unique(users, return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return cls(
            torch.from_numpy(unique.astype(np.int64)),
            torch.from_numpy(offsets.astype(np.int64)),
            torch.from_numpy(items[order].astype(np.int64)),
            torch.from_numpy(scores[order].astype(np.float32)),
        )

    def __len__(self) -> int:
        return self.items.shape[0]

    @property
    def counts(self) -> Tensor:
        """(n_users,) entries of each user."""
        return self.offsets.diff()

    @property
    def user_of_entry(self) -> Tensor:
        """(n_pairs,) position in `users` of every entry."""
        return torch.repeat_interleave(torch.arange(len(self.users)), self.counts)

    def select(self, keep: Tensor) -> UserScores:
        """Keep the entries where the (n_pairs,) mask is True; users left with none disappear."""
        users = self.users[self.user_of_entry]
        return UserScores.from_arrays(users[keep].numpy(), self.items[keep].numpy(), self.scores[keep].numpy())

    def pieces(self, n_entries: int = _PIECE) -> Iterator[tuple[slice, slice]]:
        """Walk through the table with little of it in memory.

        Parameters
        ----------
        n_entries : int
            The most entries of a piece, unless a single user has more.

        Yields
        ------
        users, entries : slice
            Users in `users`, and all their entries in `items` and `scores`.
        """
        first, n_users = 0, len(self.users)
        while first < n_users:
            start = int(self.offsets[first])
            end = int(torch.searchsorted(self.offsets, start + n_entries, right=True)) - 1
            end = min(max(end, first + 1), n_users)
            entries = slice(start, int(self.offsets[end]))
            if self.pages is not None:
                self.pages.will_walk(entries)
            yield slice(first, end), entries
            first = end
            if self.pages is not None:
                self.pages.give_back()

    def items_seen(self, n_items: int) -> Tensor:
        """Return which of the item codes below `n_items` occur, (n_items,) bool; all occurring ones are below."""
        seen = torch.zeros(n_items, dtype=torch.bool)
        for _, entries in self.pieces():
            seen[self.items[entries]] = True
        return seen

    def block(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return entry numbers of some users as a padded block.

        Parameters
        ----------
        positions : Tensor
            (n,) positions in `users`.

        Returns
        -------
        entry : Tensor
            (n, width) int64 positions in `items` and `scores`; padding repeats a valid position.
        valid : Tensor
            (n, width) bool.
        """
        start = self.offsets[positions]
        return self.block_at(start, self.offsets[positions + 1] - start)

    def block_at(self, start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return a padded block, see `block`, of users whose first entries and numbers of entries are known, (n,)."""
        if self.pages is not None:
            self.pages.looked_up(len(start))
        column = torch.arange(int(count.max()) if len(count) else 0)
        valid = column < count.unsqueeze(1)
        return start.unsqueeze(1) + torch.where(valid, column, 0), valid

    def locate(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Find the entries of (user, item) codes: bisection among each user's items, for all of them at once.

        Parameters
        ----------
        users, items : Tensor
            (n,) int64 codes.

        Returns
        -------
        entry : Tensor
            (n,) int64 positions in `items` and `scores`, any where there is none.
        found : Tensor
            (n,) bool.
        """
        if len(self) == 0 or len(users) == 0:
            return torch.zeros_like(users), torch.zeros(users.shape, dtype=torch.bool)
        user = torch.searchsorted(self.users, users).clamp_max(len(self.users) - 1)
        low, end = self.offsets[user], self.offsets[user + 1]
        high = end
        for _ in range(int((end - low).max()).bit_length()):
            middle = (low + high) // 2
            below = (low < high) & (self.items[middle.clamp_max(len(self) - 1)] < items)
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        entry = low.clamp_max(len(self) - 1)
        found = (self.users[user] == users) & (low < end) & (self.items[entry] == items)
        if self.pages is not None:
            self.pages.looked_up(len(users))
        return entry, found
