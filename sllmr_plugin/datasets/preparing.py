"""`prepare` makes tables from raw files; its settings."""

from __future__ import annotations

import dataclasses
import os
import warnings
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from ..errors import DataError, MalformedLinesWarning
from ..scores.reading import numbers_or_text
from ..settings import Bounds, Settings
from .negatives import draw_negatives, spare_items
from .prepared import Prepared, PreparedFolder, attributes, count, interaction_chunks
from .protocols import LLM_CF, count_rows
from .raw.amazon import AMAZON_2014, AMAZON_2023
from .raw.delimited import Delimited, MovieLens
from .raw.lines import RawFile, RawFormat, RawInteraction, is_page_source
from .splits import by_period, by_time, k_core, leave_last_out

COLUMNS = ("user_id", "item_id", "rating", "timestamp", "position", "title", "category", "brand")


@dataclass(frozen=True)
class PrepareSettings(Settings):
    """Settings of `prepare`.

    Parameters
    ----------
    format : {"amazon2014", "amazon2023", "movielens1m", "recbole", "csv"}
        How the raw files are written.
    k_core : int, default=5
        Keep users and items with at least so many interactions with each other; 0 keeps all.
    split : {"leave-last-out", "time", "period", "none"}, default="leave-last-out"
        ``leave-last-out``: of each user the last interaction is test, the one before it valid. ``time``: the
        latest of all users' interactions. ``period``: one period trains, its latest interactions validate, the next
        period tests, as for items that are new there. ``none``: no column ``split``.
    test_share, valid_share : float, default=0.1
        Of the interactions, for ``split="time"``; with ``"period"``, `valid_share` is of the first period's.
    boundary : float or None, default=None
        For ``split="period"``: the time at which the second period begins, in the unit of the file; None is the middle
        between the first and the last.
    min_rating : float or None, default=None
        Interactions rated lower, or not at all, are left out.
    negatives : int, default=0
        Rows with label 0 that are added for each interaction.
    negative_sampling : {"uniform", "popularity"}, default="uniform"
        Which items they are: any with the same chance, or by their number of training interactions.
    seed : int, default=0
        Decides the negatives; at least 0.
    max_bad_share : float, default=0.01
        More malformed lines than this share of a file are an error.
    file_format : {"csv", "parquet"}, default="csv"
        Of what is written.
    columns : mapping of str to str
        For ``csv`` and ``recbole``: ``user_id``, ``item_id``, ``rating``, ``timestamp``, ``position``, ``title``,
        ``category`` or ``brand`` -> what the files call it.
    header : sequence of str or None, default=None
        For ``csv``: names of the columns of an interactions file without a line of names.
    delimiter : str or None, default=None
        For ``csv`` and ``recbole``: between two fields. None is a comma in ``csv``; in ``recbole`` it is what stands
        between the first two names of each file's line 1, mostly a tab.

    Raises
    ------
    ConfigError
        If a value is not valid.
    """

    format: Literal["amazon2014", "amazon2023", "movielens1m", "recbole", "csv"]
    k_core: Annotated[int, Bounds(least=0)] = 5
    split: Literal["leave-last-out", "time", "period", "none"] = "leave-last-out"
    test_share: Annotated[float, Bounds(above=0, below=1)] = 0.1
    valid_share: Annotated[float, Bounds(least=0, below=1)] = 0.1
    boundary: float | None = None
    min_rating: float | None = None
    negatives: Annotated[int, Bounds(least=0)] = 0
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    seed: Annotated[int, Bounds(least=0)] = 0
    max_bad_share: Annotated[float, Bounds(least=0, most=1)] = 0.01
    file_format: Literal["csv", "parquet"] = "csv"
    columns: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] | None = None
    delimiter: str | None = None

    def problems(self) -> list[str]:
        """Return what is wrong with fields that fit one by one."""
        found = []
        if self.test_share + self.valid_share >= 1:
            found.append(
                f"test_share={self.test_share:g} and valid_share={self.valid_share:g} leave nothing to train on"
            )
        if self.boundary is not None and self.split != "period":
            found.append(f"boundary={self.boundary:g} is for split='period', and split={self.split!r} has none")
        unknown = [name for name in self.columns if name not in COLUMNS]
        if unknown:
            found.append(f"columns names {unknown[0]!r}, which is not one of {', '.join(COLUMNS)}")
        if len(set(self.columns.values())) < len(self.columns):
            found.append(f"columns={dict(self.columns)} gives two names to one column")
        delimited = self.format in ("csv", "recbole")
        if self.columns and not delimited:
            found.append(f"columns has no meaning for {self.format}, whose fields are fixed")
        if self.header is not None and self.format != "csv":
            found.append(f"header has no meaning for {self.format}, whose files name their fields")
        if self.delimiter is not None and not delimited:
            found.append(f"delimiter has no meaning for {self.format}")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            found.append(f"delimiter={self.delimiter!r} must be one character other than a quote or line break")
        return found

    def reader(self) -> RawFormat:
        """Return what reads the files."""
        if self.format in ("csv", "recbole"):
            typed = self.format == "recbole"
            delimiter = self.delimiter or (None if typed else ",")
            return Delimited(renames=self.columns, header=self.header, delimiter=delimiter, typed=typed)
        fixed: dict[str, RawFormat] = {
            "amazon2014": AMAZON_2014,
            "amazon2023": AMAZON_2023,
            "movielens1m": MovieLens(),
        }
        return fixed[self.format]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class Collected:
    """Interactions in file order. An interaction takes 20 bytes, and each id its text once.

    Parameters
    ----------
    user_ids, item_ids : list of str
        Raw ids by code, in the order in which they first occur.
    user, item : ndarray
        (n,) int32 codes from 0.
    rating : ndarray
        (n,) float32, NaN where there is none.
    time : ndarray
        (n,) float64, NaN in a file without times.
    """

    user_ids: list[str]
    item_ids: list[str]
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray


