"""Single values of raw records: ids, numbers, times and texts, checked and cleaned."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Set
from datetime import datetime, timezone
from typing import Any, Protocol

from sllmr_plugin.datasets.raw.lines import BadLine, RawFile

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


def number(value: Any, name: str) -> float:
    """Check a number, also one that is written as text; `BadLine` otherwise."""
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise BadLine(f"no {name}" if value in (None, "") else f"{name} is no number")
    return result


def optional_number(value: Any, name: str) -> float:
    """Check a number that may be missing (None or empty text): NaN then."""
    return math.nan if value is None or value == "" else number(value, name)


def time(value: Any, name: str) -> float:
    """Read a number, or an ISO date as seconds since 1970 (in UTC, unless it says otherwise)."""
    try:
        return number(value, name)
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
