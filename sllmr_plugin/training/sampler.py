"""Draws of users and of their scored items, one block per training step, and the input rows of what is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..scores.arrays import UserScores


@dataclass(frozen=True)
class DrawableScores:
    """A part of a score table: some of its users with some of the items.

    Whether an entry belongs to it follows from its user and its item, so nothing is stored per entry: memory grows with
    the users and items only. Blocks are the same as those of a copy of the part.

    Attributes
    ----------
    table : UserScores
        The whole.
    users : Tensor
        (n_users,) int64 ascending codes.
    start : Tensor
        (n_users,) int64 where their entries in the table begin; kept here so that a draw does not read the table.
    count : Tensor
        (n_users,) int32 how many there are.
    has_item : Tensor or None
        (n_item_codes,) bool; None if all items of the table belong to it.
    n_pairs : int
        Entries of it.
    n_tied : int
        Users who are left out because all their scores of such items are the same.
    """

    table: UserScores
    users: Tensor
    start: Tensor
    count: Tensor
    has_item: Tensor | None
    n_pairs: int
    n_tied: int = 0

    @classmethod
    def of(cls, table: UserScores, has_user: Tensor, has_item: Tensor, *, two_scores: bool) -> DrawableScores:
        """Find the users that can be drawn, in one pass.

        Parameters
        ----------
        table : UserScores
            The whole.
        has_user, has_item : Tensor
            (n_user_codes,) and (n_item_codes,) bool: who and what can be used.
        two_scores : bool
            Whether a user needs two different scores of such items, an ordered pair, or a single score is enough.
        """
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        n_pairs, n_tied, all_items = 0, 0, True
        for users, entries in table.pieces():
            known = has_item[table.items[entries]]
            all_items = all_items and bool(known.all())
            n = users.stop - users.start
            count = table.offsets[users.start : users.stop + 1].diff()
            owner = torch.repeat_interleave(torch.arange(n), count)[known]
            size = torch.bincount(owner, minlength=n)
            usable = has_user[table.users[users]] & (size > 0)
            if two_scores:
                score = table.scores[entries][known]
                low = torch.full((n,), torch.inf).scatter_reduce_(0, owner, score, "amin")
                high = torch.full((n,), -torch.inf).scatter_reduce_(0, owner, score, "amax")
                n_tied += int((usable & (high == low)).sum())
                usable &= high > low
            parts.append((table.users[users][usable], table.offsets[users][usable], count[usable].int()))
            n_pairs += int(size[usable].sum())
        if not parts:
            parts = [(table.users[:0], table.offsets[:0], table.offsets[:0].int())]
        codes, starts, counts = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(table, codes, starts, counts, None if all_items else has_item, n_pairs, n_tied)

    def __len__(self) -> int:
        return self.n_pairs

    @property
    def items(self) -> Tensor:
        """Item codes of all entries of the table, to be indexed with the entries of a block."""
        return self.table.items

    @property
    def scores(self) -> Tensor:
        """LLM scores of all entries of the table, to be indexed with the entries of a block."""
        return self.table.scores

    @property
    def spread(self) -> Tensor | None:
        """Spread of all entries of the table, see `UserScores.spread`."""
        return self.table.spread

    def block(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return entry numbers of some users, (n,) positions in `users`, as `UserScores.block` does."""
        entry, valid = self.table.block_at(self.start[positions], self.count[positions])
        if self.has_item is None:
            return entry, valid
        valid = valid & self.has_item[self.items[entry]]
        order = (~valid).byte().argsort(dim=1, stable=True)
        width = int(valid.sum(dim=1).max()) if len(positions) else 0
        entry, valid = entry.gather(1, order)[:, :width], valid.gather(1, order)[:, :width]
        return torch.where(valid, entry, entry[:, :1]), valid

    def locate(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Find the entries of (user, item) codes, (n,) each, as `UserScores.locate` does."""
        entry, found = self.table.locate(users, items)
        if len(self.users) == 0:
            return entry, torch.zeros_like(found)
        position = torch.searchsorted(self.users, users).clamp_max(len(self.users) - 1)
        found &= self.users[position] == users
        if self.has_item is not None:
            found &= self.has_item[self.items[entry]]
        return entry, found


@dataclass(frozen=True)
class Block:
    """Scored items of some users.

    Attributes
    ----------
    users : Tensor
        (n_users,) int64 positions in the table's users.
    entry : Tensor
        (n_users, width) int64 positions in the table's entries.
    valid : Tensor
        (n_users, width) bool, False where `entry` is padding.
    """

    users: Tensor
    entry: Tensor
    valid: Tensor


class TableSampler:
    """Draws users of a score table evenly, and a few scored items of each.

    Users come in a random order without replacement and are shuffled again when all have had their
    turn, so that all of them are visited equally often.

    Parameters
    ----------
    table : UserScores or DrawableScores
        What is drawn from.
    candidates_per_user : int
        The most items of a user in a block.
    generator : torch.Generator
        Source of randomness, on the CPU.
    """

    def __init__(
        self, table: UserScores | DrawableScores, *, candidates_per_user: int, generator: torch.Generator
    ) -> None:
        self.table = table
        self.candidates_per_user = candidates_per_user
        self.generator = generator
        self._order = torch.empty(0, dtype=torch.int64)

    def draw(self, n_users: int) -> Block:
        """Draw the next users, at most as many as there are, and items of each."""
        n_users = min(n_users, len(self.table.users))
        if len(self._order) < n_users:
            fresh = torch.randperm(len(self.table.users), generator=self.generator)
            # Users left over from the last round go first and must not come twice in one block.
            left = torch.zeros(len(fresh), dtype=torch.bool)
            left[self._order] = True
            self._order = torch.cat([self._order, fresh[~left[fresh]], self._order])
        users, self._order = self._order[:n_users], self._order[n_users:]
        return self.draw_for(users)

    def draw_for(self, users: Tensor) -> Block:
        """Draw items of given users, (n_users,) positions in the table's users."""
        entry, valid = self.table.block(users)
        if entry.shape[1] > self.candidates_per_user:
            key = torch.rand(entry.shape, generator=self.generator).masked_fill(~valid, -1.0)
            chosen = key.topk(self.candidates_per_user, dim=1).indices
            entry, valid = entry.gather(1, chosen), valid.gather(1, chosen)
        return Block(users, entry, valid)


@dataclass(frozen=True)
class RowBuilder:
    """Builds input rows of (user, candidate) pairs.

    Attributes
    ----------
    templates : Tensor
        (n_users, width) float32 or float64, one row per user.
    columns : Tensor
        (n_item_columns,) int64: where the item's values go.
    item_codes : Tensor
        (n_items,) int64 ascending codes of the items whose values are known.
    item_values : Tensor
        (n_items, n_item_columns), of the templates' dtype.
    """

    templates: Tensor
    columns: Tensor
    item_codes: Tensor
    item_values: Tensor

    def rows(self, users: Tensor, items: Tensor, templates: Tensor | None = None) -> Tensor:
        """Build rows.

        Parameters
        ----------
        users : Tensor
            (n,) int64 positions in the templates.
        items : Tensor
            (n,) int64 item codes, all of them known.
        templates : Tensor, optional
            (m, width) used instead of the stored ones, for instance rows of the batch.

        Returns
        -------
        Tensor
            (n, width).
        """
        rows = (self.templates if templates is None else templates)[users]
        rows[:, self.columns] = self.item_values[torch.searchsorted(self.item_codes, items)]
        return rows
