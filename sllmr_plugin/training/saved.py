"""What a wrapped model's folder holds beside settings and gate, so that `sllmr_plugin.load` needs nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .. import __version__
from ..errors import SLLMRError
from ..scores.arrays import UserScores
from ..scores.table import Coverage, ScoreTable
from .rows import Features

RECIPE = "sllmr_recipe.json"
_TENSORS = "sllmr_table.safetensors"
_GROUPS = ("candidates", "probes")


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a model was wrapped.

    Attributes
    ----------
    model : str
        Class of the plain model.
    features : Features
        Names, layout and sizes.
    task : int
        The output that the scores speak about.
    table : ScoreTable
        By codes of the model.
    item_values : (numpy.ndarray, numpy.ndarray) or None
        Encoded item table.
    counts : dict of str to Tensor
        What `set_counts` was given.
    n_fits : int
        Calls of `fit` so far: the next one continues their sequence of draws.
    version : str
        Of the package that wrote it.
    """

    model: str
    features: Features
    task: int
    table: ScoreTable
    item_values: tuple[np.ndarray, np.ndarray] | None = None
    counts: dict[str, Tensor] = field(default_factory=dict)
    n_fits: int = 0
    version: str = __version__

    def write(self, folder: Path) -> None:
        """Write it into a folder. Of a table in a folder of its own, only the path is written."""
        tensors = {f"counts.{name}": value.contiguous() for name, value in self.counts.items()}
        if self.item_values is not None:
            codes, rows = self.item_values
            tensors |= {"items.codes": torch.from_numpy(codes).clone(), "items.rows": torch.from_numpy(rows).clone()}
        if self.table.folder is None:
            for name in _GROUPS:
                group: UserScores = getattr(self.table, name)
                tensors[f"{name}.user"] = group.users[group.user_of_entry].clone()
                tensors[f"{name}.item"], tensors[f"{name}.score"] = group.items.clone(), group.scores.clone()
                if group.spread is not None:
                    tensors[f"{name}.spread"] = group.spread.clone()
        safetensors.torch.save_file(tensors, folder / _TENSORS)
        values = {
            "version": self.version,
            "model": self.model,
            "features": {**asdict(self.features), "layout": dict(self.features.layout)},
            "task": self.task,
            "n_fits": self.n_fits,
            "table": None if self.table.folder is None else str(self.table.folder.resolve()),
            "coverage": asdict(self.table.coverage),
            "origin": self.table.origin,
            "sha256": _digest(folder / _TENSORS),
        }
        (folder / RECIPE).write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, table: ScoreTable | None = None) -> Recipe:
        """Read it back; `table` replaces the one that was saved.

        Raises
        ------
        SLLMRError
            If a file is missing or has been altered; `ScoreTableError` if the table's own folder is gone.
        """
        for name in (RECIPE, _TENSORS):
            if not (folder / name).exists():
                raise SLLMRError(
                    f"{folder / name}: no such file. Give a folder written by model.sllmr.save() of this version, or "
                    "wrap the model and call model.sllmr.load(), which reads those of earlier ones."
                )
        try:
            values = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
            features = values["features"]
            layout = {name: tuple(span) for name, span in features["layout"].items()}
            found = Features(**{**features, "item_features": tuple(features["item_features"]), "layout": layout})
            same = values["sha256"] == _digest(folder / _TENSORS)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SLLMRError(f"{folder / RECIPE}: not what save() writes ({error}). Take another folder.") from None
        if not same:
            raise SLLMRError(f"{folder / _TENSORS} is not the file that save() wrote. Restore it, or save again.")
        tensors = safetensors.torch.load_file(folder / _TENSORS)
        items = tensors.get("items.codes"), tensors.get("items.rows")
        return cls(
            model=values["model"],
            features=found,
            task=values["task"],
            table=table if table is not None else _table(values, tensors),
            item_values=None if items[0] is None or items[1] is None else (items[0].numpy(), items[1].numpy()),
            counts={name.removeprefix("counts."): t for name, t in tensors.items() if name.startswith("counts.")},
            n_fits=values["n_fits"],
            version=values["version"],
        )

    def differences(self, model: str, layout: Mapping[str, Any]) -> list[str]:
        """Return how a model differs from the one that was saved."""
        found = []
        if model != self.model:
            found.append(f"the folder is of a {self.model}, and the model is a {model}. Build that one.")
        mine, theirs = dict(self.features.layout), {name: tuple(span) for name, span in layout.items()}
        if mine != theirs:
            lost = [f"lacks {name!r}" for name in mine if name not in theirs]
            new = [f"adds {name!r}" for name in theirs if name not in mine]
            found.append(
                f"the model {', '.join(lost + new) or 'has its features in another order'}; the one that was saved has "
                f"{', '.join(mine)}. Build it with these columns."
            )
        return found


def _table(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ScoreTable:
    if values["table"] is not None:
        return ScoreTable.open(values["table"])
    groups = [
        UserScores.from_arrays(
            *(
                tensors[f"{name}.{part}"].numpy()
                for part in ("user", "item", "score", "spread")
                if f"{name}.{part}" in tensors
            )
        )
        for name in _GROUPS
    ]
    return ScoreTable(groups[0], groups[1], Coverage(**values["coverage"]), values["origin"])


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
