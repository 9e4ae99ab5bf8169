"""`SelectiveConfig`: everything that decides what the regularizer does, in one validated object."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .errors import ConfigError

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
_MISFIT = object()


def as_type(value: Any, wanted: Any) -> Any:
    """Return a value as the type wants it.

    Nothing is converted that could hide a slip: text never becomes a number, nor a number text.

    Parameters
    ----------
    value : Any
        As a YAML file has it.
    wanted : type
        ``bool``, ``int``, ``float``, ``str``, ``Any``, ``tuple[T, ...]``, ``Mapping[str, T]``, or a union of these
        and None.

    Returns
    -------
    Any
        The value; a whole number as a float where a number is wanted, a list as a tuple.

    Raises
    ------
    ConfigError
        Saying what the value is, what is wanted, and how to write it. It begins with the value, to be put behind
        the name of a key.

    Examples
    --------
    >>> as_type([256, 128], tuple[int, ...])
    (256, 128)
    """
    for option in _options(wanted):
        fitted = _fit_one(value, option)
        if fitted is not _MISFIT:
            return fitted
    words = " or ".join(map(_words, _options(wanted)))
    raise ConfigError(f"{value!r} is {_kind(value)}, but {words} is wanted; {_remedy(value, wanted, words)}")


def type_like(default: Any) -> Any:
    """Return the type of values that may stand in for a default.

    A default of 0 is taken for a number of any kind: rates that are off by default are written so.

    Examples
    --------
    >>> type_like((256, 128)), type_like(0), type_like(2)
    (tuple[int, ...], <class 'float'>, <class 'int'>)
    """
    if isinstance(default, (tuple, list)) and default:
        return tuple[type_like(default[0]), ...]  # type: ignore[misc]
    if isinstance(default, bool) or default != 0:
        return type(default)
    return float


def _options(wanted: Any) -> tuple[Any, ...]:
    return typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else (wanted,)


def _fit_one(value: Any, wanted: Any) -> Any:
    if wanted is Any:
        return value
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is tuple:
        parts = [_fit_one(part, inner[0]) for part in value] if isinstance(value, (list, tuple)) else [_MISFIT]
        return _MISFIT if any(part is _MISFIT for part in parts) else tuple(parts)
    if origin is not None:  # a mapping
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            return _MISFIT
        fitted = {key: _fit_one(part, inner[1]) for key, part in value.items()}
        return _MISFIT if any(part is _MISFIT for part in fitted.values()) else fitted
    if wanted is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if is_number else _MISFIT
    return value if type(value) is wanted else _MISFIT  # type, not isinstance: True is no number


def _words(wanted: Any) -> str:
    inner = typing.get_args(wanted)
    if typing.get_origin(wanted) is tuple:
        return {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}[inner[0]]
    return _WORDS.get(wanted, "a mapping of names")


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "no finite number"
    return _WORDS.get(type(value), "a list" if isinstance(value, (list, tuple)) else "a mapping")


def _remedy(value: Any, wanted: Any, words: str) -> str:
    options = _options(wanted)
    if isinstance(value, str) and type(None) in options and value.lower() == "none":
        return "write null."
    if isinstance(value, str) and _reads_as_number(value) and {int, float} & set(options):
        return f"write {value.strip()} without quotes."
    if str in options and not isinstance(value, (list, tuple, Mapping)):
        return f'put it in quotes ("{value}").'
    return f"write {words.removesuffix(' or null')}."


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


MODES = ("none", "global", "pointwise_mse", "pointwise_bce", "kd", "joint", "gated")
CHOICES: dict[str, tuple[str, ...]] = {
    "mode": MODES,
    "weight_scale": ("batch_mean", "pair_sum"),
    "loss": ("ranknet", "hinge"),
    "score_space": ("logit", "probability"),
    "user_source": ("table", "batch"),
    "pair_rule": ("largest", "uniform", "gap_weighted"),
    "gate": ("auto", "disagreement", "joint", "budget", "bilevel", "fixed"),
    "uncertainty": ("confidence", "entropy", "mc_dropout", "ensemble"),
}
_BATCH_ROWS_PER_USER, _MOST_USERS_BY_DEFAULT = 4, 64
_LEAST_INTEGER = {
    "candidates_per_user": 2,
    "pairs_per_user": 1,
    "mc_samples": 2,
    "cold_threshold": 0,
    "warmup_epochs": 0,
}


@dataclass(frozen=True)
class SelectiveConfig:
    """What the regularizer adds to the training loss, and where.

    Section and equation numbers refer to the S-LLMR paper (Shi and Yang, WSDM Companion 2026).

    Parameters
    ----------
    mode : {"gated", "global", "joint", "pointwise_mse", "pointwise_bce", "kd", "none"}, default="gated"
        ``gated`` follows the LLM only where `gate` says that it is the better judge; ``global`` follows it
        everywhere (alpha = 1); ``joint`` is the paper's Algorithm 1, whose gate is trained by descent on the
        loss that it multiplies and can therefore only close; the ``pointwise`` modes pull every scored
        probability towards the LLM's score; ``kd`` distils the LLM's soft logits (Hinton et al., 2015), the
        paper's baseline "KD"; ``none`` trains the plain model, bit for bit.
    weight : float, default=0.2
        Lambda, the strength of the regularizer. 0 is the same as ``mode="none"``.
    weight_scale : {"batch_mean", "pair_sum"}, default="batch_mean"
        ``batch_mean`` adds ``weight * batch_rows * mean over pairs``, so that `weight` means the same
        at every batch size and number of pairs: the share of a pair's loss beside a row's loss.
        ``pair_sum`` adds ``weight * sum over pairs``, as the paper prints it. Both stand beside a loss that is a
        sum over rows, DeepCTR-Torch's; beside a mean, FuxiCTR's, what is added is divided by the rows of the batch.
    loss : {"ranknet", "hinge"}, default="ranknet"
        Loss of an ordered pair with score difference d: ``softplus(margin - d)``
        or ``max(0, margin - d)`` (Sec. 3.2).
    score_space : {"logit", "probability"}, default="logit"
        What the difference is taken of. On probabilities the pull fades for items that the model scores
        near 0 or 1; on logits it does not.
    margin : float or None, default=None
        None takes 0 for RankNet and, for the hinge, 1 on logits and 0.1 on probabilities.
    users_per_step : int or None, default=None
        Users whose pairs are formed in a training step. None takes one for every 4 rows of the batch, at most 64.
        Each adds the rows of the items in its pairs, between 4 and 6 of them with the other defaults.
    candidates_per_user : int, default=10
        Scored items of each of them among which pairs are formed, drawn anew in every step where the table
        holds more. Only items in a pair become input rows.
    pairs_per_user : int, default=4
        K, the most pairs formed of a user in a step; fewer where the user has fewer (Sec. 3.2, adaptive
        selection). 1 halves the extra rows; docs/benchmarks.md has what that costs.
    pair_rule : {"largest", "gap_weighted", "uniform"}, default="largest"
        Which pairs are taken when a user has more than K: those of largest score gap (the paper's rule), at
        random with a chance proportional to the gap, or at random. As ``largest`` chooses among
        items drawn anew, it does not take the same extremes every time, unless `candidates_per_user` is
        as large as the table's share of a user.
    user_source : {"table", "batch"}, default="table"
        Draw the users evenly from the score table, or take those of the batch. Cold users are rare in batches.
    in_batch_pairs : bool, default=False
        Also form pairs among rows of the batch that happen to belong to one user and carry scores.
    gate : {"auto", "disagreement", "bilevel", "budget", "joint", "fixed"}, default="auto"
        For ``mode="gated"``. ``disagreement`` estimates P(LLM right | LLM and backbone disagree) on the
        table's probes, anew each epoch; ``bilevel`` opens for pairs whose step lowers the loss on the probes;
        ``budget`` is the paper's gate with its mean alpha held at one half; ``joint`` is the paper's gate, as in
        ``mode="joint"``; ``fixed`` opens for cold users and long-tail items. ``auto`` is ``disagreement`` where
        the table has probes, else ``fixed``.
    uncertainty : {"confidence", "entropy", "mc_dropout", "ensemble"}, default="confidence"
        The backbone's own uncertainty q in [0, 1] (Sec. 3.3); ``ensemble`` is the variance over the checkpoints
        given to ``model.sllmr.set_ensemble``.
    mc_samples : int, default=8
        Forward passes of MC-dropout.
    cold_threshold : int, default=3
        tau_u: a user with fewer training positives is cold.
    tail_quantile : float, default=0.2
        An item is long-tail when its number of training positives is at most the popularity that this
        share of the items does not exceed; ties are all in.
    warmup_epochs : int, default=0
        Epochs at the start that train the plain model.
    decay : float, default=1.0
        The weight is multiplied by this after every epoch that used it.
    kd_temperature : float, default=2.0
        T of ``mode="kd"``: both logits are divided by it. Higher ones soften the LLM's scores, so that how far they
        are from 0 and 1 counts for less; 1 is ``pointwise_bce`` but for the clipping of scores near 0 and 1.
    seed : int or None, default=None
        Seed of the drawing of users, candidates and pairs, kept apart from torch's global generator. None takes
        ``torch.initial_seed()``, so ``torch.manual_seed`` (which DeepCTR-Torch's models call) decides.

    Raises
    ------
    ConfigError
        Naming every field that is out of range.

    Examples
    --------
    >>> SelectiveConfig(mode="global", loss="hinge").resolved_margin
    1.0
    """

    mode: str = "gated"
    weight: float = 0.2
    weight_scale: str = "batch_mean"
    loss: str = "ranknet"
    score_space: str = "logit"
    margin: float | None = None
    users_per_step: int | None = None
    candidates_per_user: int = 10
    pairs_per_user: int = 4
    pair_rule: str = "largest"
    user_source: str = "table"
    in_batch_pairs: bool = False
    gate: str = "auto"
    uncertainty: str = "confidence"
    mc_samples: int = 8
    cold_threshold: int = 3
    tail_quantile: float = 0.2
    warmup_epochs: int = 0
    decay: float = 1.0
    kd_temperature: float = 2.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):  # from a numpy grid; YAML knows Python's own numbers only
                object.__setattr__(self, field.name, value.item())
        problems = [
            f"{name}={getattr(self, name)!r} is none of {', '.join(map(repr, allowed))}"
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        for name, least in _LEAST_INTEGER.items():
            value = getattr(self, name)
            if not _is_integer(value) or value < least:
                problems.append(f"{name}={value!r} must be an integer of at least {least}")
        if not _is_number(self.weight) or self.weight < 0:
            problems.append(f"weight={self.weight!r} must be a number of at least 0")
        if self.margin is not None and (not _is_number(self.margin) or self.margin < 0):
            problems.append(f"margin={self.margin!r} must be None or a number of at least 0")
        if not _is_number(self.tail_quantile) or not 0 <= self.tail_quantile <= 1:
            problems.append(f"tail_quantile={self.tail_quantile!r} must lie in [0, 1]")
        if not _is_number(self.decay) or not 0 < self.decay <= 1:
            problems.append(f"decay={self.decay!r} must lie in (0, 1]")
        if not _is_number(self.kd_temperature) or self.kd_temperature <= 0:
            problems.append(f"kd_temperature={self.kd_temperature!r} must be a positive number")
        if not isinstance(self.in_batch_pairs, bool):
            problems.append(f"in_batch_pairs={self.in_batch_pairs!r} must be True or False")
        users = self.users_per_step
        if users is not None and (not _is_integer(users) or users < 1):
            problems.append(f"users_per_step={users!r} must be None or an integer of at least 1")
        if self.seed is not None and (not _is_integer(self.seed) or self.seed < 0):
            problems.append(f"seed={self.seed!r} must be None or an integer of at least 0")
        if problems:
            raise ConfigError("SelectiveConfig: " + "; ".join(problems) + ". Correct these fields.")

    @property
    def active(self) -> bool:
        """Whether training differs from the plain model's at all."""
        return self.mode != "none" and self.weight > 0

    @property
    def pairwise(self) -> bool:
        """Whether the mode works on ordered pairs rather than on single scores."""
        return self.mode in ("global", "joint", "gated")

    @property
    def resolved_margin(self) -> float:
        """The margin with its default filled in."""
        if self.margin is not None:
            return float(self.margin)
        if self.loss == "ranknet":
            return 0.0
        return 1.0 if self.score_space == "logit" else 0.1

    def users_in_step(self, batch_rows: int) -> int:
        """Return how many users a step draws."""
        return self.users_per_step or min(max(1, batch_rows // _BATCH_ROWS_PER_USER), _MOST_USERS_BY_DEFAULT)

    def weight_at(self, epoch: int) -> float:
        """Lambda of an epoch (counted from 0) after warm-up and decay."""
        if not self.active or epoch < self.warmup_epochs:
            return 0.0
        return float(self.weight) * self.decay ** (epoch - self.warmup_epochs)

    def replace(self, **changes: Any) -> SelectiveConfig:
        """Return a copy with some fields changed, validated anew."""
        return self.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary."""
        return dataclasses.asdict(self)

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
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"valid keys are {', '.join(names)}."
                raise ConfigError(f"{source}: unknown key {key!r}; {hint}")
        return cls(**values)

    def to_yaml(self, path: str | Path) -> None:
        """Write the fields to a YAML file."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")

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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
