"""Runs the tutorials and keeps what they print: ``make tutorials``, or ``python docs/run_tutorials.py two_lines``.

Each notebook runs in a folder of its own. Paths of this machine, warnings and progress bars are left out of the
outputs.
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
VERSION_CHECK = "Please check the latest version"  # deepctr-torch, without network


def neutral(text: str) -> str:
    """Return a text without what differs from machine to machine."""
    text = text.replace(f"{ROOT}/", "").replace(f"{tempfile.gettempdir()}/", "")
    text = re.sub(r"\btmp\w{8}/", "", text)
    return re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:8000", text)


def tidy(book: nbformat.NotebookNode) -> None:
    """Keep of the outputs what a reader should see."""
    for cell in book.cells:
        cell.metadata = {}  # times of execution, which differ every time
        if cell.cell_type != "code":
            continue
        kept: list[nbformat.NotebookNode] = []
        for output in cell.outputs:
            if output.output_type != "stream":
                data = output.get("data", {})
                data |= {kind: neutral(text) for kind, text in data.items() if kind.startswith("text/")}
                kept.append(output)
            elif output.name == "stdout":
                lines = neutral(output.text).splitlines(keepends=True)
                output.text = "".join(line for line in lines if not line.startswith(VERSION_CHECK))
                if kept and kept[-1].output_type == "stream":
                    kept[-1].text += output.text
                elif output.text.strip():
                    kept.append(output)
        cell.outputs = kept


def run(path: Path) -> None:
    """Execute a notebook and write it back."""
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(book, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    tidy(book)
    nbformat.write(book, path)
    print(path.relative_to(ROOT), flush=True)


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.stem for path in TUTORIALS.glob("*.ipynb"))
    for name in names:
        run(TUTORIALS / f"{name}.ipynb")
