"""Supervised tuning on conversations of two turns (RecLM, Sec. 2.3)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import DataError, IncompleteWarning
from ..evaluation.store import digest
from ..scoring.prompts import Message
from ..settings import Bounds
from .labels import IGNORED, labelled, padded
from .local_model import LocalModel, LoraSettings
from .runs import TuningRun


@dataclass(frozen=True, kw_only=True)
class TuningSettings(LoraSettings):
    """Settings of every supervised tuning, with those of `LoraSettings`; defaults are those of RecLM's authors.

    Parameters
    ----------
    learning_rate : float, default=5e-5
        Falls to 0 along half a cosine.
    epochs : int, default=3
        Times that every example is seen.
    batch_size : int, default=8
        Examples of a step.
    max_length : int, default=2048
        Longest sequence, in tokens; longer ones are left out, with a warning.
    save_every : int, default=50
        Steps between two checkpoints.
    device : str, default="cpu"
        A torch device.
    seed : int, default=0
        Decides new weights, the order of examples and dropout.
    """

    learning_rate: Annotated[float, Bounds(above=0)] = 5e-5
    epochs: Annotated[int, Bounds(least=1)] = 3
    batch_size: Annotated[int, Bounds(least=1)] = 8
    max_length: Annotated[int, Bounds(least=1)] = 2048
    save_every: Annotated[int, Bounds(least=1)] = 50
    device: str = "cpu"
    seed: int = 0

    def recorded(self) -> dict[str, Any]:
        """Return what the result depends on."""
        kept = asdict(self)
        for name in ("save_every", "device"):
            del kept[name]
        return kept


def fingerprint(texts: Sequence[Sequence[Message]]) -> str:
    """Return a fingerprint of conversations, by which a run folder tells other data apart."""
    told = "\0".join(f"{message['role']}\1{message['content']}" for messages in texts for message in messages)
    return digest(np.frombuffer(told.encode(), dtype=np.uint8))


def batches(n_examples: int, size: int, epochs: int, seed: int) -> list[np.ndarray]:
    """Deal the numbers of examples into steps: each once an epoch, in another order each time."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for _ in range(epochs):
        order = rng.permutation(n_examples)
        found += [order[start : start + size] for start in range(0, n_examples, size)]
    return found


def fitting(sequences: Sequence[tuple[list[int], Any]], longest: int, *, stacklevel: int = 3) -> list[int]:
    """Return the numbers of sequences that are short enough.

    Raises
    ------
    DataError
        If none is.

    Warns
    -----
    IncompleteWarning
        If some are not.
    """
    kept = [number for number, (ids, _) in enumerate(sequences) if len(ids) <= longest]
    remedy = "Show fewer items (history_length) or similar users (neighbours), or raise max_length."
    if not kept:
        raise DataError(f"not one of {len(sequences)} sequences has {longest} tokens or fewer. {remedy}")
    if len(kept) < len(sequences):
        warnings.warn(
            f"{len(sequences) - len(kept)} of {len(sequences)} sequences have more than {longest} tokens and are left "
            f"out. {remedy}",
            IncompleteWarning,
            stacklevel=stacklevel,
        )
    return kept


def tune_on_answers(
    base: str,
    conversations: Sequence[Sequence[Message]],
    out: str | Path,
    settings: TuningSettings,
    *,
    adapter: str | Path | None = None,
    verbose: bool = True,
) -> LocalModel:
    """Tune a model on the answers of conversations, and keep its LoRA weights in ``out/adapter``.

    The loss of a step is the mean cross-entropy over all tokens of its answers; questions have no part in it.

    Parameters
    ----------
    base : str
        As in `LocalModel.load`.
    conversations : sequence of sequence of Message
        Each ends with an answer.
    out : path
        The run folder (`TuningRun`); the same call goes on where it was stopped.
    settings : TuningSettings
    adapter : path, optional
        Go on from these LoRA weights.
    verbose : bool, default=True
        Show a progress bar.

    Returns
    -------
    LocalModel
        Tuned.

    Raises
    ------
    ConfigError, DataError, MissingLibraryError, RunFolderError
        If model, conversations or folder cannot be used.

    Warns
    -----
    IncompleteWarning
        If conversations are longer than `TuningSettings.max_length`.
    """
    depends: Mapping[str, Any] = {
        "step": "sft",
        "base": base,
        "from": str(adapter) if adapter else None,
        "conversations": fingerprint(conversations),
        **settings.recorded(),
    }
    run = TuningRun(out, depends)
    model = LocalModel.load(base, adapter=adapter, lora=settings, device=settings.device, seed=settings.seed)
    examples = [labelled(model.tokenizer, messages) for messages in conversations]
    longest = min(settings.max_length, model.context or settings.max_length)
    examples = [examples[number] for number in fitting(examples, longest)]
    plan = batches(len(examples), settings.batch_size, settings.epochs, settings.seed)

    def step(number: int, update: object) -> dict[str, float]:
        chosen = [examples[place] for place in plan[number]]
        n_labels = sum(label != IGNORED for _, labels in chosen for label in labels)
        loss = 0.0
        for ids, labels in _passes(chosen):
            part = answer_loss(model, ids, labels) / n_labels
            part.backward()
            loss += part.item()
        return {"loss": loss}

    model.network.train()
    run.train(
        model.trained(),
        step,
        len(plan),
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        save_every=settings.save_every,
        verbose=verbose,
    )
    model.network.eval()
    model.save(run.adapter)
    return model


def answer_loss(model: LocalModel, ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the sum of the cross-entropy over labelled tokens of sequences."""
    rows, mask = padded(ids, model.fill)
    wanted, _ = padded(labels, IGNORED)
    places = (wanted[:, 1:] != IGNORED).any(dim=0).nonzero()[:, 0]  # before a labelled token of any sequence
    return F.cross_entropy(
        model.logits(rows, mask, places).flatten(0, 1).float(),
        wanted[:, places + 1].flatten().to(model.device),
        ignore_index=IGNORED,
        reduction="sum",
    )


_TOKENS = 8192  # of a forward pass, padding included: a logit for each word of the vocabulary is held for each


def _passes(
    examples: Sequence[tuple[list[int], list[int]]],
) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """Cut a step's examples into forward passes that fit in memory; their gradients add up."""
    start = 0
    while start < len(examples):
        end, longest = start, 0
        while end < len(examples):
            longest = max(longest, len(examples[end][0]))
            if end > start and longest * (end + 1 - start) > _TOKENS:
                break
            end += 1
        part = examples[start:end]
        yield [ids for ids, _ in part], [labels for _, labels in part]
        start = end
