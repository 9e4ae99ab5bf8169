"""`Gate`: how far the LLM is followed on a pair (paper Sec. 3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from ..signals import PairSignals


class Gate(nn.Module):
    """A map from the signals of ordered pairs to weights alpha in [0, 1].

    Attributes
    ----------
    uses_uncertainty : bool
        Whether the backbone's uncertainty must be computed at all.
    needs_probes : bool
        Whether it rests on held-out interactions that the LLM scored.
    calibrated : bool
        Whether alpha rests on observed held-out outcomes by now.
    looks_ahead : bool
        Whether every training step has to tell it how each pair's loss moves with the held-out loss.
    """

    uses_uncertainty = False
    needs_probes = False
    calibrated = False
    looks_ahead = False

    def forward(self, signals: PairSignals) -> Tensor:
        """Return alpha of each pair, (n_pairs,) in [0, 1]."""
        raise NotImplementedError

    def penalty(self, alpha: Tensor) -> Tensor | None:
        """Return a term () that joins the descent beside the mean of alpha times loss, or None.

        Called once a training step with the alpha, (n_pairs,), of its pairs.
        """
        return None

    def look_ahead(self, signals: PairSignals, alignment: Tensor) -> None:
        """Learn from (n_pairs,) inner products of each pair loss's gradient and the held-out loss's; or do nothing."""

    def coefficients(self) -> dict[str, float]:
        """Weights of the signals and the bias by name, empty for a gate without any."""
        return {}
