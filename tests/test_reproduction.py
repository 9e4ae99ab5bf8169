"""`python -m benchmarks.paper`: which runs, a process each, taken up again, and laid out beside the paper's figures."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import __main__ as reproduce
from benchmarks.paper.__main__ import main
from benchmarks.paper.document import write_documents
from benchmarks.paper.paper import paper_figures
from benchmarks.paper.plan import plan_runs
from benchmarks.paper.processes import make_runs, threads_per_job
from benchmarks.paper.progress import Progress
from benchmarks.paper.reproduction import Reproduction
from benchmarks.paper.results import collect
from benchmarks.paper.state import look_up
from sllmr_plugin.errors import ConfigError, RunFolderError
from sllmr_plugin.evaluation.store import RunFolder
from sllmr_plugin.experiments.running import FILE
from sllmr_plugin.parallel.lifeline import lifeline

from .evaluation_cases import ranking, result

SMALL = {"data": ("amazon_beauty",), "backbones": ("deepfm", "dcnv2"), "seeds": 2}


@pytest.fixture
def data_dir(tmp_path):
    """Files of one domain: there, but never read here."""
    folder = tmp_path / "data" / "amazon_beauty"
    folder.mkdir(parents=True)
    for name in ("interactions.csv", "items.csv", "llm_scores.parquet", "llm_texts.parquet"):
        (folder / name).write_text(name)
    return tmp_path / "data"


def reproduction_of(data_dir, **changes):
    return Reproduction(**{**SMALL, "data_dir": str(data_dir), **changes})


def auc_of(run):
    """A different AUC for every run."""
    modes = ("none", "kd", "kar", "llm_cf", "global", "pointwise_mse", "gated", "init", "init+gated")
    number = modes.index(run.mode)
    return 0.5 + 0.02 * number + 0.003 * run.seed + 0.1 * (run.backbone == "dcnv2")


def finish(run, folder=None, untrained=None, **changes):
    """Write what a finished run leaves in its folder: three users' interactions, the first cold, the last long-tail."""
    auc = auc_of(run)
    aucs = (auc - 0.05, auc, auc + 0.05)
    finished = result(
        mode=run.mode,
        seed=run.seed,
        backbone=run.backbone,
        auc=auc,
        n_test=3,
        n_cold=1,
        n_tail=1,
        ranking=ranking(aucs),
        **changes,
    )
    texts = {"n_users": 3, "n_items": 4, "n_taken": 2, "n_not_taken": 1, "model": "tiny"}
    run_folder = RunFolder(folder or run.folder, {})
    run_folder.set_inputs(
        {
            "interactions": {"users": 3, "items": 4, "train": 5, "validation": 3, "test": 3},
            "scores": {"n_read": 0 if run.mode in ("none", "kar", "llm_cf") else 7},
            "origin": {"scorer": "attributes"} if run.experiment.reads == ("scores",) else {},
            **({"texts": texts} if run.experiment.reads == ("texts",) else {}),
        }
    )
    run_folder.set_untrained(untrained or {})
    run_folder.add(finished)
    pinned = run.experiment.data.pinned(run.experiment.reads)
    start = run.experiment.start.pinned()
    (run_folder.path / FILE).write_text(replace(run.experiment, data=pinned, start=start).to_yaml())


def copying(run, tmp_path):
    """The run with a command that takes no time: it puts a finished folder in place."""
    ready = tmp_path / "ready" / run.folder.name
    finish(run, ready)
    return shell(run, f"mkdir -p {run.folder} && cp -r {ready}/. {run.folder}")


def shell(run, script):
    return replace(run, command=("sh", "-c", script))


