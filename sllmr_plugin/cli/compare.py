"""`sllmr compare`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from ..config import MODES
from ..datasets.interactions import load_interactions
from ..evaluation.compare import compare
from ..evaluation.corruption import CORRUPTIONS, corrupt
from ..evaluation.run import RunSettings
from ..evaluation.strata import stratify
from ..evaluation.strata_labels import read_labels
from ..evaluation.table_formats import format_table
from ..score_table import ScoreTable
from ..zoo import BACKBONES
from .arguments import add_data, device, names, positive, rate, read_overrides

_EPILOG = """\
Every mode of a seed starts from the same weights and sees the same batches, and each run keeps its epoch of
highest validation AUC. A run is written to DIR when it is finished; the same command given again makes only the
runs that are missing, so more seeds or modes can be added later. Differences to mode none come with intervals, paired
by interaction and seed (docs/evaluation.md).

examples:
  sllmr compare --interactions clicks.csv --items items.csv --scores llm_scores.parquet --out runs/deepfm
  sllmr compare ... --backbone deepfm,din --modes none,gated --seeds 5 --out runs/two_backbones
  sllmr compare ... --strata category --out runs/by_category
  sllmr compare ... --set weight=0.2 --set loss=hinge --out runs/hinge
  sllmr compare ... --corrupt warm_inverted --out runs/warm_inverted
  sllmr compare ... --eval-users 500 --seeds 1 --out runs/quick_look
  sllmr compare ... --backbone xdeepfm,din --rank-items 200 --out runs/slow_backbones
"""


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "compare",
        help="compare training modes on your data",
        description="Train backbones in several modes on the same data and report full-ranking AUC overall, "
        "of cold users and of long-tail items.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = RunSettings()
    add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder")
    parser.add_argument(
        "--backbone",
        type=names,
        default=["deepfm"],
        metavar="NAME[,NAME]",
        help=f"of {', '.join(BACKBONES)} (default: deepfm)",
    )
    parser.add_argument(
        "--modes",
        type=names,
        default=["none", "global", "gated"],
        metavar="MODE[,MODE]",
        help=f"of {', '.join(MODES)} (default: none,global,gated)",
    )
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds 0 to N-1 (default: %(default)s)")
    for flag, default, text in (
        ("--epochs", defaults.epochs, "epochs per run"),
        ("--embedding-dim", defaults.embedding_dim, "length of the embedding vectors"),
        ("--batch-size", defaults.batch_size, "rows per training step"),
        (
            "--negatives",
            defaults.negatives,
            "sampled negatives per positive; unused if the data have their own",
        ),
        ("--valid-users", defaults.valid_users, "users ranked to choose the epoch"),
    ):
        parser.add_argument(flag, type=positive, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument("--eval-users", type=positive, metavar="N", help="test users ranked (default: all)")
    parser.add_argument(
        "--rank-items",
        type=positive,
        metavar="N",
        help="rank each user's held-out items against N unseen items drawn at random, in validation and test: an "
        "unbiased estimate of full-ranking AUC for slow backbones (default: all items)",
    )
    parser.add_argument(
        "--strata",
        type=names,
        default=[],
        metavar="COLUMN[,COLUMN]",
        help="also report AUC by the values of these columns of the items or interactions file",
    )
    parser.add_argument(
        "--learning-rate",
        type=rate,
        default=defaults.learning_rate,
        metavar="X",
        help="of Adam (default: 0.001)",
    )
    parser.add_argument(
        "--device",
        type=device,
        default=defaults.device,
        metavar="NAME",
        help="a torch device such as cuda:0 (default: cpu)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="a field of SelectiveConfig, for instance weight=0.2; can be repeated",
    )
    parser.add_argument(
        "--corrupt",
        choices=CORRUPTIONS,
        help="make the LLM's scores wrong first, candidates and probes alike: what does a wrong LLM cost?",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    labels = read_labels(arguments.strata, arguments.interactions, arguments.items)
    data = load_interactions(arguments.interactions, arguments.items)
    scores = ScoreTable.read(arguments.scores, user_index=data.user_index, item_index=data.item_index)
    if arguments.corrupt:
        scores = corrupt(scores, arguments.corrupt, stratify(data))
    comparison = compare(
        data,
        scores,
        out=arguments.out,
        backbone=arguments.backbone,
        modes=arguments.modes,
        seeds=arguments.seeds,
        settings=RunSettings(
            epochs=arguments.epochs,
            embedding_dim=arguments.embedding_dim,
            batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            negatives=arguments.negatives,
            test_users=arguments.eval_users,
            valid_users=arguments.valid_users,
            test_items=arguments.rank_items,
            valid_items=arguments.rank_items,
            device=arguments.device,
        ),
        config_overrides=read_overrides(arguments.overrides),
        strata=labels,
    )
    print(format_table(comparison))
    print(f"\nRun folder: {arguments.out}; for other metrics and forms: sllmr table {arguments.out} --help")
    print(f"A page with plots: sllmr report {shlex.quote(str(arguments.out))}")
