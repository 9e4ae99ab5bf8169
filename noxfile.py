"""Checks that are too long for every change: `nox -l` lists them, `nox -s tests-3.12` runs one (`pip install nox`).

`make test` and `make docs` remain what CI runs, at the versions of constraints.txt. Here the tests run on every Python
of setup.py, at the newest versions that it allows and, where wheels of them exist, at the lowest.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
OLDEST = "3.10"  # wheels of the lowest versions end at 3.11 or 3.12

OUTSIDE = ["scoring_*answers", "scoring_l*", "scoring_yes_no", "scoring_titles", "ledger", "score_table", "id_index"]
OUTSIDE += ["config", "datasets", "prepare"]

nox.options.sessions = ["lint", "docs"]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


def lowest() -> list[str]:
    """Return constraints for the lowest minor version of each requirement: ``torch>=2.4`` becomes ``torch==2.4.*``."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (values,) = (
        node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    found = (re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement) for requirement in ast.literal_eval(values))
    return [
        f"{name}=={version if '.' in version else version + '.0'}.*"
        for name, version in (m.groups() for m in found if m)
    ]


def run_tests(session: nox.Session, extras: str, *arguments: str) -> None:
    """Run the tests that were asked for behind ``--``, or all."""
    session.install(*arguments, "-e", f".[{extras}]")
    session.run("pip", "list", silent=False)
    chosen = session.posargs or ["-n", "2", "--dist", "loadfile"]
    session.run("python", "-m", "pytest", "-q", *chosen, env={"OMP_NUM_THREADS": "1"})


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Tests at the newest versions that setup.py allows, with Ray, FuxiCTR and TensorBoard as in CI."""
    run_tests(session, "dev")


@nox.session(python=OLDEST)
def tests_lowest(session: nox.Session) -> None:
    """Tests at the lowest minor versions that setup.py allows; what needs an extra is skipped."""
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text("\n".join(lowest()) + "\n", encoding="utf-8")
    run_tests(session, "test", "-c", str(constraints))


@nox.session
def fuzz(session: nox.Session) -> None:
    """Hypothesis, 20,000 examples a property, on what comes from outside: answers, ledgers, tables, YAML."""
    session.install("-c", "constraints.txt", "-e", ".[test]")
    files = sorted(str(path) for name in OUTSIDE for path in (ROOT / "tests").glob(f"test_{name}.py"))
    chosen = session.posargs or ["-n", "2", "--dist", "load"]
    environment = {"OMP_NUM_THREADS": "1", "HYPOTHESIS_PROFILE": "long"}
    session.run("python", "-m", "pytest", "-q", *chosen, *files, env=environment)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff and mypy, as `make lint types` runs them."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, strictly, as `make docs` does."""
    session.install("-c", "constraints.txt", "-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def wheel(session: nox.Session) -> None:
    """Wheel and source archive build, and their metadata are as a package index wants them."""
    session.install("build", "twine")
    folder = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", folder)
    session.run("twine", "check", "--strict", *map(str, Path(folder).glob("sllmr*")))


@nox.session
def audit(session: nox.Session) -> None:
    """Bandit over the package, and known vulnerabilities of the pinned versions; the latter asks a server."""
    session.install("bandit", "pip-audit")
    # B608: the ledger's SQL is put together of constants; values are always placeholders.
    # B615: which model is tuned, and from where, the user says; nothing is downloaded of our own choice.
    session.run("bandit", "-q", "-r", "sllmr_plugin", "-ll", "-s", "B608,B615")
    session.run("pip-audit", "-r", "constraints.txt", "--no-deps", "--disable-pip")
