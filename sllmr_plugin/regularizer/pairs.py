"""Ordered pairs: which two items of a user the loss compares in a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .registry import Registry

PAIR_RULES: Registry[PairRule] = Registry("pair rule")
"""Values of ``SelectiveConfig.pair_rule``."""

PairScope = Literal["user", "batch"]


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


class PairRule:
    """Which pairs of a user, or of all users together, are taken if there are more: those with the largest keys.

    A subclass has a name once it is defined, ``class MyRule(PairRule, name="mine")``.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, name: str = "", **kwargs: Any) -> None:
        """Put a subclass into `PAIR_RULES` under a name."""
        super().__init_subclass__(**kwargs)
        PAIR_RULES.add(name, cls)

    def keys(self, gap: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a key per pair from the gaps of LLM scores, both (n_users, width, width); gaps <= 0 are not pairs."""
        raise NotImplementedError


PAIR_RULES.base = PairRule


class Largest(PairRule, name="largest"):
    """Pairs of largest score gap (S-LLMR paper, Sec. 3.2)."""

    def keys(self, gap: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the gaps."""
        return gap


class Uniform(PairRule, name="uniform"):
    """Any pairs, with equal chance."""

    def keys(self, gap: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return random numbers in [0, 1)."""
        return torch.rand(gap.shape, generator=generator, device=gap.device)


class GapWeighted(PairRule, name="gap_weighted"):
    """Pairs drawn without replacement, with a chance proportional to the gap (Gumbel-top-k, Kool et al., 2019)."""

    def keys(self, gap: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return log gap + Gumbel noise: the k largest are a weighted draw without replacement."""
        uniform = torch.rand(gap.shape, generator=generator, device=gap.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return gap.clamp_min(1e-12).log() + gumbel


def select_pairs(
    scores: Tensor,
    valid: Tensor,
    *,
    max_pairs: int,
    rule: str | type[PairRule] | PairRule,
    scope: PairScope = "user",
    most: int | None = None,
    generator: torch.Generator | None = None,
) -> OrderedPairs:
    """Form ordered pairs within users (paper Sec. 3.2, user-consistent pair construction and adaptive pair selection).

    With the scope ``user``, a user with n pairs gives ``min(max_pairs, n)`` of them. With ``batch`` all users
    together, u of them with a pair, give ``min(most, n, max_pairs * u)`` of their n pairs, as in the paper. Either is
    an adaptive K~: it follows what the block holds, takes at least one pair if there is one, and none for ties.

    Parameters
    ----------
    scores : Tensor
        (n_users, width) LLM scores, one row per user.
    valid : Tensor
        (n_users, width) bool, False where a row is padding.
    max_pairs : int
        The most pairs of a user; with ``batch`` the most of a user on average.
    rule : str, type or PairRule
        Which are taken; a name in `PAIR_RULES`, a class or an instance.
    scope : {"user", "batch"}, default="user"
        Whether pairs compete with those of the same user or with those of all.
    most : int, optional
        K of ``batch``, the most pairs of all users; not limited unless given.
    generator : torch.Generator, optional
        Source of randomness of rules that draw.

    Returns
    -------
    OrderedPairs
        Positions in ``scores.flatten()``.
    """
    n_users, width = scores.shape
    gap = scores.unsqueeze(2) - scores.unsqueeze(1)  # (n_users, width, width): t_i - t_j
    is_pair = (gap > 0) & valid.unsqueeze(2) & valid.unsqueeze(1)
    rule = rule if isinstance(rule, PairRule) else PAIR_RULES.make(rule)
    key = rule.keys(gap, generator).masked_fill(~is_pair, -torch.inf).view(n_users, width * width)
    if scope == "batch":
        n_with_pairs = int(is_pair.flatten(1).any(dim=1).sum())
        limit = max_pairs * n_with_pairs if most is None else min(most, max_pairs * n_with_pairs)
        best = key.flatten().topk(min(limit, key.numel()))
        taken = best.indices[best.values > -torch.inf]
        user, cell = taken // (width * width), taken % (width * width)
    else:
        best = key.topk(min(max_pairs, width * width), dim=1)
        user, slot = torch.nonzero(best.values > -torch.inf, as_tuple=True)
        cell = best.indices[user, slot]
    first_of_user = user * width
    return OrderedPairs(first_of_user + cell // width, first_of_user + cell % width)
