"""What a set of candidates will cover, counted before anything is paid for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..datasets.interactions import Interactions
from .candidate_settings import CandidateSettings


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
    popular, cold_diverse, long_tail : int
        Candidates by source.
    probes, cold_probes : int
        Probes, and those of cold users.
    items, tail_items : int
        Distinct items among the candidates, and long-tail items of them, from whatever source.
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
        return self.popular + self.cold_diverse + self.long_tail

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
            f"{self.long_tail} long-tail",
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
    settings: CandidateSettings,
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
    settings : CandidateSettings
        Gives the bounds of "cold" and "short".
    """
    history = data.history_length[1:]
    is_probe = (source == "probe").to_numpy()
    by_source = source.value_counts()
    candidate_items = item[~is_probe]
    users_of_tail = np.bincount(candidate_items, minlength=data.n_items + 1)[tail]
    per_user = np.bincount(row[~is_probe], minlength=len(cold))
    fewest, median, most = np.quantile(users_of_tail, (0, 0.5, 1)).astype(int) if len(tail) else (0, 0, 0)
    return CandidateSummary(
        users=len(cold),
        cold_users=int(cold.sum()),
        known_users=int((history > 0).sum()),
        known_cold_users=int(((history > 0) & (history <= settings.cold_history)).sum()),
        unknown_users=int((history == 0).sum()),
        users_short=int((per_user < settings.per_user).sum()),
        popular=int(by_source.get("popular", 0)),
        cold_diverse=int(by_source.get("cold_diverse", 0)),
        long_tail=int(by_source.get("long_tail", 0)),
        probes=int(is_probe.sum()),
        cold_probes=int((is_probe & cold[row]).sum()),
        items=len(np.unique(candidate_items)),
        tail_items=int((users_of_tail > 0).sum()),
        catalogue=data.n_items,
        catalogue_tail=len(tail),
        tail_users=(int(fewest), int(median), int(most)),
        cold_history=settings.cold_history,
        tail_popularity=int(data.popularity[tail].max()) if len(tail) else 0,
    )


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else f"{part} of 0"
