"""`sllmr train`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ..experiments.experiment import compose
from ..experiments.files import Setting
from ..experiments.running import FILE, list_zoo, result_lines, train_experiment
from ..parallel.lifeline import end_with_lifeline
from .arguments import (
    add_experiment_keys,
    add_protocol_setting,
    add_track,
    check_data_dir,
    positive,
    protocol_setting,
    tracker_of,
)

_EPILOG = """\
An experiment is composed of YAML files (docs/zoo.md); later ones override earlier ones:
  base.yaml, --setting, --data, --model, -o

DIR gets what sllmr compare writes, experiment.yaml, the whole experiment in one file, and card.md, a model card. The
same command given again makes only the runs that are missing.

examples:
  sllmr train --list
  sllmr train --model deepfm --data demo
  sllmr train --model deepfm --data demo -o config.weight=0.5 --seeds 3 --with-plain
  sllmr train --model din --data amazon_beauty --data-dir ~/data -o run.mode=none
      The plain model, which needs no scores.
  sllmr train --model fibinet --data demo -o training.epochs=5 -o model.arguments.dnn_hidden_units=[64,32] --show
      Any backbone by name. --show prints every key and where it was set, and trains nothing.
  sllmr train --model xdeepfm --data video_games -o training.test_items=300 -o training.valid_items=300
      A sampled AUC, for slow backbones.
  sllmr train --model din --data amazon_beauty --protocol llm-cf -o run.mode=none
      The protocol of the paper's figures (docs/reproduce.md).
  sllmr train --model my_model.yaml --data my_data.yaml --setting small
      Files of your own.
  sllmr train --config runs/train/NAME/experiment.yaml --out runs/again
      Repeat an experiment.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Compose an experiment from files of the model zoo, train it, rank the test interactions and print a line."
    )
    parser.epilog = _EPILOG
    what = parser.add_argument_group("what is trained")
    what.add_argument("--model", metavar="NAME", help="a model of --list, any backbone's name, or a YAML file")
    what.add_argument("--data", metavar="NAME", help="a data set of --list, or a YAML file")
    what.add_argument("--setting", metavar="NAME", help="a setting of --list, such as small, or a YAML file")
    what.add_argument("--config", metavar="FILE", help="an experiment in one file, instead of these three")
    add_experiment_keys(what)
    add_protocol_setting(what)
    runs = parser.add_argument_group("which runs are made")
    seeds = runs.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=_seed, metavar="N", help="one run, with this seed (default: 0)")
    seeds.add_argument("--seeds", type=positive, metavar="N", help="runs with seeds 0 to N-1")
    runs.add_argument("--with-plain", action="store_true", help="the plain model too, and the differences to it")
    runs.add_argument(
        "--out", type=Path, metavar="DIR", help="run folder (default: runs/train/, named by data set, model and keys)"
    )
    add_track(runs)
    instead = parser.add_argument_group("instead of training").add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="name models, data sets and settings")
    instead.add_argument("--show", action="store_true", help="print the composed experiment and where each key was set")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    end_with_lifeline()
    if arguments.list:
        print(list_zoo(arguments.data_dir))
        return
    experiment = compose(
        model=arguments.model,
        data=arguments.data,
        setting=protocol_setting(arguments),
        config=arguments.config,
        assignments=arguments.assignments,
        overrides=_overrides(arguments),
    )
    if arguments.show:
        print(experiment.explained(), end="")
        return
    folder = arguments.out or experiment.default_folder
    comparison = train_experiment(experiment, folder, tracker=tracker_of(arguments))
    for line in result_lines(experiment, comparison):
        print(line)
    print(f"\nRun folder: {folder}; more: sllmr table {shlex.quote(str(folder))}")
    print(f"Again: sllmr train --config {shlex.quote(str(folder / FILE))} --out ANOTHER_DIR")


def _overrides(arguments: argparse.Namespace) -> dict[str, Setting]:
    """Return what the other options set, under the names of its keys."""
    found: dict[str, Setting] = {}
    if arguments.data_dir is not None:
        check_data_dir(arguments.data_dir)
        found["data.root"] = Setting(arguments.data_dir, "--data-dir")
    if arguments.seed is not None:
        found["run.seeds"] = Setting([arguments.seed], "--seed")
    if arguments.seeds is not None:
        found["run.seeds"] = Setting(list(range(arguments.seeds)), "--seeds")
    if arguments.with_plain:
        found["run.with_plain"] = Setting(True, "--with-plain")
    return found


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number
