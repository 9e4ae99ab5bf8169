"""`Refinement`: the training rows that modes add (synthetic ones) and leave out (doubted ones)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..backends.synthetic import DEFAULT_WEIGHT
from ..datasets.interactions import Interactions
from ..datasets.interest import DoubtedRows, Interest
from ..datasets.synthetic import SyntheticInteractions
from ..errors import ConfigError
from .modes import Mode
from .store import digest

Source: TypeAlias = str | os.PathLike[str] | pd.DataFrame


@dataclass(frozen=True, eq=False)
class Refinement:
    """Synthetic interactions and P(interest) for the modes ``synthetic``, ``denoised`` and ``refined``; see `read`.

    Attributes
    ----------
    data : Interactions
        Whose codes they have.
    synthetic : SyntheticInteractions or None
        Rows that are added.
    interest : Interest or None
        What synthetic rows are filtered and training rows left out by.
    weight : float
        Of the synthetic rows' loss (`add_synthetic`).
    """

    data: Interactions
    synthetic: SyntheticInteractions | None
    interest: Interest | None
    weight: float = DEFAULT_WEIGHT

    @classmethod
    def read(
        cls,
        data: Interactions,
        *,
        synthetic: Source | SyntheticInteractions | None = None,
        interest: Source | Interest | None = None,
        weight: float = DEFAULT_WEIGHT,
        keep_probes: float | None = None,
    ) -> Refinement:
        """Read and check both tables.

        Parameters
        ----------
        data : Interactions
            Pairs of its splits are refused as synthetic ones.
        synthetic : path, DataFrame or SyntheticInteractions, optional
            As `synthesize_interactions` writes it.
        interest : path, DataFrame or Interest, optional
            As `Interest.of` takes it.
        weight : float, default=0.1
            Of the synthetic rows' loss, above 0.
        keep_probes : float, optional
            As of `Interest.of`.

        Raises
        ------
        ConfigError
            If there is neither, or the weight is not above 0.
        LeakageError, DataError, CoverageError, InterestError
            If a table cannot be used.
        """
        if synthetic is None and interest is None:
            raise ConfigError("there is nothing to refine by; give synthetic interactions, P(interest), or both.")
        if not np.isfinite(weight) or weight <= 0:
            raise ConfigError(
                f"the weight of synthetic rows is {weight!r} and must be above 0; leave them out instead."
            )
        read = None if synthetic is None else SyntheticInteractions.of(synthetic, data)
        judged = None if interest is None else Interest.of(interest, data, synthetic=read, keep_probes=keep_probes)
        return cls(data, read, judged, weight)

    @cached_property
    def _filtered(self) -> SyntheticInteractions:
        assert self.synthetic is not None
        assert self.interest is not None
        return self.interest.filtered(self.data, self.synthetic)

    @cached_property
    def _doubted(self) -> DoubtedRows:
        assert self.interest is not None
        return self.interest.doubted(self.data)

    def added(self, mode: Mode) -> SyntheticInteractions | None:
        """Return the synthetic rows that a mode trains on; None of a mode that does not."""
        if "refined" in mode.parts:
            return self._filtered
        return self.synthetic if "synthetic" in mode.parts else None

    def left_out(self, mode: Mode) -> DoubtedRows | None:
        """Return the training interactions that a mode leaves out; None of a mode that leaves out none."""
        return self._doubted if {"denoised", "refined"} & set(mode.parts) else None

    def of(self, mode: Mode) -> dict[str, Any]:
        """Return what `train` is to be given for a mode."""
        return {"synthetic": self.added(mode), "doubted": self.left_out(mode), "synthetic_weight": self.weight}

    def recorded(self) -> dict[str, Any]:
        """Return what results depend on, as plain JSON values."""
        told: dict[str, Any] = {}
        if self.synthetic is not None:
            told["synthetic"] = digest(self.synthetic.users, self.synthetic.items, self.synthetic.weights)
            told["synthetic_weight"] = self.weight
        if self.interest is not None:
            told["interest"] = digest(self.interest.keys, self.interest.scores, np.array([self.interest.threshold]))
        return told


def refined_by(refinement: Refinement | None, mode: Mode) -> dict[str, Any]:
    """Return what `train` is to be given for a mode; nothing without a refinement."""
    return {} if refinement is None else refinement.of(mode)