def collect(records: Iterable[RawInteraction]) -> Collected:
    """Add interactions."""
    user_codes: dict[str, int] = {}
    item_codes: dict[str, int] = {}
    users, items, ratings, times = array("i"), array("i"), array("f"), array("d")
    for user, item, rating, time in records:
        users.append(user_codes.setdefault(user, len(user_codes)))
        items.append(item_codes.setdefault(item, len(item_codes)))
        ratings.append(rating)
        times.append(time)
    return Collected(
        user_ids=list(user_codes),
        item_ids=list(item_codes),
        user=np.frombuffer(users, dtype=np.int32),
        item=np.frombuffer(items, dtype=np.int32),
        rating=np.frombuffer(ratings, dtype=np.float32),
        time=np.frombuffer(times, dtype=np.float64),
    )


_FROM_PAGES = ("title", "category", "brand")  # of an item; columns where crawlers leave pieces of a page's source


def prepare(
    format: str,
    reviews: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    meta: str | os.PathLike[str] | None = None,
    users: str | os.PathLike[str] | None = None,
    replace: bool = False,
    verbose: bool = False,
    **settings: Any,
) -> Prepared:
    r"""Make the tables ``interactions`` and ``items`` of a data set's raw files.

    In this order: lines are read; interactions rated below `min_rating` are removed; of those that repeat a user and
    item the earliest is kept; users and items outside the k-core are removed; the rest is ordered by user and time,
    ties by their order in the file, and split; negatives are drawn. Files may be gzipped under any name.

    Parameters
    ----------
    format : {"amazon2014", "amazon2023", "movielens1m", "recbole", "csv"}
        How the raw files are written.
    reviews : path
        The interactions.
    out : path
        The folder for ``interactions.csv``, ``items.csv``, ``users.csv`` (with `users`) and ``prepared.json``. It gets
        all of them or, after an error, none.
    meta : path, optional
        Metadata of the items. Without it they have an id and an empty title.
    users : path, optional
        Metadata of the users.
    replace : bool, default=False
        Whether prepared files that are in the folder already may be replaced.
    verbose : bool, default=False
        Show progress on stderr.
    **settings
        Fields of `PrepareSettings`.

    Returns
    -------
    Prepared
        What came of it; printing it gives a summary.

    Raises
    ------
    ConfigError
        A setting is not valid.
    MalformedLinesError
        More than `max_bad_share` of a file's lines are malformed.
    DataError
        A file cannot be read, nothing is left, the data cannot be split as asked, a user has too few items to draw
        negatives from, or the folder cannot be written to.

    Warns
    -----
    MalformedLinesWarning
        If malformed lines were left out.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "clicks.csv").write_text("user_id,item_id\nann,a\nann,b\nann,c\nbob,a\n")
    >>> prepared = prepare("csv", folder / "clicks.csv", folder / "data", k_core=0)
    >>> prepared.counts["users"], prepared.counts["train"], prepared.counts["test"]
    (2, 2, 1)
    """
    chosen = PrepareSettings(**{"format": format, **settings})
    reader = chosen.reader()
    paths = {"reviews": reviews, "meta": meta, "users": users}
    files = {role: RawFile(path, role, verbose=verbose) for role, path in paths.items() if path is not None}
    folder = PreparedFolder(
        Path(out), chosen.file_format, replace=replace, inputs=[file.path for file in files.values()]
    )

    collected = collect(reader.interactions(files["reviews"]))
    files["reviews"].check(chosen.max_bad_share)
    dropped: dict[str, int] = {}
    rows = _choose(collected, chosen, dropped)
    user_ids, item_ids = _compact(rows, "user", collected.user_ids), _compact(rows, "item", collected.item_ids)
    has_timestamp = bool(np.isfinite(collected.time).any()) and not _is_position(reader)
    del collected
    if chosen.split != "none":
        rows["split"] = _split(rows, chosen, has_timestamp)

    negatives = _negatives(rows, user_ids, len(item_ids), chosen) if chosen.negatives else None
    counts = count(rows, len(user_ids), len(item_ids), negatives)
    of_protocol = count_rows(np.bincount(rows["user"]), len(item_ids))

    bad = chosen.max_bad_share
    item_table, known = attributes(reader.items, files.get("meta"), "item_id", item_ids, ["title"], bad)
    counts |= {"items without metadata": int((~known).sum())} if meta is not None else {}
    from_page = {name: item_table[name].map(is_page_source) for name in _FROM_PAGES if name in item_table}
    item_table = item_table.assign(**{name: item_table[name].mask(mask, "") for name, mask in from_page.items()})
    counts |= {f"items with page source as {name}": int(mask.sum()) for name, mask in from_page.items() if mask.any()}
    for name in ("title", *(["category"] if "category" in item_table else [])):
        counts[f"items without {name}"] = int((item_table[name] == "").sum())
    user_table, known = attributes(reader.users, files.get("users"), "user_id", user_ids, [], bad)
    counts |= {"users without attributes": int((~known).sum())} if users is not None else {}
    _check_columns_found(reader)

    ids = {
        name: numbers_or_text(pd.Series(raw)).to_numpy() for name, raw in (("user_id", user_ids), ("item_id", item_ids))
    }
    tables: dict[str, Iterable[pd.DataFrame]] = {
        "interactions": interaction_chunks(rows, ids, negatives, has_timestamp),
        "items": [item_table.assign(item_id=ids["item_id"])],
    }
    if users is not None:
        tables["users"] = [user_table.assign(user_id=ids["user_id"])]
    record = folder.write(
        tables,
        {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "settings": chosen.to_dict(),
            "sources": [file.account() for file in files.values()],
            "dropped": dropped,
            "counts": counts,
            LLM_CF: of_protocol,
        },
    )
    for file in files.values():
        if file.malformed:
            warnings.warn(
                f"{file.path}: {file.n_malformed} malformed lines ({file.malformed_share:.2%}) are left out:\n"
                f"{file.describe_malformed()}\nLook at them if that is more than you expect.",
                MalformedLinesWarning,
                stacklevel=2,
            )
    return Prepared(folder.path, record)


