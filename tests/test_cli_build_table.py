"""`sllmr build-table`: files to a folder that opens, and what it says when that fails."""

import pandas as pd

from sllmr_plugin import ScoreTable
from sllmr_plugin.cli import main

ROWS = pd.DataFrame({"user_id": ["a", "b", "c"], "item_id": [3, 4, 3], "score": [0.25, 0.5, 1.0]})


def test_files_become_a_table(tmp_path, capsys):
    ROWS.to_parquet(tmp_path / "scores.parquet")
    pd.DataFrame({"user_id": ["a", "b"], "code": [5, 2]}).to_csv(tmp_path / "users.csv", index=False)
    files = ["--scores", str(tmp_path / "scores.parquet"), "--out", str(tmp_path / "table")]
    assert main(["build-table", *files, "--user-index", str(tmp_path / "users.csv")]) == 0
    assert "3 scored pairs read, 2 kept" in capsys.readouterr().out
    table = ScoreTable.read(tmp_path / "table")
    assert table.candidates.users.tolist() == [2, 5]
    assert table.candidates.items.tolist() == [4, 3]
    assert table.candidates.scores.tolist() == [0.5, 0.25]


def test_what_cannot_be_used_is_said_in_a_line(tmp_path, capsys):
    ROWS.to_parquet(tmp_path / "scores.parquet")
    ROWS.to_csv(tmp_path / "users.csv", index=False)
    files = ["--scores", str(tmp_path / "scores.parquet"), "--out", str(tmp_path / "table")]
    assert main(["build-table", *files, "--user-index", str(tmp_path / "users.csv")]) == 2
    assert "no column 'code'" in capsys.readouterr().err
    assert main(["build-table", *files]) == 2
    assert "user_id holds 'a', which is not an integer code" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()
