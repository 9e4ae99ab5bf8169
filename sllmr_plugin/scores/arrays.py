"""Scores by user in compressed rows, in memory or in a folder of raw arrays that are memory-mapped.

``table.json`` describes the arrays of a folder, with their sizes and checksums. It is written last, so a folder without
it was not made by this package or is not finished. Arrays are little-endian without a header. Readers refuse versions
that they do not know.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ScoreTableError

DESCRIPTION = "table.json"
VERSION = 1
# An entry's item and score lie together: the system reads the file in blocks, and so the scores of a user are in one.
# `spread` means something where the description says "students"; those four bytes keep items aligned in any case.
ENTRY = np.dtype([("item", "<i8"), ("score", "<f4"), ("spread", "<f4")])
PARTS = {"users": np.dtype("<i8"), "offsets": np.dtype("<i8"), "entries": ENTRY}
_FORMAT = "sllmr score table"
_READ = 1 << 20  # bytes
# Bytes written in one call: the system caches them as one block, and later maps that block whole, see MappedPages.
_WRITTEN = 1 << 14
_PLACES = 512  # looked up before their pages go back; each can bring in 64 kB of neighbours from every file
_SMALL = 1 << 27  # bytes that may stay
# Entries looked at together in a pass over the whole table; smaller pieces fragment the heap, which costs more.
_PIECE = 1 << 22


class MappedPages:
    """The pages of memory-mapped files: fetched one by one or ahead of a walk, and given back now and then.

    Every place that is read stays in the process's resident memory for as long as the map lives, so a training
    that draws from a whole table would end up with all of it. Given back, a page is in the system's cache still
    and comes again without the disk, as long as nothing else needs that memory.

    Recent Linux caches what was read ahead, or written at once, in blocks of up to 2 MB, and brings in a whole block
    when a byte of it is read. So the system is told not to read ahead, and walks name what they need, which is then
    fetched together and cached page by page. All of this is advice: without it everything works, in more memory.

    Parameters
    ----------
    maps : mapping of mmap to int
        Map -> bytes of an entry of the table, 0 where the array is not one of entries. Never written to: what was
        written would be lost.
    """

    def __init__(self, maps: Mapping[mmap.mmap, int]) -> None:
        self._maps = maps if sum(map(len, maps)) > _SMALL else {}
        self._places = 0
        for each in self._maps:
            _advise(each, "MADV_RANDOM")

    def will_walk(self, entries: slice) -> None:
        """Have these entries of the table fetched."""
        for each, size in self._maps.items():
            start = entries.start * size // mmap.PAGESIZE * mmap.PAGESIZE
            length = min(entries.stop * size, len(each)) - start
            if length > 0:
                _advise(each, "MADV_WILLNEED", start, length)

    def looked_up(self, n_places: int) -> None:
        """Count places that were read; every so often, give the pages back."""
        self._places += n_places
        if self._places >= _PLACES:
            self.give_back()

    def give_back(self) -> None:
        """Give all pages back."""
        self._places = 0
        for each in self._maps:
            _advise(each, "MADV_DONTNEED")


def _advise(mapped: mmap.mmap, advice: str, *where: int) -> None:
    option = getattr(mmap, advice, None)  # Windows has none, and trims working sets by itself
    if option is not None:
        with contextlib.suppress(OSError):
            mapped.madvise(option, *where)


@dataclass(frozen=True)
class UserScores:
    """Scores grouped by user in compressed rows, users and items as model codes, sorted by both.

    Attributes
    ----------
    users : Tensor
        (n_users,) int64, ascending.
    offsets : Tensor
        (n_users + 1,) int64; the entries of ``users[k]`` are ``offsets[k]:offsets[k + 1]``.
    items : Tensor
        (n_pairs,) int64, ascending within a user.
    scores : Tensor
        (n_pairs,) float32 in [0, 1].
    pages : MappedPages or None, default=None
        Of the files behind the tensors, where there are any.
    spread : Tensor or None, default=None
        (n_pairs,) float32, of a student's scores (`extend_scores`) the standard deviation over the students of all
        folds, NaN of the LLM's own; None for a table without a student's scores.
    """

    users: Tensor
    offsets: Tensor
    items: Tensor
    scores: Tensor
    pages: MappedPages | None = field(default=None, repr=False)
    spread: Tensor | None = None

    @classmethod
    def from_arrays(
        cls, users: np.ndarray, items: np.ndarray, scores: np.ndarray, spread: np.ndarray | None = None
    ) -> UserScores:
        """Group (n_pairs,) arrays, in any order and without duplicates."""
        order = np.lexsort((items, users))
        unique, counts = np.unique(users, return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return cls(
            torch.from_numpy(unique.astype(np.int64)),
            torch.from_numpy(offsets.astype(np.int64)),
            torch.from_numpy(items[order].astype(np.int64)),
            torch.from_numpy(scores[order].astype(np.float32)),
            spread=None if spread is None else torch.from_numpy(spread[order].astype(np.float32)),
        )

    def __len__(self) -> int:
        return self.items.shape[0]

    @property
    def counts(self) -> Tensor:
        """(n_users,) entries of each user."""
        return self.offsets.diff()

    @property
    def user_of_entry(self) -> Tensor:
        """(n_pairs,) position in `users` of every entry."""
        return torch.repeat_interleave(torch.arange(len(self.users)), self.counts)

    def select(self, keep: Tensor) -> UserScores:
        """Keep the entries where the (n_pairs,) mask is True; users left with none disappear."""
        users = self.users[self.user_of_entry]
        spread = None if self.spread is None else self.spread[keep].numpy()
        return UserScores.from_arrays(users[keep].numpy(), self.items[keep].numpy(), self.scores[keep].numpy(), spread)

    def pieces(self, n_entries: int = _PIECE) -> Iterator[tuple[slice, slice]]:
        """Walk through the table with little of it in memory.

        Parameters
        ----------
        n_entries : int
            The most entries of a piece, unless a single user has more.

        Yields
        ------
        users, entries : slice
            Users in `users`, and all their entries in `items` and `scores`.
        """
        first, n_users = 0, len(self.users)
        while first < n_users:
            start = int(self.offsets[first])
            end = int(torch.searchsorted(self.offsets, start + n_entries, right=True)) - 1
            end = min(max(end, first + 1), n_users)
            entries = slice(start, int(self.offsets[end]))
            if self.pages is not None:
                self.pages.will_walk(entries)
            yield slice(first, end), entries
            first = end
            if self.pages is not None:
                self.pages.give_back()

    def items_seen(self, n_items: int) -> Tensor:
        """Return which of the item codes below `n_items` occur, (n_items,) bool; all occurring ones are below."""
        seen = torch.zeros(n_items, dtype=torch.bool)
        for _, entries in self.pieces():
            seen[self.items[entries]] = True
        return seen

    def block(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return entry numbers of some users as a padded block.

        Parameters
        ----------
        positions : Tensor
            (n,) positions in `users`.

        Returns
        -------
        entry : Tensor
            (n, width) int64 positions in `items` and `scores`; padding repeats a valid position.
        valid : Tensor
            (n, width) bool.
        """
        start = self.offsets[positions]
        return self.block_at(start, self.offsets[positions + 1] - start)

    def block_at(self, start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return a padded block, see `block`, of users whose first entries and numbers of entries are known, (n,)."""
        if self.pages is not None:
            self.pages.looked_up(len(start))
        column = torch.arange(int(count.max()) if len(count) else 0)
        valid = column < count.unsqueeze(1)
        return start.unsqueeze(1) + torch.where(valid, column, 0), valid

    def locate(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Find the entries of (user, item) codes: bisection among each user's items, for all of them at once.

        Parameters
        ----------
        users, items : Tensor
            (n,) int64 codes.

        Returns
        -------
        entry : Tensor
            (n,) int64 positions in `items` and `scores`, any where there is none.
        found : Tensor
            (n,) bool.
        """
        if len(self) == 0 or len(users) == 0:
            return torch.zeros_like(users), torch.zeros(users.shape, dtype=torch.bool)
        user = torch.searchsorted(self.users, users).clamp_max(len(self.users) - 1)
        low, end = self.offsets[user], self.offsets[user + 1]
        high = end
        for _ in range(int((end - low).max()).bit_length()):
            middle = (low + high) // 2
            below = (low < high) & (self.items[middle.clamp_max(len(self) - 1)] < items)
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        entry = low.clamp_max(len(self) - 1)
        found = (self.users[user] == users) & (low < end) & (self.items[entry] == items)
        if self.pages is not None:
            self.pages.looked_up(len(users))
        return entry, found


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
        """Return what a reader checks; the file has to be closed."""
        return {
            "length": self.length,
            "sha256": self._hash.hexdigest(),
            "mtime_ns": self._path.stat().st_mtime_ns,
        }


def write_description(
    folder: Path,
    arrays: list[ArrayFile],
    coverage: dict[str, Any],
    origin: dict[str, Any],
    package_version: str,
    *,
    students: bool,
) -> None:
    """Write the description of a folder's arrays, all of them closed; it comes last.

    `students` says whether any score is a student's, so that the spread of entries means something.
    """
    content = {
        "format": _FORMAT,
        "version": VERSION,
        "package_version": package_version,
        "arrays": {array.name: array.describe() for array in arrays},
        "coverage": coverage,
        "origin": origin,
        "students": students,
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
                torch.from_numpy(arrays["entries"]["spread"]) if description.get("students") else None,
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
        raise ScoreTableError(f"{path}: does not describe a score table. Give a folder made by ScoreTable.build.")
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
