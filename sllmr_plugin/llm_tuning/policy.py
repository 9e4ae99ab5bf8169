"""A tuning by policy steps over questions that are known beforehand: CURec's alignment, RecLM's policy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import IncompleteWarning
from .grpo import GRPOSettings, Question, policy_step
from .local_model import LocalModel
from .runs import TuningRun
from .sft import batches, fingerprint


def tune_policy(
    base: str,
    questions: Sequence[Question],
    out: str | Path,
    settings: GRPOSettings,
    *,
    rewarded_by: str,
    adapter: str | Path | None = None,
    verbose: bool = True,
) -> LocalModel:
    """Tune a model towards answers of a higher reward, and keep its LoRA weights in ``out/adapter``.

    Parameters
    ----------
    base : str
        As in `LocalModel.load`.
    questions : sequence of Question
    out : path
        The run folder (`TuningRun`); the same call goes on where it was stopped. ``metrics.jsonl`` has the mean reward
        of each step.
    settings : GRPOSettings
    rewarded_by : str
        What the rewards are, for the settings of the folder.
    adapter : path, optional
        Go on from these LoRA weights, and stay near them; by default, near the model itself.
    verbose : bool, default=True
        Show a progress bar.

    Returns
    -------
    LocalModel
        Tuned.

    Raises
    ------
    ConfigError, MissingLibraryError, RunFolderError
        If model or folder cannot be used.

    Warns
    -----
    IncompleteWarning
        If the rewards of every group were equal, so that nothing was learned.
    """
    depends: dict[str, Any] = {
        "step": "policy",
        "rewarded_by": rewarded_by,
        "base": base,
        "from": str(adapter) if adapter else None,
        "questions": fingerprint([question.messages for question in questions]),
        **settings.recorded(),
    }
    run = TuningRun(out, depends)
    model = LocalModel.load(
        base,
        adapter=adapter,
        reference=adapter is not None,
        lora=settings,
        device=settings.device,
        seed=settings.seed,
    )
    plan = batches(len(questions), settings.questions, settings.epochs, settings.seed)
    run.train(
        model.trained(),
        lambda number, update: policy_step(model, [questions[place] for place in plan[number]], settings, update)[1],
        len(plan),
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        save_every=settings.save_every,
        verbose=verbose,
    )
    model.save(run.adapter)
    warn_of_equal_rewards(run, stacklevel=3)
    return model


def warn_of_equal_rewards(run: TuningRun, *, stacklevel: int = 2) -> None:
    """Warn if no step of a tuning had answers of different rewards; `stacklevel` is that of `warnings.warn`."""
    lines = run.read(run.path)
    if lines and not any(line["spread"] for line in lines):
        warnings.warn(
            f"in none of {len(lines)} steps one answer was worth more than another (mean reward "
            f"{sum(line['reward'] for line in lines) / len(lines):.3g}), so nothing was learned. Take a larger model, "
            "one that is tuned already (adapter), more answers to a question (group) or longer ones (max_new_tokens).",
            IncompleteWarning,
            stacklevel=stacklevel,
        )
