"""FuxiCTR's vocabulary as an index, its batches of named tensors as matrices, the rows behind a generator."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ...errors import DataError
from ...training.rows import ArrayRows, Layout, Unlisted

VOCABULARY_FILE = "feature_vocab.json"
_RESERVED = ("__PAD__", "__OOV__")


def fuxictr_index(folder: str | Path, feature: str) -> dict[str | int, int]:
    """Read how FuxiCTR's preprocessing encoded the raw ids of a feature.

    Only the JSON file is read, never ``feature_processor.pkl``: unpickling runs code.

    Parameters
    ----------
    folder : str or Path
        ``feature_map.data_dir``, the folder of the data set with ``feature_map.json``.
    feature : str
        A categorical feature, for instance that of the item id.

    Returns
    -------
    dict
        Raw id -> code, without FuxiCTR's reserved tokens. JSON keeps ids as text, so an id that is a whole
        number stands in it twice, as text and as a number: a score table may hold either.

    Raises
    ------
    DataError
        If the file is missing or is not FuxiCTR's, or lacks the feature.
    """
    path = Path(folder) / VOCABULARY_FILE
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Give the folder that FuxiCTR wrote feature_map.json to.") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Have FuxiCTR build the data set again.") from None
    codes = vocabulary.get(feature) if isinstance(vocabulary, dict) else None
    if not isinstance(codes, dict) or not all(isinstance(code, int) for code in codes.values()):
        raise DataError(
            f"{path} holds no vocabulary of {feature!r}. Name a categorical feature of this data set, or pass a "
            "mapping from raw id to code."
        )
    index: dict[str | int, int] = {}
    for raw, code in codes.items():
        if raw not in _RESERVED:
            index[raw] = code
            if raw.removeprefix("-").isdecimal() and str(int(raw)) == raw:
                index[int(raw)] = code
    return index


_LOOKED_AT = 100_000  # rows from the top, kept to find item-side features with


class StreamedRows:
    """Training rows read in one pass; see `TrainingRows` for what they answer.

    Memory holds 17 bytes a row (two ids and the label), the latest row of each wanted code and the first rows.

    Parameters
    ----------
    pieces : iterable of (numpy.ndarray, numpy.ndarray)
        Input rows (m, width) and labels (m,), in the order of the training data.
    layout : mapping of str to (int, int)
        Feature name -> first column and one past the last.
    wanted : mapping of str to numpy.ndarray
        For the user and the item feature, the (n,) ascending codes whose latest rows will be asked for.
    all_positive : bool, default=False
        As of `ArrayRows`.
    """

    dtype = np.dtype(np.float64)  # holds every id below 2**53

    def __init__(
        self,
        pieces: Iterable[tuple[np.ndarray, np.ndarray]],
        layout: Layout,
        wanted: Mapping[str, np.ndarray],
        all_positive: bool = False,
    ) -> None:
        width = max(end for _, end in layout.values())
        self._latest = {name: _LatestRows(codes, width) for name, codes in wanted.items()}
        ids: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        positive, head, n_head = [np.empty(0, dtype=bool)], [(np.empty((0, width)), np.empty(0))], 0
        moments = _Moments()
        for rows, labels in pieces:
            moments.add(labels)
            rows = np.asarray(rows, dtype=self.dtype)
            positive.append((labels > 0.5) | all_positive)
            for name, latest in self._latest.items():
                codes = rows[:, layout[name][0]].astype(np.int64)
                ids[name].append(codes)
                latest.update(codes, positive[-1], rows)
            if n_head < _LOOKED_AT:
                head.append((rows, labels))
                n_head += len(rows)
        self.positive = np.concatenate(positive)
        self.label_variance = moments.variance
        self._ids = {name: np.concatenate([np.empty(0, dtype=np.int64), *parts]) for name, parts in ids.items()}
        self._head = [np.concatenate(parts) for parts in zip(*head, strict=True)]
        self._layout = layout

    def column(self, name: str) -> np.ndarray:
        """Return the user's or the item's codes, (n_rows,) int64."""
        return self._ids[name]

    def latest_rows(self, name: str, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the template rows of codes among the wanted ones, see `TrainingRows`."""
        latest = self._latest[name]
        slot = np.searchsorted(latest.codes, codes)
        found = latest.found[slot]
        return found, latest.rows[slot[found]]

    def unlisted(self, user: str, item: str, listed: Sequence[str]) -> Unlisted:
        """Say what decides the features in the first rows, see `ArrayRows.unlisted`."""
        rows, labels = self._head
        return ArrayRows([rows], labels, self._layout).unlisted(user, item, listed) if len(rows) else Unlisted()


class _Moments:
    """Variance of numbers that come in pieces (Chan, Golub and LeVeque, 1983)."""

    def __init__(self) -> None:
        self._n, self._mean, self._squares = 0, 0.0, 0.0

    @property
    def variance(self) -> float:
        return self._squares / self._n if self._n else 0.0

    def add(self, values: np.ndarray) -> None:
        n, total = len(values), self._n + len(values)
        if n == 0:
            return
        step = float(np.mean(values, dtype=np.float64)) - self._mean
        self._squares += float(np.var(values, dtype=np.float64)) * n + step**2 * self._n * n / total
        self._mean += step * n / total
        self._n = total


