"""Where a model's answer lies: in a completion's message, behind thoughts and control tokens; and the JSON in it."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import AnswerError

#: Parts of a message beside its content that may hold what the model wrote.
_BESIDE = (
    *("reasoning_content", "reasoning", "reasoning_text", "reasoning_details", "thinking", "thinking_blocks"),
    *("tool_calls", "function_call", "audio"),
)
# Why an answer ended before its end, in the words of the servers: at the limit of tokens, and for other reasons.
_CUT_OFF = ("length", "max_tokens", "model_length", "max_output_tokens")
_BROKEN_OFF = re.compile(
    "filter|safety|sensitive|block|prohibit|violat|moderat|recitation|spii|refus|error|abort|cancel|insufficient|trunc"
)


@dataclass(frozen=True)
class MessageText:
    """What the message of a completion says.

    Attributes
    ----------
    content : str
        Its content; pieces of text are joined, pieces of thoughts left out.
    refusal : str
        What the model says instead of an answer.
    beside : str or None
        Where the model's words lie if the content is empty: the name of that part of the message.
    """

    content: str
    refusal: str
    beside: str | None


def read_message(message: Any) -> MessageText:
    """Read the message of a chat completion.

    Parameters
    ----------
    message : mapping
        With ``content`` (a string, None, or a list of pieces such as ``{"type": "text", "text": "..."}``) and maybe
        ``refusal`` and others.

    Raises
    ------
    TypeError
        If it is not a mapping, or the content has another type.
    """
    if not isinstance(message, Mapping):
        raise TypeError(f"the message is a {type(message).__name__}")
    content, beside = message.get("content"), None
    refusal = message.get("refusal") or ""
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        pieces = [_piece(piece) for piece in content]
        content = "".join(text for kind, text in pieces if kind in ("", "text", "output_text"))
        refusal = refusal or "".join(text for kind, text in pieces if kind == "refusal")
        beside = next(
            (f"a piece of type {kind}" for kind, _ in pieces if kind not in ("", "text", "output_text")), None
        )
    if not isinstance(content, str | None) or not isinstance(refusal, str):
        raise TypeError(f"content is a {type(content if isinstance(refusal, str) else refusal).__name__}")
    content = content or ""
    if content.strip() or refusal:
        return MessageText(content, refusal, None)
    filled = (name for name in _BESIDE if message.get(name))
    return MessageText(content, refusal, next(filled, beside))


def _piece(piece: Any) -> tuple[str, str]:
    """Return the type and the text of a piece of a message's content."""
    if isinstance(piece, str):
        return "", piece
    if not isinstance(piece, Mapping):
        raise TypeError(f"content holds a {type(piece).__name__}")
    kind, text = piece.get("type") or "", piece.get("text") or piece.get("refusal") or ""
    if isinstance(text, Mapping):
        text = text.get("value")
    if not isinstance(kind, str) or not isinstance(text, str):
        raise TypeError("content has a piece that is not text")
    return kind, text


def how_it_ended(reason: object) -> tuple[bool, str | None]:
    """Tell from a server's reason whether the limit of tokens ended an answer, and if not, what broke it off."""
    word = str(reason or "").lower()
    if word in _CUT_OFF:
        return True, None
    return False, word if _BROKEN_OFF.search(word) else None


def token_logprobs(choice: Mapping[str, Any]) -> list[Any] | None:
    """Return ``logprobs.content`` of a completion's choice, None where the server gives none or another form."""
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, Mapping) else None
    return content if isinstance(content, list) and all(isinstance(token, Mapping) for token in content) else None


_DEEPEST = 8  # also bounds the work: a text is read at most this often, however many brackets it holds
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
    Anything else that is not JSON ends the search at that bracket, and the next bracket is tried.

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


