"""The command line `sllmr`: parses, calls, prints."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .config import MODES, SelectiveConfig
from .datasets.demo import demo_paths
from .datasets.interactions import load_interactions
from .errors import ConfigError, SLLMRError, SLLMRWarning
from .evaluation.compare import compare
from .evaluation.run import RunSettings
from .evaluation.strata import stratify
from .evaluation.table import format_table
from .score_table import ScoreTable
from .zoo import BACKBONES

_EPILOG = """\
examples:
  sllmr demo
      A first look, on bundled data: a plain DeepFM beside wrapped ones.

  sllmr compare --interactions clicks.csv --scores llm_scores.parquet --out runs/mine
      The same on your own data. clicks.csv has user_id, item_id and, if you have them, label (1 or 0),
      position or timestamp, and split (train, valid, test); llm_scores.parquet has user_id, item_id and
      score in [0, 1].

  sllmr coverage --interactions clicks.csv --scores llm_scores.parquet
      How much of the score table can be used, before you train anything.
"""

_COMPARE_EPILOG = """\
Every mode of a seed starts from the same weights and sees the same batches, and each run keeps its epoch of
highest validation AUC. A run is written to DIR/results.json when it is finished; the same command given again
makes only the runs that are missing, so more seeds or modes can be added later.

examples:
  sllmr compare --interactions clicks.csv --items items.csv --scores llm_scores.parquet --out runs/deepfm
  sllmr compare ... --backbone deepfm,din --modes none,gated --seeds 5 --out runs/two_backbones
  sllmr compare ... --set weight=0.2 --set loss=hinge --out runs/hinge
  sllmr compare ... --eval-users 500 --seeds 1 --out runs/quick_look
"""

_DEMO_WEIGHT = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        Arguments without the program's name; None takes those of the process.

    Returns
    -------
    int
        Exit code: 0, 2 for input that cannot be used, 130 when interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            _show_own_warnings_as_lines()
            arguments.run(arguments)
    except SLLMRError as error:
        print(f"sllmr: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsllmr: interrupted; the same command takes up after the last finished run", file=sys.stderr)
        return 130
    return 0


def _show_own_warnings_as_lines() -> None:
    """Drop the source line that Python adds to a warning: it means nothing on a command line."""
    show = warnings.showwarning

    def show_as_line(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, SLLMRWarning):
            print(f"sllmr: warning: {message}", file=sys.stderr)
        else:
            show(message, category, *rest)

    warnings.showwarning = show_as_line  # type: ignore[assignment]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sllmr",
        description="Selective LLM-guided regularization of CTR models: try it, and measure it on your data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sllmr-plugin {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_compare(commands)
    _add_coverage(commands)
    return parser


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="train plain and wrapped DeepFM on bundled data",
        description="Train a DeepFM plain (none), with all LLM pairs (global) and with the gate (gated) on "
        "bundled data, whose interactions and LLM scores are both simulated.",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/demo, written anew)")
    parser.add_argument("--seeds", type=_positive, default=3, metavar="N", help="seeds per mode (default: 3)")
    parser.add_argument("--epochs", type=_positive, default=3, metavar="N", help="epochs per run (default: 3)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed and one epoch, ranking 300 users: seconds, not evidence",
    )
    parser.set_defaults(run=_demo)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare training modes on your data",
        description="Train backbones in several modes on the same data and report full-ranking AUC overall, "
        "of cold users and of long-tail items.",
        epilog=_COMPARE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = RunSettings()
    _add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder")
    parser.add_argument(
        "--backbone",
        type=_names,
        default=["deepfm"],
        metavar="NAME[,NAME]",
        help=f"of {', '.join(BACKBONES)} (default: deepfm)",
    )
    parser.add_argument(
        "--modes",
        type=_names,
        default=["none", "global", "gated"],
        metavar="MODE[,MODE]",
        help=f"of {', '.join(MODES)} (default: none,global,gated)",
    )
    parser.add_argument("--seeds", type=_positive, default=3, metavar="N", help="seeds 0 to N-1 (default: %(default)s)")
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
        parser.add_argument(flag, type=_positive, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument("--eval-users", type=_positive, metavar="N", help="test users ranked (default: all)")
    parser.add_argument(
        "--learning-rate",
        type=_rate,
        default=defaults.learning_rate,
        metavar="X",
        help="of Adam (default: 0.001)",
    )
    parser.add_argument(
        "--device",
        type=_device,
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
    parser.set_defaults(run=_compare)


def _add_coverage(commands: Any) -> None:
    parser = commands.add_parser(
        "coverage",
        help="report how much of a score table can be used",
        description="Match a score table to the interactions: pairs kept and dropped, users and items reached.",
    )
    _add_data(parser)
    parser.set_defaults(run=_coverage)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interactions",
        required=True,
        metavar="FILE",
        help="CSV or parquet: user_id, item_id[, label][, position|timestamp][, split]; without split the "
        "last item of a user is test and the one before it validation",
    )
    parser.add_argument("--items", metavar="FILE", help="CSV or parquet of the whole catalogue: item_id[, title]")
    parser.add_argument(
        "--scores",
        required=True,
        metavar="FILE",
        help="CSV or parquet: user_id, item_id, score in [0, 1][, kind]",
    )


def _demo(arguments: argparse.Namespace) -> None:
    interactions, items, scores = demo_paths()
    out = arguments.out or Path("runs/demo_quick" if arguments.quick else "runs/demo")
    if arguments.quick:
        seeds, settings = 1, RunSettings(epochs=1, test_users=300, valid_users=300)
    else:
        seeds, settings = arguments.seeds, RunSettings(epochs=arguments.epochs)
    runs = compare(
        load_interactions(interactions, items),
        scores,
        out=out,
        seeds=seeds,
        settings=settings,
        config_overrides={"weight": _DEMO_WEIGHT},
        overwrite=arguments.out is None,
    )
    print(format_table(runs))
    print(
        "\nInteractions and LLM scores of the demo are simulated, and the scores know more than a language model\n"
        "would: by construction they are right about cold users and long-tail items and mislead about the rest.\n"
        f"Hence the large gains, and a weight of {_DEMO_WEIGHT} where the default is {SelectiveConfig().weight}."
    )
    print(f"Run folder: {out}")


def _compare(arguments: argparse.Namespace) -> None:
    runs = compare(
        load_interactions(arguments.interactions, arguments.items),
        arguments.scores,
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
            device=arguments.device,
        ),
        config_overrides=_overrides(arguments.overrides),
    )
    print(format_table(runs))
    print(f"\nRun folder: {arguments.out}")


def _coverage(arguments: argparse.Namespace) -> None:
    data = load_interactions(arguments.interactions, arguments.items)
    table = ScoreTable.read(arguments.scores, user_index=data.user_index, item_index=data.item_index)
    strata = stratify(data)
    users, items = table.candidates.users.numpy(), table.candidates.items.unique().numpy()
    print(table.coverage)
    print(f"users with scores: {len(users)} of {data.n_users}, of them cold {strata.cold[users].sum()}")
    print(f"items with scores: {len(items)} of {data.n_items}, of them long-tail {strata.tail[items].sum()}")


def _overrides(assignments: Sequence[str]) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment} is no FIELD=VALUE; write for instance --set weight=0.2.")
        overrides[name.strip()] = _value(value.strip())
    SelectiveConfig.from_dict(overrides, source="--set")
    return overrides


def _value(text: str) -> Any:
    """Read an int, a float, true, false or none; anything else is text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("it names nothing")
    return names


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _rate(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return number


def _device(name: str) -> str:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be used: {str(error).splitlines()[0]}") from None
    return name
