"""Runs the tutorials and keeps what they print: ``make tutorials``, or ``python docs/run_tutorials.py two_lines``.

Each notebook runs in a folder of its own. Paths of this machine and progress bars are left out of the outputs.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"


def neutral(text: str) -> str:
    """Return a text without what differs from machine to machine."""
    text = text.replace(f"{ROOT}/", "").replace(f"{tempfile.gettempdir()}/", "")
    text = re.sub(r"\btmp\w{8}/", "", text)
    return re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:8000", text)


def run(path: Path) -> None:
    """Execute a notebook and write it back."""
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model_zoo_configs").symlink_to(ROOT / "model_zoo_configs")
        NotebookClient(book, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    for cell in book.cells:
        cell.metadata = {}  # times of execution, which differ every time
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "text" in output:
                    output.text = neutral(output.text)
                data = output.get("data", {})
                for kind in [kind for kind in data if kind.startswith("text/")]:
                    data[kind] = neutral(data[kind])
    nbformat.write(book, path)
    print(path.relative_to(ROOT), flush=True)


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.stem for path in TUTORIALS.glob("*.ipynb"))
    for name in names:
        run(TUTORIALS / f"{name}.ipynb")
