"""Builds a score table in a folder from parquet files that need not fit in memory: an external merge sort.

Pieces of the input are checked, encoded, sorted by user and item and put aside as runs. Then ranges of users,
each small enough for memory, are taken from all runs at once, merged, freed of repeated pairs and appended to the
arrays.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.dataset
from tqdm import tqdm

from ..errors import CoverageError, ScoreTableError
from .arrays import ENTRY, PARTS, ArrayFile, write_description
from .ids import IdIndex
from .origin import read_origin
from .reading import Table, refuse_doubled
from .rows import COLUMNS, SEEN_BEFORE, RowEncoder, checked

_BATCH = 1 << 18  # rows decoded together; ids can be texts, which take most of the memory
_RUN = 1 << 21  # rows sorted, or merged, together
_ROW = np.dtype([("user", "<i8"), ("item", "<i8"), ("score", "<f4"), ("spread", "<f4"), ("is_probe", "?")])


def build_table(
    source: str | Path,
    folder: str | Path,
    *,
    user_index: IdIndex | None,
    item_index: IdIndex | None,
    verbose: bool,
    run_rows: int = _RUN,
) -> None:
    """Make the folder of a score table, see `ScoreTable.build`.

    Parameters
    ----------
    run_rows : int
        Rows that are sorted or merged in memory together.
    """
    folder = Path(folder)
    if folder.exists():
        raise ScoreTableError(f"{folder}: is there already. Delete it, or choose another place.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            _build(Path(source), partial, RowEncoder(user_index, item_index), run_rows, verbose)
            partial.chmod(0o755)  # mkdtemp keeps others out
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise ScoreTableError(f"{folder}: cannot be built ({error}). Make room, or choose another place.") from None


def _build(source: Path, folder: Path, encoder: RowEncoder, run_rows: int, verbose: bool) -> None:
    from .. import __version__

    files, total = _open_source(source)
    runs_folder = folder / "runs"
    runs_folder.mkdir()
    with tqdm(total=total, unit=" rows", unit_scale=True, desc="reading", disable=not verbose) as bar:
        runs = [
            _Run.write(rows, runs_folder / str(number))
            for number, rows in enumerate(_runs(_encoded(files, encoder, bar), run_rows))
        ]
    encoder.require_some(str(source))
    n_kept = sum(run.n_rows for run in runs)
    items, seen_before = np.empty(0, dtype=np.int64), 0
    with (
        ExitStack() as stack,
        tqdm(total=n_kept, unit=" rows", unit_scale=True, desc="merging", disable=not verbose) as bar,
    ):
        groups = [_Group(folder, name, stack) for name in ("candidates", "probes")]
        for rows in _merged(runs, run_rows):
            unique = rows[_starts(rows["user"]) | _starts(rows["item"])]
            seen_before += len(rows) - len(unique)
            for group, wanted in zip(groups, (False, True), strict=True):
                group.append(unique[unique["is_probe"] == wanted])
            items = np.sort(np.concatenate([items, unique["item"][~unique["is_probe"]]]))
            items = items[_starts(items)]
            bar.update(len(rows))
    candidates, probes = groups
    if candidates.n_pairs == 0:
        raise CoverageError(
            f"{source}: no candidate is left, only probes. Probes never train; score candidates as well."
        )
    if seen_before:
        encoder.dropped[SEEN_BEFORE] = seen_before
    coverage: dict[str, Any] = {
        "n_read": encoder.n_read,
        "n_candidates": candidates.n_pairs,
        "n_probes": probes.n_pairs,
        "n_users": candidates.n_users,
        "n_items": len(items),
        "n_probe_users": probes.n_users,
        "dropped": encoder.dropped,
    }
    shutil.rmtree(runs_folder)
    arrays = [array for group in groups for array in group.arrays]
    students = any(group.students for group in groups)
    write_description(folder, arrays, coverage, read_origin(files[0][0]), __version__, students=students)


Files = list[tuple[str, pyarrow.dataset.Fragment, pyarrow.Schema]]


def _open_source(source: Path) -> tuple[Files, int]:
    """Return path, contents and schema of the files, in order, and the number of rows."""
    if not source.exists():
        raise ScoreTableError(f"{source}: no such file or folder. Give a parquet file, or a folder of them.")
    try:
        # pyarrow does not name the column of which it makes no schema. An empty schema leaves the files apart.
        for part in pyarrow.dataset.dataset(source, format="parquet", schema=pyarrow.schema([])).get_fragments():
            refuse_doubled(part.physical_schema.names, part.path, ScoreTableError)
        dataset = pyarrow.dataset.dataset(source, format="parquet", partitioning="hive")
        files = sorted(
            ((part.path, part, dataset.schema) for part in dataset.get_fragments()), key=lambda file: file[0]
        )
        total = sum(part.count_rows() for _, part, _ in files)
    except ScoreTableError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ScoreTableError(f"{source}: cannot be read as parquet ({error}). Write the files again.") from None
    if not files or total == 0:
        raise ScoreTableError(f"{source}: holds no rows. Score some pairs first.")
    for column in ("user_id", "item_id"):
        _check_one_form(files, column)
    return files, total


def _check_one_form(files: Files, column: str) -> None:
    """Check that ids have one form in all files: reading brings a column to the first file's type, "007" to 7."""
    first: tuple[str, str] | None = None
    for path, part, schema in files:
        physical = part.physical_schema
        if column not in physical.names:
            if column in schema.names and pyarrow.types.is_integer(schema.field(column).type):
                raise ScoreTableError(
                    f"{path}: {column} is a level of folders, of which 007 would be read as 7. Write it as a column."
                )
            continue
        kind = physical.field(column).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if pyarrow.types.is_null(kind):
            continue
        form = "whole numbers" if pyarrow.types.is_integer(kind) else str(kind).removeprefix("large_")
        first = first or (path, form)
        if form != first[1]:
            raise ScoreTableError(
                f"{path}: {column} is written as {form}, in {first[0]} as {first[1]}. Write all files the same way."
            )