def _choose(collected: Collected, settings: PrepareSettings, dropped: dict[str, int]) -> pd.DataFrame:
    """Interactions that stay, by user and time: ``user, item`` (int32 codes), ``rating, time``."""
    rows = pd.DataFrame({name: getattr(collected, name) for name in ("user", "item", "rating", "time")}, copy=False)
    if settings.min_rating is not None:
        rated = rows["rating"] >= settings.min_rating  # not for NaN
        rows = rows[rated]
        dropped[f"rated below {settings.min_rating:g} or not at all"] = int((~rated).sum())
    rows = rows.iloc[np.lexsort((rows["time"].to_numpy(), rows["user"].to_numpy()))]
    repeated = rows.duplicated(["user", "item"])
    rows = rows[~repeated]
    dropped["repeated interactions"] = int(repeated.sum())
    if settings.k_core > 1:
        core = k_core(rows["user"].to_numpy(), rows["item"].to_numpy(), settings.k_core)
        dropped[f"outside the {settings.k_core}-core"] = len(rows) - len(core)
        rows = rows.iloc[core]
    if rows.empty:
        raise DataError(
            f"no interaction is left of {len(collected.user)}: "
            f"{', '.join(f'{count} {reason}' for reason, count in dropped.items() if count)}. "
            "Lower --k-core (k_core) or --min-rating (min_rating)"
        )
    return rows.reset_index(drop=True)


