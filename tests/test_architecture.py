"""Imports run one way, and importing the package reaches neither the network nor TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sllmr_plugin"

# Lower layers first: a module may import from its own layer's package or from layers before it.
LAYERS = [
    {"errors"},
    {"value_types"},
    {"config", "progress", "sidecar_files", "vocabulary", "engine", "ranks", "lifeline"},
    {"id_index"},
    {"backends.quiet", "backends.printing", "backends.shared_forward", "backends.other_weights", "backends.row_wise"},
    {"backends.batch_loader", "backends.lean_l2", "backends.optimizer_groups", "augmentation.encoders"},
    {"score_origin", "regularizer", "datasets", "plots", "ray_engine", "mapped_pages"},
    {"user_scores", "score_rows"},
    {"table_folder", "drawable"},
    {"table_build"},
    {"score_table", "augmentation.text_table"},
    {"augmentation"},
    {"item_rows", "sampler", "ensemble"},
    {"usable", "streamed_rows", "backends.fuxictr_rows", "backends.fuxictr_data"},
    {"probe_pairs"},
    {"gate_fitting", "gate_warnings"},
    {"session"},
    {"handle"},
    {"preparation", "backends.checks", "backends.deepctr_augmented"},
    {"backends.deepctr_checks", "backends.fuxictr_checks"},
    {"backends.base"},
    {"backends.scores", "backends.gate_optimizer", "backends.broadcast"},
    {"backends.wrapped", "backends.processes", "backends.process_checks"},
    {"backends.deepctr_torch", "backends.fuxictr"},
    {"augmenting"},
    {"wrapping"},
    {"zoo", "zoo_fuxictr_models"},
    {"zoo_fuxictr"},
    {"evaluation", "scoring"},
    {"report", "experiments"},
    {"cli"},
]


def layer_of(module):
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return number
    raise AssertionError(f"{module} is in no layer: add it here and to docs/architecture.md")


def imported(path):
    """Return the package's modules that a file imports anywhere in it."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            inside = [f"{module}.{alias.name}".strip(".") for alias in node.names]
            submodules = [name for name in inside if (PACKAGE / (name.replace(".", "/") + ".py")).exists()]
            yield from submodules or ([module] if module else [])


FILES = [path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_to_lower_layers(path):
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    own = layer_of(module)
    for name in imported(path):
        target = layer_of(name)
        same_package = name.split(".")[0] == module.split(".")[0]
        assert target < own or (target == own and same_package), f"{module} imports {name}"


@pytest.mark.parametrize("path", list((PACKAGE / "regularizer").glob("*.py")), ids=lambda path: path.name)
def test_the_regularizer_is_pure_torch(path):
    allowed = {"__future__", "torch", "math", "dataclasses", "collections", "typing"}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        assert {name.split(".")[0] for name in names} <= allowed


def test_importing_the_package_opens_no_connection_and_no_tensorflow():
    program = """
import socket, sys, threading
def refuse(*args, **kwargs):
    raise AssertionError("a connection was tried")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
import sllmr_plugin, sllmr_plugin.cli
assert "tensorflow" not in sys.modules
assert not {"deepctr_torch", "fuxictr", "ray"} & set(sys.modules)
from sllmr_plugin.backends.quiet import import_deepctr_torch
import_deepctr_torch()
import deepctr_torch.utils
assert "tensorflow" not in sys.modules
assert threading.active_count() == 1
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
