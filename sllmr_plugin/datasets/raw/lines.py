"""A raw file streamed line by line, with an account of its malformed lines; values read from it."""

from __future__ import annotations

import gzip
import hashlib
import html
import io
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Set
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from ...errors import DataError, MalformedLinesError

MAX_LINE = 1 << 22
"""Bytes of a line that are read; a longer one is malformed. The longest lines of the public files are far below."""

_GIVE_UP = 1000  # malformed lines before the first good one: the file is of another format
_SHOWN = 10  # line numbers that are kept of each reason
_GZIP_MAGIC = b"\x1f\x8b"

T = TypeVar("T")


class BadLine(ValueError):  # noqa: N818  (never leaves this package: it becomes a line of the account)
    """A line cannot be used; the message is the reason, without anything of the line's own text."""


class RawFile:
    """A raw file, plain or gzipped, that is gone through once.

    Gzip is detected from the first two bytes, not from the name. Memory does not grow with the file.

    Parameters
    ----------
    path : path
        The file.
    role : str
        What it holds, for messages ("reviews").
    verbose : bool, default=False
        Show progress on stderr, with rate and time left by the bytes of the file, if it takes longer than two
        seconds.

    Attributes
    ----------
    read : int
        Records that were made of the lines so far.
    malformed : dict of str to (int, list of int)
        Reason -> how many lines, and the numbers of the first ten (the first line of the file is 1).

    Raises
    ------
    DataError
        The path is not a file.
    """

    def __init__(self, path: str | os.PathLike[str], role: str, *, verbose: bool = False) -> None:
        self.path = Path(path)
        self.role = role
        self.read = 0
        self.malformed: dict[str, tuple[int, list[int]]] = {}
        if not self.path.is_file():
            raise DataError(f"{path} is not a file; give the path of the {role}, downloaded before")
        self._verbose = verbose
        self._hash = hashlib.sha256()

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Go through the lines with their numbers; a byte order mark is left out, as is a line that is too long.

        Raises
        ------
        DataError
            The file cannot be read or unpacked to its end.
        """
        number = 0
        try:
            with self._open() as stream:
                while line := stream.readline(MAX_LINE + 1):
                    number += 1
                    if len(line) > MAX_LINE:
                        while not line.endswith(b"\n") and (line := stream.readline(MAX_LINE)):
                            pass
                        self.reject(number, f"longer than {MAX_LINE >> 20} MiB")
                        continue
                    yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self.path} cannot be read after line {number} ({error}); it is cut off or damaged: fetch it again"
            ) from None

    def records(self, parse: Callable[[bytes], T]) -> Iterator[T]:
        """Turn each line that is not blank into a record; `parse` raises `BadLine` for one that cannot be."""
        for number, line in self.lines():
            if line.isspace():
                continue
            try:
                record = parse(line)
            except BadLine as reason:
                self.reject(number, str(reason))
            else:
                self.read += 1
                yield record

    def reject(self, number: int, reason: str, lines: int = 1) -> None:
        """Put a malformed line on record, or several that a row of a table runs over.

        Raises
        ------
        MalformedLinesError
            If 1,000 lines are malformed and none was good.
        """
        count, first = self.malformed.get(reason, (0, []))
        self.malformed[reason] = (count + lines, first if len(first) == _SHOWN else [*first, number])
        if not self.read and self.n_malformed >= _GIVE_UP:
            raise MalformedLinesError(
                f"{self.path}: none of the first {_GIVE_UP} lines could be read:\n{self.describe_malformed()}\n"
                "This is another kind of file; see `sllmr prepare --help` for the formats and their fields."
            )

    def check(self, max_bad_share: float) -> None:
        """Check, after reading, that enough of the file was good.

        Parameters
        ----------
        max_bad_share : float
            Malformed lines that are allowed, as a share of all lines that are not blank.

        Raises
        ------
        MalformedLinesError
            If there are more.
        DataError
            If there is no good line at all.
        """
        if self.malformed_share > max_bad_share:
            enough = math.ceil(self.malformed_share * 1000) / 1000
            raise MalformedLinesError(
                f"{self.path}: {self.n_malformed} of {self.n_malformed + self.read} lines ({self.malformed_share:.2%}) "
                f"are malformed, more than the {max_bad_share:.2%} allowed:\n{self.describe_malformed()}\n"
                "Nothing was written. Fetch the file again, or look at these lines and go on without them with "
                f"--max-bad-share {enough:g} (max_bad_share={enough:g})."
            )
        if not self.read:
            raise DataError(f"{self.path} holds no record; give a file of {self.role} that does")

    @property
    def n_malformed(self) -> int:
        """Malformed lines so far."""
        return sum(count for count, _ in self.malformed.values())

    @property
    def malformed_share(self) -> float:
        """Malformed lines among all that are not blank."""
        return self.n_malformed / max(1, self.n_malformed + self.read)

    def describe_malformed(self) -> str:
        """One line a reason: how many, and where."""
        return "\n".join(
            f"  {count} x {reason}: line {', '.join(map(str, first))}{' ...' * (count > len(first))}"
            for reason, (count, first) in self.malformed.items()
        )

    def account(self) -> dict[str, Any]:
        """Return a record of the file after it was read, as plain JSON values."""
        return {
            "role": self.role,
            "path": str(self.path),
            "bytes": self.path.stat().st_size,
            "sha256": self._hash.hexdigest(),
            "records": self.read,
            "malformed": {
                "lines": self.n_malformed,
                "reasons": {
                    reason: {"lines": count, "first": first} for reason, (count, first) in self.malformed.items()
                },
            },
        }

    def _open(self) -> io.BufferedIOBase:
        bar = tqdm(
            desc=f"reading {self.path.name}",
            total=self.path.stat().st_size,
            unit="B",
            unit_scale=True,
            delay=2,
            leave=False,
            disable=not self._verbose,
            file=sys.stderr,
            dynamic_ncols=True,
        )
        stream = io.BufferedReader(_Tap(self.path, self._hash.update, bar), 1 << 20)
        if stream.peek(2)[:2] != _GZIP_MAGIC:
            return stream
        return io.BufferedReader(_Unzipped(stream), 1 << 20)


class _Tap(io.RawIOBase):
    """A file that shows its bytes to a fingerprint and counts them on a bar as they are read."""

    def __init__(self, path: Path, update: Callable[[memoryview], Any], bar: tqdm) -> None:
        self._file = path.open("rb", buffering=0)
        self._update = update
        self._bar = bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._update(memoryview(buffer)[:count])
        self._bar.update(count)
        return count

    def close(self) -> None:
        self._file.close()
        self._bar.close()
        super().close()


class _Unzipped(gzip.GzipFile):
    """A `GzipFile` that closes the stream below it as well."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._below = stream
        super().__init__(fileobj=stream, mode="rb")

    def close(self) -> None:
        super().close()
        self._below.close()


