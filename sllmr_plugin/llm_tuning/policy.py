"""A tuning by policy steps over questions that are known beforehand: CURec's alignment, RecLM's policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    return model
