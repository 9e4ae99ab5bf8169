"""Ordered pairs: which two items of a user the loss compares in a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OrderedPairs:
    """Pairs of entries of a block, the LLM's preferred one first.

    Attributes
    ----------
    preferred, other : Tensor
        (n_pairs,) int64 positions in the flattened block; the LLM scores `preferred` strictly higher.
    """

    preferred: Tensor
    other: Tensor

    def __len__(self) -> int:
        return self.preferred.shape[0]


def select_pairs(
    scores: Tensor, valid: Tensor, *, max_pairs: int, rule: str, generator: torch.Generator | None = None
) -> OrderedPairs:
    """Form ordered pairs within users (paper Sec. 3.2, "User-consistent pair construction").

    A user with n pairs gives ``min(max_pairs, n)`` of them: the adaptive K~, which follows what the
    block holds, takes at least one pair wherever one exists, and none for ties.

    Parameters
    ----------
    scores : Tensor
        (n_users, width) LLM scores, a row a user.
    valid : Tensor
        (n_users, width) bool, False where a row is padding.
    max_pairs : int
        K, the most pairs of a user.
    rule : {"largest", "uniform", "gap_weighted"}
        Pairs of largest score gap; any pairs with equal chance; or drawn without replacement with a
        chance proportional to the gap.
    generator : torch.Generator, optional
        Source of randomness of the last two rules.

    Returns
    -------
    OrderedPairs
        Positions in ``scores.flatten()``.
    """
    n_users, width = scores.shape
    gap = scores.unsqueeze(2) - scores.unsqueeze(1)  # (n_users, width, width): t_i - t_j
    is_pair = (gap > 0) & valid.unsqueeze(2) & valid.unsqueeze(1)
    if rule == "largest":
        key = gap
    else:
        key = torch.rand(gap.shape, generator=generator, device=gap.device)
        if rule == "gap_weighted":
            # Gumbel-top-k: the k largest of log w + Gumbel are a weighted draw without replacement.
            gumbel = -torch.log(-torch.log(key.clamp(1e-20, 1 - 1e-7)))
            key = gap.clamp_min(1e-12).log() + gumbel
    key = key.masked_fill(~is_pair, -torch.inf).view(n_users, width * width)
    best = key.topk(min(max_pairs, width * width), dim=1)
    user, slot = torch.nonzero(best.values > -torch.inf, as_tuple=True)
    cell = best.indices[user, slot]
    first_of_user = user * width
    return OrderedPairs(first_of_user + cell // width, first_of_user + cell % width)
