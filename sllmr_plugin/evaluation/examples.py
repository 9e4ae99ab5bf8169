"""A few users as examples: what they took, and what a model would show them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..backends.base import row_model
from ..datasets.interactions import Interactions
from .model_scores import ItemSide, default_rows_per_block, evaluation_mode, score_items, template_matrix
from .strata import Strata

USERS, SHOWN, HISTORY = 4, 5, 10
MOST_ITEMS = 50_000  # of a catalogue: all of it is scored for every example and run


def draw_examples(data: Interactions, strata: Strata, *, seed: int = 0) -> np.ndarray:
    """Draw users with a test interaction, half of them cold where there are some; whatever a model makes of them.

    Returns
    -------
    ndarray
        (n,) codes, at most four, ascending; none in a catalogue of more than `MOST_ITEMS` items.
    """
    if data.n_items > MOST_ITEMS:
        return np.zeros(0, dtype=np.int64)
    rng, users = np.random.default_rng([seed, 2]), np.unique(data.test["user"].to_numpy())
    cold, warm = users[strata.cold[users]], users[~strata.cold[users]]
    n_cold = max(min(len(cold), USERS // 2), min(len(cold), USERS - len(warm)))
    n_warm = min(len(warm), USERS - n_cold)
    return np.sort(np.concatenate([rng.choice(cold, n_cold, replace=False), rng.choice(warm, n_warm, replace=False)]))


def describe_examples(data: Interactions, users: np.ndarray, strata: Strata) -> list[dict[str, Any]]:
    """Say who the examples are, as plain JSON values.

    Returns
    -------
    list of dict
        ``user`` (id as text), ``cold``, ``history`` (names of the last ten items taken before the test, oldest first)
        and ``held_out``, the name of the first test item.
    """
    names, found = _names(data), []
    for user in users:
        parts = [data.train[data.train["label"] == 1], data.valid]
        taken = [item for part in parts for item in part.loc[part["user"] == user, "item"]]
        found.append(
            {
                "user": str(data.user_ids[user - 1]),
                "cold": bool(strata.cold[user]),
                "history": [names[item] for item in taken[-HISTORY:]],
                "held_out": names[_held_out(data, user)],
            }
        )
    return found


def rank_examples(model: Any, data: Interactions, users: np.ndarray) -> list[dict[str, Any]]:
    """Rank the whole catalogue for the examples.

    Parameters
    ----------
    model : BaseModel
        As of `full_ranking`.
    data : Interactions
        As of the model.
    users : ndarray
        (n,) codes, as `draw_examples` returns them.

    Returns
    -------
    list of dict
        By user: ``top``, names of the five items of highest score among those that the user has not taken, and
        ``rank`` of the first test item among them, counted from 1 (items of the same score come before it), of ``of``
        items.
    """
    model = row_model(model)
    found: list[dict[str, Any]] = []
    if len(users) == 0:
        return found
    names = _names(data)
    templates = template_matrix(model, data, users, "test")
    catalogue = torch.arange(1, data.n_items + 1, device=templates.device)[None]
    block = default_rows_per_block(model, templates)
    with evaluation_mode(model):
        scores = score_items(model, templates, catalogue, ItemSide.of(model, data), block).cpu().numpy()
    seen = [data.train[data.train["label"] == 1], data.valid, data.test]
    for user, own in zip(users, scores, strict=True):
        item = _held_out(data, user)
        hidden = np.zeros(data.n_items + 1, dtype=bool)
        for part in seen:
            hidden[part.loc[part["user"] == user, "item"]] = True
        hidden[item] = False
        rivals = np.where(hidden[1:], -np.inf, own)
        order = np.argsort(-rivals, kind="stable")[:SHOWN] + 1
        found.append(
            {
                "top": [names[code] for code in order if not hidden[code]],
                "rank": int((rivals >= own[item - 1]).sum()),
                "of": int((~hidden[1:]).sum()),
            }
        )
    return found


def _held_out(data: Interactions, user: int) -> int:
    return int(data.test.loc[data.test["user"] == user, "item"].iloc[0])


def _names(data: Interactions) -> list[str]:
    """Return what items are called, by code: their titles, their ids where they have none."""
    titles = [""] * data.n_items if data.titles is None else data.titles.reindex(range(1, data.n_items + 1)).fillna("")
    return ["", *(str(title).strip() or str(own) for title, own in zip(titles, data.item_ids, strict=True))]
