"""Scores of a model for users and items of one's choice, without a DataLoader and without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backends.base import backend_of
from ..datasets.features import candidate_columns, template_rows
from ..datasets.interactions import Interactions
from ..errors import EvaluationError
from ..zoo.deepctr import input_rows

_BLOCK_BYTES = 4 * 2**20


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluate without gradients; afterwards every module is back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_vocabulary(model: Any, data: Interactions) -> None:
    """Refuse a model whose tables of users or items are too short for the codes of the interactions.

    A script that has encoded its ids on its own has other codes: they begin with 0, say, where these begin with 1.

    Raises
    ------
    EvaluationError
        If a table is too short, with the codes that it should hold.
    """
    backend = backend_of(model)
    if backend is None:
        return
    for feature, largest in (("user_id", data.n_users), ("item_id", data.n_items)):
        rows = min((table.num_embeddings for table in backend.embeddings(model, feature)), default=largest + 1)
        if rows <= largest:
            raise EvaluationError(
                f"the model has {rows} rows of {feature!r}, and the codes of the interactions run from 1 to {largest}, "
                "0 being unknown: it was built on codes of another origin, and would be ranked by the wrong rows. Look "
                "ids up in data.user_index and data.item_index, as training_rows does, and give the features "
                "data.n_users + 1 and data.n_items + 1 codes"
            )


def default_rows_per_block(model: Any, templates: Tensor) -> int:
    """Choose how many rows to score at once: more outgrow the cache of a CPU, fewer leave a GPU idle.

    Parameters
    ----------
    model : BaseModel
        Scores two rows, to see what it holds.
    templates : Tensor
        (n_users, n_inputs) input rows on the model's device, at least one.

    Returns
    -------
    int
        262,144 on a GPU. On a CPU as many as keep the largest input or output of a layer within 4 MiB, from 64
        to 1,024: xDeepFM with embedding 16 is 1.6 to 2.7 times as fast with 256 rows as with 1,024, DeepFM a
        third slower. The choice does not depend on the machine, so neither do rounding and results.
    """
    if templates.device.type != "cpu":
        return 262_144
    largest = 1

    def measure(module: torch.nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal largest
        tensors = [value for value in (*inputs, output) if isinstance(value, Tensor)]
        largest = max([largest, *(tensor.numel() * tensor.element_size() for tensor in tensors)])

    hooks = [module.register_forward_hook(measure) for module in model.modules() if not list(module.children())]
    try:
        with evaluation_mode(model):
            _forward(model, templates[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return int(np.clip(_BLOCK_BYTES // -(-largest // 2), 64, 1024))


@dataclass(frozen=True, eq=False)
class ItemSide:
    """What changes in an input row with its candidate: the item's id and its attributes.

    Attributes
    ----------
    columns : Tensor
        (n_columns,) int64: where in a row it stands.
    values : Tensor
        (n_items + 1, n_columns) float32, by item code.
    """

    columns: Tensor
    values: Tensor

    @classmethod
    def of(cls, model: Any, data: Interactions) -> ItemSide:
        """Return it for the features that a model reads, on the model's device."""
        device = next(model.parameters()).device
        known = candidate_columns(data, np.arange(data.n_items + 1))
        spans = {name: span for name, span in model.feature_index.items() if name in known}
        values = [known[name].reshape(data.n_items + 1, -1) for name in spans]
        return cls(
            torch.cat([torch.arange(*span) for span in spans.values()]).to(device),
            torch.from_numpy(np.concatenate(values, axis=1).astype(np.float32)).to(device),
        )

    def fill(self, rows: Tensor, items: Tensor) -> None:
        """Write the candidates into rows, (..., n_inputs), for item codes whose shape broadcasts to (...)."""
        rows[..., self.columns] = self.values[items]


def template_matrix(model: Any, data: Interactions, users: np.ndarray, split: str) -> Tensor:
    """Build one input row a user whose item column is still to be filled in.

    Parameters
    ----------
    model : BaseModel
        A model over any of the columns that `template_rows` gives.
    data : Interactions
        Gives histories and attributes.
    users : ndarray of int
        (n_users,) codes.
    split : {"test", "valid"}
        What is to be ranked: test histories hold the validation interactions, too.

    Returns
    -------
    Tensor
        (n_users, n_inputs) float32 on the model's device.
    """
    first, last = model.feature_index.get("hist_item_id", (0, 1))
    return input_matrix(model, template_rows(data, users, split=split, history_length=last - first))


def input_matrix(model: Any, rows: Mapping[str, np.ndarray]) -> Tensor:
    """Return columns of N rows each, as `training_rows` gives them, as a model's input: (N, n_inputs) float32."""
    columns = [
        np.asarray(column, dtype=np.float32).reshape(len(column), -1) for column in input_rows(model, rows).values()
    ]
    return torch.from_numpy(np.concatenate(columns, axis=1)).to(next(model.parameters()).device)


def score_items(model: Any, templates: Tensor, items: Tensor, item_side: ItemSide, rows_per_block: int) -> Tensor:
    """Score items for each template row, in evaluation mode.

    Parameters
    ----------
    model : BaseModel
        Gives one score a row.
    templates : Tensor
        (n_users, n_inputs) float32, as `template_matrix` makes them.
    items : Tensor
        Item codes: (n_users, n_items), or (1, n_items) for the same ones for all; on the device of `templates`.
    item_side : ItemSide
        What the rows of these items hold.
    rows_per_block : int
        Rows scored at once, at least one a user.

    Returns
    -------
    Tensor
        (n_users, n_items) float32.

    Raises
    ------
    EvaluationError
        If the model gives more than one score a row.
    """
    parts = []
    for chunk in items.split(max(1, rows_per_block // len(templates)), dim=1):
        rows = templates[:, None, :].repeat(1, chunk.shape[1], 1)  # (n_users, n_chunk, n_inputs)
        item_side.fill(rows, chunk)
        output = _forward(model, rows.flatten(0, 1))
        if output.numel() != rows.shape[0] * rows.shape[1]:
            raise EvaluationError(
                f"the model gives {tuple(output.shape)} scores for {rows.shape[0] * rows.shape[1]} rows; "
                "a ranking needs one a row, so rank a single-task model."
            )
        parts.append(output.reshape(rows.shape[:2]))
    return torch.cat(parts, dim=1)


def _forward(model: Any, rows: Tensor) -> Tensor:
    """Score rows; a single one goes in twice, since DeepCTR-Torch's DCNMix fails on a batch of one."""
    return model(rows.repeat(2, 1))[:1] if len(rows) == 1 else model(rows)


def check_finite(scores: Tensor, users: np.ndarray) -> None:
    """Raise an `EvaluationError` that names the user, by raw id, if a row of scores is not finite."""
    bad = ~scores.isfinite().all(dim=1)
    if bad.any():
        user = np.asarray(users)[int(bad.nonzero()[0])]
        raise EvaluationError(
            f"the model's scores of user {user!r} are not all finite, so training has diverged; "
            "lower the learning rate or the regularizer's weight."
        )
