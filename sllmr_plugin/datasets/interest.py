"""P(interest): which rows, synthetic or real, a judge does not believe, by a threshold that probes set."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import CoverageError, DataError, InterestError, InterestWarning
from ..scores.ids import encode_pairs
from ..scores.reading import read_table
from .interactions import Interactions
from .negatives import UnseenItems
from .synthetic import SyntheticInteractions, known_pairs, pair_keys

DENOISE_SHARE = 0.05
"""The most training positives that `Interest.doubted` names, as a share of those that are judged."""
_SURE = 1.96  # standard errors by which an AUC has to be above 0.5


@dataclass(frozen=True, eq=False)
class Interest:
    """Judged pairs, and the threshold below which a pair is not believed.

    Attributes
    ----------
    keys : ndarray
        (n,) int64 sorted keys of the pairs (`pair_keys`).
    scores : ndarray
        (n,) float64 P(interest) in [0, 1].
    threshold : float
        Pairs below are not believed.
    auc : float
        Chance that a probe, a held-out validation interaction, is judged above a random candidate.
    auc_se : float
        Its standard error (Hanley and McNeil, 1982).
    probes, candidates : int
        How many of both the threshold is set on.
    kept_probes, kept_candidates : float
        Share of both that is at or above the threshold.
    source : str
        The file.
    """

    keys: np.ndarray
    scores: np.ndarray
    threshold: float
    auc: float
    auc_se: float
    probes: int
    candidates: int
    kept_probes: float
    kept_candidates: float
    source: str

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str] | pd.DataFrame | Interest,
        data: Interactions,
        *,
        synthetic: SyntheticInteractions | None = None,
        keep_probes: float | None = None,
    ) -> Interest:
        """Read a table of P(interest) and set the threshold on its probes.

        Probes are rows that are validation interactions, whatever their ``kind`` says; they are compared with all rows
        that are pairs of no split and not synthetic. Test interactions are refused: what is judged decides what
        trains.

        Parameters
        ----------
        source : path, pandas.DataFrame or Interest
            ``user_id, item_id, score`` in [0, 1], such as P(yes) of ``sllmr score --answer yes_no``.
        data : Interactions
            With the splits.
        synthetic : SyntheticInteractions or None, default=None
            Pairs that are no random candidates although they are in no split.
        keep_probes : float or None, default=None
            Set the threshold so that this share of the probes is kept. None maximises Youden's J, the share of probes
            kept minus the share of random candidates kept: what is kept wrongly and what is lost wrongly count alike,
            and no share has to be chosen.

        Raises
        ------
        DataError
            If the table cannot be read, a score is outside [0, 1], or a pair is a test interaction.
        InterestError
            If there are no probes, or no random candidates, to set the threshold on.

        Warns
        -----
        InterestWarning
            If the judge is no better than chance on the probes.
        """
        if isinstance(source, Interest):
            return source
        if keep_probes is not None and not 0 < keep_probes < 1:
            raise InterestError(f"keep_probes={keep_probes!r} must be a share between 0 and 1.")
        table = read_table(source, "P(interest)", numbers=("score",))
        table.require_columns(["user_id", "item_id", "score"])
        scores = pd.to_numeric(table.frame["score"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        table.refuse(~((scores >= 0) & (scores <= 1)), "score", "write a number from 0 to 1, or delete the row")
        users, items = encode_pairs(table, data.user_index, data.item_index)
        known = (users > 0) & (items > 0)
        if not known.any():
            raise CoverageError(
                f"{table.name}: none of its {len(known)} rows is of a user and an item of these interactions. Give the "
                "table whose pairs were judged."
            )
        splits = known_pairs(data)
        keys = pair_keys(data, users, items)
        table.refuse(
            known & np.isin(keys, splits["test"]),
            "item_id",
            "delete these rows: what is judged decides what trains",
            problem="a test interaction of this user",
        )
        keys, where = np.unique(keys[known], return_index=True)
        scores = scores[known][where]
        is_probe = np.isin(keys, splits["validation"])
        other = ~is_probe & ~np.isin(keys, splits["training"])
        if synthetic is not None:
            other &= ~np.isin(keys, pair_keys(data, synthetic.users, synthetic.items))
        for which, what in ((is_probe, "validation interaction"), (other, "random candidate")):
            if not which.any():
                raise InterestError(
                    f"{table.name} judges no {what}, so there is nothing to set a threshold on. Have these judged as "
                    "well: sllmr interest --pairs FILE writes what is needed."
                )
        of_probes, of_others = scores[is_probe], scores[other]
        auc, error = _auc(of_probes, of_others)
        threshold = _youden(of_probes, of_others) if keep_probes is None else _quantile(of_probes, 1 - keep_probes)
        found = cls(
            keys,
            scores,
            threshold,
            auc,
            error,
            len(of_probes),
            len(of_others),
            float((of_probes >= threshold).mean()),
            float((of_others >= threshold).mean()),
            table.name,
        )
        if auc - _SURE * error <= 0.5:
            warnings.warn(
                f"{table.name}: the judge puts a held-out interaction above a random candidate with AUC {auc:.3f} "
                f"(standard error {error:.3f}), no better than chance, so what it drops is no more noise than what it "
                "keeps. Use another model or prompt, judge more probes, or train without it.",
                InterestWarning,
                stacklevel=2,
            )
        return found

    def __str__(self) -> str:
        return (
            f"judge: AUC {self.auc:.4f} +- {_SURE * self.auc_se:.4f} on {self.probes} probes against "
            f"{self.candidates} random candidates; threshold {self.threshold:.4f} keeps {self.kept_probes:.1%} of the "
            f"probes and {self.kept_candidates:.1%} of the candidates"
        )

    def of_pairs(self, data: Interactions, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return P(interest) of (n,) pairs of codes; NaN where a pair is not judged."""
        keys = pair_keys(data, users, items)
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.scores[place], np.nan)

    def filtered(self, data: Interactions, synthetic: SyntheticInteractions) -> SyntheticInteractions:
        """Return the synthetic rows that are believed: judged, and not below the threshold.

        Raises
        ------
        CoverageError
            If none of them is judged.
        InterestError
            If none is believed.

        Warns
        -----
        InterestWarning
            If some are not judged, which are left out, or all are kept.
        """
        found = self.of_pairs(data, synthetic.users, synthetic.items)
        judged = np.isfinite(found)
        if not judged.any():
            raise CoverageError(
                f"{self.source} judges none of the {len(synthetic)} rows of {synthetic.source}. Have them judged: "
                "sllmr interest --synthetic FILE --pairs FILE writes what is needed."
            )
        keep = judged & (found >= self.threshold)
        if not keep.any():
            raise InterestError(
                f"all {len(synthetic)} rows of {synthetic.source} are below the threshold {self.threshold:.4f} of "
                f"{self.source}. Synthesize others, or train without them."
            )
        if not judged.all():
            warnings.warn(
                f"{self.source} does not judge {(~judged).sum()} of {len(synthetic)} synthetic rows, which are left "
                "out. Have them judged (sllmr interest --pairs).",
                InterestWarning,
                stacklevel=2,
            )
        elif keep.all():
            warnings.warn(
                f"no synthetic row is below the threshold {self.threshold:.4f} of {self.source}, so nothing is "
                "filtered. Raise it (keep_probes), or take mode synthetic.",
                InterestWarning,
                stacklevel=2,
            )
        return synthetic.kept(keep)

    def doubted(self, data: Interactions, *, most: float = DENOISE_SHARE) -> DoubtedRows:
        """Return the training positives that are not believed: those below the threshold, the lowest first.

        At most a share of the judged ones, since the threshold would lose `kept_probes` of true ones, too; never the
        best judged positive of a user or of an item, which nothing would be learnt about otherwise.

        Parameters
        ----------
        data : Interactions
            Its training positives.
        most : float, default=0.05
            Of the judged positives.

        Raises
        ------
        CoverageError
            If no training positive is judged.
        InterestError
            If none is doubted.
        """
        rows = data.train[data.train["label"] == 1]
        users, items = (rows[name].to_numpy() for name in ("user", "item"))
        found = pd.Series(self.of_pairs(data, users, items))
        judged = found.notna().to_numpy()
        if not judged.any():
            raise CoverageError(
                f"{self.source} judges no training interaction, so there is nothing to denoise by. Have them judged: "
                "sllmr interest --pairs FILE writes what is needed."
            )
        # One that is not judged is believed, so its user and item have a row that stays.
        believed = found.fillna(np.inf)
        best = np.zeros(len(rows), dtype=bool)
        for owner in (users, items):
            best[believed.groupby(owner).idxmax().to_numpy()] = True
        doubted = np.flatnonzero(judged & ~best & (found.to_numpy() < self.threshold))
        order = doubted[np.argsort(found.to_numpy()[doubted], kind="stable")]
        drop = order[: int(most * judged.sum())]
        if len(drop) == 0:
            raise InterestError(
                f"no training interaction is doubted: of {judged.sum()} judged by {self.source}, {len(doubted)} are "
                f"below the threshold {self.threshold:.4f} and not the best of their user or item, and a share of "
                f"{most:g} may be dropped. Judge more of them, or train without denoising."
            )
        keys = pair_keys(data, users[drop], items[drop])
        return DoubtedRows(np.sort(keys), data.n_items, data.has_negatives, int(judged.sum()))


