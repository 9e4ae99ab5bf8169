"""Several processes that train one wrapped model: what is refused, whose rows, gradients summed, logs of all."""

from __future__ import annotations

import inspect
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from ..errors import ProcessesError
from ..handle import Handle
from ..parallel.ranks import Ranks
from .deepctr.fit_seams import library_prints
from .first_rows import batch_norms


def check_processes(model: Any, handle: Handle, ranks: Ranks, arguments: dict[str, Any], augmented: bool) -> None:
    """Refuse what several processes would get wrong, before anything is trained.

    Raises
    ------
    ProcessesError
        Naming all of it; or saying what the processes have been given differently.
    """
    problems = []
    config, gate = handle.config, handle.gate
    if handle.enabled and config.active:
        if gate.trained_by_steps:
            problems.append(
                f"a {type(gate).__name__}, which is trained step by step, does not work under several processes for "
                "now. Use gate='disagreement' or gate='fixed', or train in one process."
            )
        if config.user_source != "table":
            problems.append("user_source='batch' would see this process's rows only. Use user_source='table'.")
        if config.in_batch_pairs:
            problems.append("in_batch_pairs=True would miss pairs across processes. Use in_batch_pairs=False.")
    if not handle.whole_batches:
        problems.append("with whole_batches=False every process would get all rows. Leave it at True.")
    if augmented:
        problems.append("an augmented model's adaptor is not shared among processes for now. Train it in one process.")
    if problems:
        raise ProcessesError(f"this cannot be trained by {ranks.world} processes: " + " Also: ".join(problems))
    told = _fingerprint(model, handle, arguments)
    everyone = ranks.gather(torch.tensor(list(told.values()), dtype=torch.int64))
    differ = [name for name, same in zip(told, (everyone == everyone[0]).all(dim=0).tolist(), strict=True) if not same]
    if differ:
        raise ProcessesError(
            f"the processes were not given the same {', '.join(differ)}. Call fit with the same arguments and all "
            "rows in every one: fit decides which rows a process trains on."
        )


def _fingerprint(model: Any, handle: Handle, arguments: dict[str, Any]) -> dict[str, int]:
    """Return what has to be the same in every process, as numbers by name."""
    x = arguments["x"]
    columns = [x[name] for name in model.feature_index if name in x] if isinstance(x, dict) else x
    table, validation = handle.table.candidates, arguments.get("validation_data")
    numbers = {name: arguments.get(name) for name in ("epochs", "initial_epoch", "validation_split", "shuffle")}
    return {
        "x": _checksum(*columns),
        "y": _checksum(arguments["y"]),
        "batch_size": arguments.get("batch_size") or 0,
        "epochs, validation data or shuffle": zlib.crc32(repr([numbers, validation and len(validation[1])]).encode()),
        "verbose": int((arguments.get("verbose") or 0) > 0),  # above 0 the logs have metrics
        "settings (SelectiveConfig)": zlib.crc32(repr([handle.enabled, handle.config.to_dict()]).encode()),
        "score table": zlib.crc32(repr([len(table.users), len(table.items)]).encode()),
    }


def _checksum(*arrays: Any) -> int:
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, value)
    return value


# torch 2.13 warns of the old name, versions before have no other.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