_THOUGHT_NAMES = (
    "(?:think|thinking|thoughts?|thought_process|reason|reasoning|reflect|reflection|analysis|scratch_?pad"
    "|inner_monologue|inner_thoughts|monologue|chain_of_thought|cot|deliberation|rationale)"
)
# The tags that models put around their thoughts, and those of their chat templates. `close` is there if it closes one.
_TAG = re.compile(
    rf"""(?:<|&lt;)\s{{0,2}}(?P<close>/)?\s{{0,2}}[a-z]{{0,12}}[:_]?(?P<name>{_THOUGHT_NAMES})(?:\s[^<>]{{0,200}}?)?/?(?:>|&gt;)
      | \[(?P<close2>/)?think(?:ing)?\]                                                  # Magistral
      | ◁(?P<close3>/)?think▷                                                            # Kimi
      | <\|(?:(?:begin|start)(?:_of)?|(?P<close4>end(?:_of)?))_(?:thoughts?|thinking|think|reasoning)\|>
      | <\|(?P<close5>/)?(?:think|thinking|thought|thoughts|reasoning)\|>
      | <\|?(?:think|thinking|thought|thoughts|reasoning)_(?:start|begin|(?P<close6>end))\|?>
      | <\|inner_(?:prefix|(?P<close7>suffix))\|> | <(?:unused94|(?P<close8>unused95))>
      | <ctrl(?:94|(?P<close9>95))> | <\|channel> | (?P<close10><channel\|>)
      | (?P<said>\A\W*here(?:[’']s|\ is)\ my\ thought\ process\b:?)                      # Granite, in words
      | (?P<close11>(?P<said2>here(?:[’']s|\ is)\ my\ response\b:?))
    """,
    re.IGNORECASE | re.VERBOSE,
)
# What some models put around the answer itself.
_WRAPPER = re.compile(
    r"""<\s{0,2}(?P<close>/)?\s{0,2}(?P<name>(?:final_?)?(?:answer|response|output)|final|result|solution|text)\s{0,2}>
      | <\|(?:(?:begin|start)(?:_of)?|(?P<close2>end(?:_of)?))_(?:solution|response|answer|box)\|>
    """,
    re.IGNORECASE | re.VERBOSE,
)
_HARMONY = re.compile(r"<\|(start|channel|message|end|return|call)\|>")
_FINAL_CHANNEL = re.compile(r"\s*(?:assistant)?\s*final\b")
# The same channels where the server drops their control tokens: "analysisThe user ...assistantfinal{...".
_BARE_CHANNEL = re.compile(r"\A\s*(?:assistant)?(?:analysis|commentary)(?=[A-Z{\[\"\n])")
_BARE_FINAL = "assistantfinal"
_TURN_BEGINS = re.compile(
    r"\s*(?:(?:<\|(?:im_start|start|start_header_id)\|>|<start_of_turn>)\s*(?:assistant|model)\s*"
    r"(?:<\|(?:end_header_id|message|im_sep)\|>)?|<\|(?:assistant|begin_of_text)\|>|<｜Assistant｜>|<s>|<bos>)\s*"
)
_TURN_ENDS = re.compile(
    r"<\|(?:im_end|im_start|im_sep|end|eot_id|eom_id|eot|eos|endoftext|end_of_text|end_of_turn|return|call|start"
    r"|start_header_id|user|system|observation|endofprompt|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<eos>|<end_of_turn>|<start_of_turn>|<｜end▁of▁sentence｜>|<｜User｜>"
)
_FENCE = re.compile(r"\s*```[\w-]*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def answer_span(text: str) -> tuple[int, int]:
    r"""Find the answer in what a model wrote: what follows its thoughts.

    Thoughts stand in tags such as ``<think>...</think>``, of which the opening one may be missing, since some servers
    have it in the prompt, or in the channels of the harmony format, whose ``final`` one is the answer. What stands
    before the last closing tag is never read, as it may hold drafts. Tags inside of a JSON value are a part of
    its strings. A chat template's control tokens around the answer, and what a model
    writes behind the end of its turn, do not belong to it.

    Parameters
    ----------
    text : str
        Anything.

    Returns
    -------
    start, end : int
        The answer is ``text[start:end]``.

    Raises
    ------
    AnswerError
        If a thought has no end, or there are channels and none is the final one.

    Examples
    --------
    >>> text = 'Is it {"1": 0.9}? No.</think> {"1": 0.2}<|im_end|>'
    >>> text[slice(*answer_span(text))]
    ' {"1": 0.2}'
    """
    spans = json_spans(text)
    start, end = _final_channel(text, spans) or (0, len(text))
    start = _behind_thoughts(text, spans, start, end)
    if (begins := _TURN_BEGINS.match(text, start, end)) is not None:
        start = begins.end()
    end = next((token.start() for token in _outside(_TURN_ENDS, text, spans, start, end)), end)
    return _inside_wrapper(text, spans, start, end)


def final_answer(text: str) -> str:
    r"""Return the answer in what a model wrote (`answer_span`), without its code fence, a JSON string undone.

    Examples
    --------
    >>> final_answer('<think>Short.</think>\n```json\n"{\\"1\\": 0.2}"\n```')
    '{"1": 0.2}'
    """
    while True:
        start, end = answer_span(text)
        answer = text[start:end]  # with the blanks at its end: they tell a number that is whole from one that is cut
        if (fence := _FENCE.match(answer)) is not None and answer.count("```") == 2 and answer.rstrip().endswith("```"):
            answer = answer[fence.end() :].rstrip()[:-3].strip()
        if _STRING.fullmatch(answer.strip()) is None:
            return answer
        try:
            text = _DECODER.decode(answer.strip())  # shorter by its quotes, so this ends
        except ValueError:  # an escape that JSON does not have
            return answer


def ends_in_json(text: str) -> bool:
    """Tell whether nothing but JSON, whole or not, and the end of a code fence stands at the end of an answer.

    Where the limit of tokens ended the text, words behind the JSON show that the model was not at its end, and
    servers that put the opening tag of a thought into the prompt give no other sign that it was thinking.
    """
    answer = final_answer(text)
    spans = json_spans(answer, cut=True)
    return bool(spans) and not answer[spans[-1][1] :].strip("` \n\t.")


def _outside(
    pattern: re.Pattern[str], text: str, spans: list[tuple[int, int]], start: int, end: int
) -> Iterator[re.Match[str]]:
    """Yield the matches in ``text[start:end]`` that stand in none of some spans."""
    ends = [span[1] for span in spans]
    for match in pattern.finditer(text, start, end):
        number = bisect_right(ends, match.start())
        if number == len(spans) or match.start() < spans[number][0]:
            yield match


def _final_channel(text: str, spans: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Return where the harmony format's final channel lies, None in a text without channels."""
    tokens = list(_outside(_HARMONY, text, spans, 0, len(text)))
    if not any(token[1] in ("channel", "message") for token in tokens):
        if _BARE_CHANNEL.match(text) is None:
            return None
        at = text.rfind(_BARE_FINAL)
        if at < 0:
            raise _no_answer()
        return at + len(_BARE_FINAL), len(text)
    edges = [0, *(token.end() for token in tokens)]
    ends = [*(token.start() for token in tokens), len(text)]
    for number in range(len(tokens) - 1, -1, -1):
        header = text[edges[number] : ends[number]]
        if tokens[number][1] == "message" and _FINAL_CHANNEL.match(header) is not None:
            return edges[number + 1], ends[number + 1]
    raise _no_answer()


def _behind_thoughts(text: str, spans: list[tuple[int, int]], start: int, end: int) -> int:
    """Return where the last thought in ``text[start:end]`` ends; `start` if there is none."""
    opened: dict[str, int] = {}  # kind of tag -> the end of the last one
    closed: dict[str, int] = {}
    for tag in _outside(_TAG, text, spans, start, end):
        name = "said" if tag["said"] or tag["said2"] else (tag["name"] or "think").lower()
        kind = "think" if name.startswith(("think", "thought")) else name
        if not any(found is not None for group, found in tag.groupdict().items() if group.startswith("close")):
            opened[kind] = tag.end()
        elif kind != "said" or kind in opened:  # as a phrase of its own it closes nothing
            closed[kind] = tag.end()
    if any(at > closed.get(kind, -1) for kind, at in opened.items()):
        raise _no_answer()
    return max(closed.values(), default=start)


def _inside_wrapper(text: str, spans: list[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Return the part of ``text[start:end]`` within the last ``<answer>``; all of it if there is none."""
    inside = None
    for tag in _outside(_WRAPPER, text, spans, start, end):
        if not (tag["close"] or tag["close2"]):
            inside = tag.end(), end
        elif inside is None:  # opened in the prompt
            inside = start, tag.start()
        elif inside[1] == end:
            inside = inside[0], tag.start()
    return inside or (start, end)


def _no_answer() -> AnswerError:
    return AnswerError("the answer ends in a thought that has no end. Write the answer itself, behind a short thought.")


#: The number behind a label, or as much of it as there is.
_SCORE = re.compile(r'"[0-9]{1,9}"\s*:\s*([-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)')


def breaks_bounds(text: str) -> bool:
    """Tell whether an answer has a score outside 0 to 1, so that a schema's bounds were not kept.

    The text is looked at as it stands, since a model without bounds may write digits until it is cut off.

    Examples
    --------
    >>> breaks_bounds('{"scores": {"1": 0.5, "2": 85.0'), breaks_bounds('{"scores": {"1": 0.5, "2": 1.0}}')
    (True, False)
    """
    return any(not 0 <= float(score) <= 1 for score in _SCORE.findall(text))
