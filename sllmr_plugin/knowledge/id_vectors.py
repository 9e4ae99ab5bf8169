"""`Vectors`: what is known of items and users before training, a vector by raw id, from texts or your own files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from ..errors import VectorsError
from ..scores.ids import IdIndex, encode_ids
from ..scores.reading import Table, as_pandas, read_ids, read_table
from ..scores.texts import texts_in
from .texts import TextTable
from .vectors import TextEncoder, encode_finite, find_encoder

_KINDS = ("item", "user")

VectorSource: TypeAlias = Any
"""A path, a DataFrame, a `TextTable`, a mapping from raw id to vector, or `Vectors`."""


@dataclass(frozen=True, eq=False)
class IdVectors:
    """Vectors of one kind of ids.

    Attributes
    ----------
    ids : pandas.Series
        (n,) raw ids, each once.
    matrix : numpy.ndarray
        (n, d) float32, finite.
    written : bool
        Whether the ids are texts that may stand for numbers, as in a CSV file.
    """

    ids: pd.Series
    matrix: np.ndarray
    written: bool = False

    def by_code(self, index: IdIndex | None, n_codes: int, *, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Return codes below `n_codes`, ascending, and their vectors: (k,) and (k, d)."""
        codes = encode_ids(self.ids, index, what=what, written=self.written)
        inside = np.flatnonzero((codes >= 0) & (codes < n_codes))
        order = inside[np.argsort(codes[inside], kind="stable")]
        codes = codes[order]
        twice = codes[1:][codes[1:] == codes[:-1]]
        if len(twice):
            raise VectorsError(f"two {what} have the code {twice[0]}. Give one vector an id.")
        return codes, self.matrix[order]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"{len(self)} of {self.matrix.shape[1]} numbers"


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of items and, maybe, of users, by raw id. Build them with `read` or `of_texts`.

    Attributes
    ----------
    items : IdVectors
    users : IdVectors or None
        In the same space as those of the items.
    source : str
        What they were made of, for messages.
    encoder : TextEncoder or None
        What encoded the texts, for those of further items; None of vectors that were given.
    texts : list of str or None
        (n,) the texts of the items; None of vectors that were given.
    """

    items: IdVectors
    users: IdVectors | None = None
    source: str = "vectors"
    encoder: TextEncoder | None = None
    texts: list[str] | None = None

    @classmethod
    def read(
        cls,
        source: VectorSource,
        *,
        titles: VectorSource | None = None,
        encoder: TextEncoder | str | None = None,
        item: str = "item_id",
    ) -> Vectors:
        """Read vectors, or texts that are encoded.

        Parameters
        ----------
        source : path, pandas.DataFrame, TextTable, mapping or Vectors
            One of

            - a text table, ``kind, id, text``, as `sllmr texts` writes it: texts of items and, where there are some,
              profiles of users;
            - a table of items with ``title`` (or ``text``);
            - a table of vectors, ``kind, id, vector``, as `sllmr embed` writes it;
            - a table with one column of vectors, ``vector`` or ``embedding``, or with number columns only, beside
              the ids;
            - ``.npz`` with the arrays ``ids`` (n,) and ``vectors`` (n, d); pickled ones are refused;
            - a mapping from raw id to vector.
        titles : path or pandas.DataFrame, optional
            A table of items with ``title``, to be put before the texts of a text table; an item that has only one of
            the two takes that. Descriptions that a language model writes leave out names, which titles have.
        encoder : TextEncoder or str, optional
            Encodes texts: an object with a method `encode`, or a name, see `find_encoder`. Default: `TfidfSvdEncoder`
            with 256 dimensions, which needs no download.
        item : str, default="item_id"
            The column of ids.

        Raises
        ------
        VectorsError
            If there is no vector in it, or an id has two.
        """
        if isinstance(source, Vectors):
            return source
        if isinstance(source, TextTable):
            raise VectorsError(
                "a TextTable has the codes of a model in the place of raw ids. Pass the file or frame it was read from."
            )
        vectors_of_your_own = isinstance(source, Mapping) or Path(str(source)).suffix in (".npz", ".npy")
        if titles is not None and vectors_of_your_own:
            raise VectorsError("titles= goes with a text table, and these are vectors. Leave it out.")
        if isinstance(source, Mapping):
            return cls(_of_arrays(list(source), list(source.values()), "the mapping"), source="a mapping")
        if isinstance(source, (str, os.PathLike)) and Path(source).suffix == ".npz":
            return cls(_read_npz(Path(source)), source=str(source))
        if isinstance(source, (str, os.PathLike)) and Path(source).suffix == ".npy":
            raise VectorsError(
                f"{source} has vectors without ids. Save both, numpy.savez('vectors.npz', ids=ids, vectors=vectors), "
                "or pass dict(zip(ids, vectors))."
            )
        table = read_table(as_pandas(source), "vectors", error=VectorsError)
        texts = texts_in(table, titles, item=item)
        if texts is not None:
            told = (frame[name] for frame in (texts.items, texts.users) for name in ("id", "text"))
            return cls.of_texts(*told, encoder=encoder, source=texts.source, written=texts.written)
        if {"kind", "id"} <= set(table.frame.columns):
            return cls._of_vector_table(table)
        if item not in table.frame:
            raise VectorsError(
                f"{table.name} has no column {item!r}, but {', '.join(map(repr, table.frame.columns))}. Name the "
                "column of item ids (item=)."
            )
        return cls(_of_columns(table, item), source=table.name)

    @classmethod
    def of_texts(
        cls,
        item_ids: pd.Series,
        texts: pd.Series,
        user_ids: pd.Series | None = None,
        user_texts: pd.Series | None = None,
        *,
        encoder: TextEncoder | str | None = None,
        source: str = "texts",
        written: bool = False,
    ) -> Vectors:
        """Encode texts of items and users, so that they lie in one space.

        An encoder with a method `transform` is fitted on the items' texts; others encode all texts together.

        Parameters
        ----------
        item_ids, texts : pandas.Series
            (n,) raw ids and texts; blank texts are left out.
        user_ids, user_texts : pandas.Series, optional
            (m,) likewise.
        encoder : TextEncoder or str, optional
            As of `read`.
        source : str
            For messages.
        written : bool, default=False
            As of `IdVectors`.
        """
        frames = [pd.DataFrame({"id": item_ids.to_numpy(), "text": texts.to_numpy()})]
        if user_ids is not None and user_texts is not None:
            frames.append(pd.DataFrame({"id": user_ids.to_numpy(), "text": user_texts.to_numpy()}))
        frames = [frame[frame["text"].astype(str).str.strip() != ""] for frame in frames]
        if frames[0].empty:
            raise VectorsError(f"{source}: no item has a text. Check the column of texts.")
        frames = [frame for frame in frames if not frame.empty]
        ids = [_once(frame["id"].reset_index(drop=True), source) for frame in frames]
        told = [[str(text) for text in frame["text"]] for frame in frames]
        encoder = find_encoder(encoder)
        if hasattr(encoder, "transform"):
            # Fitted on items alone: thousands of profiles would have it tell users apart, not items.
            parts = [encode_finite(encoder, told[0]), *(encode_finite(Fitted(encoder), one) for one in told[1:])]
        else:
            matrix = encode_finite(encoder, [text for one in told for text in one])
            parts = np.split(matrix, np.cumsum([len(one) for one in told])[:-1])
        found = [IdVectors(own, part, written) for own, part in zip(ids, parts, strict=True)]
        return cls(found[0], found[1] if len(found) > 1 else None, source, encoder, told[0])

    def more(self, source: VectorSource, **options: Any) -> Vectors:
        """Read vectors of further ids, in the space of these: texts by the encoder as it is fitted already."""
        return Vectors.read(source, encoder=None if self.encoder is None else Fitted(self.encoder), **options)

    @classmethod
    def _of_vector_table(cls, table: Table) -> Vectors:
        found = []
        for kind in _KINDS:
            of_kind = table.frame[table.frame["kind"] == kind].drop(columns="kind").reset_index(drop=True)
            part = replace(table, frame=of_kind.assign(id=replace(table, frame=of_kind).texts("id")), is_text=True)
            found.append(_of_columns(part, "id") if len(of_kind) else None)
        items, users = found
        if items is None:
            raise VectorsError(f"{table.name}: no row of kind 'item'. Give a table with vectors of items.")
        if users is not None and users.matrix.shape[1] != items.matrix.shape[1]:
            raise VectorsError(
                f"{table.name}: vectors of users have {users.matrix.shape[1]} numbers and those of items "
                f"{items.matrix.shape[1]}. Have both made by the same encoder."
            )
        return cls(items, users, source=table.name)

    def __repr__(self) -> str:
        users = "" if self.users is None else f", users: {self.users!r}"
        return f"Vectors of {self.source}: items: {self.items!r}{users}"


class Fitted:
    """An encoder that learns nothing from the texts it is given."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encode = getattr(encoder, "transform", encoder.encode)


