"""Settings once: a dataclass's annotations check its fields and are the schema of YAML files and flags."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ConfigError

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
_MISFIT = object()


@dataclass(frozen=True)
class Bounds:
    """Annotates a number with the range that it must lie in: ``Annotated[int, Bounds(least=1)]``.

    Attributes
    ----------
    least, most : float or None
        Ends that are in the range.
    above, below : float or None
        Ends that are not.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def choose(self, value: Any) -> Any:
        """Return a number within the range; raise `ConfigError` for any other."""
        inside = (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if not inside:
            raise ConfigError(f"{value!r} must {self}")
        return value

    def __str__(self) -> str:
        low = f"[{self.least:g}" if self.least is not None else f"({self.above:g}" if self.above is not None else ""
        high = f"{self.most:g}]" if self.most is not None else f"{self.below:g})" if self.below is not None else ""
        if low and high:
            return f"lie in {low}, {high}"
        return f"be at least {self.least:g}" if self.least is not None else f"be above {self.above:g}"


class Settings:
    """Base of dataclasses that check their fields by their annotations as soon as they are made.

    Annotations are ``bool``, ``int``, ``float``, ``str``, ``Any``, ``Literal[...]``, ``tuple[T, ...]``,
    ``Mapping[str, T]``, ``Annotated[T, ...]`` with `Bounds` or anything else that has a method ``choose``, and unions
    of these and None. Fields of other classes are taken as they are.

    Raises
    ------
    ConfigError
        Naming every field that is of a wrong type or out of range.
    """

    def __post_init__(self) -> None:
        """Check every field, and keep its value in the type that the annotation wants."""
        problems = check_fields(self) or self.problems()
        if problems:
            raise ConfigError(f"{type(self).__name__}: {'; '.join(problems)}. Correct these fields.")

    def problems(self) -> list[str]:
        """Return what is wrong with fields that fit one by one; for subclasses."""
        return []


def check_fields(settings: Any) -> list[str]:
    """Keep the fields of a dataclass in the types that their annotations want; return what is wrong with others."""
    problems = []
    kind: Any = type(settings)
    for name, wanted in field_types(kind).items():
        try:
            object.__setattr__(settings, name, as_type(getattr(settings, name), wanted))
        except ConfigError as error:
            problems.append(f"{name}={error}".rstrip("."))
    return problems


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, resolved, by name."""
    names = {field.name for field in dataclasses.fields(cls)}
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        # Of fields only: Python 3.10 cannot resolve InitVar.
        annotations = {name: hint for name, hint in base.__dict__.get("__annotations__", {}).items() if name in names}
        holder = types.SimpleNamespace(__annotations__=annotations)
        found |= typing.get_type_hints(holder, vars(sys.modules[base.__module__]), include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


def as_type(value: Any, wanted: Any) -> Any:
    """Return a value as an annotation wants it.

    Nothing is converted that could hide a mistake: text never becomes a number, nor a number text.

    Parameters
    ----------
    value : Any
        As a YAML file has it. NumPy's numbers become Python's own.
    wanted : type
        One of those that `Settings` names.

    Returns
    -------
    Any
        The value; a whole number as a float where a number is wanted, a list as a tuple.

    Raises
    ------
    ConfigError
        Saying what the value is, what is wanted, and how to write it. It begins with the value, so that it can follow
        the name of a key.

    Examples
    --------
    >>> as_type([256, 128], tuple[int, ...])
    (256, 128)
    """
    value = value.item() if isinstance(value, np.generic) else value
    refusal = None
    for option in _options(wanted):
        base, choosers = _parts(option)
        # A chooser with names decides by itself what it accepts: more than the annotated type.
        fitted = value if any(hasattr(chooser, "names") for chooser in choosers) else _fit_one(value, base)
        if fitted is _MISFIT:
            continue
        try:
            for chooser in choosers:
                fitted = chooser.choose(fitted)
        except ConfigError as error:
            refusal = error
        else:
            return fitted
    if refusal is not None:
        raise refusal
    choices = [choice for option in _options(wanted) for choice in _choices(option)]
    if choices:
        raise ConfigError(f"{value!r} is not one of {', '.join(map(repr, choices))}")
    bases = tuple(_parts(option)[0] for option in _options(wanted))
    words = " or ".join(map(_words, bases))
    raise ConfigError(f"{value!r} is {_kind(value)}, but {words} is wanted; {_remedy(value, bases, words)}")


def type_like(default: Any) -> Any:
    """Return the type of values that may replace a default.

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


def choices_of(cls: type, name: str) -> tuple[str, ...]:
    """Return the names that a field may have, for the help of a flag; () if it is not a choice among names.

    Examples
    --------
    >>> @dataclass
    ... class Sizes:
    ...     scale: typing.Literal["small", "large"] = "small"
    >>> choices_of(Sizes, "scale")
    ('small', 'large')
    """
    found: list[str] = []
    for option in _options(field_types(cls)[name]):
        _, choosers = _parts(option)
        found += _choices(option) or [name for chooser in choosers for name in getattr(chooser, "names", ())]
    return tuple(found)


def _options(wanted: Any) -> tuple[Any, ...]:
    return typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else (wanted,)


def _parts(option: Any) -> tuple[Any, list[Any]]:
    """Return an annotation without what ``Annotated`` adds, and what of that can choose."""
    if typing.get_origin(option) is not typing.Annotated:
        return option, []
    base, *extras = typing.get_args(option)
    return base, [extra for extra in extras if hasattr(extra, "choose")]


def _choices(option: Any) -> list[Any]:
    return list(typing.get_args(option)) if typing.get_origin(option) is typing.Literal else []


def _fit_one(value: Any, wanted: Any) -> Any:
    if wanted is Any:
        return value
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Literal:
        return value if any(value == choice and type(value) is type(choice) for choice in inner) else _MISFIT
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
    if wanted in _WORDS:
        return value if type(value) is wanted else _MISFIT  # type, not isinstance: True is not a number here
    return value if isinstance(value, wanted) else _MISFIT


def _words(wanted: Any) -> str:
    inner = typing.get_args(wanted)
    if typing.get_origin(wanted) is tuple:
        return {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}[inner[0]]
    if typing.get_origin(wanted) is None and wanted not in _WORDS:
        return f"a {wanted.__name__}"
    return _WORDS.get(wanted, "a mapping of names")


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    return _WORDS.get(type(value), "a list" if isinstance(value, (list, tuple)) else "a mapping")


def _remedy(value: Any, options: tuple[Any, ...], words: str) -> str:
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
