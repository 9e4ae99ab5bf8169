"""LLM-CF: attention over labelled exemplars that are retrieved by text (Sun et al., CIKM 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from .adaptor import Adaptor, seeded
from .exemplars import Exemplars, drawn_base, reasoned_base
from .texts import TextTable
from .vectors import EncodedTexts, TextEncoder


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
    seed : int, default=0
        Of the draw and of the initial weights.

    Raises
    ------
    CoverageError
        If there is no exemplar of one of the labels.
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
        seed: int = 0,
    ) -> None:
        encoded = EncodedTexts.of(texts, encoder)
        super().__init__(encoded)
        self.widths = {"llm_cf": dim}
        rows = (np.ravel(x[user]), np.ravel(x[item]), np.ravel(y))
        told = encoded.reasoning
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
        # Training starts from the sample's own texts: at first what the exemplars add is noise, label vectors of length
        # sqrt(hidden). A random start costs 0.003 to 0.012 of the demo's validation AUC after an epoch, in three seeds.
        nn.init.zeros_(self.after_attention.weight)
        nn.init.zeros_(self.after_attention.bias)
        # Learned weight of a cosine in the attention's logits.
        self.similarity_scale = nn.Parameter(torch.tensor(1.0))

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
        base = self.exemplars
        texts = torch.cat([self.users(base.user), self.items(base.item)], dim=1)  # (size, 2 * d)
        key, value = self.key(texts), self.value(texts) + self.label(base.label)
        if self.reasoning is not None:
            value = value + self.reasoning(base.reasoning)
        there = similarity > -torch.inf
        learned = (own.unsqueeze(1) * key[found]).sum(dim=2) / math.sqrt(own.shape[1])
        logits = learned + self.similarity_scale * similarity.masked_fill(~there, 0.0)
        # A large negative number and not -inf: a sample may have no exemplar at all, and its softmax would be NaN.
        weight = logits.masked_fill(~there, -1e9).softmax(dim=1) * there
        context = (weight.unsqueeze(2) * value[found]).sum(dim=1)
        hidden = own + self.after_attention(context)
        hidden = hidden + self.feed_forward(hidden)
        return hidden
