"""`StepBudget`: how many users a training step can pay for, from the time that its first steps take."""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from ..errors import StepBudgetWarning
from ..parallel.ranks import Ranks

_SKIPPED = 4  # the first steps allocate memory and start threads
TIMED = 24
_FEWER = 4


@dataclass(frozen=True)
class StepCost:
    """What steps were measured to take, and what follows.

    Attributes
    ----------
    budget : float
        As of `SelectiveConfig.step_budget`.
    users : int
        Users a step.
    plain, per_user : float
        Seconds of a step without extra rows, and of the rows of a user; medians, see `StepBudget`.
    """

    budget: float
    users: int
    plain: float
    per_user: float

    @property
    def share(self) -> float:
        """Time of a step, of one without extra rows."""
        return 1 + self.users * self.per_user / self.plain if self.plain > 0 else float("inf")

    def __str__(self) -> str:
        return (
            f"{self.budget:g}, {self.users} users a step ({1000 * self.plain:.3g} ms without them, "
            f"{1000 * self.per_user:.3g} ms a user)"
        )


class StepBudget:
    """Times the first steps of a training and decides, once, how many users each step draws from then on.

    After 4 steps that are not timed, steps draw in turn as many users as without a budget and a quarter of these, 12
    times each. From the medians m and f of their times follow the time of a user, ``c = (m - f) / (many - few)``, and
    that of a step without any, ``p = f - few * c``. Users a step are then ``(budget - 1) * p / c``, rounded down to a
    power of two and at most as many as without a budget: more than these bring nothing (docs/benchmarks.md). The
    time is that between the beginnings of two steps, so it holds everything that the library does in a step.

    Which users are drawn while steps are timed does not depend on the times. What follows does, by the number alone.

    Parameters
    ----------
    budget : float
        Time that a step may take, of one without extra rows; above 1.
    clock : callable, default=time.perf_counter
        Returns seconds.

    Attributes
    ----------
    cost : StepCost or None
        None until it is decided.
    n_timed : int
        Steps timed so far, of `TIMED`.
    """

    def __init__(self, budget: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.budget = budget
        self.cost: StepCost | None = None
        self._clock = clock
        self._number = 0
        self._times: dict[int, list[float]] = {}
        self._running: tuple[int, float] | None = None

    @property
    def n_timed(self) -> int:
        """Steps timed so far."""
        return sum(map(len, self._times.values()))

    def pause(self) -> None:
        """Leave out the time until the next step: an evaluation, for instance."""
        self._running = None

    def users(self, most: int, device: torch.device, ranks: Ranks) -> int:
        """Return how many users the step that begins draws.

        Parameters
        ----------
        most : int
            Users a step without a budget.
        device : torch.device
            Where the model is: what a GPU still has to do belongs to the step before.
        ranks : Ranks
            All processes call this in the same step, and the first one decides.
        """
        if self.cost is None:
            self._stop(device)
        if self.cost is None and self.n_timed == TIMED:
            self.cost = self._decided(ranks)
        if self.cost is not None:
            return min(self.cost.users, most)
        self._number += 1
        n_users = most if self._number % 2 else max(1, most // _FEWER)
        if self._number > _SKIPPED:
            self._running = n_users, self._clock()
        return n_users

    def _stop(self, device: torch.device) -> None:
        """Note how long the step before took."""
        if self._running is None:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        n_users, began = self._running
        self._times.setdefault(n_users, []).append(self._clock() - began)
        self._running = None

    def _decided(self, ranks: Ranks) -> StepCost:
        few, many = min(self._times), max(self._times)
        least, greatest = (statistics.median(self._times[n]) for n in (few, many))
        per_user = max(greatest - least, 0.0) / max(many - few, 1)
        plain = max(least - few * per_user, 0.0)
        plain, per_user = ranks.of_first(torch.tensor([plain, per_user], dtype=torch.float64)).tolist()
        allowed = (self.budget - 1) * plain
        if allowed >= many * per_user:  # also where the rows of users take no time that could be measured
            return StepCost(self.budget, many, plain, per_user)
        if allowed < per_user:
            warnings.warn(
                f"a step with the rows of one user takes {1 + per_user / plain if plain > 0 else float('inf'):.3g} "
                f"times as long as one without, and step_budget={self.budget:g} allows less. One user is drawn. Raise "
                "step_budget, or lower pairs_per_user.",
                StepBudgetWarning,
                stacklevel=2,
            )
            return StepCost(self.budget, 1, plain, per_user)
        return StepCost(self.budget, 1 << (int(allowed / per_user).bit_length() - 1), plain, per_user)

    def warn_if_open(self) -> None:
        """Warn at the end of `fit` if too few steps were made to decide."""
        if self.cost is None and self._number:
            warnings.warn(
                f"step_budget={self.budget:g} is not decided yet: fit ended after {self.n_timed} of {TIMED} timed "
                "steps, which draw as many users as without a budget and a quarter of these in turn. The next fit goes "
                "on; for trainings that are this short set users_per_step.",
                StepBudgetWarning,
                stacklevel=3,
            )

    def to_json(self) -> str:
        """Return what was decided, to be saved; empty before."""
        return json.dumps(asdict(self.cost)) if self.cost is not None else ""

    def restore(self, saved: str) -> None:
        """Take what `to_json` has returned."""
        self.cost = StepCost(**json.loads(saved)) if saved else None

    def __str__(self) -> str:
        return str(self.cost) if self.cost is not None else f"{self.budget:g}, not decided yet"
