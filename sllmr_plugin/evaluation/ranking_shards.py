"""Counts behind the AUC of a shard of users: in blocks here, or in other processes (`rank_on`)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backends.broadcast import Broadcast, broadcast
from ..datasets.negatives import UnseenItems
from ..parallel.engine import Engine, cut
from .history_columns import HistoryColumns
from .model_scores import ItemSide, check_finite, evaluation_mode, score_items


@dataclass(frozen=True)
class RankingPlan:
    """What is the same for all users of a ranking.

    Attributes
    ----------
    n_catalogue : int
        Items of the catalogue, with codes from 1.
    n_items : int or None
        Items drawn for each user; None ranks against all.
    rows_per_block : int
        Rows scored at once.
    item_side : ItemSide
        What the rows of an item hold.
    histories : HistoryColumns
        Columns that are left out where a block of users does not need them.
    """

    n_catalogue: int
    n_items: int | None
    rows_per_block: int
    item_side: ItemSide
    histories: HistoryColumns

    @property
    def users_per_block(self) -> int:
        """Users scored at once, as far as `rows_per_block` allows."""
        return max(1, self.rows_per_block // (self.n_items + 1 if self.n_items else self.n_catalogue))


@dataclass(frozen=True, eq=False)
class RankingShard:
    """Users to be ranked, and all that is particular to them.

    Attributes
    ----------
    templates : Tensor
        (n_users, n_inputs) float32 input rows.
    users : ndarray
        (n_users,) raw ids, for messages.
    asked, seen : tuple of (ndarray, ndarray)
        Position of the user in this shard, ascending, and code of the item: of the interactions that are ranked, and
        of those that do not count as negatives.
    generator : numpy.random.Generator
        Source of the items that are drawn; moved on by the ranking.
    """

    templates: Tensor
    users: np.ndarray
    asked: tuple[np.ndarray, np.ndarray]
    seen: tuple[np.ndarray, np.ndarray]
    generator: np.random.Generator


def rank_shard(
    model: Any, plan: RankingPlan, shard: RankingShard, report: Callable[[int], object] = lambda n: None
) -> np.ndarray:
    """Rank the users of a shard, block by block.

    Returns
    -------
    ndarray
        (n_asked, 3) int64: items that score above the one asked about, the same, and all it was ranked against.
    """
    device = shard.templates.device
    catalogue = torch.arange(1, plan.n_catalogue + 1, device=device)[None]
    unseen = _unseen(plan, shard)
    counts = np.zeros((len(shard.asked[0]), 3), dtype=np.int64)
    with evaluation_mode(model):
        for start in range(0, len(shard.users), plan.users_per_block):
            stop = min(start + plan.users_per_block, len(shard.users))
            templates = shard.templates[start:stop]
            asked = slice(*np.searchsorted(shard.asked[0], [start, stop]))
            own = shard.asked[0][asked] - start, shard.asked[1][asked]
            if plan.n_items is None:
                scores = _score(model, plan, templates, catalogue)
                check_finite(scores, shard.users[start:stop])
                seen = slice(*np.searchsorted(shard.seen[0], [start, stop]))
                counts[asked] = _against_all(scores, own, (shard.seen[0][seen] - start, shard.seen[1][seen]))
            else:
                drawn = _draw(unseen, start, stop, plan.n_items, shard.generator)
                items, own_column = _beside(drawn, own)
                scores = _score(model, plan, templates, items.to(device))
                check_finite(scores, shard.users[start:stop])
                found = _against_sample(scores, plan.n_items, own[0], own_column)
                counts[asked] = np.where(unseen.count[start:stop][own[0], None] > 0, found, 0)
            report(stop - start)
    return counts


def _score(model: Any, plan: RankingPlan, templates: Tensor, items: Tensor) -> Tensor:
    with plan.histories.cut(model, templates):
        return score_items(model, templates, items, plan.item_side, plan.rows_per_block)


def rank_on(
    engine: Engine, model: Any, plan: RankingPlan, everything: RankingShard, report: Callable[[int], object]
) -> np.ndarray:
    """Rank the users of a shard on an engine: the model is sent once, the users in parts.

    Parts begin where `rank_shard` begins a block, and go on in its stream of random numbers, so the result is the same.

    Raises
    ------
    EngineError
        If the model is not on the CPU, or the engine fails.
    """
    shared = broadcast(model), plan
    parts = []
    for part, counts in engine.map(_rank_part, shared, _cut(engine.workers, plan, everything)):
        parts.append(counts)
        report(len(part.users))
    return np.concatenate(parts) if parts else np.zeros((0, 3), dtype=np.int64)


def _rank_part(shared: tuple[Broadcast, RankingPlan], part: RankingShard) -> np.ndarray:
    return rank_shard(shared[0].model(), shared[1], part)


def _cut(workers: int, plan: RankingPlan, shard: RankingShard) -> Iterator[RankingShard]:
    unseen = _unseen(plan, shard)
    generator = copy.deepcopy(shard.generator)
    for part in cut(len(shard.users), workers, multiple=plan.users_per_block):
        edges = [part.start, part.stop]
        asked, seen = (
            (user[inside] - part.start, item[inside])
            for user, item in (shard.asked, shard.seen)
            for inside in [slice(*np.searchsorted(user, edges))]
        )
        yield RankingShard(
            shard.templates[part].clone(), shard.users[part], asked, seen, generator=copy.deepcopy(generator)
        )
        if plan.n_items is not None:  # what this part draws over there is passed over here
            _draw(unseen, part.start, part.stop, plan.n_items, generator)


def _unseen(plan: RankingPlan, shard: RankingShard) -> UnseenItems:
    return UnseenItems(*shard.seen, n_users=len(shard.users), n_items=plan.n_catalogue)


def _draw(unseen: UnseenItems, start: int, stop: int, n_items: int, generator: np.random.Generator) -> np.ndarray:
    """Draw items for the users from start to stop, (stop - start, n_items); those who have seen all get item 1."""
    drawable = np.arange(start, stop)[unseen.count[start:stop] > 0]
    drawn = np.ones((stop - start, n_items), dtype=np.int64)
    drawn[drawable - start] = unseen.draw(drawable, n_items, generator)
    return drawn


def _beside(drawn: np.ndarray, own: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, np.ndarray]:
    """Append each row's own items to the drawn ones; return the items and the columns of the own ones.

    Rows with fewer own items than others are filled up with the first item of the catalogue.
    """
    row, item = own
    column = drawn.shape[1] + np.arange(len(row)) - np.searchsorted(row, row)
    width = int(column.max(initial=drawn.shape[1] - 1)) + 1
    items = np.ones((len(drawn), width), dtype=np.int64)
    items[:, : drawn.shape[1]] = drawn
    items[row, column] = item
    return torch.from_numpy(items), column


def _against_sample(scores: Tensor, n_items: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Count, for each (row, column) of `scores`, what its row's first `n_items` columns hold."""
    where, own_column = (torch.from_numpy(index).to(scores.device) for index in (row, column))
    return _count(scores[:, :n_items], where, scores[where, own_column])


def _against_all(scores: Tensor, own: tuple[np.ndarray, np.ndarray], seen: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Count, for each own (row, item code), what the items of its row hold that are not in `seen`."""
    row, item = (torch.from_numpy(index).to(scores.device) for index in own)
    own_score = scores[row, item - 1]
    seen_row, seen_item = (torch.from_numpy(index).to(scores.device) for index in seen)
    scores[seen_row, seen_item - 1] = torch.nan  # never above, never tied
    return _count(scores, row, own_score)


def _count(scores: Tensor, row: Tensor, own_score: Tensor) -> np.ndarray:
    """Return (n, 3): scores of the row above `own_score`, equal to it, and all that are not NaN."""
    parts = []
    for part, score in zip(row.split(len(scores)), own_score[:, None].split(len(scores)), strict=True):
        rivals = scores[part]
        parts.append(
            torch.stack([(rivals > score).sum(dim=1), (rivals == score).sum(dim=1), (~rivals.isnan()).sum(dim=1)], 1)
        )
    return torch.cat(parts).cpu().numpy()
