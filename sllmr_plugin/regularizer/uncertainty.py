"""The backbone's own uncertainty q in [0, 1] about a user and an item (paper Sec. 3.3)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .registry import Registry

UNCERTAINTIES: Registry[Uncertainty] = Registry("uncertainty")
"""Values of ``SelectiveConfig.uncertainty``."""


class Uncertainty:
    """Turns a backbone's outputs for rows into q; a subclass has a name once it is defined.

    Called with (n_rows,) probabilities where `source` is ``"probability"``, else with (n_opinions, n_rows) of them.

    Attributes
    ----------
    name : str
        As settings choose it.
    source : {"probability", "dropout", "checkpoints"}
        What it is computed from: the output of one pass, of ``mc_samples`` passes with dropout, or of the checkpoints
        given to ``model.sllmr.set_ensemble``.
    """

    name: ClassVar[str] = ""
    source: ClassVar[Literal["probability", "dropout", "checkpoints"]] = "probability"

    def __init_subclass__(cls, name: str = "", **kwargs: Any) -> None:
        """Put a subclass into `UNCERTAINTIES` under a name."""
        super().__init_subclass__(**kwargs)
        UNCERTAINTIES.add(name, cls)

    def __call__(self, values: Tensor) -> Tensor:
        """Return q of each row, (n_rows,) in [0, 1]."""
        raise NotImplementedError


UNCERTAINTIES.base = Uncertainty


class Confidence(Uncertainty, name="confidence"):
    """``1 - max_c p(c)``, rescaled from [0, 1/2] to [0, 1]."""

    def __call__(self, values: Tensor) -> Tensor:
        """Return q of probabilities, (n_rows,)."""
        return 2 * torch.minimum(values, 1 - values)


class Entropy(Uncertainty, name="entropy"):
    """Entropy of the Bernoulli output divided by its maximum, ln 2."""

    def __call__(self, values: Tensor) -> Tensor:
        """Return q of probabilities, (n_rows,)."""
        return (torch.special.entr(values) + torch.special.entr(1 - values)) / math.log(2)


class _Variance(Uncertainty):
    """Variance over opinions divided by its maximum, 1/4 for numbers in [0, 1]."""

    def __call__(self, values: Tensor) -> Tensor:
        """Return q of opinions, (n_opinions, n_rows)."""
        return values.var(dim=0, unbiased=False) / 0.25


class MCDropout(_Variance, name="mc_dropout"):
    """Variance over passes with dropout (Gal and Ghahramani, ICML 2016), divided by its maximum of 1/4."""

    source = "dropout"


class Ensemble(_Variance, name="ensemble"):
    """Variance over checkpoints (Lakshminarayanan et al., NeurIPS 2017), divided by its maximum of 1/4."""

    source = "checkpoints"


def variance_share(samples: Tensor, label_variance: float) -> Tensor:
    """Variance over opinions as a share of itself and the variance of the labels, for scores without bounds.

    Parameters
    ----------
    samples : Tensor
        (n_opinions, n_rows) scores of a regression.
    label_variance : float
        Of the training labels.

    Returns
    -------
    Tensor
        (n_rows,) in [0, 1]: 0 where the opinions agree, 1/2 where they differ as much as labels do. A row's share
        does not depend on the other rows.
    """
    within = samples.var(dim=0, unbiased=False)
    return within / (within + label_variance).clamp_min(torch.finfo(samples.dtype).tiny)
