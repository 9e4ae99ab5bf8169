"""Rows of score files: checked and encoded, whole or piece by piece."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..errors import CoverageError
from .ids import IdIndex, blank_around, encode_ids, example_mismatch, quick_index
from .reading import Table

COLUMNS = ("user_id", "item_id", "score")
KINDS = ("candidate", "probe")
STUDENT = "student"
"""Value of the column ``source`` where a student of the LLM has the score (`extend_scores`)."""
SEEN_BEFORE = "pair seen before (the first is kept, a probe before a candidate)"


class RowEncoder:
    """Turns checked rows into codes, piece by piece, and counts what it drops.

    Parameters
    ----------
    user_index, item_index : mapping, pandas.Series, fitted sklearn LabelEncoder or None
        Raw id -> code. None means that the ids are codes.
    written : bool, default=False
        Whether the ids are from a text file, see `encode_ids`.

    Attributes
    ----------
    n_read, n_kept : int
        Rows given, and rows returned.
    dropped : dict of str to int
        Reason -> rows.
    """

    def __init__(self, user_index: IdIndex | None, item_index: IdIndex | None, written: bool = False) -> None:
        self.n_read = self.n_kept = 0
        self.dropped: dict[str, int] = {}
        self._indexes = {
            column: index if index is None else quick_index(index, column)
            for column, index in (("user_id", user_index), ("item_id", item_index))
        }
        self._written = written
        self._example: pd.DataFrame | None = None  # the first row that had ids and a score

    def encode(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that can be mapped, ids replaced by codes; `frame` is what `checked` returns."""
        self.n_read += len(frame)

        def keep(mask: np.ndarray, reason: str) -> None:
            nonlocal frame
            if not mask.all():
                self.dropped[reason] = self.dropped.get(reason, 0) + int((~mask).sum())
                frame = frame[mask]

        keep(frame[["user_id", "item_id"]].notna().all(axis=1).to_numpy(), "user_id or item_id is missing")
        keep(frame["score"].notna().to_numpy(), "score is missing")
        if self._example is None and not frame.empty:
            self._example = frame.iloc[:1]
        for column, index in self._indexes.items():
            if frame.empty:
                break
            codes = encode_ids(frame[column], index, what=column, written=self._written)
            if index is None:
                reason = f"{column} is negative"
            else:
                reason = f"{column} not in {column.removesuffix('_id')}_index"
                blank = blank_around(frame[column], index, codes, what=column, written=self._written)
                keep(~blank, f"{reason}, except for the blanks around it")
                codes = codes[~blank]
            frame = frame.assign(**{column: codes})
            keep(codes >= 0, reason)
        self.n_kept += len(frame)
        return frame

    def require_some(self, source: str) -> None:
        """Raise `CoverageError` if not one row could be mapped."""
        if self._example is None:
            raise CoverageError(f"{source}: every row lacks an id or a score. Check how the file was written.")
        if self.n_kept == 0:
            looks = [example_mismatch(self._example[column], index, column) for column, index in self._indexes.items()]
            raise CoverageError(
                f"{source}: none of its {self.n_read} pairs can be mapped ({'; '.join(looks)}). "
                "Make the raw ids of the table and the keys of the indexes the same values of the same type."
            )


def checked(table: Table) -> pd.DataFrame:
    """Check rows of a score file.

    Parameters
    ----------
    table : Table
        As it was read, whole or a piece; its error is raised.

    Returns
    -------
    pandas.DataFrame
        ``user_id`` and ``item_id`` as they were, ``score`` float32, ``is_probe`` bool, ``spread`` float32: of a
        student's rows the column of that name, 0 where there is none; NaN of all others.

    Raises
    ------
    ScoreTableError
        If a column is missing or occurs twice, a float id may stand for several ids, or a score, a kind or a student's
        spread is impossible.
    """
    rows = table.frame
    has_kind = "kind" in rows.columns
    table.require_columns([*COLUMNS, *(["kind"] if has_kind else [])])
    for column in ("user_id", "item_id"):
        table.refuse_inexact_ids(column)
    score = pd.to_numeric(rows["score"], errors="coerce")
    table.refuse(score.isna() & rows["score"].notna(), "score", "write scores as numbers")
    table.refuse(~score.between(0, 1) & score.notna(), "score", "rescale the scores to [0, 1]")
    kind = rows["kind"] if has_kind else pd.Series("candidate", index=rows.index)
    if has_kind:
        table.refuse(~kind.isin(KINDS), "kind", "write candidate or probe")
    of_student = rows["source"] == STUDENT if "source" in rows.columns else pd.Series(False, index=rows.index)
    spread = pd.Series(0.0, index=rows.index)
    if "spread" in rows.columns and of_student.any():
        spread = pd.to_numeric(rows["spread"], errors="coerce")
        impossible = of_student & ~spread.between(0, 1) & rows["spread"].notna()
        table.refuse(impossible, "spread", "write the deviation of scores in [0, 1]")
    return pd.DataFrame(
        {
            "user_id": rows["user_id"],
            "item_id": rows["item_id"],
            "score": score.astype(np.float32),
            "is_probe": kind == "probe",
            "spread": spread.fillna(0).where(of_student).astype(np.float32),
        }
    )
