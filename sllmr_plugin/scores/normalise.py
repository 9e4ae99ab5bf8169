"""LLM scores made comparable between users: each user's put on a scale of their own."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from .arrays import UserScores

ScoreNorm = Literal["none", "rank", "minmax"]

NO_OPINION = 0.5
"""Score of all items of a user whose scores are equal; the value that the paper gives a missing one (Sec. 4.3)."""


def normalise(scores: Tensor, users: Tensor, norm: ScoreNorm) -> Tensor:
    """Normalise scores within users (S-LLMR paper, Sec. 4.3, "Returned scores are normalised"; the formulas are ours).

    Parameters
    ----------
    scores : Tensor
        (n,) LLM scores, in any order.
    users : Tensor
        (n,) int64, whose score it is.
    norm : {"none", "rank", "minmax"}
        ``rank`` is the share of the user's other scores that are lower, equal ones counted half, and ``minmax`` is
        ``(t - min) / (max - min)``. ``none`` returns the scores as they are.

    Returns
    -------
    Tensor
        (n,) of the dtype of the scores, in [0, 1]: from 0 to 1 for a user without ties at the ends, `NO_OPINION` for
        one whose scores are all equal. The order within a user, ties included, stays.

    Examples
    --------
    >>> normalise(torch.tensor([0.5, 0.75, 0.25, 0.9, 0.9]), torch.tensor([7, 7, 7, 8, 8]), "minmax").tolist()
    [0.5, 1.0, 0.0, 0.5, 0.5]
    """
    if norm == "none" or len(scores) == 0:
        return scores
    _, group, size = users.unique(return_inverse=True, return_counts=True)
    values = scores.double()
    if norm == "rank":
        lower = _lower_of_group(values, group, size)
        others = size[group] - 1
        return torch.where(others > 0, lower / others.clamp_min(1), NO_OPINION).to(scores.dtype)
    ends = values.new_zeros(len(size))
    low = ends.scatter_reduce(0, group, values, "amin", include_self=False)[group]
    span = ends.scatter_reduce(0, group, values, "amax", include_self=False)[group] - low
    return torch.where(span > 0, (values - low) / span.where(span > 0, 1), NO_OPINION).to(scores.dtype)


def _lower_of_group(values: Tensor, group: Tensor, size: Tensor) -> Tensor:
    """Return how many values of the same group are lower than each, equal ones counted half, (n,) float64."""
    order = values.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    place = torch.arange(len(order), device=order.device)
    begins = torch.ones(len(order), dtype=torch.bool, device=order.device)
    begins[1:] = (values[order].diff() != 0) | (group[order].diff() != 0)
    tie = begins.cumsum(0) - 1
    first = place[begins]
    last = torch.cat([first[1:], first.new_tensor([len(order)])]) - 1
    start = (size.cumsum(0) - size)[group[order]]
    lower = values.new_empty(len(order))
    lower[order] = (first + last)[tie].to(lower.dtype) / 2 - start
    return lower


def normalised(candidates: UserScores, probes: UserScores, norm: ScoreNorm) -> tuple[UserScores, UserScores]:
    """Normalise the scores of a table, those of a user's candidates and probes together: the gate compares the two.

    The scores of a table in a folder come into memory, with some 100 bytes a pair while it lasts.

    Returns
    -------
    candidates, probes : UserScores
        The same users and items.
    """
    if norm == "none":
        return candidates, probes
    groups = (candidates, probes)
    users = torch.cat([group.users[group.user_of_entry] for group in groups])
    scores = normalise(torch.cat([group.scores for group in groups]), users, norm)
    for group in groups:
        if group.pages is not None:
            group.pages.give_back()
    of_candidates, of_probes = scores.split([len(candidates), len(probes)])
    return dataclasses.replace(candidates, scores=of_candidates), dataclasses.replace(probes, scores=of_probes)
