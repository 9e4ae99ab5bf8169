"""Prepared data: codes back to raw ids, all files or none, and what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from ..errors import DataError
from .interactions import SPLITS
from .protocols import LLM_CF
from .raw.lines import RawFile, RawRecord


@dataclass(frozen=True)
class Prepared:
    """A prepared data set; printing it gives a summary.

    Parameters
    ----------
    path : pathlib.Path
        The folder.
    record : dict
        The content of its ``prepared.json``: ``settings``, ``sources`` (path, size, SHA-256, records, malformed lines),
        ``dropped`` (interactions, by reason), ``counts``, ``llm-cf`` (what the paper's Table 1 counts, `count_rows`)
        and ``files`` (rows, size, SHA-256).
    """

    path: Path
    record: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Users, items, interactions and what else was counted."""
        return self.record["counts"]

    @property
    def interactions(self) -> Path:
        """The file of interactions."""
        return self._file("interactions")

    @property
    def items(self) -> Path:
        """The file of items."""
        return self._file("items")

    def _file(self, stem: str) -> Path:
        return self.path / next(name for name in self.record["files"] if name.startswith(stem + "."))

    def __str__(self) -> str:
        counts = dict(self.counts)
        lines = [
            f"{self.path}: {counts.pop('users')} users, {counts.pop('items')} items, "
            f"{counts.pop('interactions')} interactions"
        ]
        for source in self.record["sources"]:
            malformed = source["malformed"]["lines"]
            lines.append(
                f"  read      {source['records']} {source['role']}, {malformed} malformed lines: {source['path']}"
            )
        dropped = self.record["dropped"]
        if any(dropped.values()):
            lines.append(f"  dropped   {', '.join(f'{count} {why}' for why, count in dropped.items() if count)}")
        if "train" in counts:
            parts = ", ".join(f"{counts.pop(name)} {name}" for name in ("train", "valid", "test"))
            lines.append(f"  split     {parts}")
        rest = [f"{count} {what}" for what, count in counts.items() if count]
        if rest:
            lines.append(f"  of these  {', '.join(rest)}")
        rows = self.record[LLM_CF]
        told = f"{rows['rows']} rows, {rows['cold_rows']} of them cold, {rows['tail_items']} long-tail items"
        lines.append(f"  {LLM_CF}    {told} (what the paper's Table 1 counts)")
        lines.append(f"  written   {', '.join(self.record['files'])}, prepared.json")
        return "\n".join(lines)


_CHUNK = 200_000  # rows that are turned into text at a time


def interaction_chunks(
    rows: pd.DataFrame, ids: dict[str, np.ndarray], negatives: np.ndarray | None, has_timestamp: bool
) -> Iterator[pd.DataFrame]:
    """Interactions as they are written, in chunks; each is followed by its negatives, which happen at its time."""
    owners = rows["user"].to_numpy()
    position = np.arange(len(rows)) - np.searchsorted(owners, owners)
    time = rows["time"].to_numpy()
    has_rating = bool(rows["rating"].notna().any())
    whole = has_timestamp and bool((time % 1 == 0).all())
    copies = 1 if negatives is None else 1 + negatives.shape[1]
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        items = rows["item"].to_numpy()[part]
        label = np.ones((len(items), copies), dtype=np.int8)
        label[:, 1:] = 0
        label = label.ravel()
        if negatives is not None:
            items = np.column_stack([items, negatives[part]]).ravel()
        columns = {
            "user_id": ids["user_id"][np.repeat(owners[part], copies)],
            "item_id": ids["item_id"][items],
        }
        if negatives is not None:
            columns["label"] = label
        if has_rating:
            columns["rating"] = np.where(label == 1, np.repeat(rows["rating"].to_numpy()[part], copies), np.nan)
        if has_timestamp:
            columns["timestamp"] = np.repeat(time[part].astype(np.int64) if whole else time[part], copies)
        columns["position"] = np.repeat(position[part], copies)
        if "split" in rows:
            columns["split"] = np.array(SPLITS, dtype=object)[np.repeat(rows["split"].to_numpy()[part], copies)]
        yield pd.DataFrame(columns)


def count(rows: pd.DataFrame, n_users: int, n_items: int, negatives: np.ndarray | None) -> dict[str, int]:
    """Count users, items and interactions, all and by split."""
    counts = {"users": n_users, "items": n_items, "interactions": len(rows)}
    if "split" in rows:
        splits = rows["split"].to_numpy()
        counts |= dict(zip(SPLITS, np.bincount(splits, minlength=3).tolist(), strict=True))
        train = rows[splits == 0]
        counts["users without training interaction"] = n_users - train["user"].nunique()
        counts["items without training interaction"] = n_items - train["item"].nunique()
    if negatives is not None:
        counts["negatives"] = negatives.size
    return counts


def attributes(
    read: Callable[[RawFile, Set[str]], Iterator[RawRecord]],
    file: RawFile | None,
    key: str,
    ids: list[str],
    columns: list[str],
    max_bad_share: float,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read what a file says of the given ids.

    Parameters
    ----------
    read : callable
        Reads a file when it is given the ids that are wanted.
    file : RawFile or None
        None knows of nothing.
    key : {"item_id", "user_id"}
        Name of the column of ids.
    ids : list of str
        (n,) raw ids.
    columns : list of str
        Columns that come first, and are there even if the file does not have them.
    max_bad_share : float
        More malformed lines are an error.

    Returns
    -------
    frame : DataFrame
        (n,) rows in the order of `ids`: `key` and the file's texts, of the first record of each, "" where
        there is none.
    known : ndarray of bool
        (n,) which of them have a record.

    Raises
    ------
    DataError
        If the file has none of the ids, or cannot be read.
    """
    found: dict[str, dict[str, str]] = {}
    if file is not None:
        wanted = set(ids)
        for name, texts in read(file, wanted):
            if name in wanted:
                found.setdefault(name, texts)
        file.check(max_bad_share)
        if not found:
            raise DataError(
                f"{file.path} has none of the {len(ids)} ids that are left (the first is {ids[0]!r}); give the file "
                f"of {file.role} that belongs to the interactions"
            )
        columns = list(dict.fromkeys([*columns, *next(iter(found.values()))]))
    table = {name: [found.get(entry, {}).get(name, "") for entry in ids] for name in columns}
    frame = pd.DataFrame({key: ids, **table}, dtype=object)
    return frame, np.array([entry in found for entry in ids], dtype=bool)


RECORD = "prepared.json"
_NAMES = ("interactions", "items", "users")


class PreparedFolder:
    """A folder to be filled.

    Parameters
    ----------
    path : path
        Made if it is missing. Other files in it are left alone.
    file_format : {"csv", "parquet"}
        Of the tables.
    replace : bool
        Whether tables that are there may be replaced.
    inputs : iterable of path
        Raw files, which must not be replaced in any case.

    Raises
    ------
    DataError
        If something is in the way.
    """

    def __init__(self, path: Path, file_format: str, *, replace: bool, inputs: Iterable[Path]) -> None:
        self.path = path
        self._suffix = "." + file_format
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is not a folder; give another one for the prepared files")
        there = [path / name for name in self._own_names() if (path / name).exists()]
        for raw in inputs:
            if any(raw.exists() and raw.samefile(file) for file in there):
                raise DataError(f"{raw} would be replaced by what is made of it; give another folder")
        if there and not replace:
            raise DataError(
                f"{path} has {', '.join(file.name for file in there)} already; give another folder, or replace them "
                "with --replace (replace=True)"
            )

    def write(self, tables: Mapping[str, Iterable[pd.DataFrame]], record: dict[str, Any]) -> dict[str, Any]:
        """Write the tables and the record.

        Parameters
        ----------
        tables : mapping of str to iterable of DataFrame
            Name without suffix -> chunks of rows, at least one, all with the same columns.
        record : dict
            Plain JSON values; ``files`` is added: rows, bytes and SHA-256 of each table.

        Returns
        -------
        dict
            The record as it was written.

        Raises
        ------
        DataError
            If the folder cannot be written to. Then nothing is left except what was there before.
        """
        is_new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stage = Path(tempfile.mkdtemp(prefix=".prepare-", dir=self.path))
            try:
                files = {}
                for name, chunks in tables.items():
                    file = stage / (name + self._suffix)
                    rows = self._write_table(file, chunks)
                    files[file.name] = {"rows": rows, "bytes": file.stat().st_size, "sha256": _fingerprint(file)}
                record = {**record, "files": files}
                text = json.dumps(record, indent=1, allow_nan=False) + "\n"
                (stage / RECORD).write_text(text, encoding="utf-8")
                self._publish(stage, [*files, RECORD])
            finally:
                shutil.rmtree(stage, ignore_errors=True)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written ({error}); choose another folder") from None
        finally:
            if is_new and self.path.is_dir() and not any(self.path.iterdir()):
                self.path.rmdir()
        return record

    def _publish(self, stage: Path, names: list[str]) -> None:
        """Put staged files in the place of older ones; the record goes first and comes last, as the seal of the rest.

        A crash between two files leaves a folder without a record.
        """
        (self.path / RECORD).unlink(missing_ok=True)
        for name in names:
            os.replace(stage / name, self.path / name)
        for stale in set(self._own_names()) - set(names):
            (self.path / stale).unlink(missing_ok=True)

    def _write_table(self, file: Path, chunks: Iterable[pd.DataFrame]) -> int:
        if self._suffix == ".csv":
            return _write_csv(file, chunks)
        return _write_parquet(file, chunks)

    @staticmethod
    def _own_names() -> list[str]:
        return [*(name + suffix for name in _NAMES for suffix in (".csv", ".parquet")), RECORD]


def _write_csv(file: Path, chunks: Iterable[pd.DataFrame]) -> int:
    rows = 0
    with file.open("w", encoding="utf-8", newline="") as stream:
        for chunk in chunks:
            chunk.to_csv(stream, index=False, header=not rows, lineterminator="\n")
            rows += len(chunk)
    return rows


def _write_parquet(file: Path, chunks: Iterable[pd.DataFrame]) -> int:
    rows = 0
    iterator: Iterator[pd.DataFrame] = iter(chunks)
    first = pyarrow.Table.from_pandas(next(iterator), preserve_index=False)
    with pyarrow.parquet.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        rows += first.num_rows
        for chunk in iterator:
            writer.write_table(pyarrow.Table.from_pandas(chunk, schema=first.schema, preserve_index=False))
            rows += len(chunk)
    return rows


def _fingerprint(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
