"""Finds and reads the JSON in a language model's answer, forgiving what models get wrong and inventing nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_DEEPEST = 8  # also bounds the work: a text is read at most this often, whatever brackets it holds
_BRACKET = re.compile(r"[{\[]")
_TOKEN = re.compile(
    r"""[\s,]*  # commas are not looked at, so a missing or a trailing one does no harm
    (?: (?P<open>[{\[]) | (?P<close>[}\]]) | (?P<colon>:)
      | (?P<string>"[^"\\]*(?:\\.[^"\\]*)*")
      | (?P<number>[-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w.]))
      | (?P<constant>(?:[-+]?(?:Infinity|NaN)|true|false|null|True|False|None)(?!\w))
      | (?P<cut>"[^"\\]*(?:\\.[^"\\]*)*\\?\Z|[-+\w.]*\Z)  # where an answer was cut off
    )""",
    re.VERBOSE | re.DOTALL,
)
_MAYBE_COMMA_DECIMAL = re.compile(
    r"(?<![-+.\w])[0-9]+,[0-9]*\Z"
)  # of `"7": 0,8` cut off, 0 may be no score of 7 at all
_DECODER = json.JSONDecoder(strict=False)  # takes line breaks in strings
_CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


@dataclass(frozen=True)
class Number:
    """A number and where it stands: ``text[start:end]``."""

    value: float
    start: int
    end: int


@dataclass(frozen=True)
class String:
    """A string, its escapes undone; ``text[start:end]`` is what stands between its quotes."""

    value: str
    start: int
    end: int


@dataclass(frozen=True)
class Object:
    """A JSON object as its pairs, in order and repeated keys with them."""

    pairs: tuple[tuple[Number | String, Value], ...]


@dataclass(frozen=True)
class Array:
    """A JSON array."""

    elements: tuple[Value, ...]


Value = Number | String | Object | Array | bool | None


def find_json(text: str) -> Iterator[Object | Array]:
    """Yield the outermost JSON objects and arrays of a text, in order.

    What stands around them (prose, code fences) is passed over. Forgiven are missing, repeated and trailing commas,
    numbers as keys, numbers like ``.5`` and ``+1``, line breaks in strings, and ``None``, ``True`` and ``False``. Of a
    text that ends too early the complete elements are given: a number or string that the end cuts, or may have cut,
    is left out, as is a key without its value, and a number before a comma that may stand for a decimal point.
    Anything else that is no JSON ends the search at that bracket, and the next bracket is tried.

    Parameters
    ----------
    text : str
        Anything.

    Yields
    ------
    Object or Array
        Nested at most 8 deep.
    """
    position = 0
    while (bracket := _BRACKET.search(text, position)) is not None:
        found = _read(text, bracket.start())
        position = bracket.start() + 1
        if found is not None:
            value, position, _ = found
            yield value


def json_spans(text: str, *, cut: bool = False) -> list[tuple[int, int]]:
    """Return where in a text the values of `find_json` stand.

    With `cut` that are all of them, else those that have an end, and one without that stands at the beginning.
    """
    spans = []
    position = 0
    while (bracket := _BRACKET.search(text, position)) is not None:
        found = _read(text, bracket.start())
        position = bracket.start() + 1
        if found is not None and (cut or found[2] or not text[: bracket.start()].strip()):
            position = found[1]
            spans.append((bracket.start(), position))
    return spans


class _Open:
    """An object or array that is being read."""

    def __init__(self, bracket: str) -> None:
        self.bracket = bracket
        self.values: list[Value] = []  # of an object: its keys and values by turns
        self.colon = False  # the last of an object's values is a key and has its colon

    def expects_key(self) -> bool:
        return self.bracket == "{" and len(self.values) % 2 == 0

    def takes_value(self) -> bool:
        return self.bracket == "[" or self.colon

    def add(self, value: Value) -> None:
        self.values.append(value)
        self.colon = False

    def forget_number(self) -> None:
        if self.values and isinstance(self.values[-1], Number):
            self.values.pop()

    def closed(self) -> Object | Array:
        if self.bracket == "[":
            return Array(tuple(self.values))
        # An odd last key has no value: it occurs only at the end of a text.
        return Object(tuple(zip(self.values[::2], self.values[1::2], strict=False)))  # type: ignore[arg-type]


def _read(text: str, start: int) -> tuple[Object | Array, int, bool] | None:
    """Read the value whose bracket stands at `start`: it, its end, and whether it has one. None if it is not JSON."""
    stack: list[_Open] = []
    position = start
    while True:
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        kind, position = token.lastgroup, token.end()
        at_end = position == len(text)
        if kind == "cut" or (kind == "number" and at_end):
            if _MAYBE_COMMA_DECIMAL.search(text):
                stack[-1].forget_number()
            return _all_closed(stack), len(text), False
        if kind == "open":
            if len(stack) == _DEEPEST or (stack and not stack[-1].takes_value()):
                return None
            stack.append(_Open(token["open"]))
        elif kind == "colon":
            top = stack[-1]
            if top.bracket == "[" or top.colon or top.expects_key():
                return None
            top.colon = True
        elif kind == "close":
            top = stack.pop()
            if "{[".index(top.bracket) != "}]".index(token["close"]) or (top.bracket == "{" and len(top.values) % 2):
                return None
            if not stack:
                return top.closed(), position, True
            stack[-1].add(top.closed())
        else:
            value = _scalar(token)
            is_key = stack[-1].expects_key() and isinstance(value, Number | String)
            if not (is_key or stack[-1].takes_value()):
                return None
            stack[-1].add(value)


def _all_closed(stack: list[_Open]) -> Object | Array:
    while len(stack) > 1:
        inner = stack.pop()
        stack[-1].add(inner.closed())
    return stack[0].closed()


def _scalar(token: re.Match[str]) -> Number | String | bool | None:
    if token["number"] is not None:
        return Number(float(token["number"]), *token.span("number"))
    if token["string"] is not None:
        start, end = token.span("string")
        try:
            value = _DECODER.decode(token["string"])
        except ValueError:  # an escape that JSON does not have
            value = token["string"][1:-1]
        return String(value, start + 1, end - 1)
    constant = token["constant"]
    if constant in _CONSTANTS:
        return _CONSTANTS[constant]
    return Number(float(constant), *token.span("constant"))
