"""What is built holds the model zoo's files, and works from there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_build_has_the_model_zoo_inside(tmp_path):
    pytest.importorskip("setuptools")
    source, built = tmp_path / "source", tmp_path / "built"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("sllmr_plugin", "model_zoo_configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(built)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)

    def zoo(folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))

    inside = built / "sllmr_plugin" / "model_zoo_configs"
    assert zoo(inside) == zoo(ROOT / "model_zoo_configs")
    command = [sys.executable, "-m", "sllmr_plugin", "train", "--list"]
    environment = {**os.environ, "PYTHONPATH": str(built)}
    listed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert "deepfm " in listed
    assert listed.endswith(f"The files: {inside}\n")
