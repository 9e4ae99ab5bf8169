"""Losses that pull embeddings towards what is known of their ids: contrastive, generative and soft alignment."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = 0.1  # of the ids of a step that the generative loss reconstructs; RLMRec's settings are 5 to 15%


class Aligner(nn.Module):
    """A loss of embeddings against vectors of the same ids, with the projection between the two spaces.

    The projection is an MLP with one hidden layer of (d_t + d) / 2 units (RLMRec, Sec. 4.1: Linear, LeakyReLU, Linear).
    It is trained with the model and belongs to the training only.

    Parameters
    ----------
    vector_size : int
        d_t, numbers of a vector.
    size : int
        d, numbers of an embedding.
    tau : float
        Temperature of the softmax over the ids of a step; similarities are cosines.

    Attributes
    ----------
    share : float
        Of the ids of a step, the part that has a loss.
    """

    from_vectors: ClassVar[bool] = True
    """Whether the projection takes vectors to embeddings, and not embeddings to vectors."""

    share: ClassVar[float] = 1.0

    def __init__(self, vector_size: int, size: int, tau: float) -> None:
        super().__init__()
        self.tau = tau
        first, last = (vector_size, size) if self.from_vectors else (size, vector_size)
        hidden = (vector_size + size) // 2
        self.project = nn.Sequential(nn.Linear(first, hidden), nn.LeakyReLU(), nn.Linear(hidden, last))

    def forward(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        """Return the loss of each id, (n,), from embeddings (n, d) and vectors (n, d_t) of distinct ids."""
        raise NotImplementedError

    def similarities(self, one: Tensor, other: Tensor) -> Tensor:
        """Return cosines over the temperature, (n, n)."""
        return F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / self.tau


class Contrastive(Aligner):
    """InfoNCE with the other ids of the step as negatives (RLMRec-Con: Ren et al., WWW 2024, Sec. 3.3).

    ``-log softmax_j(cos(e_i, MLP(v_j)) / tau)`` at j = i.
    """

    def forward(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        """Return the loss of each id, (n,)."""
        return _cross_entropy(self.similarities(embeddings, self.project(vectors)))


class Generative(Aligner):
    """Vectors reconstructed from the embeddings of a few ids drawn in each step (RLMRec-Gen, Sec. 3.4).

    ``-log softmax_j(cos(MLP(e_i), v_j) / tau)`` at j = i, over the ids drawn. RLMRec masks nodes of a graph and
    reconstructs them from their neighbours; a click model has no neighbours, so what is drawn is reconstructed from its
    own embedding.
    """

    from_vectors = False
    share = MASKED

    def forward(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        """Return the loss of each id, (n,)."""
        return _cross_entropy(self.similarities(self.project(embeddings), vectors))


class Soft(Aligner):
    """InfoNCE with soft targets: ids that are alike on both sides are no negatives of each other.

    ``-sum_j p_ij log softmax_j(cos(e_i, MLP(v_j)) / tau)`` with ``p_ij = softmax_j((cos(e_i, e_j) + cos(v_i, v_j)) /
    (2 tau))``, constant in the gradient. After DaRec (Yang et al., 2024), which aligns what the two sides have in
    common by their similarity matrices instead of pulling each pair of points together.
    """

    def forward(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        """Return the loss of each id, (n,)."""
        with torch.no_grad():
            own = self.similarities(embeddings, embeddings) + self.similarities(vectors, vectors)
            target = (own / 2).softmax(dim=1)
        return -(target * self.similarities(embeddings, self.project(vectors)).log_softmax(dim=1)).sum(dim=1)


KINDS: dict[str, type[Aligner]] = {"contrastive": Contrastive, "generative": Generative, "soft": Soft}
"""Values of ``align(kind=)``."""


def _cross_entropy(logits: Tensor) -> Tensor:
    """Return ``-log softmax`` at the diagonal of (n, n) logits, (n,)."""
    return logits.logsumexp(dim=1) - logits.diagonal()
