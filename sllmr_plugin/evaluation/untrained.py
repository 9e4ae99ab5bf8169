"""Rankings that need no training: by popularity, by the content of items, and by both together.

A CTR model that does not beat them is not worth serving, and a gain over a model that does not is no evidence
(Dacrema et al., RecSys 2019, and Rendle et al., RecSys 2020, show how often such baselines are missing).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from ..datasets.interactions import Interactions
from ..errors import EvaluationError
from .pooled import PooledRows, rows_of_ranking
from .ranking import full_ranking, summarize

UNTRAINED = ("popularity", "content", "content+popularity")
POPULARITY_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)
_BLOCK = 256  # users whose similarities to the whole catalogue are held at a time
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
    EvaluationError
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
        self._items = None if texts is None else _item_vectors(data, texts)
        if self._items is not None:
            self._users = _user_vectors(data, self._items)
            self._mean, self._spread = _moments(self._users, self._items)

    def forward(self, rows: Tensor) -> Tensor:
        """Score (n, 2) rows of user and item codes: (n, 1)."""
        pairs = rows.detach().cpu().numpy().astype(np.int64)
        scores = float(self.popularity_weight) * self._popularity[pairs[:, 1]]
        if self._items is not None:
            users, user_of = _distinct(pairs[:, 0], len(self._mean))
            items, item_of = _distinct(pairs[:, 1], len(self._popularity))
            similarity = (self._users[users] @ self._items[items].T).toarray()
            z = (similarity - self._mean[users, None]) / self._spread[users, None]
            scores = scores + z[user_of, item_of]
        return torch.from_numpy(scores.astype(np.float32))[:, None].to(rows.device)


def _distinct(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what `numpy.unique` does of codes below `size`, with their positions in it, without sorting."""
    present = np.zeros(size, dtype=bool)
    present[codes] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[codes]


def _item_vectors(data: Interactions, texts: Sequence[str]) -> sparse.csr_matrix:
    """Return (n_items + 1, n_words) TF-IDF vectors of unit length by code; zeros where there is no text."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(texts) != data.n_items:
        raise EvaluationError(f"{len(texts)} texts for {data.n_items} items. Give one an item, '' where there is none.")
    try:
        vectors = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit_transform(texts)
    except ValueError:  # an empty vocabulary
        raise EvaluationError("the items' texts hold no words to compare. Check them.") from None
    padding = sparse.csr_matrix((1, vectors.shape[1]), dtype=np.float32)
    return sparse.vstack([padding, vectors], format="csr")


def _user_vectors(data: Interactions, items: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return (n_users + 1, n_words) mean vectors of the training positives, of unit length; zeros without any."""
    from sklearn.preprocessing import normalize

    taken = data.train[data.train["label"] == 1]
    pairs = (np.ones(len(taken), dtype=np.float32), (taken["user"].to_numpy(), taken["item"].to_numpy()))
    return normalize(sparse.csr_matrix(pairs, shape=(data.n_users + 1, data.n_items + 1)) @ items)


def _moments(users: sparse.csr_matrix, items: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (1 where it is 0) of each user's similarities to the catalogue, (n_users + 1,) each."""
    mean, spread = (np.zeros(users.shape[0], dtype=np.float32) for _ in range(2))
    for start in range(0, users.shape[0], _BLOCK):
        part = slice(start, start + _BLOCK)
        similarity = (users[part] @ items[1:].T).toarray()
        mean[part], spread[part] = similarity.mean(axis=1), similarity.std(axis=1)
    return mean, np.where(spread > 0, spread, np.float32(1))


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
        summary = summarize(ranking if labelled is None else rows_of_ranking(ranking, data))
        found[name] = {key: float(summary[key]) for key in ("auc", "auc_cold", "auc_tail")}
        if labelled is not None:
            found[name] |= labelled.aucs(labelled.predict(model))
        if name == "content+popularity":
            found[name]["popularity_weight"] = float(model.popularity_weight)
    return found
