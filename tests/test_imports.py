"""The package's names are imported when they are asked for, and commands import what they need and no more."""

import ast
import importlib
import json
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sllmr_plugin
from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.zoo.deepctr import build_model

from .matrix import backbones as zoo
from .scoring_server import ScoringServer
from .text_cases import encoded, interactions

PACKAGE = Path(sllmr_plugin.__file__).parent
HEAVY = ("torch", "sklearn", "scipy", "deepctr_torch", "fuxictr", "matplotlib", "ray")
DATA = (*HEAVY, "pandas", "pyarrow", "numpy")


def imported_by(program, *arguments, of):
    """Which modules of `of` a fresh process has imported at the end of a program."""
    program += f"\nimport json, sys\nprint(json.dumps([name for name in {of!r} if name in sys.modules]))"
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


COMMAND = """
import sys
from sllmr_plugin.cli import main
try:
    assert main(sys.argv[1:]) == 0
except SystemExit as end:  # --help
    assert end.code == 0
"""

HELP_OF_EACH = """
import sys
from sllmr_plugin.cli import main
for command in sys.argv[1:]:
    try:
        main([command, "--help"])
    except SystemExit as end:
        assert end.code == 0
    print("after", command, [name for name in sys.modules if "." not in name], file=sys.stderr)
"""


def test_importing_the_package_imports_no_other():
    assert imported_by("import sllmr_plugin, sllmr_plugin.cli", of=DATA) == []
    assert imported_by("from sllmr_plugin import SLLMRError, ConfigError", of=DATA) == []
    assert "torch" in imported_by("from sllmr_plugin import wrap", of=HEAVY)  # the check can fail


def test_help_imports_what_it_prints():
    assert imported_by(COMMAND, "--help", of=DATA) == []
    assert imported_by(COMMAND, "--version", of=DATA) == []


def test_help_of_a_command_that_trains_nothing_needs_no_training_library():
    program = [sys.executable, "-c", HELP_OF_EACH]
    commands = ["candidates", "score", "texts", "ledger", "prepare"]
    told = subprocess.run([*program, *commands, "train"], capture_output=True, text=True, check=True).stderr
    *without, training = [line for line in told.splitlines() if line.startswith("after ")]
    assert [line.split()[1] for line in without] == commands
    for line in without:
        assert not [name for name in HEAVY if f"'{name}'" in line], line
    assert "'torch'" in training  # the check can fail


def test_drawing_candidates_and_asking_a_server_need_no_training_library(tmp_path):
    interactions, items, _ = demo_paths()
    data = ["--interactions", str(interactions), "--items", str(items)]
    candidates, scores = tmp_path / "candidates.parquet", tmp_path / "scores.parquet"
    assert imported_by(COMMAND, "candidates", *data, "--users", "5", "--out", str(candidates), of=HEAVY) == []
    with ScoringServer() as server:
        asked = ["--candidates", str(candidates), *data, "--base-url", server.base_url, "--model", "tiny"]
        assert imported_by(COMMAND, "score", *asked, "--out", str(scores), of=HEAVY) == []
        assert len(server.seen) == 5
    assert scores.exists()


def test_a_worker_of_scoring_on_ray_needs_no_training_library():
    assert imported_by("import sllmr_plugin.scoring.ray", of=HEAVY) == []


# ---------------------------------------------------------------------- the public names


def shown_to_type_checkers():
    """Name -> module of the imports that stand under TYPE_CHECKING."""
    (block,) = [node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert imports == block.body
    assert all(alias.asname == alias.name for node in imports for alias in node.names)  # exported, for mypy --strict
    return {alias.name: node.module for node in imports for alias in node.names}


def test_type_checkers_see_the_names_that_there_are():
    assert shown_to_type_checkers() == sllmr_plugin._MODULE_OF


def test_every_name_is_there_by_every_way():
    starred = {}
    exec("from sllmr_plugin import *", starred)
    names = shown_to_type_checkers()
    assert set(starred) - {"__builtins__"} == set(names) == set(sllmr_plugin.__all__)
    assert set(names) <= set(dir(sllmr_plugin))
    for name, module in names.items():
        there = getattr(importlib.import_module(f"sllmr_plugin.{module}"), name)
        assert there is getattr(sllmr_plugin, name) is starred[name]
        # a module of this name would take the name's place as soon as somebody imports it
        assert not (PACKAGE / name).exists()
        assert not (PACKAGE / f"{name}.py").exists()


def test_an_unknown_name_is_an_error_as_usual():
    with pytest.raises(AttributeError, match="module 'sllmr_plugin' has no attribute 'wrapp'"):
        _ = sllmr_plugin.wrapp
    with pytest.raises(ImportError, match="cannot import name 'wrapp' from 'sllmr_plugin'"):
        from sllmr_plugin import wrapp  # noqa: F401
    assert not hasattr(sllmr_plugin, "__wrapped__")  # inspect and doctest ask for such things


def test_help_names_what_is_public():
    shown = pydoc.render_doc(sllmr_plugin, renderer=pydoc.plaintext)
    for name in sllmr_plugin.__all__:
        assert f" {name}(" in shown, name


def fitted():
    backbone = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
    model = zoo.wrapped(backbone, zoo.build(backbone), sllmr_plugin.SelectiveConfig(gate="none"))
    zoo.compile_model(backbone, model)
    zoo.fit(backbone, model, epochs=1)
    return model


def augmented():
    data = interactions()
    adaptor = sllmr_plugin.KARAdaptor(encoded(), dim=3, hidden=4)
    model = build_model("deepfm", data, embedding_dim=4, history_length=3, seed=2, dense=adaptor.widths)
    return sllmr_plugin.augment(model, adaptor, user="user_id", item="item_id")


@pytest.mark.parametrize("made", [fitted, augmented])
def test_a_pickled_model_loads_where_nothing_of_the_package_is_imported(tmp_path, made):
    """And quietly: DeepCTR-Torch's version check would ask the network, and print when it does not answer."""
    model = made()
    torch.save(model, tmp_path / "model.pt")
    program = """
import socket, sys, threading, torch
def refuse(*args, **kwargs):
    raise AssertionError("a connection was tried")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
threads = []
start = threading.Thread.start
threading.Thread.start = lambda self: (threads.append(self), start(self))
model = torch.load(sys.argv[1], weights_only=False)
assert type(model).__name__ == sys.argv[2], type(model)
assert threads == [], threads
print(sum(float(weight.double().sum()) for weight in model.state_dict().values()))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "model.pt"), type(model).__name__]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    expected = sum(float(weight.double().sum()) for weight in model.state_dict().values())
    assert float(result.stdout) == pytest.approx(expected, rel=1e-12)
