"""The command line `sllmr`: parses, calls, prints."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from .. import __version__
from ..errors import SLLMRError, SLLMRWarning

# A module each, in the order in which --help names them.
_COMMANDS = {
    "demo": "train plain and wrapped DeepFM on bundled data",
    "train": "train a backbone of the model zoo on one of its data sets",
    "prepare": "turn downloaded raw files into the files that the other commands read",
    "candidates": "choose the user-item pairs to have scored",
    "score": "have candidates scored by a language model",
    "extend": "learn the LLM's scores, and score further users and items without it",
    "texts": "have users and items described by a language model",
    "correct": "have reasons written again, and keep those that a trained model scores best",
    "attributes": "have attributes of items chosen by a language model",
    "synthesize": "have users chosen for long-tail items, as synthetic interactions",
    "interest": "judge interactions, synthetic and real, and filter them",
    "llm-tune": "tune a language model of your own for profiles and recommendations",
    "embed": "have titles and descriptions embedded by a server",
    "ledger": "inspect the answers that scoring has paid for",
    "build-table": "make a memory-mapped score table of many parquet files",
    "coverage": "report how much of a score table can be used",
    "reliability": "where is the LLM a better judge than the model?",
    "tune": "choose gate, uncertainty, weight and margin on validation data",
    "compare": "compare training modes on your data",
    "explain": "show the reasons behind a user's items",
    "table": "print the results of a run folder",
    "report": "write a page with plots about a run folder",
}

_EPILOG = """\
examples:
  sllmr demo
      A first look, on bundled data: a plain DeepFM and wrapped ones.

  sllmr train --model deepfm --data demo
      A backbone of the model zoo on one of its data sets; --list names them.

  sllmr prepare amazon2014 --reviews reviews_Beauty_5.json.gz --meta meta_Beauty.json.gz --out data/amazon_beauty
      Turn downloaded raw files (Amazon Reviews, MovieLens 1M, RecBole, CSV) into interactions.csv and items.csv.

  sllmr candidates --interactions clicks.csv --items items.csv --users 1000 --out candidates.parquet
  sllmr score --candidates candidates.parquet --interactions clicks.csv --items items.csv --out llm_scores.parquet
      Choose pairs on your own data and have them scored: by gpt-4o-mini, a server of your own (--base-url), or
      without any model (--scorer lexical). --dry-run says what it would cost.

  sllmr extend --scores llm_scores.parquet --interactions clicks.csv --items items.csv --out extended.parquet
      Learn the LLM's scores, say how well that went, and score all users without asking it again.

  sllmr texts --interactions clicks.csv --items items.csv --out texts.parquet
      Have users and items described, for the baselines KAR and LLM-CF; without any model: --writer titles.

  sllmr attributes --items items.csv --vocabulary vocabulary.yaml --out items.parquet
      Have each item sorted by a closed vocabulary, columns for --attributes of compare; --propose writes one.

  sllmr synthesize --interactions clicks.csv --items items.csv --out synthetic.parquet
      Have users chosen who would take long-tail items; sllmr interest filters them, --modes synthetic trains on them.

  sllmr llm-tune reclm-sft --model MODEL --texts profiles.parquet --interactions clicks.csv --items items.csv --out run
      Tune a language model of your own, by the recipes of RecLM and CURec; needs sllmr-plugin[llm].

  sllmr embed --items items.csv --texts texts.parquet --out vectors.parquet
      Have titles and descriptions embedded, for embeddings that start from them: sllmr compare --initialise.

  sllmr compare --interactions clicks.csv --scores llm_scores.parquet --out runs/mine
      The same on your own data. clicks.csv has user_id, item_id and, if you have them, label (1 or 0),
      position or timestamp, and split (train, valid, test); llm_scores.parquet has user_id, item_id and
      score in [0, 1].

  sllmr tune --interactions clicks.csv --scores llm_scores.parquet --out runs/tune
      Choose gate, uncertainty, weight and margin on validation data.

  sllmr explain --interactions clicks.csv --texts texts.parquet,reasons.parquet --user 17 --out runs/explained
      Reasons of other users that speak to a user's pattern, and what a model makes of them.

  sllmr correct --interactions clicks.csv --items items.csv --texts reasons.parquet --recommender runs/explained \\
      --out corrected.parquet --max-cost 5
      Have these reasons written again, several times each, and keep those that the model scores best.

  sllmr table runs/mine --format latex
      The results again, in another form or with other metrics, without training anything.

  sllmr report runs/mine
      A page about them with plots, one HTML file.

  sllmr coverage --interactions clicks.csv --scores llm_scores.parquet
      How much of the score table can be used, before you train anything.

  sllmr reliability --interactions clicks.csv --scores llm_scores.parquet --out runs/reliability
      Where the LLM is the better judge, measured on held-out interactions that it scored.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        Arguments without the program's name; None takes those of the process.

    Returns
    -------
    int
        Exit code: 0, 1 if a part of what was asked for failed, 2 for input that cannot be used, 130 when interrupted,
        141 when whoever reads the output has stopped reading, as `head` does.
    """

    def run() -> int:
        arguments = build_parser().parse_args(argv)
        return arguments.run(arguments) or 0

    return guarded("sllmr", run)


def guarded(program: str, run: Callable[[], int]) -> int:
    """Run a command line: what is wrong with its input is told in a line, without a traceback.

    Parameters
    ----------
    program : str
        Stands before each message.
    run : callable
        Parses, works and returns the exit code.

    Returns
    -------
    int
        Exit code, as of `main`.
    """
    try:
        try:
            return _told_in_lines(program, run)
        finally:
            sys.stdout.flush()  # here, where it can be caught that nobody reads any more
    except BrokenPipeError:
        if not _drop_unread_output():
            raise
        return 141  # what a shell says of a program that the signal SIGPIPE has ended


def _told_in_lines(program: str, run: Callable[[], int]) -> int:
    try:
        with warnings.catch_warnings(), _log_as_lines():
            _show_own_warnings_as_lines(program)
            return run()
    except SLLMRError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; the same command takes up where this one stopped", file=sys.stderr)
        return 130


def _drop_unread_output() -> bool:
    """Send output that nobody reads any more to nowhere; return whether there was such output."""
    found = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            pass
        except (OSError, ValueError):
            continue
        else:
            if not _is_unread(stream.fileno()):
                continue
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # or Python would complain when it flushes what is left at its end
        os.close(nowhere)
        found = True
    return found


def _is_unread(descriptor: int) -> bool:
    """Tell whether a pipe has no reader any more."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