@dataclass(frozen=True, eq=False)
class DoubtedRows:
    """Training positives that are left out of the rows of a training.

    Attributes
    ----------
    keys : ndarray
        (n,) sorted keys of the pairs.
    n_items : int
        Of the data.
    has_negatives : bool
        Whether negatives are the data's own, and no positive's.
    judged : int
        Training positives that were judged.
    """

    keys: np.ndarray
    n_items: int
    has_negatives: bool
    judged: int

    def __len__(self) -> int:
        return len(self.keys)

    def left_out(self, x: Mapping[str, np.ndarray], y: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return rows of `training_rows` without them, and without the negatives that were drawn for them.

        Histories stay: they are what serving shows the model.

        Raises
        ------
        DataError
            If none of them is there.
        """
        keys = x["user_id"].astype(np.int64) * (self.n_items + 1) + x["item_id"]
        positive = np.asarray(y) > 0.5
        drop = positive & np.isin(keys, self.keys)
        if not drop.any():
            raise DataError(
                f"none of {len(self)} doubted interactions is among {int(positive.sum())} positive training rows. "
                "Judge the interactions that train."
            )
        if not self.has_negatives:  # each positive stands before the negatives drawn for it
            drop = drop[np.flatnonzero(positive)[np.cumsum(positive) - 1]]
        return {name: column[~drop] for name, column in x.items()}, np.asarray(y)[~drop]


def pairs_to_judge(
    data: Interactions,
    *,
    synthetic: SyntheticInteractions | None = None,
    probes: int | None = 1000,
    candidates_per_probe: int = 2,
    training: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what a judge has to see: synthetic rows, training interactions, probes and random candidates.

    Parameters
    ----------
    data : Interactions
        With validation interactions.
    synthetic : SyntheticInteractions or None, default=None
        Rows to filter.
    probes : int or None, default=1000
        Validation interactions, drawn at random; None takes all.
    candidates_per_probe : int, default=2
        Items drawn uniformly for each probe's user among those that the user has in no split.
    training : bool, default=True
        Also the training positives, for denoising.
    seed : int, default=0
        Of the draws.

    Returns
    -------
    pandas.DataFrame
        ``user_id, item_id, kind`` (probe or candidate) and ``what`` (synthetic, training, probe or random): a
        candidate table of ``sllmr score --answer yes_no`` and of ``sllmr extend --pairs``. Each pair once.

    Raises
    ------
    InterestError
        If there is no validation interaction.
    """
    if data.valid.empty:
        raise InterestError(
            "the interactions have no validation part, so there are no probes to set a threshold on. Give them a "
            "`split` column, or users with three interactions or more."
        )
    generator = np.random.default_rng(seed)
    held_out = data.valid
    if probes is not None and probes < len(held_out):
        held_out = held_out.iloc[np.sort(generator.choice(len(held_out), probes, replace=False))]
    parts: list[tuple[str, Any, Any]] = [("probe", held_out["user"].to_numpy(), held_out["item"].to_numpy())]
    every = pd.concat([part[["user", "item"]] for part in (data.train, data.valid, data.test, data.test_negatives)])
    seen = [every["user"].to_numpy(), every["item"].to_numpy()]
    if synthetic is not None:
        parts.append(("synthetic", synthetic.users, synthetic.items))
        seen = [np.concatenate(both) for both in zip(seen, (synthetic.users, synthetic.items), strict=True)]
    unseen = UnseenItems(*seen, n_users=data.n_users, n_items=data.n_items)
    users = held_out["user"].to_numpy()
    users = users[unseen.count[users] > 0]
    drawn = unseen.draw(users, candidates_per_probe, generator)
    parts.append(("random", np.repeat(users, candidates_per_probe), drawn.ravel()))
    if training:
        positives = data.train[data.train["label"] == 1]
        parts.append(("training", positives["user"].to_numpy(), positives["item"].to_numpy()))
    frame = pd.concat([pd.DataFrame({"user": u, "item": i, "what": what}) for what, u, i in parts], ignore_index=True)
    frame = frame.drop_duplicates(["user", "item"])
    return pd.DataFrame(
        {
            "user_id": data.user_ids[frame["user"].to_numpy() - 1],
            "item_id": data.item_ids[frame["item"].to_numpy() - 1],
            "kind": np.where(frame["what"] == "probe", "probe", "candidate"),
            "what": frame["what"].to_numpy(),
        }
    )


def _auc(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """Return the chance that a positive is above a negative, ties counting half, and its standard error."""
    ordered = np.sort(negative)
    below = (np.searchsorted(ordered, positive, side="left") + np.searchsorted(ordered, positive, side="right")) / 2
    auc = float(below.sum() / (len(positive) * len(negative)))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (len(positive) - 1) * (q1 - auc**2) + (len(negative) - 1) * (q2 - auc**2)
    return auc, float(np.sqrt(max(spread, 0.0) / (len(positive) * len(negative))))


def _youden(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the threshold that maximises the share of positives kept minus the share of negatives kept."""
    cuts = np.unique(np.concatenate([positive, negative]))
    kept = [1 - np.searchsorted(np.sort(part), cuts, side="left") / len(part) for part in (positive, negative)]
    best = int(np.argmax(kept[0] - kept[1]))
    # Halfway to the next score below: the scores of these few probes are no sharper than that.
    return float((cuts[best] + cuts[max(best - 1, 0)]) / 2)


def _quantile(positive: np.ndarray, share: float) -> float:
    """Return the largest threshold that loses at most a share of the positives."""
    return float(np.sort(positive)[int(share * len(positive))])