def _encoded(files: Files, encoder: RowEncoder, bar: tqdm) -> Iterator[np.ndarray]:
    """Read, check and encode the files, some rows at a time."""
    for path, part, schema in files:
        wanted = [name for name in (*COLUMNS, "kind", "source", "spread") if name in schema.names]
        row = 0
        batches = part.to_batches(
            schema=schema, columns=wanted, batch_size=_BATCH, batch_readahead=1, fragment_readahead=1
        )
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise ScoreTableError(f"{path}: cannot be read ({error}). Write the file again.") from None
            if batch is None:
                break
            if not len(batch):
                continue
            piece = batch.to_pandas(integer_object_nulls=True)
            frame = checked(Table(piece, path, is_text=False, error=ScoreTableError, first_row=row))
            yield _as_rows(_encode(encoder, frame, path))
            row += len(batch)
            bar.update(len(batch))


def _encode(encoder: RowEncoder, frame: pd.DataFrame, path: str) -> pd.DataFrame:
    try:
        return encoder.encode(frame)
    except ScoreTableError as error:  # what is said of ids does not know the file
        raise ScoreTableError(f"{path}: {error}") from None


def _as_rows(frame: pd.DataFrame) -> np.ndarray:
    rows = np.empty(len(frame), dtype=_ROW)
    rows["user"], rows["item"] = frame["user_id"].to_numpy(), frame["item_id"].to_numpy()
    for name in ("score", "spread", "is_probe"):
        rows[name] = frame[name].to_numpy()
    return rows


def _runs(pieces: Iterator[np.ndarray], run_rows: int) -> Iterator[np.ndarray]:
    """Collect pieces into runs, each sorted."""
    held: list[np.ndarray] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) >= run_rows:
            yield _sorted(held)
            held = []
    if held:
        yield _sorted(held)


def _sorted(parts: list[np.ndarray]) -> np.ndarray:
    """Join rows and sort them by user and item, probes first, then as they came."""
    rows = np.concatenate(parts)
    return rows[np.lexsort((~rows["is_probe"], rows["item"], rows["user"]))]


@dataclass(frozen=True)
class _Run:
    """Sorted rows in a file, read by slices: a memory map of all of them would end up in memory."""

    path: Path
    n_rows: int

    @classmethod
    def write(cls, rows: np.ndarray, path: Path) -> _Run:
        rows.tofile(path)
        return cls(path, len(rows))

    def read(self, first: int, end: int) -> np.ndarray:
        return np.fromfile(self.path, dtype=_ROW, count=end - first, offset=first * _ROW.itemsize)

    def users(self) -> np.ndarray:
        return self.read(0, self.n_rows)["user"].copy()


def _merged(runs: list[_Run], run_rows: int) -> Iterator[np.ndarray]:
    """Give all rows, sorted, a range of users at a time of about `run_rows` rows."""
    step = max(1, run_rows // 256)
    samples = np.sort(np.concatenate([run.users()[::step] for run in runs]))
    bounds = np.unique(samples[:: max(1, run_rows // step)][1:])  # each sample stands for `step` rows
    cuts = [np.concatenate([[0], np.searchsorted(run.users(), bounds), [run.n_rows]]) for run in runs]
    for k in range(len(bounds) + 1):
        rows = _sorted([run.read(int(cut[k]), int(cut[k + 1])) for run, cut in zip(runs, cuts, strict=True)])
        if len(rows):
            yield rows


def _starts(values: np.ndarray) -> np.ndarray:
    """Return where sorted values differ from the one before, (n,) bool."""
    return np.concatenate([np.ones(min(len(values), 1), dtype=bool), values[1:] != values[:-1]])


class _Group:
    """The arrays of the candidates, or of the probes."""

    def __init__(self, folder: Path, name: str, stack: ExitStack) -> None:
        self.arrays = [stack.enter_context(ArrayFile(folder, f"{name}.{part}")) for part in PARTS]
        self.n_users = self.n_pairs = 0
        self.students = False
        self.arrays[1].append(np.zeros(1, dtype=np.int64))

    def append(self, rows: np.ndarray) -> None:
        """Add rows of users that come after all others, sorted."""
        first = np.flatnonzero(_starts(rows["user"]))
        users = rows["user"][first]
        offsets = self.n_pairs + np.append(first[1:], len(rows))[: len(first)]
        entries = np.zeros(len(rows), dtype=ENTRY)
        for name in ("item", "score", "spread"):
            entries[name] = rows[name]
        self.students = self.students or not np.isnan(rows["spread"]).all()
        for array, values in zip(self.arrays, (users, offsets, entries), strict=True):
            array.append(values)
        self.n_users += len(users)
        self.n_pairs += len(rows)
