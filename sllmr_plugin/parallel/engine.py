"""`Engine`: what spreads work over processes or machines, and how work is cut for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Shared = TypeVar("Shared")
Shard = TypeVar("Shard")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs a function on shards of work; `RayEngine` is one. Where an engine is optional, None works in this process.

    Attributes
    ----------
    workers : int
        Shards worked on at a time.
    """

    @property
    def workers(self) -> int:
        """Shards worked on at a time."""
        ...

    def map(
        self, function: Callable[[Shared, Shard], Result], shared: Shared, shards: Iterable[Shard]
    ) -> Iterator[tuple[Shard, Result]]:
        """Yield every shard with ``function(shared, shard)``, in the order of the shards."""
        ...


def cut(n: int, workers: int, *, multiple: int = 1, at_least: int = 1) -> Iterator[slice]:
    """Cut n things into slices: four for each worker, so that a slow one does not hold up the others for long.

    Parameters
    ----------
    n : int
        How many things there are.
    workers : int
        Who works on them.
    multiple : int, default=1
        Slices begin at multiples of it.
    at_least : int, default=1
        No slice but the last is shorter.

    Examples
    --------
    >>> [(part.start, part.stop) for part in cut(10, workers=1, multiple=2)]
    [(0, 4), (4, 8), (8, 10)]
    """
    wanted = max(at_least, -(-n // (4 * workers)))
    size = -(-wanted // multiple) * multiple
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
