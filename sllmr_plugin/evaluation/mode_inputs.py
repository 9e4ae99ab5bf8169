"""What each mode reads: the items' features and the vectors, as its parts make them of the data and of triples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..datasets.attributes import ItemAttribute, encode_attribute
from ..datasets.interactions import Interactions
from ..errors import ConfigError, CoverageError, CoverageWarning, DataError
from ..knowledge import EncodedTexts
from ..knowledge.triples import Triples
from ..scores.ids import encode_ids
from .modes import Mode, Start, with_semantic_ids
from .store import digest

TripleSource: TypeAlias = str | Path | pd.DataFrame | Triples
"""What `Triples.read` takes without being told of columns."""

MOST = 8
"""Tails of an item and a relation that mode ``triples`` reads."""


class ModeInputs:
    """The data and vectors of a comparison, as each of its modes reads them.

    Parameters
    ----------
    data : Interactions
        As loaded.
    modes : sequence of Mode
        All that are trained.
    start : Start or None
        Vectors, as given.
    triples : path, DataFrame, Triples or None
        As `Triples.read` takes it.

    Attributes
    ----------
    coded : Interactions
        With the features of all modes, so that the training rows can be shared.

    Raises
    ------
    ConfigError
        If a feature's name is taken.
    DataError, VectorsError
        If triples cannot be read, or belong to none of the items.
    """

    def __init__(
        self, data: Interactions, modes: Sequence[Mode], start: Start | None, triples: TripleSource | None
    ) -> None:
        parts = {part for mode in modes for part in mode.parts}
        self.triples = None if triples is None else Triples.read(triples)
        self._plain, self._start = data, start
        self.coded = data
        self._added: dict[str, set[str]] = {}
        if start is not None and "sid" in parts:
            self._add("sid", with_semantic_ids(self.coded, start.vectors))
        if self.triples is not None and "triples" in parts:
            self._add("triples", with_triples(self.coded, self.triples))
        self._smoothed = None
        if start is not None and self.triples is not None and "graph" in parts:
            self._smoothed = replace(start, vectors=self.triples.smooth(start.vectors))

    def _add(self, part: str, data: Interactions) -> None:
        self._added[part] = set(data.attributes) - set(self.coded.attributes)
        self.coded = data

    def data(self, mode: Mode) -> Interactions:
        """Return the data with the features of a mode."""
        left_out = {name for part, names in self._added.items() if part not in mode.parts for name in names}
        if left_out == set(self.coded.attributes) - set(self._plain.attributes):
            return self._plain
        attributes = {name: one for name, one in self.coded.attributes.items() if name not in left_out}
        return replace(self.coded, attributes=attributes)

    def start(self, mode: Mode) -> Start | None:
        """Return the vectors that a mode reads."""
        return self._smoothed if "graph" in mode.parts else self._start

    def described(self) -> dict[str, Any]:
        """Return what results depend on of the triples, as plain JSON values."""
        if self.triples is None:
            return {}
        told = (self.triples.heads, self.triples.relations, self.triples.tails)
        texts = ("\0".join(map(str, column)).encode() for column in told)
        return {"triples": digest(*(np.frombuffer(text, dtype=np.uint8) for text in texts), self.triples.confidences)}


def check_texts(
    modes: Sequence[Mode],
    inputs: ModeInputs,
    rows: tuple[Mapping[str, np.ndarray], np.ndarray],
    texts: EncodedTexts | None,
    *,
    published: bool,
) -> None:
    """Find out before any of the modes is trained whether each adaptor has texts of the users and items of the rows.

    Raises
    ------
    CoverageError
        If a mode's adaptor would have none, with the name of the mode.
    """
    if texts is None:
        return
    for mode in modes:
        if not (mode.adds_input and mode.needs("texts")):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come where the mode is trained
            try:
                read, start = inputs.data(mode), inputs.start(mode)
                adaptor = mode.adaptor(read, rows, 0, texts=texts, start=start, published=published)
                assert adaptor is not None
                adaptor.check_coverage(rows[0]["user_id"], rows[0]["item_id"])
            except CoverageError as error:
                raise CoverageError(f"mode {mode.name}: {error} Or leave the mode out.") from None


def with_triples(data: Interactions, triples: Triples) -> Interactions:
    """Return data whose items have the tails of each relation as a further attribute.

    Parameters
    ----------
    data : Interactions
        Items without a tail have no value.
    triples : Triples
        By the raw ids of `data`; tails of one item alone are left out, and of each item and relation those of highest
        confidence are kept, `MOST` of them.

    Raises
    ------
    DataError
        If none of their items is in the data, or no two items share a tail.
    ConfigError
        If the data have an attribute of the name of a relation.

    Warns
    -----
    CoverageWarning
        If fewer than half of the items have a tail.
    """
    ranked = triples.ranked(most=MOST, least=2)
    codes = encode_ids(ranked["head"], data.item_index, what="heads", written=triples.written)
    ranked = ranked[codes > 0].assign(code=codes[codes > 0])
    if ranked.empty:
        raise DataError(f"{triples.source}: none of its items is in the interactions. Check the ids.")
    n_known = ranked["code"].nunique()
    if 2 * n_known < data.n_items:
        warnings.warn(
            f"{n_known} of {data.n_items} items have a tail in {triples.source} that others have, too; the others have "
            "no such feature. Check the ids, or give more triples.",
            CoverageWarning,
            stacklevel=3,
        )
    attributes = dict(data.attributes)
    for relation, of_relation in ranked.groupby("relation", sort=False):
        cells: list[list[str]] = [[] for _ in range(data.n_items)]
        for code, tail in zip(of_relation["code"].tolist(), of_relation["tail"].tolist(), strict=True):
            cells[code - 1].append(tail)
        attribute: ItemAttribute = encode_attribute(str(relation), cells, has_several=max(map(len, cells)) > 1)
        if attribute.feature in attributes:
            raise ConfigError(
                f"the items have an attribute {relation!r} already, and {triples.source} has a relation of that name. "
                "Leave the attribute out of the features (--attributes), or rename the relation."
            )
        attributes[attribute.feature] = attribute
    return replace(data, attributes=attributes)
