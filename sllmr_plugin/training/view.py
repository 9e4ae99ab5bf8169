"""At the start of `fit`: what a training can use of a score table, as a view of it without a copy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import SelectiveConfig
from ..errors import CoverageError, CoverageWarning, DataError
from ..regularizer.signals import RegionSignals, student_signals
from ..scores.arrays import UserScores
from ..scores.normalise import normalised
from ..scores.table import WARN_BELOW, ScoreTable
from .rows import Features, TrainingRows, item_columns, known_item_values
from .sampler import DrawableScores, RowBuilder


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
    popularity : Tensor
        (n_item_codes,) int64 training positives; -1 outside the catalogue.
    positive : Tensor
        (n,) int64 entries of the candidates whose user has a training positive with the item.
    account : dict of str to Any
        What could be used, and what not, in words and numbers.
    label_variance : float
        Variance of the training labels.
    usual_spread : float
        Mean spread of the candidates that a student has scored; 1 where there are none, or all have 0.
    """

    candidates: DrawableScores
    probes: UserScores
    candidate_rows: RowBuilder
    probe_rows: RowBuilder
    cold: Tensor
    tail: Tensor
    popularity: Tensor
    positive: Tensor
    account: dict[str, Any] = field(default_factory=dict)
    label_variance: float = 0.0
    usual_spread: float = 1.0

    def student(self, group: UserScores | DrawableScores, entry: Tensor) -> Tensor | None:
        """Return `student_signals` of (n,) entries of candidates or probes, (n, 2); None where none is a student's."""
        return None if group.spread is None else student_signals(group.spread[entry], self.usual_spread)


_LOCATED = 1 << 20
_MOST_SCORED = 0.8  # of the trained codes, so that one missing at an end is not an accident


def usable_scores(
    table: ScoreTable,
    training: TrainingRows,
    features: Features,
    config: SelectiveConfig,
    *,
    item_values: tuple[np.ndarray, np.ndarray] | None = None,
    history_length: Tensor | None = None,
    popularity: Tensor | None = None,
) -> Usable:
    """Find template rows, item columns and regions, and keep the scored pairs that have all of them.

    Parameters
    ----------
    table : ScoreTable
        All scores.
    training : TrainingRows
        The rows that train.
    features : Features
        How the model names and lays them out.
    config : SelectiveConfig
        Says what is cold and what long-tail, whether pairs are formed, and on what scale scores are.
    item_values : (numpy.ndarray, numpy.ndarray), optional
        Codes and input columns of items, as `encode_item_table` returns them.
    history_length, popularity : Tensor, optional
        (n_user_codes,) and (n_item_codes,) counts, used instead of those of the training rows; -1 for an item
        that is not in the catalogue.

    Returns
    -------
    Usable
        Pairs, row builders and regions.

    Raises
    ------
    CoverageError
        If no pair can be used.
    DataError
        If an id in the training rows is outside the model's vocabulary.

    Warns
    -----
    CoverageWarning
        If fewer than half of the rows read can be used, or a feature looks item-side and is not listed as such.
    """
    users = _codes(training, features.user, features.n_users)
    items = _codes(training, features.item, features.n_items)
    _warn_of_unlisted_item_features(features, training)
    wanted = np.union1d(table.candidates.users.numpy(), table.probes.users.numpy())
    found, templates = training.latest_rows(features.user, wanted)
    in_candidates = table.candidates.items_seen(features.n_items)
    in_table = in_candidates | table.probes.items_seen(features.n_items)
    scored = np.flatnonzero(in_table.numpy())
    _warn_of_shifted_codes("user", features.n_users, wanted, np.unique(users))
    _warn_of_shifted_codes("item", features.n_items, scored, np.unique(items))
    known, values = known_item_values(training, features, scored, item_values)
    builder_parts = (
        torch.from_numpy(item_columns(features.layout, features.item_features)),
        torch.from_numpy(known),
        torch.from_numpy(values),
    )
    has_template = torch.zeros(features.n_users, dtype=torch.bool)
    has_template[torch.from_numpy(wanted[found])] = True
    has_columns = torch.zeros(features.n_items, dtype=torch.bool)
    has_columns[builder_parts[1]] = True

    candidates, probes = normalised(table.candidates, table.probes, config.score_norm)
    drawable = DrawableScores.of(candidates, has_template, has_columns, two_scores=config.pairwise)
    no_columns = int((in_candidates & ~has_columns).sum())
    account = _account(table, drawable, int((~has_template[table.candidates.users]).sum()), no_columns)
    probes = _keep(probes, has_template, has_columns)
    regions = _regions(features, config, users, items, training.positive, in_table, history_length, popularity)

    def builder(group: UserScores | DrawableScores) -> RowBuilder:
        row = np.searchsorted(wanted[found], group.users.numpy())
        return RowBuilder(torch.from_numpy(templates[row]), *builder_parts)

    return Usable(
        candidates=drawable,
        probes=probes,
        candidate_rows=builder(drawable),
        probe_rows=builder(probes),
        cold=regions.cold,
        tail=regions.tail,
        popularity=regions.popularity,
        positive=_trained_on(drawable, users[training.positive], items[training.positive]),
        account=account,
        label_variance=training.label_variance,
        usual_spread=_usual_spread(candidates),
    )


