"""`sllmr reliability`."""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path

import torch

from ..config import SelectiveConfig
from ..datasets.features import training_rows
from ..datasets.interactions import load_interactions
from ..errors import SLLMRError
from ..evaluation.leakage import check_leakage
from ..evaluation.reliability import reliability
from ..regularizer.uncertainty import UNCERTAINTIES
from ..scores.table import ScoreTable
from ..zoo.deepctr import BACKBONES, build_model, check_backbone, input_rows
from .arguments import add_data, positive

_EPILOG = """\
The score table needs probes: rows with kind=probe, the LLM's score of a held-out (validation) item that it was shown
among a user's candidates. A plain backbone is trained on the training rows; then each probe is compared
with the candidates of the same user, by the LLM and by the backbone.

examples:
  sllmr reliability --interactions clicks.csv --items items.csv --scores llm_scores.parquet --out runs/reliability
  sllmr reliability ... --backbone din --uncertainty entropy --out runs/reliability_din
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Before training money is spent: how often the LLM orders held-out items right, how often a plain "
        "backbone does, and who is right when they disagree, by kind of user, item and uncertainty."
    )
    parser.epilog = _EPILOG
    add_data(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for reliability.json and reliability.png"
    )
    parser.add_argument(
        "--backbone", default="deepfm", metavar="NAME", help=f"one of {', '.join(BACKBONES)} (default: deepfm)"
    )
    for flag, default, text in (
        ("--epochs", 2, "epochs of the plain backbone; no validation item is looked at to choose them"),
        ("--embedding-dim", 16, "length of the embedding vectors"),
        ("--batch-size", 256, "rows per training step"),
        ("--resamples", 1000, "bootstrap resamples of users"),
    ):
        parser.add_argument(flag, type=positive, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the training (default: 0)")
    parser.add_argument(
        "--uncertainty",
        choices=[name for name, measure in UNCERTAINTIES.items() if measure.source != "checkpoints"],
        default="confidence",
        help="what the thirds of uncertainty are made by (default: confidence)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    data = load_interactions(arguments.interactions, arguments.items)
    scores = ScoreTable.read(arguments.scores, user_index=data.user_index, item_index=data.item_index)
    if len(scores.probes) == 0:  # told before a model is trained for nothing
        raise SLLMRError(
            f"{arguments.scores} has no probes (kind=probe): held-out validation items of users, scored among their "
            "candidates. Have them scored too: sllmr candidates --probe-share draws them."
        )
    name = check_backbone(arguments.backbone, arguments.embedding_dim)
    dropout = 0.1 if arguments.uncertainty == "mc_dropout" else 0.0
    model = build_model(name, data, embedding_dim=arguments.embedding_dim, dropout=dropout, seed=arguments.seed)
    rows, labels = training_rows(data, negatives=1, seed=arguments.seed)
    check_leakage(data, (rows, labels), scores)
    model.compile(torch.optim.Adam(model.parameters(), lr=1e-3), "binary_crossentropy")
    torch.manual_seed(arguments.seed)
    print(f"training a plain {name}, {arguments.epochs} epochs ...", flush=True)
    x = input_rows(model, rows)
    with contextlib.redirect_stdout(io.StringIO()):  # DeepCTR-Torch prints even with verbose=0
        model.fit(x, labels, batch_size=arguments.batch_size, epochs=arguments.epochs, verbose=0)
    result = reliability(
        model,
        scores,
        x=x,
        y=labels,
        user="user_id",
        item="item_id",
        config=SelectiveConfig(uncertainty=arguments.uncertainty),
        resamples=arguments.resamples,
    )
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        result.to_json(arguments.out / "reliability.json")
    except OSError as error:
        raise SLLMRError(f"{arguments.out}: cannot be written ({error}). Choose another folder.") from None
    result.plot(arguments.out / "reliability.png")
    print(result)
    print(f"\nwritten: {arguments.out / 'reliability.json'}, {arguments.out / 'reliability.png'}")
