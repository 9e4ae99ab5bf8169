"""The gate that asks whether a pair's step would lower the held-out loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ..signals import PAIR_SIGNALS, PairSignals
from .base import Gate


class BilevelGate(Gate, name="bilevel"):
    """``alpha = sigmoid(w.z + b)``, trained by one-step look-ahead on the held-out loss.

    After a step along the weighted pair losses, ``theta' = theta - eta * sum(alpha_p grad h_p)``, the held-out loss
    has changed by ``-eta * sum(alpha_p <grad h_p, grad L_held>)`` to first order (Liu et al., 2019, with a step that
    unrolls nothing). So alpha is raised on pairs whose gradient agrees with that of the held-out loss, and lowered
    on the others. The held-out loss is RankNet's on probes against the candidates of the same user.

    It needs two more forward passes and one more backward pass in every training step.

    Parameters
    ----------
    rate : float, default=0.5
        Step of w and b on alignments scaled to a mean absolute value of 1.
    """

    uses_uncertainty = True
    needs_probes = True
    looks_ahead = True
    collapse_remedy = (
        "following the LLM raises the loss on the probes, so the model trains as if plain. "
        "gate='none' would follow the LLM all the same."
    )
    weight: Tensor
    bias: Tensor

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("weight", torch.zeros(len(PAIR_SIGNALS)))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, signals: PairSignals) -> Tensor:
        """Return the weights of pairs, as `Gate.forward`."""
        return torch.sigmoid(signals.design() @ self.weight + self.bias)

    def coefficients(self) -> dict[str, float]:
        """Weights of the signals and the bias by name."""
        values = dict(zip(PAIR_SIGNALS, self.weight.tolist(), strict=True))
        return {**values, "bias": float(self.bias)}

    def look_ahead(self, signals: PairSignals, alignment: Tensor) -> None:
        """Take a step.

        Parameters
        ----------
        signals : PairSignals
            Of n pairs.
        alignment : Tensor
            (n,) inner product of the gradient of each pair's loss with that of the held-out loss.
        """
        size = alignment.abs().mean()
        if len(alignment) == 0 or size == 0:
            return
        alpha = self(signals)
        pull = alignment / size * alpha * (1 - alpha) / len(alignment)  # by the logit of alpha
        self.weight += self.rate * (pull @ signals.design())
        self.bias += self.rate * pull.sum()
        self.calibrated = True