class _Lines(logging.Handler):
    """Writes what scoring logs to standard error, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(record.getMessage(), sys.stderr)


@contextlib.contextmanager
def _log_as_lines() -> Iterator[None]:
    logger, handler = logging.getLogger("sllmr_plugin.scoring"), _Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _show_own_warnings_as_lines(program: str) -> None:
    """Drop the source line that Python adds to a warning: it means nothing on a command line."""
    show = warnings.showwarning

    def show_as_line(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, SLLMRWarning):
            print(f"{program}: warning: {message}", file=sys.stderr)
        else:
            show(message, category, *rest)

    warnings.showwarning = show_as_line  # type: ignore[assignment]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="sllmr",
        description="Selective LLM-guided regularization of CTR models: try it, and measure it on your data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sllmr-plugin {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_CommandParser)
    for name, summary in _COMMANDS.items():
        commands.add_parser(name, help=summary).module = name.replace("-", "_")
    return parser


class _CommandParser(argparse.ArgumentParser):
    """A command's parser, which imports the command's module once it has arguments to read.

    So `sllmr --help` imports no command, and a command imports only its own modules.
    """

    module: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read arguments, of which the module says what they are."""
        if self.module is not None:
            importlib.import_module(f".{self.module}", __package__).add(self)
            self.module = None
            if self.epilog is not None:  # its lines are laid out by hand
                self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().parse_known_args(args, namespace)
