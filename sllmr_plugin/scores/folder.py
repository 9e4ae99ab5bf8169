"""A score table in a folder: raw arrays to be memory-mapped, and a description with their sizes and checksums.

``table.json`` is written last, so a folder without it was not made by this package or is not finished. Arrays are
little-endian without a header. Readers refuse versions that they do not know.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from ..errors import ScoreTableError
from .arrays import MappedPages, UserScores

DESCRIPTION = "table.json"
VERSION = 1
# An entry's item and score lie together: the system brings in memory by places, and this way a user is one of them.
# Four bytes of each are left empty, so that items stay aligned.
ENTRY = np.dtype([("item", "<i8"), ("score", "<f4"), ("empty", "V4")])
PARTS = {"users": np.dtype("<i8"), "offsets": np.dtype("<i8"), "entries": ENTRY}
_FORMAT = "sllmr score table"
_READ = 1 << 20
_WRITTEN = 1 << 14  # bytes; what is written at once is cached, and later mapped, at once: see MappedPages


class ArrayFile:
    """An array that is written piece by piece.

    Parameters
    ----------
    folder : Path
        Where the file goes.
    name : str
        For instance ``candidates.users``; what follows the last dot decides the dtype.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.dtype = PARTS[name.rpartition(".")[2]]
        self.length = 0
        self._path = folder / name
        self._file = self._path.open("wb", buffering=_WRITTEN)
        self._hash = hashlib.sha256()

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, values: np.ndarray) -> None:
        """Write (n,) values after those that are there."""
        data = np.ascontiguousarray(values, dtype=self.dtype)
        raw = data.view(np.uint8)
        for first in range(0, len(raw), _WRITTEN):
            self._file.write(raw[first : first + _WRITTEN].data)
        self._hash.update(raw.data)
        self.length += len(data)

    def describe(self) -> dict[str, Any]:
        """Return what a reader checks, the file being closed."""
        return {
            "length": self.length,
            "sha256": self._hash.hexdigest(),
            "mtime_ns": self._path.stat().st_mtime_ns,
        }


def write_description(
    folder: Path, arrays: list[ArrayFile], coverage: dict[str, Any], origin: dict[str, Any], package_version: str
) -> None:
    """Describe the arrays of a folder, all of them closed; the last thing that is written."""
    content = {
        "format": _FORMAT,
        "version": VERSION,
        "package_version": package_version,
        "arrays": {array.name: array.describe() for array in arrays},
        "coverage": coverage,
        "origin": origin,
    }
    content["sha256"] = _digest(content)
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _digest(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def open_folder(folder: Path, verify: bool | None) -> tuple[list[UserScores], dict[str, Any], dict[str, Any]]:
    """Map the arrays of a folder, see `ScoreTable.open`.

    Returns
    -------
    groups : list of UserScores
        Candidates and probes.
    coverage, origin : dict
        As written.

    Raises
    ------
    ScoreTableError
        If something is missing, truncated, altered, or of a newer version.
    """
    description = _read_description(folder)
    groups = []
    for group in ("candidates", "probes"):
        maps: dict[mmap.mmap, int] = {}
        arrays = {}
        for part, dtype in PARTS.items():
            name = f"{group}.{part}"
            mapped = _map(folder / name, dtype, description["arrays"][name], verify)
            if mapped is not None:
                maps[mapped] = dtype.itemsize if part == "entries" else 0
            arrays[part] = np.empty(0, dtype=dtype) if mapped is None else np.frombuffer(mapped, dtype=dtype)
        groups.append(
            UserScores(
                torch.from_numpy(arrays["users"]),
                torch.from_numpy(arrays["offsets"]),
                torch.from_numpy(arrays["entries"]["item"]),
                torch.from_numpy(arrays["entries"]["score"]),
                MappedPages(maps),
            )
        )
    return groups, description["coverage"], description["origin"]


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScoreTableError(
            f"{folder}: holds no {DESCRIPTION}, so it is not a finished score table. Parquet files become one with "
            "ScoreTable.build or sllmr build-table."
        ) from None
    except (OSError, ValueError) as error:
        raise ScoreTableError(f"{path}: cannot be read ({error}). Build the table again.") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ScoreTableError(f"{path}: describes no score table. Give a folder made by ScoreTable.build.")
    if content.get("version") != VERSION:
        raise ScoreTableError(
            f"{path}: has version {content.get('version')}, and this package reads {VERSION}. Build the table again, "
            f"or use the package that wrote it ({content.get('package_version')})."
        )
    if content.get("sha256") != _digest(content):
        raise ScoreTableError(f"{path}: was altered after the build. Build the table again.")
    return content


def _map(path: Path, dtype: np.dtype, expected: dict[str, Any], verify: bool | None) -> mmap.mmap | None:
    """Return a map of a file after the checks; None for an empty one, which cannot be mapped."""
    try:
        found = path.stat()
        size = expected["length"] * dtype.itemsize
        if found.st_size != size:
            raise ScoreTableError(
                f"{path}: holds {found.st_size} bytes where {size} were written: it is truncated or another file. Copy "
                "the table again, or build it again."
            )
        if verify or (verify is None and found.st_mtime_ns != expected["mtime_ns"]):
            _verify(path, expected["sha256"])
        if size == 0:
            return None
        with path.open("rb") as file:
            # Writable for torch's sake, and privately: nothing could reach the file.
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise ScoreTableError(f"{path}: cannot be read ({error}). Build the table again.") from None


def _verify(path: Path, expected: str) -> None:
    fingerprint = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ):
            fingerprint.update(data)
    if fingerprint.hexdigest() != expected:
        raise ScoreTableError(f"{path}: was altered after the build. Copy the table again, or build it again.")
