"""How far the candidates of probes are distributed like the items that a ranking compares with, by popularity."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CoverageWarning

_BANDS = 10
_MOST = 5.0
_POOR = 0.5


@dataclass(frozen=True)
class CandidateMatch:
    """Shares of the catalogue and of the probes' candidates in bands of popularity.

    A gate learns from probes beside the candidates that were scored. Full ranking sets a held-out item against the
    whole catalogue, which holds far fewer popular items than candidates usually do. A judge who is better among popular
    items may be worse among the rest (docs/reproduce.md has such a case), so pairs count by how common their candidate
    is in the catalogue compared with the candidates.

    Attributes
    ----------
    upper : Tensor
        (n_bands,) int64, ascending: the largest number of training positives in each band. Bands are tenths of the
        catalogue; tenths that end at the same popularity are one band.
    catalogue, candidates : Tensor
        (n_bands,) float64 shares, each of sum 1.
    """

    upper: Tensor
    catalogue: Tensor
    candidates: Tensor

    @classmethod
    def of(cls, catalogue: Tensor, candidates: Tensor) -> CandidateMatch:
        """Count bands.

        Parameters
        ----------
        catalogue : Tensor
            (n_items,) int64 popularity of the items that can be ranked, at least one.
        candidates : Tensor
            (n_pairs,) int64 popularity of the candidate in each pair, at least one; all of them of the catalogue.
        """
        ordered = catalogue.sort().values
        ends = (torch.arange(1, _BANDS + 1) * len(ordered) / _BANDS).ceil().long() - 1
        upper = ordered[ends].unique()
        counts = (torch.bincount(torch.bucketize(x, upper), minlength=len(upper)) for x in (ordered, candidates))
        return cls(upper, *(count.double() / count.sum() for count in counts))

    def weights(self, candidates: Tensor) -> Tensor:
        """Return how much a pair counts, (n_pairs,) float64 of mean 1: importance weights, none above 5 before scaling.

        The cap bounds the variance where candidates hardly reach; bands without any candidate stay unseen.
        """
        ratio = (self.catalogue / self.candidates.clamp_min(1e-12)).clamp_max(_MOST)
        weight = ratio[torch.bucketize(candidates, self.upper)]
        return weight / weight.mean()

    @property
    def overlap(self) -> float:
        """Share of the catalogue that the candidates match: 1 minus the total variation distance; 1 is a match."""
        return float(torch.minimum(self.catalogue, self.candidates).sum())

    @property
    def unseen(self) -> float:
        """Share of the catalogue in bands without a candidate."""
        return float(self.catalogue[self.candidates == 0].sum())

    def __str__(self) -> str:
        unseen = f"; {self.unseen:.0%} of it lies in tenths without a candidate" if self.unseen else ""
        match = f"{self.overlap:.2f} (1 is alike)"
        return f"the probes' candidates are distributed over popularity as the catalogue is to {match}{unseen}"

    def warn(self) -> None:
        """Issue a `CoverageWarning` if the match is poor."""
        if self.overlap >= _POOR:
            return
        warnings.warn(
            f"{self}. A ranking compares with the whole catalogue, where the scorer and the backbone may do otherwise "
            "than among these items. Draw candidates from all of it (sllmr candidates --catalogue-share), and keep "
            "probe_weights='catalogue'.",
            CoverageWarning,
            stacklevel=4,
        )