def _once(ids: pd.Series, source: str) -> pd.Series:
    twice = ids[ids.duplicated()].tolist()
    if twice:
        raise VectorsError(f"{source}: the id {twice[0]!r} has two vectors or texts. Keep one of them.")
    return ids


def _of_arrays(ids: Any, vectors: Any, source: str) -> IdVectors:
    try:
        matrix = np.asarray(np.stack([np.asarray(vector, dtype=np.float32) for vector in vectors]))
    except (ValueError, TypeError) as error:
        raise VectorsError(f"{source}: not one vector of numbers an id, all of one length ({error}).") from None
    if matrix.ndim != 2 or matrix.shape[1] == 0 or len(matrix) != len(ids):
        raise VectorsError(f"{source}: {len(ids)} ids and vectors of shape {matrix.shape}. Give one (d,) vector an id.")
    bad = ~np.isfinite(matrix).all(axis=1)
    ids = pd.Series(ids)
    if bad.any():
        raise VectorsError(
            f"{source}: the vector of {ids.tolist()[int(bad.argmax())]!r} is not finite. Leave that id out."
        )
    return IdVectors(_once(ids, source), matrix)


def _read_npz(path: Path) -> IdVectors:
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, vectors = file["ids"], file["vectors"]
    except FileNotFoundError:
        raise VectorsError(f"{path}: no such file. Give the path of an .npz file with ids and vectors.") from None
    except (KeyError, ValueError, OSError, TypeError, AttributeError, BadZipFile) as error:
        raise VectorsError(
            f"{path}: not two plain arrays 'ids' and 'vectors' ({error}). Write them with numpy.savez."
        ) from None
    return _of_arrays(ids, vectors, str(path))


def _of_columns(table: Table, item: str) -> IdVectors:
    frame = table.frame
    column = next((name for name in ("vector", "embedding") if name in frame), None)
    if column is not None:
        vectors: Any = frame[column]
    else:
        numbers = frame.drop(columns=item)
        if table.is_text:  # all is text there
            parsed = {name: pd.to_numeric(numbers[name], errors="coerce") for name in numbers}
            for name, cells in parsed.items():
                if cells.notna().any():
                    table.refuse(cells.isna(), name, "fill it in, or leave the row out", problem="no number")
                    numbers[name] = cells
        strange = [name for name in numbers if not pd.api.types.is_numeric_dtype(numbers[name])]
        if strange or numbers.shape[1] == 0:
            what = f"the column {strange[0]!r} holds no numbers" if strange else "no column of numbers"
            raise VectorsError(
                f"{table.name}: {what} beside {item!r}. Give a column `vector` with a list of numbers a row, columns "
                "of numbers alone, or a column `title` or `text`."
            )
        vectors = numbers.to_numpy()
    found = _of_arrays(read_ids(table, item), vectors, table.name)
    return IdVectors(found.ids, found.matrix, table.is_text)
