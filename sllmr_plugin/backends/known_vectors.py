"""Directions of a model's items and users by code: of items their vectors, of users their own or those they took."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import VectorsError
from ..knowledge.id_vectors import Vectors
from ..knowledge.vectors import directions
from ..scores.ids import IdIndex
from .base import backend_of
from .embeddings import known_rows, tables_of

USERS = ("auto", "vectors", "history")
"""Where directions of users come from."""

Known = tuple[np.ndarray, np.ndarray]
"""(k,) codes, ascending, and (k, d) float64 directions from the items' mean, each of root mean square 1."""

Taken = Callable[[], tuple[np.ndarray, np.ndarray]]
"""Gives (n,) user codes and (n,) item codes of the training positives."""


def n_codes(model: Any, feature: str) -> int:
    """Return the rows of a feature's embedding tables, of several the fewest."""
    return min(table.num_embeddings for table in tables_of(model, feature).values())


def _index(model: Any, feature: str, index: IdIndex | None) -> IdIndex | None:
    backend = backend_of(model)
    assert backend is not None
    return backend.id_index(model, feature) if index is None else index


def known_items(model: Any, read: Vectors, item: str, index: IdIndex | None) -> Known:
    """Return the directions of a model's items; raises as `known_rows`."""
    codes, matrix = known_rows(read.items, _index(model, item, index), n_codes(model, item), "items", read.source)
    return codes, directions(matrix, read.items.matrix.mean(axis=0, dtype=np.float64))


def users_from(users: str, read: Vectors, has_history: bool) -> str:
    """Return where directions of users come from: ``vectors`` or ``history``.

    Raises
    ------
    VectorsError
        If they should come from where nothing is.
    """
    if users not in USERS:
        raise VectorsError(f"users={users!r} must be one of {', '.join(map(repr, USERS))}.")
    if users == "auto":
        users = "vectors" if read.users is not None else "history"
    if users == "vectors" and read.users is None:
        raise VectorsError(f"users='vectors', and {read.source} has none of users. Use users='history' with x and y.")
    if users == "history" and not has_history:
        raise VectorsError(
            f"{read.source} has no vectors of users, or users='history' is asked for, which needs x and y: the id "
            "columns and the labels of the training rows. Give these, or profiles of users."
        )
    return users


def known_users(
    model: Any, read: Vectors, user: str, index: IdIndex | None, users: str, items: Known, taken: Taken
) -> Known:
    """Return the directions of a model's users.

    Parameters
    ----------
    model : deepctr_torch or fuxictr.pytorch model
    read : Vectors
    user : str
        The feature that carries the id.
    index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Raw id -> code.
    users : {"vectors", "history"}
        As `users_from` returns it.
    items : tuple of numpy.ndarray
        Of `known_items`.
    taken : callable
        Asked for ``history`` alone.

    Raises
    ------
    VectorsError
        If no user is known.
    """
    size = n_codes(model, user)
    if users == "vectors":
        assert read.users is not None
        codes, matrix = known_rows(read.users, _index(model, user, index), size, "users", read.source)
        return codes, directions(matrix, read.items.matrix.mean(axis=0, dtype=np.float64))
    owners, took = taken()
    place = np.searchsorted(items[0], took).clip(max=len(items[0]) - 1)
    known = items[0][place] == took
    sums = np.zeros((size, items[1].shape[1]))
    np.add.at(sums, owners[known], items[1][place[known]])
    codes = np.unique(owners[known])
    if len(codes) == 0:
        raise VectorsError(
            f"no user has taken an item with a vector of {read.source} in training. Check that x has the codes of the "
            "model and y the labels."
        )
    return codes, directions(sums[codes], 0.0)
