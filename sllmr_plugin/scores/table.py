"""`ScoreTable`: the sidecar of offline LLM scores as per-user arrays, with a report of what was kept."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from ..errors import CoverageError, CoverageWarning, ScoreTableError
from .arrays import UserScores, open_folder
from .build import build_table
from .ids import IdIndex
from .origin import read_origin, recorded_order
from .reading import as_pandas, read_table
from .rows import COLUMNS, SEEN_BEFORE, RowEncoder, checked

__all__ = ["Coverage", "ScoreTable", "UserScores"]

WARN_BELOW = 0.5
"""Share of the rows read below which too few can be used."""


@dataclass(frozen=True)
class Coverage:
    """What became of the rows of a score file.

    Attributes
    ----------
    n_read : int
        Rows in the file.
    n_candidates, n_probes : int
        Scored pairs kept, by kind.
    n_users, n_items : int
        Distinct users and items among the candidates kept.
    n_probe_users : int
        Users with a probe.
    dropped : dict of str to int
        Reason -> rows.
    """

    n_read: int
    n_candidates: int
    n_probes: int
    n_users: int
    n_items: int
    n_probe_users: int
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def kept_share(self) -> float:
        """Share of the rows read that are kept."""
        return (self.n_candidates + self.n_probes) / self.n_read if self.n_read else 0.0

    def warn_if_low(self) -> None:
        """Give a `CoverageWarning` if fewer than half of the rows read are kept, saying why the others are not."""
        if self.n_read and self.kept_share < WARN_BELOW:
            kept = self.n_candidates + self.n_probes
            lost = "; ".join(f"{count}: {reason}" for reason, count in self.dropped.items())
            warnings.warn(
                f"only {kept} of the {self.n_read} scored pairs read are kept ({lost}). Make the ids of the table and "
                "the keys of user_index and item_index the same, or score pairs of this model.",
                CoverageWarning,
                stacklevel=3,
            )

    def __str__(self) -> str:
        lines = [
            f"{self.n_read} scored pairs read, {self.n_candidates + self.n_probes} kept ({self.kept_share:.1%}): "
            f"{self.n_candidates} candidates of {self.n_users} users over {self.n_items} items, "
            f"{self.n_probes} probes of {self.n_probe_users} users"
        ]
        lines += [f"  dropped {count}: {reason}" for reason, count in self.dropped.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class ScoreTable:
    """Offline LLM scores of (user, item) pairs: the paper's lookup T (Sec. 4.3).

    Build one with `read`; `wrap` does so when it is given a path or a DataFrame. The arrays are never
    changed in place, so copies of a wrapped model share them.

    Attributes
    ----------
    candidates : UserScores
        The pairs that train.
    probes : UserScores
        Held-out interactions that the LLM scored among the candidates; they fit the gate and never train a pair.
    coverage : Coverage
        What was kept of the file.
    origin : dict
        How the scores were made, as far as the file says; see `read_origin`. Where there is a column
        ``prompt_position`` also ``prompt_order``, how far the scores follow it; see `PromptOrder`.
    folder : Path or None, default=None
        Where the arrays are, if not in memory. Copies and pickles of the table, and of models wrapped with it, refer
        to it.
    """

    candidates: UserScores
    probes: UserScores
    coverage: Coverage
    origin: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def __len__(self) -> int:
        """Return how many pairs were kept, candidates and probes."""
        return len(self.candidates) + len(self.probes)

    def __repr__(self) -> str:
        """Return what was kept, and how the scores were made."""
        made = f"\n  made by {self.origin['model']}" if "model" in self.origin else ""
        return f"ScoreTable: {self.coverage}{made}" + (f"\n  in {self.folder}" if self.folder else "")

    def __deepcopy__(self, memo: dict) -> ScoreTable:
        return self

    @classmethod
    def read(
        cls,
        scores: str | Path | pd.DataFrame,
        *,
        user_index: IdIndex | None = None,
        item_index: IdIndex | None = None,
    ) -> ScoreTable:
        """Read, check and encode a score table.

        Parameters
        ----------
        scores : path or pandas.DataFrame
            Parquet (``.parquet``, ``.pq``) or CSV (``.csv``, ``.csv.gz``), read by `read_table`, with the columns
            ``user_id``, ``item_id``, ``score`` in [0, 1] and optionally ``kind`` in {candidate, probe}; other columns
            are ignored, except ``prompt_position``, from which `reliability` warns, and ``source`` and ``spread`` of a
            student's scores (`extend_scores`), which the gate looks at. Data frames of polars and pyarrow
            are accepted, and so is a folder that `build` has made, which is opened.
        user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
            Maps raw ids to the codes in the model's input. Without it the ids are used as codes.

        Returns
        -------
        ScoreTable
            Rows with a missing id or score, an unknown id, or a pair seen before are dropped and counted in `coverage`.

        Raises
        ------
        ScoreTableError
            If the file cannot be read, is empty, lacks a column, or holds a score that is not a number in
            [0, 1], or an unknown kind.
        CoverageError
            If no candidate is left.

        Examples
        --------
        >>> frame = pd.DataFrame({"user_id": [1, 1, 9], "item_id": [3, 4, 3], "score": [0.9, 0.2, 0.5]})
        >>> print(ScoreTable.read(frame, user_index={1: 0}).coverage)
        3 scored pairs read, 2 kept (66.7%): 2 candidates of 1 users over 2 items, 0 probes of 0 users
          dropped 1: user_id not in user_index
        """
        scores = as_pandas(scores)
        if not isinstance(scores, (pd.DataFrame, str, Path)):
            raise ScoreTableError(f"scores is a {type(scores).__name__}. Pass a path or a DataFrame.")
        if isinstance(scores, (str, Path)) and Path(scores).is_dir():
            if user_index is not None or item_index is not None:
                raise ScoreTableError(
                    f"{scores}: is a folder, whose ids are codes already. Give the indexes to ScoreTable.build instead."
                )
            return cls.open(scores)
        rows = read_table(scores, "scores", numbers=("score", "spread"), error=ScoreTableError)
        encoder = RowEncoder(user_index, item_index, rows.is_text)
        frame = encoder.encode(checked(rows))
        encoder.require_some(rows.name)
        n_read, dropped = encoder.n_read, encoder.dropped
        # A pair that is a probe must not train even if it is also listed as a candidate: probes first.
        frame = frame.sort_values("is_probe", ascending=False, kind="stable")
        again = frame.duplicated(["user_id", "item_id"]).to_numpy()
        if again.any():
            dropped[SEEN_BEFORE] = int(again.sum())
            frame = frame[~again]
        origin = {} if isinstance(scores, pd.DataFrame) else read_origin(scores)
        if recorded_order(origin) is None and (order := recorded_order({}, rows.frame)) is not None:
            origin["prompt_order"] = asdict(order)
        return cls._grouped(frame, n_read, dropped, rows.name, origin)

    @classmethod
    def empty(cls) -> ScoreTable:
        """Return a table without a pair, for training plain models where nothing has been scored; `wrap` refuses it."""
        nothing = np.empty(0, dtype=np.int64)
        group = UserScores.from_arrays(nothing, nothing, np.empty(0, dtype=np.float32))
        return cls(group, group, _coverage(group, group, 0, {}))

    @classmethod
    def build(
        cls,
        source: str | Path,
        folder: str | Path,
        *,
        user_index: IdIndex | None = None,
        item_index: IdIndex | None = None,
        verbose: bool = False,
    ) -> ScoreTable:
        """Make a folder of memory-mapped arrays from parquet files that need not fit in memory, and open it.

        What is checked, dropped and counted, and the resulting table, are the same as with `read`.

        Parameters
        ----------
        source : path
            A parquet file, or a folder of them with the columns of `read`; a column can also be a level of folders
            (``kind=probe/``). Files are read in the order of their paths.
        folder : path
            Where the table is written. It must not exist, and it appears when it is complete. A build that fails leaves
            nothing; one that is killed leaves a ``.partial`` folder next to it, which can be deleted.
        user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
            Maps raw ids to the codes in the model's input. Without it the ids are used as codes.
        verbose : bool, default=False
            Whether to show progress on stderr.

        Raises
        ------
        ScoreTableError, CoverageError
            As `read`, naming the file and its row; or if `folder` exists or cannot be written.
        """
        build_table(source, folder, user_index=user_index, item_index=item_index, verbose=verbose)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool | None = None) -> ScoreTable:
        """Open a folder that `build` has made; the arrays stay on the disk until they are read.

        Every opening checks the description's own checksum, its version, and the exact size of every array.

        Parameters
        ----------
        folder : path
            As given to `build`.
        verify : bool or None, default=None
            Whether to read all arrays and compare their checksums, some seconds for 10^8 pairs. None does so for
            arrays whose time of change is not that of the build: they were altered, or copied without it.

        Raises
        ------
        ScoreTableError
            If something is missing, truncated, altered, or of a newer version.
        """
        (candidates, probes), coverage, origin = open_folder(Path(folder), verify)
        return cls(candidates, probes, Coverage(**coverage), origin, Path(folder))

    def __reduce__(self) -> tuple:
        """Pickle a table in a folder as its path, any other by its arrays."""
        if self.folder is not None:
            return ScoreTable.open, (self.folder,)
        return ScoreTable, (self.candidates, self.probes, self.coverage, self.origin)

    @classmethod
    def _grouped(
        cls, frame: pd.DataFrame, n_read: int, dropped: Mapping[str, int], source: str, origin: dict[str, Any]
    ) -> ScoreTable:
        groups = []
        columns = [*COLUMNS, *(["spread"] if frame["spread"].notna().any() else [])]
        for part in (frame[~frame["is_probe"]], frame[frame["is_probe"]]):
            groups.append(UserScores.from_arrays(*(part[name].to_numpy() for name in columns)))
        candidates, probes = groups
        if len(candidates) == 0:
            raise CoverageError(
                f"{source}: no candidate is left, only probes. Probes never train; score candidates as well."
            )
        return cls(candidates, probes, _coverage(candidates, probes, n_read, dropped), origin)

    @property
    def has_students(self) -> bool:
        """Whether scores of a student (`extend_scores`) are among them."""
        return self.candidates.spread is not None

    @functools.cached_property
    def user_range(self) -> tuple[int, int]:
        """The smallest and the greatest user code, probes included; (0, -1) of an empty table."""
        return _range(group.users for group in (self.candidates, self.probes))

    @functools.cached_property
    def item_range(self) -> tuple[int, int]:
        """The smallest and the greatest item code, probes included; (0, -1) of an empty table."""
        return _range(group.items[entries] for group in (self.candidates, self.probes) for _, entries in group.pieces())

    def within(self, n_users: int, n_items: int) -> ScoreTable:
        """Drop, and count, pairs whose codes lie outside vocabularies of these sizes.

        Raises
        ------
        CoverageError
            If no candidate is left, or the table is empty.
        ScoreTableError
            If a table in a folder has such pairs: they are dropped when it is built.
        """
        if len(self.candidates) == 0:
            raise CoverageError(
                "the score table is empty, so there is nothing to learn from. Score pairs first (sllmr score), or "
                "train the plain model."
            )
        if self.user_range[1] < n_users and self.item_range[1] < n_items:
            return self
        if self.folder is not None:
            raise ScoreTableError(
                f"{self.folder}: holds codes outside the model's vocabulary ({n_users} users, {n_items} items). Build "
                "it again with a user_index and an item_index of the model's ids, which drop the others."
            )
        kept = []
        for group in (self.candidates, self.probes):
            users = group.users[group.user_of_entry]
            kept.append(group.select((users < n_users) & (group.items < n_items)))
        candidates, probes = kept
        lost = len(self.candidates) + len(self.probes) - len(candidates) - len(probes)
        if len(candidates) == 0:
            raise CoverageError(
                f"every scored pair lies outside the model's vocabulary ({n_users} users, {n_items} items). "
                "Pass user_index= and item_index= so that raw ids become the model's codes."
            )
        dropped, reason = dict(self.coverage.dropped), "code outside the model's vocabulary"
        dropped[reason] = dropped.get(reason, 0) + lost
        coverage = _coverage(candidates, probes, self.coverage.n_read, dropped)
        return ScoreTable(candidates, probes, coverage, self.origin)


def _range(parts: Iterable[Tensor]) -> tuple[int, int]:
    ends = [(int(codes.min()), int(codes.max())) for codes in parts if len(codes)]
    return min((least for least, _ in ends), default=0), max((greatest for _, greatest in ends), default=-1)


def _coverage(candidates: UserScores, probes: UserScores, n_read: int, dropped: Mapping[str, int]) -> Coverage:
    return Coverage(
        n_read=n_read,
        n_candidates=len(candidates),
        n_probes=len(probes),
        n_users=len(candidates.users),
        n_items=len(candidates.items.unique()),
        n_probe_users=len(probes.users),
        dropped=dict(dropped),
    )
