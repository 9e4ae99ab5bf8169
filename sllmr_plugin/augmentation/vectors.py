"""Encoded texts, looked up by model code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .encoders import TextEncoder, TfidfSvdEncoder, encode_checked
from .text_table import TextTable

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
class EncodedTexts:
    """Vectors of the texts of users and items, in one space. Make one with `of` and share it between adaptors.

    Attributes
    ----------
    codes : dict of str to ndarray
        ``"user"`` and ``"item"`` -> (n,) int64 ascending codes.
    vectors : dict of str to ndarray
        The same keys -> (n, d) float32, of root mean square 1 over both kinds.
    reasoning : EncodedReasoning or None
        The reasoning texts, where the table has some.
    """

    codes: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]
    reasoning: EncodedReasoning | None = None

    @classmethod
    def of(cls, texts: TextTable | EncodedTexts, encoder: TextEncoder | None = None) -> EncodedTexts:
        """Encode a table, by default with `TfidfSvdEncoder`; encoded texts are returned as they are.

        Texts of users and items are encoded together, reasoning texts apart from them: whether a table has these
        changes nothing about the vectors of the others.

        Raises
        ------
        TextEncoderError
            If the encoder gives no usable vectors.
        """
        if isinstance(texts, EncodedTexts):
            return texts
        encoder = encoder or TfidfSvdEncoder()
        together = [text for kind in _KINDS for text in texts.of(kind)]
        users, items = np.split(encode_checked(encoder, together), [len(texts.users)])
        codes = {kind: texts.of(kind).index.to_numpy(dtype=np.int64) for kind in _KINDS}
        told, reasoning = texts.reasoning, None
        if len(told):
            user, item, label = (told[name].to_numpy(dtype=np.int64) for name in ("user", "item", "label"))
            reasoning = EncodedReasoning(user, item, label, encode_checked(encoder, told["text"].tolist()))
        return cls(codes, {"user": users, "item": items}, reasoning)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors["user"].shape[1])


class TextVectors(nn.Module):
    """Vectors by code; a code without a text gets a learned vector, which starts as zeros.

    Parameters
    ----------
    encoded : EncodedTexts
        The vectors, which are not trained and no part of ``state_dict``.
    kind : {"user", "item"}
        Which of them.
    """

    position: Tensor
    vectors: Tensor

    def __init__(self, encoded: EncodedTexts, kind: str) -> None:
        super().__init__()
        codes, vectors = encoded.codes[kind], encoded.vectors[kind]
        # The last position stands for all codes beyond, the last row for those without a text.
        position = np.full(int(codes.max(initial=-1)) + 2, len(codes), dtype=np.int64)
        position[codes] = np.arange(len(codes))
        padded = np.concatenate([vectors, np.zeros((1, encoded.dim), dtype=np.float32)])
        self.register_buffer("position", torch.from_numpy(position), persistent=False)
        self.register_buffer("vectors", torch.from_numpy(padded), persistent=False)
        self.missing = nn.Parameter(torch.zeros(encoded.dim))

    def rows(self, codes: Tensor) -> Tensor:
        """Return the (n,) rows of `vectors` of int64 codes; the last one for a code without a text."""
        return self.position[codes.clamp(0, len(self.position) - 1)]

    def known(self, codes: Tensor) -> Tensor:
        """Whether there is a text: (n,) bool."""
        return self.rows(codes) < len(self.vectors) - 1

    def forward(self, codes: Tensor) -> Tensor:
        """Return (n, d) vectors of (n,) int64 codes."""
        row = self.rows(codes)
        return torch.where((row < len(self.vectors) - 1).unsqueeze(1), self.vectors[row], self.missing)
