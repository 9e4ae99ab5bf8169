"""Cold users, long-tail items, and strata of the user's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..datasets.interactions import Interactions
from ..errors import DataError
from ..regularizer.signals import RegionSignals
from ..scores.ids import encode_ids
from ..scores.reading import read_ids, read_table


@dataclass(frozen=True)
class Strata:
    """Which users are cold and which items are long-tail, by code.

    Attributes
    ----------
    cold : ndarray
        (n_users + 1,) bool: fewer training positives than the threshold. Code 0 is padding: False.
    tail : ndarray
        (n_items + 1,) bool: at most `tail_popularity` training positives. Code 0 is padding: False.
    tail_popularity : int
        The smallest popularity v such that items of popularity <= v make up at least the asked share of the
        catalogue. Ties are all in, so the share of long-tail items can exceed it.
    """

    cold: np.ndarray
    tail: np.ndarray
    tail_popularity: int


def stratify(data: Interactions, *, cold_threshold: int = 3, tail_quantile: float = 0.2) -> Strata:
    """Find the cold users and long-tail items (S-LLMR paper, Sec. 4.5).

    Parameters
    ----------
    data : Interactions
        Only its training positives are counted; items without any are part of the catalogue.
    cold_threshold : int, default=3
        A user with fewer training positives is cold.
    tail_quantile : float, default=0.2
        Share of the catalogue, from its least popular end, that is long-tail.

    Returns
    -------
    Strata
    """
    in_catalogue = torch.arange(data.n_items + 1) > 0
    signals = RegionSignals.from_counts(
        torch.from_numpy(np.asarray(data.history_length)),
        torch.from_numpy(np.asarray(data.popularity)),
        in_catalogue=in_catalogue,
        cold_threshold=cold_threshold,
        tail_quantile=tail_quantile,
    )
    cold = signals.cold.numpy()
    cold[0] = False
    return Strata(cold, signals.tail.numpy(), signals.tail_popularity)


_MOST_LABELS = 20
_UNLABELLED = "(none)"


def read_labels(
    columns: Sequence[str],
    interactions: str | os.PathLike[str] | pd.DataFrame,
    items: str | os.PathLike[str] | pd.DataFrame | None = None,
) -> list[pd.DataFrame]:
    """Find columns in the files that `load_interactions` reads.

    Parameters
    ----------
    columns : sequence of str
        Names. One of the items file labels items; otherwise, one of the interactions labels interactions (so
        also users, if it is the same in all rows of a user).
    interactions, items : path or pandas.DataFrame
        As for `load_interactions`.

    Returns
    -------
    list of DataFrame
        For `label_test`: ``item_id``, or ``user_id`` and ``item_id``, and the labels.

    Raises
    ------
    DataError
        If a column is in neither.
    """
    if not columns:
        return []
    tables = [(read_table(interactions, "interactions"), ["user_id", "item_id"])]
    if items is not None:
        tables.insert(0, (read_table(items, "items"), ["item_id"]))
    frames = []
    for column in columns:
        found = next(((table, keys) for table, keys in tables if column in table.frame), None)
        if found is None:
            raise DataError(
                f"no column {column!r} to take strata from in {' or '.join(table.name for table, _ in tables)}; "
                "add it to one of them"
            )
        table, keys = found
        labels = pd.Series(table.texts(column)).where(table.frame[column].notna())
        frame = pd.DataFrame({**{key: read_ids(table, key) for key in keys}, column: labels})
        if "split" in table.frame:  # a pair that is repeated is labelled by its test row
            frame = frame.iloc[(table.frame["split"] == "test").to_numpy().argsort(kind="stable")]
        frames.append(frame.drop_duplicates(keys, keep="last"))
    return frames


def label_test(data: Interactions, labels: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Label the test interactions.

    Parameters
    ----------
    data : Interactions
        Gives the test interactions.
    labels : sequence of DataFrame
        Each has ``user_id``, ``item_id`` or both, as raw ids (numbers, or the texts that they are written as), and
        columns of labels.

    Returns
    -------
    DataFrame
        ``user_id``, ``item_id`` and each column as text, ``(none)`` where there is no label; a row a test
        interaction, in the order of ``data.test``.

    Raises
    ------
    DataError
        If a frame has no id, labels an id twice, or has a column of more than 20 different labels.
    """
    test = pd.DataFrame(
        {
            "user_id": data.user_ids[data.test["user"].to_numpy() - 1],
            "item_id": data.item_ids[data.test["item"].to_numpy() - 1],
        }
    )
    codes = data.test[["user", "item"]].set_axis(["user_id", "item_id"], axis=1)
    for frame in labels:
        keys = [key for key in ("user_id", "item_id") if key in frame.columns]
        if not keys:
            raise DataError(f"strata need user_id or item_id beside their labels, got {list(frame.columns)}; add one")
        frame = frame.drop_duplicates()
        twice = frame[frame.duplicated(keys)]
        if len(twice):
            raise DataError(f"{twice[keys].iloc[0].to_dict()} has two different labels; keep one row of each")
        indexes = {"user_id": data.user_index, "item_id": data.item_index}
        frame = frame.assign(**{key: encode_ids(frame[key], indexes[key], what=key, written=True) for key in keys})
        labelled = codes.merge(frame, on=keys, how="left")
        for column in frame.columns.difference(keys, sort=False):
            values = labelled[column]
            if values.nunique() > _MOST_LABELS:
                raise DataError(
                    f"the column {column!r} has {values.nunique()} different labels among the test interactions, more "
                    f"than {_MOST_LABELS}; group its values (numbers into ranges) and name that column"
                )
            test[column] = values.astype(object).where(values.notna(), _UNLABELLED).astype(str)
    return test
