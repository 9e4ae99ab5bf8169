"""Algorithm 1 with its mean alpha held by a Lagrange multiplier."""

from __future__ import annotations

import torch
from torch import Tensor

from .joint import JointGate


class BudgetGate(JointGate, name="budget"):
    """The paper's gate, kept from closing: ``mean alpha = rho`` by a Lagrange multiplier.

    Descent is on ``mean(alpha * h) + mu * d + damping / 2 * d^2`` with ``d = rho - mean(alpha)``; the multiplier mu
    climbs while the gate is narrower than its budget and sinks while it is wider. The quadratic term (an augmented
    Lagrangian) is what lets the two settle: without it they chase each other, and the gate swings between open and
    closed. It cannot collapse, but what it keeps open are the pairs whose loss is small, where the backbone agrees with
    the LLM already.

    Parameters
    ----------
    rho : float, default=0.5
        The mean alpha that is held, in (0, 1).
    rate : float, default=0.05
        Step of the multiplier, per training step and unit of mean alpha.
    damping : float, default=10.0
        Weight of the quadratic term; more holds the mean alpha of every single step closer to rho.
    """

    tuned = True
    multiplier: Tensor

    def __init__(self, rho: float = 0.5, rate: float = 0.05, damping: float = 10.0) -> None:
        super().__init__()
        self.rho = rho
        self.rate = rate
        self.damping = damping
        self.register_buffer("multiplier", torch.zeros(()))

    def penalty(self, alpha: Tensor) -> Tensor:
        """Return the Lagrange term, and move the multiplier by the distance to the budget."""
        short = self.rho - alpha.mean()
        term = self.multiplier * short + self.damping / 2 * short.square()
        self.multiplier = self.multiplier + self.rate * short.detach()
        return term
