"""RecLM: profiles of users and items as inputs, and items that have no id yet (Jiang et al., ACL 2025)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .adaptor import Adaptor, by_distinct, seeded
from .texts import TextTable
from .vectors import EncodedTexts, TextEncoder, TextVectors, row_of_codes, sorted_codes

UNKNOWN_ITEM = 0  # the code that a backbone gets where it must not know the item


class RecLMAdaptor(Adaptor):
    """Fills two dense columns, ``reclm_user`` and ``reclm_item``, from profiles, so that items need no trained id.

    Jiang et al., "RecLM: Recommendation Instruction Tuning" (ACL 2025, arXiv:2412.19302), Sec. 2.2, Eq. 1-2::

        f_user = Psi([x_u | T_pro(profile of the user)])
        f_item = Psi([T_raw(text of the item) | T_pro(profile of the item)])

    ``T`` is Linear-ReLU-Linear to `dim` numbers, ``Psi`` is Linear-ReLU from twice as many and shared by both sides,
    and x_u is a vector a user, learned here, since the backbone's embeddings are the backbone's. docs/reclm.md lists
    what else differs from the paper: no language model is tuned, and the backbone is yours.

    A backbone reads item ids beside these columns, and the row of an id that no training interaction has is noise. So
    the backbone gets code 0, the padding row, in place of such an item, always; and, with the chance `id_dropout` in
    each row of a training step, in place of any, so that it learns to rank by the columns alone. The adaptor sees the
    true codes throughout. An item that training has not seen is therefore scored by its texts, whatever its own row of
    the embedding holds.

    Unlike the regularizer this changes inference: items and users need texts, and the module has to run, unless its
    columns are computed beforehand with `sllmr_plugin.materialize` or `sllmr_plugin.serving_table`, which also tell the
    code that the plain model has to be given.

    Parameters
    ----------
    texts : TextTable or EncodedTexts
        Profiles (kinds user_profile and item_profile) and texts of items (kind item), or what `EncodedTexts.of` made of
        them. Without profiles of a side, its texts of kind user or item stand for them.
    x : mapping of str to ndarray
        The rows that `fit` trains on; only the columns `user` and `item` are read.
    y : ndarray
        (n_rows,) their labels; an item without a label above one half is one that training has not seen, also where it
        was drawn as a negative.
    user, item : str
        Names of the id columns.
    encoder : TextEncoder, optional
        Default: `TfidfSvdEncoder`. Not used for texts that are encoded.
    dim : int, default=32
        Dimension of each of the two columns, and of all that goes into them.
    hidden : int, default=128
        Width of the hidden layer of ``T``.
    id_dropout : float, default=0.2
        Chance that the backbone does not get an item's id in a row of a training step; 0 never, below 1.
    seed : int, default=0
        Of the initial weights and of the id dropout.

    Raises
    ------
    ConfigError
        If an option is out of range, or an item of the training rows has code 0.
    TextEncoderError
        If the encoder gives no usable vectors.
    """

    replaces_items = True

    seen: Tensor
    known_users: Tensor

    def __init__(
        self,
        texts: TextTable | EncodedTexts,
        x: Mapping[str, np.ndarray],
        y: np.ndarray,
        *,
        user: str,
        item: str,
        encoder: TextEncoder | None = None,
        dim: int = 32,
        hidden: int = 128,
        id_dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        if dim < 1 or hidden < 1 or not 0 <= id_dropout < 1:
            raise ConfigError(
                f"dim={dim} and hidden={hidden} must be at least 1, and id_dropout={id_dropout} from 0 to below 1. "
                "Change them."
            )
        users, items = (np.ravel(x[name]).astype(np.int64) for name in (user, item))
        taken = np.unique(items[np.ravel(y) > 0.5])
        if (taken == UNKNOWN_ITEM).any():
            raise ConfigError(
                f"an item of the training rows has code {UNKNOWN_ITEM} in column {item!r}, which the backbone gets for "
                "an item that it must not know. Let the codes of items begin with 1, and give the embedding a row more."
            )
        encoded = EncodedTexts.of(texts, encoder)
        profiles = encoded.profiles or encoded
        super().__init__(profiles)
        self.widths = {"reclm_user": dim, "reclm_item": dim}
        self.sides = {"reclm_user": "user", "reclm_item": "item"}
        self.id_dropout, self._seed, self._step = id_dropout, seed, 0
        self.raw = TextVectors(encoded, "item")
        self.register_buffer("seen", sorted_codes(torch.from_numpy(taken)), persistent=False)
        known_users = torch.from_numpy(np.unique(users))
        self.register_buffer("known_users", sorted_codes(known_users), persistent=False)
        with seeded(seed):
            self.of_profile = _transform(profiles.dim, hidden, dim)
            self.of_raw = _transform(encoded.dim, hidden, dim)
            self.fuse = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU())
            table = nn.init.xavier_uniform_(torch.empty(len(known_users), dim))
        self.user_table = nn.Parameter(torch.cat([table, torch.zeros(1, dim)]))  # the last row: any other user

    def extra_repr(self) -> str:
        """Say how often the backbone does without the id."""
        return f"id_dropout={self.id_dropout:g}"

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return (n, 2 * dim) of (n,) int64 codes: the user's column, then the item's."""
        return torch.cat([by_distinct(self._user, users), by_distinct(self._item, items)], dim=1)

    def _user(self, codes: Tensor) -> Tensor:
        own = self.user_table[row_of_codes(self.known_users, codes)]
        return self.fuse(torch.cat([own, self.of_profile(self.users(codes))], dim=1))

    def _item(self, codes: Tensor) -> Tensor:
        parts = self.of_raw(self.raw(codes)), self.of_profile(self.items(codes))
        return self.fuse(torch.cat(parts, dim=1))

    def backbone_items(self, users: Tensor, items: Tensor) -> Tensor:
        """Return what the backbone gets in place of (n,) item codes: 0 for one that training has not seen.

        In a training step, where gradients are recorded, also with the chance `id_dropout`. Which rows these are is
        decided by a hash of seed, step, user and item: no random number is drawn, and a row that a step computes twice,
        or beside other rows, is dropped both times or not at all.
        """
        known = row_of_codes(self.seen, items) < len(self.seen) - 1
        if self.id_dropout > 0 and torch.is_grad_enabled():
            key = _scatter(_scatter(_scatter(torch.full_like(users, self._seed) + _GOLDEN) + self._step) ^ users)
            known &= _scatter(key ^ items) >> 11 & _BITS >= int(self.id_dropout * 2**53)
        return torch.where(known, items, UNKNOWN_ITEM)

    def next_step(self) -> None:
        """Have the next training step drop other ids."""
        self._step += 1


_GOLDEN = 0x1E3779B97F4A7C15
_BITS = 2**53 - 1


def _scatter(values: Tensor) -> Tensor:
    """Scatter int64 values over all of int64, one to one (the finaliser of splitmix64; Steele et al., 2014)."""
    values = (values ^ (values >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    values = (values ^ (values >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return values ^ (values >> 31 & 0x1FFFFFFFF)


def _transform(dim_in: int, hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim_in, hidden), nn.ReLU(), nn.Linear(hidden, dim))
