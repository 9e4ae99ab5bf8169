"""InfoNCE between what a model makes of rows and what is known of them (CTRL: Li et al., 2023; FLIP: RecSys 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def row_contrast(found: Tensor, wanted: Tensor, rows: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return how well each row is told from the others, in both directions.

    Half of ``-log softmax_j(cos(f_i, w_j) / tau)`` and half of ``-log softmax_j(cos(f_j, w_i) / tau)`` at j = i. Rows
    of the same user and item have the same w, so they are no negatives of each other.

    Parameters
    ----------
    found : Tensor
        (n, d) what the model makes of the rows.
    wanted : Tensor
        (n, d) what is known of them.
    rows : Tensor
        (n,) numbers that tell pairs of user and item apart.
    tau : float
        Temperature.

    Returns
    -------
    tuple of (Tensor, Tensor)
        The mean loss, and what it is where nothing is learned: the mean of the logarithm of the rows compared. Both ().
    """
    logits = F.normalize(found, dim=1) @ F.normalize(wanted, dim=1).T / tau
    same = rows.unsqueeze(1) == rows.unsqueeze(0)
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, -torch.inf)
    own = logits.diagonal()
    loss = (logits.logsumexp(dim=1) + logits.logsumexp(dim=0)).mean() / 2 - own.mean()
    chance = (len(rows) - same.sum(dim=1)).to(logits.dtype).log().mean()
    return loss, chance
