"""Full-ranking AUC: every held-out interaction against all items its user has not interacted with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ..datasets.features import template_rows
from ..datasets.interactions import Interactions
from ..errors import EvaluationError
from ..zoo import input_rows
from .strata import Strata, stratify


def full_ranking(
    model: Any,
    data: Interactions,
    split: str = "test",
    *,
    users: int | np.ndarray | None = None,
    seed: int = 0,
    strata: Strata | None = None,
    rows_per_block: int | None = None,
    verbose: bool = True,
) -> pd.DataFrame:
    """Rank the held-out interactions of a split with a DeepCTR-Torch model.

    The AUC of an interaction is the share of the user's unseen catalogue items that the model scores below
    its item, a tie counting half (S-LLMR paper, Sec. 4.5). Unseen are the items that the user has no
    positive with in training, validation and, for ``split="test"``, test: so the item itself and other test
    items of the user are no negatives. Ranking ``split="valid"`` looks at no test interaction.

    Parameters
    ----------
    model : BaseModel
        A plain or wrapped DeepCTR-Torch model over ``user_id``, ``item_id`` and, if it reads histories,
        ``hist_item_id`` and ``seq_length``. It is run in evaluation mode and left in the mode it came in.
    data : Interactions
        The interactions that the model's ids are codes of.
    split : {"test", "valid"}, default="test"
        Which held-out interactions to rank.
    users : int, ndarray of int or None, default=None
        None ranks all users of the split, a number that many of them drawn at random, an array those codes.
    seed : int, default=0
        Seed of the draw; it uses no other random numbers.
    strata : Strata or None, default=None
        None derives it from `data` with the default thresholds.
    rows_per_block : int or None, default=None
        Rows scored at once; bounds memory, changes no result. None takes 1,024 on the CPU, where larger
        blocks outgrow the cache (xDeepFM is three times as slow with 16,384), and 262,144 on other devices.
    verbose : bool, default=True
        Show progress on a terminal when the ranking takes more than two seconds.

    Returns
    -------
    DataFrame
        One row an interaction, by user code: ``user``, ``item`` (codes), ``auc`` (float64 in [0, 1]; NaN when
        the user has no unseen item), ``cold`` and ``tail`` (bool).

    Raises
    ------
    EvaluationError
        If the model gives a score that is not finite, or more than one score a row.
    """
    held_out = _held_out(data, split)
    chosen = _choose_users(held_out["user"].to_numpy(), users, seed)
    strata = strata or stratify(data)

    position = np.full(data.n_users + 1, -1)
    position[chosen] = np.arange(len(chosen))
    asked_user, asked_item = _by_position(position, held_out)
    seen_user, seen_item = _by_position(position, _seen(data, split))
    templates = _templates(model, data, chosen, split)

    auc = np.empty(len(asked_user))
    if rows_per_block is None:
        rows_per_block = 1024 if templates.device.type == "cpu" else 262_144
    step = max(1, rows_per_block // data.n_items)
    with (
        _evaluation_mode(model),
        tqdm(
            total=len(chosen),
            desc=f"ranking {split}",
            unit="user",
            delay=2,
            leave=False,
            disable=None if verbose else True,
        ) as progress,
    ):
        for start in range(0, len(chosen), step):
            stop = min(start + step, len(chosen))
            scores = _score(model, templates[start:stop], data.n_items, rows_per_block)
            _check_finite(scores, chosen[start:stop], data)
            asked = slice(*np.searchsorted(asked_user, [start, stop]))
            seen = slice(*np.searchsorted(seen_user, [start, stop]))
            auc[asked] = _rank(
                scores,
                (asked_user[asked] - start, asked_item[asked] - 1),
                (seen_user[seen] - start, seen_item[seen] - 1),
            )
            progress.update(stop - start)
    user = chosen[asked_user]
    return pd.DataFrame(
        {
            "user": user,
            "item": asked_item,
            "auc": auc,
            "cold": strata.cold[user],
            "tail": strata.tail[asked_item],
        }
    )


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
        are none. ``n_test``, ``n_cold``, ``n_tail``: how many these are. ``n_undefined``: interactions left
        out because nothing was left to rank them against.
    """
    defined = ranking[ranking["auc"].notna()]
    cold, tail = defined[defined["cold"]], defined[defined["tail"]]
    return {
        "auc": float(defined["auc"].mean()),
        "auc_cold": float(cold["auc"].mean()),
        "auc_tail": float(tail["auc"].mean()),
        "n_test": len(defined),
        "n_cold": len(cold),
        "n_tail": len(tail),
        "n_undefined": len(ranking) - len(defined),
    }


