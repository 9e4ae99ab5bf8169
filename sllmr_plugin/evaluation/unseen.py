"""Test interactions with items that training has not seen, ranked among such items alone (zero-shot)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ..backends.base import row_model
from ..datasets.interactions import Interactions
from .model_scores import ItemSide, check_finite, default_rows_per_block, evaluation_mode, score_items, template_matrix

TOP = 20  # of recall, as RecLM reports it


def rank_unseen(model: Any, data: Interactions, users: np.ndarray | None = None) -> pd.DataFrame:
    """Rank the test interactions with unseen items among the unseen items alone.

    Unseen is an item without a training interaction of label 1; so an id-based model knows nothing of it, and its rank
    among such items is what texts are worth (RecLM, Jiang et al., arXiv:2412.19302, Sec. 6.3, zero-shot setting).

    Parameters
    ----------
    model : BaseModel
        As of `sllmr_plugin.evaluation.ranking.full_ranking`.
    data : Interactions
        The interactions that the model's ids are codes of.
    users : ndarray of int or None, default=None
        Codes of the users whose interactions are ranked; None ranks those of all.

    Returns
    -------
    DataFrame
        A row a test interaction with an unseen item: ``user``, ``item`` (codes); ``above``, ``tied``, ``negatives``
        (int64): unseen items, without those that the user has in validation and test, that score higher, the same, and
        all of them; ``auc`` (float64, NaN where there are none).

    Raises
    ------
    EvaluationError
        If the model gives a score that is not finite, or more than one score a row.
    """
    model = row_model(model)
    unseen = np.flatnonzero(data.popularity[1:] == 0) + 1
    asked = data.test[np.isin(data.test["item"], unseen)].sort_values("user", kind="stable")
    if users is not None:
        asked = asked[np.isin(asked["user"], users)]
    user, item = asked["user"].to_numpy(), asked["item"].to_numpy()
    counts = np.zeros((len(asked), 3), dtype=np.int64)
    own = pd.concat([data.valid, data.test])
    own = own[np.isin(own["item"], unseen)].groupby("user")["item"].apply(np.array)
    with evaluation_mode(model):
        side, codes = ItemSide.of(model, data), np.unique(user)
        templates = template_matrix(model, data, codes, "test")
        items = torch.from_numpy(unseen).to(templates.device)[None]
        block = default_rows_per_block(model, templates)
        for code, template in zip(codes, templates.split(1), strict=True):
            scores = score_items(model, template, items, side, block)
            check_finite(scores, data.user_ids[[code - 1]].to_numpy())
            found = scores[0].cpu().numpy()
            rivals = found[~np.isin(unseen, own[code])]
            rows = user == code
            score = found[np.searchsorted(unseen, item[rows])][:, None]
            counts[rows] = np.stack(
                [(rivals > score).sum(1), (rivals == score).sum(1), np.full(len(score), len(rivals))], axis=1
            )
    above, tied, negatives = counts.T
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        auc = (negatives - above - tied / 2) / negatives
    return pd.DataFrame({"user": user, "item": item, "above": above, "tied": tied, "negatives": negatives, "auc": auc})


def unseen_metrics(model: Any, data: Interactions, ranking: pd.DataFrame) -> dict[str, float]:
    """Return the figures of unseen items; none where no test interaction is with one.

    Parameters
    ----------
    model : BaseModel
        Trained.
    data : Interactions
        Gives the popularity of items.
    ranking : DataFrame
        As `full_ranking` returns it.

    Returns
    -------
    dict of str to float
        ``auc_unseen``: mean AUC of their interactions in `ranking`; ``auc_among_unseen``, ``recall@20_among_unseen``:
        of `rank_unseen`, ties counting as half above. ``n_unseen``: how many interactions these are.
    """
    of_unseen = ranking[data.popularity[ranking["item"].to_numpy()] == 0]
    if of_unseen.empty:
        return {}
    among = rank_unseen(model, data, of_unseen["user"].unique())
    among = among[among["negatives"] > 0]
    return {
        "auc_unseen": float(of_unseen["auc"].mean()),
        "auc_among_unseen": float(among["auc"].mean()),
        f"recall@{TOP}_among_unseen": float((among["above"] + among["tied"] / 2 < TOP).mean()),
        "n_unseen": float(len(of_unseen)),
    }
