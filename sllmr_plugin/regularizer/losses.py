"""Losses of ordered pairs and of single scores, unreduced."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def hinge(difference: Tensor, margin: float) -> Tensor:
    """``max(0, margin - d)`` of score differences d (paper Sec. 3.2).

    Parameters
    ----------
    difference : Tensor
        (n_pairs,) s_i - s_j, where the LLM prefers i.
    margin : float
        m, in units of the scores.

    Returns
    -------
    Tensor
        (n_pairs,)
    """
    return F.relu(margin - difference)


def ranknet(difference: Tensor, margin: float) -> Tensor:
    """``log(1 + exp(margin - d))``: RankNet's loss (Burges et al., 2005), the hinge made smooth.

    Parameters and return value as of `hinge`.
    """
    return F.softplus(margin - difference)


def pointwise_mse(probability: Tensor, target: Tensor) -> Tensor:
    """``(p - t)^2`` against the LLM's score t (paper Table 3, "LLM Pointwise MSE")."""
    return (probability - target).square()


def pointwise_bce(logit: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the model's logit against the LLM's score t in [0, 1] as a soft label."""
    return F.binary_cross_entropy_with_logits(logit, target.to(logit.dtype), reduction="none")


PAIR_LOSSES = {"hinge": hinge, "ranknet": ranknet}
