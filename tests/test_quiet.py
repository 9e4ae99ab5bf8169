"""What the package says goes through its named loggers, which are quiet until a program sets logging up."""

import ast
import logging
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sllmr_plugin"

# The host library's own `verbose`, and a progress bar's lines on the stream that it was given.
PRINTING = {
    "progress.py",
    "backends/processes.py",
    "backends/deepctr/fit_seams.py",
    "backends/deepctr/losses.py",
}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log", "basicConfig"}


def loud_calls(source):
    """Return the lines that print or that log through the root logger, with what they call."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "logging":
            found += [(node.lineno, alias.name) for alias in node.names if alias.name in LEVELS]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        to_root = called in ("logging.getLogger", "getLogger") and not (node.args or node.keywords)
        if called == "print" or to_root or called in {f"logging.{level}" for level in LEVELS}:
            found.append((node.lineno, called))
    return found


@pytest.mark.parametrize(
    ("source", "called"),
    [
        ("print(1)", "print"),
        ("import logging\nlogging.info('x')", "logging.info"),
        ("import logging\nlogging.getLogger().info('x')", "logging.getLogger"),
        ("from logging import basicConfig", "basicConfig"),
    ],
)
def test_what_prints_or_takes_the_root_logger_is_seen(source, called):
    assert loud_calls(source) == [(1 + source.count("\n"), called)]
    assert loud_calls("import logging\nlog = logging.getLogger(__name__)\nlog.info('print()')") == []


def test_only_commands_print_and_nothing_logs_through_the_root_logger():
    loud = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        calls = loud_calls(path.read_text())
        if not name.startswith("cli/") and name not in PRINTING:
            loud |= {f"{name}, line {line}": called for line, called in calls}
        else:
            loud |= {f"{name}, line {line}": called for line, called in calls if called != "print"}
    assert loud == {}


def test_every_exception_is_still_needed():
    assert {name for name in PRINTING if not loud_calls((PACKAGE / name).read_text())} == set()


def test_a_warning_is_quiet_until_logging_is_set_up():
    """Without a handler Python writes warnings of any logger to standard error."""
    program = "import logging, sllmr_plugin\nlogging.getLogger('sllmr_plugin.scoring').warning('told')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    program = "import logging\nlogging.basicConfig()\n" + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "WARNING:sllmr_plugin.scoring:told\n"


def test_the_package_leaves_the_root_logger_alone():
    program = (
        "import logging, sllmr_plugin.cli, sllmr_plugin.scoring.run\nprint(logging.root.handlers, logging.root.level)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"[] {logging.WARNING}\n"