def test_the_whole_paper_is_288_runs():
    runs = Reproduction().runs()
    # a seed: 3 domains x 6 backbones x 5 frameworks, and 2 ablations more of DCNv2 on 3 domains
    assert len(runs) == len(set(runs)) == 3 * (3 * 6 * 5 + 3 * 2)
    assert [run[3] for run in runs] == sorted(run[3] for run in runs)
    assert len(Reproduction(tables=(3,), figures=()).runs()) == 3 * 3 * 4
    assert len(Reproduction(tables=(), figures=(2,)).runs()) == 3 * 3 * 6 * 2
    assert {run[2] for run in Reproduction(modes=("kd", "joint")).runs()} == {"none", "kd", "joint"}


def test_what_makes_no_sense_is_said(tmp_path):
    for changes, message in (
        ({"tables": (4,)}, "there is no 4; take some of 2, 3"),
        ({"modes": ("gate",)}, "mode='gate' is not one of"),
        ({"backbones": ("deepfm", "deepfm")}, "names one twice"),
        ({"tables": (), "figures": ()}, "name a table or a figure"),
        ({"tables": (3,), "figures": (), "backbones": ("din",)}, "Table 3 is of dcnv2"),
        ({"assignments": ("run.mode=joint",)}, "see --modes"),
    ):
        with pytest.raises(ConfigError, match=message):
            Reproduction(**changes)
    with pytest.raises(ConfigError, match="config.weight"):
        plan_runs(Reproduction(**SMALL, assignments=("config.wieght=1",)), tmp_path)


def test_what_cannot_be_shown_is_left_out_with_a_word():
    assert Reproduction().left_out == []
    assert Reproduction(backbones=("din",), modes=("kd",)).left_out == [
        "Table 3 is left out: it is of dcnv2, which --backbones does not name.",
        "Figure 2 is left out: it is of mode gated, which --modes does not name.",
    ]


def test_a_run_is_a_command_of_its_own(data_dir, tmp_path):
    plan = plan_runs(reproduction_of(data_dir, setting="small", assignments=("training.epochs=2",)), tmp_path)
    run = next(run for run in plan if (run.backbone, run.mode, run.seed) == ("dcnv2", "kar", 1))
    assert run.command[:4] == (sys.executable, "-m", "sllmr_plugin", "train")
    assert " ".join(run.command[4:]) == (
        f"--model dcnv2 --data amazon_beauty --setting small --data-dir {data_dir} -o training.epochs=2 "
        f"-o run.mode=kar --seed 1 --out {run.folder}"
    )
    assert len({run.folder for run in plan}) == len(plan)
    others = plan_runs(reproduction_of(data_dir), tmp_path)
    assert not {run.folder for run in plan} & {run.folder for run in others}


