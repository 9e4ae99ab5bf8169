"""`Usable`: the part of a score table that a training can use."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .item_rows import RowBuilder
from .score_table import UserScores


@dataclass(frozen=True)
class Usable:
    """The part of a score table that this training can use, and what is known of it.

    Attributes
    ----------
    candidates, probes : UserScores
        Pairs whose user has a template row and whose item has known columns.
    candidate_rows, probe_rows : RowBuilder
        Build the rows; templates are in the order of the users of each group.
    cold : Tensor
        (n_user_codes,) bool.
    tail : Tensor
        (n_item_codes,) bool.
    positive : Tensor
        (n_candidates,) bool: the user has a training positive with the item.
    """

    candidates: UserScores
    probes: UserScores
    candidate_rows: RowBuilder
    probe_rows: RowBuilder
    cold: Tensor
    tail: Tensor
    positive: Tensor