def _usual_spread(table: UserScores) -> float:
    """Return the mean spread of a student's scores, piece by piece; 1 where there are none, or all have 0."""
    total, count = 0.0, 0
    if table.spread is not None:
        for _, entries in table.pieces():
            spread = table.spread[entries]
            total += float(spread.nansum(dtype=torch.float64))
            count += int((~spread.isnan()).sum())
    return total / count if total > 0 else 1.0


def _codes(training: TrainingRows, feature: str, size: int) -> np.ndarray:
    values = training.column(feature)
    if values.dtype.kind not in "iufb":
        raise DataError(
            f"the training rows hold {feature} such as {values[:1].tolist()[0]!r}, which is not a code. Encode the "
            "ids as integers before fit, and give the encoder to wrap as the index."
        )
    broken = ~(np.isfinite(values) & (values == np.floor(values))) if values.dtype.kind == "f" else np.zeros(0)
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise DataError(
            f"training row {row} (counted from 0) has {feature} {values[row]}, which is not a code. Encode the ids as "
            "integers before fit, and drop or encode rows without one."
        )
    codes = values.astype(np.int64)
    outside = np.flatnonzero((codes < 0) | (codes >= size))
    if len(outside):
        raise DataError(
            f"training row {outside[0]} (counted from 0) has {feature} {codes[outside[0]]}, but the model's vocabulary "
            f"holds 0 to {size - 1}. Build the model with a larger vocabulary_size, or correct the row."
        )
    return codes


def _warn_of_shifted_codes(side: str, n_codes: int, scored: np.ndarray, trained: np.ndarray) -> None:
    """Warn if the table's codes seem shifted by one: they exceed the trained codes at one end, and lack the other.

    Parameters
    ----------
    side : {"user", "item"}
        Whose codes they are.
    n_codes : int
        Size of the model's vocabulary.
    scored, trained : numpy.ndarray
        (n,) ascending codes in the score table and in the training rows.
    """
    if len(scored) < 3 or len(trained) < 3:
        return
    first, last = int(trained[0]), int(trained[-1])
    most_scored = np.isin(trained, scored).mean() >= _MOST_SCORED
    above = scored[-1] == last + 1 and scored[0] > first and (scored[0] == first + 1 or most_scored)
    below = scored[0] == first - 1 and scored[-1] < last and (scored[-1] == last - 1 or most_scored)
    # Catalogues have gaps: there only code 0, which is padding where codes start at 1, and the last code tell.
    if 2 * len(scored) >= len(trained) and last == n_codes - 1 and last not in scored:
        below = below or (first > 0 and scored[0] == 0)
    if above or below:
        unknown, unused, step = (last + 1, first, "- 1") if above else (int(scored[0]), last, "+ 1")
        warnings.warn(
            f"the score table's {side} codes look one off: it has code {unknown}, which no training row has, and lacks "
            f"code {unused}, which training rows have. If so, every {side} gets the scores of another. Pass "
            f"{side}_index=, raw id -> the code that the model is fed (here: {side}_index="
            f"{{code: code {step} for code in ...}}, or the codes of your LabelEncoder {step}).",
            CoverageWarning,
            stacklevel=3,
        )


