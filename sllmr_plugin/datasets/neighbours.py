"""Item-to-item collaborative filtering, ItemCF and Swing: what synthetic interactions do to the neighbours of items."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .interactions import Interactions
from .synthetic import SyntheticInteractions

if TYPE_CHECKING:  # the command line's help does without SciPy
    from scipy import sparse

_ALPHA = 1.0  # of Swing
_BLOCK = 512  # users whose co-users, or scores of the catalogue, are held at a time


def item_cf(taken: sparse.csr_matrix) -> sparse.csr_matrix:
    r"""Return the cosines of items: ``|U_i and U_j| / sqrt(|U_i| |U_j|)``.

    Parameters
    ----------
    taken : scipy.sparse.csr_matrix
        (n_users, n_items) of ones.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n_items, n_items), zeros on the diagonal.
    """
    from scipy import sparse

    together = (taken.T @ taken).tocoo()
    size = np.sqrt(np.asarray(taken.sum(axis=0)).ravel())
    off = together.row != together.col
    row, col = together.row[off], together.col[off]
    return sparse.csr_matrix((together.data[off] / (size[row] * size[col]), (row, col)), together.shape)


def swing(taken: sparse.csr_matrix, alpha: float = _ALPHA) -> sparse.csr_matrix:
    r"""Return Swing similarities of items.

    .. math:: s(i, j) = \sum_{u < v,\; u, v \in U_i \cap U_j}
              \frac{1}{\sqrt{|I_u| |I_v|}\,(\alpha + |I_u \cap I_v|)}

    (Yang et al., arXiv:2010.05525): two users who both took two items say the more, the less else they share.

    Parameters
    ----------
    taken : scipy.sparse.csr_matrix
        (n_users, n_items) of ones.
    alpha : float, default=1
        Smooths.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n_items, n_items), zeros on the diagonal.
    """
    from scipy import sparse

    total = sparse.csr_matrix((taken.shape[1], taken.shape[1]))
    scale = 1 / np.sqrt(np.maximum(np.diff(taken.indptr), 1))
    of_items = taken.T.tocsr()
    for start in range(0, taken.shape[0], _BLOCK):
        shared = (taken[start : start + _BLOCK] @ of_items).tocoo()
        # Each two users once, and only those who share two items or more: they alone join two items.
        use = (shared.col > shared.row + start) & (shared.data > 1)
        first, second, number = shared.row[use] + start, shared.col[use], shared.data[use]
        both = taken[first].multiply(taken[second]).tocsr()  # (n_pairs, n_items)
        weight = sparse.diags(scale[first] * scale[second] / (alpha + number))
        total = total + both.T @ weight @ both
    total = total.tolil()
    total.setdiag(0)
    found = total.tocsr()
    found.eliminate_zeros()
    return found


SIMILARITIES = {"itemcf": item_cf, "swing": swing}


@dataclass(frozen=True)
class NeighbourFigures:
    """What a similarity makes of some interactions.

    Attributes
    ----------
    joined : int
        Long-tail items that have a neighbour at all.
    neighbours : float
        Neighbours of a long-tail item among its nearest `top`, on average.
    hit_rate, tail_hit_rate : float
        Share of validation interactions whose item is among the `top` that are nearest to the user's training items,
        of all and of those with long-tail items; NaN where there are none.
    """

    joined: int
    neighbours: float
    hit_rate: float
    tail_hit_rate: float


@dataclass(frozen=True)
class NeighbourReport:
    """Item-to-item figures before and after synthetic interactions, the check of LLM-I2I (arXiv:2512.21595).

    Attributes
    ----------
    top : int
        Nearest items that count.
    n_tail, n_valid, n_tail_valid : int
        Long-tail items; validation interactions, and those with long-tail items.
    figures : dict of str to tuple of NeighbourFigures
        ``itemcf`` and ``swing``: before and after.
    """

    top: int
    n_tail: int
    n_valid: int
    n_tail_valid: int
    figures: dict[str, tuple[NeighbourFigures, NeighbourFigures]]

    @classmethod
    def of(
        cls, data: Interactions, synthetic: SyntheticInteractions, tail: np.ndarray, *, top: int = 20
    ) -> NeighbourReport:
        """Measure. Synthetic pairs join items; what a user is recommended starts from training items alone.

        Parameters
        ----------
        data : Interactions
            Its training positives are the interactions before; test is not looked at.
        synthetic : SyntheticInteractions
            Added to them.
        tail : ndarray
            (n_tail,) codes of long-tail items.
        top : int, default=20
            Nearest items that count.
        """
        is_tail = np.zeros(data.n_items + 1, dtype=bool)
        is_tail[tail] = True
        positives = data.train[data.train["label"] == 1]
        pairs = [positives[name].to_numpy() for name in ("user", "item")]
        both = [
            np.concatenate([own, more]) for own, more in zip(pairs, (synthetic.users, synthetic.items), strict=True)
        ]
        before, after = _taken(data, *pairs), _taken(data, *both)
        figures = {}
        for name, similarity in SIMILARITIES.items():
            figures[name] = (
                _figures(data, similarity(before), before, is_tail, top),
                _figures(data, similarity(after), before, is_tail, top),
            )
        n_tail_valid = int(is_tail[data.valid["item"].to_numpy()].sum())
        return cls(top, int(is_tail.sum()), len(data.valid), n_tail_valid, figures)

    def content(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"item to item, nearest {self.top}, {self.n_tail} long-tail items, {self.n_valid} validation interactions "
            f"({self.n_tail_valid} with long-tail items):"
        ]
        for name, (before, after) in self.figures.items():
            lines.append(
                f"  {name}: long-tail items with neighbours {before.joined} -> {after.joined}, neighbours of each "
                f"{before.neighbours:.2f} -> {after.neighbours:.2f}; hit rate {before.hit_rate:.4f} -> "
                f"{after.hit_rate:.4f}, of long-tail items {before.tail_hit_rate:.4f} -> {after.tail_hit_rate:.4f}"
            )
        return "\n".join(lines)


def _taken(data: Interactions, users: np.ndarray, items: np.ndarray) -> sparse.csr_matrix:
    """Return (n_users + 1, n_items + 1) ones where a user took an item."""
    from scipy import sparse

    matrix = sparse.csr_matrix((np.ones(len(users)), (users, items)), shape=(data.n_users + 1, data.n_items + 1))
    matrix.data[:] = 1
    return matrix


def _figures(
    data: Interactions, similarity: sparse.csr_matrix, taken: sparse.csr_matrix, is_tail: np.ndarray, top: int
) -> NeighbourFigures:
    neighbours = np.minimum(np.diff(similarity.indptr)[is_tail], top)
    users, items = (data.valid[name].to_numpy() for name in ("user", "item"))
    hit = np.zeros(len(users), dtype=bool)
    for start in range(0, len(users), _BLOCK):
        block, wanted = users[start : start + _BLOCK], items[start : start + _BLOCK]
        own = taken[block]
        scores = (own @ similarity).toarray()
        scores[own.nonzero()] = 0
        of_wanted = scores[np.arange(len(block)), wanted][:, None]
        # Above, and half of those that tie: where it stands on average.
        place = (scores > of_wanted).sum(axis=1) + ((scores == of_wanted).sum(axis=1) - 1) / 2
        hit[start : start + _BLOCK] = (of_wanted[:, 0] > 0) & (place < top)
    of_tail = is_tail[items]
    return NeighbourFigures(
        joined=int((neighbours > 0).sum()),
        neighbours=float(neighbours.mean()) if len(neighbours) else float("nan"),
        hit_rate=float(hit.mean()) if len(hit) else float("nan"),
        tail_hit_rate=float(hit[of_tail].mean()) if of_tail.any() else float("nan"),
    )
