"""MovieLens 1M: fields separated by ``::``, in latin-1 as it is published or in UTF-8 as copies are."""

from __future__ import annotations

from collections.abc import Iterator, Set

from sllmr_plugin.datasets.raw.lines import BadLine, RawFile
from sllmr_plugin.datasets.raw.values import RawInteraction, RawRecord, clean_text, number, raw_id


class MovieLens:
    """``ratings.dat``, ``movies.dat`` and ``users.dat``."""

    def interactions(self, file: RawFile) -> Iterator[RawInteraction]:
        """Go through ``UserID::MovieID::Rating::Timestamp``."""

        def parse(line: bytes) -> RawInteraction:
            user, item, rating, time = _fields(line, 4)
            return raw_id(user, "UserID"), raw_id(item, "MovieID"), number(rating, "Rating"), number(time, "Timestamp")

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
