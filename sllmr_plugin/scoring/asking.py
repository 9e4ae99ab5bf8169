"""`Asker`: where a question's answer comes from; `ServerAsker` has it from a server."""

from __future__ import annotations

from typing import Any, Protocol

from .client import Completion
from .conversation import Conversation, Question
from .ledger_file import LedgerAnswer
from .limits import Quota
from .prices import Price
from .servers import ServerForm


class Client(Protocol):
    """What asking needs of a client; `OpenAIClient` is one.

    Attributes
    ----------
    address : str
        Of the server, without secrets.
    form : ServerForm
        The form of request that the server is taken to want; set from the ledger before the first request.
    answered : bool
        Whether the server has answered in that form.
    """

    address: str
    form: ServerForm
    answered: bool

    @property
    def quota(self) -> Quota | None:
        """What the server has told last of what may be asked."""
        ...

    async def complete(self, messages: list, n_candidates: int, parameters: dict) -> Completion:
        """Ask once; raise `ServerError` if no answer comes."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class Asker(Protocol):
    """What the runner needs of whoever asks.

    Attributes
    ----------
    address, form
        As of `Client`.
    """

    address: str
    form: ServerForm

    @property
    def quota(self) -> Quota | None:
        """What the server has told last of what may be asked."""
        ...

    async def ask(self, question: Question) -> LedgerAnswer:
        """Ask once, and read the answer; raise `ServerError` if none comes."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...


class ServerAsker:
    """Asks a server from this process.

    Parameters
    ----------
    client : Client
        Whom to ask; closed with this object.
    questions : Questions
        How to read the answers.
    price : Price or None
        What they cost; without it that is not known.
    """

    def __init__(self, client: Client, questions: Conversation[Any], price: Price | None) -> None:
        self._client, self._questions, self._price = client, questions, price
        self.address = client.address

    @property
    def form(self) -> ServerForm:
        """The client's."""
        return self._client.form

    @form.setter
    def form(self, form: ServerForm) -> None:
        self._client.form = form

    def begin_with(self, form: ServerForm, *, answered: bool) -> None:
        """Ask in this form from now on, which another process has found out if `answered`."""
        if not self._client.answered:
            self._client.form, self._client.answered = form, answered

    async def ask(self, question: Question) -> LedgerAnswer:
        """Ask once, and read the answer; raise `ServerError` if none comes."""
        return self.read(question, await self.complete(question))

    @property
    def quota(self) -> Quota | None:
        """The client's."""
        return self._client.quota

    async def complete(self, question: Question) -> Completion:
        """Ask once; raise `ServerError` if no answer comes."""
        return await self._client.complete(question.messages, question.request.n_candidates, question.parameters)

    def read(self, question: Question, completion: Completion) -> LedgerAnswer:
        """Read an answer, and reckon what it cost."""
        used = completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens
        return self._questions.read(question, completion, self._price.cost(*used) if self._price else None)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()
