"""`Registry`: the variants of a kind (gates, losses, pair rules, uncertainties) by name."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from ..errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind by name; a class is in it as soon as it is defined.

    The base class of the kind adds its subclasses in ``__init_subclass__``: ``class MyGate(Gate, name="mine")``.
    A variant is given by its name, its class or an instance.

    Parameters
    ----------
    kind : str
        What a variant is called in messages, such as ``"gate"``.
    also : tuple of str, default=()
        Names that stand for a choice that is made later, such as ``"auto"``.

    Attributes
    ----------
    base : type
        What all variants derive from; set where that is defined.
    """

    def __init__(self, kind: str, *, also: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.base: type = object
        self._also = also
        self._classes: dict[str, type[T]] = {}

    def add(self, name: str, cls: Any) -> None:
        """Give a class its name, and add it unless that is empty.

        A class that is defined again, as in a notebook, replaces itself.

        Raises
        ------
        ConfigError
            If another class has the name.
        """
        there = self._classes.get(name)
        if name in self._also or (there is not None and _path(there) != _path(cls)):
            raise ConfigError(f"there is a {self.kind} named {name!r} already. Choose another name.")
        cls.name = name
        if name:
            self._classes[name] = cls

    @property
    def names(self) -> tuple[str, ...]:
        """All names that can be chosen."""
        return (*self._also, *self._classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __getitem__(self, name: str) -> type[T]:
        return self._classes[name]

    def items(self) -> Iterator[tuple[str, type[T]]]:
        """Yield names and classes."""
        return iter(self._classes.items())

    def choose(self, value: Any) -> Any:
        """Check a choice: what `make` takes, a class that has a name as its name.

        Raises
        ------
        ConfigError
            If it is not of this kind.
        """
        if isinstance(value, str):
            if value in self.names:
                return value
            near = difflib.get_close_matches(value, self.names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"{value!r} is not one of {', '.join(map(repr, self.names))}{hint}")
        if isinstance(value, type) and issubclass(value, self.base):
            return getattr(value, "name", "") or value
        if isinstance(value, self.base):
            return value
        raise ConfigError(f"{value!r} is not one of {', '.join(map(repr, self.names))}, nor a {self.kind} of your own")

    def class_of(self, value: Any) -> type[T]:
        """Return the class of a choice by name, class or instance."""
        if isinstance(value, str):
            return self._classes[value]
        return value if isinstance(value, type) else type(value)

    def make(self, value: Any) -> T:
        """Return an instance: of a name or class a new one, of an instance a copy, as one choice may serve many."""
        return copy.deepcopy(value) if not isinstance(value, (str, type)) else self.class_of(value)()


def _path(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__
