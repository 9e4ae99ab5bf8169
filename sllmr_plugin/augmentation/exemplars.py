"""Exemplars of LLM-CF: which of a base of labelled (user, item) pairs a (user, item) retrieves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .exemplar_base import ExemplarBase
from .vectors import TextVectors

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
