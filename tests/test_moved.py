"""Former names of modules still import."""

import importlib
import subprocess
import sys
import warnings

import pytest

from sllmr_plugin.moved import MOVED


@pytest.mark.parametrize("former", MOVED)
def test_a_former_name_gives_the_module_of_today_with_a_warning(former):
    sys.modules.pop(f"sllmr_plugin.{former}", None)
    with pytest.warns(DeprecationWarning, match=rf"sllmr_plugin\.{former} is now sllmr_plugin\.{MOVED[former]};"):
        module = importlib.import_module(f"sllmr_plugin.{former}")
    today = importlib.import_module(f"sllmr_plugin.{MOVED[former]}")
    names = [name for name in vars(today) if not name.startswith("__")]
    assert names
    assert all(getattr(module, name) is getattr(today, name) for name in names)


def test_names_are_imported_from_former_modules_as_scripts_do():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from sllmr_plugin.augmentation import KARAdaptor
        from sllmr_plugin.score_table import ScoreTable

        from sllmr_plugin.zoo import build_model
    import sllmr_plugin
    from sllmr_plugin.zoo.deepctr import build_model as today

    assert (KARAdaptor, ScoreTable, build_model) == (sllmr_plugin.KARAdaptor, sllmr_plugin.ScoreTable, today)


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("sllmr_plugin.score_tables")


def test_the_warning_points_at_the_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sllmr_plugin\nfrom sllmr_plugin.score_table import ScoreTable\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert f"{script}:2: DeprecationWarning: sllmr_plugin.score_table is now sllmr_plugin.scores.table" in done.stderr
