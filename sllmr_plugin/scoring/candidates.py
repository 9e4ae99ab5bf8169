"""`draw_candidates`: which users, which items, which probes, within which budget."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import pandas as pd

from ..datasets.interactions import Interactions
from ..errors import CoverageWarning, DataError
from ..parallel.engine import Engine, cut
from ..regions import cold_users, tail_threshold
from ..scores.origin import check_parquet_path, write_parquet
from ..scores.reading import read_table
from ..settings import Bounds, Settings
from .draws import CandidateSummary, Draw, catalogue_wide, diverse, id_keys, long_tail, mix, popular, summarise
from .requests import TableLike, read_data
from .settings import opened_engine, takes

_Share: TypeAlias = Annotated[float, Bounds(least=0, most=1)]


@dataclass(frozen=True)
class CandidateSettings(Settings):
    """The budget and the mixture of `draw_candidates`.

    Parameters
    ----------
    users : int or None, default=None
        Users to ask about: the number of prompts, and so the bill. None takes all with a training interaction.
        A larger number keeps the users and the candidates of a smaller one and adds others.
    cold_share : float, default=0.5
        Share of cold users among those chosen, as far as there are enough of them and of the others. Without effect
        when all are taken.
    per_user : int, default=20
        Candidates of each user, the probe not counted (M of the paper).
    pool : int, default=300
        Popular candidates come from this many most popular items (K of the paper).
    tail_share : float, default=0.2
        Share of `per_user` that are long-tail items. They are dealt in turn, so that each gets about as many users.
    diverse_share : float, default=0.2
        Share of `per_user` that are diverse items, for cold users; others get popular ones instead.
    catalogue_share : float, default=0.4
        Share of `per_user` that come from the whole catalogue, each item with the same chance, as in a full ranking:
        without them the gate learns only how the scorer judges popular and long-tail items. The paper has none.
    probe_share : float, default=0.2
        Share of the chosen users who get a validation item as a probe, of those who have one. Taken alike from cold
        users and from the others, since the gate is fitted on both.
    cold_history : int, default=3
        A user with at most this many training interactions is cold here (paper, Sec. 3.1).
    tail_quantile : float, default=0.1
        Share of the catalogue, from its least popular end, that is long-tail here (paper, Sec. 3.1); items tied with
        the last of them are in too.
    seed : int, default=0
        Decides all draws.

    Raises
    ------
    ConfigError
        If numbers are out of range; all of them are named.
    """

    users: Annotated[int, Bounds(least=1)] | None = None
    cold_share: _Share = 0.5
    per_user: Annotated[int, Bounds(least=1)] = 20
    pool: Annotated[int, Bounds(least=1)] = 300
    tail_share: _Share = 0.2
    diverse_share: _Share = 0.2
    catalogue_share: _Share = 0.4
    probe_share: _Share = 0.2
    cold_history: Annotated[int, Bounds(least=0)] = 3
    tail_quantile: _Share = 0.1
    seed: Annotated[int, Bounds(least=0, below=2**64)] = 0

    def problems(self) -> list[str]:
        """Return what does not go together."""
        if round(self.tail_share + self.diverse_share + self.catalogue_share, 9) > 1:
            return ["tail_share, diverse_share and catalogue_share are more than 1 together, lower one of them"]
        return []

    @property
    def n_tail(self) -> int:
        """Long-tail candidates of each user."""
        return round(self.per_user * self.tail_share)

    @property
    def n_diverse(self) -> int:
        """Diverse candidates of each cold user."""
        return min(round(self.per_user * self.diverse_share), self.per_user - self.n_tail)

    @property
    def n_catalogue(self) -> int:
        """Candidates of each user from the whole catalogue."""
        return min(round(self.per_user * self.catalogue_share), self.per_user - self.n_tail - self.n_diverse)


_LEAST_USERS = 1000  # of a part that is drawn in another process
Drawn = tuple[np.ndarray, np.ndarray]  # rows and items

SOURCES = ("long_tail", "cold_diverse", "catalogue", "popular", "probe")


@dataclass(frozen=True, eq=False, repr=False)
class Candidates:
    """Pairs to be scored; the ``repr`` says what they cover.

    Attributes
    ----------
    frame : pandas.DataFrame
        ``user_id, item_id`` (raw), ``kind`` (candidate or probe) and ``source`` (popular, cold_diverse, catalogue,
        long_tail or probe). The rows of a user stand together, and users in random order: scoring that stops early has
        asked about a fair sample.
    summary : CandidateSummary
        What they cover.
    settings : CandidateSettings
        How they were drawn.
    path : pathlib.Path or None
        The file that they are in.
    """

    frame: pd.DataFrame
    summary: CandidateSummary
    settings: CandidateSettings
    path: Path | None = None

    def __repr__(self) -> str:
        return f"{self.summary}" + (f"\n\nCandidates: {self.path}" if self.path is not None else "")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the pairs as parquet, settings and summary in its schema (see `read_metadata`).

        Raises
        ------
        DataError
            If the file cannot be written.
        """
        write_parquet(self.frame, path, {"settings": asdict(self.settings), "counts": asdict(self.summary)})


