"""Draws of users and of their scored items, a block a training step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..scores.arrays import UserScores
from .view import DrawableScores


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

    Users come in a random order without replacement and are shuffled anew when all had their turn, so
    that all of them are visited equally often.

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
