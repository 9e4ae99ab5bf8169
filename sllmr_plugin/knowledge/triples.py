"""Triples (item, relation, tail, confidence): features of items, and vectors smoothed over items that share tails."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from ..errors import CoverageWarning, DataError, VectorsError
from ..scores.cells import column_and_separator, parts
from ..scores.ids import IdIndex, encode_ids, keys_and_codes
from ..scores.origin import read_origin
from ..scores.reading import Table, as_pandas, numbers_or_text, read_ids, read_table
from .id_vectors import Vectors, VectorSource
from .item_features import ItemFeatures

FORM = ("head", "relation", "tail")


@dataclass(frozen=True, eq=False)
class Triples:
    """What is known of items, as statements ``(head, relation, tail)`` with a confidence. Build them with `read`.

    A language model that reasons about a catalogue gives such statements: ``(Halo 3, genre, shooter)``,
    ``(Halo 3, complements, headset)``. LLMRG (Wang et al., AAAI 2024), LLM-KERec (Zhao et al., 2024,
    arXiv:2402.13750) and SAGCN (Liu et al., 2023, arXiv:2312.16275) make graphs of them, which their own models read.
    Here they reach an unmodified model in two ways: as sparse features that the item decides (`features`), and as
    vectors that are smoothed over the graph of items that share tails (`smooth`).

    Attributes
    ----------
    heads : pandas.Series
        (n,) raw ids of the items.
    relations, tails : numpy.ndarray
        (n,) of str.
    confidences : numpy.ndarray
        (n,) float64, above 0 and at most 1.
    source : str
        What they were read from, for messages.
    written : bool
        Whether the ids are from a text file, see `encode_ids`.
    """

    heads: pd.Series
    relations: np.ndarray
    tails: np.ndarray
    confidences: np.ndarray
    source: str = "triples"
    written: bool = False

    @classmethod
    def read(cls, source: Any, *, attributes: Sequence[str] = (), item: str = "item_id") -> Triples:
        """Read triples of either form.

        Parameters
        ----------
        source : path, pandas.DataFrame or Triples
            A table ``head, relation, tail`` with, if it says so, ``confidence``: the head is a raw item id. Or a table
            of items with a column an attribute, such as `sllmr attributes` writes: each value is a tail of
            confidence 1, its column the relation.
        attributes : sequence of str, optional
            Of a table of items, the columns: ``brand`` with one value a cell, ``genre:pipe`` with several (``space``,
            ``comma`` and ``pipe``, or the character itself). Default: those that `sllmr attributes` wrote.
        item : str, default="item_id"
            The column of ids of a table of items.

        Raises
        ------
        DataError
            If a column is missing, a relation or tail is empty, a confidence is no number above 0 and up to 1, or a
            table of items does not say which columns are meant. A statement that occurs twice counts once, with the
            higher confidence.
        """
        if isinstance(source, Triples):
            return source
        table = read_table(as_pandas(source), "triples", numbers=("confidence",))
        if "head" not in table.frame:
            if not attributes and isinstance(source, (str, os.PathLike)):
                attributes = tuple(read_origin(Path(source)).get("settings", {}).get("vocabulary", ()))
            return cls._of_items(table, attributes, item)
        if attributes:
            raise DataError(
                f"{table.name} has heads, relations and tails, and attributes= are columns of a table of items. Leave "
                "them out."
            )
        table.require_columns(FORM)
        names = {}
        for column in FORM[1:]:
            names[column] = _texts([text.strip() for text in table.texts(column)])
            table.refuse(names[column] == "", column, "fill it in, or delete the row", problem="which says nothing")
        confidences = np.ones(len(table.frame))
        if "confidence" in table.frame:
            numbers = pd.to_numeric(table.frame["confidence"], errors="coerce")
            confidences = numbers.to_numpy(dtype=np.float64)
            bad = ~((confidences > 0) & (confidences <= 1))
            table.refuse(bad, "confidence", "give a number above 0 and up to 1, or delete the row")
        return cls._once(read_ids(table, "head"), names["relation"], names["tail"], confidences, table)

    @classmethod
    def _of_items(cls, table: Table, attributes: Sequence[str], item: str) -> Triples:
        if not attributes:
            raise DataError(
                f"{table.name} has no column 'head', and nothing says which of its columns, "
                f"{', '.join(map(repr, table.frame.columns))}, are attributes. Name them (attributes=['brand', "
                "'genre:pipe'], --triples-columns), or give a table head, relation, tail."
            )
        ids = read_ids(table, item)
        rows: list[int] = []
        relations: list[str] = []
        tails: list[str] = []
        for name in attributes:
            column, separator, several = column_and_separator(name)
            if not column:
                raise DataError(
                    f"attribute {name!r} is neither COLUMN nor COLUMN:SEPARATOR. Write genre or genre:pipe."
                )
            table.require_columns([column])
            for row, text in enumerate(table.texts(column)):
                values = parts(text, separator) if several else [text.strip()] * bool(text.strip())
                rows += [row] * len(values)
                tails += values
                relations += [column] * len(values)
        if not rows:
            raise DataError(f"{table.name}: the columns {', '.join(attributes)} are empty. Name columns with values.")
        heads = ids.iloc[rows].reset_index(drop=True)
        return cls._once(heads, _texts(relations), _texts(tails), np.ones(len(rows)), table)

    @classmethod
    def _once(
        cls, heads: pd.Series, relations: np.ndarray, tails: np.ndarray, confidences: np.ndarray, table: Table
    ) -> Triples:
        frame = pd.DataFrame({"head": heads.to_numpy(), "relation": relations, "tail": tails, "c": confidences})
        frame = frame.groupby(["head", "relation", "tail"], sort=False, as_index=False)["c"].max()
        relations, tails, confidences = (frame[name].to_numpy() for name in ("relation", "tail", "c"))
        return cls(frame["head"], relations, tails, confidences, table.name, table.is_text)

    def of_relations(self, *relations: str) -> Triples:
        """Return the triples of some relations.

        Raises
        ------
        DataError
            If there is none of one of them.
        """
        known = list(dict.fromkeys(self.relations.tolist()))
        unknown = [name for name in relations if name not in known]
        if unknown:
            raise DataError(
                f"{self.source} has no relation {unknown[0]!r}. Take some of {', '.join(map(repr, known))}."
            )
        return self._where(np.isin(self.relations, relations))

    def _where(self, chosen: np.ndarray) -> Triples:
        heads = self.heads[chosen].reset_index(drop=True)
        return replace(
            self,
            heads=heads,
            relations=self.relations[chosen],
            tails=self.tails[chosen],
            confidences=self.confidences[chosen],
        )

    # ------------------------------------------------------------------ as features

    def ranked(self, *, most: int, least: int) -> pd.DataFrame:
        """Return the tails that count of each item, by confidence.

        Parameters
        ----------
        most : int
            Tails of an item and relation, those of the highest confidence; of equals the first.
        least : int
            Items that a tail needs.

        Returns
        -------
        pandas.DataFrame
            ``head``, ``relation``, ``tail`` and ``place``, from 0 within an item and relation.

        Raises
        ------
        DataError
            If no tail is left, or a relation cannot be the name of a feature.
        """
        if most < 1 or least < 1:
            raise DataError(f"most={most!r} and least={least!r} must be at least 1. Change them.")
        frame = pd.DataFrame({"head": self.heads, "relation": self.relations, "tail": self.tails})
        frame["c"] = self.confidences
        shared = frame.groupby(["relation", "tail"], sort=False)["head"].transform("nunique")
        frame = frame[shared >= least].sort_values("c", ascending=False, kind="stable")
        frame["place"] = frame.groupby(["head", "relation"], sort=False).cumcount()
        frame = frame[frame["place"] < most].drop(columns="c")
        if frame.empty:
            raise DataError(
                f"{self.source}: no tail belongs to {least} items, so no feature would say what items have in common. "
                "Give triples of a closed vocabulary, or lower least=."
            )
        dotted = [name for name in frame["relation"].unique() if "." in name]
        if dotted:
            raise DataError(
                f"{self.source}: the relation {dotted[0]!r} has a dot, which PyTorch refuses in names of features. "
                "Rename it."
            )
        return frame.sort_index().reset_index(drop=True)

    def features(
        self, *, item: str = "item_id", item_index: IdIndex | None = None, most: int = 3, least: int = 2
    ) -> ItemFeatures:
        """Make sparse features of the item: for each relation the tails of highest confidence, a column each.

        Parameters
        ----------
        item : str, default="item_id"
            The model's feature that carries the item id.
        item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
            Raw id -> code, as of `ItemFeatures.of`.
        most : int, default=3
            Columns of a relation at most: ``genre_0``, ``genre_1``, ...
        least : int, default=2
            Items that a tail needs: one that a single item has says no more than its id.

        Returns
        -------
        ItemFeatures
            The columns of a relation share their values, in the same order.

        Raises
        ------
        DataError
            As of `ranked` and of `ItemFeatures.of`.
        """
        frame = self.ranked(most=most, least=least)
        ids = frame["head"].drop_duplicates()
        columns: dict[str, Any] = {item: ids.to_numpy()}
        vocabularies: dict[str, tuple[Any, ...]] = {}
        for relation, of_relation in frame.groupby("relation", sort=False):
            values = tuple(sorted(of_relation["tail"].unique()))
            for place, at_place in of_relation.groupby("place"):
                name = f"{relation}_{place}"
                columns[name] = at_place.set_index("head")["tail"].reindex(ids).to_numpy()
                vocabularies[name] = values
        table = pd.DataFrame(columns)
        if self.written:
            table = _with_indexed(table, item, item_index)
        return ItemFeatures.of(table, item=item, item_index=item_index, vocabularies=vocabularies)

    # ------------------------------------------------------------------ as a graph

    def smooth(
        self,
        vectors: VectorSource,
        *,
        hops: int = 1,
        own: float = 0.5,
        between: Sequence[str] = (),
        **options: Any,
    ) -> Vectors:
        r"""Smooth vectors of items over the graph of items that share tails.

        With ``B`` the confidences (items by tails), ``d_t`` the sum of a tail's confidences and ``C`` those of
        relations between items, items are connected by ``W = B diag(1/d) B^T + C + C^T`` without its diagonal: a tail
        hands on what it gets, so one that half of the catalogue has connects each pair weakly. Then, `hops` times,
        ``V <- own V + (1 - own) D^-1/2 W D^-1/2 V``, with D the row sums of W and V the vectors from their mean
        (the propagation of LightGCN and SAGCN, on items alone). Items without a neighbour keep their vectors, and so
        do users. W is never built, so the cost is that of ``hops`` products with the triples.

        Parameters
        ----------
        vectors : path, pandas.DataFrame, mapping or Vectors
            As `Vectors.read` takes them.
        hops : int, default=1
            How often.
        own : float, default=0.5
            Weight of an item's own vector in a hop; 1 changes nothing.
        between : sequence of str, optional
            Relations whose tails are raw ids of items, such as ``complements``: these connect head and tail directly.
        **options
            Of `Vectors.read`: ``titles``, ``encoder``.

        Returns
        -------
        Vectors
            In the space of those that were given, so that further items can be embedded beside them.

        Raises
        ------
        VectorsError
            If an argument makes no sense, or no two items with a vector are connected.

        Warns
        -----
        CoverageWarning
            If fewer than half of the items with a vector have a neighbour.
        """
        if hops < 1 or not 0 <= own <= 1:
            raise VectorsError(f"hops={hops!r} must be at least 1 and own={own!r} between 0 and 1. Change them.")
        read = Vectors.read(vectors, **options)
        row_of_id = pd.Series(np.arange(len(read.items)), index=_as_text(read.items.ids))
        shared, direct = self._incidence(row_of_id, between)
        share = _inverse(np.asarray(shared.sum(axis=0)).ravel())
        on_itself = np.asarray(shared.multiply(shared) @ share).ravel()

        def connected(values: np.ndarray) -> np.ndarray:
            handed = shared @ (share[:, None] * (shared.T @ values)) - on_itself[:, None] * values
            found: np.ndarray = handed + direct @ values
            return found

        degree = connected(np.ones((len(read.items), 1)))[:, 0]
        degree[degree < 1e-12] = 0.0  # what is left of an item that is alone with its tails is rounding
        n_connected = int((degree > 0).sum())
        if n_connected == 0:
            raise VectorsError(
                f"{self.source}: no two of the {len(read.items)} items of {read.source} share a tail. Check that the "
                "heads are the ids of the items, and that tails are of a closed vocabulary."
            )
        if 2 * n_connected < len(read.items):
            warnings.warn(
                f"{n_connected} of {len(read.items)} items of {read.source} share a tail with another one in "
                f"{self.source}; the vectors of the others stay as they are. Check the ids, or give more triples.",
                CoverageWarning,
                stacklevel=2,
            )
        centre = read.items.matrix.mean(axis=0, dtype=np.float64)
        values = read.items.matrix - centre
        half, is_connected = np.sqrt(_inverse(degree))[:, None], (degree > 0)[:, None]
        for _ in range(hops):
            around = half * connected(half * values)
            values = np.where(is_connected, own * values + (1 - own) * around, values)
        matrix = (values + centre).astype(np.float32)
        return replace(
            read, items=replace(read.items, matrix=matrix), source=f"{read.source} smoothed by {self.source}"
        )

    def _incidence(self, row_of_id: pd.Series, between: Sequence[str]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Return confidences of items by tails, (n, t), and of items by items, (n, n), symmetric."""
        direct = self.of_relations(*between) if between else self._where(np.zeros(len(self.heads), dtype=bool))
        shared = self._where(~np.isin(self.relations, between))
        n_items = len(row_of_id)

        def rows(of: Any) -> np.ndarray:
            found: np.ndarray = row_of_id.index.get_indexer(pd.Index(_as_text(pd.Series(of))))
            return found

        head, tail = rows(shared.heads), pd.MultiIndex.from_arrays([shared.relations, shared.tails]).factorize()[0]
        known = head >= 0
        size = n_items, int(tail.max(initial=-1)) + 1
        by_tail = sparse.csr_matrix((shared.confidences[known], (head[known], tail[known])), shape=size)
        one, other = rows(direct.heads), rows(direct.tails)
        known = (one >= 0) & (other >= 0) & (one != other)
        by_item = sparse.csr_matrix((direct.confidences[known], (one[known], other[known])), shape=(n_items, n_items))
        return by_tail, by_item + by_item.T

    def __len__(self) -> int:
        return len(self.heads)

    def __repr__(self) -> str:
        counts = pd.Series(self.relations).value_counts()
        told = ", ".join(f"{name}: {count}" for name, count in counts.items())
        return f"Triples of {self.source}: {len(self)} of {self.heads.nunique()} items ({told})"


def _as_text(ids: pd.Series) -> list[str]:
    """Return ids in the form that text files have: a text table's 7 is the 7 of a table of numbers."""
    return [str(raw) for raw in ids.tolist()]


def _with_indexed(table: pd.DataFrame, item: str, index: IdIndex | None) -> pd.DataFrame:
    """Return a table whose written ids have the form of an index; rows of others are left out, unless all are."""
    if index is None:  # the ids are codes
        return table.assign(**{item: numbers_or_text(table[item])})
    codes = encode_ids(table[item], index, what="heads", written=True)
    keys, of_keys = keys_and_codes(index, "items")
    first = ~pd.Index(of_keys).duplicated()
    place = pd.Index(of_keys[first]).get_indexer(codes)
    known = place >= 0
    return table[known].assign(**{item: keys[first][place[known]]}) if known.any() else table


def _texts(values: list[str]) -> np.ndarray:
    """Return texts as an array of objects, which compares them as Python does."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _inverse(values: np.ndarray) -> np.ndarray:
    """Return ``1 / x``, and 0 where x is 0."""
    found: np.ndarray = np.divide(1.0, values, out=np.zeros_like(values, dtype=np.float64), where=values > 0)
    return found
