"""From the public raw files of a data set to the tables that everything else reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sllmr_plugin.datasets.core import k_core
from sllmr_plugin.datasets.negatives import draw_negatives, spare_items
from sllmr_plugin.datasets.prepare_settings import PrepareSettings
from sllmr_plugin.datasets.prepared_folder import PreparedFolder
from sllmr_plugin.datasets.prepared_summary import Prepared
from sllmr_plugin.datasets.prepared_tables import attributes, count, interaction_chunks
from sllmr_plugin.datasets.raw.collect import Collected, collect
from sllmr_plugin.datasets.raw.delimited import Delimited
from sllmr_plugin.datasets.raw.lines import RawFile
from sllmr_plugin.datasets.raw.values import RawFormat, is_page_source
from sllmr_plugin.datasets.splits import by_time, leave_last_out
from sllmr_plugin.errors import DataError, MalformedLinesWarning
from sllmr_plugin.sidecar_files import numbers_or_text

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

    In this order: lines are read; interactions rated below `min_rating` go; of those that repeat a user and item the
    earliest stays; users and items outside the k-core go; the rest is ordered by user and time, ties by their order in
    the file, and split; negatives are drawn. Files may be gzipped, whatever their names.

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
        What is known of the items. Without it they have an id and an empty title.
    users : path, optional
        What is known of the users.
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
        A setting makes no sense.
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
    chosen = PrepareSettings(format=format, **settings)
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
        raise DataError("a split by time needs times, and the interactions have none; split leave-last-out")
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
