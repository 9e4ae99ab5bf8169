"""How far a reader travels: files behind a training step, `wrap` and an LLM answer: ``python benchmarks/journeys.py``.

Three journeys are recorded by the interpreter's profile hook, through public names and the command line alone, so the
figures of any two layouts of the package can be compared:

- a training step: from the end of one step of a wrapped DeepFM's optimizer to the end of the next one;
- `wrap`: one call with a file of scores;
- an answer: `sllmr score` for one user, from the moment when the server on loopback replies to the written table.

A file counts if a function of it runs within the journey; lines that run only at import do not count. A change of file
is a call whose nearest caller within the package lies in another file; a coroutine that goes on after a wait is no
call. Beside these stand the sizes (code lines are those that hold more than blanks, comments and docstrings) and how
the package looks from the street: a room is a folder or a file at the root, and stands above the rooms that it imports.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
import tempfile
import threading
import tokenize
import types
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import CodeType, FrameType

import import_graph
import numpy as np
import pandas as pd
import torch

import sllmr_plugin

PACKAGE = Path(sllmr_plugin.__file__).parent
N_USERS, N_ITEMS, BATCH = 40, 30, 16


class Journey:
    """Files of the package that run while it is recorded, and how often a call leads from one into another."""

    def __init__(self) -> None:
        self.files: list[str] = []  # in the order of the first visit
        self.changes = 0
        self.recording = True
        self._seen: set[FrameType] = set()  # kept, so that no new frame takes the identity of an old one

    def _hook(self, frame: FrameType, event: str, argument: object) -> None:
        if not self.recording or event not in ("call", "return"):
            return
        file = _file_of(frame.f_code)
        if file is None:
            return
        if event == "call" and frame not in self._seen:
            self._seen.add(frame)
            caller = frame.f_back
            while caller is not None and _file_of(caller.f_code) is None:
                caller = caller.f_back
            if caller is not None and _file_of(caller.f_code) != file:
                self.changes += 1
        if file not in self.files:
            self.files.append(file)

    @contextlib.contextmanager
    def hooked(self) -> Iterator[Journey]:
        """Watch this thread and those that start within the context."""
        threading.setprofile(self._hook)
        sys.setprofile(self._hook)
        try:
            yield self
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def _file_of(code: CodeType) -> str | None:
    """Return a function's file within the package; None for others, and for what runs when a module is imported."""
    if not code.co_filename.startswith(str(PACKAGE)) or code.co_name == "<module>":
        return None
    return Path(code.co_filename).relative_to(PACKAGE).as_posix()


# ---------------------------------------------------------------------- a training step, and wrap