class _LatestRows:
    """The last positive row of each code, else its last row, as pieces come in."""

    def __init__(self, codes: np.ndarray, width: int) -> None:
        self.codes = codes
        self.rows = np.zeros((len(codes), width))
        self.found = np.zeros(len(codes), dtype=bool)
        self._is_positive = np.zeros(len(codes), dtype=bool)

    def update(self, codes: np.ndarray, positive: np.ndarray, rows: np.ndarray) -> None:
        if len(self.codes) == 0:
            return
        slot = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        wanted = self.codes[slot] == codes
        for which in (wanted & ~positive & ~self._is_positive[slot], wanted & positive):
            self.rows[slot[which]] = rows[which]  # the last of repeated assignments stays
        self.found[slot[wanted]] = True
        self._is_positive[slot[wanted & positive]] = True


_WIDTH = {"sequence": "max_len", "embedding": "pretrain_dim"}  # the key of the width of features of several columns
_CODES = ("categorical", "sequence")


def layout_of(feature_map: Any, without: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """Lay out the features that a model is fed side by side: name -> first column and one past the last.

    Meta features (a group id) and labels are not inputs and have no column.
    """
    layout, first = {}, 0
    for name, spec in feature_map.features.items():
        if spec["type"] != "meta" and name not in without:
            end = first + spec.get(_WIDTH.get(spec["type"], ""), 1)
            layout[name] = (first, end)
            first = end
    return layout


def fed_layout(model: Any) -> dict[str, tuple[int, int]]:
    """Lay out the features of a model's batches: all but those that an adaptor fills."""
    augmentation = getattr(model, "augmentation", None)
    return layout_of(model.feature_map, () if augmentation is None else augmentation.names)


def to_rows(batch: Mapping[str, Tensor], layout: Layout, device: torch.device) -> Tensor:
    """Return a batch as (n_rows, width) float64, which holds every id below 2**53."""
    columns = [batch[name].reshape(len(batch[name]), -1).to(torch.float64) for name in layout]
    return torch.cat(columns, dim=1).to(device)


def to_batch(rows: Tensor, layout: Layout, feature_map: Any) -> dict[str, Tensor]:
    """Return rows, (n_rows, width), as the dict that a model's forward takes: codes int64, numbers float32."""
    batch = {}
    for name, (first, end) in layout.items():
        kind = feature_map.features[name]["type"]
        values = rows[:, first:end] if kind in _WIDTH else rows[:, first]
        batch[name] = values.to(torch.int64 if kind in _CODES else torch.float32)
    return batch


class RowScorer(nn.Module):
    """A FuxiCTR model that takes rows, (n_rows, width), and gives probabilities, (n_rows, n_outputs).

    Parameters
    ----------
    model : FuxiCTR model
        Plain or wrapped.

    Attributes
    ----------
    feature_index : dict of str to (int, int)
        Feature name -> first column and one past the last, under the name that DeepCTR-Torch's models have it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.feature_index = fed_layout(model)

    def forward(self, rows: Tensor) -> Tensor:
        """Score rows."""
        output = self.model.forward(to_batch(rows, self.feature_index, self.model.feature_map))
        predicted = [values for name, values in output.items() if name.endswith("_pred")]
        return torch.cat([values.reshape(len(rows), 1) for values in predicted], dim=1)


def with_rows(batch: Mapping[str, Tensor], rows: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Put rows, (n_rows, width), behind a batch, in the types and shapes of the batch."""
    both = {}
    for name, (first, end) in layout.items():
        own = batch[name].to(rows.device)
        both[name] = torch.cat([own, rows[:, first:end].reshape(-1, *own.shape[1:]).to(own.dtype)])
    return both


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
                    f"the training generator gives {part.shape[1]} values per row for {name}, the feature_map says "
                    f"{end - first}. Correct max_len (pretrain_dim) in the feature_map, or build the data again."
                )
        yield np.concatenate(parts, axis=1), np.asarray(columns[label]).reshape(n)


def _columns(generator: Any, feature_map: Any, names: Sequence[str]) -> Iterator[Columns]:
    # Only FuxiCTR's own: a user's subclass may leave out rows of what it loads.
    own = type(generator).__module__.startswith("fuxictr.pytorch.dataloaders")
    array = getattr(getattr(generator, "dataset", None), "darray", None)
    paths = getattr(generator, "data_blocks", getattr(generator, "parquet_files", None))
    if own and array is not None:
        # The loader's own: the model's may have the columns of an adaptor before the label.
        own_map = getattr(generator.dataset, "feature_map", feature_map)
        where = {name: own_map.get_column_index(name) for name in names}
        for start in range(0, len(array), _PIECE):
            piece = array[start : start + _PIECE]
            yield {name: piece[:, index] for name, index in where.items()}
    elif own and paths is not None:
        for path in paths:
            yield from _stored(path, names)
    else:
        yield from _iterated(generator)


def _stored(path: str, names: Sequence[str]) -> Iterator[Columns]:
    """Read a file that FuxiCTR wrote, in either format."""
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
            "the training generator can be read only once, and its rows have to be looked at before they train. Pass "
            "an object whose every iter() starts from the first batch, such as a DataLoader."
        )
    for batch in batches:
        yield {name: np.asarray(values) for name, values in batch.items()}


def _values(column: pa.Array) -> np.ndarray:
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
