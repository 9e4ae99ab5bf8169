"""`ScoringWorker`: asks a server in a process of a Ray cluster, and commits each answer to a partition of its own."""

from __future__ import annotations

import asyncio
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SLLMRError, SLLMRWarning
from .asking import ServerAsker
from .ledger import Ledger, LedgerAnswer
from .limits import Quota
from .prices import Price
from .questions import Conversation, Question
from .schema import ServerForm
from .settings import ServerSettings

_PATIENCE = 60.0  # seconds: this worker's own predecessor, killed, lets go of the partition in a moment


@dataclass(frozen=True)
class Reply:
    """What came of a question; errors are values here, so that Ray neither wraps them nor writes them to its logs.

    Attributes
    ----------
    answer : LedgerAnswer or None
        Committed to the worker's partition.
    problem : SLLMRError or None
        Why there is none.
    warnings : tuple of SLLMRWarning
        To be shown where the user looks.
    form : ServerForm or None
        The form of request that was answered.
    quota : Quota or None
        What the server has told last of what may be asked.
    """

    answer: LedgerAnswer | None = None
    problem: SLLMRError | None = None
    warnings: tuple[Warning, ...] = ()
    form: ServerForm | None = None
    quota: Quota | None = None


class ScoringWorker:
    """The body of a Ray actor.

    Parameters
    ----------
    server : ServerSettings
    questions : Questions
        How to read the answers.
    price : Price or None
    partition : path
        The ledger partition, on this machine's disk.
    """

    def __init__(
        self, server: ServerSettings, questions: Conversation[Any], price: Price | None, partition: Path
    ) -> None:
        self._server, self._questions, self._price, self._path = server, questions, price, partition
        self._asking: dict[str, asyncio.Task[Reply]] = {}
        self._opened: tuple[ServerAsker, Ledger] | None = None

    async def start(self) -> tuple[str, int] | SLLMRError:
        """Make the client and the partition; return the server's address and this process's id, or the problem."""
        try:
            self._open()
        except SLLMRError as error:
            return error
        return self._server.address(), os.getpid()

    async def ask(self, question: Question, form: ServerForm | None = None, answered: bool = False) -> Reply:
        """Return the answer to a question: the partition's, or the server's, which is committed there first.

        `form` is the form of request that the server is known to take, and `answered` whether it has in this run.
        """
        try:
            asker, partition = self._open()
            kept = partition.get(question.key)
        except SLLMRError as problem:
            return Reply(problem=problem)
        if kept is not None:
            return Reply(kept)
        if form is not None:
            asker.begin_with(form, answered=answered)
        self._asking[question.key] = asyncio.ensure_future(self._send(question))
        try:
            return await self._asking[question.key]
        finally:
            del self._asking[question.key]

    async def find(self, key: str) -> Reply:
        """Return the partition's answer to a question, waiting for it if it is just being asked."""
        if (asking := self._asking.get(key)) is not None:
            return await asking
        try:
            return Reply(self._open()[1].get(key))
        except SLLMRError as problem:
            return Reply(problem=problem)

    async def stop(self) -> None:
        """Let go of server and partition."""
        if self._opened is not None:
            asker, ledger = self._opened
            self._opened = None
            await asker.close()
            ledger.close()

    def _open(self) -> tuple[ServerAsker, Ledger]:
        # Also after Ray has started the process again: nobody calls `start` then.
        if self._opened is None:
            asker = ServerAsker(self._server.client(), self._questions, self._price)
            self._opened = asker, Ledger(self._path, patience=_PATIENCE)
        return self._opened

    async def _send(self, question: Question) -> Reply:
        asker, ledger = self._open()
        try:
            completion = await asker.complete(question)
            with warnings.catch_warnings(record=True) as caught:  # no await in here: it would catch other questions'
                warnings.simplefilter("always", SLLMRWarning)
                answer = asker.read(question, completion)
            await asyncio.wrap_future(ledger.record(answer))
        except SLLMRError as problem:
            return Reply(problem=problem, quota=asker.quota)
        told = tuple(one.message for one in caught if isinstance(one.message, SLLMRWarning))
        return Reply(answer, warnings=told, form=asker.form, quota=asker.quota)
