"""`ReasonRewards`: what a trained model makes of new reasons and patterns, with which texts are corrected."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..backends.augment import is_augmented
from ..datasets.features import training_rows
from ..datasets.interactions import Interactions
from ..errors import EvaluationError
from ..knowledge import CURecAdaptor, TextEncoder, TextTable
from ..knowledge.id_vectors import Fitted
from ..knowledge.vectors import TfidfSvdEncoder, directions, encode_finite
from .explain import score_row
from .model_scores import evaluation_mode, input_matrix


class ReasonRewards:
    """Scores that a trained model gives to training interactions with other reasons about them.

    Luo et al. (KDD 2026), Sec. 4.4: the recommender, trained once, is the reward model, r = f(p_u, Q_i + {q}, S_u, i)
    (Eq. 12). The reward of a reason q about the user's own interaction is measured with q in the item's list **and
    shown to its user**, in the place of the reason that the list has about this interaction; all other reasons are the
    latest. That holds for the reward alone: in training, ranking and explanations a user never sees reasons about that
    user (`CURecAdaptor`). The model that is passed is not changed.

    Parameters
    ----------
    model : augmented DeepCTR-Torch model
        Trained with a `CURecAdaptor` of `texts`.
    data : Interactions
        What it was trained on. An interaction is scored as its training row is: with the history before it.
    texts : TextTable
        The table that the adaptor was built of.
    encoder : TextEncoder, optional
        What encoded it. Default: `TfidfSvdEncoder`, which learns its words from `texts` and ignores others.

    Raises
    ------
    EvaluationError
        If the model has no such adaptor, or it was built of other texts or with another encoder.
    """

    def __init__(self, model: Any, data: Interactions, texts: TextTable, *, encoder: TextEncoder | None = None) -> None:
        if not is_augmented(model) or not isinstance(model.augmentation.adaptor, CURecAdaptor):
            raise EvaluationError(
                f"a {type(model).__name__} without reasons gives none a reward. Augment it with a CURecAdaptor and "
                "train it."
            )
        positive = data.train.loc[data.train["label"] == 1, ["user", "item"]]
        pairs = texts.reasons[["user", "item"]]
        kept = pd.MultiIndex.from_frame(pairs).isin(pd.MultiIndex.from_frame(positive))
        reasons = texts.reasons[kept]
        self._model = copy.deepcopy(model)
        self._adaptor: CURecAdaptor = self._model.augmentation.adaptor
        patterns = texts.patterns if len(texts.patterns) else texts.users
        encoder = encoder or TfidfSvdEncoder()
        matrix = encode_finite(encoder, [*patterns, *texts.reasons["text"]])
        self._encoder = Fitted(encoder)
        self._centre = {
            kind: part.mean(axis=0, dtype=np.float64) if len(part) else 0.0
            for kind, part in zip(("pattern", "reason"), np.split(matrix, [len(patterns)]), strict=True)
        }
        vectors = directions(matrix[len(patterns) :][kept], self._centre["reason"])
        lists = self._adaptor.reasons
        there = lists.vectors[:-1].cpu().numpy()
        if self._adaptor.texts != tuple(reasons["text"]) or there.shape != vectors.shape:
            raise EvaluationError("the model was trained with other reasons. Give the texts that it was trained with.")
        if not np.allclose(there, vectors, atol=1e-3):
            raise EvaluationError("the model's reasons were encoded otherwise. Give its encoder (encoder=).")
        self._users, self._items = (
            dict(zip(ids.tolist(), range(1, len(ids) + 1), strict=True)) for ids in (data.user_ids, data.item_ids)
        )
        self._number = {pair: number for number, pair in enumerate(zip(reasons["user"], reasons["item"], strict=True))}
        first, last = self._model.feature_index.get("hist_item_id", (0, 1))
        x, y = training_rows(data, negatives=0, history_length=last - first)
        rows = pd.DataFrame({"user": x["user_id"], "item": x["item_id"]})[y > 0.5].drop_duplicates()
        self._row = {
            pair: row for row, pair in zip(rows.index, zip(rows["user"], rows["item"], strict=True), strict=True)
        }
        self._x = x
        # Room for a reason that the list left out because it has more than `most`.
        column = torch.full_like(lists.lists[:, :1], len(lists.owner) - 1)
        lists.lists = torch.cat([lists.lists, column], dim=1)

    def rewards(self, user: Hashable, item: Hashable, reasons: Sequence[str]) -> list[float]:
        """Return the model's score of an interaction with each of some reasons about it.

        Parameters
        ----------
        user, item : Hashable
            Raw ids of a training interaction that the texts have a reason about.
        reasons : sequence of str
            In the place of that reason, one at a time.

        Returns
        -------
        list of float

        Raises
        ------
        EvaluationError
            If there is no such reason, or a score is not finite.
        """
        number = self._reason(user, item)
        vectors = self._vectors("reason", reasons)
        pair = self._users[user], self._items[item]
        row = self._row[pair]
        matrix = input_matrix(self._model, {name: column[row : row + 1] for name, column in self._x.items()})
        lists, before, found = self._adaptor.reasons, self._adaptor.reasons.vectors[number].clone(), []
        # One at a time: lists belong to items, and a score must not depend on what else is asked.
        with self._shown(number, pair[1]), evaluation_mode(self._model):
            for vector in vectors:
                lists.vectors[number] = vector
                found.append(score_row(self._model, matrix))
            lists.vectors[number] = before
        if not all(map(math.isfinite, found)):
            raise EvaluationError(
                f"the model's score of user {user!r} and item {item!r} is not finite: its training has diverged. Lower "
                "the learning rate."
            )
        return found

    def keep(self, user: Hashable, item: Hashable, reason: str) -> None:
        """Put a reason in the place of the one that the item's list has about an interaction."""
        self._adaptor.reasons.vectors[self._reason(user, item)] = self._vectors("reason", [reason])[0]

    def update(self, user: Hashable, pattern: str) -> None:
        """Put a pattern in the place of a user's.

        Raises
        ------
        EvaluationError
            If the user has none.
        """
        patterns = self._adaptor.users
        row = int(patterns.rows(torch.tensor([self._users[user]], device=patterns.codes.device))[0])
        if row == len(patterns.vectors) - 1:
            raise EvaluationError(f"user {user!r} has no pattern that could be updated. Have one written first.")
        patterns.vectors[row] = self._vectors("pattern", [pattern])[0]

    def _reason(self, user: Hashable, item: Hashable) -> int:
        number = self._number.get((self._users.get(user), self._items.get(item)))
        if number is None:
            raise EvaluationError(
                f"the texts have no reason about user {user!r} and item {item!r}, or it is no training interaction. "
                "Have it written first (sllmr texts --kind reason)."
            )
        return number

    def _vectors(self, kind: str, texts: Sequence[str]) -> Tensor:
        found = directions(encode_finite(self._encoder, texts), self._centre[kind]).astype(np.float32)
        return torch.from_numpy(found).to(self._adaptor.reasons.vectors.device)

    @contextmanager
    def _shown(self, number: int, item: int) -> Iterator[None]:
        """Show a reason to everybody, the user whom it is about included, in the list of its item."""
        lists = self._adaptor.reasons
        owner, row = lists.owner[number].clone(), int(lists.rows(torch.tensor([item], device=lists.owner.device))[0])
        there = lists.lists[row, -1].clone()
        lists.owner[number] = -1
        if not bool((lists.lists[row] == number).any()):
            lists.lists[row, -1] = number
        try:
            yield
        finally:
            lists.owner[number], lists.lists[row, -1] = owner, there
