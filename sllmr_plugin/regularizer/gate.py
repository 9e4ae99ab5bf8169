"""Gates: how far the LLM is followed on a pair (paper Sec. 3.3).

Every gate maps the signals z = [cold, tail, q] of a pair's two entries to a weight alpha in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIGNAL_NAMES = ("cold", "tail", "uncertainty")


class Gate(nn.Module):
    """A gate over ordered pairs.

    Attributes
    ----------
    uses_uncertainty : bool
        Whether the third signal must be computed at all.
    needs_probes : bool
        Whether `fit_disagreements` has to be called for the gate to mean anything.
    calibrated : bool
        Whether alpha rests on observed held-out outcomes.
    """

    uses_uncertainty = False
    needs_probes = False
    calibrated = False

    def forward(self, preferred: Tensor, other: Tensor) -> Tensor:
        """Return the weights of pairs.

        Parameters
        ----------
        preferred, other : Tensor
            (n_pairs, 3) signals of the two entries of each pair.

        Returns
        -------
        Tensor
            (n_pairs,) alpha in [0, 1].
        """
        raise NotImplementedError

    def coefficients(self) -> dict[str, float]:
        """Weights of the signals and the bias by name, empty for a gate without any."""
        return {}


class OpenGate(Gate):
    """alpha = 1: the paper's "global" ablation (Table 3)."""

    def forward(self, preferred: Tensor, other: Tensor) -> Tensor:
        """Return ones, (n_pairs,)."""
        return torch.ones_like(preferred[:, 0])


class FixedGate(Gate):
    """alpha_i = 1 for a cold user or a long-tail item, else 0; a pair takes the mean of its two."""

    def forward(self, preferred: Tensor, other: Tensor) -> Tensor:
        """Return the weights of pairs, as `Gate.forward`."""
        return (preferred[:, :2].amax(dim=1) + other[:, :2].amax(dim=1)) / 2


class _LinearGate(Gate):
    """A gate with one weight a signal and a bias."""

    uses_uncertainty = True
    weight: Tensor
    bias: Tensor

    def coefficients(self) -> dict[str, float]:
        values = dict(zip(SIGNAL_NAMES, self.weight.detach().tolist(), strict=True))
        return {**values, "bias": float(self.bias.detach())}


class JointGate(_LinearGate):
    """The paper's gate: ``alpha_i = sigmoid(w.z_i + b)``, a pair takes the mean, w and b join the descent.

    Algorithm 1 minimises ``alpha * h`` with ``h >= 0`` over the gate as well. The derivative by alpha is h,
    never negative, so every step closes the gate, and fastest where the model disagrees with the LLM most.
    It is offered for comparison; expect `GateCollapsedWarning` in the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(SIGNAL_NAMES)))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, preferred: Tensor, other: Tensor) -> Tensor:
        """Return the weights of pairs, as `Gate.forward`."""
        both = torch.stack([preferred, other])  # (2, n_pairs, 3)
        return torch.sigmoid(both @ self.weight + self.bias).mean(dim=0)


class DisagreementGate(_LinearGate):
    """``alpha = max(0, 2 P - 1)`` with P = P(the LLM is right | it and the backbone disagree, z).

    P is a logistic regression on the pair's mean signals, fitted on probes: held-out interactions that
    the LLM scored. Only disagreements matter, since where both order a pair alike there is nothing to
    learn from the LLM. Noise gives P = 1/2 and a closed gate, and so does an LLM that is worse than the model.

    A training session fits it once, against the backbone as it is when the regularizer starts. With an
    untrained backbone P is the LLM's accuracy against chance; after ``warmup_epochs`` it is its accuracy where a
    trained model thinks otherwise, which is stricter. Fitted again later it would close on its own success: the
    backbone has learnt what the LLM knows, and they disagree only where the LLM is wrong.

    Signals are centred for the fit, so one that did not vary over the disagreements (uncertainty, as long as
    the backbone is untrained) gets no weight.

    Parameters
    ----------
    prior_scale : float, default=1.0
        Standard deviation of the zero-mean normal prior of every coefficient, the bias too: without evidence
        P is 1/2 and the gate is closed.
    """

    needs_probes = True

    def __init__(self, prior_scale: float = 1.0) -> None:
        super().__init__()
        self.prior_scale = prior_scale
        self.register_buffer("weight", torch.zeros(len(SIGNAL_NAMES)))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, preferred: Tensor, other: Tensor) -> Tensor:
        """Return the weights of pairs, as `Gate.forward`."""
        right = torch.sigmoid((preferred + other) / 2 @ self.weight + self.bias)
        return (2 * right - 1).clamp_min(0)

    def fit_disagreements(self, preferred: Tensor, other: Tensor, llm_right: Tensor) -> None:
        """Fit P on disagreements.

        Parameters
        ----------
        preferred, other : Tensor
            (n, 3) signals of the entries that the LLM puts first and second, for pairs of a probe and a
            candidate that the backbone orders the other way round.
        llm_right : Tensor
            (n,) bool, True where the LLM's first is the probe.
        """
        if len(llm_right) == 0:  # nothing was learnt: the gate stays as it is, and uncalibrated
            return
        signals = (preferred + other).double() / 2
        centre = signals.mean(dim=0)
        design = torch.cat([signals - centre, torch.ones_like(signals[:, :1])], dim=1)
        beta = _logistic_map(design, llm_right.double(), self.prior_scale)
        self.weight.copy_(beta[:-1])
        self.bias.copy_(beta[-1] - beta[:-1] @ centre)
        self.calibrated = True


def _logistic_map(design: Tensor, outcome: Tensor, prior_scale: float, steps: int = 50) -> Tensor:
    """Return the maximum a posteriori coefficients of a logistic regression, by damped Newton steps."""
    precision = torch.eye(design.shape[1], dtype=design.dtype, device=design.device) / prior_scale**2

    def objective(beta: Tensor) -> Tensor:
        logit = design @ beta
        return (torch.nn.functional.softplus(logit) - outcome * logit).sum() + beta @ precision @ beta / 2

    beta = torch.zeros(design.shape[1], dtype=design.dtype, device=design.device)
    for _ in range(steps):
        p = torch.sigmoid(design @ beta)
        gradient = design.T @ (p - outcome) + precision @ beta
        hessian = (design * (p * (1 - p)).unsqueeze(1)).T @ design + precision
        step = torch.linalg.solve(hessian, gradient)
        if step.abs().max() < 1e-9:
            break
        size, before = 1.0, objective(beta)
        while objective(beta - size * step) > before and size > 1e-6:
            size /= 2
        beta = beta - size * step
    return beta


def build_gate(mode: str, gate: str, *, has_probes: bool) -> Gate:
    """Return the gate of a mode; ``gate="auto"`` is decided by whether there are probes to fit one on."""
    if mode == "joint":
        return JointGate()
    if mode != "gated":
        return OpenGate()
    if gate == "auto":
        gate = "disagreement" if has_probes else "fixed"
    return DisagreementGate() if gate == "disagreement" else FixedGate()
