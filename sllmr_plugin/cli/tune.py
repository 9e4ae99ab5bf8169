"""`sllmr tune`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ..datasets.interactions import load_interactions
from ..evaluation.tune import TuneResult, tune
from ..zoo.deepctr import BACKBONES
from .arguments import add_data, positive, read_overrides
from .training import add_training, run_settings, training_flags

_EPILOG = """\
Trial 0 is the plain model, trial 1 the default config, the others are drawn at random from a small grid:
  gate         open (no gate), fixed, budget; with probes in the score table also disagreement, bilevel
  uncertainty  confidence, entropy; with --dropout also mc_dropout
  weight       0.05, 0.1, 0.2, 0.4, 0.8
  margin       three values that suit the loss
All trials have the same seeds and batches, and the config of highest mean validation AUC is chosen. A finished run is
in DIR/trials.json; the same command given again takes up where it stopped, and more --trials or --seeds add to what is
there. DIR/chosen.yaml is what was chosen. Test interactions are not looked at: `sllmr compare --config` does that.

examples:
  sllmr tune --interactions clicks.csv --scores llm_scores.parquet --out runs/tune
  sllmr tune ... --backbone din --rank-items 200 --out runs/tune_din
  sllmr tune ... --set gate=disagreement --set loss=hinge --out runs/tune_hinge
      Hold the gate, choose the rest; the loss is never searched, only held.
  sllmr tune ... --trials 24 --seeds 3 --out runs/tune
      Go on with a search.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Train one backbone with a dozen configs and choose the one of highest validation AUC."
    parser.epilog = _EPILOG
    add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the search")
    parser.add_argument(
        "--backbone", default="deepfm", metavar="NAME", help=f"of {', '.join(BACKBONES)} (default: deepfm)"
    )
    parser.add_argument("--trials", type=positive, default=12, metavar="N", help="configs tried (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=2, metavar="N", help="seeds 0 to N-1 (default: %(default)s)")
    parser.add_argument(
        "--search-seed", type=int, default=0, metavar="N", help="seed of the draw of trials (default: %(default)s)"
    )
    add_training(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    result = tune(
        load_interactions(arguments.interactions, arguments.items, attributes=arguments.attributes),
        arguments.scores,
        out=arguments.out,
        backbone=arguments.backbone,
        n_trials=arguments.trials,
        seeds=arguments.seeds,
        search_seed=arguments.search_seed,
        settings=run_settings(arguments),
        config_overrides=read_overrides(arguments.overrides),
    )
    print(result)
    print(f"\nChosen config: {result.config_file}; all trials: {arguments.out / 'trials.json'}")
    if result.config.active:
        print(f"\nMeasure it on the test part:\n  {_compare_command(arguments, result)}")
        print(f'or use it: wrap(..., config=SelectiveConfig.from_yaml("{result.config_file}"))')


def _compare_command(arguments: argparse.Namespace, result: TuneResult) -> str:
    """Return the command that compares the chosen config with the plain model, with the same data and sizes."""
    command = ["sllmr", "compare", "--interactions", arguments.interactions]
    command += ["--items", arguments.items] if arguments.items else []
    command += ["--attributes", ",".join(arguments.attributes)] if arguments.attributes else []
    command += ["--scores", arguments.scores, "--config", str(result.config_file), "--backbone", result.backbone]
    return shlex.join([*command, *training_flags(run_settings(arguments)), "--out", str(arguments.out / "test")])
