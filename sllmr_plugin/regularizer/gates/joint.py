"""The paper's gate and its objective (Algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..signals import ENTRY_SIGNALS, PairSignals
from .base import Gate


class JointGate(Gate, name="joint"):
    """The paper's gate: ``alpha_i = sigmoid(w.z_i + b)``, a pair takes the mean, w and b join the descent.

    Algorithm 1 minimises ``alpha * h`` with ``h >= 0`` over the gate as well. The derivative by alpha is h,
    never negative, so every step closes the gate, and fastest where the model disagrees with the LLM most.
    It is offered for comparison; expect `GateCollapsedWarning` in the end.
    """

    uses_uncertainty = True
    tuned = False  # its objective can only close it
    collapse_remedy = "Algorithm 1's objective can only close it. Use gate='auto', or gate='none' to do without a gate."

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(ENTRY_SIGNALS)))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, signals: PairSignals) -> Tensor:
        """Return the weights of pairs, as `Gate.forward`."""
        both = torch.stack([signals.preferred, signals.other])  # (2, n_pairs, 3)
        return torch.sigmoid(both @ self.weight + self.bias).mean(dim=0)

    def coefficients(self) -> dict[str, float]:
        """Weights of the signals and the bias by name."""
        values = dict(zip(ENTRY_SIGNALS, self.weight.detach().tolist(), strict=True))
        return {**values, "bias": float(self.bias.detach())}
