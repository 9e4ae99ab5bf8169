"""A model card of a trained experiment: what was trained on what, how good it is, and what must not be read into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.comparison import Comparison, format_table
from ..evaluation.modes import PARTS, Mode
from .experiment import Experiment

CARD = "card.md"
"""The file in a run folder that holds the card."""


def model_card(experiment: Experiment, comparison: Comparison, inputs: Mapping[str, Any]) -> str:
    """Write the card of an experiment's runs, after Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).

    Parameters
    ----------
    experiment : Experiment
        What was trained.
    comparison : Comparison
        Its runs.
    inputs : mapping
        Counts of interactions, scores and texts, as `describe_inputs` of a comparison gives them.

    Returns
    -------
    str
        Markdown.
    """
    mode = Mode.of(experiment.mode)
    sections = {
        "Model": _model(experiment, mode),
        "Data": _data(experiment, mode, inputs),
        "Training": _training(experiment),
        "Evaluation": [format_table(comparison, "markdown")],
        "Limits": _limits(experiment, mode, inputs),
        "Again": ["`sllmr train --config experiment.yaml --out ANOTHER_DIR`, in this folder."],
    }
    parts = [f"# {experiment.name}"]
    parts += ["\n\n".join([f"## {head}", *lines]) for head, lines in sections.items()]
    return "\n\n".join(parts) + "\n"


def _model(experiment: Experiment, mode: Mode) -> list[str]:
    about = f" ({experiment.model.about})" if experiment.model.about else ""
    done = [PARTS[part].says for part in mode.parts]
    if mode.uses_scores:
        done.append(f"LLM pairs while training: loss {experiment.config.loss}, gate {experiment.config.gate}")
    serving = (
        f"Serving needs the inputs of {' and '.join(mode.served)} beside the backbone's own."
        if mode.served
        else "Serving is the plain backbone's: nothing of a language model is asked or looked up."
    )
    backbone = f"`{experiment.backbone}`{about}, embedding {experiment.training.embedding_dim}"
    return [f"{backbone}. Mode `{experiment.mode}`: {'; '.join(done) or 'plain'}.", serving]


def _data(experiment: Experiment, mode: Mode, inputs: Mapping[str, Any]) -> list[str]:
    counts = inputs["interactions"]
    lines = [
        f"{experiment.data.name}: {counts['users']:,} users ({counts['cold_users']:,} of them cold), "
        f"{counts['items']:,} items ({counts['tail_items']:,} of the long tail), {counts['train']:,} training, "
        f"{counts['validation']:,} validation and {counts['test']:,} test interactions; split: {experiment.data.split}."
    ]
    if mode.uses_scores:
        scores = inputs["scores"]
        note = f" {experiment.data.scores_note}" if experiment.data.scores_note else ""
        lines.append(
            f"Scores: {scores['n_candidates']:,} pairs of {scores['n_users']:,} users, {scores['n_probes']:,} probes."
            + note
        )
    if "texts" in inputs:
        texts = inputs["texts"]
        lines.append(f"Texts of {texts['n_items']:,} items and {texts['n_users']:,} users.")
    return lines


def _training(experiment: Experiment) -> list[str]:
    settings = experiment.training
    patience = f", patience {settings.patience}" if settings.patience is not None else ""
    return [
        f"Up to {settings.epochs} epochs{patience}, batches of {settings.batch_size}, learning rate "
        f"{settings.learning_rate:g}, negatives for each positive: {settings.negatives}; seeds "
        f"{', '.join(map(str, experiment.run.seeds))}. The epoch is chosen on validation interactions alone. Every key "
        "stands in `experiment.yaml`."
    ]


def _limits(experiment: Experiment, mode: Mode, inputs: Mapping[str, Any]) -> list[str]:
    limits = [
        "AUC is of rankings of held-out positives; probabilities are those of training with sampled negatives, not a "
        "rate of clicks.",
        "Differences between single seeds are mostly noise: see the intervals above, or train more seeds.",
    ]
    if mode.uses_scores:
        scored, users = inputs["scores"]["n_users"], inputs["interactions"]["users"]
        limits.append(
            f"The language model scored {scored / users:.0%} of the users. What it believes of groups of people or "
            "makers of items goes into the model; look at the gate and at AUC by group before serving."
        )
    if mode.needs("texts") or mode.needs("vectors"):
        limits.append("Items and users without a text start, or are served, as in the plain model.")
    return ["\n".join(f"- {limit}" for limit in limits)]
