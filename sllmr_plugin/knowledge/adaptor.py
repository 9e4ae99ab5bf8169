"""What `augment` puts on a model: a trainable module that turns user and item codes into dense inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CoverageError, CoverageWarning
from .vectors import EncodedTexts, TextVectors


class Adaptor(nn.Module):
    """Base of the adaptors: holds the text vectors and says which dense columns it fills.

    A subclass sets `widths` and defines ``forward(users, items)``, both (n,) int64 codes, which returns the columns
    side by side: (n, sum of the widths). It must treat rows one by one and draw no random numbers. One that also adds
    to the loss of training steps sets `loss_weight` and defines `loss`.

    Parameters
    ----------
    encoded : EncodedTexts
        Vectors of the texts, of users, items or both.

    Attributes
    ----------
    widths : dict of str to int
        Name of each dense column -> its dimension.
    sides : dict of str to {"user", "item"}
        Name of each column that the user alone or the item alone decides in predictions -> which of them.
    users, items : TextVectors
        The lookups; only of what there are vectors of.
    loss_weight : float
        Of `loss` beside the library's loss per row; 0 where the adaptor has none.
    replaces_items : bool
        Whether the backbone gets other item codes than the adaptor, those of `backbone_items`.
    """

    widths: dict[str, int]
    sides: dict[str, str]
    users: TextVectors
    items: TextVectors
    loss_weight: float = 0.0
    replaces_items: bool = False

    def backbone_items(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the item codes, (n,) int64, that the backbone gets in place of those of the rows, (n,) int64 each."""
        raise NotImplementedError

    def next_step(self) -> None:
        """Take notice of the end of a training step; what `backbone_items` draws may be another in the next one."""

    def loss(self, users: Tensor, items: Tensor) -> tuple[Tensor, int]:
        """Return the mean loss, (), of a step's rows, (n,) int64 codes, and the number of terms that it is of."""
        raise NotImplementedError

    def __init__(self, encoded: EncodedTexts) -> None:
        super().__init__()
        self.sides = {}
        self._lookups = {kind: f"{kind}s" for kind in ("user", "item") if kind in encoded.codes}
        for kind, name in self._lookups.items():
            setattr(self, name, TextVectors(encoded, kind))

    def check_coverage(self, users: np.ndarray, items: np.ndarray) -> None:
        """Find out whether there are vectors for the codes of the training rows, (n_rows,) each.

        Raises
        ------
        CoverageError
            If there are vectors of users, or of items, and none is for any of the rows.

        Warns
        -----
        CoverageWarning
            If there is none for some of them.
        """
        lacking = []
        for kind, codes in (("user", users), ("item", items)):
            if kind not in self._lookups:
                continue
            lookup, kinds = getattr(self, self._lookups[kind]), f"{kind}s"
            distinct = torch.from_numpy(np.unique(codes).astype(np.int64)).to(lookup.missing.device)
            known = int(lookup.known(distinct).sum())
            if known == 0:
                raise CoverageError(
                    f"none of the {len(distinct)} {kinds} in the training rows has a text or vector, so "
                    f"{type(self).__name__} would add nothing for them. Give the table the ids of the training rows, "
                    f"with {kind}_index= to turn them into codes."
                )
            if known < len(distinct):
                lacking.append(f"{len(distinct) - known} of {len(distinct)} {kinds}")
        if lacking:
            warnings.warn(
                f"{' and '.join(lacking)} in the training rows have no text or vector; they share one learned "
                "vector. Have texts written for them if they are many.",
                CoverageWarning,
                stacklevel=3,
            )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise weights from a seed and leave torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def by_distinct(module: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
    """Apply a module to (n,) codes, computing every distinct code once: a ranking asks for one user many times."""
    distinct, where = codes.unique(return_inverse=True)
    output: Tensor = module(distinct)[where]
    return output
