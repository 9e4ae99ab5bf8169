"""Vectors as a ledger keeps them: a line a vector, its place in the question and its numbers in base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import AnswerError

_NUMBER = np.dtype("<f4")  # what servers send as base64: float32, the least significant byte first
_NONE = "-"


def packed(data: Sequence[Any]) -> str:
    r"""Write down what a server has sent, vectors or not, so that `unpacked` can say what is wrong with it.

    Base64 of float32 needs 5.3 characters a number, JSON 11 or more for the same 32 bits. As a text it fits the ledger
    as it is, so that a vector is committed together with its price and the end of its request; a file of arrays beside
    the ledger could be one commit behind it after a kill.

    Parameters
    ----------
    data : sequence
        ``{"index": i, "embedding": numbers or base64}`` each, as of OpenAI's list of embeddings; without an index, it
        is the place in the list.

    Examples
    --------
    >>> packed([{"index": 1, "embedding": [0.5, 2]}, {"index": 0, "embedding": None}])
    '1 AAAAPwAAAEA=\n0 -'
    """
    return "\n".join(f"{_index(entry, place)} {_written(entry)}" for place, entry in enumerate(data))


def unpacked(text: str, n_texts: int, dimensions: int | None = None) -> np.ndarray:
    """Read what `packed` has written.

    Parameters
    ----------
    text : str
    n_texts : int
        How many vectors were asked for.
    dimensions : int, optional
        How many numbers each must have; by default as many as the first.

    Returns
    -------
    numpy.ndarray
        (n_texts, d) float32, in the order of the texts.

    Raises
    ------
    AnswerError
        If a vector is missing, comes twice, is of another length, or is not finite and different from 0.
    """
    found: dict[int, np.ndarray] = {}
    for line in text.splitlines():
        index, _, numbers = line.partition(" ")
        if numbers == _NONE:
            raise AnswerError(f"the vector of text {index} is none.")
        vector = np.frombuffer(base64.b64decode(numbers), dtype=_NUMBER)
        if int(index) in found or int(index) >= n_texts:
            raise AnswerError(f"the vector of text {index}, counted from 0 to {n_texts - 1}, was not asked for once.")
        found[int(index)] = vector
        wanted = dimensions or len(next(iter(found.values())))
        if len(vector) != wanted:
            raise AnswerError(f"the vector of text {index} has {len(vector)} numbers in place of {wanted}.")
        if not np.isfinite(vector).all() or not vector.any():
            raise AnswerError(f"the vector of text {index} is zero or not finite.")
    if len(found) < n_texts:
        missing = next(index for index in range(n_texts) if index not in found)
        raise AnswerError(f"there are {len(found)} vectors of {n_texts} texts; that of text {missing} is missing.")
    return np.stack([found[index] for index in range(n_texts)])


def _index(entry: Any, place: int) -> int:
    index = entry.get("index") if isinstance(entry, Mapping) else None
    return index if isinstance(index, int) and index >= 0 else place


def _written(entry: Any) -> str:
    """Return a vector in base64; `_NONE` where it is not one, since what else is sent may be anything."""
    numbers = entry.get("embedding") if isinstance(entry, Mapping) else None
    try:
        if isinstance(numbers, str):
            sent = base64.b64decode(numbers, validate=True)
            return numbers if sent and len(sent) % _NUMBER.itemsize == 0 else _NONE
        vector = np.asarray(numbers, dtype=np.float64).astype(_NUMBER)
    except (binascii.Error, TypeError, ValueError):
        return _NONE
    return base64.b64encode(vector.tobytes()).decode() if vector.ndim == 1 and vector.size else _NONE
