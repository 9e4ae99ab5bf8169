"""The rows behind a FuxiCTR data generator, read once at the start of `fit` without a trace in it.

FuxiCTR's own generators are read from what they load, in stored order: the array that the data set of some holds, the
files that others name, a block at a time. Which loader does what differs between the release on the package index and
the repository, so it is the attribute that tells, not the class or the version. A plain torch `DataLoader` over a
map-style data set is read by a second one that does not shuffle. Anything else is iterated once, in the order that it
chooses.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset

from ..errors import DataError
from ..item_rows import Layout

_PIECE = 65_536
Columns = Mapping[str, np.ndarray]


def training_pieces(
    generator: Any, feature_map: Any, layout: Layout, label: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield input rows (m, width) and labels (m,) of a generator.

    Raises
    ------
    DataError
        If the generator can be read only once, or its batches lack a feature or hold it in another width.
    """
    for columns in _columns(generator, feature_map, [*layout, label]):
        lacking = [name for name in (*layout, label) if name not in columns]
        if lacking:
            raise DataError(
                f"the batches of the training generator lack {', '.join(lacking)}. Give a generator over the model's "
                "feature_map, with every feature under its own name."
            )
        n = len(columns[label])
        parts = [np.asarray(columns[name]).reshape(n, -1) for name in layout]
        for (name, (first, end)), part in zip(layout.items(), parts, strict=True):
            if part.shape[1] != end - first:
                raise DataError(
                    f"the training generator gives {part.shape[1]} values a row for {name}, the feature_map says "
                    f"{end - first}. Correct max_len (pretrain_dim) in the feature_map, or build the data anew."
                )
        yield np.concatenate(parts, axis=1), np.asarray(columns[label]).reshape(n)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the global random numbers of torch, numpy and Python as they were, so that batches come as without us."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (the library's own draws use it)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _columns(generator: Any, feature_map: Any, names: Sequence[str]) -> Iterator[Columns]:
    # Only FuxiCTR's own: a user's subclass may leave out rows of what it loads.
    own = type(generator).__module__.startswith("fuxictr.pytorch.dataloaders")
    array = getattr(getattr(generator, "dataset", None), "darray", None)
    paths = getattr(generator, "data_blocks", getattr(generator, "parquet_files", None))
    if own and array is not None:
        where = {name: feature_map.get_column_index(name) for name in names}
        for start in range(0, len(array), _PIECE):
            piece = array[start : start + _PIECE]
            yield {name: piece[:, index] for name, index in where.items()}
    elif own and paths is not None:
        for path in paths:
            yield from _stored(path, names)
    else:
        yield from _iterated(generator)


def _stored(path: str, names: Sequence[str]) -> Iterator[Columns]:
    """Read a file of FuxiCTR's, of either format."""
    if str(path).endswith(".npz"):
        with np.load(path) as block:
            yield {name: block[name] for name in names}
    else:
        for batch in pq.ParquetFile(path).iter_batches(_PIECE, columns=list(names)):
            yield {name: _values(batch.column(name)) for name in names}


def _iterated(generator: Any) -> Iterator[Columns]:
    if type(generator) is DataLoader and generator.batch_size and not isinstance(generator.dataset, IterableDataset):
        generator = DataLoader(generator.dataset, generator.batch_size, collate_fn=generator.collate_fn)
    batches = iter(generator)
    if batches is generator:
        raise DataError(
            "the training generator can be read only once, and the regularizer has to look at the rows before they "
            "train. Pass an object whose every iter() starts from the first batch, such as a DataLoader."
        )
    for batch in batches:
        yield {name: np.asarray(values) for name, values in batch.items()}


def _values(column: pa.Array) -> np.ndarray:
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
