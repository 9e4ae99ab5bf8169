"""The scripts of benchmarks/ fit the package and each other; what they measure is not tested."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
TINY = (4, 16, 30, 20)  # embedding, batch, users, items


@pytest.fixture(autouse=True)
def folder_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.py")))
def test_a_script_finds_all_that_it_imports(script):
    assert runpy.run_path(str(FOLDER / script))["__doc__"]


def test_scaling_times_a_plain_and_a_wrapped_step(monkeypatch):
    scaling = runpy.run_path(str(FOLDER / "scaling.py"))
    monkeypatch.setitem(scaling["measure"].__globals__, "STEPS", 3)
    sizes = {"users": 200, "items": 100, "embedding": 4, "pairs a user": 2}
    assert all(milliseconds > 0 for milliseconds in scaling["measure"](sizes, repeats=1))


def test_score_table_times_a_plain_step(monkeypatch, tmp_path):
    script = runpy.run_path(str(FOLDER / "score_table.py"))
    overhead = script["plain_step"].__globals__["step_overhead"]
    monkeypatch.setitem(overhead.SETTINGS, "tiny", TINY)
    assert script["plain_step"]("tiny", tmp_path)["step ms"] > 0


def test_score_table_generates_builds_opens_and_draws(monkeypatch, tmp_path):
    script = runpy.run_path(str(FOLDER / "score_table.py"))
    monkeypatch.setitem(script["draw"].__globals__, "STEPS", 10)
    made = [script[job](4000, tmp_path) for job in ("generate", "build", "open_table", "draw")]
    assert made[1]["MB"] > 0
    assert made[3]["look-up ms"] > 0


def test_processes_times_an_epoch(monkeypatch):
    script = runpy.run_path(str(FOLDER / "processes.py"))
    monkeypatch.setitem(script["SETTINGS"], "tiny", TINY)
    seconds, parameters = script["epoch"]("tiny", 3)
    assert seconds > 0
    assert parameters > 4 * (30 + 20)
