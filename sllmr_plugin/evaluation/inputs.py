"""What a comparison was given: interactions, scores and texts, counted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..augmentation import TextTable
from ..datasets.interactions import Interactions
from ..score_table import ScoreTable
from .strata import stratify


def describe_inputs(data: Interactions, scores: ScoreTable, texts: TextTable | None = None) -> dict[str, Any]:
    """Count interactions, scores and texts for the report.

    Parameters
    ----------
    data : Interactions
        What is trained, validated and tested on.
    scores : ScoreTable
        With the codes of `data`.
    texts : TextTable or None, default=None
        LLM-written texts, with the codes of `data`.

    Returns
    -------
    dict
        Plain JSON values. ``interactions``: users, items and interactions by part, cold users, long-tail items.
        ``scores``: the table's `Coverage`, and which users and items have candidates. ``origin``: how the
        scores were made, as far as the table says. ``texts``, where there are some: the table's `TextCoverage`, and
        the ``model`` that wrote them or None.
    """
    strata = stratify(data)
    users, items = scores.candidates.users.numpy(), scores.candidates.items.unique().numpy()
    return {
        "interactions": {
            "users": data.n_users,
            "items": data.n_items,
            "train": len(data.train),
            "validation": len(data.valid),
            "test": len(data.test),
            "cold_users": int(strata.cold.sum()),
            "tail_items": int(strata.tail.sum()),
        },
        "scores": {
            **asdict(scores.coverage),
            "cold_users": int(strata.cold[users].sum()),
            "tail_items": int(strata.tail[items].sum()),
        },
        "origin": scores.origin,
        **({"texts": {**asdict(texts.coverage), "model": texts.origin.get("model")}} if texts is not None else {}),
    }
