"""Losses of ordered pairs and of single scores, unreduced; each is chosen by its name, or is a class of your own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import Registry

# A score of 0 or 1 has no finite logit. Language models answer in hundredths, so no score is closer to the ends.
SCORE_MARGIN = 0.01

LOSSES: Registry[Loss] = Registry("loss")
"""Values of ``SelectiveConfig.loss``."""


class Loss:
    """A loss that follows the LLM: `PairLoss` its order, `PointwiseLoss` its scores. A subclass is chosen by name.

    Attributes
    ----------
    name : str
        As settings choose it.
    pairwise : bool
        Whether it compares two items of a user.
    """

    name: ClassVar[str] = ""
    pairwise: ClassVar[bool]

    def __init_subclass__(cls, name: str = "", **kwargs: Any) -> None:
        """Put a subclass into `LOSSES` under a name."""
        super().__init_subclass__(**kwargs)
        LOSSES.add(name, cls)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(type(self))


LOSSES.base = Loss


class PairLoss(Loss):
    """Loss of score differences d = s_i - s_j, where the LLM prefers i: called with d, (n_pairs,), and the margin.

    Attributes
    ----------
    default_margin : mapping of str to float
        For differences of ``"logit"`` and of ``"probability"``.
    tuned_margins : mapping of str to tuple of (float or None)
        What `sllmr_plugin.tune` tries besides the default, None.
    """

    pairwise = True
    default_margin: ClassVar[Mapping[str, float]] = {"logit": 0.0, "probability": 0.0}
    tuned_margins: ClassVar[Mapping[str, tuple[float | None, ...]]] = {"logit": (None,), "probability": (None,)}

    def __call__(self, difference: Tensor, margin: float) -> Tensor:
        """Return the loss of each pair, (n_pairs,)."""
        raise NotImplementedError


class PointwiseLoss(Loss):
    """Loss of single scores against the LLM's: called with logit, probability and LLM score, (n,) each.

    It needs the scores of a click model, and no gate, since there are no pairs to weight.
    """

    pairwise = False
    uses_users: ClassVar[bool] = False
    """Whether it is called with whose entries they are, too, (n,) int64."""

    def __call__(self, logit: Tensor, probability: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each entry, (n,)."""
        raise NotImplementedError


class RankNet(PairLoss, name="ranknet"):
    """``log(1 + exp(margin - d))``: RankNet's loss (Burges et al., 2005), the hinge made smooth."""

    tuned_margins = {"logit": (None, 0.5, 1.0), "probability": (None, 0.05, 0.1)}

    def __call__(self, difference: Tensor, margin: float) -> Tensor:
        """Return the loss of each pair, (n_pairs,)."""
        return F.softplus(margin - difference)


class Hinge(PairLoss, name="hinge"):
    """``max(0, margin - d)`` (S-LLMR paper, Sec. 3.2)."""

    default_margin = {"logit": 1.0, "probability": 0.1}
    tuned_margins = {"logit": (None, 0.5, 2.0), "probability": (None, 0.05, 0.2)}

    def __call__(self, difference: Tensor, margin: float) -> Tensor:
        """Return the loss of each pair, (n_pairs,)."""
        return F.relu(margin - difference)


class SquaredError(PointwiseLoss, name="mse"):
    """``(p - t)^2`` against the LLM's score t (S-LLMR paper, Table 3, "LLM Pointwise MSE")."""

    def __call__(self, logit: Tensor, probability: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each entry, (n,)."""
        return (probability - target).square()


class CrossEntropy(PointwiseLoss, name="bce"):
    """Cross-entropy of the model's logit against the LLM's score t in [0, 1] as a soft label."""

    def __call__(self, logit: Tensor, probability: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each entry, (n,)."""
        return F.binary_cross_entropy_with_logits(logit, target.to(logit.dtype), reduction="none")


class Distillation(PointwiseLoss, name="kd"):
    """``T^2 * H(sigmoid(logit(t) / T), sigmoid(s / T))``: soft logits distilled (Hinton et al., 2015, Sec. 2.1).

    H is the cross-entropy; the Kullback-Leibler divergence differs from it by a constant, so its gradient is the same.
    The factor T^2 keeps the gradient's size when T changes. LLM scores t nearer than `SCORE_MARGIN` to 0 or 1 are moved
    to that distance.

    Parameters
    ----------
    temperature : float, default=2.0
        T > 0. Chosen by name it is ``SelectiveConfig.kd_temperature``.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        self.temperature = temperature

    def __call__(self, logit: Tensor, probability: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each entry, (n,)."""
        soft = torch.logit(target.to(logit.dtype), eps=SCORE_MARGIN) / self.temperature
        loss = F.binary_cross_entropy_with_logits(logit / self.temperature, soft.sigmoid(), reduction="none")
        return self.temperature**2 * loss


class RankDistillation(PointwiseLoss, name="rank_kd"):
    """``-w log sigmoid(s)`` of the items that the LLM puts first (DLLM2Rec: Cui et al., RecSys 2024).

    The weight of a user's item at the LLM's position r = 1, 2, ... is ``0.3 e^-r + 0.5 c + 0.1 [among the model's own
    first]``, with the first two normalised over the items that have a loss and c the LLM's score. Weights have a mean
    of 1 over the user's entries. The first are `most` at the most, and half of the user's entries in a step, rounded
    up: the paper ranks the whole catalogue, a step a few scored items.

    Parameters
    ----------
    most : int, default=10
        K.
    position, confidence, agreement : float, default=0.3, 0.5, 0.1
        What the three parts count.
    """

    uses_users = True

    def __init__(self, most: int = 10, position: float = 0.3, confidence: float = 0.5, agreement: float = 0.1) -> None:
        self.most = most
        self.position = position
        self.confidence = confidence
        self.agreement = agreement

    def __call__(self, logit: Tensor, probability: Tensor, target: Tensor, users: Tensor | None = None) -> Tensor:
        """Return the loss of each entry, (n,); without `users` all are one user's."""
        if users is None:
            users = torch.zeros_like(target, dtype=torch.int64)
        _, group, size = users.unique(return_inverse=True, return_counts=True)
        n_first = ((size + 1) // 2).clamp_max(self.most)[group]
        rank = _ranks_within(target, group, size)
        first = (rank < n_first).to(logit.dtype)
        agreed = (_ranks_within(logit.detach(), group, size) < n_first).to(logit.dtype)

        def shares(values: Tensor) -> Tensor:
            """Divide by the sum over a user's entries."""
            total = torch.zeros(len(size), dtype=values.dtype, device=values.device).index_add(0, group, values)
            return values / total[group].clamp_min(1e-12)

        by_position = shares(first * torch.exp(-(rank + 1).to(logit.dtype)))
        by_confidence = shares(first * target.to(logit.dtype))
        weight = self.position * by_position + self.confidence * by_confidence + self.agreement * first * agreed
        return shares(weight) * size[group] * F.softplus(-logit)


def _ranks_within(values: Tensor, group: Tensor, size: Tensor) -> Tensor:
    """Return each value's place among those of its group, the highest 0, (n,); of equal ones the first comes first."""
    order = values.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    start = size.cumsum(0) - size
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - start[group[order]]
    return rank
