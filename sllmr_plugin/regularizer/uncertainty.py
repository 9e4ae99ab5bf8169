"""The backbone's own uncertainty q in [0, 1] about a user and an item (paper Sec. 3.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def confidence(probability: Tensor) -> Tensor:
    """``1 - max_c p(c)``, rescaled from [0, 1/2] to [0, 1]."""
    return 2 * torch.minimum(probability, 1 - probability)


def entropy(probability: Tensor) -> Tensor:
    """Entropy of the Bernoulli output divided by its maximum, ln 2."""
    return (torch.special.entr(probability) + torch.special.entr(1 - probability)) / math.log(2)


def bernoulli_variance(samples: Tensor) -> Tensor:
    """Variance over MC-dropout passes, or over checkpoints, divided by its maximum, 1/4 for numbers in [0, 1].

    Parameters
    ----------
    samples : Tensor
        (n_passes, n_rows) probabilities.

    Returns
    -------
    Tensor
        (n_rows,)
    """
    return samples.var(dim=0, unbiased=False) / 0.25


def variance_share(samples: Tensor) -> Tensor:
    """Variance over passes as a share of itself and the variance between rows, for scores without bounds.

    Parameters
    ----------
    samples : Tensor
        (n_passes, n_rows) scores of a regression.

    Returns
    -------
    Tensor
        (n_rows,) in [0, 1]: 0 where the passes agree, 1/2 where they differ as much as rows do.
    """
    within, between = samples.var(dim=0, unbiased=False), samples.mean(dim=0).var(unbiased=False)
    return within / (within + between).clamp_min(torch.finfo(samples.dtype).tiny)


FROM_PROBABILITY = {"confidence": confidence, "entropy": entropy}
