"""`Usable`: the part of a score table that a training can use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .drawable import DrawableScores
from .item_rows import RowBuilder
from .user_scores import UserScores


@dataclass(frozen=True)
class Usable:
    """The part of a score table that this training can use, and what is known of it.

    Attributes
    ----------
    candidates : DrawableScores
        Pairs whose user has a template row and whose item has known columns.
    probes : UserScores
        Likewise.
    candidate_rows, probe_rows : RowBuilder
        Build the rows; templates are in the order of the users of each group.
    cold : Tensor
        (n_user_codes,) bool.
    tail : Tensor
        (n_item_codes,) bool.
    positive : Tensor
        (n,) int64 entries of the candidates whose user has a training positive with the item.
    account : dict of str to Any
        What could be used, and what not, in words and numbers.
    """

    candidates: DrawableScores
    probes: UserScores
    candidate_rows: RowBuilder
    probe_rows: RowBuilder
    cold: Tensor
    tail: Tensor
    positive: Tensor
    account: dict[str, Any] = field(default_factory=dict)
