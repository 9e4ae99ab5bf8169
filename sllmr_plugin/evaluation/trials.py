"""What tuning tries: the search space and its trials."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..config import SelectiveConfig
from ..errors import ConfigError
from ..handle import check_gate
from ..regularizer.gates import GATES, resolve_gate
from ..regularizer.losses import LOSSES, PairLoss
from ..regularizer.uncertainty import UNCERTAINTIES
from ..scores.table import ScoreTable

_WEIGHTS = (0.05, 0.1, 0.2, 0.4, 0.8)
SCALES = (0.1, 0.3, 0.5)
"""Values of `Start.scale` that are tried."""
_Recipe = tuple[SelectiveConfig, tuple[str, ...], float | None]  # config, parts, scale


@dataclass(frozen=True)
class SearchSpace:
    """A small grid of configs; `of` makes the one that fits a score table.

    Attributes
    ----------
    gates : tuple of str
        Gates of `SelectiveConfig`; the default one first.
    uncertainties : tuple of str
        The default first; gates that look at no uncertainty are tried with that one only.
    weights : tuple of float
        Values of lambda.
    margins : tuple of (float or None)
        None is the default of the loss.
    held : dict of str to Any
        Fields that are the same in all configs.
    parts : tuple of str, default=()
        Keys of `PARTS` that all trials but that of the plain model have.
    scales : tuple of float, default=()
        Values of `Start.scale`, the default first; empty where no part reads it.
    """

    gates: tuple[Any, ...]
    uncertainties: tuple[Any, ...]
    weights: tuple[float, ...]
    margins: tuple[float | None, ...]
    held: dict[str, Any]
    parts: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        scores: ScoreTable,
        held: Mapping[str, Any],
        *,
        dropout: float = 0.0,
        parts: Sequence[str] = (),
        scales: Sequence[float] = (),
    ) -> SearchSpace:
        """Return the space for a score table and a backbone.

        Parameters
        ----------
        scores : ScoreTable
            Gates that are fitted on probes are in the space if it has some.
        held : mapping of str to Any
            Fields of `SelectiveConfig`. Of the four settings that are searched, those named
            here are held at the value given.
        dropout : float, default=0.0
            Dropout rate of the backbone; MC-dropout is in the space if there is one.
        parts, scales : sequence, default=()
            As of the attributes.

        Raises
        ------
        ConfigError
            If a field is not valid, cannot be used here or leaves nothing to tune.
        SLLMRError
            If the held gate needs probes and the table has none.
        """
        if "mode" in held:
            raise ConfigError("mode is what tuning chooses; leave it out and hold for instance gate instead.")
        default = SelectiveConfig.from_dict(held)
        kind = LOSSES.class_of(default.loss)
        if not issubclass(kind, PairLoss):
            raise ConfigError(f"loss={default.loss!r} has no gate and no margin to tune; hold a loss of pairs.")
        check_gate(default, scores, regression=False)
        if not default.active:
            raise ConfigError("weight=0 is the plain model, which leaves nothing to tune; give a weight above 0.")
        opinions = UNCERTAINTIES.class_of(default.uncertainty).source
        if opinions == "checkpoints":
            raise ConfigError(
                f"uncertainty={default.uncertainty!r} needs checkpoints, which tuning does not have; leave it out."
            )
        if opinions == "dropout" and not dropout:
            raise ConfigError(
                f"uncertainty={default.uncertainty!r} needs a backbone with dropout; give a rate, for instance 0.1."
            )
        has_probes = len(scores.probes) > 0
        usual = resolve_gate(default.gate, has_probes=has_probes)
        gates = [usual]
        if "gate" not in held:
            usable = [name for name, gate in GATES.items() if gate.tuned and (has_probes or not gate.needs_probes)]
            gates += [name for name in usable if name != usual]
        # A search has no checkpoints of trained models.
        sources = ("probability", "dropout") if dropout else ("probability",)
        uncertainties = tuple(name for name, measure in UNCERTAINTIES.items() if measure.source in sources)
        return cls(
            gates=tuple(gates),
            uncertainties=(default.uncertainty,) if "uncertainty" in held else uncertainties,
            weights=(default.weight,) if "weight" in held else _WEIGHTS,
            margins=(default.margin,) if "margin" in held else kind.tuned_margins[default.score_space],
            held=dict(held),
            parts=tuple(parts),
            scales=tuple(scales),
        )

    def trials(self, number: int, seed: int) -> list[Trial]:
        """Return the first `number` trials to make, or all if there are fewer; without runs.

        The plain model and the default config come first, and where there are parts these alone, so that every search
        says what tuning gained. The others follow in an order that depends on `seed` alone: a longer search begins with
        the shorter one.
        """
        plain = SelectiveConfig.of_mode("none", self.held)
        default = self._config(self.gates[0], self.uncertainties[0], SelectiveConfig().weight, None)
        scales = self.scales or (None,)
        first: list[_Recipe] = [(plain, (), None), (default, self.parts, scales[0])]
        grid: list[_Recipe] = [(config, self.parts, scale) for config in self._grid() for scale in scales]
        if self.parts:
            first.append((plain, self.parts, scales[0]))
            grid += [(plain, self.parts, scale) for scale in scales]
        others = [recipe for recipe in grid if recipe not in first]
        order = np.random.default_rng(seed).permutation(len(others))
        chosen = [*first, *(others[place] for place in order)][:number]
        return [Trial(place, config, (), parts, scale) for place, (config, parts, scale) in enumerate(chosen)]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; parts and scales where there are some."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("parts", "scales")}

    def _grid(self) -> list[SelectiveConfig]:
        return [
            self._config(gate, uncertainty, weight, margin)
            for gate, uncertainty, weight, margin in itertools.product(
                self.gates, self.uncertainties, self.weights, self.margins
            )
            if uncertainty == self.uncertainties[0] or GATES.class_of(gate).uses_uncertainty
        ]

    def _config(self, gate: Any, uncertainty: str, weight: float, margin: float | None) -> SelectiveConfig:
        searched = {"uncertainty": uncertainty, "weight": weight, "margin": margin}
        return SelectiveConfig.from_dict({**searched, **self.held, "gate": gate})


def gate_name(config: SelectiveConfig) -> str:
    """Return ``plain``, ``open`` for gate ``none``, or what a config's gate is called."""
    if not config.active:
        return "plain"
    if not isinstance(config.gate, str):
        return GATES.class_of(config.gate).__name__
    return "open" if config.gate == "none" else config.gate


