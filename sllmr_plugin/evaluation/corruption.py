"""Score tables made wrong on purpose, to see what a wrong LLM costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..scores.table import ScoreTable, UserScores
from .strata import Strata


def _random(group: UserScores, strata: Strata, generator: torch.Generator) -> Tensor:
    return torch.rand(len(group), generator=generator)


def _inverted(group: UserScores, strata: Strata, generator: torch.Generator) -> Tensor:
    return 1 - group.scores


def _warm_inverted(group: UserScores, strata: Strata, generator: torch.Generator) -> Tensor:
    cold = torch.from_numpy(np.asarray(strata.cold))[group.users[group.user_of_entry]]
    return torch.where(cold, group.scores, 1 - group.scores)


def _tail_inverted(group: UserScores, strata: Strata, generator: torch.Generator) -> Tensor:
    tail = torch.from_numpy(np.asarray(strata.tail))[group.items]
    return torch.where(tail, 1 - group.scores, group.scores)


_KINDS: dict[str, Callable[[UserScores, Strata, torch.Generator], Tensor]] = {
    "random": _random,
    "inverted": _inverted,
    "warm_inverted": _warm_inverted,
    "tail_inverted": _tail_inverted,
}
CORRUPTIONS = tuple(_KINDS)
"""What `corrupt` knows."""


def corrupt(table: ScoreTable, kind: str, strata: Strata, *, seed: int = 0) -> ScoreTable:
    """Return a table with wrong scores, candidates and probes alike.

    Parameters
    ----------
    table : ScoreTable
        With the codes of the data that `strata` belongs to.
    kind : {"random", "inverted", "warm_inverted", "tail_inverted"}
        Uniform random numbers; 1 minus the score; the same for users that are not cold only, or for
        long-tail items only.
    strata : Strata
        Which users are cold and which items long-tail.
    seed : int, default=0
        Seed of the random numbers.

    Raises
    ------
    ConfigError
        If there is no such kind.

    Notes
    -----
    The table's `origin` says so: a report must not pass the result for the LLM's.
    """
    if kind not in _KINDS:
        raise ConfigError(f"corruption {kind!r} is not one of {', '.join(CORRUPTIONS)}. Take one of these.")
    generator = torch.Generator().manual_seed(seed)
    candidates, probes = (
        replace(group, scores=_KINDS[kind](group, strata, generator)) for group in (table.candidates, table.probes)
    )
    return replace(table, candidates=candidates, probes=probes, origin={**table.origin, "corrupted": kind})
