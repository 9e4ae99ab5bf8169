"""The exemplars of LLM-CF, drawn or reasoned about, and their retrieval."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

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

    The text explains a label, so a positive exemplar without a positive training row may be a held-out interaction
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


_ROWS_AT_A_TIME = 1024


class Exemplars(nn.Module):
    """A base of labelled (user, item) pairs and their retrieval by the texts of users and items.

    Retrieval takes two stages, so that a ranking of whole catalogues can afford it. For each item the `pool` exemplars
    of each label with the most similar item texts are found once, here. Of these, a (user, item) takes the `n_each` of
    each label with the largest sum of the two cosines, of user texts and of item texts. Exemplars of the user itself
    are left out: among them would be the row that is being trained, with its label.

    Parameters
    ----------
    users, items : TextVectors
        Lookups of the text vectors.
    base : ExemplarBase
        The exemplars.
    pool, n_each : int
        Exemplars of each label that are looked at, and that are taken.

    Attributes
    ----------
    user, item : Tensor
        (size,) int64 codes of the exemplars, positives first.
    label : Tensor
        (size,) int64, 1 or 0.
    reasoning : Tensor or None
        (size, d_reasoning) float32 vectors of what a language model wrote about the exemplars, if it did.
    candidates : Tensor
        (n_item_rows, 2, pool) int64 exemplars for each row of the items' vectors, positives first.
    similarity : Tensor
        (n_item_rows, 2, pool) float32 cosines of their item texts.
    """

    user: Tensor
    item: Tensor
    label: Tensor
    reasoning: Tensor | None
    candidates: Tensor
    similarity: Tensor
    user_rows: Tensor
    user_directions: Tensor

    def __init__(
        self,
        users: TextVectors,
        items: TextVectors,
        base: ExemplarBase,
        *,
        pool: int,
        n_each: int,
    ) -> None:
        super().__init__()
        user, item, label = base.user, base.item, base.label
        self.n_each = n_each
        directions = nn.functional.normalize(items.vectors, dim=1)  # (n_item_rows, d)
        of_exemplar = directions[items.rows(item)]
        candidates, similarity = [], []
        for wanted in (1, 0):
            own = torch.nonzero(label == wanted).squeeze(1)
            theirs, n = of_exemplar[own].T, min(pool, len(own))
            near = [(block @ theirs).topk(n, dim=1) for block in directions.split(_ROWS_AT_A_TIME)]
            numbers, cosines = own[torch.cat([block[1] for block in near])], torch.cat([block[0] for block in near])
            # A label with fewer exemplars than the pool is filled up; what is filled in is masked by its similarity.
            candidates.append(nn.functional.pad(numbers, (0, pool - n)))
            similarity.append(nn.functional.pad(cosines, (0, pool - n), value=-torch.inf))
        for name, tensor in {
            "user": user,
            "item": item,
            "label": label,
            "reasoning": base.reasoning,
            "user_rows": users.rows(user),
            "candidates": torch.stack(candidates, dim=1),
            "similarity": torch.stack(similarity, dim=1),
            "user_directions": nn.functional.normalize(users.vectors, dim=1),
        }.items():
            self.register_buffer(name, tensor, persistent=False)

    def retrieve(self, users: Tensor, user_rows: Tensor, item_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Find the exemplars of (user, item) pairs.

        Parameters
        ----------
        users : Tensor
            (n,) int64 codes.
        user_rows, item_rows : Tensor
            (n,) int64 rows of the text vectors of users and items.

        Returns
        -------
        exemplars : Tensor
            (n, 2 * n_each) int64 numbers of exemplars, positives first.
        similarity : Tensor
            (n, 2 * n_each) float32 sum of the two cosines; -inf marks a place that no exemplar fills.
        """
        found = self.candidates[item_rows]  # (n, 2, pool)
        distinct, where = user_rows.unique(return_inverse=True)
        of_users = self.user_directions[distinct] @ self.user_directions[self.user_rows].T  # (n_distinct, size)
        joint = self.similarity[item_rows] + of_users[where.view(-1, 1, 1), found]
        joint = joint.masked_fill(self.user[found] == users.view(-1, 1, 1), -torch.inf)
        best = joint.topk(min(self.n_each, joint.shape[2]), dim=2)
        return found.gather(2, best.indices).flatten(1), best.values.flatten(1)
