"""`Budget`: money set aside for requests in flight, so that a cap holds whatever they turn out to cost."""

from __future__ import annotations

import asyncio


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
    """

    def __init__(self, spent: float, most: float | None) -> None:
        self.spent = self._start = spent
        self.in_flight = 0
        self._most = most
        self._reserved = 0.0
        self._changed = asyncio.Condition()

    @property
    def spent_here(self) -> float:
        """USD spent since this budget was made."""
        return self.spent - self._start

    async def reserve(self, cost: float, stop: asyncio.Event) -> bool:
        """Set money aside for a request, waiting for those in flight if they leave too little.

        Returns
        -------
        bool
            False if there is too little even with nothing in flight, or `stop` was set meanwhile.
        """
        async with self._changed:
            while self._most is not None and self.spent + self._reserved + cost > self._most:
                if self.in_flight == 0 or stop.is_set():
                    return False
                await self._changed.wait()
            self._reserved += cost
            self.in_flight += 1
        return True

    async def release(self, cost: float) -> None:
        """Give back what `reserve` has set aside; what the request did cost is added to `spent` before."""
        async with self._changed:
            self.in_flight -= 1
            self._reserved = self._reserved - cost if self.in_flight else 0.0  # no rounding piles up
            self._changed.notify_all()
