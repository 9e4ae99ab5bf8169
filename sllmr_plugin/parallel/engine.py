"""`Engine`: what spreads work over processes or machines, how work is cut for it, and `RayEngine`, a Ray cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from ..errors import ConfigError, EngineError, SLLMRError

Shared = TypeVar("Shared")
Shard = TypeVar("Shard")
Result = TypeVar("Result")

_RETRIES = 5  # of a shard whose worker process died
_AHEAD = 4  # finished shards, for each worker, that may wait for one before them


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


class RayEngine:
    """A connection to a Ray cluster.

    It is the cluster that this process is connected to already, or that ``RAY_ADDRESS`` names, or that ``ray start``
    has started on this machine; else one of this machine alone is started, and ends with this object. The package has
    to be installed on every machine. Functions are sent by name, and settings and arrays by value; keys are never
    sent, workers read them from their own environment.

    Parameters
    ----------
    workers : int or None, default=None
        Processes at work; each takes one of the cluster's CPUs. None takes as many as it has.

    Raises
    ------
    EngineError
        If Ray is not installed, cannot be reached, or has fewer CPUs than workers.

    Examples
    --------
    >>> with RayEngine(workers=2) as engine:  # doctest: +SKIP
    ...     full_ranking(model, data, engine=engine)
    """

    def __init__(self, workers: int | None = None) -> None:
        self.ray = import_ray()
        self._ours = not self.ray.is_initialized()
        if self._ours:
            _connect(self.ray, workers)
        try:
            cpus = int(self.ray.cluster_resources().get("CPU", 0))
            if cpus < (workers or 1):
                raise EngineError(
                    f"the Ray cluster has {cpus} CPUs, too few for {workers or 1} workers. Lower --workers, or add "
                    "machines with `ray start`."
                )
        except BaseException:
            self.close()
            raise
        self.workers = workers or cpus

    def map(
        self, function: Callable[[Shared, Shard], Result], shared: Shared, shards: Iterable[Shard]
    ) -> Iterator[tuple[Shard, Result]]:
        """Yield every shard with ``function(shared, shard)``, in the order of the shards.

        Shards are taken as they are needed. One whose worker process died is worked on again.

        Parameters
        ----------
        function : callable
            Of a module, so that it is sent by name.
        shared : object
            Sent to each machine once; arrays in it are not even copied for its processes, and read-only there.
        shards : iterable

        Raises
        ------
        SLLMRError
            What the function raises; `EngineError` for anything else, and if a shard's workers die repeatedly.
        """
        task = self.ray.remote(num_cpus=1, max_retries=_RETRIES)(_call)
        shared_reference = self.ray.put(shared)
        source = enumerate(shards)
        running: dict[Any, tuple[int, Shard]] = {}
        finished: dict[int, tuple[Shard, Result]] = {}
        following = 0  # number of the shard to yield next
        try:
            while True:
                while len(running) < self.workers and len(running) + len(finished) < _AHEAD * self.workers:
                    number, shard = next(source, (-1, None))
                    if number < 0:
                        break
                    running[task.remote(function, shared_reference, shard)] = number, shard  # type: ignore[assignment]
                if not running and not finished:
                    return
                if following not in finished:
                    (done,), _ = self.ray.wait(list(running), num_returns=1)
                    number, shard = running.pop(done)
                    finished[number] = shard, self.get(done)
                while following in finished:
                    yield finished.pop(following)
                    following += 1
        finally:
            for reference in running:  # an error, Ctrl-C, or nobody wants the rest
                self.ray.cancel(reference)

    def get(self, reference: Any) -> Any:
        """Return what a reference stands for; raise the typed errors of this package in place of Ray's own."""
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, SLLMRError):
                raise error.cause from None
            raise EngineError(
                f"a worker failed: {type(error.cause).__name__}: {error.cause}. Correct it and run the same again."
            ) from error
        except exceptions.RayError as error:
            what = " ".join(str(error).split())[:500]
            raise EngineError(f"a worker was lost: {what}. Look at the cluster and run the same again.") from None

    def close(self) -> None:
        """Disconnect, and end the cluster, if this object connected. A second call does nothing."""
        if self._ours:
            self._ours = False
            self.ray.shutdown()

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def import_ray() -> Any:
    """Import Ray, which takes seconds, when it is needed.

    Raises
    ------
    EngineError
        If it is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise EngineError(
            f"engine ray needs the package ray ({error}). Install it with: pip install 'sllmr-plugin[ray]'"
        ) from None
    return ray


def _connect(ray: Any, workers: int | None) -> None:
    # Of a cluster that starts here; one that runs has its own settings. Ray would report usage over the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about a change to come
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    try:
        try:
            ray.init(num_cpus=max(workers, os.cpu_count() or 1) if workers else None, **quiet)
        except ValueError:  # there is a cluster already, whose CPUs cannot be set
            ray.init(**quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"Ray cannot be reached or started ({' '.join(str(error).split())[:500]}). Check RAY_ADDRESS and `ray "
            "status`, or use --engine local."
        ) from None


def _call(function: Callable[[Shared, Shard], Result], shared: Shared, shard: Shard) -> Result:
    """Work on a shard: the body of a task."""
    return function(shared, shard)


@contextlib.contextmanager
def open_engine(engine: str, workers: int | None = None) -> Iterator[RayEngine | None]:
    """Connect to an engine by its name, as commands and functions take it.

    Parameters
    ----------
    engine : {"local", "ray"}
        ``local`` is this process.
    workers : int or None, default=None
        Of ``ray``.

    Yields
    ------
    RayEngine or None
        None for ``local``.

    Raises
    ------
    ConfigError
        If there is no such engine, or workers are given to ``local``.
    EngineError
        As of `RayEngine`.
    """
    if engine not in ("local", "ray"):
        raise ConfigError(f"engine is {engine!r}; write local or ray.")
    if engine == "local":
        if workers is not None:
            raise ConfigError("--workers is for --engine ray; add that, or leave it out.")
        yield None
        return
    with RayEngine(workers) as opened:
        yield opened
