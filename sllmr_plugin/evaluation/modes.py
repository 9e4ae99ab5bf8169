"""Modes of a comparison: what texts and vectors do to a model before LLM scores regularize its training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..backends.initialise import DEFAULT_SCALE
from ..config import MODES
from ..datasets.attributes import ItemAttribute
from ..datasets.interactions import Interactions
from ..errors import ConfigError, VectorsError
from ..knowledge import (
    Adaptor,
    CURecAdaptor,
    EmbedAdaptor,
    EncodedTexts,
    KARAdaptor,
    LLMCFAdaptor,
    RecLMAdaptor,
    TextEncoder,
)
from ..knowledge.id_vectors import Vectors
from ..knowledge.semantic_ids import SemanticIds
from ..scores.reading import read_table
from ..scores.texts import is_text_table


@dataclass(frozen=True)
class Part:
    """What a mode can do to a model beside regularizing it.

    Attributes
    ----------
    needs : str
        What it reads: ``texts``, ``vectors``, ``triples``, ``synthetic`` or ``interest``, or several of them between
        blanks.
    adds_input : bool
        Whether an adaptor gives the model dense inputs, which then have to be served; a mode has at most one such part.
    says : str
        What it does, for reports.
    start_fields : tuple of str, default=()
        Fields of `Start` that it reads beside the vectors.
    adds_features : bool, default=False
        Whether items get further sparse features, which serving looks up.
    """

    needs: str
    adds_input: bool
    says: str
    start_fields: tuple[str, ...] = ()
    adds_features: bool = False

    @property
    def is_served(self) -> bool:
        """Whether serving needs more than the plain model does."""
        return self.adds_input or self.adds_features


PARTS = {
    "init": Part("vectors", False, "embeddings started from vectors of the items", ("scale", "users", "method")),
    "align": Part("vectors", False, "embeddings pulled towards vectors of the items in every step"),
    "distill": Part("vectors", False, "what the last layer reads pulled towards vectors of the items"),
    "similar": Part("vectors", False, "embeddings of users pulled towards those of similar users (LLM-ESR)"),
    "pretrain": Part("vectors", False, "the whole model pre-trained to tell rows by their vectors (CTRL)"),
    "triples": Part(
        "triples", False, "tails of the items' triples as features (looked up in serving)", adds_features=True
    ),
    "graph": Part("triples", False, "vectors smoothed over the items that share tails"),
    "sid": Part(
        "vectors",
        False,
        "semantic ids, codes of the items' vectors, as features (looked up in serving)",
        adds_features=True,
    ),
    "synthetic": Part("synthetic", False, "synthetic interactions as weighted rows of every step"),
    "denoised": Part("interest", False, "without the training interactions that a judge of interest doubts most"),
    "refined": Part("synthetic interest", False, "synthetic interactions that the judge believes, and denoised"),
    "embed": Part("vectors", True, "vectors of items and users through perceptrons as extra inputs", ("users",)),
    "kar": Part("texts", True, "encoded texts of users and items as extra inputs (KAR)"),
    "llm_cf": Part("texts", True, "encoded in-context exemplars as an extra input (LLM-CF)"),
    "curec": Part("texts", True, "reasons of other users, attended to by the user's pattern, as an input (CURec)"),
    "reclm": Part("texts", True, "profiles of users and items as inputs, items without an id at times (RecLM)"),
}
"""Parts that stand alone or before a key of `sllmr_plugin.config.MODES`, joined by ``+``, as in ``init+gated``."""

_REGULARIZERS = {
    "none": "the plain backbone",
    "global": "every LLM pair, no gate",
    "gated": "LLM pairs, gated where the LLM is the better judge on probes",
    "joint": "LLM pairs, with the gate of the paper's Algorithm 1",
    "pointwise_mse": "the LLM's scores as targets, squared error",
    "pointwise_bce": "the LLM's scores as targets, cross-entropy",
    "kd": "the LLM's soft logits distilled (KD)",
}

MODE_NAMES = (*MODES, *PARTS)
"""Modes of one part; `Mode.of` also reads combinations of them."""


@dataclass(frozen=True)
class Mode:
    """A way to train a backbone; a row of a comparison.

    Attributes
    ----------
    name : str
        As in results, for instance ``init+gated``.
    parts : tuple of str
        Keys of `PARTS`, in the order of the name.
    regularizer : str
        A key of `sllmr_plugin.config.MODES`; ``none`` without one.
    """

    name: str
    parts: tuple[str, ...]
    regularizer: str

    @classmethod
    def of(cls, name: str) -> Mode:
        """Read a name: parts, then at most one regularizer, joined by ``+``.

        Raises
        ------
        ConfigError
            If a part is unknown, stands twice or behind the regularizer, two parts give the model inputs, or ``graph``
            has no part whose vectors it could smooth.

        Examples
        --------
        >>> Mode.of("init+gated")
        Mode(name='init+gated', parts=('init',), regularizer='gated')
        """
        *front, last = name.split("+")
        parts, regularizer = ((*front,), last) if last in MODES else ((*front, last), "none")
        unknown = [part for part in parts if part not in PARTS]
        if unknown:
            raise ConfigError(
                f"mode={name!r} is not one of {', '.join(map(repr, MODE_NAMES))}, nor a combination such as "
                f"'init+gated' ({', '.join(PARTS)} come first, then one of the others). Take some of these."
            )
        if len(set(parts)) < len(parts) or (front and last == "none"):
            raise ConfigError(f"mode={name!r} names a part that adds nothing; leave it out.")
        if "graph" in parts and not any(PARTS[part].needs == "vectors" for part in parts):
            raise ConfigError(
                f"mode={name!r}: graph smooths the vectors that another part reads. Add one, as in 'init+graph'."
            )
        if "refined" in parts and {"synthetic", "denoised"} & set(parts):
            raise ConfigError(f"mode={name!r}: refined is synthetic, filtered, and denoised already; take one of them.")
        if sum(PARTS[part].adds_input for part in parts) > 1:
            raise ConfigError(f"mode={name!r} has two parts that give the model inputs; take one of them.")
        return cls(name, parts, regularizer)

    @property
    def says(self) -> str:
        """What it does, for reports."""
        told = [PARTS[part].says for part in self.parts]
        return "; ".join(
            [*told, *([_REGULARIZERS[self.regularizer]] if self.regularizer != "none" or not told else [])]
        )

    @property
    def served(self) -> tuple[str, ...]:
        """The parts that serving needs further inputs or features for."""
        return tuple(part for part in self.parts if PARTS[part].is_served)

    @property
    def uses_scores(self) -> bool:
        """Whether LLM scores regularize it."""
        return self.regularizer != "none"

    def needs(self, what: str) -> bool:
        """Whether a part reads ``texts``, ``vectors``, ``triples``, ``synthetic`` or ``interest``."""
        return any(what in PARTS[part].needs.split() for part in self.parts)

    def reads(self, field: str) -> bool:
        """Whether a part reads a field of `Start`, for instance ``scale``."""
        return any(field in PARTS[part].start_fields for part in self.parts)

    def targets(self, start: Start | None) -> dict[str, Any]:
        """Return the vectors that a training of this mode has targets from, by argument of `train`."""
        arguments = {"aligned": "align", "distilled": "distill", "similar": "similar", "pretrained": "pretrain"}
        return {
            name: start.vectors if start is not None and part in self.parts else None
            for name, part in arguments.items()
        }

    @property
    def adds_input(self) -> bool:
        """Whether the model gets dense inputs."""
        return any(PARTS[part].adds_input for part in self.parts)

    def adaptor(
        self,
        data: Interactions,
        rows: tuple[Mapping[str, np.ndarray], np.ndarray],
        seed: int,
        *,
        texts: EncodedTexts | None = None,
        start: Start | None = None,
        published: bool = False,
    ) -> Adaptor | None:
        """Build the adaptor of a run.

        Parameters
        ----------
        data : Interactions
            Gives the codes of raw ids.
        rows : tuple of (mapping of str to ndarray, ndarray)
            Training rows: who took what, of which LLM-CF also draws its exemplars
            and CURec checks its reasons.
        seed : int
            Of the adaptor's weights and of the exemplars.
        texts : EncodedTexts or None, default=None
            Vectors of texts by the codes of the rows; may be None where the mode reads none.
        start : Start or None, default=None
            Vectors by raw id, and where those of users come from; may be None where the mode reads none.
        published : bool, default=False
            KAR and LLM-CF at their authors' settings (`as_published`).

        Returns
        -------
        Adaptor or None
            None for the modes that add no input.
        """
        if not self.adds_input:
            return None
        check_sources([self], texts=texts, start=start)
        x, y = rows
        if "embed" in self.parts:
            assert start is not None
            index = {"user_index": data.user_index, "item_index": data.item_index}
            return EmbedAdaptor(start.vectors, users=start.users, x=x, y=y, seed=seed, **index)
        assert texts is not None
        if "kar" in self.parts:
            return (KARAdaptor.as_published if published else KARAdaptor)(texts, seed=seed)
        if "curec" in self.parts:
            return CURecAdaptor(texts, x, y, user="user_id", item="item_id", seed=seed)
        if "reclm" in self.parts:
            return RecLMAdaptor(texts, x, y, user="user_id", item="item_id", seed=seed)
        build = LLMCFAdaptor.as_published if published else LLMCFAdaptor
        return build(texts, x, y, user="user_id", item="item_id", seed=seed)


def with_semantic_ids(data: Interactions, vectors: Vectors) -> Interactions:
    """Return data whose items have codes of their vectors as further attributes (`SemanticIds`).

    Parameters
    ----------
    data : Interactions
        Items without a vector have no code.
    vectors : Vectors
        By the raw ids of `data`.

    Raises
    ------
    VectorsError
        If no item has a vector.
    ConfigError
        If the data have an attribute of the name of one, such as ``sid_0``.
    """
    places, matrix = vectors.items.by_code(data.item_index, data.n_items + 1, what="items")
    if len(places) == 0:
        raise VectorsError(f"{vectors.source}: none of its items is in the interactions. Check the ids.")
    table = SemanticIds.fit(vectors).assign(dict(zip(places.tolist(), matrix, strict=True)))
    attributes = dict(data.attributes)
    for column in table.columns.drop("item_id"):
        codes = np.zeros(data.n_items + 1, dtype=np.int32)
        codes[table["item_id"]] = table[column]
        attribute = ItemAttribute(column, pd.RangeIndex(1, codes.max() + 1, name=column), codes)
        if attribute.feature in attributes:
            raise ConfigError(
                f"the items have an attribute {column!r} already, and mode sid makes one of that name. Leave the "
                "attribute out of the features (--attributes), or rename its column."
            )
        attributes[attribute.feature] = attribute
    return replace(data, attributes=attributes)


class ModeName:
    """Annotates a setting with the names that `Mode.of` reads."""

    names = MODE_NAMES

    def choose(self, value: Any) -> str:
        """Return the name of a mode; raise `ConfigError` for any other value."""
        return Mode.of(str(value)).name


@dataclass(frozen=True, eq=False)
class Start:
    """The vectors that parts of modes read, and how embeddings start from them (`sllmr_plugin.initialise`).

    Attributes
    ----------
    vectors : Vectors
        Of items and, maybe, users, by raw id.
    scale : float, default=0.3
        Root mean square of each item row, for ``init``.
    users : {"auto", "history", "vectors", "none"}, default="auto"
        Where users come from, for ``init`` (see `initialise`) and ``embed`` (see `EmbedAdaptor`).
    method : {"svd", "random", "project"}, default="svd"
        How vectors become rows.
    """

    vectors: Vectors
    scale: float = DEFAULT_SCALE
    users: str = "auto"
    method: str = "svd"

    @property
    def changed(self) -> list[str]:
        """Names of the fields that do not have their default."""
        return [f.name for f in fields(self) if f.name != "vectors" and getattr(self, f.name) != f.default]

    @classmethod
    def read(
        cls,
        source: str | Path,
        items: str | Path | None = None,
        *,
        encoder: TextEncoder | None = None,
        **options: Any,
    ) -> Start:
        """Read vectors.

        Parameters
        ----------
        source : path or "titles"
            A text table, put behind the titles of `items` where there are some, or what else `Vectors.read` takes;
            ``"titles"`` takes the titles of `items` alone.
        items : path or None, default=None
            Items file with a column ``title``.
        encoder : TextEncoder or None, default=None
            Encodes texts; default: `TfidfSvdEncoder`.
        **options
            The attributes: ``scale``, ``users``, ``method``.

        Raises
        ------
        ConfigError
            If titles are asked for and there is no file of items.
        """
        if str(source) == "titles":
            if items is None:
                raise ConfigError("the titles to start from stand in the file of the items; give that, too (--items).")
            return cls(Vectors.read(items, encoder=encoder), **options)
        titled = items is not None and is_text_table(source) and "title" in read_table(items, "items").frame
        return cls(Vectors.read(source, titles=items if titled else None, encoder=encoder), **options)


def check_start_fields(modes: Sequence[Mode], given: Iterable[str]) -> None:
    """Raise `ConfigError` if a field of `Start` is given that no mode reads.

    Parameters
    ----------
    modes : sequence of Mode
        What is trained.
    given : iterable of str
        Names of fields, without ``vectors``.
    """
    for field in given:
        if not any(mode.reads(field) for mode in modes):
            readers = ", ".join(name for name, part in PARTS.items() if field in part.start_fields)
            raise ConfigError(
                f"{field} of the start (--initialise-{field}, start.{field}) is read by modes with {readers}, not by "
                f"{', '.join(mode.name for mode in modes)}. Take such a mode, or leave {field} out."
            )


_SOURCES = {
    "texts": (
        "reads LLM-written texts",
        "give a text table (texts=, or --texts FILE: kind, id, text)",
    ),
    "vectors": (
        "reads vectors of the items",
        "give some (--initialise titles or FILE; start=Start.read(...) in Python)",
    ),
    "triples": (
        "reads triples of the items",
        "give a table (triples=, or --triples FILE: head, relation, tail, or what sllmr attributes wrote)",
    ),
    "synthetic": (
        "trains on synthetic interactions",
        "give some (--synthetic FILE, which sllmr synthesize writes; refinement=Refinement.read(...) in Python)",
    ),
    "interest": (
        "reads P(interest) of interactions",
        "give a table (--interest FILE, see sllmr interest; refinement=Refinement.read(...) in Python)",
    ),
}


def check_sources(
    modes: Sequence[Mode],
    *,
    texts: object | None,
    start: object | None,
    triples: object | None = None,
    synthetic: object | None = None,
    interest: object | None = None,
) -> None:
    """Raise `ConfigError` if a mode needs texts, vectors, triples, synthetic rows or P(interest) that are not there."""
    given = {"texts": texts, "vectors": start, "triples": triples, "synthetic": synthetic, "interest": interest}
    for what, (does, remedy) in _SOURCES.items():
        needing = [mode.name for mode in modes if mode.needs(what)]
        if needing and given[what] is None:
            raise ConfigError(f"mode {', '.join(needing)} {does}; {remedy}, or leave the mode out.")


def check_read(
    modes: Sequence[Mode], *, triples: object | None, synthetic: object | None, interest: object | None
) -> None:
    """Raise `ConfigError` if triples, synthetic interactions or P(interest) are given and no mode reads them."""
    for what, given in (("triples", triples), ("synthetic", synthetic), ("interest", interest)):
        if given is not None and not any(mode.needs(what) for mode in modes):
            readers = ", ".join(name for name, part in PARTS.items() if what in part.needs.split())
            raise ConfigError(
                f"--{what} is given, and none of the modes {', '.join(mode.name for mode in modes)} reads it. Add "
                f"{readers} or the like, or leave it out."
            )
