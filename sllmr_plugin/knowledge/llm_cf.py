"""LLM-CF: attention over labelled exemplars that are retrieved by text (Sun et al., CIKM 2024)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..errors import ConfigError, CoverageError, CoverageWarning
from .adaptor import Adaptor, seeded
from .texts import TextTable
from .vectors import EncodedReasoning, EncodedTexts, TextEncoder, TextVectors

Rows: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
_ROWS_AT_A_TIME = 1024


class LLMCFAdaptor(Adaptor):
    """Fills one dense column, ``llm_cf``, from the texts of a (user, item) and of exemplars like it.

    Sun et al., "Large Language Models Enhanced Collaborative Filtering" (CIKM 2024, arXiv:2403.17688): the most similar
    in-context exemplars of each sample, with their texts and labels, go through a decoder layer whose output at the
    sample's place is the extra input. Where the table has reasoning texts (the paper's chains of thought), the
    exemplars are the pairs that these are about, and what was written about them enters the attention. Else they are
    drawn from the training rows, and represented by the texts of their user and item only. docs/baselines.md lists what
    differs from the paper: no language model is tuned, and one cross-attention layer stands for the decoder.

    Unlike the regularizer this changes inference: users and items need texts, and the module has to run, unless its
    column is computed beforehand with `sllmr_plugin.materialize`.

    Parameters
    ----------
    texts : TextTable or EncodedTexts
        The texts, or what `EncodedTexts.of` made of them.
    x : mapping of str to ndarray
        The rows that `fit` trains on, and no others: exemplars are drawn from them, and those with a reasoning text are
        checked against them. Only the columns `user` and `item` are read.
    y : ndarray
        (n_rows,) their labels; above one half is positive.
    user, item : str
        Names of the id columns.
    encoder : TextEncoder, optional
        Default: `TfidfSvdEncoder`. Not used for texts that are encoded.
    dim : int, default=16
        Dimension of the column.
    hidden : int, default=32
        Width of the attention layer.
    size : int, default=2000
        Exemplars drawn from the rows, at most, half of each label. The others train without being retrieved. Not used
        where there are reasoning texts: all of these are exemplars.
    n_each : int, default=2
        Exemplars of each label that a sample retrieves; the paper's code takes two of each. 0 takes none and leaves the
        sample's own texts.
    pool : int, default=32
        Exemplars of each label with the most similar items, among which these are found.
    heads : int, default=1
        Of the attention; a divisor of `hidden`.
    reconstruct : float, default=0
        Weight of the reconstruction loss (`loss`) beside the library's loss per row. Above 0 there have to be reasoning
        texts.
    seed : int, default=0
        Of the draw and of the initial weights.

    Raises
    ------
    CoverageError
        If one of the labels has no exemplar, or there is no reasoning to reconstruct.
    ConfigError
        If `heads` does not divide `hidden`, or `reconstruct` is negative.
    TextEncoderError
        If the encoder gives no usable vectors.

    Warns
    -----
    CoverageWarning
        If reasoning texts are left out, since their labels are not those of the training rows, or their users or items
        have no text.
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
        hidden: int = 32,
        size: int = 2000,
        n_each: int = 2,
        pool: int = 32,
        heads: int = 1,
        reconstruct: float = 0.0,
        seed: int = 0,
    ) -> None:
        if heads < 1 or hidden % heads or not 0 <= reconstruct < math.inf:
            raise ConfigError(
                f"heads={heads!r} must be a divisor of hidden={hidden!r}, and reconstruct={reconstruct!r} a number of "
                "at least 0."
            )
        encoded = EncodedTexts.of(texts, encoder)
        super().__init__(encoded)
        self.heads = heads
        self.loss_weight = float(reconstruct)
        self.widths = {"llm_cf": dim}
        rows = (np.ravel(x[user]), np.ravel(x[item]), np.ravel(y))
        told = encoded.reasoning
        if reconstruct and told is None:
            raise CoverageError(
                f"reconstruct={reconstruct:g}, and the table has no reasoning texts to reconstruct. Have some written "
                "(sllmr texts --kind reasoning), or leave out reconstruct."
            )
        base = (
            drawn_base(self.users, self.items, rows, size, seed)
            if told is None
            else reasoned_base(self.users, self.items, rows, told)
        )
        self.exemplars = Exemplars(self.users, self.items, base, pool=pool, n_each=n_each)
        with seeded(seed):
            self.query = nn.Linear(2 * encoded.dim, hidden)
            self.key = nn.Linear(2 * encoded.dim, hidden)
            self.value = nn.Linear(2 * encoded.dim, hidden)
            self.label = nn.Embedding(2, hidden)
            self.after_attention = nn.Linear(hidden, hidden)
            self.feed_forward = nn.Sequential(
                nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden)
            )
            self.output = nn.Linear(hidden, dim)
            # Last, so that all other weights start the same with reasoning and without.
            self.reasoning = None if told is None else nn.Linear(told.vectors.shape[1], hidden, bias=False)
            if told is not None and reconstruct:
                self.reconstruction = nn.Sequential(
                    nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, told.vectors.shape[1])
                )
        # Training starts from the sample's own texts: at first what the exemplars add is noise, label vectors of length
        # sqrt(hidden). A random start costs 0.003 to 0.012 of the demo's validation AUC after an epoch, in three seeds.
        nn.init.zeros_(self.after_attention.weight)
        nn.init.zeros_(self.after_attention.bias)
        # Learned weight of a cosine in the attention's logits.
        self.similarity_scale = nn.Parameter(torch.tensor(1.0))

    @classmethod
    def as_published(
        cls,
        texts: TextTable | EncodedTexts,
        x: Mapping[str, np.ndarray],
        y: np.ndarray,
        *,
        user: str,
        item: str,
        **changes: Any,
    ) -> LLMCFAdaptor:
        """Return the adaptor at the setting of the authors' public code, as far as it has one here.

        Two heads, two exemplars of each label, and the loss that reconstructs their reasoning, of weight 1. The code
        has reasoning about a tenth of the training rows: that many exemplars are to be reasoned about
        (``sllmr texts --kind reasoning --exemplars N``).

        Parameters
        ----------
        texts, x, y, user, item
            As of the class; the table needs reasoning texts.
        **changes
            Other arguments of the class.
        """
        published: dict[str, Any] = {"heads": 2, "n_each": 2, "reconstruct": 1.0}
        return cls(texts, x, y, user=user, item=item, **published | changes)

    @property
    def has_reasoning(self) -> bool:
        """Whether the exemplars are those of the table's reasoning texts."""
        return self.reasoning is not None

    def extra_repr(self) -> str:
        """Say what is retrieved from."""
        n_positive = int(self.exemplars.label.sum())
        counts = f"{n_positive} positive and {len(self.exemplars.label) - n_positive} negative exemplars"
        return f"{counts}, {'with' if self.has_reasoning else 'without'} reasoning"

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return (n, dim) of (n,) int64 codes."""
        own = self.query(torch.cat([self.users(users), self.items(items)], dim=1))  # (n, hidden)
        return self.output(self._decode(own, *self._retrieve(users, items)))

    def _retrieve(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return self.exemplars.retrieve(users, self.users.rows(users), self.items.rows(items))

    def _decode(self, own: Tensor, found: Tensor, similarity: Tensor) -> Tensor:
        """Attend from the samples (n, hidden) to their exemplars (n, n_found): (n, hidden)."""
        there = similarity > -torch.inf
        bias = self.similarity_scale * similarity.masked_fill(~there, 0.0)
        context = self._attend(own.unsqueeze(1), *self._keys_and_values(found), bias.unsqueeze(1), there.unsqueeze(1))
        return self._layer(own, context.squeeze(1))

    def loss(self, users: Tensor, items: Tensor) -> tuple[Tensor, int]:
        r"""Return how far the decoder is from the reasoning about the exemplars of (n,) samples.

        ``1 - mean cos(MLP(h_k), c_k)`` over all samples and their exemplars k, with :math:`c_k` the vector of the
        reasoning about k and :math:`h_k` the decoder's output at k: from the texts and the label of k, and from all of
        the exemplars before it, with their reasoning. What is to be reconstructed is no part of :math:`h_k`.

        Returns
        -------
        loss : Tensor
            ().
        n_terms : int
            Exemplars of all samples.
        """
        base = self.exemplars
        found, similarity = self._retrieve(users, items)  # (n, n_found)
        there = similarity > -torch.inf
        n_terms = int(there.sum())
        if n_terms == 0:
            return similarity.new_zeros(()), 0
        texts = torch.cat([self.users(base.user), self.items(base.item)], dim=1)  # (size, 2 * d)
        own = (self.query(texts) + self.label(base.label))[found]  # (n, n_found, hidden)
        n_found = found.shape[1]
        before = torch.ones(n_found, n_found, dtype=torch.bool, device=found.device).tril(-1)
        context = self._attend(own, *self._keys_and_values(found), own.new_zeros(1, 1), before & there.unsqueeze(1))
        assert base.reasoning is not None
        said = self.reconstruction(self._layer(own, context))  # (n, n_found, d_reasoning)
        cosine = nn.functional.cosine_similarity(said, base.reasoning[found], dim=2)
        return 1 - (cosine * there).sum() / n_terms, n_terms

    def _keys_and_values(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of exemplars (n, n_found): (n, n_found, hidden) each."""
        base = self.exemplars
        texts = torch.cat([self.users(base.user), self.items(base.item)], dim=1)  # (size, 2 * d)
        key, value = self.key(texts), self.value(texts) + self.label(base.label)
        if self.reasoning is not None:
            value = value + self.reasoning(base.reasoning)
        return key[found], value[found]

    def _attend(self, own: Tensor, key: Tensor, value: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
        """Attend from places (n, q, hidden) to those of (n, k, hidden) that each sees, (n, q, k): (n, q, hidden)."""
        own, key, value = (one.unflatten(2, (self.heads, -1)) for one in (own, key, value))  # (n, ., heads, d)
        learned = (own.unsqueeze(2) * key.unsqueeze(1)).sum(dim=4) / math.sqrt(own.shape[3])  # (n, q, k, heads)
        logits, seen = learned.transpose(2, 3) + bias.unsqueeze(-2), seen.unsqueeze(2)  # (n, q, heads, k)
        # A large negative number and not -inf: a place may see none at all, and its softmax would be NaN.
        weight = logits.masked_fill(~seen, -1e9).softmax(dim=3) * seen
        return (weight.transpose(2, 3).unsqueeze(4) * value.unsqueeze(1)).sum(dim=2).flatten(2)

    def _layer(self, own: Tensor, context: Tensor) -> Tensor:
        """Return what the decoder makes of a place and what it has attended to, (..., hidden) each."""
        hidden = own + self.after_attention(context)
        result: Tensor = hidden + self.feed_forward(hidden)
        return result


@dataclass(frozen=True)
class ExemplarBase:
    """Labelled (user, item) pairs, positives first.

    Attributes
    ----------
    user, item : Tensor
        (size,) int64 codes.
    label : Tensor
        (size,) int64, 1 or 0.
    reasoning : Tensor or None
        (size, d_reasoning) float32 vectors of the reasoning about each; None where there is none.
    """

    user: Tensor
    item: Tensor
    label: Tensor
    reasoning: Tensor | None = None


def drawn_base(users: TextVectors, items: TextVectors, rows: Rows, size: int, seed: int) -> ExemplarBase:
    """Draw training rows, half of them positive, whose user and item have texts.

    Parameters
    ----------
    users, items : TextVectors
        Lookups of the text vectors.
    rows : tuple of ndarray
        (n_rows,) user codes, item codes and labels of the training rows.
    size : int
        Exemplars drawn, at most.
    seed : int
        Of the draw.

    Raises
    ------
    CoverageError
        If no row of one of the labels has a text of its user and of its item.
    """
    user, item = (torch.from_numpy(np.asarray(codes).astype(np.int64)) for codes in rows[:2])
    positive = np.asarray(rows[2]).reshape(-1) > 0.5
    has_texts = (users.known(user) & items.known(item)).numpy()
    generator = np.random.default_rng(seed)
    chosen = []
    for wanted, name in ((True, "positive"), (False, "negative")):
        usable = np.flatnonzero(has_texts & (positive == wanted))
        if not len(usable):
            raise CoverageError(
                f"no {name} training row has a text of its user and one of its item, so there is no exemplar to "
                "retrieve. Pass the rows that fit trains on, and texts of their users and items."
            )
        n = min(max(1, size // 2), len(usable))
        chosen.append(np.sort(generator.choice(usable, n, replace=False)))
    index = torch.from_numpy(np.concatenate(chosen))
    label = torch.cat([torch.ones(len(chosen[0])), torch.zeros(len(chosen[1]))]).long()
    return ExemplarBase(user[index], item[index], label)


def reasoned_base(users: TextVectors, items: TextVectors, rows: Rows, reasoning: EncodedReasoning) -> ExemplarBase:
    """Take all exemplars with a reasoning text whose label agrees with the training rows.

    The text explains a label, so a positive exemplar without a positive training row may be a held-out interaction
    that the model would learn, and a negative one that is a positive row explains what did not happen.

    Parameters
    ----------
    users, items : TextVectors
        Lookups of the text vectors.
    rows : tuple of ndarray
        (n_rows,) user codes, item codes and labels of the training rows.
    reasoning : EncodedReasoning
        The exemplars.

    Raises
    ------
    CoverageError
        If one of the labels has no exemplar left.

    Warns
    -----
    CoverageWarning
        If exemplars are left out.
    """
    user, item = torch.tensor(reasoning.users), torch.tensor(reasoning.items)
    positive = reasoning.labels == 1
    trained = (np.asarray(rows[2]).reshape(-1) > 0.5) & np.isin(rows[0], reasoning.users)
    pairs = pd.MultiIndex.from_arrays([reasoning.users, reasoning.items])
    is_positive_row = pairs.isin(pd.MultiIndex.from_arrays([np.asarray(codes)[trained] for codes in rows[:2]]))
    has_texts = (users.known(user) & items.known(item)).numpy()
    reasons = {
        "positive, but no positive training row": positive & ~is_positive_row,
        "negative, but a positive training row": ~positive & is_positive_row,
        "without a text of their user or item": (positive == is_positive_row) & ~has_texts,
    }
    told = "; ".join(f"{mask.sum()} {reason}" for reason, mask in reasons.items() if mask.any())
    usable = (positive == is_positive_row) & has_texts
    chosen = [np.flatnonzero(usable & mask) for mask in (positive, ~positive)]
    for name, found in zip(("positive", "negative"), chosen, strict=True):
        if not len(found):
            raise CoverageError(
                f"no {name} exemplar with a reasoning text can be used, of {len(positive)} in all"
                f"{f' ({told})' if told else ''}. Have reasoning written about the interactions that fit trains on "
                "(sllmr texts --kind reasoning asks about both labels), or leave these rows out of the text table."
            )
    if told:
        warnings.warn(
            f"{len(positive) - usable.sum()} of {len(positive)} exemplars with a reasoning text are left out: {told}. "
            "If they are many, have the missing texts written, and reasoning about what fit trains on.",
            CoverageWarning,
            stacklevel=3,
        )
    index = torch.from_numpy(np.concatenate(chosen))
    label = torch.tensor(reasoning.labels)[index]
    return ExemplarBase(user[index], item[index], label, torch.tensor(reasoning.vectors)[index])


class Exemplars(nn.Module):
    """A base of labelled (user, item) pairs and their retrieval by the texts of users and items.

    Retrieval takes two stages, so that a ranking of whole catalogues can afford it. For each item the `pool` exemplars
    of each label with the most similar item texts are found once, here. Of these, a (user, item) takes the `n_each` of
    each label with the largest sum of the two cosines, of user texts and of item texts. Exemplars of the user itself
    are left out: among them would be the row that is being trained, with its label.

    Parameters
    ----------
    users, items : TextVectors
        Lookups of the text vectors.
    base : ExemplarBase
        The exemplars.
    pool, n_each : int
        Exemplars of each label that are looked at, and that are taken.

    Attributes
    ----------
    user, item : Tensor
        (size,) int64 codes of the exemplars, positives first.
    label : Tensor
        (size,) int64, 1 or 0.
    reasoning : Tensor or None
        (size, d_reasoning) float32 vectors of what a language model wrote about the exemplars, if it did.
    candidates : Tensor
        (n_item_rows, 2, pool) int64 exemplars for each row of the items' vectors, positives first.
    similarity : Tensor
        (n_item_rows, 2, pool) float32 cosines of their item texts.
    """

    user: Tensor
    item: Tensor
    label: Tensor
    reasoning: Tensor | None
    candidates: Tensor
    similarity: Tensor
    user_rows: Tensor
    user_directions: Tensor

    def __init__(
        self,
        users: TextVectors,
        items: TextVectors,
        base: ExemplarBase,
        *,
        pool: int,
        n_each: int,
    ) -> None:
        super().__init__()
        user, item, label = base.user, base.item, base.label
        self.n_each = n_each
        directions = nn.functional.normalize(items.vectors, dim=1)  # (n_item_rows, d)
        of_exemplar = directions[items.rows(item)]
        candidates, similarity = [], []
        for wanted in (1, 0):
            own = torch.nonzero(label == wanted).squeeze(1)
            theirs, n = of_exemplar[own].T, min(pool, len(own))
            near = [(block @ theirs).topk(n, dim=1) for block in directions.split(_ROWS_AT_A_TIME)]
            numbers, cosines = own[torch.cat([block[1] for block in near])], torch.cat([block[0] for block in near])
            # A label with fewer exemplars than the pool is filled up; what is filled in is masked by its similarity.
            candidates.append(nn.functional.pad(numbers, (0, pool - n)))
            similarity.append(nn.functional.pad(cosines, (0, pool - n), value=-torch.inf))
        for name, tensor in {
            "user": user,
            "item": item,
            "label": label,
            "reasoning": base.reasoning,
            "user_rows": users.rows(user),
            "candidates": torch.stack(candidates, dim=1),
            "similarity": torch.stack(similarity, dim=1),
            "user_directions": nn.functional.normalize(users.vectors, dim=1),
        }.items():
            self.register_buffer(name, tensor, persistent=False)

    def retrieve(self, users: Tensor, user_rows: Tensor, item_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Find the exemplars of (user, item) pairs.

        Parameters
        ----------
        users : Tensor
            (n,) int64 codes.
        user_rows, item_rows : Tensor
            (n,) int64 rows of the text vectors of users and items.

        Returns
        -------
        exemplars : Tensor
            (n, 2 * n_each) int64 numbers of exemplars, positives first.
        similarity : Tensor
            (n, 2 * n_each) float32 sum of the two cosines; -inf marks a place that no exemplar fills.
        """
        found = self.candidates[item_rows]  # (n, 2, pool)
        distinct, where = user_rows.unique(return_inverse=True)
        of_users = self.user_directions[distinct] @ self.user_directions[self.user_rows].T  # (n_distinct, size)
        joint = self.similarity[item_rows] + of_users[where.view(-1, 1, 1), found]
        joint = joint.masked_fill(self.user[found] == users.view(-1, 1, 1), -torch.inf)
        best = joint.topk(min(self.n_each, joint.shape[2]), dim=2)
        return found.gather(2, best.indices).flatten(1), best.values.flatten(1)
