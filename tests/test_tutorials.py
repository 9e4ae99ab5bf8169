"""The notebooks of docs/tutorials hold what they printed, and nothing of the machine that they ran on.

`make tutorials` runs all of them; here the one that takes seconds runs as it stands.
"""

import json
import re
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.ipynb"))
NAMES = [path.stem for path in TUTORIALS]


def code_cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def run(path, cells):
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), names)
    return names


def test_there_are_five():
    assert len(TUTORIALS) == 5


@pytest.mark.parametrize("path", TUTORIALS, ids=NAMES)
def test_every_cell_has_run_in_order_and_without_an_error(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds
    assert "error" not in kinds


@pytest.mark.parametrize("path", TUTORIALS, ids=NAMES)
def test_outputs_name_no_path_of_a_machine(path):
    printed = re.sub(r'"image/png": "[^"]*"', "", json.dumps([cell["outputs"] for cell in code_cells(path)]))
    assert not re.findall(r"(?:/work|/tmp|/home|/root|/Users|[A-Z]:\\\\)[/\\\w]*", printed)


@pytest.mark.parametrize("path", TUTORIALS, ids=NAMES)
def test_what_a_tutorial_imports_is_there(path):
    lines = "\n".join("".join(cell["source"]) for cell in code_cells(path)).splitlines()
    imports = [line for line in lines if re.match(r"(from|import) ", line)]
    assert imports
    if any(line.startswith("from fuxictr") for line in imports):
        pytest.importorskip("fuxictr")
    exec("\n".join(imports), {})


def test_a_tutorial_runs_as_it_stands(capsys):
    (path,) = (path for path in TUTORIALS if path.stem == "local_server")
    names = run(path, code_cells(path))
    assert len(names["asked"]) == 40  # the first 30 users once, the ten others once
    assert "30 of 30 requests answered" in capsys.readouterr().out