@takes(CandidateSettings)
def draw_candidates(
    interactions: Interactions | TableLike,
    items: TableLike | CandidateSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    categories: np.ndarray | None = None,
    engine: str | Engine | None = "local",
    workers: int | None = None,
    **settings: Any,
) -> Candidates:
    """Choose users and draw their candidates: ``sllmr candidates`` in Python (paper, Sec. 3.1 and 4.3).

    A user's own training and validation items are never drawn. A probe is the exception: a validation item mixed in
    unmarked, which shows later whether the scorer finds it. Test items are drawn like any other unseen item, because
    a table without them would reveal to the model which they are.

    Parameters
    ----------
    interactions : path, pandas.DataFrame or Interactions
        As in `load_interactions`. Users without a training interaction are not asked about, since no model row can be
        made for them; items without a title are not drawn if the catalogue has titles.
    items : path or pandas.DataFrame, optional
        The catalogue: ``item_id, title[, category]``. Diverse items come from as many categories as possible, and from
        all bands of popularity in any case.
    out : path, optional
        A parquet file to write.
    categories : ndarray, optional
        (n_items,) labels in the order of ``Interactions.item_ids``, for interactions that are loaded already; by
        default those of `items`, see `read_categories`.
    engine : {"local", "ray"} or Engine, default="local"
        Draws popular and diverse items for parts of the users in other processes; the result is the same.
    workers : int, optional
        Of engine ray; by default as many as the cluster has CPUs.
    **settings
        Fields of `CandidateSettings`, which are the flags of ``sllmr candidates``: ``users``, ``per_user``,
        ``cold_share``, ``probe_share`` and others. By default all users, with 20 candidates each.

    Returns
    -------
    Candidates

    Raises
    ------
    ConfigError
        If settings are out of range.
    DataError
        If a file cannot be used, or no item has a title.

    Warns
    -----
    CoverageWarning
        If users get fewer candidates than asked, or there are no probes although some were asked for.

    Examples
    --------
    >>> from sllmr_plugin.datasets.demo import load_demo
    >>> drawn = draw_candidates(load_demo()[0], users=100, per_user=10)
    >>> drawn.frame["source"].value_counts().to_dict()
    {'catalogue': 394, 'popular': 308, 'long_tail': 198, 'cold_diverse': 100, 'probe': 20}
    """
    if isinstance(items, CandidateSettings):
        warnings.warn(
            "draw_candidates(data, CandidateSettings(...)) will go with the next version; give the settings as "
            "keyword arguments: draw_candidates(data, users=1000).",
            DeprecationWarning,
            stacklevel=2,
        )
        settings = {**asdict(items), **settings}
        items = None
    chosen = CandidateSettings(**settings)
    path = None
    if out is not None:
        path = check_parquet_path(out, (interactions, items))
    data = read_data(interactions, items)
    if categories is None and items is not None:
        categories = read_categories(items)
    if engine is None or isinstance(engine, str):
        with opened_engine(engine or "local", workers) as opened:
            drawn = _draw(data, chosen, categories, opened)
    else:
        drawn = _draw(data, chosen, categories, engine)
    if path is not None:
        drawn.write(path)
    return replace(drawn, path=path)


