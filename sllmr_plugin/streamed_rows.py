"""Training rows that come in pieces, of which only ids and the latest rows of scored users and items are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .item_rows import ArrayRows, Layout, Unlisted

_LOOKED_AT = 100_000  # rows from the top that are kept to tell item-side features by


class StreamedRows:
    """Training rows read in one pass; see `TrainingRows` for what they answer.

    Memory holds 17 bytes a row (two ids and the label), the latest row of each wanted code and the first rows.

    Parameters
    ----------
    pieces : iterable of (numpy.ndarray, numpy.ndarray)
        Input rows (m, width) and labels (m,), in the order of the training data.
    layout : mapping of str to (int, int)
        Feature name -> first column and one past the last.
    wanted : mapping of str to numpy.ndarray
        For the user and the item feature, the (n,) ascending codes whose latest rows will be asked for.
    all_positive : bool, default=False
        As of `ArrayRows`.
    """

    dtype = np.dtype(np.float64)  # holds every id below 2**53

    def __init__(
        self,
        pieces: Iterable[tuple[np.ndarray, np.ndarray]],
        layout: Layout,
        wanted: Mapping[str, np.ndarray],
        all_positive: bool = False,
    ) -> None:
        width = max(end for _, end in layout.values())
        self._latest = {name: _LatestRows(codes, width) for name, codes in wanted.items()}
        ids: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        positive, head, n_head = [np.empty(0, dtype=bool)], [(np.empty((0, width)), np.empty(0))], 0
        for rows, labels in pieces:
            rows = np.asarray(rows, dtype=self.dtype)
            positive.append((labels > 0.5) | all_positive)
            for name, latest in self._latest.items():
                codes = rows[:, layout[name][0]].astype(np.int64)
                ids[name].append(codes)
                latest.update(codes, positive[-1], rows)
            if n_head < _LOOKED_AT:
                head.append((rows, labels))
                n_head += len(rows)
        self.positive = np.concatenate(positive)
        self._ids = {name: np.concatenate([np.empty(0, dtype=np.int64), *parts]) for name, parts in ids.items()}
        self._head = [np.concatenate(parts) for parts in zip(*head, strict=True)]
        self._layout = layout

    def column(self, name: str) -> np.ndarray:
        """Return the user's or the item's codes, (n_rows,) int64."""
        return self._ids[name]

    def latest_rows(self, name: str, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the template rows of codes among the wanted ones, see `TrainingRows`."""
        latest = self._latest[name]
        slot = np.searchsorted(latest.codes, codes)
        found = latest.found[slot]
        return found, latest.rows[slot[found]]

    def unlisted(self, user: str, item: str, listed: Sequence[str]) -> Unlisted:
        """Say what decides the features in the first rows, see `ArrayRows.unlisted`."""
        rows, labels = self._head
        return ArrayRows([rows], labels, self._layout).unlisted(user, item, listed) if len(rows) else Unlisted()


class _LatestRows:
    """The last positive row of each code, else its last row, as pieces come in."""

    def __init__(self, codes: np.ndarray, width: int) -> None:
        self.codes = codes
        self.rows = np.zeros((len(codes), width))
        self.found = np.zeros(len(codes), dtype=bool)
        self._is_positive = np.zeros(len(codes), dtype=bool)

    def update(self, codes: np.ndarray, positive: np.ndarray, rows: np.ndarray) -> None:
        if len(self.codes) == 0:
            return
        slot = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        wanted = self.codes[slot] == codes
        for which in (wanted & ~positive & ~self._is_positive[slot], wanted & positive):
            self.rows[slot[which]] = rows[which]  # the last of repeated assignments stays
        self.found[slot[wanted]] = True
        self._is_positive[slot[wanted & positive]] = True
