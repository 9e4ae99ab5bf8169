"""The bundled demo data: invented items, simulated users, *simulated* LLM scores and texts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .interactions import Interactions, load_interactions


class DemoPaths(NamedTuple):
    """Where the bundled files are.

    Parameters
    ----------
    interactions : pathlib.Path
        Gzipped CSV, ``user_id, item_id, position, split``.
    items : pathlib.Path
        CSV, ``item_id, title, category``.
    scores : pathlib.Path
        Parquet, the *simulated* LLM scores: ``user_id, item_id, score, kind``.
    """

    interactions: Path
    items: Path
    scores: Path

    @property
    def texts(self) -> Path:
        """Parquet, the *simulated* LLM texts: of all users and items, and reasoning about 2,000 exemplars."""
        return self.scores.with_name("llm_texts.parquet")


def demo_paths() -> DemoPaths:
    """Return the paths of the bundled files, for anything that reads files.

    Returns
    -------
    DemoPaths
        The paths; that of the texts is an attribute.
    """
    folder = Path(__file__).parent / "demo_data"
    return DemoPaths(folder / "interactions.csv.gz", folder / "items.csv", folder / "llm_scores.parquet")


def load_demo() -> tuple[Interactions, pd.DataFrame]:
    """Load the bundled demo data.

    Returns
    -------
    data : Interactions
        2,000 users (800 cold), 400 items and 12,317 interactions.
    scores : pandas.DataFrame
        *Simulated* LLM scores (no language model was asked): raw ``user_id`` and ``item_id``, ``score`` from
        0 to 1, and ``kind``: "candidate", 20 for each of 700 users, or "probe", the validation item of 250.

    Examples
    --------
    >>> data, scores = load_demo()
    >>> data.n_users, data.n_items, len(scores)
    (2000, 400, 14250)
    """
    paths = demo_paths()
    return load_interactions(paths.interactions, paths.items), pd.read_parquet(paths.scores)