def _draw(
    data: Interactions, settings: CandidateSettings, categories: np.ndarray | None, engine: Engine | None
) -> Candidates:
    item_key = np.zeros(data.n_items + 1, dtype=np.uint64)
    item_key[1:] = id_keys(data.item_ids, seed=settings.seed, purpose=1)
    items = _drawable_items(data, item_key)
    users, user_key, cold = _choose_users(data, settings)
    row_of_user = np.full(data.n_users + 1, -1)
    row_of_user[users] = np.arange(len(users))
    draw = Draw(user_key, cold, items, item_key, _own_items(data, row_of_user))

    tail = items[data.popularity[items] <= tail_threshold(data.popularity[items], settings.tail_quantile)]
    pool = items[: settings.pool]
    numbers = np.zeros(len(items), dtype=np.int64) if categories is None else pd.factorize(categories[items - 1])[0]
    hashed = _draw_hashed(draw, (numbers, settings.n_diverse), (pool, settings.per_user), engine)
    of_tail = long_tail(draw, tail, settings.n_tail, seed=settings.seed)
    of_diverse, of_popular = hashed
    drawn = (of_tail, of_diverse, catalogue_wide(draw, settings.n_catalogue), of_popular)
    picks = pd.concat(
        [pd.DataFrame({"row": rows, "item": codes, "source": k}) for k, (rows, codes) in enumerate(drawn)]
    )
    # The first source keeps an item that another drew too, and the popular ones fill up what that leaves open.
    picks = picks[~picks.duplicated(["row", "item"])]
    picks = picks[picks.groupby("row").cumcount() < settings.per_user]
    picks = pd.concat([picks, _probes(data, draw, row_of_user, settings.probe_share)])
    picks = picks.sort_values("row", kind="stable")

    row, item, source = (picks[name].to_numpy() for name in ("row", "item", "source"))
    frame = pd.DataFrame(
        {
            "user_id": data.user_ids[users[row] - 1],
            "item_id": data.item_ids[item - 1],
            "kind": np.array(["candidate"] * 4 + ["probe"])[source],
            "source": np.array(SOURCES)[source],
        }
    )
    summary = summarise(
        data,
        cold=cold,
        row=row,
        item=item,
        source=frame["source"],
        tail=tail,
        per_user=settings.per_user,
        cold_history=settings.cold_history,
    )
    _warn(summary, settings)
    return Candidates(frame, summary, settings)


def _draw_hashed(draw: Draw, of_diverse: tuple, of_popular: tuple, engine: Engine | None) -> list[Drawn]:
    """Draw diverse and popular items, the sources that hash every user with every item of a pool."""
    if engine is None:
        return [diverse(draw, *of_diverse), popular(draw, *of_popular)]
    # What every part needs besides its users, sent once.
    without_users = draw.part(slice(0, 0))
    parts = ((part.start, draw.part(part)) for part in cut(len(draw.user_key), engine.workers, at_least=_LEAST_USERS))
    shards = ((start, part.user_key, part.cold, part.own) for start, part in parts)
    drawn = [result for _, result in engine.map(_draw_part, (without_users, of_diverse, of_popular), shards)]
    return [
        (np.concatenate([rows for rows, _ in source]), np.concatenate([items for _, items in source]))
        for source in zip(*drawn, strict=True)
    ]


def _draw_part(shared: tuple[Draw, tuple, tuple], shard: tuple) -> list[Drawn]:
    without_users, of_diverse, of_popular = shared
    start, user_key, cold, own = shard
    draw = replace(without_users, user_key=user_key, cold=cold, own=own)
    return [(rows + start, items) for rows, items in (diverse(draw, *of_diverse), popular(draw, *of_popular))]


