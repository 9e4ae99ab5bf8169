"""`distill_features`: what a model's last layer reads is pulled towards the vectors of a row's item and user."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import CoverageWarning, HookNeverFiredError, UnsupportedModelError, VectorsError
from ..knowledge.adaptor import seeded
from ..knowledge.id_vectors import IdVectors, Vectors, VectorSource
from ..knowledge.vectors import directions
from ..scores.ids import IdIndex
from .embeddings import KnownIds, known_rows, tables_of
from .last_layer import last_layer
from .step_losses import LossRun, StepLoss, add_loss, check_addable, remove_loss

NAME = "distill"
"""Of the loss on the model, and its account: ``sllmr_distill``, ``sllmr_distill_ids``."""

TARGETS = ("item", "user", "both")
DEFAULT_WEIGHT = 0.1


class DistillLoss(StepLoss):
    """``weight * (1 - cos(W h, z))``, the mean over the batch's rows of which z is known.

    Parameters
    ----------
    sides : list of KnownIds
        Whose vectors are z, one behind the other.
    layer : str
        Name of the model's layer whose input is h.
    width : int
        Numbers of h.
    weight : float
        Of the mean.
    """

    def __init__(self, sides: list[KnownIds], layer: str, width: int, weight: float) -> None:
        super().__init__(NAME, weight)
        self.sides = nn.ModuleList(sides)
        self.layer = layer
        self.project = nn.Linear(width, sum(side.values.shape[1] for side in sides), bias=False)

    def open(self, model: Any) -> LossRun:
        """Return what a call of `fit` holds."""
        return _DistillRun(self, model.get_submodule(self.layer))


class _DistillRun(LossRun):
    """A `DistillLoss` during one call of `fit`: catches the input of the layer in each step's forward pass."""

    def __init__(self, loss: DistillLoss, layer: nn.Module) -> None:
        sides: Any = loss.sides
        super().__init__(loss.name, loss.weight, tuple(side.feature for side in sides))
        self._sides, self._project = sides, loss.project
        self._name, self._layer = loss.layer, layer
        self._hidden: Tensor | None = None
        self._hook: RemovableHandle | None = None

    def see(self, codes: Mapping[str, Tensor], n_batch: int) -> None:
        """Take the codes of the batch's rows, and wait for the layer's next call; candidates are not distilled."""
        super().see({name: of_rows[:n_batch] for name, of_rows in codes.items()}, n_batch)
        self.close()
        # Removed by its first call: copies and files of the model between steps hold no hook.
        self._hook = self._layer.register_forward_pre_hook(self._catch)

    def _catch(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():  # FuxiCTR models are tried out, without gradients, before the first step's pass
            self.close()
            self._hidden = args[0]

    def compute(self, codes: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Return the mean over the batch's rows with a vector, and how many these are."""
        hidden, self._hidden = self._hidden, None
        n_batch = len(next(iter(codes.values())))
        if hidden is None:
            raise HookNeverFiredError(
                f"a training step did not call the layer {self._name!r}, whose input is to be distilled. Name another "
                "one (layer=)."
            )
        if hidden.dim() != 2 or len(hidden) < n_batch:
            raise UnsupportedModelError(
                [
                    f"the layer {self._name!r} reads a tensor of shape {tuple(hidden.shape)} for a batch of {n_batch} "
                    "rows, and what is distilled has one row of numbers each. Name another layer (layer=)."
                ]
            )
        rows = [side.row_of_code[codes[side.feature]] for side in self._sides]
        known = torch.stack(rows).min(dim=0).values >= 0
        n_known = int(known.sum())
        if n_known == 0:
            return torch.zeros(()), 0
        wanted = torch.cat([side.values[row[known]] for side, row in zip(self._sides, rows, strict=True)], dim=1)
        # The batch's rows come first, whatever rides along.
        found = self._project(hidden[:n_batch][known])
        return (1 - F.cosine_similarity(found, wanted)).mean(), n_known

    def close(self) -> None:
        """Take the hook off, where the layer was not called."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._hidden = None


@dataclass(frozen=True, eq=False)
class Distillation:
    """What `distill_features` has done; print it. `undo` takes the loss off again and throws W away.

    Attributes
    ----------
    vectors : Vectors
        Of the items and, maybe, of the users.
    target : str
        Whose vectors z is of.
    weight : float
        Of the loss.
    layer : str
        Name of the layer whose input is h; "" with weight 0.
    width : int
        Numbers of h.
    n_items, n_users : int
        Ids with a vector that the model knows.
    """

    vectors: Vectors
    target: str
    weight: float
    layer: str = ""
    width: int = 0
    n_items: int = 0
    n_users: int = 0

    def undo(self, model: nn.Module) -> None:
        """Give a model back without the loss; what it has learnt stays, W does not."""
        remove_loss(model, NAME)

    def __str__(self) -> str:
        if not self.layer:
            return "not distilled: weight 0 leaves the model as it is"
        return (
            f"distilling {self.vectors.source} into the {self.width} numbers that {self.layer} reads, "
            f"target {self.target}, weight {self.weight:g}: vectors of {self.n_items} items, {self.n_users} users"
        )


def distill_features(
    model: Any,
    vectors: VectorSource,
    *,
    user: str,
    item: str,
    target: str = "item",
    weight: float = DEFAULT_WEIGHT,
    layer: str | None = None,
    user_index: IdIndex | None = None,
    item_index: IdIndex | None = None,
    seed: int = 0,
    **options: Any,
) -> Distillation:
    """Let `model.fit` pull what the last layer reads towards the row's vectors; before or after `compile`.

    ``weight * (1 - cos(W h, z))`` with h the input of the backbone's last layer, z the vector of the row's item, of
    its user, or both one behind the other, and W a linear map that is trained with the model, by the same optimizer,
    and thrown away by `Distillation.undo`: distillation of an intermediate feature, as SLMRec (Xu et al., 2024) and
    LEADER (Liu et al., 2024) have it, from vectors in the place of a language model's hidden states. The model is
    changed in place; its ``state_dict`` keys and predictions stay the plain model's. It goes with `wrap` and `align`
    in any order, and sees the rows of the batch, not candidates.

    Parameters
    ----------
    model : deepctr_torch or fuxictr.pytorch model
        Plain, augmented or wrapped.
    vectors : path, pandas.DataFrame, mapping or Vectors
        See `Vectors.read`. Of a vector only the direction counts, seen from the items' mean.
    user, item : str
        The model's features that carry the ids.
    target : {"item", "user", "both"}, default="item"
        Whose vectors z is of. Rows that lack one have no loss.
    weight : float, default=0.1
        Of the mean over the batch's rows. Beside DeepCTR-Torch's loss, a sum over rows, it is multiplied by the rows
        of the batch, so that it means the same beside either library. 0 leaves the model as it is.
    layer : str, optional
        Name of the linear layer whose input is h, as `named_modules` has it. By default, of those that make one number
        of several, the least nested, and the first of these: ``dnn_linear`` of most DeepCTR-Torch models.
    user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Raw id -> code, as of `wrap`.
    seed : int, default=0
        Of the start of W. The global random numbers are not touched.
    **options
        Of `Vectors.read`: ``titles``, ``encoder``.

    Returns
    -------
    Distillation
        What is distilled into what.

    Raises
    ------
    VectorsError
        If no vector belongs to an id of the model, there are none of users and `target` asks for them, or an argument
        makes no sense.
    UnsupportedModelError
        If the model is of neither library, or has no such layer.
    AlreadyWrappedError
        If it is distilled into.

    Warns
    -----
    CoverageWarning
        If fewer than half of the ids that z is of have a vector.

    Examples
    --------
    >>> done = distill_features(model, "llm_texts.parquet", user="user_id", item="item_id")  # doctest: +SKIP
    >>> model.fit(x, y, batch_size=256, epochs=3)  # doctest: +SKIP
    >>> done.undo(model)  # doctest: +SKIP
    """
    backend = check_addable(model, NAME)
    if not np.isfinite(weight) or weight < 0 or target not in TARGETS:
        raise VectorsError(
            f"weight={weight!r} must be a number of at least 0, target={target!r} one of {', '.join(TARGETS)}."
        )
    read = Vectors.read(vectors, **options)
    if weight == 0:
        return Distillation(read, target, 0.0)
    name, width = last_layer(model, layer)
    wanted: list[tuple[str, IdVectors, IdIndex | None, str]] = []
    if target != "item":
        if read.users is None:
            raise VectorsError(
                f"target={target!r}, and {read.source} has no vectors of users. Use target='item', or give profiles of "
                "users."
            )
        wanted.append((user, read.users, user_index, "users"))
    if target != "user":
        wanted.append((item, read.items, item_index, "items"))
    centre = read.items.matrix.mean(axis=0, dtype=np.float64)
    sides, counts = [], {"items": 0, "users": 0}
    for feature, of_ids, index, what in wanted:
        n_codes = min(table.num_embeddings for table in tables_of(model, feature).values())
        index = backend.id_index(model, feature) if index is None else index
        codes, matrix = known_rows(of_ids, index, n_codes, what, read.source)
        sides.append(KnownIds(feature, codes, directions(matrix, centre), n_codes))
        counts[what] = len(codes)
        if 2 * len(codes) < n_codes:
            warnings.warn(
                f"{len(codes)} of {n_codes} codes of {what} have a vector in {read.source}; rows of the others have no "
                f"loss. Check that ids and {what[:-1]}_index are those of the model.",
                CoverageWarning,
                stacklevel=2,
            )
    with seeded(seed):
        loss = DistillLoss(sides, name, width, weight)
    add_loss(model, loss)
    return Distillation(read, target, weight, name, width, counts["items"], counts["users"])
