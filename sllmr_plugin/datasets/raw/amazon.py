"""Amazon Reviews: one JSON object a line, or one Python dict a line in the older files."""

from __future__ import annotations

import ast
import itertools
import json
import re
import warnings
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from .lines import (
    BadLine,
    RawFile,
    RawInteraction,
    RawRecord,
    clean_text,
    is_page_source,
    optional_number,
    raw_id,
    read_number,
)

_MAX_LITERAL = 1 << 20  # characters; the parser of Python needs some hundred bytes for each


@dataclass(frozen=True)
class Amazon:
    """The names of the fields in one edition of the data.

    Parameters
    ----------
    user, item, rating, time : str
        Of a review.
    brand : str
        Of an item, in the meta file.
    """

    user: str
    item: str
    rating: str
    time: str
    brand: str

    def interactions(self, file: RawFile) -> Iterator[RawInteraction]:
        """Go through the reviews; user, item and time must be there, the rating may be missing."""

        def parse(line: bytes) -> RawInteraction:
            review = parse_object(line)
            return (
                raw_id(review.get(self.user), self.user),
                raw_id(review.get(self.item), self.item),
                optional_number(review.get(self.rating), self.rating),
                read_number(review.get(self.time), self.time),
            )

        return file.records(parse)

    def items(self, file: RawFile, wanted: Set[str]) -> Iterator[RawRecord]:
        """Go through the meta file: title, category, categories and brand.

        In 2018 the path of categories is called ``category``, and what follows a piece of page source in it is not a
        category.

        A Python dict takes long to read, and most are of items without a review in the 5-core: where a line starts with
        the id of an item that is not wanted, nothing else of it is looked at.
        """
        head = re.compile(rb"""\{(['"])%b\1: ?(['"])(\w+)\2[,}]""" % self.item.encode())

        def parse(line: bytes) -> RawRecord:
            start = head.match(line)
            if start and (name := start[3].decode()) not in wanted:
                return name, {}
            item = parse_object(line)
            paths = _paths(item.get("categories") or item.get("category"))
            main = clean_text(item.get("main_category") or item.get("main_cat"))
            # The first level of a path is the data set's own domain: the second is what tells items apart.
            category = (paths[0][1] if len(paths[0]) > 1 else paths[0][0]) if paths else main
            return raw_id(item.get(self.item), self.item), {
                "title": clean_text(item.get("title")),
                "category": category,
                "categories": " | ".join(" > ".join(path) for path in paths),
                "brand": clean_text(item.get(self.brand)),
            }

        return file.records(parse)

    def users(self, file: RawFile, wanted: Set[str]) -> Iterator[RawRecord]:
        """Refuse: there is no such file."""
        raise DataError(f"{file.path}: Amazon Reviews have no file of users; leave it out")


AMAZON_2014 = Amazon(user="reviewerID", item="asin", rating="overall", time="unixReviewTime", brand="brand")
AMAZON_2023 = Amazon(user="user_id", item="parent_asin", rating="rating", time="timestamp", brand="store")


def parse_object(line: bytes) -> dict[str, Any]:
    """Read one JSON object, or one Python dict of literals.

    Nothing is evaluated: `ast.literal_eval` knows texts, numbers, lists and dicts, and no names or calls.

    Raises
    ------
    BadLine
        If it is neither, or is nested too deeply to be read.

    Examples
    --------
    >>> parse_object(b'{"asin": "B01"}') == parse_object(b"{'asin': 'B01'}")
    True
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadLine("not UTF-8") from None
    try:
        value = json.loads(text)
    except RecursionError:
        raise BadLine("nested too deeply") from None
    except ValueError:
        value = _python_literal(text.strip())
    if not isinstance(value, dict):
        raise BadLine("not an object")
    return value


def _python_literal(text: str) -> Any:
    fault = BadLine("neither a JSON object nor a Python dict")
    if not (text.startswith("{") and text.endswith("}") and len(text) <= _MAX_LITERAL):
        raise fault
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as "\d" in somebody's title
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise fault from None


def _paths(categories: Any) -> list[list[str]]:
    """Paths through the tree of categories, widest first: 2014 has a list of them, 2018 and 2023 a single one."""
    if not isinstance(categories, list):
        return []
    nested = categories if any(isinstance(entry, list) for entry in categories) else [categories]
    paths = (
        [name for name in itertools.takewhile(lambda name: not is_page_source(name), map(clean_text, path)) if name]
        for path in nested
        if isinstance(path, list)
    )
    return [path for path in paths if path]
