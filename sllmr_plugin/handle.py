"""`model.sllmr`: the handle that a wrapped model carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from .config import SelectiveConfig
from .errors import SLLMRError
from .regularizer.gates import GATES, Gate, build_gate, resolve_gate
from .regularizer.uncertainty import UNCERTAINTIES
from .scores.ids import IdIndex, encode_ids
from .scores.table import Coverage, ScoreTable
from .training.budget import StepBudget
from .training.ensemble import Checkpoint, read_checkpoints
from .training.probes import DisagreementMemory
from .training.rows import Features, TrainingRows
from .training.saved import Recipe
from .training.session import TrainingSession
from .training.view import Usable, usable_scores

_CONFIG_FILE = "sllmr_config.yaml"
_GATE_FILE = "sllmr_gate.safetensors"
_BUDGET = "step_budget"
# What changes the time of a step, or the users that follow from it.
_OF_STEP = (_BUDGET, "gate", "loss", "pairs_per_user", "candidates_per_user", "pair_scope", "uncertainty", "mc_samples")
_KEYS, _SEEN = "disagreements.keys", "disagreements.seen"


@dataclass(frozen=True)
class Status:
    """What the regularizer is set to do and has done; print it.

    Attributes
    ----------
    model : str
        Class of the wrapped model.
    enabled : bool
        False inside `disabled`.
    config : SelectiveConfig
        The settings in force.
    table : Coverage
        What was kept of the score file.
    gate : str
        Class of the gate.
    calibrated : bool
        Whether the gate rests on observed held-out outcomes (probes).
    gate_coefficients : dict of str to float
        Weights of the signals and the bias, where the gate has any.
    training : dict of str to Any
        What the latest `fit` could use of the table; empty before the first.
    epochs : list of dict
        The ``sllmr_*`` values of each epoch of the latest `fit`.
    loader : str
        How the latest `fit` fetched its batches; empty before the first.
    l2 : str
        How it computed the L2 penalty; empty before the first.
    step_budget : str
        What was decided for ``step_budget``, with the times; empty without one.
    """

    model: str
    enabled: bool
    config: SelectiveConfig
    table: Coverage
    gate: str
    calibrated: bool
    gate_coefficients: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)
    loader: str = ""
    l2: str = ""
    step_budget: str = ""

    def __str__(self) -> str:
        config = self.config
        what = (
            f"loss {config.loss}, gate {config.gate}, weight {config.weight:g}" if config.active else "plain (weight 0)"
        )
        lines = [f"{self.model} wrapped: {what}{'' if self.enabled else ', disabled'}", str(self.table)]
        if config.gated:
            known = "fitted on probes" if self.calibrated else "not calibrated: no held-out outcomes were used"
            lines.append(f"gate: {self.gate}, {known}")
        if self.gate_coefficients:
            lines.append("  " + ", ".join(f"{name} {value:+.3f}" for name, value in self.gate_coefficients.items()))
        if self.training:
            lines.append("training: " + ", ".join(f"{key} {value}" for key, value in self.training.items()))
        elif config.active:
            lines.append("training: fit has not been called yet")
        if self.loader:
            lines.append(f"loader: {self.loader}")
        if self.l2:
            lines.append(f"L2 penalty: {self.l2}")
        if self.step_budget:
            lines.append(f"step budget: {self.step_budget}")
        for number, logs in enumerate(self.epochs, start=1):
            account = ", ".join(f"{key[6:]} {value:.4g}" for key, value in logs.items())
            lines.append(f"epoch {number}: {account if logs['sllmr_pairs'] else 'plain'}")
        return "\n".join(lines)


def check_gate(config: SelectiveConfig, table: ScoreTable, regression: bool) -> None:
    """Raise `SLLMRError` if the settings need probes that the table lacks, or a probability that a regression lacks."""
    has_probes = len(table.probes) > 0
    gate = GATES.class_of(resolve_gate(config.gate, has_probes=has_probes)) if config.gated else None
    if gate is not None and gate.needs_probes and not has_probes:
        raise SLLMRError(
            f"gate={config.gate!r} needs probes: held-out interactions scored by the LLM, marked kind=probe in the "
            "score table. Add some, or use gate='fixed'."
        )
    if not regression or not config.active:
        return
    if not config.pairwise or config.score_space == "probability":
        field = f"loss={config.loss!r}" if not config.pairwise else "score_space='probability'"
        raise SLLMRError(
            f"{field} needs a probability, and the model is a regression. The pair losses need no more than an order: "
            "use loss='ranknet' or loss='hinge' with score_space='logit'."
        )
    if gate is not None and gate.uses_uncertainty:
        require_sampled_uncertainty(config)


def require_sampled_uncertainty(config: SelectiveConfig) -> None:
    """Raise `SLLMRError` if the uncertainty of a regression would be computed from a probability."""
    if UNCERTAINTIES.class_of(config.uncertainty).source == "probability":
        raise SLLMRError(
            f"uncertainty={config.uncertainty!r} is computed from a probability, and the model is a regression. Use "
            "uncertainty='mc_dropout' (of a model with dropout) or 'ensemble', or a gate that needs none: "
            "gate='fixed' or gate='none'."
        )


def _budget_of(config: SelectiveConfig) -> StepBudget | None:
    return None if config.step_budget is None else StepBudget(config.step_budget)


class Handle:
    """Everything the regularizer keeps on a model, outside the module tree.

    The gate's parameters are not part of ``model.state_dict()``; they move with ``model.to()`` and are saved
    by `save`. Users do not build one; `wrap` does.

    Parameters
    ----------
    model_name : str
        Class name of the plain model.
    features : Features
        Names and layout.
    table : ScoreTable
        Within the model's vocabulary.
    config : SelectiveConfig
        Settings.
    task : int
        Output column of a multi-task model, 0 otherwise.
    item_values : (numpy.ndarray, numpy.ndarray) or None
        Encoded item table.
    shapes : mapping of str to shape
        Of the tensors in the model's ``state_dict``.
    user_index, item_index : mapping, Series, LabelEncoder or None
        Raw id -> code, for `set_counts`.

    Attributes
    ----------
    whole_batches : bool, default=True
        Whether `fit` slices its batches whole, which gives the same bits as DeepCTR-Torch's row by row and
        takes less time. False lets it fetch them its own way.
    lean_l2 : bool, default=True
        Whether `fit` computes DeepCTR-Torch's L2 penalty with fewer passes over the embedding tables, which
        gives the same bits as well. False leaves it to DeepCTR-Torch.
    """

    whole_batches = lean_l2 = True
    loader = l2 = ""
    told_of_own_loop = False

    def __init__(
        self,
        model_name: str,
        features: Features,
        table: ScoreTable,
        config: SelectiveConfig,
        *,
        task: int,
        item_values: tuple[np.ndarray, np.ndarray] | None,
        shapes: Mapping[str, torch.Size],
        user_index: IdIndex | None,
        item_index: IdIndex | None,
    ) -> None:
        self.model_name = model_name
        self.features = features
        self.table = table
        self.task = task
        self.item_values = item_values
        self.shapes = dict(shapes)
        self.checkpoints: list[dict[str, Tensor]] = []
        self.user_index = user_index
        self.item_index = item_index
        self.enabled = True
        self.history_length: Tensor | None = None
        self.popularity: Tensor | None = None
        self.training: dict[str, Any] = {}
        self.epochs: list[dict[str, float]] = []
        self.session: TrainingSession | None = None
        self.n_fits = 0
        self.disagreements = DisagreementMemory()
        self._device = torch.device("cpu")
        self.config, self.gate = self._checked(config)
        self.budget = _budget_of(config)

    def configure(self, config: SelectiveConfig | None = None, **changes: Any) -> None:
        """Change the settings for the next `fit`; the gate starts again when its kind or its signals change.

        Parameters
        ----------
        config : SelectiveConfig, optional
            New settings. None keeps those in force.
        **changes
            Single fields to change, for instance ``weight=0.05``.

        Raises
        ------
        ConfigError
            If a setting is out of range.
        SLLMRError
            If a gate is asked for that needs probes and the table has none.
        """
        new = config if config is not None else self.config
        before = self.config
        self.config, gate = self._checked(new.replace(**changes) if changes else new)
        if any(getattr(before, name) != getattr(self.config, name) for name in _OF_STEP):
            self.budget = _budget_of(self.config)
        signals = ("cold_threshold", "tail_quantile", "uncertainty")
        if self.config.gate != before.gate and not isinstance(self.config.gate, str):
            self.gate = gate.to(self._device)  # a gate of the user's own may have other settings
        elif type(gate) is not type(self.gate) or any(getattr(before, k) != getattr(self.config, k) for k in signals):
            self.gate = gate.to(self._device)

    def _checked(self, config: SelectiveConfig) -> tuple[SelectiveConfig, Gate]:
        check_gate(config, self.table, self.features.regression)
        has_probes, has_students = len(self.table.probes) > 0, self.table.has_students
        return config, build_gate(
            config.gate if config.gated else "none", has_probes=has_probes, has_students=has_students
        )

    def set_counts(
        self,
        *,
        history_length: Mapping[Any, int] | pd.Series | None = None,
        popularity: Mapping[Any, int] | pd.Series | None = None,
    ) -> None:
        """Give the counts behind the cold-start and long-tail signals instead of taking them from the training rows.

        Use it when the rows handed to `fit` are not the whole history, for instance after downsampling.

        Parameters
        ----------
        history_length : mapping or pandas.Series, optional
            Raw user id -> number of past positives. Users not named count 0.
        popularity : mapping or pandas.Series, optional
            Raw item id -> number of past positives. Items not named are left out of the long-tail quantile.
        """
        if history_length is not None:
            self.history_length = self._counts(history_length, self.features.n_users, 0, self.user_index, "user_id")
        if popularity is not None:
            self.popularity = self._counts(popularity, self.features.n_items, -1, self.item_index, "item_id")
        _, gate = self._checked(self.config)  # the signals that the old gate was fitted on have changed
        self.gate = gate.to(self._device)

    def set_ensemble(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Give the checkpoints whose variance is the uncertainty with ``uncertainty="ensemble"``.

        Parameters
        ----------
        checkpoints : sequence of state_dict or path
            At least two of this model, for instance its epochs or the same training with other seeds: ``state_dict``
            objects, ``.safetensors`` files, or files of ``torch.save(model.state_dict(), path)``. Every training
            step scores its pairs with each of them.

        Raises
        ------
        SLLMRError
            If there are fewer than two, one cannot be read, or one is of another model.
        """
        states = read_checkpoints(checkpoints, self.shapes)
        self.checkpoints = [{key: value.to(self._device) for key, value in state.items()} for state in states]

    @staticmethod
    def _counts(counts: Mapping | pd.Series, size: int, missing: int, index: IdIndex | None, what: str) -> Tensor:
        series = pd.Series(counts)
        if not pd.api.types.is_numeric_dtype(series.dtype) or series.isna().any() or (series < 0).any():
            raise SLLMRError(f"set_counts: counts by {what} must be numbers of at least 0, none missing. Correct them.")
        codes = encode_ids(series.index.to_series(), index, what=what)
        inside = (codes >= 0) & (codes < size)
        if not inside.any():
            raise SLLMRError(f"set_counts: not one {what} is known to the model. Pass raw ids as in the score table.")
        result = np.full(size, missing, dtype=np.int64)
        result[codes[inside]] = series.to_numpy()[inside]
        return torch.from_numpy(result)

    def usable(self, training: TrainingRows) -> Usable:
        """Return what of the score table these training rows can use, see `usable_scores`; note the account of it."""
        self.training = {}
        usable = usable_scores(
            self.table,
            training,
            self.features,
            self.config,
            item_values=self.item_values,
            history_length=self.history_length,
            popularity=self.popularity,
        )
        self.training = usable.account
        return usable

    def status(self) -> Status:
        """Return what the regularizer is set to do and has done."""
        return Status(
            model=self.model_name,
            enabled=self.enabled,
            config=self.config,
            table=self.table.coverage,
            gate=type(self.gate).__name__,
            calibrated=self.gate.calibrated,
            gate_coefficients=self.gate.coefficients(),
            training=dict(self.training),
            epochs=[dict(logs) for logs in self.epochs],
            loader=self.loader,
            l2=self.l2,
            step_budget="" if self.budget is None else str(self.budget),
        )

    def save(self, directory: str | Path) -> None:
        """Write settings, gate, table and the recipe of `wrap` into a folder, to stand beside the model's weights.

        `sllmr_plugin.load` puts them on a model again. Settings are YAML, the recipe is JSON, arrays are safetensors;
        of a table in a folder of its own, only the path is kept. The checkpoints of `set_ensemble` are not.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.to_yaml(folder / _CONFIG_FILE)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.gate.state_dict().items()}
        # Without its memory a gate that goes on training would close on its own success, see GateFitter.refit.
        tensors |= {_KEYS: self.disagreements.keys, _SEEN: self.disagreements.seen}
        metadata = {"gate": type(self.gate).__name__, "calibrated": str(self.gate.calibrated)}
        metadata[_BUDGET] = "" if self.budget is None else self.budget.to_json()
        safetensors.torch.save_file(tensors, folder / _GATE_FILE, metadata=metadata)
        counts = {"history_length": self.history_length, "popularity": self.popularity}
        Recipe(
            self.model_name,
            self.features,
            self.task,
            self.table,
            self.item_values,
            {name: value for name, value in counts.items() if value is not None},
            self.n_fits,
        ).write(folder)

    def load(self, directory: str | Path) -> None:
        """Read settings and gate back from a folder written by `save`.

        Raises
        ------
        SLLMRError
            If a file is missing or the gate is of another kind than the settings say.
        """
        folder = Path(directory)
        for name in (_CONFIG_FILE, _GATE_FILE):
            if not (folder / name).exists():
                raise SLLMRError(f"{folder / name}: no such file. Give a folder written by model.sllmr.save().")
        config, gate = self._checked(SelectiveConfig.from_yaml(folder / _CONFIG_FILE))
        with safetensors.safe_open(folder / _GATE_FILE, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if metadata.get("gate") != type(gate).__name__:
            raise SLLMRError(
                f"{folder / _GATE_FILE} holds a {metadata.get('gate')}, the settings and this score table make a "
                f"{type(gate).__name__}. Use the score table it was trained with, or set gate= explicitly."
            )
        memory = DisagreementMemory(tensors.pop(_KEYS), tensors.pop(_SEEN))
        if {name: value.shape for name, value in gate.state_dict().items()} != {n: t.shape for n, t in tensors.items()}:
            raise SLLMRError(
                f"{folder / _GATE_FILE} holds a gate of other signals: of a table with a student's scores where this "
                "one has none, or the other way round. Use the score table it was trained with."
            )
        self.disagreements = memory
        gate.load_state_dict(tensors)
        gate.calibrated = metadata.get("calibrated") == "True"
        self.config, self.gate = config, gate.to(self._device)
        self.budget = _budget_of(config)
        if self.budget is not None:
            self.budget.restore(metadata.get(_BUDGET, ""))

    def __repr__(self) -> str:
        """Return what `status` prints."""
        return str(self.status())

    def to_device(self, change: Callable[[Tensor], Tensor]) -> None:
        """Follow ``model.to()`` and the like: `change` is what ``nn.Module._apply`` hands to every tensor."""
        self._device = change(torch.empty(0)).device
        self.gate.to(self._device)
        self.checkpoints = [{key: value.to(self._device) for key, value in state.items()} for state in self.checkpoints]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the running training out of copies and files: its tensors belong to one call of `fit`."""
        return {**self.__dict__, "session": None}