def describe(config: SelectiveConfig) -> str:
    """Return the settings that are searched, in a line.

    Examples
    --------
    >>> describe(SelectiveConfig(gate="disagreement"))
    'disagreement, confidence, weight 0.1, margin 0'
    """
    if not config.active:
        return "plain"
    uncertainty = f", {config.uncertainty}" if uses_uncertainty(config) else ""
    return f"{gate_name(config)}{uncertainty}, weight {config.weight:g}, margin {config.resolved_margin:g}"


def uses_uncertainty(config: SelectiveConfig) -> bool:
    """Whether a config's gate looks at the backbone's uncertainty."""
    return config.active and GATES.class_of(config.gate).uses_uncertainty


@dataclass(frozen=True)
class TrialRun:
    """One training of a trial.

    Attributes
    ----------
    seed : int
        Of the weights and of everything random in training.
    auc : float
        Validation AUC of the kept epoch.
    epoch : int
        The epoch that was kept, counted from 1.
    seconds : float
        Time in ``fit``.
    """

    seed: int
    auc: float
    epoch: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One config, trained with one or more seeds.

    Attributes
    ----------
    number : int
        Place in the search; 0 is the plain model, 1 the default config.
    config : SelectiveConfig
        What was tried.
    runs : tuple of TrialRun
        By seed.
    parts : tuple of str, default=()
        Keys of `PARTS`: what vectors do to the model beside the config.
    scale : float or None, default=None
        `Start.scale`; None where no part reads it.
    """

    number: int
    config: SelectiveConfig
    runs: tuple[TrialRun, ...] = ()
    parts: tuple[str, ...] = ()
    scale: float | None = None

    @property
    def start(self) -> str:
        """Parts and scale in a word or two; empty without parts."""
        return "+".join(self.parts) + (f" {self.scale:g}" if self.scale is not None else "")

    @property
    def mode(self) -> str:
        """Name of the row in a comparison, for instance ``init+gated``."""
        return "+".join([*self.parts, *([self.config.row] if self.config.active or not self.parts else [])])

    def __str__(self) -> str:
        return ", ".join([*([self.start] if self.parts else []), describe(self.config)])

    @property
    def auc(self) -> float:
        """Mean validation AUC over seeds."""
        return float(np.mean([run.auc for run in self.runs]))

    @property
    def auc_sd(self) -> float | None:
        """Standard deviation over seeds, n - 1 in the denominator; None with one seed."""
        return _deviation([run.auc for run in self.runs])

    def minus(self, other: Trial) -> tuple[float, float | None]:
        """Return the mean difference in validation AUC to a trial of the same seeds, and its deviation over them."""
        pairs = zip(self.runs, other.runs, strict=True)
        differences = [mine.auc - theirs.auc for mine, theirs in pairs]
        return float(np.mean(differences)), _deviation(differences)


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
