"""`SelectiveConfig`: everything that decides what the regularizer does, in one validated object."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from .errors import ConfigError
from .regularizer.gates import GATES, Gate, OpenGate
from .regularizer.loss import SelectiveLoss
from .regularizer.losses import LOSSES, Distillation, Loss, PairLoss
from .regularizer.pairs import PAIR_RULES, PairRule, PairScope
from .regularizer.uncertainty import UNCERTAINTIES, Uncertainty
from .scores.normalise import ScoreNorm
from .settings import Bounds, Settings

MODES: dict[str, dict[str, Any]] = {
    "none": {"weight": 0.0},
    "global": {"gate": "none"},
    "pointwise_mse": {"loss": "mse", "gate": "none"},
    "pointwise_bce": {"loss": "bce", "gate": "none"},
    "kd": {"loss": "kd", "gate": "none"},
    "joint": {"gate": "joint"},
    "gated": {},
}
"""Rows of a comparison by name -> the fields that make them; `SelectiveConfig.of_mode` takes them."""

_BATCH_ROWS_PER_USER, _MOST_USERS_BY_DEFAULT = 16, 16


@dataclass(frozen=True, kw_only=True)
class SelectiveConfig(Settings):
    """What the regularizer adds to the training loss, and where.

    Section and equation numbers refer to the S-LLMR paper (Shi and Yang, WSDM Companion 2026).

    Parameters
    ----------
    loss : {"ranknet", "hinge", "mse", "bce", "kd", "rank_kd"}, class or Loss, default="ranknet"
        The loss that follows the LLM. On a pair with score difference d, ``ranknet`` is ``softplus(margin - d)`` and
        ``hinge`` ``max(0, margin - d)`` (Sec. 3.2). The others look at single items: ``mse`` and ``bce`` pull every
        scored probability towards the LLM's score, ``kd`` distils the LLM's soft logits (Hinton et al., 2015), the
        paper's baseline "KD", ``rank_kd`` raises the scores of the items that the LLM puts first (Cui et al., 2024). A
        `PairLoss` or `PointwiseLoss` of your own is accepted as well.
    gate : {"auto", "none", "disagreement", "fixed", "budget", "bilevel", "joint"}, class or Gate, default="auto"
        Where the LLM is followed. ``none`` follows it everywhere (alpha = 1). ``disagreement`` estimates
        P(LLM right | LLM and backbone disagree) on the table's probes, again in each epoch; ``bilevel`` opens for pairs
        whose step lowers the loss on the probes; ``joint`` is the gate of the paper's Algorithm 1, which is trained by
        descent on the loss that it multiplies and can therefore only close; ``budget`` is the same with its mean alpha
        held at one half; ``fixed`` opens for cold users and long-tail items. ``auto`` is ``disagreement`` where the
        table has probes, else ``fixed``, and ``none`` for the losses of single items, which have no pairs to weight.
    weight : float, default=0.1
        Lambda, the strength of the regularizer. 0 trains the plain model, bit for bit. Twice as much gains no more
        where the scores help, and costs more where they do not (docs/benchmarks.md).
    weight_scale : {"batch_mean", "pair_sum"}, default="batch_mean"
        ``batch_mean`` adds ``weight * batch_rows * mean over pairs``, so that `weight` means the same
        at every batch size and number of pairs: the loss of a pair relative to the loss of a row.
        ``pair_sum`` adds ``weight * sum over pairs``, as printed in the paper. Both are added to a loss that is a
        sum over rows, as in DeepCTR-Torch. Where it is a mean (FuxiCTR), they are divided by the rows of the batch.
    score_space : {"logit", "probability"}, default="logit"
        Which scores are subtracted. On probabilities the gradient vanishes for items that the model scores
        near 0 or 1; on logits it does not.
    score_norm : {"none", "rank", "minmax"}, default="none"
        Whether each user's LLM scores, candidates and probes together, are put on a scale of their own before anything
        looks at them, pairs, gate and pointwise losses alike (Sec. 4.3, "Returned scores are normalised"). ``rank``
        takes the share of the user's other scores that are lower, ``minmax`` ``(t - min) / (max - min)``; a user whose
        scores are all equal gets 0.5 for each. Neither changes the order of a user's items, so all pairs stay; the gaps
        change, and with them which pairs are largest, the gate's signal of the gap, and what ``mse``, ``bce`` and
        ``kd`` aim at. `margin` is one of the model's scores and stays.
    margin : float or None, default=None
        None takes 0 for RankNet and, for the hinge, 1 on logits and 0.1 on probabilities.
    users_per_step : int or None, default=None
        Users whose pairs are formed in a training step. None takes one for every 16 rows of the batch, at most 16:
        more gain nothing (docs/benchmarks.md). Each adds the rows of the items in its pairs, between 4 and 6 of them
        with the other defaults.
    step_budget : float or None, default=None
        Time that a training step may take, of one without extra rows: 1.1 allows a tenth more. Decides the users of a
        step in the place of `users_per_step`, from the time that the first steps of a training take (`StepBudget`):
        at most as many as without it. With the same seed another machine, or another load, can lead to another number;
        ``model.sllmr.status()`` has it, and `save` keeps it.
    every_steps : int, default=1
        k of pairs in every k-th step alone, with k times the weight, from the first step of an epoch on: the steps in
        between are the plain model's, in its time. Whether it gains as much is for validation to say.
    candidates_per_user : int, default=10
        Scored items of each of them among which pairs are formed, drawn again in every step where the table
        holds more. Only items in a pair become input rows.
    pairs_per_user : int, default=4
        The most pairs formed of a user in a step; fewer where the user has fewer. 1 halves the extra rows;
        docs/benchmarks.md has what that costs.
    pair_scope : {"user", "batch"}, default="user"
        Whether each user's pairs are chosen among, or those of all users of the step together, as in the paper (Sec.
        3.2, adaptive selection): then a step takes K~ = min(K, pairs there are, `pairs_per_user` times the users who
        have any), at least one if there is one. Users whose scores are far apart then take the place of others;
        `score_norm` makes users comparable.
        With `in_batch_pairs` the pairs among the batch's rows are counted apart.
    pairs_per_step : int or None, default=None
        K of ``pair_scope="batch"``; None does not limit the step any further.
    pair_rule : {"largest", "gap_weighted", "uniform"}, class or PairRule, default="largest"
        Which pairs are taken when there are more: those of largest score gap (the paper's rule), at
        random with a chance proportional to the gap, or at random. As ``largest`` chooses among
        items drawn again, it does not take the same extremes every time, unless `candidates_per_user` is
        as large as the table's share of a user.
    user_source : {"table", "batch"}, default="table"
        Draw the users uniformly from the score table, or take those of the batch. Cold users are rare in batches.
    in_batch_pairs : bool, default=False
        Also form pairs among rows of the batch that belong to the same user and have scores.
    probe_weights : {"catalogue", "none"}, default="catalogue"
        Whether a probe pair counts, when a gate is fitted, by how common items as popular as its candidate are in the
        catalogue, compared with the candidates that were scored (`CandidateMatch`), or all count alike. Full ranking
        compares with the whole catalogue, and a judge of popular items need not be one of the others.
    uncertainty : {"confidence", "entropy", "mc_dropout", "ensemble"}, class or Uncertainty, default="confidence"
        The backbone's own uncertainty q in [0, 1] (Sec. 3.3); ``ensemble`` is the variance over the checkpoints
        given to ``model.sllmr.set_ensemble``.
    mc_samples : int, default=8
        Forward passes of MC-dropout.
    cold_threshold : int, default=3
        tau_u: a user with fewer training positives is cold.
    tail_quantile : float, default=0.2
        An item is long-tail when its number of training positives is at most the popularity that this
        share of the items does not exceed; all ties are included.
    warmup_epochs : int, default=0
        Epochs at the start that train the plain model.
    decay : float, default=1.0
        The weight is multiplied by this after every epoch that used it.
    kd_temperature : float, default=2.0
        T of ``loss="kd"``: both logits are divided by it. Higher ones soften the LLM's scores, so that how far they
        are from 0 and 1 counts for less; 1 is ``bce`` except for the clipping of scores near 0 and 1.
    seed : int or None, default=None
        Seed of the drawing of users, candidates and pairs, kept apart from torch's global generator. None takes
        ``torch.initial_seed()``, so ``torch.manual_seed`` (which DeepCTR-Torch's models call) decides.

    Raises
    ------
    ConfigError
        Naming every field that is out of range.

    Notes
    -----
    ``mode=`` of earlier versions is read with a `DeprecationWarning`: `MODES` has the fields that stand for it. As an
    attribute it is `row`.

    Examples
    --------
    >>> SelectiveConfig(gate="none", loss="hinge").resolved_margin
    1.0
    """

    loss: Annotated[str | type[Loss] | Loss, LOSSES] = "ranknet"
    gate: Annotated[str | type[Gate] | Gate, GATES] = "auto"
    weight: Annotated[float, Bounds(least=0)] = 0.1
    weight_scale: Literal["batch_mean", "pair_sum"] = "batch_mean"
    score_space: Literal["logit", "probability"] = "logit"
    score_norm: ScoreNorm = "none"
    margin: Annotated[float, Bounds(least=0)] | None = None
    users_per_step: Annotated[int, Bounds(least=1)] | None = None
    step_budget: Annotated[float, Bounds(above=1)] | None = None
    every_steps: Annotated[int, Bounds(least=1)] = 1
    candidates_per_user: Annotated[int, Bounds(least=2)] = 10
    pairs_per_user: Annotated[int, Bounds(least=1)] = 4
    pair_scope: PairScope = "user"
    pairs_per_step: Annotated[int, Bounds(least=1)] | None = None
    pair_rule: Annotated[str | type[PairRule] | PairRule, PAIR_RULES] = "largest"
    user_source: Literal["table", "batch"] = "table"
    in_batch_pairs: bool = False
    probe_weights: Literal["catalogue", "none"] = "catalogue"
    uncertainty: Annotated[str | type[Uncertainty] | Uncertainty, UNCERTAINTIES] = "confidence"
    mc_samples: Annotated[int, Bounds(least=2)] = 8
    cold_threshold: Annotated[int, Bounds(least=0)] = 3
    tail_quantile: Annotated[float, Bounds(least=0, most=1)] = 0.2
    warmup_epochs: Annotated[int, Bounds(least=0)] = 0
    decay: Annotated[float, Bounds(above=0, most=1)] = 1.0
    kd_temperature: Annotated[float, Bounds(above=0)] = 2.0
    seed: Annotated[int, Bounds(least=0)] | None = None
    mode: InitVar[str | None] = None

    def __post_init__(self, mode: str | None) -> None:
        """Check the fields, those that a deprecated `mode` decides among them."""
        if mode is not None:
            fields = _without_mode({**self.to_dict(), "mode": mode}, "SelectiveConfig")[1]
            for name, value in SelectiveConfig.of_mode(mode, fields).to_dict().items():
                object.__setattr__(self, name, value)
        super().__post_init__()

    def problems(self) -> list[str]:
        """Return what is wrong with fields that fit one by one."""
        found = []
        if self.pairs_per_step is not None and self.pair_scope == "user":
            found.append(f"pairs_per_step={self.pairs_per_step} limits all users together: use pair_scope='batch'")
        if self.step_budget is not None and self.users_per_step is not None:
            found.append(
                f"step_budget={self.step_budget:g} and users_per_step={self.users_per_step} both decide the users of a "
                "step: leave one out"
            )
        if self.step_budget is not None and self.every_steps > 1:
            found.append(
                f"step_budget={self.step_budget:g} asks what a step costs, and every_steps={self.every_steps} leaves "
                "some without pairs: leave one out"
            )
        if self.step_budget is not None and self.user_source == "batch":
            found.append(
                f"step_budget={self.step_budget:g} decides how many users are drawn, and user_source='batch' takes "
                "those that the batch has: use user_source='table'"
            )
        if not (self.pairwise or self.gate == "auto" or self._is_open):
            found.append(
                f"gate={self.gate!r} weighs pairs, and loss={self.loss!r} looks at single items: use gate='none', or a "
                "loss of pairs such as 'ranknet'"
            )
        return found

    @property
    def active(self) -> bool:
        """Whether training differs from the plain model's at all."""
        return self.weight > 0

    @property
    def pairwise(self) -> bool:
        """Whether the loss works on ordered pairs rather than on single scores."""
        return LOSSES.class_of(self.loss).pairwise

    @property
    def gated(self) -> bool:
        """Whether pairs are weighed at all."""
        return self.pairwise and not self._is_open

    @property
    def _is_open(self) -> bool:
        """Whether the gate is none, by name or as an object."""
        return self.gate == "none" or isinstance(self.gate, OpenGate)

    @property
    def row(self) -> str:
        """Name of the row that the fields make in a comparison: of `MODES`, or that of a pointwise loss of your own."""
        if not self.active:
            return "none"
        if not self.pairwise:
            loss = self.loss if isinstance(self.loss, str) else _label(self.loss)
            return {"mse": "pointwise_mse", "bce": "pointwise_bce"}.get(loss, loss)
        if self._is_open:
            return "global"
        return "joint" if self.gate == "joint" else "gated"

    @property
    def resolved_margin(self) -> float:
        """The margin with its default filled in; 0 for a loss of single items."""
        kind = LOSSES.class_of(self.loss)
        if not issubclass(kind, PairLoss):
            return 0.0
        return float(self.margin if self.margin is not None else kind.default_margin[self.score_space])

    def build(self, gate: Gate) -> SelectiveLoss:
        """Return the loss that the fields describe, with a gate that lives longer than it."""
        loss = Distillation(self.kd_temperature) if self.loss == "kd" else self.loss
        return SelectiveLoss(
            loss=loss,
            gate=gate,
            margin=self.resolved_margin,
            score_space=self.score_space,
            pairs_per_user=self.pairs_per_user,
            pair_rule=self.pair_rule,
            pair_scope=self.pair_scope,
            pairs_per_step=self.pairs_per_step,
        )

    def users_in_step(self, batch_rows: int) -> int:
        """Return how many users a step draws."""
        return self.users_per_step or min(max(1, batch_rows // _BATCH_ROWS_PER_USER), _MOST_USERS_BY_DEFAULT)

    def weight_at(self, epoch: int) -> float:
        """Lambda of an epoch (counted from 0) after warm-up and decay."""
        if not self.active or epoch < self.warmup_epochs:
            return 0.0
        return float(self.weight) * self.decay ** (epoch - self.warmup_epochs)

    def replace(self, **changes: Any) -> SelectiveConfig:
        """Return a copy with some fields changed, validated again."""
        return self.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary; a gate or loss of your own stays an object."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def of_mode(cls, mode: str, fields: Mapping[str, Any] | None = None) -> SelectiveConfig:
        """Return the config of a row of a comparison.

        Parameters
        ----------
        mode : str
            A key of `MODES`.
        fields : mapping of str to Any, optional
            All other fields; those that `mode` decides are overridden.

        Raises
        ------
        ConfigError
            If there is no such mode, a field is not valid, or the fields belong to another one.

        Examples
        --------
        >>> SelectiveConfig.of_mode("kd", {"weight": 0.5})
        SelectiveConfig(loss='kd', gate='none', weight=0.5)
        """
        if mode not in MODES:
            raise ConfigError(f"mode={mode!r} is not one of {', '.join(map(repr, MODES))}. Take one of these.")
        config = cls.from_dict({**(fields or {}), **MODES[mode]})
        is_pairwise = "loss" not in MODES[mode]
        if mode != "none" and is_pairwise and (not config.pairwise or (mode == "gated" and config._is_open)):
            raise ConfigError(
                f"loss={config.loss!r} and gate={config.gate!r} do not belong to mode={mode!r}. Leave them out, or "
                f"take the mode {config.row!r}."
            )
        return config

    def __repr__(self) -> str:
        changed = [
            f"{field.name}={value!r}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not field.default and value != field.default
        ]
        return f"SelectiveConfig({', '.join(changed)})"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "SelectiveConfig") -> SelectiveConfig:
        """Build a config from a mapping.

        Parameters
        ----------
        values : mapping of str to Any
            Field names and values; missing fields take their defaults.
        source : str, optional
            Named in error messages, for instance the file the mapping was read from.

        Raises
        ------
        ConfigError
            If a key is unknown (the nearest valid one is named) or a value is out of range.
        """
        if "mode" in values:
            return cls.of_mode(*_without_mode(values, source))
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"valid keys are {', '.join(names)}."
                raise ConfigError(f"{source}: unknown key {key!r}; {hint}")
        return cls(**values)

    def to_yaml(self, path: str | Path) -> None:
        """Write the fields to a YAML file.

        Raises
        ------
        ConfigError
            If a gate, a loss or the like is an object, which a file cannot hold.
        """
        values = self.to_dict()
        objects = [
            f"{name}={value!r}" for name, value in values.items() if not isinstance(value, str | int | float | None)
        ]
        if objects:
            raise ConfigError(
                f"{path}: {', '.join(objects)} cannot be written to a file. Give its class a name, as in "
                "`class MyGate(Gate, name='mine')`, and choose it by that name."
            )
        Path(path).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    @classmethod
    def from_yaml(cls, path: str | Path) -> SelectiveConfig:
        """Read a config from a YAML file as written by `to_yaml`.

        Raises
        ------
        ConfigError
            If the file is not a YAML mapping of valid fields.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file. Give the path of a file written by to_yaml.") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML ({error}). Correct the file.") from None
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: expected `field: value` lines, got {type(values).__name__}. Correct the file.")
        return cls.from_dict(values, source=str(path))


def _label(choice: Any) -> str:
    return choice.name or (choice.__name__ if isinstance(choice, type) else type(choice).__name__)


def _without_mode(values: Mapping[str, Any], source: str) -> tuple[str, dict[str, Any]]:
    """Return the deprecated field ``mode`` and the others, with a warning that names what to write."""
    fields = dict(values)
    mode = fields.pop("mode")
    if mode in ("gated", "global", "joint"):  # fields that earlier versions did not have may be left from another mode
        if fields.get("gate") == "none":
            del fields["gate"]
        if fields.get("loss") in ("mse", "bce", "kd"):
            del fields["loss"]
    instead = " and ".join(f"{name}={value!r}" for name, value in MODES.get(mode, {}).items())
    warnings.warn(
        f"{source}: mode={mode!r} is deprecated; " + (f"write {instead}." if instead else "leave it out."),
        DeprecationWarning,
        stacklevel=4,
    )
    return mode, fields


# As an attribute the deprecated argument would be None, its default, regardless of the fields.
SelectiveConfig.mode = SelectiveConfig.row  # type: ignore[attr-defined]
