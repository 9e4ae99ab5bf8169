"""Rankings that need no training: by popularity, by the content of items, and by both together.

A CTR model that does not beat them is not worth serving, and a gain over a model that does not is no evidence
(Dacrema et al., RecSys 2019, and Rendle et al., RecSys 2020, show how often such baselines are missing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..datasets.content import POPULARITY_WEIGHTS, Content
from ..datasets.interactions import Interactions
from ..knowledge import TextTable
from ..knowledge.id_vectors import Vectors
from ..scores.ids import encode_ids
from .pooled import PooledRows, rows_of_ranking
from .ranking import full_ranking, summarize

UNTRAINED = ("popularity", "content", "content+popularity")
ROWS_PER_BLOCK = 2**19  # of a ranking: a sparse product has a fixed cost per call, unlike a CTR model's forward pass


class UntrainedModel(nn.Module):
    """Scores a user and an item by content, popularity or both, without a trained parameter.

    ``z + w log(1 + popularity)``, where z is the cosine of the TF-IDF vector of the item's text and the mean vector
    of the user's training items, in standard deviations over the catalogue from the user's mean. It is called with
    rows as DeepCTR-Torch's models are, so `full_ranking` takes it.

    Parameters
    ----------
    data : Interactions
        Gives popularity and the users' training positives.
    texts : sequence of str, optional
        (n_items,) text of each item in the order of the codes, "" where there is none. Without texts, z is 0.
    popularity_weight : float, default=1.0
        w. 0 ranks by content alone.

    Raises
    ------
    DataError
        If there are not as many texts as items, or no word in any of them.

    Notes
    -----
    A user without training positives, or none with a text, has z = 0 everywhere: all items tie but for popularity.
    """

    def __init__(
        self, data: Interactions, texts: Sequence[str] | None = None, *, popularity_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.feature_index = {"user_id": (0, 1), "item_id": (1, 2)}
        # A ranking asks a model for its device through its parameters.
        self.popularity_weight = nn.Parameter(torch.tensor(float(popularity_weight)), requires_grad=False)
        self._popularity = np.log1p(data.popularity).astype(np.float32)
        self._content = None if texts is None else Content.of(data, texts)
        if self._content is not None:
            self._mean, self._spread = self._content.moments()

    def forward(self, rows: Tensor) -> Tensor:
        """Score (n, 2) rows of user and item codes: (n, 1)."""
        pairs = rows.detach().cpu().numpy().astype(np.int64)
        scores = float(self.popularity_weight) * self._popularity[pairs[:, 1]]
        if self._content is not None:
            users, user_of = _distinct(pairs[:, 0], len(self._mean))
            items, item_of = _distinct(pairs[:, 1], len(self._popularity))
            similarity = (self._content.users[users] @ self._content.items[items].T).toarray()
            z = (similarity - self._mean[users, None]) / self._spread[users, None]
            scores = scores + z[user_of, item_of]
        return torch.from_numpy(scores.astype(np.float32))[:, None].to(rows.device)


def _distinct(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what `numpy.unique` does of codes below `size`, with their positions in it, without sorting."""
    present = np.zeros(size, dtype=bool)
    present[codes] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[codes]


def item_texts(data: Interactions, texts: TextTable | None = None, vectors: Vectors | None = None) -> list[str] | None:
    """Return title and text of each item, by code from 1; None where there are neither.

    Parameters
    ----------
    data : Interactions
        Has the titles.
    texts : TextTable or None, default=None
        LLM-written texts, with the codes of `data`, put behind the titles.
    vectors : Vectors or None, default=None
        What models start from. Where `texts` has none of items, the texts that these were made of are taken, so that
        what needs no training reads what the models read.
    """
    codes = range(1, data.n_items + 1)
    if texts is not None and texts.items.empty:
        texts = None
    if texts is None and vectors is not None and vectors.texts is not None:
        ids = vectors.items.ids
        coded = encode_ids(ids, data.item_index, what="items", written=vectors.items.written)
        inside = coded > 0
        of_item = pd.Series(np.array(vectors.texts, dtype=object)[inside], index=coded[inside])
        titles = pd.Series("", index=codes) if data.titles is None else data.titles.reindex(codes, fill_value="")
        return list(of_item.reindex(codes).fillna(titles))
    if data.titles is None and texts is None:
        return None
    found = pd.Series("", index=codes)
    if data.titles is not None:
        found = data.titles.reindex(codes, fill_value="")
    if texts is not None:
        found = found + " " + texts.items.reindex(codes, fill_value="")
    return list(found)