def test_a_dry_run_lists_the_runs_and_estimates_the_rest(data_dir, tmp_path, capsys):
    command = ["--data", "amazon_beauty", "--backbones", "deepfm", "--data-dir", str(data_dir)]
    command += ["--modes", "kd,gated", "--seeds", "2", "--jobs", "2", "--out", str(tmp_path), "--dry-run"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count("to do  amazon_beauty deepfm") == 6
    assert "0 runs done, 6 to do, 0 skipped" in out
    assert "not known" in out
    request = reproduction_of(data_dir, backbones=("deepfm",), modes=("kd", "gated"))
    for run in plan_runs(request, tmp_path)[:2]:  # none and kd of seed 0
        finish(run)
        run.keep_seconds({"none": 60, "kd": 100}[run.mode])
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "done   amazon_beauty deepfm none seed 0  (01:00)" in out
    assert "2 runs done, 4 to do, 0 skipped" in out
    # none and kd once more, 60 and 100; gated twice as the mean of these, 80; two at a time
    assert "about 02:40 left with --jobs 2" in out
    assert not (tmp_path / "reproduction.md").exists()


def test_runs_that_lack_files_are_skipped_with_the_commands_that_make_them(data_dir, tmp_path, capsys):
    (data_dir / "amazon_beauty" / "llm_texts.parquet").unlink()
    state = look_up(plan_runs(reproduction_of(data_dir, data=("amazon_beauty", "amazon_toys")), tmp_path))
    assert not state.done
    assert {run.mode for run in state.to_do} == {"none", "kd", "gated", "global", "pointwise_mse"}
    beauty, toys = state.skipped
    assert {run.mode for run in beauty.runs} == {"kar", "llm_cf"}
    assert f"sllmr texts --interactions {data_dir}/amazon_beauty/interactions.csv" in str(beauty)
    for text in ("sllmr prepare amazon2014", "sllmr candidates", "--scorer lexical", "sllmr texts", "reviews_Toys"):
        assert text in str(toys)
    command = ["--data", "amazon_toys", "--data-dir", str(data_dir), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "skipped 96 runs" in err
    assert "no run can be made" in err


def test_a_failing_run_is_named_and_the_others_go_on(data_dir, tmp_path, monkeypatch, capsys):
    def planned(request, out):
        plan = [copying(run, tmp_path) for run in plan_runs(request, out)]
        plan[1] = shell(plan[1], "echo started; echo 'sllmr: error: no such thing' >&2; exit 2")
        plan[2] = shell(plan[2], "kill -9 $$")
        plan[3] = shell(plan[3], "exit 0")  # says that all is well, and leaves nothing
        return plan

    monkeypatch.setattr(reproduce, "plan_runs", planned)
    out = tmp_path / "out"
    command = ["--data", "amazon_beauty", "--backbones", "deepfm", "--data-dir", str(data_dir)]
    command += ["--seeds", "2", "--jobs", "2", "--out", str(out)]
    assert main(command) == 1
    captured = capsys.readouterr()
    failed = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 3
    assert "deepfm kd seed 0: exit code 2: sllmr: error: no such thing  (log: " in failed[0] + failed[1] + failed[2]
    assert "deepfm kar seed 0: killed by signal 9 (out of memory?)" in failed[0] + failed[1] + failed[2]
    log = next((out / "logs").glob("*-kd-*-seed0.log")).read_text()
    assert log.startswith("$ sh -c ")
    assert "started" in log
    content = json.loads((out / "reproduction.json").read_text())
    assert len(content["data"]["amazon_beauty"]["runs"]) == 10 - 3
    assert len(content["not_made"]) == 3
    assert "deepfm kd (1), deepfm kar (1), deepfm llm_cf (1)" in captured.out
    assert "\n  scores: similarity of item attributes (content scorer attributes), no language model\n" in captured.out
    assert "\n  weight of the loss: paper: lambda = 0.1 times the sum over pairs" in captured.out
    # The same command again makes the three, and nothing else.
    made = []
    monkeypatch.setattr(reproduce, "plan_runs", lambda r, o: [copying(run, tmp_path / "2") for run in plan_runs(r, o)])
    monkeypatch.setattr(Progress, "started", lambda self, run: made.append((run.mode, run.seed)))
    assert main(command) == 0
    assert made == [("kd", 0), ("kar", 0), ("llm_cf", 0)]
    assert len(json.loads((out / "reproduction.json").read_text())["data"]["amazon_beauty"]["runs"]) == 10


def test_an_interrupt_ends_the_processes_and_loses_only_their_runs(data_dir, tmp_path):
    state = look_up(plan_runs(reproduction_of(data_dir, backbones=("deepfm",)), tmp_path / "out"))
    first, second, *_ = state.to_do
    pid = tmp_path / "pid"
    runs = [copying(first, tmp_path), shell(second, f"echo $$ > {pid}; exec sleep 60")]

    class Interrupting(Progress):
        def ended(self, run, reason, seconds):
            assert run.key == first.key
            while not (pid.exists() and pid.read_text().strip()):
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_runs(runs, jobs=2, progress=Interrupting(state, 2))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    again = look_up(plan_runs(reproduction_of(data_dir, backbones=("deepfm",)), tmp_path / "out"))
    assert [run.key for run in again.done] == [first.key]
    assert again.to_do[0].key == second.key


def test_jobs_share_the_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert [threads_per_job(jobs) for jobs in (1, 3, 16)] == [8, 2, 1]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_per_job(1) >= 1


def test_runs_of_other_data_are_not_taken_for_done(data_dir, tmp_path):
    run = plan_runs(reproduction_of(data_dir), tmp_path)[0]
    finish(run)
    assert run.is_done()
    (data_dir / "amazon_beauty" / "items.csv").write_text("others")
    with pytest.raises(RunFolderError, match="another items.csv"):
        plan_runs(reproduction_of(data_dir), tmp_path)[0].is_done()
    (data_dir / "amazon_beauty" / "items.csv").unlink()
    assert run.is_done()  # tables can be laid out where the data are not


def test_two_commands_do_not_work_in_one_folder(data_dir, tmp_path, capsys):
    with reproduce._alone(tmp_path / "out"):
        command = ["--data", "amazon_beauty", "--data-dir", str(data_dir), "--out", str(tmp_path / "out")]
        assert main(command) == 2
    assert "another `python -m benchmarks.paper` is at work" in capsys.readouterr().err


@pytest.fixture
def written(data_dir, tmp_path):
    """Documents of all runs of two backbones on Beauty, two seeds."""
    request = reproduction_of(data_dir)
    plan = plan_runs(request, tmp_path / "out")
    for run in plan:
        finish(run)
    text = write_documents(tmp_path / "out", request, collect(plan), command="python -m benchmarks.paper", not_made=[])
    return tmp_path / "out", text


def rows_of(text, title):
    """Return the cells of a table's rows in the Markdown page: (section, row) -> cells."""
    rows, section = {}, None
    lines = text[text.index(title) :].split("\n\n\n")[0].splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not line.startswith("|") or line.startswith("| ---"):
            continue
        cells = [cell.strip(" *") for cell in line.strip("|").split(" | ")]
        if following.startswith("| ---"):
            section = cells[0]
        else:
            rows[section, cells[0]] = cells[1:]
    return rows


def test_the_tables_hold_every_result_beside_the_papers(written):
    out, text = written
    paper, page = paper_figures(), (out / "reproduction.md").read_text()
    rows = rows_of(page, "Table 2, amazon_beauty (the paper's Beauty):")
    assert len(rows) == 2 * 5
    names = {"none": "none", "kd": "kd", "kar": "kar", "llm_cf": "llm_cf (LLM-CF)", "gated": "gated (Ours)"}
    for number, backbone in enumerate(("deepfm", "dcnv2")):
        for mode, name in names.items():
            k = {"none": 0, "kd": 1, "kar": 2, "llm_cf": 3, "gated": 6}[mode]
            mean = 0.5 + 0.02 * k + 0.0015 + 0.1 * number  # of the two seeds
            theirs = paper.table_2["amazon_beauty", backbone, mode]
            ours, gain, auc, paper_gain = rows[backbone, name]
            assert (ours, auc) == (f"{mean:.4f}", f"{theirs:.4f}")
            plain = paper.table_2["amazon_beauty", backbone, "none"]
            assert gain == ("" if mode == "none" else f"{0.02 * k:+.4f}")
            assert paper_gain == ("" if mode == "none" else f"{theirs - plain:+.4f}")
            assert ours in text
    rows = rows_of(page, "Table 3, dcnv2, amazon_beauty (the paper's Beauty):")
    assert len(rows) == 3 * 4
    for stratum, shift, auc in (
        ("overall", 0.0, 0.7911),
        ("cold users", -0.05, 0.7797),
        ("long-tail items", 0.05, 0.733),
    ):
        mean = 0.6 + 0.02 * 4 + 0.0015 + shift
        assert rows[stratum, "global (Global LLM Regularization)"][::2] == [f"{mean:.4f}", f"{auc:.4f}"]
    rows = rows_of(page, "Figure 2, amazon_beauty (the paper's Beauty):")
    assert rows["overall", "deepfm"] == ["+0.1200", f"{0.8101 - 0.7853:+.4f}"]
    assert rows["cold users", "deepfm"] == ["+0.1200", "-"]  # the paper prints no figure of it
    assert rows["cold users", "dcnv2"] == ["+0.1200", f"{0.8063 - 0.8006:+.4f}"]
    assert (out / "figure2.png").read_bytes().startswith(b"\x89PNG")


def test_under_the_papers_protocol_the_tables_have_both_metrics(data_dir, tmp_path):
    request = reproduction_of(data_dir, setting="llm-cf", backbones=("dcnv2",), modes=("gated",))
    plan = plan_runs(request, tmp_path / "out")
    pooled = {("none", 0): 0.75, ("none", 1): 0.77, ("gated", 0): 0.78, ("gated", 1): 0.79}
    for run in plan:
        auc = pooled[run.mode, run.seed]
        finish(run, metrics={"ctr_auc": auc, "ctr_auc_cold": auc - 0.1, "ctr_auc_tail": auc - 0.2})
    write_documents(tmp_path / "out", request, collect(plan), command="", not_made=[])
    page = (tmp_path / "out" / "reproduction.md").read_text()
    rows = rows_of(page, "Table 2, amazon_beauty (the paper's Beauty):")
    # Gains of the two seeds: 0.03 and 0.02, 0.0071 apart from their mean in standard deviations.
    assert rows["dcnv2", "gated (Ours)"][2:] == ["0.7850 ± 0.0071", "+0.0250 ± 0.0071", "0.8177", "+0.0149"]
    assert rows["dcnv2", "none"][2:] == ["0.7600 ± 0.0141", "", "0.8028", ""]
    rows = rows_of(page, "Table 3, dcnv2, amazon_beauty (the paper's Beauty):")
    assert [rows[stratum, "gated (Gated LLM Regularization (Ours))"][2] for stratum in ("overall", "cold rows")] == [
        "0.7850 ± 0.0071",
        "0.6850 ± 0.0071",
    ]
    assert rows["long-tail items", "none (DCNv2)"][2] == "0.5600 ± 0.0141"
    assert "(1 cold at their time, 1 of long-tail items)" in page


def test_what_needs_no_training_is_a_row_in_both_metrics_and_models_below_it_are_named(data_dir, tmp_path):
    request = reproduction_of(data_dir, setting="llm-cf", seeds=1, modes=("kar", "gated"))
    plan = plan_runs(request, tmp_path / "out")
    three = ("auc", "auc_cold", "auc_tail", "ctr_auc", "ctr_auc_cold", "ctr_auc_tail")
    popular = dict(zip(three, (0.56, 0.51, 0.2, 0.7, 0.65, 0.4), strict=True))
    # dcnv2 ranks at 0.6, 0.64, 0.72 (none, kar, gated), deepfm 0.1 lower; cold users 0.05 below, long-tail items above.
    content = dict(zip(three, (0.63, 0.3, 0.9, 0.6, 0.6, float("nan")), strict=True))
    of_texts = {**content, "auc": 0.99}
    for run in plan:
        there = {"popularity": popular, "content": of_texts if run.mode == "kar" else content}
        auc = {"none": 0.69, "kar": 0.71, "gated": 0.75}[run.mode] + 0.1 * (run.backbone == "dcnv2")
        pooled = {"ctr_auc": auc, "ctr_auc_cold": auc - 0.1, "ctr_auc_tail": auc - 0.2}
        finish(run, untrained=there, metrics=pooled)
    of_texts_first = sorted(plan, key=lambda run: run.mode != "kar")
    text = write_documents(tmp_path / "out", request, collect(of_texts_first), command="", not_made=[])
    page = (tmp_path / "out" / "reproduction.md").read_text()
    rows = rows_of(page, "Table 2, amazon_beauty (the paper's Beauty):")
    assert rows["nothing trained", "popularity"] == ["0.5600", "", "0.7000", "", "-", ""]
    assert rows["nothing trained", "content"] == ["0.6300", "", "0.6000", "", "-", ""]  # of titles, not kar's
    second, third = text.split("Table 3, ")[0], text.split("Table 3, ")[1].split("Figure 2")[0]
    assert "content: similarity of titles to those of the user's training items" in second
    below = "which needs no training: "
    assert f"below popularity, {below}deepfm none, deepfm kar\n" in second
    assert f"below content, {below}deepfm none, deepfm kar, deepfm gated, dcnv2 none\n" in second
    assert f"below popularity on labelled rows, {below}deepfm none\n" in second
    assert "below content on labelled rows" not in second
    rows = rows_of(page, "Table 3, dcnv2, amazon_beauty (the paper's Beauty):")
    assert rows["cold rows", "popularity"] == ["0.5100", "", "0.6500", "", "-", ""]
    assert rows["long-tail items", "content"] == ["0.9000", "", "-", "", "-", ""]
    assert f"below content on long-tail items, {below}none, kar, gated" in third
    assert "popularity for cold users" not in third  # none has 0.55 there
    assert "popularity on labelled rows" not in third
    found = json.loads((tmp_path / "out" / "reproduction.json").read_text())["data"]["amazon_beauty"]
    assert found["popularity"] == popular
    assert found["content"] == {**content, "ctr_auc_tail": None}


def test_content_of_written_texts_is_said_to_be_that_where_nothing_has_titles(data_dir, tmp_path):
    request = reproduction_of(data_dir, seeds=1, modes=("kar",), tables=(2,), figures=())
    plan = plan_runs(request, tmp_path / "out")
    for run in plan:
        known = {"popularity": {"auc": 0.5, "auc_cold": 0.5, "auc_tail": 0.5}}
        finish(run, untrained=known | ({"content": known["popularity"]} if run.mode == "kar" else {}))
    text = write_documents(tmp_path / "out", request, collect(plan), command="", not_made=[])
    assert "content: similarity of titles and LLM-written texts to those" in text


def test_initialised_rows_stand_beside_the_papers_and_are_compared_with_both(data_dir, tmp_path):
    request = reproduction_of(data_dir, initialise="titles", assignments=("start.scale=0.2", "training.epochs=1"))
    assert request.modes_of_table(2) == ("none", "kd", "kar", "llm_cf", "gated", "init", "init+gated")
    assert request.modes_of_table(3)[-2:] == ("init", "init+gated")
    plan = plan_runs(request, tmp_path / "out")
    for run in plan:
        command = " ".join(run.command)
        told = " -o start.scale=0.2 -o training.epochs=1 -o start.source=titles -o run.mode=init" in command
        assert told == run.mode.startswith("init")
        assert ("start." in command) == told
        finish(run)
    write_documents(tmp_path / "out", request, collect(plan), command="", not_made=[])
    page = (tmp_path / "out" / "reproduction.md").read_text()
    rows = rows_of(page, "Table 2, amazon_beauty (the paper's Beauty):")
    assert rows["deepfm", "init+gated"] == ["0.6615", "+0.1600", "-", "-"]  # 0.5 + 0.16 + 0.0015, minus none
    assert rows["minus init", "deepfm init+gated"] == ["+0.0200"]
    rows = rows_of(page, "Table 3, dcnv2, amazon_beauty (the paper's Beauty):")
    assert rows["minus init", "init+gated"] == ["+0.0200"] * 3
    found = json.loads((tmp_path / "out" / "reproduction.json").read_text())["data"]["amazon_beauty"]["differences"]
    gains = {(d["baseline"], d["stratum"]): d["mean"] for d in found if d["mode"] == "init+gated"}
    assert gains["none", "all"] == pytest.approx(0.16)
    assert gains["init", "tail"] == pytest.approx(0.02)


def test_what_is_said_of_a_start_that_no_mode_reads_is_refused(tmp_path):
    for changes, message in (
        ({"initialise": "titles", "modes": ("gated",)}, "--initialise is for modes that read vectors"),
        ({"assignments": ("start.source=titles",)}, "-o start.source=titles is for modes that read vectors"),
        ({"assignments": ("start.scale=0.1",), "modes": ("align",)}, "start.scale=0.1: no mode that is made reads it"),
        ({"initialise": "titles", "assignments": ("start.source=texts",)}, "say the same"),
        ({"initialise": str(tmp_path / "none.csv")}, "no such file"),
    ):
        with pytest.raises(ConfigError, match=message):
            Reproduction(**changes)
    vectors = tmp_path / "vectors.csv"
    vectors.write_text("item_id,title")
    assert Reproduction(initialise=str(vectors), modes=("sid",)).modes_of_table(2) == ("none", "sid")


def test_runs_of_other_vectors_are_not_taken_for_done(data_dir, tmp_path):
    vectors = tmp_path / "vectors.csv"
    vectors.write_text("item_id,title")
    run = next(
        run for run in plan_runs(reproduction_of(data_dir, initialise=str(vectors)), tmp_path) if run.mode == "init"
    )
    finish(run)
    assert run.is_done()
    vectors.write_text("item_id,title\n1,other")
    with pytest.raises(RunFolderError, match=r"another vectors\.csv"):
        run.is_done()
    vectors.unlink()
    assert run.is_done()


def test_every_form_has_the_figures_and_json_has_them_unrounded(written):
    out, text = written
    latex = (out / "tables.tex").read_text()
    assert latex.count(r"\toprule") == 2 + 3 + 3
    for form in (latex, text, (out / "tables.txt").read_text()):
        assert "0.6215" in form  # dcnv2, gated: 0.6 + 0.12 + 0.0015 = 0.7215; kd: 0.6215
        assert "0.7215" in form
        assert "0.8177" in form
    content = json.loads((out / "reproduction.json").read_text())["data"]["amazon_beauty"]
    assert len(content["runs"]) == 2 * (5 + 5 + 2)
    assert len(content["paper"]["table_2"]) == 6 * 5
    assert len(content["paper"]["table_3"]) == 4 * 3
    found = {(d["backbone"], d["mode"], d["stratum"]): d["mean"] for d in content["differences"]}
    assert len(found) == 3 * (4 + 6)
    assert math.isclose(found["dcnv2", "global", "tail"], 0.08)
    assert np.isclose(
        [d["mean"] for d in content["levels"] if d["mode"] == "kar" and d["stratum"] == "cold"][0], 0.4915
    )


def test_the_page_says_what_was_trained_on_and_how_it_differs(written):
    page = (written[0] / "reproduction.md").read_text()
    assert "similarity of item attributes (content scorer attributes), no language model" in page
    assert "paper, Table 1: 22363 users, 12101 items, 262826 reviews" in page
    assert "3 users, 4 items, 11 interactions" in page
    assert "written by tiny; LLM-CF's exemplars are 3 interactions with reasoning about them" in page
    assert page.count("\n| gate | ") == 1
    assert "copied from the paper" in page


TINY = [
    *("-o", "training.epochs=1", "-o", "training.embedding_dim=4", "-o", "training.batch_size=512"),
    *("-o", "training.test_users=60", "-o", "training.valid_users=60", "-o", "model.arguments.dnn_hidden_units=[8]"),
]


def processes_that_name(path):
    return [line for line in Path("/proc").glob("[0-9]*/cmdline") if str(path).encode() in read_bytes_or_nothing(line)]


def read_bytes_or_nothing(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_command_that_is_ended_is_taken_up_again_and_makes_no_run_twice(tmp_path, capsys):
    command = ["--data", "demo", "--backbones", "dcnv2", "--modes", "kar", "--tables", "2"]
    command += ["--figure", "none", "--seeds", "1", "--jobs", "2", "--out", str(tmp_path), *TINY]
    first = subprocess.Popen([sys.executable, "-m", "benchmarks.paper", *command], stderr=subprocess.PIPE, text=True)
    assert "started" in first.stderr.readline() + first.stderr.readline()
    first.send_signal(signal.SIGTERM)
    assert "takes up where this one stopped" in first.communicate()[1]
    assert first.returncode == 130
    assert not processes_that_name(tmp_path)
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "[2/2] " in captured.err
    content = json.loads((tmp_path / "reproduction.json").read_text())
    runs = {run["mode"]: run for run in content["data"]["demo"]["runs"]}
    assert set(runs) == {"none", "kar"}
    assert runs["kar"]["n_test"] == 60
    (row,) = [line.split() for line in captured.out.splitlines() if line.startswith("kar ")]
    assert row[1] == f"{runs['kar']['auc']:.4f}"
    assert "scores: none of these runs read any" in content["data"]["demo"]["remarks"]
    assert not (tmp_path / "figure2.png").exists()
    assert main(command) == 0
    assert capsys.readouterr().err == ""  # nothing was made


def wait_until(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.05)


def test_a_kill_ends_the_trainings_too(tmp_path):
    command = [sys.executable, "-m", "benchmarks.paper", "--data", "demo", "--backbones", "dcnv2"]
    command += ["--modes", "kd", "--tables", "2", "--figure", "none", "--seeds", "1", "--jobs", "2"]
    command += ["--out", str(tmp_path), *TINY, "-o", "training.epochs=100000"]
    parent = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(list(tmp_path.glob(f"runs/*/{FILE}"))) == 2)  # data are read, trainings begin
        time.sleep(0.5)
        assert parent.poll() is None
        assert len(processes_that_name(tmp_path)) == 1 + 2
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
        wait_until(lambda: not processes_that_name(tmp_path))
    finally:
        parent.kill()
        parent.wait()
        for process in processes_that_name(tmp_path):
            os.kill(int(process.parent.name), signal.SIGKILL)
    logs = [log.read_text().splitlines() for log in tmp_path.glob("logs/*.log")]
    assert len(logs) == 2
    assert all(lines[-1] == "sllmr: the process that started this one is gone, so this one ends" for lines in logs)
    assert not list(tmp_path.glob("runs/*/results.json"))


@pytest.mark.parametrize("stdin", ["ended", "closed"])
def test_a_training_of_ones_own_does_not_mind_the_end_of_its_input(stdin):
    program = "import time; from sllmr_plugin.parallel.lifeline import end_with_lifeline as watch; "
    program += "watch(); time.sleep(0.5); print('trained')"
    command = f'exec "$0" -c "$1" {"< /dev/null" if stdin == "ended" else "<&-"}'
    result = subprocess.run(["sh", "-c", command, sys.executable, program], capture_output=True, text=True, check=True)
    assert result.stdout == "trained\n"


def test_what_is_started_for_it_ends_with_the_pipe_and_its_own_processes_do_not():
    program = "import os, sys, time; from sllmr_plugin.parallel.lifeline import end_with_lifeline as watch; "
    program += "watch(); print([name for name in os.environ if name in sys.argv], flush=True); time.sleep(60)"
    with lifeline() as (stdin, variables):
        process = subprocess.Popen(
            [sys.executable, "-c", program, *variables],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **variables},
            text=True,
        )
        assert process.stdout.readline() == "[]\n"  # nothing is left for them to inherit
        time.sleep(0.2)
        assert process.poll() is None
    assert "is gone" in process.communicate(timeout=600)[1]
    assert process.returncode == 1
