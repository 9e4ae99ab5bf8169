"""Draws of candidates by hashed keys, so that more users change no other's, and what the candidates cover."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..datasets.interactions import Interactions
from ..regions import cold_users

_CHUNK = 2_000_000  # keys held at a time


def id_keys(ids: pd.Index, *, seed: int, purpose: int) -> np.ndarray:
    """Hash raw ids to keys, the same on every machine.

    Parameters
    ----------
    ids : pandas.Index
        (n,) whole numbers or text.
    seed, purpose : int
        Keys of another seed or purpose are independent of these.

    Returns
    -------
    ndarray
        (n,) uint64.
    """
    raw = ids.to_numpy()
    raw = raw if raw.dtype.kind in "iu" else raw.astype(object)
    # Arrays of one: numpy warns when a scalar wraps around, which is what is meant here.
    salt = mix(mix(np.array([seed], dtype=np.uint64)) ^ np.array([purpose], dtype=np.uint64))
    return mix(pd.util.hash_array(raw, categorize=False) ^ salt)


def mix(values: np.ndarray) -> np.ndarray:
    """Scatter uint64 values over all of uint64, one to one (the finaliser of splitmix64; Steele et al., 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def pair_keys(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Key of every (row, column): (n_rows, n_columns) uint64."""
    return mix(rows[:, None] ^ columns[None, :])


def uniform(keys: np.ndarray) -> np.ndarray:
    """Turn keys into float64 numbers in [0, 1)."""
    return (keys >> np.uint64(11)) * 2.0**-53


def chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut rows into slices whose (rows, columns) matrix of keys stays small."""
    step = max(1, _CHUNK // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def lowest(keys: np.ndarray, count: int) -> np.ndarray:
    """Columns of the `count` lowest keys of each row, lowest first: (n_rows, count) int64."""
    if count < keys.shape[1]:
        columns = np.argpartition(keys, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(keys, columns, axis=1), axis=1)
        return np.take_along_axis(columns, order, axis=1)
    return np.argsort(keys, axis=1)


def deal(n_items: int, n_hands: int, size: int, *, seed: int | list[int]) -> np.ndarray:
    """Deal items to hands in turn from a shuffled pack, shuffled again whenever it is used up.

    Every item is dealt ``n_hands * size / n_items`` times, rounded up or down; more hands leave the first ones as
    they were.

    Returns
    -------
    ndarray
        (n_hands, size) int64 item numbers. A hand can hold an item twice where two packs meet in it. Without items
        the hands are empty.
    """
    n_packs = -(-n_hands * size // n_items) if n_items else 0
    packs = np.random.default_rng(seed).random((n_packs, n_items)).argsort(axis=1)
    return packs.ravel()[: n_hands * size].reshape(n_hands, size if n_items else 0)


_CATALOGUE = 0x5EED_CA7A
_TRIES = 4  # for a diverse item, when the one drawn first is the user's own


@dataclass(frozen=True, eq=False)
class Draw:
    """What all sources draw from.

    Attributes
    ----------
    user_key : ndarray
        (n_users,) uint64 keys of the chosen users; a user's position here is its row below.
    cold : ndarray
        (n_users,) bool.
    items : ndarray
        (n_drawable,) codes of the items that may be drawn, most popular first.
    item_key : ndarray
        (n_items + 1,) uint64 keys, by code.
    own : ndarray
        Sorted ``row * stride + code`` of the users' own training and validation items.
    """

    user_key: np.ndarray
    cold: np.ndarray
    items: np.ndarray
    item_key: np.ndarray
    own: np.ndarray

    @property
    def stride(self) -> int:
        """Codes run below this."""
        return len(self.item_key)

    def part(self, rows: slice) -> Draw:
        """Return the draw of some of the users, whose rows then begin at 0."""
        first, last = np.searchsorted(self.own, [rows.start * self.stride, rows.stop * self.stride])
        own = self.own[first:last] - rows.start * self.stride
        return replace(self, user_key=self.user_key[rows], cold=self.cold[rows], own=own)

    def foreign(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return which pairs are not among the user's own items: bool, of the shape of both."""
        return ~np.isin(rows * self.stride + items, self.own)


def popular(draw: Draw, pool: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` items from the pool for each user, each with the same chance, without the user's own.

    Parameters
    ----------
    draw : Draw
    pool : ndarray
        (n_pool,) item codes.
    count : int
        Items a user, fewer if the pool does not hold them.

    Returns
    -------
    rows, items : ndarray
        (n_pairs,) each, by row.
    """
    count = min(count, len(pool))
    place = np.full(draw.stride, -1)
    place[pool] = np.arange(len(pool))
    own_row, own_place = draw.own // draw.stride, place[draw.own % draw.stride]
    own_row, own_place = own_row[own_place >= 0], own_place[own_place >= 0]
    rows, items = [], []
    for part in chunks(len(draw.user_key), len(pool)):
        keys = pair_keys(draw.user_key[part], draw.item_key[pool])
        inside = slice(*np.searchsorted(own_row, (part.start, part.stop)))
        taken = np.zeros(keys.shape, dtype=bool)
        taken[own_row[inside] - part.start, own_place[inside]] = True
        keys[taken] = np.iinfo(np.uint64).max  # last of all, and cut off below
        columns = lowest(keys, count)
        free = ~np.take_along_axis(taken, columns, axis=1)
        rows.append(np.broadcast_to(np.arange(part.start, part.stop)[:, None], columns.shape)[free])
        items.append(pool[columns][free])
    return np.concatenate(rows), np.concatenate(items)


def diverse(draw: Draw, categories: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` items for each cold user, from as many categories and bands of popularity as possible.

    Within its category every item stands in one of `count` bands of popularity. The k-th item of a user comes from
    the k-th category in the user's random order (from the first again when they are used up) and from the k-th band
    in another random order: all bands occur once, and no category twice before all of them once.

    Parameters
    ----------
    draw : Draw
    categories : ndarray
        (n_drawable,) int64 numbers from 0, in the order of ``draw.items``.
    count : int
        Items a user; fewer where small categories give the same one twice.

    Returns
    -------
    rows, items : ndarray
        (n_pairs,) each, by row.
    """
    rows = np.flatnonzero(draw.cold)
    if count == 0 or len(rows) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    in_category = draw.items[np.argsort(categories, kind="stable")]  # still most popular first
    size = np.bincount(categories)
    start = np.cumsum(size) - size
    category_key, slot_key, try_key = (
        mix(np.arange(length, dtype=np.uint64) + np.uint64(base))
        for base, length in ((1 << 32, len(size)), (2 << 32, count), (3 << 32, count * _TRIES))
    )
    found_rows, found_items = [], []
    for part in chunks(len(rows), max(len(size), count * _TRIES)):
        key = draw.user_key[rows[part]]
        order = lowest(pair_keys(key, category_key), min(count, len(size)))
        category = order[:, np.arange(count) % order.shape[1]]  # (n, count)
        band = lowest(pair_keys(key, slot_key), count)
        within = uniform(pair_keys(key, try_key)).reshape(-1, count, _TRIES)
        of_size = size[category][:, :, None]
        place = ((band[:, :, None] + within) / count * of_size).astype(np.int64)
        place = np.minimum(place, of_size - 1)  # the quotient can round up to 1
        item = in_category[start[category][:, :, None] + place]  # (n, count, tries)
        row = np.broadcast_to(rows[part][:, None, None], item.shape)
        free = draw.foreign(row, item)
        first = free.argmax(axis=2)[:, :, None]
        found = np.take_along_axis(free, first, axis=2)[:, :, 0]
        found_rows.append(row[:, :, 0][found])
        found_items.append(np.take_along_axis(item, first, axis=2)[:, :, 0][found])
    return np.concatenate(found_rows), np.concatenate(found_items)


def catalogue_wide(draw: Draw, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` items for each user from the whole catalogue, each with the same chance.

    They are spread over popularity: one from each of `count` bands of as many items.

    Parameters
    ----------
    draw : Draw
    count : int
        Items a user; fewer where tries hit the user's own.

    Returns
    -------
    rows, items : ndarray
        (n_pairs,) each, by row.
    """
    # Diverse items of one category, for everyone, by keys of their own: a cold user gets other items than those.
    everyone = replace(
        draw, user_key=mix(draw.user_key ^ np.uint64(_CATALOGUE)), cold=np.ones(len(draw.user_key), dtype=bool)
    )
    return diverse(everyone, np.zeros(len(draw.items), dtype=np.int64), count)


def long_tail(draw: Draw, tail: np.ndarray, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Deal `count` long-tail items to each user in turn, so that every item gets about as many users.

    Cold users and the others are dealt to apart, so that more users of either kind leave all hands as they were.

    Parameters
    ----------
    draw : Draw
        Users in random order.
    tail : ndarray
        (n_tail,) item codes.
    count : int
        Items a user; fewer where one dealt is the user's own.
    seed : int
        Shuffles the items.

    Returns
    -------
    rows, items : ndarray
        (n_pairs,) each.
    """
    dealt_rows, dealt_items = [], []
    for group, members in enumerate((np.flatnonzero(draw.cold), np.flatnonzero(~draw.cold))):
        hands = deal(len(tail), len(members), count, seed=[seed, group])
        items = tail[hands]
        rows = np.broadcast_to(members[:, None], items.shape)
        free = draw.foreign(rows, items)
        dealt_rows.append(rows[free])
        dealt_items.append(items[free])
    return np.concatenate(dealt_rows), np.concatenate(dealt_items)


@dataclass(frozen=True)
class CandidateSummary:
    """Counts of a set of candidates.

    Attributes
    ----------
    users, cold_users : int
        Users asked about, and the cold ones of them.
    known_users, known_cold_users : int
        The same of all users with a training interaction.
    unknown_users : int
        Users without one, who are not asked about.
    users_short : int
        Users with fewer candidates than asked for.
    popular, cold_diverse, catalogue_wide, long_tail : int
        Candidates by source.
    probes, cold_probes : int
        Probes, and those of cold users.
    items, tail_items : int
        Distinct items among the candidates, and long-tail items of them, from any source.
    catalogue, catalogue_tail : int
        All items, and all long-tail ones that can be drawn.
    tail_users : tuple of int
        Fewest, median and most users of a long-tail item.
    cold_history, tail_popularity : int
        A user with at most so many training interactions is cold, an item with at most so many long-tail.
    """

    users: int
    cold_users: int
    known_users: int
    known_cold_users: int
    unknown_users: int
    users_short: int
    popular: int
    cold_diverse: int
    catalogue_wide: int
    long_tail: int
    probes: int
    cold_probes: int
    items: int
    tail_items: int
    catalogue: int
    catalogue_tail: int
    tail_users: tuple[int, int, int]
    cold_history: int
    tail_popularity: int

    @property
    def candidates(self) -> int:
        """Pairs without the probes."""
        return self.popular + self.cold_diverse + self.catalogue_wide + self.long_tail

    def __str__(self) -> str:
        fewest, median, most = self.tail_users
        lines = [
            f"{self.candidates} candidates and {self.probes} probes of {self.users} users: {self.users} prompts of "
            f"about {(self.candidates + self.probes) / self.users:.1f} items",
            f"  users        {_of(self.users, self.known_users)} with a training interaction"
            + (f" ({self.unknown_users} without are left out)" if self.unknown_users else ""),
            f"  cold users   {_of(self.cold_users, self.known_cold_users)} with at most {self.cold_history} of them",
            f"  items        {_of(self.items, self.catalogue)} of the catalogue",
            f"  long tail    {_of(self.tail_items, self.catalogue_tail)} items with at most {self.tail_popularity} "
            f"training interactions, {fewest} to {most} users each (median {median})",
            f"  sources      {self.popular} popular, {self.cold_diverse} diverse for cold users, "
            f"{self.catalogue_wide} from the whole catalogue, {self.long_tail} long-tail",
            f"  probes       {self.cold_probes} of cold users, {self.probes - self.cold_probes} of others",
        ]
        if self.users_short:
            lines.append(f"  {self.users_short} users have fewer candidates than asked for")
        return "\n".join(lines)


def summarise(
    data: Interactions,
    *,
    cold: np.ndarray,
    row: np.ndarray,
    item: np.ndarray,
    source: pd.Series,
    tail: np.ndarray,
    per_user: int,
    cold_history: int,
) -> CandidateSummary:
    """Count what candidates cover.

    Parameters
    ----------
    data : Interactions
    cold : ndarray
        (n_users,) bool, of the users asked about.
    row, item, source : ndarray
        (n_pairs,) position of the user, code of the item, name of the source.
    tail : ndarray
        Codes of the long-tail items.
    per_user, cold_history : int
        As in `CandidateSettings`.
    """
    history = data.history_length[1:]
    is_probe = (source == "probe").to_numpy()
    by_source = source.value_counts()
    candidate_items = item[~is_probe]
    users_of_tail = np.bincount(candidate_items, minlength=data.n_items + 1)[tail]
    drawn = np.bincount(row[~is_probe], minlength=len(cold))
    fewest, median, most = np.quantile(users_of_tail, (0, 0.5, 1)).astype(int) if len(tail) else (0, 0, 0)
    return CandidateSummary(
        users=len(cold),
        cold_users=int(cold.sum()),
        known_users=int((history > 0).sum()),
        known_cold_users=int(((history > 0) & cold_users(history, cold_history, inclusive=True)).sum()),
        unknown_users=int((history == 0).sum()),
        users_short=int((drawn < per_user).sum()),
        popular=int(by_source.get("popular", 0)),
        cold_diverse=int(by_source.get("cold_diverse", 0)),
        catalogue_wide=int(by_source.get("catalogue", 0)),
        long_tail=int(by_source.get("long_tail", 0)),
        probes=int(is_probe.sum()),
        cold_probes=int((is_probe & cold[row]).sum()),
        items=len(np.unique(candidate_items)),
        tail_items=int((users_of_tail > 0).sum()),
        catalogue=data.n_items,
        catalogue_tail=len(tail),
        tail_users=(int(fewest), int(median), int(most)),
        cold_history=cold_history,
        tail_popularity=int(data.popularity[tail].max()) if len(tail) else 0,
    )


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else f"{part} of 0"