def scores(path: Path) -> Path:
    """Write random scores of five items a user."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(N_USERS), 5)
    item = np.concatenate([rng.choice(N_ITEMS, 5, replace=False) for _ in range(N_USERS)])
    pd.DataFrame({"user_id": user, "item_id": item, "score": rng.random(len(user))}).to_parquet(path)
    return path


def deepfm() -> torch.nn.Module:
    """Build a plain DeepFM of two features."""
    if "deepctr_torch" not in sys.modules:  # its import asks the network for its latest version, from a thread
        stand_in = types.ModuleType("deepctr_torch.utils")
        stand_in.check_version = lambda version: None  # type: ignore[attr-defined]
        sys.modules["deepctr_torch.utils"] = stand_in
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat("user_id", N_USERS, 4), SparseFeat("item_id", N_ITEMS, 4)]
    return DeepFM(columns, columns, dnn_hidden_units=(8,))


def wrapping(folder: Path) -> Journey:
    """Record one call of `wrap`, after one that has imported what it imports."""
    table = scores(folder / "scores.parquet")
    sllmr_plugin.wrap(deepfm(), table, user="user_id", item="item_id")
    model = deepfm()
    with Journey().hooked() as journey:
        sllmr_plugin.wrap(model, table, user="user_id", item="item_id")
    return journey


def training_step(folder: Path) -> Journey:
    """Record one step in the middle of an epoch."""
    journey = Journey()
    journey.recording = False
    model = sllmr_plugin.wrap(deepfm(), scores(folder / "scores.parquet"), user="user_id", item="item_id")

    class Recorded(torch.optim.Adam):
        steps = 0

        def step(self, closure: Callable | None = None) -> None:
            super().step(closure)
            self.steps += 1
            journey.recording = self.steps == 2

    model.compile(Recorded(model.parameters()), "binary_crossentropy")
    rng = np.random.default_rng(1)
    n = 6 * BATCH
    rows = {"user_id": rng.integers(0, N_USERS, n), "item_id": rng.integers(0, N_ITEMS, n)}
    with contextlib.redirect_stdout(io.StringIO()), journey.hooked():
        model.fit(rows, np.arange(n) % 2, batch_size=BATCH, epochs=1, verbose=0)
    return journey


# ---------------------------------------------------------------------- an answer


def answer(folder: Path) -> Journey:
    """Record what becomes of one reply of a server."""
    from sllmr_plugin.cli import main

    journey = Journey()
    journey.recording = False

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            given = json.dumps({"scores": {"1": 0.2, "2": 0.9, "3": 0.4}})
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": given}}
            usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
            body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            text = json.dumps(body | {"choices": [choice], "usage": usage}).encode()
            journey.recording = recorded
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: object) -> None:
            pass

    history = pd.DataFrame({"user_id": ["u"] * 5, "item_id": list("abcde")})
    history.to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"item_id": list("abcdefgh"), "title": [f"Title {i}" for i in "abcdefgh"]}).to_csv(
        folder / "items.csv", index=False
    )
    data = ["--interactions", str(folder / "interactions.csv"), "--items", str(folder / "items.csv")]
    drawn = folder / "candidates.parquet"
    pd.DataFrame({"user_id": ["u"] * 3, "item_id": list("fgh"), "kind": ["candidate"] * 3}).to_parquet(drawn)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked = ["score", "--candidates", str(drawn), *data, "--model", "m"]
    asked += ["--base-url", f"http://127.0.0.1:{server.server_port}/v1"]
    for recorded in (False, True):  # the first time it imports what it needs
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), journey.hooked():
            code = main([*asked, "--out", str(folder / f"scores{recorded:d}.parquet")])
        if code or len(pd.read_parquet(folder / f"scores{recorded:d}.parquet")) != 3:
            raise SystemExit(f"sllmr score ended with {code}:\n{told.getvalue()}")
    server.shutdown()
    server.server_close()
    return journey


# ---------------------------------------------------------------------- sizes


def code_lines(path: Path) -> int:
    """Count the lines that hold more than blanks, comments and docstrings."""
    text = path.read_text()
    lines: set[int] = set()
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def sizes() -> list[tuple[str, object]]:
    """Count modules, lines, rooms and arrows."""
    files = list(import_graph.modules(PACKAGE).values())
    lines = [code_lines(path) for path in files]
    street = import_graph.street(PACKAGE)
    return [
        ("modules", len(files)),
        ("modules at the package's root", sum(path.parent == PACKAGE for path in files)),
        ("code lines", sum(lines)),
        ("code lines of the median module", int(np.median(lines))),
        ("code lines of the longest module", max(lines)),
        ("rooms", len(street.floor)),
        ("floors", street.floors),
        ("arrows between rooms", len(street.arrows)),
        ("arrows upward", len(street.upward)),
    ]


def main() -> None:
    """Print both tables."""
    if "--files" not in sys.argv[1:] and len(sys.argv) > 1:
        raise SystemExit("python benchmarks/journeys.py [--files]: with --files also the names, in order of the visit")
    for name, value in sizes():
        print(f"{name:34} {value:>8}")
    for source, target in sorted(import_graph.street(PACKAGE).upward):
        print(f"    upward: {source} -> {target}")
    print(f"\n{'journey':34} {'files':>8} {'changes of file':>16}")
    for name, travel in (("a training step", training_step), ("wrap", wrapping), ("an answer, HTTP to table", answer)):
        with tempfile.TemporaryDirectory() as folder:
            journey = travel(Path(folder))
        print(f"{name:34} {len(journey.files):8} {journey.changes:16}")
        if "--files" in sys.argv[1:]:
            print("".join(f"    {file}\n" for file in journey.files), end="")


if __name__ == "__main__":
    main()
