"""The mixin that fills columns of a FuxiCTR model's batch from an adaptor, in training and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...knowledge.adaptor import Adaptor
from ..augmented import Augmentation, AugmentMixin, sync_adaptor
from ..forward import training_mode
from ..random_state import random_state_kept
from .checks import seam_problem
from .data import layout_of, to_batch, training_pieces
from .features import numeric_names


class BatchAugmentation(Augmentation):
    """An `Augmentation` of a model whose input is a batch of named tensors.

    Parameters
    ----------
    adaptor, user, item
        As of `Augmentation`.
    feature_map : fuxictr.features.FeatureMap
        Has each column as one feature, or each of its numbers.
    """

    def __init__(self, adaptor: Adaptor, user: str, item: str, feature_map: Any) -> None:
        super().__init__(adaptor, user, item)
        self._as_numbers = {name for name in adaptor.widths if name not in feature_map.features}

    @property
    def names(self) -> list[str]:
        """Names of the features that are filled."""
        widths = self.adaptor.widths.items()
        nested = [numeric_names(name, width) if name in self._as_numbers else [name] for name, width in widths]
        return [name for names in nested for name in names]

    def inputs(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return columns, (n_rows, width) each, as features: (n_rows, width), or a feature (n_rows,) a number."""
        found: dict[str, Any] = {}
        for name, column in columns.items():
            if name in self._as_numbers:
                found |= dict(zip(numeric_names(name, column.shape[1]), column.T, strict=True))
            else:
                found[name] = column
        return found

    def fill(self, batch: Mapping[str, Tensor], device: Any) -> dict[str, Tensor]:
        """Return a batch with the columns in it; what stood there does not matter."""
        users, items = (batch[name].reshape(-1).to(device).long() for name in (self.user, self.item))
        filled = {**batch, **self.inputs(self.columns(users, items))}
        instead = self.backbone_items(users, items)
        if instead is not None:
            filled[self.item] = instead.to(batch[self.item].dtype).reshape(batch[self.item].shape)
        return filled


class FuxiCTRAugmentMixin(AugmentMixin):
    """Put before a FuxiCTR model class, fills columns of its batches; needs a `BatchAugmentation`."""

    optimizer_name = "optimizer"
    augmentation: BatchAugmentation

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the plain model's, which `train_step` asks for once."""
        self.augmentation.next_step()
        return super().compute_loss(*args, **kwargs)

    def get_inputs(self, inputs: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Return the plain model's inputs with the adaptor's columns filled in."""
        return super().get_inputs(self.augmentation.fill(inputs, self.device), *args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the plain model does, from batches without the adaptor's columns.

        Raises
        ------
        CoverageError
            If there is no vector of any user, or of any item, of the training rows.
        """
        generator = kwargs["data_generator"] if "data_generator" in kwargs else args[0] if args else None
        if generator is not None:
            self.augmentation.adaptor.check_coverage(*_ids(self, generator))
        sync_adaptor(self)
        return super().fit(*args, **kwargs)


def _ids(model: Any, generator: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the different codes of users and of items behind a training generator."""
    layout = {model.augmentation.user: (0, 1), model.augmentation.item: (1, 2)}
    with random_state_kept():
        pieces = training_pieces(generator, model.feature_map, layout, model.feature_map.labels[0])
        found = [[np.unique(column) for column in rows.T] for rows, _ in pieces]
    users, items = (np.concatenate(parts).astype(np.int64) for parts in zip(*found, strict=True))
    return users, items


def build_augmentation(
    model: Any, adaptor: Adaptor, user: str, item: str
) -> tuple[list[str], BatchAugmentation | None]:
    """Return every reason why an adaptor cannot fill features of a model, and the augmentation if there is none."""
    specs = model.feature_map.features
    lacking = seam_problem(model)
    problems = [] if lacking is None else [lacking]
    if user == item:
        problems.append(f"user and item are both {user!r}. Name the user id feature and the item id feature.")
    for name in dict.fromkeys((user, item)):
        if name not in specs:
            problems.append(f"the model has no feature {name!r}. Its features are {', '.join(specs)}.")
        elif specs[name]["type"] != "categorical":
            problems.append(
                f"feature {name!r} is of type {specs[name]['type']}. Name the categorical feature that carries the id."
            )
    for name, width in adaptor.widths.items():
        as_one = specs.get(name, {}).get("type") == "embedding" and specs[name].get("pretrain_dim") == width
        as_numbers = all(specs.get(own, {}).get("type") == "numeric" for own in numeric_names(name, width))
        if not as_one and (name in specs or not as_numbers):
            problems.append(
                f"the feature map has no {name!r} of {width} numbers. Build the model with "
                "dense_features(feature_map, adaptor, user=..., item=...)."
            )
    if not problems:
        augmentation = BatchAugmentation(adaptor, user, item, model.feature_map)
        problems = _reach_problems(model, augmentation)
    return problems, None if problems else augmentation


def _reach_problems(model: Any, augmentation: BatchAugmentation) -> list[str]:
    """Say why columns would not reach the output: found out on two rows, since a forward is the user's own."""
    layout = layout_of(model.feature_map, augmentation.names)
    rows = torch.ones(2, max(end for _, end in layout.values()), dtype=torch.float64, device=model.device)
    widths = augmentation.adaptor.widths
    columns = {name: torch.ones(2, width, device=model.device, requires_grad=True) for name, width in widths.items()}
    batch = {**to_batch(rows, layout, model.feature_map), **augmentation.inputs(columns)}
    try:
        with training_mode(list(model.modules()), False):
            output = model.forward(batch)
            total = torch.stack([values.sum() for values in output.values() if isinstance(values, Tensor)]).sum()
            gradients = torch.autograd.grad(total, list(columns.values()), allow_unused=True)
    except Exception as error:  # whatever a forward of the user's own makes of what it cannot take
        return [
            f"{type(model).__name__}.forward fails with these columns ({type(error).__name__}: {error}). If it has a "
            "logistic regression over all features, as DeepFM's, build it with dense_features(..., numeric=True); a "
            "model whose batches are not flat dicts of features takes no adaptor."
        ]
    return [
        f"{type(model).__name__}.forward does not read {name!r}, so the adaptor would do nothing. Check the features "
        "that it selects, by their source for instance."
        for name, gradient in zip(columns, gradients, strict=True)
        if gradient is None
    ]
