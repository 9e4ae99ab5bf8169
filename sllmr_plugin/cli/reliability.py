"""`sllmr reliability`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ..config import SelectiveConfig
from ..datasets.interactions import load_interactions
from ..errors import SLLMRError
from ..evaluation.leakage import check_leakage
from ..evaluation.modes import Mode
from ..evaluation.reliability import reliability
from ..evaluation.training import RunSettings, train, wrap_arguments
from ..evaluation.untrained import item_texts, untrained_models
from ..progress import RunProgress
from ..regularizer.uncertainty import UNCERTAINTIES
from ..scores.table import ScoreTable
from ..zoo.deepctr import BACKBONES, check_attributes, check_backbone, input_rows
from .arguments import add_data, positive
from .start import add_start, encoder_of, read_start
from .training import add_training, run_settings

_DROPOUT = 0.1  # of the backbone whose uncertainty mc_dropout is to measure, where --dropout does not say

_EPILOG = """\
The score table needs probes: rows with kind=probe, the LLM's score of a held-out (validation) item that it was shown
among a user's candidates. A plain backbone is trained as sllmr compare trains it, up to 15 epochs. Then each probe is
compared with the candidates of the same user, by the LLM, by the backbone and by what needs no training: popularity
and, with titles in --items, their similarity (docs/evaluation.md).

--quick trains three epochs. A backbone that is not done training makes the LLM look better than it is. The epoch of
highest validation AUC is kept, and probes are validation items, so that the backbone, and the weight in
content+popularity, are judged a little too well.

examples:
  sllmr reliability --interactions clicks.csv --items items.csv --scores llm_scores.parquet --out runs/reliability
  sllmr reliability ... --backbone din --uncertainty entropy --out runs/reliability_din
  sllmr reliability ... --initialise titles --out runs/reliability_init
      Beside a backbone whose embeddings start from the titles: what the LLM has to know better to help that one.
  sllmr reliability ... --attributes brand,genres:pipe --histories --quick --out runs/reliability_features
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Before training money is spent: how often the LLM orders held-out items right, how often a plain "
        "backbone and what needs no training do, and who is right when LLM and backbone disagree, by kind of user, "
        "item and uncertainty."
    )
    parser.epilog = _EPILOG
    add_data(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for reliability.json and reliability.png"
    )
    parser.add_argument(
        "--backbone", default="deepfm", metavar="NAME", help=f"one of {', '.join(BACKBONES)} (default: deepfm)"
    )
    add_start(parser, "which the backbone's embeddings start from")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the training (default: 0)")
    add_training(parser, overrides=False)
    parser.add_argument(
        "--uncertainty",
        choices=[name for name, measure in UNCERTAINTIES.items() if measure.source != "checkpoints"],
        default="confidence",
        help=f"what the thirds of uncertainty are made by; mc_dropout trains with --dropout {_DROPOUT} where that is "
        "not given (default: confidence)",
    )
    parser.add_argument(
        "--resamples", type=positive, default=1000, metavar="N", help="bootstrap resamples of users (default: 1000)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    settings = run_settings(arguments)
    if arguments.uncertainty == "mc_dropout" and not settings.dropout:
        settings = replace(settings, dropout=_DROPOUT)
    name = check_backbone(arguments.backbone, settings.embedding_dim, settings.dropout, settings.model_arguments)
    start = read_start(arguments, [Mode.of("init")], encoder=encoder_of(arguments, "--initialise"))
    data = load_interactions(arguments.interactions, arguments.items, attributes=arguments.attributes)
    check_attributes(name, data)
    scores = ScoreTable.read(arguments.scores, user_index=data.user_index, item_index=data.item_index)
    if len(scores.probes) == 0:  # told before a model is trained for nothing
        raise SLLMRError(
            f"{arguments.scores} has no probes (kind=probe): held-out validation items of users, scored among their "
            "candidates. Have them scored too: sllmr candidates --probe-share draws them."
        )
    rows = settings.rows(data, arguments.seed)
    check_leakage(data, rows, scores)
    label = f"{'an initialised' if start else 'a plain'} {name}"
    print(f"training {label}, {_length(settings)} ...", flush=True)
    progress = RunProgress(1)
    trained = train(
        data,
        rows,
        scores,
        backbone=name,
        config=SelectiveConfig.of_mode("none"),
        seed=arguments.seed,
        settings=settings,
        start=start,
        report=lambda epoch, auc: progress.note(f"validation AUC {auc:.4f} after epoch {epoch} of {settings.epochs}"),
    )
    progress.finish(f"{label}: validation AUC {trained.auc:.4f}, epoch {trained.epoch} of {len(trained.epochs)}")
    content = item_texts(data, vectors=None if start is None else start.vectors)
    result = reliability(
        trained.model,
        scores,
        x=input_rows(trained.model, rows[0]),
        y=rows[1],
        config=SelectiveConfig(uncertainty=arguments.uncertainty),
        resamples=arguments.resamples,
        untrained=untrained_models(data, content, users=settings.valid_users, n_items=settings.valid_items),
        **wrap_arguments(data),
    )
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        result.to_json(arguments.out / "reliability.json")
    except OSError as error:
        raise SLLMRError(f"{arguments.out}: cannot be written ({error}). Choose another folder.") from None
    result.plot(arguments.out / "reliability.png")
    print(result)
    print(f"\nwritten: {arguments.out / 'reliability.json'}, {arguments.out / 'reliability.png'}")


def _length(settings: RunSettings) -> str:
    """Say how long a training is at most."""
    epochs = f"up to {settings.epochs} epochs" if settings.epochs > 1 else "1 epoch"
    stops = f", until {settings.patience} in a row bring nothing" if settings.patience is not None else ""
    return epochs + stops
