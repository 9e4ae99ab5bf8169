"""A tuning and its folder: goes on where it stopped, step for step as if it had not."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import RunFolderError
from ..evaluation.store import changes, read_json, write_json, write_whole

Step = Callable[[int, Callable[[], None]], Mapping[str, float]]
#: Folder of the tuned weights inside a run folder.
ADAPTER = "adapter"
_METRICS = "metrics.jsonl"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Carried(Protocol):
    """What steps change beside the weights, and a tuning that goes on needs again."""

    def state(self) -> Any:
        """Return it as plain JSON values."""
        ...

    def restore(self, state: Any) -> None:
        """Take up what `state` has returned, in an object that has seen no step."""
        ...


class TuningRun:
    """The folder of one tuning.

    ``settings.json`` has what the result depends on, ``metrics.jsonl`` a JSON object a step, with its number;
    ``checkpoint.safetensors`` weights, moments of the optimizer, the number of the next step and what else the steps
    change, in one file, so that they always belong together; ``adapter/`` the tuned weights, once it is finished.

    Parameters
    ----------
    path : path
        Made if it does not exist.
    settings : mapping
        Plain JSON values.

    Raises
    ------
    RunFolderError
        If the folder holds a tuning with other settings, or cannot be written.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        file = self.path / "settings.json"
        if file.exists():
            different = changes(read_json(file), settings)
            if different:
                raise RunFolderError(
                    f"{self.path} holds a tuning with other settings ({'; '.join(different)}). Choose another folder."
                )
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(file, dict(settings))
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written ({error}). Choose another folder.") from None

    @property
    def adapter(self) -> Path:
        """Folder of the tuned weights."""
        return self.path / ADAPTER

    @staticmethod
    def read(path: str | Path) -> list[dict[str, Any]]:
        """Return what the steps of a tuning have measured, from its folder."""
        file = Path(path) / _METRICS
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    def train(
        self,
        weights: Mapping[str, nn.Parameter],
        step: Step,
        n_steps: int,
        *,
        learning_rate: float,
        seed: int,
        save_every: int,
        carried: Carried | None = None,
        verbose: bool = True,
    ) -> None:
        """Run the steps that are left, by AdamW with a cosine schedule.

        Random numbers of a step depend on `seed` and its number alone, so a tuning that was stopped ends with the same
        weights, to the bit on one machine, as one that was not.

        Parameters
        ----------
        weights : mapping of str to Parameter
            What is trained.
        step : callable
            Takes a step's number, leaves gradients in the weights, and returns what it measured. A step of several
            updates calls its second argument between two, which changes the weights and drops the gradients. A step
            that goes on with the new weights calls it after the last as well; without gradients nothing changes.
        n_steps : int
            Of the whole tuning.
        learning_rate : float
            Of the first step; falls to 0 along half a cosine.
        seed : int
        save_every : int
            Steps between two checkpoints.
        carried : Carried, optional
            Lies in the checkpoint with the weights.
        verbose : bool, default=True
            Show a progress bar.
        """
        optimizer = torch.optim.AdamW(list(weights.values()), lr=learning_rate, weight_decay=0.0)
        first = self._restore(weights, optimizer, carried)
        if first >= n_steps:
            return
        parameters = list(weights.values())

        def update() -> None:
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        kept = [line for line in self.read(self.path) if line["step"] < first]
        self._write_metrics(kept)
        bar = tqdm(
            total=n_steps, initial=first, unit=" steps", disable=not verbose, file=sys.stderr, dynamic_ncols=True
        )
        with bar, torch.random.fork_rng(devices=_accelerators(weights)):
            for number in range(first, n_steps):
                torch.manual_seed(seed * 1_000_003 + number)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * number / n_steps))
                measured = dict(step(number, update))
                update()
                self._append({"step": number, **measured})
                bar.set_postfix({name: f"{value:.3g}" for name, value in measured.items()}, refresh=False)
                bar.update()
                if (number + 1) % save_every == 0 or number + 1 == n_steps:
                    self._save(weights, optimizer, carried, number + 1)

    def _save(self, weights: Mapping[str, nn.Parameter], optimizer: Any, carried: Carried | None, done: int) -> None:
        tensors: dict[str, Tensor] = {}
        for name, weight in weights.items():
            tensors[f"weight/{name}"] = weight.detach().cpu().contiguous()
            moments = optimizer.state.get(weight, {})
            for moment in _MOMENTS:
                if moment in moments:  # a weight that no step gave a gradient has none
                    tensors[f"{moment}/{name}"] = moments[moment].cpu().contiguous()
            tensors[f"steps/{name}"] = torch.as_tensor(moments.get("step", 0.0)).reshape(1).cpu()
        told = json.dumps({"done": done, "carried": None if carried is None else carried.state()}).encode()
        tensors["told"] = torch.frombuffer(bytearray(told), dtype=torch.uint8)
        write_whole(self._checkpoint, lambda partial: safetensors.torch.save_file(tensors, partial))

    def _restore(self, weights: Mapping[str, nn.Parameter], optimizer: Any, carried: Carried | None) -> int:
        if not self._checkpoint.exists():
            return 0
        try:
            tensors = safetensors.torch.load_file(self._checkpoint)
            told = json.loads(tensors["told"].numpy().tobytes())
            for name, weight in weights.items():
                weight.data.copy_(tensors[f"weight/{name}"])
                if f"{_MOMENTS[0]}/{name}" in tensors:
                    moments = {moment: tensors[f"{moment}/{name}"].to(weight.device) for moment in _MOMENTS}
                    optimizer.state[weight] = {"step": tensors[f"steps/{name}"][0].clone(), **moments}
        except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise RunFolderError(
                f"{self._checkpoint} cannot be read ({error}). Delete it to begin again, or choose another folder."
            ) from None
        if carried is not None:
            carried.restore(told["carried"])
        return int(told["done"])

    @property
    def _checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    def _append(self, line: Mapping[str, Any]) -> None:
        with (self.path / _METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _write_metrics(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_whole(self.path / _METRICS, lambda partial: partial.write_text(text, encoding="utf-8"))


def _accelerators(weights: Mapping[str, nn.Parameter]) -> list[int]:
    devices = {weight.device for weight in weights.values()}
    return [device.index or 0 for device in devices if device.type == "cuda"]
