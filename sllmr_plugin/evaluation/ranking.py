"""Full-ranking and sampled AUC: held-out interactions against items that their user has not interacted with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..backends.base import row_model
from ..datasets.interactions import Interactions
from ..errors import EvaluationError
from ..parallel.engine import Engine
from .history_columns import HistoryColumns
from .model_scores import ItemSide, check_vocabulary, default_rows_per_block, template_matrix
from .ranking_shards import RankingPlan, RankingShard, rank_on, rank_shard
from .strata import Strata, stratify


def full_ranking(
    model: Any,
    data: Interactions,
    split: str = "test",
    *,
    users: int | np.ndarray | None = None,
    n_items: int | None = None,
    seed: int = 0,
    strata: Strata | None = None,
    rows_per_block: int | None = None,
    verbose: bool = True,
    engine: Engine | None = None,
) -> pd.DataFrame:
    """Rank the held-out interactions of a split with a DeepCTR-Torch or FuxiCTR model.

    The AUC of an interaction is the share of the user's unseen catalogue items that the model scores below
    its item, a tie counting half (S-LLMR paper, Sec. 4.5). Unseen are the items that the user has no
    positive with in training, validation and, for ``split="test"``, test: so the item itself and other test
    items of the user are not negatives. Ranking ``split="valid"`` looks at no test interaction.

    Parameters
    ----------
    model : BaseModel
        A plain or wrapped DeepCTR-Torch or FuxiCTR model over ``user_id``, ``item_id`` and, if it reads them,
        attributes and histories (`template_rows`). It is run in evaluation mode and left in the mode it came in.
    data : Interactions
        The interactions that the model's ids are codes of.
    split : {"test", "valid"}, default="test"
        Which held-out interactions to rank.
    users : int, ndarray of int or None, default=None
        None ranks all users of the split, a number that many of them drawn at random, an array those codes.
    n_items : int or None, default=None
        None ranks against all unseen items. A number, at least 2, ranks all interactions of a user against
        that many draws from the user's unseen items, uniform, with replacement and independent of other
        users' draws: an unbiased estimate of the AUC against all, at a cost that does not grow with the
        catalogue. A number not below the size of the catalogue ranks against all.
    seed : int, default=0
        Seed of the draws of users and items, so the same call with another model draws the same; no other
        random numbers are used.
    strata : Strata or None, default=None
        None derives it from `data` with the default thresholds.
    rows_per_block : int or None, default=None
        Rows scored at once; bounds memory, changes results by rounding at most. None takes 64 to 1,024 on the
        CPU, as many as fit the cache, and 262,144 on other devices.
    verbose : bool, default=True
        Show progress on a terminal when the ranking takes more than two seconds.
    engine : Engine or None, default=None
        Spreads the users over processes or machines, for instance `RayEngine`; None ranks in this process. The
        blocks are the same ones, so the result is the same to the bit, given the same processor, torch and number of
        threads (one, on Ray), and up to rounding otherwise. For models on the CPU.

    Returns
    -------
    DataFrame
        One row an interaction, by user code: ``user``, ``item`` (codes); ``auc`` (float64 in [0, 1]; NaN when
        the user has no unseen item) and ``auc_se``, its standard error from the draw of items (0 without
        one); ``above``, ``tied``, ``negatives``: items it was ranked against that score higher, that score
        the same, and all of them (int64); ``cold`` and ``tail`` (bool).

    Raises
    ------
    EvaluationError
        If the model gives a score that is not finite, or more than one score a row, `n_items` is below 2, or the
        model has too few rows of users or items for the codes of `data`.
    EngineError
        If the engine loses its workers, or the model is not on the CPU.
    """
    check_vocabulary(model, data)
    model = row_model(model)
    held_out = _held_out(data, split)
    n_items = sample_size(data, n_items)
    chosen = _choose_users(held_out["user"].to_numpy(), users, seed)
    strata = strata or stratify(data)

    position = np.full(data.n_users + 1, -1)
    position[chosen] = np.arange(len(chosen))
    asked_user, asked_item = _by_position(position, held_out)
    seen_user, seen_item = _by_position(position, _seen(data, split))
    templates = template_matrix(model, data, chosen, split)
    if rows_per_block is None:
        rows_per_block = default_rows_per_block(model, templates)

    histories = HistoryColumns.of(model, templates)
    plan = RankingPlan(data.n_items, n_items, rows_per_block, ItemSide.of(model, data), histories)
    everything = RankingShard(
        templates=templates,
        users=data.user_ids[chosen - 1].to_numpy(),
        asked=(asked_user, asked_item),
        seen=(seen_user, seen_item),
        generator=np.random.default_rng([seed, 1]),  # another stream than the draw of users
    )
    with tqdm(
        total=len(chosen),
        desc=f"ranking {split}",
        unit="user",
        delay=2,
        leave=False,
        disable=None if verbose else True,
    ) as progress:
        if engine is None:
            counts = rank_shard(model, plan, everything, progress.update)
        else:
            counts = rank_on(engine, model, plan, everything, progress.update)
    auc, error = _auc(*counts.T, sampled=n_items is not None)
    user = chosen[asked_user]
    return pd.DataFrame(
        {
            "user": user,
            "item": asked_item,
            "auc": auc,
            "auc_se": error,
            "above": counts[:, 0],
            "tied": counts[:, 1],
            "negatives": counts[:, 2],
            "cold": strata.cold[user],
            "tail": strata.tail[asked_item],
        }
    )


def sample_size(data: Interactions, n_items: int | None) -> int | None:
    """Return how many items are drawn for a user, None when all of the catalogue is ranked.

    Raises
    ------
    EvaluationError
        If `n_items` is below 2: one draw has no standard error.
    """
    if n_items is not None and n_items < 2:
        raise EvaluationError(f"{n_items} items to rank against are too few; take 2 or more, or None for all.")
    return None if n_items is None or n_items >= data.n_items else int(n_items)


def summarize(ranking: pd.DataFrame) -> dict[str, float | int]:
    """Average a ranking overall, over cold users and over long-tail items.

    Parameters
    ----------
    ranking : DataFrame
        As `full_ranking` returns it.

    Returns
    -------
    dict
        ``auc``, ``auc_cold``, ``auc_tail``: means over the interactions whose AUC is defined, NaN where there
        are none. ``auc_se``, ``auc_cold_se``, ``auc_tail_se``: standard errors of these from the draw of
        items, 0 when all were ranked; interactions of a user share the draw and are taken to err together,
        so this is an upper bound, exact with one interaction a user. ``n_test``, ``n_cold``, ``n_tail``: how
        many interactions these are. ``n_undefined``: interactions left out because nothing was left to rank
        them against.
    """
    defined = ranking[ranking["auc"].notna()]
    summary: dict[str, float | int] = {}
    for name, count, part in (
        ("auc", "n_test", defined),
        ("auc_cold", "n_cold", defined[defined["cold"]]),
        ("auc_tail", "n_tail", defined[defined["tail"]]),
    ):
        of_user = part.groupby("user")["auc_se"].sum().to_numpy()
        summary[name] = float(part["auc"].mean())
        summary[name + "_se"] = float(np.sqrt((of_user**2).sum()) / len(part)) if len(part) else float("nan")
        summary[count] = len(part)
    return {**summary, "n_undefined": len(ranking) - len(defined)}


def _held_out(data: Interactions, split: str) -> pd.DataFrame:
    if split not in ("test", "valid"):
        raise EvaluationError(f"split={split!r} cannot be ranked; take 'test' or 'valid'.")
    return data.test if split == "test" else data.valid


def _seen(data: Interactions, split: str) -> pd.DataFrame:
    """Return the positives that do not count as negatives in a ranking of `split`."""
    frames = [data.train[data.train["label"] == 1], data.valid]
    if split == "test":
        frames.append(data.test)
    return pd.concat([frame[["user", "item"]] for frame in frames], ignore_index=True)


def _choose_users(available: np.ndarray, users: int | np.ndarray | None, seed: int) -> np.ndarray:
    """Return sorted distinct codes of the users to rank."""
    available = np.unique(available)
    if users is None:
        return available
    if isinstance(users, (int, np.integer)):
        count = min(int(users), len(available))
        return np.sort(np.random.default_rng(seed).choice(available, size=count, replace=False))
    return np.intersect1d(available, users)


def _by_position(position: np.ndarray, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of each interaction's user, ascending, and its item; users without one are out."""
    where = position[frame["user"].to_numpy()]
    order = np.argsort(where, kind="stable")
    order = order[np.searchsorted(where[order], 0) :]
    return where[order], frame["item"].to_numpy()[order]


def _auc(above: np.ndarray, tied: np.ndarray, negatives: np.ndarray, *, sampled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUC from counts and its standard error; NaN without negatives."""
    below = negatives - above - tied
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        auc = (2 * below + tied) / (2 * negatives)
        if not sampled:
            return auc, np.where(negatives > 0, 0.0, np.nan)
        variance = (below + tied / 4) / negatives - auc**2  # of a draw that scores 0, 1/2 or 1
        return auc, np.sqrt(variance.clip(min=0) / (negatives - 1))
