"""`sllmr compare`."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..config import SelectiveConfig
from ..datasets.interactions import load_interactions
from ..errors import ConfigError
from ..evaluation.compare import compare
from ..evaluation.corruption import CORRUPTIONS, corrupt
from ..evaluation.modes import MODE_NAMES, Mode, check_read, check_sources
from ..evaluation.strata import read_labels, stratify
from ..evaluation.training import RunSettings
from ..scores.table import ScoreTable
from ..zoo.deepctr import BACKBONES
from .arguments import (
    add_data,
    add_engine,
    add_track,
    names,
    open_engine,
    positive,
    read_overrides,
    reader_of,
    tracker_of,
)
from .start import (
    add_refinement,
    add_start,
    add_triples,
    check_refinement,
    encoder_of,
    read_refinement,
    read_start,
    read_triples,
)
from .training import add_training, run_settings

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
  sllmr compare ... --modes none,kd,kar,llm_cf,gated --texts texts.parquet --out runs/baselines
  sllmr compare ... --modes none,curec,init+curec --initialise titles --texts texts.parquet,reasons.parquet --out runs/c
  sllmr compare ... --modes none,init,init+gated --initialise titles --out runs/initialised
  sllmr compare ... --modes init,init+gated --initialise titles --embedding-dim 64 --learning-rate 1e-3 --out runs/wide
      What models that start from texts like best; --modes none shows whether the plain one does.
  sllmr compare ... --modes none,similar,pretrain,pretrain+gated --initialise llm_texts.parquet --out runs/families
  sllmr compare ... --modes none,triples,init+graph --triples items_sorted.parquet --initialise titles --out runs/kg
  sllmr compare ... --modes none,synthetic --synthetic synthetic.parquet --out runs/synthetic
  sllmr compare ... --epochs 30 --negatives-by popularity --out runs/other_training
  sllmr compare ... --attributes brand,genres:pipe --histories --out runs/features
  sllmr compare ... --config runs/tune/chosen.yaml --out runs/tuned
  sllmr compare ... --eval-users 500 --seeds 1 --out runs/quick_look
  sllmr compare ... --backbone xdeepfm,din --rank-items 200 --out runs/slow_backbones
  sllmr compare ... --engine ray --out runs/many_users
  sllmr compare ... --track tensorboard:runs/tensorboard --out runs/watched
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Train backbones in several modes on the same data and report full-ranking AUC overall, "
        "of cold users and of long-tail items."
    )
    parser.epilog = _EPILOG
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
        metavar="MODE[,MODE]",
        help=f"of {', '.join(MODE_NAMES)}, and combinations such as init+gated (default: none,global,gated; with "
        "--config none and the mode of the file, whose other fields hold for all modes)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="SelectiveConfig as YAML, for instance chosen.yaml of sllmr tune; --set changes single fields of it",
    )
    parser.add_argument(
        "--texts",
        action="extend",
        type=names,
        metavar="FILE[,FILE]",
        help="parquet or CSV of LLM-written texts, as sllmr texts writes it: kind, id, text and, of reasoning and "
        "reasons, item_id and label; for modes kar and llm_cf (docs/baselines.md), curec (docs/curec.md) and reclm "
        "(docs/reclm.md). Can be repeated; several tables are read as one",
    )
    add_start(parser, "which the modes init, align, distill, similar, pretrain, sid, embed and their combinations use")
    add_triples(parser, "which the modes triples and graph (init+graph: vectors smoothed over items that share) use")
    add_refinement(parser)
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds 0 to N-1 (default: %(default)s)")
    add_training(parser)
    parser.add_argument(
        "--valid-items",
        type=reader_of(RunSettings, "valid_items"),
        metavar="N",
        help="items drawn for the ranking after each epoch that chooses the epoch; with hundreds it takes more than "
        "half of the time (default: as many as --rank-items)",
    )
    parser.add_argument("--eval-users", type=positive, metavar="N", help="test users ranked (default: all)")
    parser.add_argument(
        "--strata",
        type=names,
        default=[],
        metavar="COLUMN[,COLUMN]",
        help="also report AUC by the values of these columns of the items or interactions file",
    )
    parser.add_argument(
        "--corrupt",
        choices=CORRUPTIONS,
        help="make the LLM's scores wrong first, candidates and probes alike: what does a wrong LLM cost?",
    )
    add_engine(parser, "the users of the rankings (training stays here)")
    add_track(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    settings = run_settings(arguments, test_users=arguments.eval_users, test_items=arguments.rank_items)
    if arguments.valid_items is not None:
        settings = replace(settings, valid_items=arguments.valid_items)
    if arguments.engine == "ray" and torch.device(settings.device).type != "cpu":
        raise ConfigError("--engine ray ranks on CPUs; leave out --device, or use --engine local.")
    fields, modes = _read_config(arguments.config) if arguments.config else ({}, ["none", "global", "gated"])
    if arguments.modes is None and modes == ["none", "none"]:
        raise ConfigError(
            f"{arguments.config} has weight 0, the plain model, so there is nothing to compare it with; "
            "name modes with --modes, or leave --config out."
        )
    wanted = [Mode.of(mode) for mode in arguments.modes or modes]
    encoder = encoder_of(arguments, "--texts", "--initialise")
    start = read_start(arguments, wanted, encoder=encoder)
    given = {name: getattr(arguments, name) for name in ("triples", "synthetic", "interest")}
    check_sources(wanted, texts=arguments.texts, start=start, **given)
    check_read(wanted, **given)
    check_refinement(arguments)
    tracker = tracker_of(arguments)
    labels = read_labels(arguments.strata, arguments.interactions, arguments.items)
    data = load_interactions(arguments.interactions, arguments.items, attributes=arguments.attributes)
    scores = ScoreTable.read(arguments.scores, user_index=data.user_index, item_index=data.item_index)
    if arguments.corrupt:
        scores = corrupt(scores, arguments.corrupt, stratify(data))
    with open_engine(arguments) as engine:
        comparison = compare(
            data,
            scores,
            out=arguments.out,
            backbone=arguments.backbone,
            modes=arguments.modes or modes,
            seeds=arguments.seeds,
            settings=settings,
            texts=arguments.texts,
            encoder=encoder,
            start=start,
            triples=read_triples(arguments),
            refinement=read_refinement(arguments, data),
            config_overrides={**fields, **read_overrides(arguments.overrides)},
            strata=labels,
            engine=engine,
            tracker=tracker,
        )
    print(comparison)
    print(f"\nRun folder: {arguments.out}; for other metrics and forms: sllmr table {arguments.out} --help")
    print(f"A page with plots: sllmr report {shlex.quote(str(arguments.out))}")


def _read_config(path: str) -> tuple[dict[str, Any], list[str]]:
    """Return a file's fields, and the modes to compare."""
    config = SelectiveConfig.from_yaml(path)
    return config.to_dict(), ["none", config.row]
