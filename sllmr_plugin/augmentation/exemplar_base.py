"""What LLM-CF retrieves from: training rows that are drawn, or those that a language model reasoned about."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import CoverageError, CoverageWarning
from .vectors import EncodedReasoning, TextVectors

Rows: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ExemplarBase:
    """Labelled (user, item) pairs, positives first.

    Attributes
    ----------
    user, item : Tensor
        (size,) int64 codes.
    label : Tensor
        (size,) int64, 1 or 0.
    reasoning : Tensor or None
        (size, d_reasoning) float32 vectors of the reasoning about each; None where there is none.
    """

    user: Tensor
    item: Tensor
    label: Tensor
    reasoning: Tensor | None = None


def drawn_base(users: TextVectors, items: TextVectors, rows: Rows, size: int, seed: int) -> ExemplarBase:
    """Draw training rows, half of them positive, whose user and item have texts.

    Parameters
    ----------
    users, items : TextVectors
        Lookups of the text vectors.
    rows : tuple of ndarray
        (n_rows,) user codes, item codes and labels of the training rows.
    size : int
        Exemplars drawn, at most.
    seed : int
        Of the draw.

    Raises
    ------
    CoverageError
        If no row of one of the labels has a text of its user and of its item.
    """
    user, item = (torch.from_numpy(np.asarray(codes).astype(np.int64)) for codes in rows[:2])
    positive = np.asarray(rows[2]).reshape(-1) > 0.5
    has_texts = (users.known(user) & items.known(item)).numpy()
    generator = np.random.default_rng(seed)
    chosen = []
    for wanted, name in ((True, "positive"), (False, "negative")):
        usable = np.flatnonzero(has_texts & (positive == wanted))
        if not len(usable):
            raise CoverageError(
                f"no {name} training row has a text of its user and one of its item, so there is no exemplar to "
                "retrieve. Pass the rows that fit trains on, and texts of their users and items."
            )
        n = min(max(1, size // 2), len(usable))
        chosen.append(np.sort(generator.choice(usable, n, replace=False)))
    index = torch.from_numpy(np.concatenate(chosen))
    label = torch.cat([torch.ones(len(chosen[0])), torch.zeros(len(chosen[1]))]).long()
    return ExemplarBase(user[index], item[index], label)


def reasoned_base(users: TextVectors, items: TextVectors, rows: Rows, reasoning: EncodedReasoning) -> ExemplarBase:
    """Take all exemplars with a reasoning text, as far as the training rows bear them out.

    The text explains a label, so a positive exemplar that is no positive training row may be a held-out interaction
    that would be learnt from, and a negative one that is a positive row explains what did not happen.

    Parameters
    ----------
    users, items : TextVectors
        Lookups of the text vectors.
    rows : tuple of ndarray
        (n_rows,) user codes, item codes and labels of the training rows.
    reasoning : EncodedReasoning
        The exemplars.

    Raises
    ------
    CoverageError
        If none of one of the labels is left.

    Warns
    -----
    CoverageWarning
        If exemplars are left out.
    """
    user, item = torch.tensor(reasoning.users), torch.tensor(reasoning.items)
    positive = reasoning.labels == 1
    trained = (np.asarray(rows[2]).reshape(-1) > 0.5) & np.isin(rows[0], reasoning.users)
    pairs = pd.MultiIndex.from_arrays([reasoning.users, reasoning.items])
    is_positive_row = pairs.isin(pd.MultiIndex.from_arrays([np.asarray(codes)[trained] for codes in rows[:2]]))
    has_texts = (users.known(user) & items.known(item)).numpy()
    reasons = {
        "positive, but no positive training row": positive & ~is_positive_row,
        "negative, but a positive training row": ~positive & is_positive_row,
        "without a text of their user or item": (positive == is_positive_row) & ~has_texts,
    }
    told = "; ".join(f"{mask.sum()} {reason}" for reason, mask in reasons.items() if mask.any())
    usable = (positive == is_positive_row) & has_texts
    chosen = [np.flatnonzero(usable & mask) for mask in (positive, ~positive)]
    for name, found in zip(("positive", "negative"), chosen, strict=True):
        if not len(found):
            raise CoverageError(
                f"no {name} exemplar with a reasoning text can be used, of {len(positive)} in all"
                f"{f' ({told})' if told else ''}. Have reasoning written about the interactions that fit trains on "
                "(sllmr texts --kind reasoning asks about both labels), or leave these rows out of the text table."
            )
    if told:
        warnings.warn(
            f"{len(positive) - usable.sum()} of {len(positive)} exemplars with a reasoning text are left out: {told}. "
            "If they are many, have the missing texts written, and reasoning about what fit trains on.",
            CoverageWarning,
            stacklevel=3,
        )
    index = torch.from_numpy(np.concatenate(chosen))
    label = torch.tensor(reasoning.labels)[index]
    return ExemplarBase(user[index], item[index], label, torch.tensor(reasoning.vectors)[index])
