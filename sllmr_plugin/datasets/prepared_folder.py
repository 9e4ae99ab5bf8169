"""The folder that `prepare` writes: all files or none, and a record of how they were made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

from sllmr_plugin.errors import DataError

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
            If the folder cannot be written to. Nothing is left then, but for what was there before.
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