def _compact(rows: pd.DataFrame, column: str, ids: list[str]) -> list[str]:
    """Renumber what is left of the users or items, in place; return their ids."""
    left, codes = np.unique(rows[column].to_numpy(), return_inverse=True)
    rows[column] = codes.astype(np.int32)
    return [ids[code] for code in left]


def _split(rows: pd.DataFrame, settings: PrepareSettings, has_timestamp: bool) -> np.ndarray:
    if settings.split == "leave-last-out":
        return leave_last_out(rows["user"].to_numpy())
    if not has_timestamp:
        raise DataError(
            f"a split by {settings.split} needs times, and the interactions have none; split leave-last-out, or name "
            "the column of times (--column timestamp=NAME)"
        )
    if settings.split == "period":
        return by_period(rows["time"].to_numpy(), boundary=settings.boundary, valid_share=settings.valid_share)
    return by_time(rows["time"].to_numpy(), valid_share=settings.valid_share, test_share=settings.test_share)


def _is_position(reader: RawFormat) -> bool:
    return isinstance(reader, Delimited) and reader.time_is_position


def _check_columns_found(reader: RawFormat) -> None:
    unseen = reader.unseen() if isinstance(reader, Delimited) else []
    if unseen:
        raise DataError(f"no file has the column {unseen[0]!r} that --column (columns) names; correct its name")


def _negatives(rows: pd.DataFrame, user_ids: list[str], n_items: int, settings: PrepareSettings) -> np.ndarray:
    """Draw (n_rows, negatives) item codes."""
    users, items = rows["user"].to_numpy(), rows["item"].to_numpy()
    weights = np.ones(n_items, dtype=np.int64)
    if settings.negative_sampling == "popularity":
        train = items if "split" not in rows else items[rows["split"].to_numpy() == 0]
        weights = np.bincount(train, minlength=n_items)
    spare, wanted = spare_items(users, items, weights, len(user_ids)), np.bincount(users) * settings.negatives
    short = np.flatnonzero(spare < wanted)
    if len(short):
        raise DataError(
            f"user {user_ids[short[0]]!r} needs {wanted[short[0]]} different negatives and only {spare[short[0]]} "
            f"items are left to draw ({len(short)} such users); ask for fewer negatives, or for none "
            "and let the training draw them"
        )
    return draw_negatives(users, items, weights, settings.negatives, np.random.default_rng(settings.seed))
