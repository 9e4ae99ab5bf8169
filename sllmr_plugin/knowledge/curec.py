"""CURec: attention of a user's pattern over the reasons why others took an item (Luo et al., KDD 2026)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..errors import ConfigError, CoverageError, CoverageWarning
from .adaptor import Adaptor, by_distinct, seeded
from .reasons import ReasonLists
from .texts import TextTable
from .vectors import EncodedReasons, EncodedTexts, TextEncoder, directions

FUSIONS = ("attention", "mean", "mlp", "self")
REASONS = ("reasons", "item")


class CURecAdaptor(Adaptor):
    """Fills one dense column, ``curec``, from a user's pattern and the reasons why other users took an item.

    Luo et al., "Towards Comprehensible Recommendation with Large Language Model Fine-tuning" (KDD 2026), reward model
    (Sec. 4.3.2): multi-head attention with the vector of the user's pattern as query and the vectors of the item's
    reasons as keys and values. docs/curec.md lists what differs from the paper: no language model is tuned, the
    backbone is yours, and what a user may see is restricted.

    A user never attends to reasons about that user (`ReasonLists` has the rule). An item without any reason left for
    the user gets a learned vector, which starts as zeros. Users without a pattern share one, too.

    Unlike the regularizer this changes inference: items need reasons and users patterns, and the module has to run,
    unless its column is computed beforehand, pair by pair, with `sllmr_plugin.materialize`. Neither the user nor the
    item alone decides it, so there is no table of it by user or item (`serving_table` refuses).

    Parameters
    ----------
    texts : TextTable or EncodedTexts
        Patterns and reasons, or what `EncodedTexts.of` made of them. Without patterns, the texts of kind user stand for
        them.
    x : mapping of str to ndarray
        The rows that `fit` trains on, and no others: a reason about an interaction that is no positive row is left out,
        since it may tell of a held-out one. Only the columns `user` and `item` are read.
    y : ndarray
        (n_rows,) their labels; above one half is positive.
    user, item : str
        Names of the id columns.
    encoder : TextEncoder, optional
        Default: `TfidfSvdEncoder`. Not used for texts that are encoded.
    dim : int, default=16
        Dimension of the column.
    heads : int, default=2
        Heads of the attention; a divisor of `dim`.
    most : int, default=16
        Reasons an item keeps, at most: the latest where the table has positions, else drawn by a hash.
    fuse : {"attention", "mean", "mlp", "self"}, default="attention"
        How reasons become one vector. The others are the paper's ablations (Sec. 5.3.3), whose list, without regard to
        the user, is joined with the pattern by a linear layer: the mean of the reasons; the mean of what a two-layer
        perceptron makes of each; the mean of a self-attention over them.
    reasons : {"reasons", "item"}, default="reasons"
        ``item`` puts the text of the item (kind item) in the list's place, the paper's ablation of Sec. 5.3.1; with a
        list of one text, `fuse` has to be ``mean`` or ``mlp``.
    with_pattern : bool, default=True
        Join the pattern with what is attended to, by a linear layer, as the other fusions do. False is the paper's: the
        pattern is the query alone, and where items have few reasons, little of it gets through.
    balance : bool, default=True
        In a training step, leave reasons out of the rows of users who did not take the item as often as the rule above
        leaves them out of the rows of those who did (`ReasonLists`). False leaves out the user's own alone, as in
        predictions; the number of reasons then tells positive rows from others.
    seed : int, default=0
        Of the initial weights.

    Raises
    ------
    ConfigError
        If an option has no such value, or two of them do not go together.
    CoverageError
        If no reason is left, or no item has a text where that is asked for.
    TextEncoderError
        If the encoder gives no usable vectors.

    Warns
    -----
    CoverageWarning
        If reasons are left out, because their interaction is no positive training row.
    """

    def __init__(
        self,
        texts: TextTable | EncodedTexts,
        x: Mapping[str, np.ndarray],
        y: np.ndarray,
        *,
        user: str,
        item: str,
        encoder: TextEncoder | None = None,
        dim: int = 16,
        heads: int = 2,
        most: int = 16,
        fuse: str = "attention",
        reasons: str = "reasons",
        with_pattern: bool = True,
        balance: bool = True,
        seed: int = 0,
    ) -> None:
        _check(dim, heads, most, fuse, reasons, with_pattern)
        encoded = EncodedTexts.of(texts, encoder)
        positive = np.ravel(y) > 0.5
        taken = np.ravel(x[user])[positive].astype(np.int64), np.ravel(x[item])[positive].astype(np.int64)
        told = _item_texts(encoded) if reasons == "item" else _trained(encoded.reasons, taken)
        super().__init__(told.patterns)
        self.widths = {"curec": dim}
        self.heads, self.fuse = heads, fuse
        self.texts = told.texts
        self.pattern_texts = dict(zip(told.patterns.codes["user"].tolist(), told.pattern_texts, strict=True))
        width = dim if fuse in ("attention", "self") else told.vectors.shape[1]
        self.reasons = ReasonLists(
            (told.users, told.items),
            told.vectors,
            told.positions,
            taken if balance and reasons == "reasons" else None,  # an item's text was written about no user
            most=most,
            width=width,
        )
        self._lookups["item"] = "reasons"
        with seeded(seed):
            sizes = told.patterns.dim, told.vectors.shape[1], dim, heads
            self.fusion = (
                Attention(*sizes, with_pattern=with_pattern) if fuse == "attention" else _FUSIONS[fuse](*sizes)
            )

    def extra_repr(self) -> str:
        """Say how reasons are fused."""
        return f"fuse={self.fuse}"

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return (n, dim) of (n,) int64 codes."""
        return self._fused(users, items)[0]

    def attention(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return which reasons users attend to, and how much.

        Parameters
        ----------
        users, items : Tensor
            (n,) int64 codes.

        Returns
        -------
        numbers : Tensor
            (n, longest) int64 numbers of reasons, in the order of `texts`; -1 where the row sees none.
        weights : Tensor
            (n, heads, longest) float weights, zero where the row sees none; for each head they sum to 1.

        Raises
        ------
        ConfigError
            If the reasons are not fused by attention.
        """
        if self.fuse != "attention":
            raise ConfigError(
                f"with fuse={self.fuse!r} no user attends to reasons. Train an adaptor with fuse='attention'."
            )
        with torch.no_grad():
            _, weights = self._fused(users, items)
            numbers, there = self.reasons.seen(users, items)
        return numbers.masked_fill(~there, -1), weights

    def _fused(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        lists = self.reasons
        _, there = lists.seen(users, items)
        # Every item's reasons are projected once: a ranking asks for one item many times.
        distinct, where = items.unique(return_inverse=True)
        vectors = lists.vectors[lists.lists[lists.rows(distinct)]]  # (n_distinct, longest, d)
        output: tuple[Tensor, Tensor] = self.fusion(self.users, users, vectors, where, there, lists.missing)
        return output


class Attention(nn.Module):
    """Multi-head attention of patterns over reasons.

    Parameters
    ----------
    d_pattern, d_reason, dim, heads : int
        Dimensions of patterns, reasons and output, and heads.
    with_pattern : bool
        Whether the pattern joins what is attended to.
    """

    def __init__(self, d_pattern: int, d_reason: int, dim: int, heads: int, *, with_pattern: bool) -> None:
        super().__init__()
        self.heads, self.with_pattern = heads, with_pattern
        self.query = nn.Linear(d_pattern, dim)
        self.key = nn.Linear(d_reason, dim, bias=False)  # a bias would move all logits of a row alike
        self.value = nn.Linear(d_reason, dim)
        self.output = nn.Linear(dim + d_pattern if with_pattern else dim, dim)

    def forward(
        self, patterns: nn.Module, users: Tensor, vectors: Tensor, where: Tensor, there: Tensor, missing: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Parameters
        ----------
        patterns : TextVectors
            Lookup of the users' patterns.
        users : Tensor
            (n,) int64 codes.
        vectors : Tensor
            (n_distinct, longest, d) reasons of distinct items.
        where : Tensor
            (n,) int64, which of these is the row's item.
        there : Tensor
            (n, longest) bool, whether the row sees the reason.
        missing : Tensor
            (dim,) output of a row that sees none.

        Returns
        -------
        output : Tensor
            (n, dim).
        weights : Tensor
            (n, heads, longest).
        """
        query = by_distinct(lambda codes: self.query(patterns(codes)), users)
        key, value = (_split(layer(vectors), self.heads)[where] for layer in (self.key, self.value))
        query = query.unflatten(1, (self.heads, 1, -1))  # (n, heads, 1, dim / heads)
        weights = _weights((query * key).sum(dim=3) / math.sqrt(key.shape[3]), there)
        context = (weights.unsqueeze(3) * value).sum(dim=2).flatten(1)
        if self.with_pattern:
            joined = torch.cat([_or_missing(context, there, missing), by_distinct(patterns, users)], dim=1)
            return self.output(joined), weights
        return _or_missing(self.output(context), there, missing), weights


class Pooled(nn.Module):
    """The mean over reasons, of their vectors or of what a perceptron makes of them, joined with the pattern.

    Parameters are those of `Attention`, and

    Parameters
    ----------
    perceptron : bool
        Whether each reason goes through a perceptron first.
    """

    def __init__(self, d_pattern: int, d_reason: int, dim: int, heads: int, *, perceptron: bool = False) -> None:
        super().__init__()
        self.each: nn.Module = nn.Identity()
        if perceptron:
            self.each = nn.Sequential(nn.Linear(d_reason, d_reason), nn.ReLU(), nn.Linear(d_reason, d_reason))
        self.output = nn.Linear(d_reason + d_pattern, dim)

    def forward(
        self, patterns: nn.Module, users: Tensor, vectors: Tensor, where: Tensor, there: Tensor, missing: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the output, and the weight of each reason in its list; arguments are those of `Attention`."""
        weights = there / there.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = torch.einsum("nk,nkd->nd", weights.to(vectors.dtype), self.each(vectors)[where])
        pattern = by_distinct(patterns, users)
        output = self.output(torch.cat([_or_missing(pooled, there, missing), pattern], dim=1))
        return output, weights.unsqueeze(1)


class SelfAttention(nn.Module):
    """The mean of a self-attention over the reasons that a row sees, joined with the pattern.

    Parameters are those of `Attention`.
    """

    def __init__(self, d_pattern: int, d_reason: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d_reason, dim)
        self.key = nn.Linear(d_reason, dim, bias=False)
        self.value = nn.Linear(d_reason, dim)
        self.output = nn.Linear(dim + d_pattern, dim)

    def forward(
        self, patterns: nn.Module, users: Tensor, vectors: Tensor, where: Tensor, there: Tensor, missing: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the output, and the weight of each reason in the mean; arguments are those of `Attention`."""
        query, key, value = (_split(layer(vectors), self.heads) for layer in (self.query, self.key, self.value))
        logits = (query @ key.transpose(2, 3) / math.sqrt(key.shape[3]))[where]  # (n, heads, longest, longest)
        attended = _weights(logits, there.unsqueeze(1))
        mean = there / there.sum(dim=1, keepdim=True).clamp(min=1)
        weights = torch.einsum("nq,nhqk->nhk", mean.to(attended.dtype), attended)
        pooled = (weights.unsqueeze(3) * value[where]).sum(dim=2).flatten(1)
        pattern = by_distinct(patterns, users)
        return self.output(torch.cat([_or_missing(pooled, there, missing), pattern], dim=1)), weights


def _perceptron(*sizes: int) -> nn.Module:
    return Pooled(*sizes, perceptron=True)


_FUSIONS: dict[str, Any] = {"mean": Pooled, "mlp": _perceptron, "self": SelfAttention}


def _split(projected: Tensor, heads: int) -> Tensor:
    """Bring (m, longest, dim) to (m, heads, longest, dim / heads)."""
    return projected.unflatten(2, (heads, -1)).transpose(1, 2)


def _weights(logits: Tensor, there: Tensor) -> Tensor:
    """Return the softmax over the last dimension among what is there, (n, longest) or (n, 1, longest)."""
    mask = there.unsqueeze(1)
    # A large negative number and not -inf: a row may see no reason at all, and its softmax would be NaN.
    return logits.masked_fill(~mask, -1e9).softmax(dim=-1) * mask


def _or_missing(values: Tensor, there: Tensor, missing: Tensor) -> Tensor:
    return torch.where(there.any(dim=1, keepdim=True), values, missing)


def _check(dim: int, heads: int, most: int, fuse: str, reasons: str, with_pattern: bool) -> None:
    problems = []
    if fuse not in FUSIONS or reasons not in REASONS:
        problems.append(f"fuse={fuse!r} must be one of {FUSIONS} and reasons={reasons!r} one of {REASONS}")
    if min(dim, heads, most) < 1 or dim % heads:
        problems.append(f"dim={dim}, heads={heads} and most={most} must be at least 1, and heads a divisor of dim")
    if not with_pattern and fuse != "attention":
        problems.append(f"with_pattern=False is for fuse='attention', and fuse={fuse!r} has the pattern in any case")
    if reasons == "item" and fuse in ("attention", "self"):
        problems.append(f"reasons='item' is a list of one text, which fuse={fuse!r} gives weight 1: take 'mean'")
    if problems:
        raise ConfigError(f"{'; '.join(problems)}. Change them.")


def _item_texts(encoded: EncodedTexts) -> EncodedReasons:
    """Return the items' texts as one reason each, of nobody; and the patterns."""
    codes = encoded.codes["item"]
    if not len(codes):
        raise CoverageError(
            "reasons='item' reads texts of kind item, and there is none. Have them written, or leave it."
        )
    if (told := encoded.reasons) is None:
        users = encoded.vectors["user"]
        centred = directions(users, users.mean(axis=0, dtype=np.float64) if len(users) else 0.0).astype(np.float32)
        patterns, texts = EncodedTexts({"user": encoded.codes["user"]}, {"user": centred}), ("",) * len(users)
    else:
        patterns, texts = told.patterns, told.pattern_texts
    vectors = encoded.vectors["item"]
    return EncodedReasons(
        patterns,
        texts,
        np.full(len(codes), -1, dtype=np.int64),
        codes,
        np.full(len(codes), np.nan),
        directions(vectors, vectors.mean(axis=0, dtype=np.float64)).astype(np.float32),
        ("",) * len(codes),
    )


def _trained(told: EncodedReasons | None, taken: tuple[np.ndarray, np.ndarray]) -> EncodedReasons:
    """Return the reasons whose interaction is a positive training row."""
    if told is None or not len(told.users):
        raise CoverageError(
            "the texts have no reasons, which CURec attends to. Have them written: sllmr texts --kind pattern,reason; "
            "or name their table as well (--texts texts.parquet,reasons.parquet)."
        )
    kept = pd.MultiIndex.from_arrays([told.users, told.items]).isin(pd.MultiIndex.from_arrays(taken))
    if not kept.any():
        raise CoverageError(
            f"not one of {len(kept)} reasons is about a positive training row. Pass the rows that fit trains on, and "
            "reasons about them, with the ids of the interactions."
        )
    if not kept.all():
        warnings.warn(
            f"{(~kept).sum()} of {len(kept)} reasons are left out: their interaction is no positive training row. If "
            "they are many, have reasons written about what fit trains on.",
            CoverageWarning,
            stacklevel=3,
        )
    arrays = {name: getattr(told, name)[kept] for name in ("users", "items", "positions", "vectors")}
    return replace(told, **arrays, texts=tuple(text for text, keep in zip(told.texts, kept, strict=True) if keep))