def _keep(group: UserScores, has_template: Tensor, has_columns: Tensor) -> UserScores:
    return group.select(has_template[group.users][group.user_of_entry] & has_columns[group.items])


def _trained_on(drawable: DrawableScores, users: np.ndarray, items: np.ndarray) -> Tensor:
    """Return the entries that are among (user, item) pairs, (n,) each, looked up some at a time to save memory."""
    found = [torch.empty(0, dtype=torch.int64)]
    for first in range(0, len(users), _LOCATED):
        some = slice(first, first + _LOCATED)
        entry, is_there = drawable.locate(torch.from_numpy(users[some]), torch.from_numpy(items[some]))
        found.append(entry[is_there])
    return torch.cat(found).unique()


def _account(scores: ScoreTable, drawable: DrawableScores, no_template: int, no_columns: int) -> dict[str, Any]:
    table = scores.candidates
    account = {
        "pairs usable": f"{len(drawable)} of {len(table)}",
        "users usable": f"{len(drawable.users)} of {len(table.users)}",
        "users without a training row": no_template,
        "items without known columns": no_columns,
    }
    if len(drawable) == 0:
        if len(table) and float(table.scores.min()) == float(table.scores.max()):
            raise CoverageError(
                f"all {len(table)} scores of the table are {float(table.scores[0]):g}, so no two items of a user have "
                "an order. Look at what the scorer answered (sllmr ledger failures), and score again."
            )
        raise CoverageError(
            f"none of the {len(table)} scored pairs can be used: {no_template} of {len(table.users)} users have no "
            f"training row, {no_columns} items have no known item-side columns, and {drawable.n_tied} users have no "
            "two different scores. Check that user_index and item_index give the codes in the training rows, and pass "
            "item_table= for items that never occur in training; where scores are tied, score more candidates "
            "per user or in finer steps, or use loss='mse', which needs no order."
        )
    coverage = scores.coverage
    read = max(coverage.n_read - coverage.n_probes, len(table))  # tables made in other ways have read nothing
    if len(drawable) < WARN_BELOW * read:
        dropped = [f"{count}: {reason}" for reason, count in coverage.dropped.items()]
        lost = [f"{no_template} users have no training row", f"{no_columns} items have no known item-side columns"]
        lost += [f"{drawable.n_tied} users have no two different scores"] if drawable.n_tied else []
        warnings.warn(
            f"only {len(drawable)} of the {read} scored pairs read can be used ({'; '.join([*dropped, *lost])}). Check "
            "the ids and the indexes, or pass item_table=.",
            CoverageWarning,
            stacklevel=2,
        )
    return account


def _regions(
    features: Features,
    config: SelectiveConfig,
    users: np.ndarray,
    items: np.ndarray,
    positive: np.ndarray,
    in_table: Tensor,
    history_length: Tensor | None,
    popularity: Tensor | None,
) -> RegionSignals:
    if history_length is None:
        history_length = torch.from_numpy(np.bincount(users[positive], minlength=features.n_users))
    if popularity is None:
        popularity = torch.from_numpy(np.bincount(items[positive], minlength=features.n_items))
        catalogue = in_table.clone()
        catalogue[torch.from_numpy(items)] = True
    else:
        catalogue = popularity >= 0
    return RegionSignals.from_counts(
        history_length,
        popularity,
        in_catalogue=catalogue,
        cold_threshold=config.cold_threshold,
        tail_quantile=config.tail_quantile,
    )


def _warn_of_unlisted_item_features(features: Features, training: TrainingRows) -> None:
    unlisted = training.unlisted(features.user, features.item, features.item_features)
    if unlisted.item_side:
        warnings.warn(
            f"in the training rows the item alone decides {', '.join(unlisted.item_side)}, yet candidates would keep "
            "the value of the user's template row, which is another item's. Pass "
            f"item_features={[*features.item_features, *unlisted.item_side]!r} to wrap.",
            CoverageWarning,
            stacklevel=2,
        )
    if unlisted.of_pairs:
        warnings.warn(
            f"in the training rows {', '.join(unlisted.of_pairs)} depend on user and item together, and candidates "
            "keep the value of the user's template row, which was made for another item. Train without these "
            "features, or replace them by features of the user or of the item alone (item_features=).",
            CoverageWarning,
            stacklevel=2,
        )