def _held_out(data: Interactions, split: str) -> pd.DataFrame:
    if split not in ("test", "valid"):
        raise EvaluationError(f"split={split!r} cannot be ranked; take 'test' or 'valid'.")
    return data.test if split == "test" else data.valid


def _seen(data: Interactions, split: str) -> pd.DataFrame:
    """Return the positives that are no negatives in a ranking of `split`."""
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


def _templates(model: Any, data: Interactions, users: np.ndarray, split: str) -> Tensor:
    """Return a (n_users, n_inputs) float32 input matrix whose item column is still to be filled in."""
    first, last = model.feature_index.get("hist_item_id", (0, 1))
    rows = input_rows(model, template_rows(data, users, split=split, history_length=last - first))
    columns = [np.asarray(column, dtype=np.float32).reshape(len(users), -1) for column in rows.values()]
    return torch.from_numpy(np.concatenate(columns, axis=1)).to(next(model.parameters()).device)


@contextmanager
def _evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluate without gradients; afterwards every module is back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _score(model: Any, templates: Tensor, n_items: int, rows_per_block: int) -> Tensor:
    """Score all items for each template row: (n_users, n_items) float32."""
    item_column = model.feature_index["item_id"][0]
    items = torch.arange(1, n_items + 1, dtype=torch.float32, device=templates.device)
    parts = []
    for chunk in items.split(max(1, rows_per_block // len(templates))):
        rows = templates[:, None, :].repeat(1, len(chunk), 1)  # (n_users, n_chunk, n_inputs)
        rows[:, :, item_column] = chunk
        output = model(rows.flatten(0, 1))
        if output.numel() != rows.shape[0] * rows.shape[1]:
            raise EvaluationError(
                f"the model gives {tuple(output.shape)} scores for {rows.shape[0] * rows.shape[1]} rows; "
                "a ranking needs one a row, so rank a single-task model."
            )
        parts.append(output.reshape(rows.shape[:2]))
    return torch.cat(parts, dim=1)


def _check_finite(scores: Tensor, users: np.ndarray, data: Interactions) -> None:
    bad = ~scores.isfinite().all(dim=1)
    if bad.any():
        user = data.user_ids[int(users[int(bad.nonzero()[0])]) - 1]
        raise EvaluationError(
            f"the model's scores of user {user!r} are not all finite, so training has diverged; "
            "lower the learning rate or the regularizer's weight."
        )


def _rank(scores: Tensor, asked: tuple[np.ndarray, np.ndarray], seen: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the AUC of each asked (row, column) of `scores` among the columns of its row not in `seen`."""
    row, column = (torch.from_numpy(index).to(scores.device) for index in asked)
    own = scores[row, column][:, None]
    scores[tuple(torch.from_numpy(index).to(scores.device) for index in seen)] = torch.nan  # never below, never tied
    doubled = []  # twice the negatives won, a tie being half a win
    for part, score in zip(row.split(len(scores)), own.split(len(scores)), strict=True):
        rivals = scores[part]
        doubled.append((rivals < score).sum(dim=1) * 2 + (rivals == score).sum(dim=1))
    won = torch.cat(doubled).double()
    negatives = (~scores.isnan()).sum(dim=1)[row].double()
    return (won / (2 * negatives)).cpu().numpy()  # 0 / 0 is NaN