_PAGE_SOURCE = re.compile(
    r"<!--|<!doctype|</?(?:html|head|body|script|style|span|div|img|table|t[rd]|iframe)\b[^<]*>"
    r"|<(?:script|style|span|div|img|iframe|a|link|meta)\s+[\w-]+="  # cut off before its end
    r"|\bvar\s+\w+\s*=.*[;(]|\bfunction\s*\w*\([^)]*\)\s*\{|\bwindow\.\w+\s*[=(]|\bdocument\.\w+\("
    r"|[.#][\w-]+\s*\{[^}]*:[^}]*[;}]",
    re.IGNORECASE | re.DOTALL,
)

RawInteraction = tuple[str, str, float, float]
"""User id, item id, rating and time; a rating or time that the file does not have is NaN."""

RawRecord = tuple[str, dict[str, str]]
"""Id of an item or user, and its texts by column."""


class RawFormat(Protocol):
    """How the files of a data set are written."""

    def interactions(self, file: RawFile) -> Iterator[RawInteraction]:
        """Go through the interactions in file order."""

    def items(self, file: RawFile, wanted: Set[str]) -> Iterator[RawRecord]:
        """Go through what is known of the items; texts of others than those wanted may be left out."""

    def users(self, file: RawFile, wanted: Set[str]) -> Iterator[RawRecord]:
        """Go through what is known of the users."""


def raw_id(value: Any, name: str) -> str:
    """Check an id: text that can be printed, or a whole number; `BadLine` otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value or value.isspace():
        raise BadLine(f"no {name}")
    if not value.isprintable():  # line breaks and control characters, halves of surrogate pairs
        raise BadLine(f"{name} has a character that cannot be printed")
    return value


def read_number(value: Any, name: str) -> float:
    """Check a number, also one that is written as text; `BadLine` otherwise."""
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise BadLine(f"no {name}" if value in (None, "") else f"{name} is not a number")
    return result


def optional_number(value: Any, name: str) -> float:
    """Check a number that may be missing (None or empty text): NaN then."""
    return math.nan if value is None or value == "" else read_number(value, name)


def time(value: Any, name: str) -> float:
    """Read a number, or an ISO date as seconds since 1970 (in UTC, unless it says otherwise)."""
    try:
        return read_number(value, name)
    except BadLine:
        if not isinstance(value, str) or not value:
            raise
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        raise BadLine(f"{name} is neither a number nor an ISO date") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def is_page_source(text: str) -> bool:
    """Whether a text is a piece of a web page's source, as a crawler leaves it where it found no title.

    Examples
    --------
    >>> is_page_source("var aPageStart = (new Date()).getTime();"), is_page_source("Toy <3 Pack>")
    (True, False)
    """
    return _PAGE_SOURCE.search(text) is not None


def clean_text(value: Any) -> str:
    r"""Bring a text to one line: HTML entities become characters, white space of any kind one space.

    Control characters and halves of surrogate pairs, which no file could hold, go. Anything but text gives "".

    Examples
    --------
    >>> clean_text('Salt &amp; Pepper,\n "large" ')
    'Salt & Pepper, "large"'
    """
    if not isinstance(value, str):
        return ""
    text = " ".join(html.unescape(value).split())
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
        text = " ".join(text.split())
    return text
