"""Imports run one way, and importing the package reaches neither the network nor TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.import_graph import arrows, modules

PACKAGE = Path(__file__).parent.parent / "sllmr_plugin"

# Lower layers first: a module may import from its own layer's package or from layers before it.
LAYERS = [
    {"errors", "moved"},
    {"settings", "progress", "parallel", "regions"},
    {"scores", "tracking"},
    {"regularizer", "datasets", "knowledge"},
    {"config"},
    {"training"},
    {"handle"},
    {"backends"},
    {"wrapping"},
    {"zoo"},
    {"evaluation", "scoring"},
    {"experiments", "llm_tuning"},
    {"cli"},
]

PURE = {"__future__", "torch", "math", "dataclasses", "collections", "copy", "difflib", "typing"}


def layer_of(module, layers):
    """Return the number of a module's layer, None if it is in none."""
    for number, names in enumerate(layers):
        if any(module == name or module.startswith(name + ".") for name in names):
            return number
    return None


def violations(package, layers):
    """Return a line for every import that points to no lower layer, in any form and at any depth of folders."""
    found = []
    for name, path in modules(package).items():
        if path.name != "__init__.py" and path.name != "__main__.py" and layer_of(name, layers) is None:
            found.append(f"{name} is in no layer: add it to LAYERS and to docs/architecture.md")
    for arrow in arrows(package):
        own, target = layer_of(arrow.source, layers), layer_of(arrow.target, layers)
        if arrow.source in ("", "__main__") or (arrow.target == "" and arrow.name == "__version__"):
            continue  # the public face imports everything; its version is everybody's
        same_package = arrow.source.split(".")[0] == arrow.target.split(".")[0]
        if own is None or target is None or target > own or (target == own and not same_package):
            found.append(f"{arrow.source}, line {arrow.line}, imports {arrow.target or 'the package itself'}")
    return found