def read_categories(items: str | os.PathLike[str] | pd.DataFrame) -> np.ndarray | None:
    """Read the column ``category`` of an items file.

    Parameters
    ----------
    items : path or pandas.DataFrame
        The file that `load_interactions` was given, so that the order is that of the item codes.

    Returns
    -------
    ndarray or None
        (n_items,) labels as text, "" for an item without one; None without the column.
    """
    table = read_table(items, "items")
    if "category" not in table.frame:
        return None
    table.require_columns(["category"])
    return table.texts("category")


def _choose_users(data: Interactions, settings: CandidateSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the codes of the users in random order, their keys, and which are cold: (n_users,) each."""
    history = data.history_length
    known = np.flatnonzero(history > 0)
    order_key = id_keys(data.user_ids[known - 1], seed=settings.seed, purpose=0)
    known = known[np.argsort(order_key)]
    cold = cold_users(history[known], settings.cold_history, inclusive=True)
    n_cold, n_other = int(cold.sum()), int((~cold).sum())
    wanted = min(settings.users or len(known), len(known))
    take_cold = min(round(wanted * settings.cold_share), n_cold)
    take_other = min(wanted - take_cold, n_other)
    take_cold = wanted - take_other
    taken = np.where(cold, np.cumsum(cold) <= take_cold, np.cumsum(~cold) <= take_other)
    users = known[taken]
    return users, id_keys(data.user_ids[users - 1], seed=settings.seed, purpose=2), cold[taken]


def _drawable_items(data: Interactions, item_key: np.ndarray) -> np.ndarray:
    """Return the codes of the items with a title, most popular first, ties in random order."""
    codes = np.arange(1, data.n_items + 1)
    if data.titles is not None:
        codes = codes[data.titles.to_numpy() != ""]
        if len(codes) == 0:
            raise DataError("no item has a title, so there is nothing to ask about; fill in the items' title column.")
    return codes[np.lexsort((item_key[codes], -data.popularity[codes]))]


def _own_items(data: Interactions, row_of_user: np.ndarray) -> np.ndarray:
    """Return sorted ``row * (n_items + 1) + code`` of the chosen users' training and validation items."""
    pairs = pd.concat([data.train[["user", "item"]], data.valid[["user", "item"]]])
    row = row_of_user[pairs["user"].to_numpy()]
    return np.unique((row * (data.n_items + 1) + pairs["item"].to_numpy())[row >= 0])


def _probes(data: Interactions, draw: Draw, row_of_user: np.ndarray, share: float) -> pd.DataFrame:
    """Take one validation item of every so many users, alike from cold users and the others."""
    valid = data.valid.assign(row=row_of_user[data.valid["user"].to_numpy()])
    valid = valid[(valid["row"] >= 0) & valid["item"].isin(draw.items)]
    valid = valid.assign(key=mix(draw.user_key[valid["row"]] ^ draw.item_key[valid["item"]]))
    valid = valid.sort_values(["row", "key"]).drop_duplicates("row")
    # Every 1 / share-th of a group: the count is exact, and further users do not change who has a probe.
    number = valid.groupby(draw.cold[valid["row"]]).cumcount().to_numpy()
    before, after = (np.floor(np.round(count * share, 9)) for count in (number, number + 1))
    return valid[after > before][["row", "item"]].assign(source=SOURCES.index("probe"))


def _warn(summary: CandidateSummary, settings: CandidateSettings) -> None:
    if summary.users_short:
        warnings.warn(
            f"{summary.users_short} of {summary.users} users get fewer than {settings.per_user} candidates. "
            "Raise pool or lower per_user.",
            CoverageWarning,
            stacklevel=4,
        )
    if settings.probe_share > 0 and summary.probes == 0:
        warnings.warn(
            "no user has a probe, so the default gate cannot be fitted and falls back to a fixed rule. Ask about more "
            "users, raise probe_share, or give interactions with validation items.",
            CoverageWarning,
            stacklevel=4,
        )
