"""`python -m benchmarks.paper`: the paper's tables from runs of your own, beside its own figures."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from sllmr_plugin.cli import guarded
from sllmr_plugin.cli.arguments import (
    add_experiment_keys,
    add_protocol_setting,
    check_data_dir,
    names,
    positive,
    protocol_setting,
)
from sllmr_plugin.errors import MissingDataError, RunFolderError
from sllmr_plugin.evaluation.modes import MODE_NAMES

from .document import data_lines, protocol_lines, write_documents
from .paper import paper_figures
from .plan import plan_runs
from .processes import make_runs
from .progress import Progress
from .reproduction import FIGURES, INITIALISED, TABLES, Reproduction
from .results import collect
from .state import State, look_up

_PROGRAM = "python -m benchmarks.paper"
_EPILOG = """\
DIR gets a run folder for each run (runs/), what its process wrote (logs/), and after every call the tables of all
runs that are there: reproduction.md, tables.txt, tables.tex, reproduction.json and figure2.png. The paper's own
figures stand in columns of their own. The same command takes up where a killed one stopped; a run that fails is named
with its log, the others go on, and the exit code is 1.

What is not there (a data set, its scores, texts for kar and llm_cf) is skipped, with the commands that make it.
docs/reproduce.md has these from the raw files on, what it all costs, and how the protocol differs from the paper's.

examples:
  python -m benchmarks.paper --data-dir ~/data --out runs/paper --dry-run
      Every run of Tables 2 and 3 and Figure 2, which are done, and how long the others will take.
  python -m benchmarks.paper --data-dir ~/data --out runs/paper --jobs 4
      All of it.
  python -m benchmarks.paper --data-dir ~/data --protocol llm-cf --out runs/paper_llm_cf
      Under the paper's own protocol, with both metrics in the tables.
  python -m benchmarks.paper --data-dir ~/data --data video_games --initialise titles --out runs/games
      With rows init and init+gated beside the paper's.
  python -m benchmarks.paper --tables 3 --figure none --data amazon_beauty -o training.test_items=100 --out runs/beauty
      The ablations on one domain, by sampled AUC.
  python -m benchmarks.paper --data demo --backbones deepfm,dcnv2 --modes kd,kar,gated --seeds 2 --setting small \
      --out runs/look
      A look at what comes out, on the bundled data.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit codes are those of `sllmr`."""
    return guarded(_PROGRAM, lambda: _run(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Make the runs of the paper's Tables 2 and 3 and Figure 2, each in a process of its own, and lay "
        "them out beside the paper's figures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    paper = paper_figures()
    what = parser.add_argument_group("what is made")
    what.add_argument(
        "--tables", type=_numbers, default=TABLES, metavar="N[,N]", help="of 2 and 3, or none (default: 2,3)"
    )
    what.add_argument("--figure", type=_numbers, default=FIGURES, metavar="N", help="2, or none (default: 2)")
    for flag, default, text in (
        ("--data", paper.domains, "data sets of sllmr train --list, or YAML files"),
        ("--backbones", paper.backbones, "models of sllmr train --list"),
    ):
        what.add_argument(
            flag,
            type=names,
            default=list(default),
            metavar="NAME[,NAME]",
            help=f"{text} (default: {','.join(default)})",
        )
    what.add_argument(
        "--modes",
        type=names,
        metavar="MODE[,MODE]",
        help=f"of {', '.join(MODE_NAMES)}, in both tables (default: {','.join(paper.frameworks)} in Table 2, "
        f"{','.join(paper.methods)} in Table 3)",
    )
    what.add_argument(
        "--initialise",
        metavar="titles|texts|FILE",
        help=f"rows {', '.join(INITIALISED)} beside the paper's, whose embeddings start from vectors of the items: of "
        "titles, of the data set's text table behind them, or of a file; with --modes, which names all rows, the "
        "vectors of those that read some. -o start.scale=0.2 and the like are for these rows alone",
    )
    what.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds 0 to N-1 (default: 3)")
    how = parser.add_argument_group("how")
    how.add_argument("--setting", metavar="NAME", help="a setting of the model zoo, such as small")
    add_experiment_keys(how)
    add_protocol_setting(how)
    how.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="runs at a time, which share the threads (default: 1)"
    )
    how.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the runs and the tables")
    how.add_argument("--dry-run", action="store_true", help="list the runs and make none")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    check_data_dir(arguments.data_dir)
    reproduction = Reproduction(
        tables=tuple(arguments.tables),
        figures=tuple(arguments.figure),
        data=tuple(arguments.data),
        backbones=tuple(arguments.backbones),
        modes=tuple(arguments.modes) if arguments.modes else None,
        seeds=arguments.seeds,
        setting=protocol_setting(arguments),
        assignments=tuple(arguments.assignments),
        data_dir=arguments.data_dir,
        initialise=arguments.initialise,
    )
    for line in reproduction.left_out:
        print(line, file=sys.stderr)
    state = look_up(plan_runs(reproduction, arguments.out))
    if arguments.dry_run:
        _list(state, arguments.jobs)
        return 0
    for skipped in state.skipped:
        print(skipped, file=sys.stderr)
    if not state.done and not state.to_do:
        raise MissingDataError("no run can be made: every data set lacks files; the lines above say how to make them.")
    with _alone(arguments.out):
        failed = make_runs(state.to_do, jobs=arguments.jobs, progress=Progress(state, arguments.jobs))
        lost = [one.run for one in failed]
        done = state.done + [run for run in state.to_do if run not in lost]
        not_made = [str(one) for one in (*failed, *state.skipped)]
        found = collect(done)
        if found:
            print(write_documents(arguments.out, reproduction, found, command=_command(), not_made=not_made))
    for results in found:
        print("\n".join([f"{results.data}:", *(f"  {line}" for line in data_lines(results)), ""]))
    print("How these runs differ from the paper's, or where it does not say what it did:")
    for line in protocol_lines():
        print(f"  {line}")
    if done:
        print(f"\nEverything, beside the paper's figures: {arguments.out / 'reproduction.md'}")
    for one in failed:
        print(f"failed: {one}", file=sys.stderr)
    return 1 if failed else 0


def _list(state: State, jobs: int) -> None:
    for word, runs in (("done", state.done), ("to do", state.to_do)):
        for run in runs:
            seconds = run.seconds if word == "done" else None
            print(f"{word:<6} {run.name}" + ("" if seconds is None else f"  ({tqdm.format_interval(seconds)})"))
    for skipped in state.skipped:
        print(skipped)
    n_skipped = sum(len(skipped.runs) for skipped in state.skipped)
    print(f"\n{len(state.done)} runs done, {len(state.to_do)} to do, {n_skipped} skipped")
    if state.to_do:
        left = state.seconds_left()
        if left is None:
            print(
                "How long they take is not known before a run of each data set is done; docs/reproduce.md has examples."
            )
        else:
            at_a_time = min(jobs, len(state.to_do))
            time_left = tqdm.format_interval(left / at_a_time)
            print(f"about {time_left} left with --jobs {jobs}, going by the runs that are done")


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder's lock, and take SIGTERM for a Ctrl-C, which ends the runs' processes as well."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(out / ".lock"))
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(
            f"{out}: another `python -m benchmarks.paper` is at work there; wait for it, or end it."
        ) from None
    except OSError as error:
        raise RunFolderError(f"{out}: cannot be written ({error}); choose another folder.") from None
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        lock.release()


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks.paper", *sys.argv[1:]])


def _numbers(text: str) -> Sequence[int]:
    """Read numbers of tables or figures; ``none`` stands for none of them."""
    return [] if text == "none" else [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
