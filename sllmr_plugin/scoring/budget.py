"""`Budget`: money set aside for requests in flight, so that a cap holds whatever they turn out to cost."""

from __future__ import annotations

import asyncio

from .ledger_file import Completions

_GUESSED_COMPLETION = 1000  # tokens of an answer without a limit, as long as there has been none
_LENGTHENED = 2


class AnswerLengths:
    """How long answers without a limit of their length get, as far as is known.

    Parameters
    ----------
    so_far : Completions
        What the ledger has of them.
    """

    def __init__(self, so_far: Completions) -> None:
        self._longest, self._foreseen = so_far.longest, so_far.number

    @property
    def longest(self) -> float:
        """Tokens to set aside for an answer: twice those of the longest so far."""
        return _LENGTHENED * self._longest or _GUESSED_COMPLETION

    @property
    def room(self) -> int:
        """How many may be in flight under a cap: one more with every answer that is not longer than foreseen."""
        return 1 + self._foreseen

    def note(self, tokens: int) -> None:
        """Go by the tokens of an answer from now on."""
        unforeseen = not self._longest or tokens > self.longest
        self._foreseen = 0 if unforeseen else self._foreseen + 1
        self._longest = max(self._longest, tokens)


class Budget:
    """What has been spent, and what may be.

    Parameters
    ----------
    spent : float
        USD spent so far.
    most : float or None
        USD that must not be exceeded; None is no cap.

    Attributes
    ----------
    spent : float
        USD.
    in_flight : int
        Requests that money is set aside for.
    unlimited : float
        USD set aside for an answer without a limit of its length. Set it anew when longer ones turn up: it counts for
        those in flight, too.
    """

    def __init__(self, spent: float, most: float | None) -> None:
        self.spent = self._start = spent
        self.in_flight = 0
        self._most = most
        self.unlimited = 0.0
        self._n_unlimited = 0
        self._reserved = 0.0
        self._changed = asyncio.Condition()

    @property
    def spent_here(self) -> float:
        """USD spent since this budget was made."""
        return self.spent - self._start

    async def reserve(self, cost: float, stop: asyncio.Event, *, unlimited: bool = False) -> bool:
        """Set money aside for a request, waiting for those in flight if they leave too little.

        Parameters
        ----------
        cost : float
            The most that it may cost, in USD; without the answer, if that is unlimited.
        stop : asyncio.Event
            Ends the waiting.
        unlimited : bool, default=False
            Whether the answer may have any length.

        Returns
        -------
        bool
            False if there is too little even with nothing in flight, or `stop` was set meanwhile.
        """
        async with self._changed:
            while self._most is not None and self._committed(self._n_unlimited + unlimited) + cost > self._most:
                if self.in_flight == 0 or stop.is_set():
                    return False
                await self._changed.wait()
            self._reserved += cost
            self._n_unlimited += unlimited
            self.in_flight += 1
        return True

    async def release(self, cost: float, *, unlimited: bool = False) -> None:
        """Give back what `reserve` has set aside; what the request did cost is added to `spent` before."""
        async with self._changed:
            self.in_flight -= 1
            self._n_unlimited -= unlimited
            self._reserved = self._reserved - cost if self.in_flight else 0.0  # no rounding piles up
            self._changed.notify_all()

    def _committed(self, n_unlimited: int) -> float:
        """Return the USD that are spent or set aside with so many unlimited answers in flight."""
        return self.spent + self._reserved + n_unlimited * self.unlimited
