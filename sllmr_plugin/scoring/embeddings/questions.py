"""Texts in batches as questions, and their vectors as ledger entries that are found again text by text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol

import numpy as np

from ...errors import ConfigError
from ...settings import Bounds
from ..client import Completion
from ..ledger_file import LedgerAnswer, Refusal, ledger_key
from ..prompts import AnswerForm, Message
from ..questions import Answers, Conversation, Question
from ..secrets import hide_secrets
from .packing import unpacked

EMBEDDING_VERSION = 1
_KIND = "embedding"  # in the ledger's notes, beside the kinds of texts
_SET_ELSEWHERE = {
    "input": "--items and --texts say what is sent",
    "dimensions": "--dimensions sets it",
    "encoding_format": "it is found out",
}


def text_key(text: str) -> str:
    """Return the hash by which the ledger knows a text, whichever others it was sent with."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class EmbeddingRequest:
    """Texts that are sent together.

    Parameters
    ----------
    texts : tuple of str
        At least one, none blank.
    """

    texts: tuple[str, ...]

    @property
    def subject(self) -> str:
        """How many texts, for the reader of a ledger."""
        return f"{len(self.texts)} texts" if len(self.texts) > 1 else f"text {text_key(self.texts[0])[:12]}"

    @property
    def repeat(self) -> int:
        """0: a vector is asked for once."""
        return 0

    @property
    def n_candidates(self) -> int:
        """0: a vector scores nothing."""
        return 0


class EmbeddingLedger(Answers, Protocol):
    """Where vectors are looked up: `Ledger` and `LedgerReader`."""

    def of_kind(self, model: str, kind: str) -> Iterator[LedgerAnswer]:
        """Yield a model's usable answers to questions of a kind."""
        ...


@dataclass(frozen=True)
class EmbeddingQuestions(Conversation[EmbeddingRequest]):
    """Turns batches of texts into questions, and answers into vectors.

    Parameters are ``model``, ``attempts`` and ``extra_body`` of `Conversation`, and

    Parameters
    ----------
    dimensions : int or None, default=None
        Length of the vectors, for models that offer several; None leaves it to the server.
    """

    version = EMBEDDING_VERSION
    cut_prompt = (
        "the server counted less than half the tokens that the texts must have, so it has dropped the ends of some and "
        "their vectors are of the rest. Use a model for longer texts, or shorten them."
    )

    temperature: float | None = field(default=None, init=False)
    max_tokens: Literal["auto"] = field(default="auto", init=False)
    dimensions: Annotated[int, Bounds(least=1)] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        for name in _SET_ELSEWHERE:
            if name in (self.extra_body or {}):
                raise ConfigError(f"extra_body must not hold {name}: {_SET_ELSEWHERE[name]}. Leave it out.")

    @property
    def form(self) -> AnswerForm:
        """Vectors."""
        return "embedding"

    def messages(self, request: EmbeddingRequest) -> list[Message]:
        """Return the texts, as if each was a message."""
        return [{"role": "user", "content": text} for text in request.texts]

    def longest_answer(self, request: EmbeddingRequest) -> int:
        """Return 0: a model that embeds writes no token."""
        return 0

    def parameters(self, request: EmbeddingRequest) -> dict[str, Any]:
        """Return what else decides the vectors."""
        return super().parameters(request) | {"dimensions": self.dimensions}

    def recorded(self) -> dict[str, Any]:
        """Return what a table's origin says of how was asked."""
        return {"dimensions": self.dimensions, **self.stored_extra_body}

    def expected_completion(self, request: EmbeddingRequest) -> int:
        """Return 0."""
        return 0

    def described(self, request: EmbeddingRequest) -> dict[str, Any]:
        """Return the hashes of the texts, by which their vectors are found again."""
        return {"kind": _KIND, "texts_sha256": [text_key(text) for text in request.texts]}

    def next(self, question: Question[EmbeddingRequest], answer: LedgerAnswer) -> Question[EmbeddingRequest] | None:
        """Return the same question once more, since there is nobody to be told what was wrong; None after the last."""
        attempt = question.attempt + 1
        if attempt >= self.attempts:
            return None
        key = ledger_key(question.messages, self.model, question.parameters | {"attempt": attempt}, self.version)
        return replace(question, key=key, attempt=attempt)

    def understood(self, completion: Completion, request: EmbeddingRequest) -> dict[str, Any]:
        """Return nothing: vectors are read from the answer when they are needed. Raise if one cannot be used."""
        unpacked(completion.text, len(request.texts), self.dimensions)
        return {}

    def reread(self, answer: LedgerAnswer, request: EmbeddingRequest) -> dict[str, Any]:
        """Return nothing; raise if what is stored cannot be used."""
        unpacked(answer.response, len(request.texts), self.dimensions)
        return {}

    def vectors(self, answer: LedgerAnswer) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the hash and the vector, (d,) float32, of each text of a usable answer."""
        keys = answer.request["texts_sha256"]
        yield from zip(keys, unpacked(answer.response, len(keys), self.dimensions), strict=True)

    def stored(self, ledger: EmbeddingLedger) -> Iterator[LedgerAnswer]:
        """Yield the usable answers of a ledger to questions with these parameters, whatever their texts."""
        wanted = hide_secrets(self.first(EmbeddingRequest(("",))).parameters)
        for answer in ledger.of_kind(self.model, _KIND):
            noted = answer.request
            if noted["parameters"] == wanted and noted["schema_version"] == self.version:
                yield answer

    def batches(self, texts: Sequence[str], size: int, ledger: EmbeddingLedger | None = None) -> list[EmbeddingRequest]:
        """Put texts into batches; alone go those of a batch, or alone, that came to nothing, see `came_to_nothing`."""
        one_by_one = [EmbeddingRequest((text,)) for text in texts]
        if ledger is None:
            return _in_batches(one_by_one, size)
        alone = {request for request in one_by_one if self.came_to_nothing(request, ledger)}
        planned = [request for request in one_by_one if request in alone]
        for batch in _in_batches([request for request in one_by_one if request not in alone], size):
            parts = [EmbeddingRequest((text,)) for text in batch.texts]
            planned += parts if self.came_to_nothing(batch, ledger) else [batch]
        return planned

    def came_to_nothing(self, request: EmbeddingRequest, ledger: EmbeddingLedger) -> bool:
        """Whether the server refuses these texts, or none of its answers can be used: for one of them, perhaps."""
        question, answer = self.replay(request, ledger)
        return question is None and (isinstance(answer, Refusal) or not (answer and answer.ok))


def _in_batches(requests: Sequence[EmbeddingRequest], size: int) -> list[EmbeddingRequest]:
    texts = [text for request in requests for text in request.texts]
    return [EmbeddingRequest(tuple(texts[start : start + size])) for start in range(0, len(texts), size)]
