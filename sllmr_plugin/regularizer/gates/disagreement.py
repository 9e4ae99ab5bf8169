"""The gate that is fitted on who was right: the LLM or the backbone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..signals import PAIR_SIGNALS, STUDENT_SIGNALS, PairSignals
from .base import Gate


class DisagreementGate(Gate, name="disagreement"):
    """``alpha = max(0, 2 P - 1)`` with P a cautious P(the LLM is right | it and the backbone disagree, z).

    P is a logistic regression fitted on probes: held-out interactions that the LLM scored. Only disagreements
    matter, since on a pair that both order alike there is nothing to learn from the LLM. Noise gives P = 1/2 and
    a closed gate, and so does an LLM that is worse than the model.

    Its signals are the paper's, as the mean of the two items, and the LLM's score gap, which is the most informative
    (docs/benchmarks.md). Where scores of the table are a student's (`extend_scores`), whether they are and how far
    the students of its folds differ come in, too. Popularity is left out on purpose: a preference for the more
    popular item is right more often than not, so the gate would follow a noisy LLM on all pairs in which it prefers
    the popular item.

    Caution: P is taken one posterior standard deviation below its estimate. The pairs of one user share the probe and
    the user's history, so all of a user's pairs together weigh as much as one observation, and the deviation comes
    from the sandwich estimator with users as clusters: neither a user with many candidates nor a few users who
    happen to agree can open the gate.

    Signals are centred for the fit, so one that did not vary over the disagreements (uncertainty, as long as
    the backbone is untrained) gets no weight.

    Parameters
    ----------
    prior_scale : float, default=1.0
        Standard deviation of the zero-mean normal prior of every coefficient, the bias too: without evidence
        P is 1/2 and the gate is closed.
    caution : float, default=1.0
        Posterior standard deviations subtracted from the logit of P.
    """

    uses_uncertainty = True
    needs_probes = True
    fits_disagreements = True
    weight: Tensor
    bias: Tensor
    centre: Tensor
    covariance: Tensor
    signals: tuple[str, ...] = PAIR_SIGNALS

    def __init__(self, prior_scale: float = 1.0, caution: float = 1.0) -> None:
        super().__init__()
        self.prior_scale = prior_scale
        self.caution = caution
        self._begin()

    def _begin(self) -> None:
        n = len(self.signals)
        self.register_buffer("weight", torch.zeros(n))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(n))
        self.register_buffer("covariance", torch.eye(n + 1) * self.prior_scale**2)

    def see_students(self) -> None:
        """See `STUDENT_SIGNALS` as well."""
        self.signals = (*PAIR_SIGNALS, *STUDENT_SIGNALS)
        self._begin()

    def _design(self, signals: PairSignals) -> Tensor:
        return signals.design(student=self.signals != PAIR_SIGNALS)

    def forward(self, signals: PairSignals) -> Tensor:
        """Return the weights of pairs, as `Gate.forward`."""
        design = _with_one(self._design(signals) - self.centre)  # (n_pairs, n_signals + 1)
        deviation = _squares(design, self.covariance).sqrt()
        logit = design[:, :-1] @ self.weight + self.bias - self.caution * deviation
        return (2 * torch.sigmoid(logit) - 1).clamp_min(0)

    def shut(self, signals: PairSignals) -> Tensor:
        """Return the pairs whose cautious logit of P is below 0 for every uncertainty in [0, 1], as `Gate.shut`.

        The logit is concave in the uncertainty (a line minus a norm), so its tangent at any point bounds it from above,
        and a tangent is largest at an end of the interval.
        """
        column = self.signals.index("uncertainty")
        covariance, weight = self.covariance.double(), self.weight.double()
        design = _with_one(self._design(signals) - self.centre).double()  # with an uncertainty of 0
        line, along = design[:, :-1] @ weight + self.bias, covariance[column]
        square, product = _squares(design, covariance), design @ along
        at = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64, device=design.device)
        deviation = (square + 2 * at * product + at.square() * along[column]).clamp_min(1e-24).sqrt()
        logit = line + at * weight[column] - self.caution * deviation
        slope = weight[column] - self.caution * (product + at * along[column]) / deviation
        bounds = logit + torch.maximum(slope * (1 - at), -slope * at)  # (3, n_pairs)
        # Not 0: `forward` may round another way.
        return bounds.amin(dim=0) < -1e-5

    @property
    def collapse_remedy(self) -> str:  # type: ignore[override]
        """What a mean alpha near 0 means, and what to do."""
        if not self.calibrated:
            return (
                "fewer than two users have a training row, a probe and a candidate about which the LLM and the "
                "backbone have disagreed, so there is no evidence for the LLM. Score candidates for the users of the "
                "probes too, add probes, or use gate='fixed'."
            )
        return (
            "on the probes the LLM does not judge better than the backbone, or too few probes show that it does, so "
            "the model trains as if plain. Check the scores with sllmr_plugin.reliability, or add probes; "
            "gate='none' would follow the LLM all the same."
        )

    def coefficients(self) -> dict[str, float]:
        """Weights of the signals and the bias, the logit of P where every signal is 0, by name."""
        values = dict(zip(self.signals, self.weight.tolist(), strict=True))
        return {**values, "bias": float(self.bias - self.weight @ self.centre)}

    def fit(self, signals: PairSignals, llm_right: Tensor, user: Tensor) -> None:
        """Fit P on disagreements; with those of fewer than two users, the gate stays as it is.

        Parameters
        ----------
        signals : PairSignals
            Of n pairs of a probe and a candidate that the backbone orders differently from the LLM.
        llm_right : Tensor
            (n,) bool, True where the LLM's first is the probe.
        user : Tensor
            (n,) int64, whose pair it is.
        """
        if len(user.unique()) < 2:  # the variance between users cannot be estimated
            return
        design = self._design(signals).double()
        centre = design.mean(dim=0)
        importance = torch.ones_like(design[:, 0]) if signals.importance is None else signals.importance.double()
        evidence = (_with_one(design - centre), llm_right.double(), user)
        beta, covariance = logistic_map(*evidence, self.prior_scale, importance=importance)
        self.weight.copy_(beta[:-1])
        self.bias.copy_(beta[-1])
        self.centre.copy_(centre)
        self.covariance.copy_(covariance)
        self.calibrated = True


def _with_one(design: Tensor) -> Tensor:
    return torch.cat([design, torch.ones_like(design[:, :1])], dim=1)


def _squares(design: Tensor, covariance: Tensor) -> Tensor:
    """Return the squared length of each row, (n,), in the metric of the covariance."""
    return (design @ covariance * design).sum(dim=1)


def logistic_map(
    design: Tensor,
    outcome: Tensor,
    cluster: Tensor,
    prior_scale: float,
    steps: int = 50,
    importance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fit a logistic regression with a normal prior, by damped Newton steps, every cluster having a weight of 1.

    Parameters
    ----------
    design : Tensor
        (n, k) float64.
    outcome : Tensor
        (n,) float64, 0 or 1.
    cluster : Tensor
        (n,) int64: observations of one cluster may depend on each other; each weighs 1 over their number.
    prior_scale : float
        Standard deviation of every coefficient's zero-mean normal prior.
    importance : Tensor or None, default=None
        (n,) float64, multiplies the weights of observations, so that a cluster weighs their mean.

    Returns
    -------
    beta : Tensor
        (k,) maximum a posteriori coefficients.
    covariance : Tensor
        (k, k) cluster-robust: ``H^-1 (prior precision + G / (G - 1) * sum of g g' over clusters) H^-1`` with H
        the Hessian, g a cluster's weighted score and G the number of clusters, at least 2.
    """
    _, number, size = cluster.unique(return_inverse=True, return_counts=True)
    n_clusters = len(size)
    weight = (1 if importance is None else importance) / size[number].to(design.dtype)
    precision = torch.eye(design.shape[1], dtype=design.dtype, device=design.device) / prior_scale**2

    def objective(beta: Tensor) -> Tensor:
        logit = design @ beta
        loss = torch.nn.functional.softplus(logit) - outcome * logit
        return weight @ loss + beta @ precision @ beta / 2

    def hessian(p: Tensor) -> Tensor:
        return (design * (weight * p * (1 - p)).unsqueeze(1)).T @ design + precision

    beta = torch.zeros(design.shape[1], dtype=design.dtype, device=design.device)
    for _ in range(steps):
        p = torch.sigmoid(design @ beta)
        step = torch.linalg.solve(hessian(p), design.T @ (weight * (p - outcome)) + precision @ beta)
        if step.abs().max() < 1e-9:
            break
        size, before = 1.0, objective(beta)
        while objective(beta - size * step) > before and size > 1e-6:
            size /= 2
        beta = beta - size * step
    p = torch.sigmoid(design @ beta)
    score = design.new_zeros(n_clusters, design.shape[1])
    score.index_add_(0, number, design * (weight * (outcome - p)).unsqueeze(1))
    inverse = torch.linalg.inv(hessian(p))
    spread = n_clusters / (n_clusters - 1) * score.T @ score
    return beta, inverse @ (precision + spread) @ inverse
