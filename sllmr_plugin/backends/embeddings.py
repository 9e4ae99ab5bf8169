"""A model's embedding tables, and which of their rows something is known of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import VectorsError
from ..knowledge.id_vectors import IdVectors
from ..scores.ids import IdIndex
from .base import backend_of


def tables_of(model: nn.Module, feature: str) -> dict[str, nn.Embedding]:
    """Return a feature's embeddings by parameter name, but those of one number a row, the linear part's.

    Raises
    ------
    VectorsError
        If there is none.
    """
    backend = backend_of(model)
    assert backend is not None
    modules = {id(module.weight): module for module in backend.embeddings(model, feature) if module.embedding_dim > 1}
    found = {name: modules[id(value)] for name, value in model.named_parameters() if id(value) in modules}
    if not found:
        raise VectorsError(
            f"the model has no embedding table of {feature!r} (a linear model, or the name of a feature that is none "
            "of its own). Name the feature that carries the id, of a model with embeddings."
        )
    return found


def known_rows(
    vectors: IdVectors, index: IdIndex | None, n_rows: int, what: str, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return codes below `n_rows`, ascending, and their vectors: (k,) and (k, d).

    Raises
    ------
    VectorsError
        If no id is known to the model.
    """
    codes, matrix = vectors.by_code(index, n_rows, what=what)
    if len(codes) == 0:
        first = vectors.ids.iloc[0]
        raise VectorsError(
            f"{source}: none of the {len(vectors)} {what} is known to the model (the first is {first!r}). Pass "
            f"{what[:-1]}_index=, which says what code each raw id has."
        )
    return codes, matrix


def training_codes(x: Mapping[str, Any], y: Any, feature: str, n_codes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a feature's codes of all training rows, below `n_codes` if given, and which are positive: (n,) both.

    Raises
    ------
    VectorsError
        If columns are of different lengths, or a code is not one of the embedding's.
    """
    positive = np.asarray(y).reshape(-1) > 0
    codes = np.asarray(x[feature]).reshape(-1).astype(np.int64)
    if len(codes) != len(positive):
        raise VectorsError(f"x[{feature!r}] has {len(codes)} rows and y {len(positive)}. Give one label a row.")
    if n_codes is None:
        return codes, positive
    outside = np.flatnonzero((codes < 0) | (codes >= n_codes))
    if len(outside):
        raise VectorsError(
            f"x[{feature!r}] has the code {codes[outside[0]]} in row {outside[0]} (counted from 0), and the embedding "
            f"rows 0 to {n_codes - 1}. Pass the codes that the model is fed."
        )
    return codes, positive


def fill(table: Tensor, codes: np.ndarray, rows: np.ndarray) -> None:
    """Write rows into the first columns of a table; the others, and other rows, keep their values."""
    with torch.no_grad():
        where = torch.from_numpy(codes).to(table.device)
        table[where, : rows.shape[1]] = torch.from_numpy(rows).to(table.device, table.dtype)


class KnownIds(nn.Module):
    """Ids of a feature that there is something known of, a row of numbers each. Nothing of it is in a ``state_dict``.

    Parameters
    ----------
    feature : str
        Whose ids.
    codes : numpy.ndarray
        (k,) ascending.
    values : numpy.ndarray
        (k, width) what is known of them.
    n_codes : int
        Codes of the feature.
    """

    row_of_code: Tensor
    codes: Tensor
    values: Tensor

    def __init__(self, feature: str, codes: np.ndarray, values: np.ndarray, n_codes: int) -> None:
        super().__init__()
        self.feature = feature
        row_of_code = torch.full((n_codes,), -1)
        row_of_code[torch.from_numpy(codes)] = torch.arange(len(codes))
        self.register_buffer("row_of_code", row_of_code, persistent=False)
        self.register_buffer("codes", torch.from_numpy(codes), persistent=False)
        self.register_buffer("values", torch.from_numpy(values.astype(np.float32)), persistent=False)

    def rows(self, codes: Tensor) -> Tensor:
        """Return the distinct rows of `values` that (n,) codes have, ascending."""
        rows = self.row_of_code[codes]
        return rows[rows >= 0].unique()

    def look_up(self, rows: Tensor, table: nn.Embedding, lookups: StepLookups | None = None) -> Tensor:
        """Return what an embedding holds for the ids in (n,) rows of `values`: (n, d), attached to the graph.

        Where a step's forward pass has looked them all up, its `lookups` give them.
        """
        codes = self.codes[rows]
        found = None if lookups is None else lookups.find(codes, table)
        return F.embedding(codes, table.weight, table.padding_idx, sparse=table.sparse) if found is None else found


class StepLookups:
    """What a training step's forward pass has looked up in embeddings, for losses of the same ids.

    A look-up of one's own would add a second gradient of the table's size, which is filled and added up in every step:
    with DeepFM's tables of 34,000 rows of 64 numbers, a third of what an alignment costs.

    Parameters
    ----------
    tables : sequence of torch.nn.Embedding
        Whose outputs are kept.
    """

    def __init__(self, tables: Sequence[nn.Embedding]) -> None:
        self._tables = list({id(table): table for table in tables}.values())
        self._most = 0
        self._calls: dict[int, list[tuple[Tensor, Tensor, int]]] = {}

    def clear(self, most: int = 0) -> None:
        """Forget the outputs so far; from now on keep those for at most so many ids, which leaves histories out."""
        self._most = most
        self._calls = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what the tables give while this is active."""
        with ExitStack() as stack:
            for table in self._tables:
                stack.callback(table.register_forward_hook(self._keep).remove)
            yield

    def _keep(self, table: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad and 0 < args[0].numel() <= self._most:
            self._calls.setdefault(id(table), []).append((args[0], output, output._version))

    def find(self, codes: Tensor, table: nn.Embedding) -> Tensor | None:
        """Return what a table gave for (n,) codes, (n, d); None where it was not asked for one of them.

        Nor is there anything where a model has written over an output since.
        """
        calls = self._calls.get(id(table), ())
        if not calls or any(output._version != version for _, output, version in calls):
            return None
        asked = torch.cat([ids.reshape(-1) for ids, _, _ in calls])
        place = asked.new_full((table.num_embeddings,), -1)
        place[asked] = torch.arange(len(asked), device=asked.device)
        wanted = place[codes]
        if bool((wanted < 0).any()):
            return None
        return torch.cat([output.reshape(-1, table.embedding_dim) for _, output, _ in calls])[wanted]