def choose_popularity_weight(
    data: Interactions, texts: Sequence[str], *, users: int | None = None, n_items: int | None = None
) -> float:
    """Choose w of ``content+popularity`` among `POPULARITY_WEIGHTS` by the AUC on validation; of equals, the least.

    Parameters
    ----------
    data : Interactions
        Its validation interactions are ranked, and no test interaction is looked at.
    texts : sequence of str
        (n_items,) text of each item.
    users, n_items : int, optional
        As of `full_ranking`.
    """
    model = UntrainedModel(data, texts)
    aucs = []
    for weight in POPULARITY_WEIGHTS:
        model.popularity_weight.fill_(weight)
        ranking = full_ranking(
            model, data, "valid", users=users, n_items=n_items, rows_per_block=ROWS_PER_BLOCK, verbose=False
        )
        aucs.append(ranking["auc"].mean())
    return POPULARITY_WEIGHTS[int(np.nanargmax(aucs))]


def untrained_models(
    data: Interactions,
    texts: Sequence[str] | None,
    *,
    users: int | None = None,
    n_items: int | None = None,
    popularity_weight: float | None = None,
) -> dict[str, UntrainedModel]:
    """Return what needs no training, by name: `UNTRAINED`, or ``popularity`` alone where items have no texts.

    Parameters
    ----------
    data : Interactions
        Training counts; validation to choose w.
    texts : sequence of str or None
        (n_items,) text of each item.
    users, n_items : int, optional
        Of the validation ranking, as of `full_ranking`.
    popularity_weight : float, optional
        w of ``content+popularity``; default: what `choose_popularity_weight` chooses.
    """
    models = {"popularity": UntrainedModel(data)}
    if texts is not None and any(text.strip() for text in texts):
        weight = popularity_weight
        if weight is None:
            weight = choose_popularity_weight(data, texts, users=users, n_items=n_items)
        models["content"] = UntrainedModel(data, texts, popularity_weight=0)
        models["content+popularity"] = UntrainedModel(data, texts, popularity_weight=weight)
    return models


def rank_untrained(
    data: Interactions,
    texts: Sequence[str] | None,
    *,
    test_users: int | None = None,
    test_items: int | None = None,
    valid_users: int | None = None,
    valid_items: int | None = None,
    labelled: PooledRows | None = None,
    inspect: Callable[[str, pd.DataFrame], None] = lambda name, ranking: None,
) -> dict[str, dict[str, float]]:
    """Rank the test interactions with what needs no training.

    Parameters
    ----------
    data : Interactions
        As of a comparison.
    texts : sequence of str or None
        (n_items,) text of each item; None leaves content out.
    test_users, test_items, valid_users, valid_items : int, optional
        As of `RunSettings`.
    labelled : PooledRows, optional
        The test rows of the protocol ``llm-cf``, whose strata then hold.
    inspect : callable, optional
        Called with each name and its ranking of the test interactions, as `full_ranking` returns it.

    Returns
    -------
    dict of str to dict of str to float
        A name of `UNTRAINED` -> ``auc``, ``auc_cold`` and ``auc_tail``, with labelled rows also the names of `POOLED`,
        and ``popularity_weight`` where it was chosen.
    """
    found: dict[str, dict[str, float]] = {}
    for name, model in untrained_models(data, texts, users=valid_users, n_items=valid_items).items():
        ranking = full_ranking(
            model, data, "test", users=test_users, n_items=test_items, rows_per_block=ROWS_PER_BLOCK, verbose=False
        )
        if labelled is not None:
            ranking = rows_of_ranking(ranking, data)
        inspect(name, ranking)
        summary = summarize(ranking)
        found[name] = {key: float(summary[key]) for key in ("auc", "auc_cold", "auc_tail")}
        if labelled is not None:
            found[name] |= labelled.aucs(labelled.predict(model))
        if name == "content+popularity":
            found[name]["popularity_weight"] = float(model.popularity_weight)
    return found
