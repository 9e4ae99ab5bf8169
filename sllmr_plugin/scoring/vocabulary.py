"""A closed vocabulary of attributes: read, told to a language model, and what it may answer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import AnswerError, ConfigError

SEVERAL = ":pipe"  # as `load_interactions(attributes=)` and ``--attributes`` name a column with several values
_NONE = frozenset({"", "none", "unknown", "n/a"})
_STRUCTURE = re.compile(r"[|,;:\n\r]")


@dataclass(frozen=True)
class Vocabulary:
    """Names of attributes, and the values that each may take.

    Attributes
    ----------
    values : dict of str to tuple of str
        By name.
    several : frozenset of str
        Names of those that an item may have several values of.
    """

    values: dict[str, tuple[str, ...]]
    several: frozenset[str] = frozenset()

    @classmethod
    def of(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> Vocabulary:
        """Read a vocabulary.

        Parameters
        ----------
        source : path or mapping
            YAML or JSON, ``name: [value, value]``; of ``name:pipe`` an item may have several values.

        Raises
        ------
        ConfigError
            If it is of another form, or a name or value is blank, occurs twice, is ``none`` or holds one of ``| , ; :``
            or a line break.
        """
        named = "the vocabulary" if isinstance(source, Mapping) else str(source)
        if not isinstance(source, Mapping):
            try:
                source = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise ConfigError(
                    f"{named} cannot be read ({' '.join(str(error).split())}). Write YAML, `genre: [action, puzzle]`, "
                    "or have one proposed (--propose)."
                ) from None
        if not isinstance(source, Mapping) or not source:
            raise ConfigError(f"{named} holds no attribute. Write a line each, `genre: [action, puzzle]`.")
        values: dict[str, tuple[str, ...]] = {}
        several = set()
        for written, allowed in source.items():
            name = str(written).strip().removesuffix(SEVERAL)
            if not isinstance(allowed, list) or not allowed or not all(isinstance(v, str | int) for v in allowed):
                raise ConfigError(f"{named}: {name} has no list of values. Write `{name}: [one, another]`.")
            texts = tuple(" ".join(str(value).split()) for value in allowed)
            for text in (name, *texts):
                if text.casefold() in _NONE or _STRUCTURE.search(text):
                    raise ConfigError(
                        f"{named}: {text!r} of {name} cannot be used: names and values are not blank, not none, and "
                        "hold no | , ; : or line break. Change it."
                    )
            if len({text.casefold() for text in texts}) < len(texts) or name in values:
                raise ConfigError(f"{named}: {name}, or one of its values, occurs twice. Keep one.")
            values[name] = texts
            if str(written).strip().endswith(SEVERAL):
                several.add(name)
        return cls(values, frozenset(several))

    @property
    def columns(self) -> list[str]:
        """The attributes as ``--attributes`` takes them: ``genre:pipe``, ``audience``."""
        return [name + SEVERAL * (name in self.several) for name in self.values]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as YAML, to be read and edited."""
        lists = dict(zip(self.columns, map(list, self.values.values()), strict=True))
        Path(path).write_text(yaml.safe_dump(lists, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def words(self) -> str:
        """Return a line an attribute, for the prompt."""
        many = {name: "one or several" if name in self.several else "one" for name in self.values}
        return "\n".join(f"{name} ({many[name]}): {' | '.join(values)}" for name, values in self.values.items())

    def parse(self, text: str) -> dict[str, tuple[str, ...]]:
        """Read ``name: value | value; name: value``, also in lines; upper and lower case and blanks do not count.

        Raises
        ------
        AnswerError
            If an attribute is missing, twice or unknown, or a value is not in the vocabulary; in words that a model can
            act on.
        """
        names = {name.casefold(): name for name in self.values}
        found: dict[str, tuple[str, ...]] = {}
        for part in filter(str.strip, re.split(r"[;\n]", text)):
            written, colon, listed = part.partition(":")
            name = names.get(" ".join(written.split()).casefold())
            if not colon or name is None or name in found:
                raise AnswerError(
                    f"{part.strip()!r} is not `attribute: value`, with each of {', '.join(self.values)} once."
                )
            known = {value.casefold(): value for value in self.values[name]}
            given = [" ".join(value.split()).casefold() for value in re.split(r"[|,]", listed)]
            chosen = [value for value in dict.fromkeys(given) if value not in _NONE]
            outside = [value for value in chosen if value not in known]
            if outside:
                raise AnswerError(
                    f"{outside[0]!r} is not a value of {name}. Take {', '.join(known.values())}, or none."
                )
            if len(chosen) > 1 and name not in self.several:
                raise AnswerError(f"{name} takes one value, and the answer has {len(chosen)}. Take the best.")
            found[name] = tuple(known[value] for value in chosen)
        missing = [name for name in self.values if name not in found]
        if missing:
            raise AnswerError(f"the answer lacks {', '.join(missing)}. Give every attribute, none where none fits.")
        return found
