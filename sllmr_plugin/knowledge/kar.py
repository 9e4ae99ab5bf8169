"""KAR: user preference and item fact texts through a hybrid-expert adaptor (Xi et al., RecSys 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .adaptor import Adaptor, by_distinct, seeded
from .texts import TextTable
from .vectors import EncodedTexts, TextEncoder, TextVectors


class Side(nn.Module):
    """One side (users or items): its own experts and the shared ones, mixed by its own gate.

    ``sum_e softmax(W v + b)_e * expert_e(v)`` over the shared and the side's own experts.

    Parameters
    ----------
    vectors : TextVectors
        Text vectors v of the side.
    shared, own : list of modules
        Experts, each (n, d) -> (n, dim).
    dim_in : int
        d.
    """

    def __init__(self, vectors: TextVectors, shared: nn.ModuleList, own: nn.ModuleList, dim_in: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.shared = shared
        self.own = own
        self.gate = nn.Linear(dim_in, len(shared) + len(own))

    def forward(self, codes: Tensor) -> Tensor:
        """Return (n, dim) of (n,) int64 codes."""
        vectors = self.vectors(codes)
        weight = self.gate(vectors).softmax(dim=1)  # (n, n_experts)
        outputs = torch.stack([expert(vectors) for expert in (*self.shared, *self.own)], dim=1)  # (n, n_experts, dim)
        return (weight.unsqueeze(2) * outputs).sum(dim=1)


class KARAdaptor(Adaptor):
    """Fills two dense columns, ``kar_user`` and ``kar_item``, from LLM-written texts of users and items.

    Xi et al., "Towards Open-World Recommendation with Knowledge Augmentation from Large Language Models" (RecSys 2024,
    arXiv:2306.10933), hybrid-expert adaptor: experts that both sides share, experts of each side, and one gate per
    side. The experts reduce the encoder's vectors to `dim` numbers. docs/baselines.md lists what differs from the
    paper.

    Unlike the regularizer this changes inference: users and items need texts, and the module has to run, unless its
    columns are computed beforehand with `sllmr_plugin.materialize`.

    Parameters
    ----------
    texts : TextTable or EncodedTexts
        The texts, or what `EncodedTexts.of` made of them.
    encoder : TextEncoder, optional
        Default: `TfidfSvdEncoder`. Not used for texts that are encoded.
    dim : int, default=16
        Dimension of each of the two columns.
    hidden : int, default=32
        Width of an expert's hidden layer.
    shared_experts, own_experts : int, default=2
        Experts for both sides, and for each side alone.
    seed : int, default=0
        Of the initial weights.

    Raises
    ------
    TextEncoderError
        If the encoder gives no usable vectors.
    """

    def __init__(
        self,
        texts: TextTable | EncodedTexts,
        encoder: TextEncoder | None = None,
        *,
        dim: int = 16,
        hidden: int = 32,
        shared_experts: int = 2,
        own_experts: int = 2,
        seed: int = 0,
    ) -> None:
        encoded = EncodedTexts.of(texts, encoder)
        super().__init__(encoded)
        self.widths = {"kar_user": dim, "kar_item": dim}
        self.sides = {"kar_user": "user", "kar_item": "item"}

        def experts(n: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(nn.Linear(encoded.dim, hidden), nn.ReLU(), nn.Linear(hidden, dim)) for _ in range(n)
            )

        with seeded(seed):
            self.shared = experts(shared_experts)
            self.user_side = Side(self.users, self.shared, experts(own_experts), encoded.dim)
            self.item_side = Side(self.items, self.shared, experts(own_experts), encoded.dim)

    @classmethod
    def as_published(cls, texts: TextTable | EncodedTexts, *, own_experts: int = 2, **changes: Any) -> KARAdaptor:
        """Return the adaptor at the sizes of the authors' public code: experts of 128 and 32 units, two of them shared.

        Parameters
        ----------
        texts
            As of the class.
        own_experts : int, default=2
            Of each side; the code has 2 to 6, by backbone and data.
        **changes
            Other arguments of the class.
        """
        published: dict[str, Any] = {"dim": 32, "hidden": 128, "shared_experts": 2, "own_experts": own_experts}
        return cls(texts, **published | changes)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return (n, 2 * dim) of (n,) int64 codes: the user's column, then the item's."""
        return torch.cat([by_distinct(self.user_side, users), by_distinct(self.item_side, items)], dim=1)