def foreign_imports(folder, allowed, package):
    """Return a line for every import of a top-level module that is not allowed, in the files of all nested folders."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            strange = {name.split(".")[0] for name in names} - allowed - {package}
            found += [f"{path.relative_to(folder)}, line {node.lineno}, imports {name}" for name in sorted(strange)]
    return found


def test_imports_point_to_lower_layers():
    assert violations(PACKAGE, LAYERS) == []


def circles(package):
    """Return groups of modules that import each other in a circle, which no order of layers would show."""
    imports = {}
    for arrow in arrows(package):
        if arrow.source and arrow.target:  # the public face imports everything
            imports.setdefault(arrow.source, set()).add(arrow.target)
    left = {name: set(targets) for name, targets in imports.items()}
    while removable := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in removable:
            del left[name]
    return sorted(left)


def test_no_modules_import_each_other_in_a_circle():
    assert circles(PACKAGE) == []


def test_every_layer_names_something_that_is_there():
    known = modules(PACKAGE)
    assert [name for names in LAYERS for name in names if name not in known] == []


def test_the_regularizer_is_pure_torch():
    assert foreign_imports(PACKAGE / "regularizer", PURE, PACKAGE.name) == []


def test_scoring_uses_little_and_only_the_command_line_and_tuning_use_it():
    """It speaks raw ids and knows no model."""
    drawn = arrows(PACKAGE)
    out = {arrow.target for arrow in drawn if arrow.source.startswith("scoring")}
    assert {target.split(".")[0] for target in out} <= {
        "",
        "scoring",
        "datasets",
        "errors",
        "parallel",
        "regions",
        "scores",
        "settings",
    }
    into = {arrow.source for arrow in drawn if arrow.target.startswith("scoring")}
    assert {source.split(".")[0] for source in into} == {"", "scoring", "cli", "llm_tuning"}  # "" is the public face


def test_only_its_command_uses_tuning():
    into = {arrow.source for arrow in arrows(PACKAGE) if arrow.target.startswith("llm_tuning")}
    assert {source for source in into if not source.startswith("llm_tuning")} == {"cli.llm_tune"}


# ---------------------------------------------------------------------- the checks themselves, on planted sources

PLANTED_LAYERS = [{"errors"}, {"low"}, {"middle", "beside"}, {"high", "high_folder"}]


@pytest.fixture
def planted(tmp_path):
    """A package that keeps its layers: low/deep/leaf.py is two folders down, high_folder/ is a folder above it."""
    package = tmp_path / "plug"
    files = {
        "__init__.py": "from typing import TYPE_CHECKING\n__version__ = '1'\n"
        "if TYPE_CHECKING:\n    from .high import make as make\n    from .errors import Bad as Bad\n",
        "__main__.py": "from plug.high import make",
        "errors.py": "import os, plugin_of_others",
        "low/__init__.py": "",
        "low/deep/__init__.py": "from .leaf import x\nfrom plug.errors import Bad",
        "low/deep/leaf.py": "import plug.errors\nfrom ... import __version__\nfrom ...errors import Bad\nx = 1",
        "middle.py": "from .low.deep import leaf\nfrom plug import errors, Bad",
        "beside.py": "",
        "high.py": "import plug.middle as middle\nfrom . import low\nfrom importlib import import_module",
        "high_folder/__init__.py": "",
        "high_folder/part.py": "from plug.low.deep.leaf import x\nfrom .other import y",
        "high_folder/other.py": "",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


@pytest.mark.parametrize("file", ["low/deep/leaf.py", "low/deep/__init__.py", "low/new/deeper/still.py"])
@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("import plug.high", "high"),
        ("import os, plug.high as above", "high"),
        ("import plug.high_folder.part", "high_folder.part"),
        ("from plug.high import make", "high"),
        ("from plug.high_folder.part import x", "high_folder.part"),
        ("from plug.high_folder import part", "high_folder.part"),
        ("from plug import high", "high"),
        ("from plug import high_folder", "high_folder"),
        ("from plug import make", "high"),  # a public name is an import of the module that it comes from
        ("from plug import *", "the package itself"),
        ("import plug", "the package itself"),
        ("from {up} import high", "high"),
        ("from {up} import high_folder", "high_folder"),
        ("from {up}high import make", "high"),
        ("from {up}high_folder.part import x", "high_folder.part"),
        ("def later():\n    import plug.high", "high"),
        ("import importlib\nimportlib.import_module('plug.high')", "high"),
        ("__import__('plug.high')", "high"),
    ],
)
def test_an_import_that_points_upwards_is_seen(planted, file, line, target):
    assert violations(planted, PLANTED_LAYERS) == []
    path = planted / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line.format(up="." * len(Path(file).parts)))
    name = ".".join(Path(file).with_suffix("").parts).removesuffix(".__init__")
    (found,) = violations(planted, PLANTED_LAYERS)
    assert found == f"{name}, line {1 + line.count(chr(10))}, imports {target}"


def test_two_modules_of_a_layer_may_not_import_each_other_unless_they_share_a_folder(planted):
    (planted / "beside.py").write_text("import plug.middle")
    assert violations(planted, PLANTED_LAYERS) == ["beside, line 1, imports middle"]


def test_a_module_without_a_layer_is_seen(planted):
    (planted / "stranger.py").write_text("")
    (found,) = violations(planted, PLANTED_LAYERS)
    assert found.startswith("stranger is in no layer")


@pytest.mark.parametrize("line", ["import numpy", "from numpy.random import default_rng", "def f():\n    import numpy"])
def test_a_foreign_import_is_seen_in_a_nested_folder(planted, line):
    allowed = {"os", "plugin_of_others", "typing", "importlib"}
    assert foreign_imports(planted, allowed, "plug") == []
    (planted / "low/deep/leaf.py").write_text(line)
    assert foreign_imports(planted, allowed, "plug") == [
        f"low/deep/leaf.py, line {1 + line.count(chr(10))}, imports numpy"
    ]


def test_importing_the_package_opens_no_connection_and_no_tensorflow():
    program = """
import socket, sys, threading
def refuse(*args, **kwargs):
    raise AssertionError("a connection was tried")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
import sllmr_plugin, sllmr_plugin.cli
assert "tensorflow" not in sys.modules
assert not {"deepctr_torch", "fuxictr", "ray"} & set(sys.modules)
from sllmr_plugin.backends.deepctr import import_deepctr_torch
import_deepctr_torch()
import deepctr_torch.utils
assert "tensorflow" not in sys.modules
assert threading.active_count() == 1
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_planted_circle_is_found(planted):
    assert circles(planted) == []
    for one, other in (("low/deep/leaf.py", "low.other"), ("low/other.py", "low.deep.leaf")):
        path = planted / one
        path.write_text((path.read_text() if path.exists() else "") + f"\nfrom plug.{other} import x\n")
    assert {"low.other", "low.deep.leaf"} <= set(circles(planted))