class OwnBatches(Sampler[list[int]]):
    """One process's rows of every batch, in the order in which one process would have drawn them.

    Parameters
    ----------
    n, batch_size : int
        Rows in all, and of a batch of all processes together.
    shuffle : bool
        Whether a new order is drawn every epoch.
    ranks : Ranks
        Its `n_rows` is set to the rows of each batch.
    least : int
        The fewest rows of a batch that all processes can run. A last batch with fewer joins the one before it.
    """

    def __init__(self, n: int, batch_size: int, shuffle: bool, ranks: Ranks, least: int) -> None:
        if min(n, batch_size) < least:
            raise ProcessesError(
                f"a batch of {min(n, batch_size)} rows is too small for {ranks.world} processes, of which every one "
                f"needs {least // ranks.world}. batch_size counts the rows of all processes together: raise it, or "
                "start fewer processes."
            )
        self._n, self._shuffle, self._ranks = n, shuffle, ranks
        starts = list(range(0, n, batch_size))
        if n - starts[-1] < least:
            starts.pop()
        self._cuts = [*starts, n]

    def __len__(self) -> int:
        return len(self._cuts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start, end in zip(self._cuts, self._cuts[1:], strict=False):
            self._ranks.n_rows = end - start
            yield order[start + self._ranks.rank : end : self._ranks.world]

    def _order(self) -> list[int]:
        if not self._shuffle:
            return list(range(self._n))
        # As torch's RandomSampler draws it. Dropout has moved the processes' random states apart, so one decides.
        seed = self._ranks.of_first(torch.empty((), dtype=torch.int64).random_())
        generator = torch.Generator().manual_seed(int(seed))
        return torch.randperm(self._n, generator=generator).tolist()


class _Step(nn.Module):
    """What DistributedDataParallel calls: a model's forward, without its hooks a second time."""

    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self._forward(inputs, *args, **kwargs)


# Without annotations: torch compares them with types, and finds the strings that a future import makes of them.
def sum_gradients(group, bucket):  # type: ignore[no-untyped-def]
    """Add up a bucket of gradients over the processes: a communication hook of DistributedDataParallel."""
    future = dist.all_reduce(bucket.buffer(), group=group, async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


class Processes:
    """A training of one wrapped model by several processes, for the duration of `fit`.

    Every process starts with the first one's weights. It draws dropout's masks from a random state of its own.

    Parameters
    ----------
    model : wrapped model
        Of this process.
    ranks : Ranks
        More than one.
    forward : callable
        The model's forward pass with the regularizer in it.
    """

    def __init__(self, model: Any, ranks: Ranks, forward: Callable[..., Any]) -> None:
        self.model = model
        self.ranks = ranks
        self._rows_needed = ranks.world * (2 if batch_norms(model) else 1)  # a single row has no batch statistics
        self._steps_told = self._steps = 1
        for buffer in model.buffers():
            buffer.copy_(ranks.of_first(buffer))
        # A static graph allows for weights that no output uses, and for those that only the L2 term uses. Buffers are
        # averaged where they are needed, see `average_buffers`, and not sent in every step.
        options: dict[str, Any] = {"static_graph": True, _SYNC_BUFFERS: False}
        self._ddp = DistributedDataParallel(_Step(model, forward), **options)
        self._ddp.register_comm_hook(None, sum_gradients)
        if ranks.rank > 0:  # equal seeds would give the rows of all processes the same masks
            torch.manual_seed((int(torch.empty((), dtype=torch.int64).random_()) + ranks.rank) % 2**63)

    def forward(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run a training step's forward pass such that its backward pass adds up the gradients.

        Raises
        ------
        ProcessesError
            If these are not this process's rows, or the model adds a loss that is not a sum over rows.
        """
        n_rows = self.ranks.n_rows
        if n_rows is None or inputs.shape[0] != len(range(self.ranks.rank, n_rows, self.ranks.world)):
            raise ProcessesError(
                f"{type(self.model).__name__}.fit makes batches of its own, so the processes would all train on the "
                "same rows. Use the fit of DeepCTR-Torch, or train in one process."
            )
        output = self._ddp(inputs, *args, **kwargs)
        if self.model.aux_loss.requires_grad:
            raise ProcessesError(
                "the model has set aux_loss (DIEN does with use_negsampling=True), which may be a mean over rows and "
                "cannot be added up over processes. Build it without, or train in one process."
            )
        return output

    def batches(self, n: int, batch_size: int, shuffle: bool) -> OwnBatches:
        """Return this process's rows of all batches."""
        batches = OwnBatches(n, batch_size, shuffle, self.ranks, self._rows_needed)
        self._steps_told, self._steps = -(-n // batch_size), len(batches)
        return batches

    def average_buffers(self) -> None:
        """Give all processes the mean of their batch statistics, without which their predictions would differ."""
        for buffer in self.model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.ranks.sum(buffer) / self.ranks.world)

    def before_evaluation(self) -> None:
        """Average the buffers after a training epoch; outside of one nothing is sent."""
        if self.ranks.n_rows is not None:
            self.average_buffers()

    def end_epoch(self, logs: dict[str, float]) -> None:
        """Make an epoch's logs those of all processes: the loss added up, the rest averaged."""
        self.before_evaluation()
        self.ranks.n_rows = None
        values = self.ranks.sum(torch.tensor(list(logs.values()), dtype=torch.float64))
        for name, value in zip(logs, values.tolist(), strict=True):
            logs[name] = value if name == "loss" else value / self.ranks.world
            if name in self.model.metrics:  # fit has divided by the number of batches that it expects
                logs[name] *= self._steps_told / self._steps

    @contextmanager
    def taking_part(self, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the arguments with which the library's `fit` trains, and let only the first process print."""
        verbose, first = arguments.get("verbose", 1), self.ranks.rank == 0
        n_epochs = arguments.get("epochs", 1)
        callbacks = [_Logs(self, n_epochs, told=first and verbose > 0), *(arguments["callbacks"] or []), _Stop(self)]
        with library_prints(lambda text: first and not _tells_an_epoch(text)):
            # 2 has metrics but no progress bar.
            yield {**arguments, "callbacks": callbacks, "verbose": verbose if first else min(verbose, 1) * 2}


def _tells_an_epoch(text: str) -> bool:
    """Whether a line of the library's `fit` tells of an epoch, with this process's part of the loss."""
    return text.startswith("Epoch ") or "s - loss: " in text


class _Callback:
    """Part of DeepCTR-Torch's callback protocol that does nothing."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def set_model(self, model: nn.Module) -> None: ...

    def set_params(self, params: dict) -> None: ...

    def on_train_begin(self, logs: dict | None = None) -> None: ...

    def on_train_end(self, logs: dict | None = None) -> None: ...

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None: ...

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None: ...


class _Logs(_Callback):
    """Runs before all other callbacks: what they see, and what is printed, is of all processes."""

    def __init__(self, processes: Processes, n_epochs: int, *, told: bool) -> None:
        super().__init__(processes)
        self._n_epochs, self._told, self._began = n_epochs, told, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is None:
            return
        self.processes.end_epoch(logs)
        if self._told:
            told = " - ".join(f"{name}: {value: .4f}" for name, value in logs.items())
            print(f"Epoch {epoch + 1}/{self._n_epochs}\n{int(time.monotonic() - self._began)}s - {told}")


class _Stop(_Callback):
    """Runs after all other callbacks: a process that stops alone would leave the others waiting for it."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        model = self.processes.model
        model.stop_training = bool(self.processes.ranks.sum(torch.tensor(float(model.stop_training))) > 0)
