"""Delimited raw files: CSV, RecBole's, MovieLens's."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Literal

from ...errors import DataError
from ...scores.reading import typed_delimiter
from .lines import BadLine, RawFile, RawInteraction, RawRecord, clean_text, optional_number, raw_id, read_number, time

_TYPES = ("token", "token_seq", "float", "float_seq")
_PREPARED = ("label", "split")


class Delimited:
    """A table as text, with the names of the columns in line 1.

    Parameters
    ----------
    renames : mapping of str to str
        This package's name of a column (``user_id``, ``item_id``, ``rating``, ``timestamp``, ``position``,
        ``title``, ``category``, ``brand``) -> its name in the files. A column that is not mentioned keeps its name.
    header : sequence of str or None
        Names of the columns of an interactions file that has no line with them.
    delimiter : str or None
        Between two fields; None finds it in line 1 of a typed file.
    typed : bool
        RecBole: names such as ``user_id:token``, and no quotes around fields.

    Attributes
    ----------
    time_is_position : bool
        Whether the times of the interactions are positions, which order those of one user only.
    """

    def __init__(
        self, *, renames: Mapping[str, str], header: Sequence[str] | None, delimiter: str | None, typed: bool
    ) -> None:
        self._own_name = {theirs: own for own, theirs in renames.items()}
        self._header = list(header) if header else None
        self._delimiter = delimiter
        self._typed = typed
        self._seen: set[str] = set()
        self.time_is_position = False

    def interactions(self, file: RawFile) -> Iterator[RawInteraction]:
        """Go through the interactions; of ``timestamp`` and ``position`` the first that is there is the time."""
        rows = self._rows(file, self._header, overrule=True)
        names = next(rows)[1]
        self._refuse_prepared(file, names)
        user, item = self._place(file, names, "user_id"), self._place(file, names, "item_id")
        rating = names.index("rating") if "rating" in names else None
        order = next((names.index(name) for name in ("timestamp", "position") if name in names), None)
        self.time_is_position = order is not None and names[order] == "position"
        for number, fields in rows:
            try:
                record = (
                    raw_id(fields[user], "user_id"),
                    raw_id(fields[item], "item_id"),
                    math.nan if rating is None else optional_number(fields[rating], "rating"),
                    math.nan if order is None else time(fields[order], names[order]),
                )
            except BadLine as reason:
                file.reject(number, str(reason))
            else:
                file.read += 1
                yield record

    def items(self, file: RawFile, wanted: Set[str]) -> Iterator[RawRecord]:
        """Go through the items: every column, cleaned."""
        return self._entries(file, "item_id")

    def users(self, file: RawFile, wanted: Set[str]) -> Iterator[RawRecord]:
        """Go through the users: every column, cleaned."""
        return self._entries(file, "user_id")

    def unseen(self) -> list[str]:
        """Columns that should be renamed and are in none of the files read so far."""
        return [name for name in self._own_name if name not in self._seen]

    def _entries(self, file: RawFile, key: str) -> Iterator[RawRecord]:
        rows = self._rows(file, None, overrule=False)
        names = next(rows)[1]
        place = self._place(file, names, key)
        for number, fields in rows:
            try:
                entry = raw_id(fields[place], key)
            except BadLine as reason:
                file.reject(number, str(reason))
                continue
            file.read += 1
            yield entry, {name: clean_text(fields[i]) for i, name in enumerate(names) if i != place}

    def _refuse_prepared(self, file: RawFile, names: list[str]) -> None:
        """Refuse a file whose rows are labelled or split; what the message advises can be done with this very file."""
        made = next((name for name in _PREPARED if name in names), None)
        if made is None:
            return
        suffixes = {suffix.lower() for suffix in file.path.suffixes[-2:]}
        readable = ".inter" in suffixes if self._typed else ".csv" in suffixes and self._delimiter == ","
        advice = []
        if readable and self._header is None and not {"user_id", "item_id"} & set(self._own_name.values()):
            advice.append(f"Use it as it is, without preparing it: --interactions {file.path}.")
        if made == "label":
            advice.append(
                f"{'Or have' if advice else 'Have'} the rows of label 1 taken as interactions, to be split again: "
                "--column rating=label --min-rating 1 (columns={'rating': 'label'}, min_rating=1)."
            )
        else:
            advice.append(f"{'Or delete' if advice else 'Delete'} the column if the rows are to be split again.")
        raise DataError(f"{file.path} has the column {made!r}, which preparing would make again. {' '.join(advice)}")

    def _rows(self, file: RawFile, header: list[str] | None, *, overrule: bool) -> Iterator[tuple[int, list[str]]]:
        """Names of the columns first, then the fields of each row with the number of its first line.

        With `overrule`, a column that is renamed takes the place of one that has the name already.
        """
        last = 0  # number of the last line that the reader took
        lines = file.lines()
        top = list(itertools.islice(lines, 1))
        delimiter = self._delimiter or typed_delimiter(b"".join(line for _, line in top).decode("utf-8", "replace"))

        def text() -> Iterator[str]:
            nonlocal last
            for number, line in itertools.chain(top, lines):
                last = number
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError:
                    file.reject(number, "not UTF-8")

        quoting: Literal[0, 3] = csv.QUOTE_NONE if self._typed else csv.QUOTE_MINIMAL
        reader = csv.reader(text(), delimiter=delimiter, quoting=quoting)
        names = header
        if names is not None:
            yield 0, self._names(file, names, overrule)
        while True:
            first = last + 1
            try:
                fields = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                file.reject(first, f"not a row of a table ({error})", last - first + 1)
                continue
            if not fields:
                continue
            if names is None:
                names = fields
                yield 0, self._names(file, names, overrule)
            elif len(fields) != len(names):
                file.reject(first, f"{len(fields)} fields instead of {len(names)}", last - first + 1)
            else:
                yield first, fields
        if names is None:
            raise DataError(f"{file.path} is empty; give a file with the names of its columns in line 1")

    def _names(self, file: RawFile, found: list[str], overrule: bool) -> list[str]:
        if self._typed:
            types = [name.rpartition(":")[2] for name in found]
            wrong = [name for name, kind in zip(found, types, strict=True) if kind not in _TYPES or ":" not in name]
            if wrong:
                raise DataError(
                    f"{file.path}: the column {wrong[0]!r} has none of the types {', '.join(_TYPES)} behind a colon; "
                    "a RecBole file starts with names such as user_id:token. For a plain table give the format csv"
                    + " with --delimiter tab"
                    * (len(found) > 1)
                )
            found = [name.rpartition(":")[0] for name in found]
        found = [name.strip() for name in found]
        self._seen.update(found)
        names = [self._own_name.get(name, name) for name in found]
        if overrule:
            renamed = {name for name, theirs in zip(names, found, strict=True) if name != theirs}
            names = [
                f"{name} of the file" if name == theirs and name in renamed else name
                for name, theirs in zip(names, found, strict=True)
            ]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise DataError(f"{file.path}: the column {min(twice)!r} is there twice; rename one of the two")
        return names

    def _place(self, file: RawFile, names: list[str], wanted: str) -> int:
        if wanted in names:
            return names.index(wanted)
        advice = f"say which it is with --column {wanted}=NAME"
        if not self._typed:
            advice += ", or give the names of all columns with --header if line 1 does not hold them"
        if len(names) == 1:
            advice = "say what separates the columns with --delimiter C"
        raise DataError(f"{file.path} has no column {wanted!r} among {names}; {advice}")


class MovieLens:
    """``ratings.dat``, ``movies.dat`` and ``users.dat``."""

    def interactions(self, file: RawFile) -> Iterator[RawInteraction]:
        """Go through ``UserID::MovieID::Rating::Timestamp``."""

        def parse(line: bytes) -> RawInteraction:
            user, item, rating, time = _fields(line, 4)
            return (
                raw_id(user, "UserID"),
                raw_id(item, "MovieID"),
                read_number(rating, "Rating"),
                read_number(time, "Timestamp"),
            )

        return file.records(parse)

    def items(self, file: RawFile, wanted: Set[str]) -> Iterator[RawRecord]:
        """Go through ``MovieID::Title::Genres``; the category is the first genre."""

        def parse(line: bytes) -> RawRecord:
            item, title, genres = _fields(line, 3)
            names = [name for name in map(clean_text, genres.split("|")) if name]
            return raw_id(item, "MovieID"), {
                "title": clean_text(title),
                "category": names[0] if names else "",
                "categories": " | ".join(names),
            }

        return file.records(parse)

    def users(self, file: RawFile, wanted: Set[str]) -> Iterator[RawRecord]:
        """Go through ``UserID::Gender::Age::Occupation::Zip-code``."""

        def parse(line: bytes) -> RawRecord:
            user, *values = _fields(line, 5)
            names = ("gender", "age", "occupation", "zip_code")
            return raw_id(user, "UserID"), dict(zip(names, map(clean_text, values), strict=True))

        return file.records(parse)


def _fields(line: bytes, wanted: int) -> list[str]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:  # latin-1's accented letters before plain ones are never UTF-8
        text = line.decode("latin-1")
    fields = text.rstrip("\r\n").split("::")
    if len(fields) != wanted:
        raise BadLine(f"{len(fields)} fields between '::' instead of {wanted}")
    return fields
