"""The report: every figure is in results.json, nothing is claimed too much, and the page needs nothing else."""

import base64
import hashlib
import json
import math
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from sllmr_plugin.cli import main
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import CoverageWarning, GateCollapsedWarning, RunFolderError
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.differences import auc_levels, gains_by_size, levels_by_size
from sllmr_plugin.evaluation.hints import hints
from sllmr_plugin.evaluation.modes import MODE_NAMES, Mode
from sllmr_plugin.evaluation.plots import curves_figure
from sllmr_plugin.evaluation.report import sentences, write_report
from sllmr_plugin.evaluation.report.sections import origin
from sllmr_plugin.evaluation.report.sentences import cautions, headline, interval
from sllmr_plugin.evaluation.run import RunResult
from sllmr_plugin.evaluation.store import RunFolder
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.scores.origin import read_origin
from sllmr_plugin.scores.table import ScoreTable
from tests.evaluation_cases import N_ITEMS, N_USERS, catalogue, interactions, ranking, result

SMALL = RunSettings.quick(epochs=2, embedding_dim=4, batch_size=16)


def scores(probes=True, seed=0):
    """Scores of six items for each user, and of the validation item as a probe for most."""
    rng = np.random.default_rng(seed)
    frame = interactions()
    held_out = frame[frame["split"] == "valid"].set_index("user_id")["item_id"]
    rows = []
    for user in range(N_USERS):
        name = f"u{user:02d}"
        for item in rng.permutation(N_ITEMS)[:6]:
            if f"i{item:02d}" != held_out[name]:
                rows.append((name, f"i{item:02d}", rng.random(), "candidate"))
        if probes and user % 4:
            rows.append((name, held_out[name], rng.random(), "probe"))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "score", "kind"])


def finish(out, table=None, **changes):
    """Make a small comparison."""
    data = load_interactions(interactions(), catalogue())
    asked = {"modes": ("none", "global", "gated"), "seeds": 2, "settings": SMALL, "verbose": False}
    return compare(data, scores() if table is None else table, out=out, **{**asked, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished comparison with its report; not to be changed."""
    place = tmp_path_factory.mktemp("runs") / "small"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateCollapsedWarning)  # the scores are random
        finish(place)
    write_report(place)
    return place


class Page(HTMLParser):
    """Takes a page apart: cells of tables, list items, images, and every attribute that could fetch something."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.items, self.images, self.fetched, self.tags = [], [], [], [], set()
        self._into = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.fetched += [value for key, value in attributes.items() if key in ("src", "href", "srcset", "data")]
        if tag == "table":
            self.tables.append({"caption": "", "head": [], "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th"):
            assert tag == "td" or attributes["scope"] in ("row", "col")
            self.tables[-1]["rows"][-1].append("")
        elif tag == "li":
            self.items.append("")
        elif tag == "img":
            self.images.append(attributes)
        if tag in ("td", "th", "li", "caption"):
            self._into = tag

    def handle_endtag(self, tag):
        if tag == self._into:
            self._into = None

    def handle_data(self, data):
        text = data.replace("\N{NO-BREAK SPACE}", " ")
        if self._into in ("td", "th"):
            self.tables[-1]["rows"][-1][-1] += text
        elif self._into == "caption":
            self.tables[-1]["caption"] += text
        elif self._into == "li":
            self.items[-1] += text

    def table(self, caption):
        """Return the rows of a table by their name."""
        (found,) = (table for table in self.tables if table["caption"] == caption)
        head, *rows = found["rows"]
        return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def page_of(place):
    return Page((place / "report.html").read_text(encoding="utf-8"))


def leaves(value):
    """Yield every value of a JSON document, and the keys."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def not_found(texts, document):
    """Return the numbers in texts that are not numbers of the document, rounded to as many digits."""
    everything = list(leaves(document))
    told = {value for value in everything if isinstance(value, str)}
    values = np.array([value for value in everything if isinstance(value, (int, float)) and value is not None], float)
    missing = []
    for text in texts:
        if text in told:  # a version, a date or a hash
            continue
        for number in NUMBER.findall(text):
            digits = len(number.partition(".")[2])
            if not (np.abs(values - float(number)) <= 0.5000001 * 10.0**-digits).any():
                missing.append(number)
    return missing


def test_every_number_of_the_page_is_in_results_json(folder):
    page, document = page_of(folder), json.loads((folder / "results.json").read_text())
    cells = [cell for table in page.tables for row in table["rows"][1:] for cell in row[1:]]
    assert sum(bool(NUMBER.search(cell)) for cell in cells) > 150
    assert len(page.items) == 6  # two modes, three strata
    assert not_found([*cells, *page.items], document) == []
    assert not_found(["0.5 of 987654"], document) == ["987654"]  # the check can fail


def test_the_differences_of_the_page_are_those_of_the_comparison(folder):
    table = page_of(folder).table("AUC minus that of the plain model")
    names = {"all": "all test interactions", "cold": "cold users", "tail": "long-tail items"}
    found = RunFolder(folder, None).differences
    assert len(found) == 6
    for d in found:
        text = f"{d.mean:+.4f}" + (f" [{d.low:+.4f}, {d.high:+.4f}]" if d.n_users >= 10 else "")
        assert table[f"{d.backbone} {d.mode}"][names[d.stratum]] == text
        html = (folder / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
        assert (f"<strong>{text}</strong>" in html) == d.clear


def test_the_page_fetches_nothing_and_can_be_read_without_seeing(folder):
    page = page_of(folder)
    assert page.images
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.fetched)
    assert not page.tags & {"link", "iframe", "object"}
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'" in text
    assert "addEventListener" in script
    assert 'name="viewport"' in text
    assert "@media print" in text
    for image in page.images:
        assert len(image["alt"]) > 20
        assert base64.b64decode(image["src"].partition(",")[2]).rstrip().endswith(b"</svg>")
    assert all(table["caption"] for table in page.tables)


def test_marks_of_the_plots_say_what_they_are(folder):
    text = (folder / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    plots = re.findall('<div class="plot">(.*?)</div>', text, re.DOTALL)
    assert len(plots) == len(page_of(folder).images)
    assert all(("<circle" in plot) != ("Alpha of" in plot) for plot in plots)  # a gate's map has its figures in it
    differences = next(plot for plot in plots if "Differences in AUC" in plot and "history" not in plot)
    said = re.findall("<title>(.*?)</title>", differences)
    found = RunFolder(folder, None).differences
    assert sorted(said) == sorted(
        f"{d.mode}: {d.mean:+.4f}" + ("" if math.isnan(d.low) else f" [{d.low:+.4f}, {d.high:+.4f}]")
        for d in found
        if d.backbone in differences
    )


def test_what_is_said_lies_on_the_marks(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    plot = next(p for p in re.findall('<div class="plot">(.*?)</div>', text, re.DOTALL) if "Differences in AUC" in p)
    drawn = base64.b64decode(re.search('base64,([^"]*)"', plot).group(1)).decode()
    box = re.search('viewBox="([^"]*)"', drawn).group(1)
    assert [float(v) for v in re.search('viewBox="([^"]*)"', plot).group(1).split()] == pytest.approx(
        [float(v) for v in box.split()], abs=0.1
    )
    # matplotlib draws each mark, and each tick, as a <use> of a shape
    uses = np.array([[float(v) for v in use] for use in re.findall('<use [^>]*x="([^"]*)" y="([^"]*)"', drawn)])
    circles = re.findall('<circle cx="([^"]*)" cy="([^"]*)"', plot)
    assert len(circles) >= 3
    for x, y in circles:
        assert np.abs(uses - [float(x), float(y)]).max(axis=1).min() < 0.1


def test_curves_without_a_figure_are_drawn_and_say_nothing():
    table = pd.DataFrame({"mode": "none", "epoch": [1, 2], "valid_auc": [None, None], "loss": [0.7, None]})
    assert [hint.text for hint in hints(curves_figure(table))] == ["none, epoch 1: 0.7000"]


def test_every_plot_is_a_png_too(folder):
    files = sorted((folder / "plots").iterdir())
    assert len(files) == len(page_of(folder).images)
    assert {file.name.split("-")[0].removesuffix(".png") for file in files} == {
        *("differences", "auc", "users", "gain", "reliability", "gate", "curves")
    }
    assert all(file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for file in files)


def test_a_second_report_is_the_same_and_old_plots_go(folder):
    before = (folder / "report.html").read_bytes()
    (folder / "plots" / "of-a-backbone-that-is-gone.png").write_bytes(b"")
    write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert not (folder / "plots" / "of-a-backbone-that-is-gone.png").exists()


def test_runs_keep_their_epochs_and_versions(folder):
    for run in RunFolder(folder, None).runs.values():
        aucs = [epoch["valid_auc"] for epoch in run.epochs]
        assert len(aucs) == SMALL.epochs
        assert aucs[run.epoch - 1] == max(aucs)
        assert all(epoch["loss"] > 0 for epoch in run.epochs)
        assert {"python", "torch", "deepctr-torch", "sllmr-plugin"} <= set(run.versions)
        if run.mode == "none":
            assert set(run.epochs[0]) == {"valid_auc", "loss"}
        else:
            assert run.epochs[run.epoch - 1]["sllmr_gate"] == run.gate["all"]


def test_curves_and_gate_are_means_over_seeds(folder):
    opened = RunFolder(folder, None)
    own = [run for run in opened.runs.values() if run.mode == "gated"]
    for epoch in (1, 2):
        (curve,) = (c for c in opened.report["curves"] if c["mode"] == "gated" and c["epoch"] == epoch)
        assert curve["loss"] == pytest.approx(sum(run.epochs[epoch - 1]["loss"] for run in own) / 2)
        (gate,) = (g for g in opened.report["gate"] if g["epoch"] == epoch)  # of mode gated alone
        assert gate["sllmr_gate"] == pytest.approx(sum(run.epochs[epoch - 1]["sllmr_gate"] for run in own) / 2)


def test_the_gates_map_is_of_the_kept_epochs_and_a_mean_over_seeds(folder):
    opened = RunFolder(folder, None)
    maps = [pd.DataFrame(run.gate_map) for run in opened.runs.values() if run.mode == "gated"]
    assert all(run.gate_map is None for run in opened.runs.values() if run.mode != "gated")
    (shown,) = opened.report["gate_maps"]
    assert shown["mode"] == "gated"
    shown = pd.DataFrame(shown["map"])
    assert len(shown) == len(shown.drop_duplicates(["cold", "long_tail_items", "uncertainty", "gap"])) == 180
    np.testing.assert_allclose(shown["alpha"], (maps[0]["alpha"] + maps[1]["alpha"]) / 2, atol=1e-9)
    assert (folder / "plots" / "gate-map-deepfm-gated.png").exists()


def test_inputs_are_counted(folder):
    frame, table = interactions(), scores()
    told = RunFolder(folder, None).inputs
    assert told["interactions"]["users"] == N_USERS
    assert told["interactions"]["train"] == (frame["split"] == "train").sum()
    lengths = frame[frame["split"] == "train"]["user_id"].value_counts()
    assert told["interactions"]["cold_users"] == (lengths < 3).sum()
    assert told["scores"]["n_candidates"] == (table["kind"] == "candidate").sum()
    cold = set(lengths[lengths < 3].index)
    assert told["scores"]["cold_users"] == len(cold & set(table["user_id"]))
    coverage = page_of(folder).table("What of the score table is used")
    assert coverage["probes kept"]["count"] == "18 of 18 users"


def test_the_first_plain_model_is_judged_beside_the_llm(folder):
    found = RunFolder(folder, None).reliability
    assert (found["backbone"], found["seed"]) == ("deepfm", 0)
    table = page_of(folder).table("Pairs of a held-out item and a candidate, by region")
    assert table["all pairs"]["pairs"] == str(found["regions"][0]["n_pairs"])
    assert list(table["all pairs"])[-2:] == ["LLM right when they disagree", "popularity right"]
    assert table["cold users"]["popularity right"][:6] == f"{found['regions'][1]['popularity_right']:.4f}"


def test_without_probes_there_is_no_map_and_the_page_says_so(tmp_path):
    finish(tmp_path / "run", scores(probes=False), modes=("none", "global"), seeds=1)
    assert RunFolder(tmp_path / "run", None).reliability is None
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "Not recorded: it needs probes" in text
    assert "Not recorded: no run has a gate" in text
    assert "one seed cannot tell" in text


def test_a_table_without_cold_users_has_a_report_that_says_what_the_gate_rested_on(tmp_path):
    warm = scores(probes=False)
    history = interactions().query("split == 'train'").groupby("user_id").size()
    warm = warm[warm["user_id"].map(history) >= 3]
    overrides = {"warmup_epochs": 1}
    finish(tmp_path / "run", warm, modes=("none", "gated"), seeds=1, config_overrides=overrides)
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "The gate was fixed (open for cold users and long-tail items), on no evidence" in text
    gate = page_of(tmp_path / "run").table("deepfm gated")
    assert list(gate) == ["2"]  # the first epoch had no weight
    assert gate["2"]["cold users"] == "-"


def test_what_a_gate_rested_on():
    summary = {"runs": [{"mode": "gated"}], "inputs": {"scores": {"n_probes": 1}}, "settings": {"config": {}}}
    for kind, n_probes, told in [
        ("auto", 1, "rested on 1 probe:"),
        ("auto", 0, "was fixed"),
        ("bilevel", 7, "rested on 7 probes:"),
        ("budget", 7, "on no evidence"),
    ]:
        summary["settings"]["config"]["gate"] = kind
        summary["inputs"]["scores"]["n_probes"] = n_probes
        (sentence,) = sentences.gate_basis(summary)
        assert told in sentence
    assert sentences.gate_basis({**summary, "runs": [{"mode": "global"}]}) == []
    assert sentences.gate_basis({**summary, "inputs": None}) == []


def test_probes_that_cannot_be_used_are_warned_of(tmp_path):
    table = scores()
    own = (table["kind"] == "candidate") & (table["user_id"] < "u12")
    with pytest.warns(CoverageWarning, match="no reliability map: .*Have the LLM score"):
        finish(tmp_path / "run", table[own | ((table["kind"] == "probe") & (table["user_id"] > "u12"))], modes=["none"])


def test_a_folder_of_before_has_a_report_of_what_it_has(tmp_path):
    opened = RunFolder(tmp_path / "old", {"version": "0.1.0"})
    for mode in ("none", "global"):
        frame = ranking().assign(history_length=[1, 4, 30], popularity=[5, 5, 0])
        opened.add(result(mode, ranking=frame))
    text = write_report(tmp_path / "old").read_text(encoding="utf-8")
    for missing in ("before epochs were kept", "Versions: not recorded", "<td>not recorded</td>"):
        assert missing in text
    assert "AUC is higher" not in text  # the two modes have the same ranking


def test_a_report_is_dropped_with_the_runs_it_was_made_of(tmp_path):
    frame = ranking().assign(history_length=1, popularity=5)
    opened = RunFolder(tmp_path / "run", {})
    opened.add(result(ranking=frame))
    write_report(tmp_path / "run")
    again = RunFolder(tmp_path / "run", {})
    assert again.report is not None
    again.add(result(seed=1, ranking=frame))
    assert "report" not in json.loads((tmp_path / "run" / "results.json").read_text())


def test_texts_of_files_are_no_markup(tmp_path):
    opened = RunFolder(tmp_path / "run", {"version": "<b>"})
    opened.add(result(ranking=ranking().assign(history_length=1, popularity=5)))
    counts = dict.fromkeys(["users", "items", "train", "validation", "test", "cold_users", "tail_items"], 1)
    table = dict.fromkeys(
        ["n_read", "n_candidates", "n_probes", "n_users", "n_items", "n_probe_users", "cold_users", "tail_items"], 1
    )
    origin = {"note": "<script>alert(1)</script>", "model": '"><img src=x>'}
    opened.set_inputs({"interactions": counts, "scores": {**table, "dropped": {"<i>": 2}}, "origin": origin})
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    page = Page(text)
    assert text.count("<script") == 1  # the page's own
    assert not page.tags & {"b", "i"}
    assert page.table("How the scores were made, and what they cost")["model"]["recorded"] == '"><img src=x>'


def test_no_gain_is_claimed_whose_interval_holds_zero():
    def told(low, high, clear):
        row = {"backbone": "deepfm", "mode": "gated", "stratum": "all", "label": "", "mean": 0.01}
        ((mode, (sentence,)),) = headline([{**row, "low": low, "high": high, "clear": clear}])
        assert mode == "gated"
        return sentence

    assert "higher" in told(0.001, 0.02, True)
    assert "no clear difference, the interval holds zero" in told(-0.001, 0.02, False)
    assert "higher" not in told(-0.001, 0.02, False)
    assert "too few users" in told(None, None, False)


def test_several_backbones_are_told_apart_in_words():
    row = {"mode": "gated", "stratum": "tail", "label": "", "low": 0.1, "high": 0.3, "clear": True}
    rows = [
        {**row, "backbone": "din", "mean": 0.2},
        {**row, "backbone": "dcn", "mean": -0.2, "low": -0.3, "high": -0.1},
        {**row, "backbone": "pnn", "mean": 0.0, "low": -0.3, "clear": False},
    ]
    ((_, (sentence,)),) = headline(rows)
    higher, lower, neither = sentence.split(";")
    assert sentence.startswith("Long-tail items: ")
    assert "higher" in higher
    assert "din" in higher
    assert "lower" in lower
    assert "dcn" in lower
    assert "pnn" in neither


def test_every_mode_is_explained():
    told = [Mode.of(name).says for name in (*(set(MODE_NAMES) - {"graph"}), "init+graph", "init+gated", "kar+gated")]
    assert len(set(told)) == len(told)
    assert Mode.of("init+gated").says == f"{Mode.of('init').says}; {Mode.of('gated').says}"


def test_intervals_in_words():
    assert interval({"mean": 0.5, "low": 0.25, "high": 0.75}).split() == ["0.5000", "[0.2500,", "0.7500]"]
    assert interval({"mean": 0.5, "low": None, "high": None}, signed=True) == "+0.5000"
    assert interval({"mean": None, "low": None, "high": None}) == "-"


def test_wrong_scores_and_missing_runs_are_pointed_out():
    runs = [{"backbone": "din", "mode": mode, "auc": auc} for mode, auc in (("none", 0.5), ("none", 0.6), ("kd", 0.7))]
    untrained = {"popularity": {"auc": 0.56}, "content": {"auc": 0.4}}
    summary = {"inputs": None, "runs": runs, "labelled": [], "untrained": untrained}
    wrong, below, counts = cautions({**summary, "inputs": {"origin": {"corrupted": "inverted"}}})
    assert "inverted" in wrong
    assert below == "Below popularity, which needs no training: din none."  # 0.55 on average
    assert "kd 1, none 2" in counts
    assert cautions({"inputs": None, "runs": runs[:2], "labelled": [], "untrained": {}}) == []


def test_labelled_rows_have_a_table_of_models_and_of_what_needs_no_training(tmp_path):
    opened = RunFolder(tmp_path, {"protocol": "llm-cf"})
    popular = {"ctr_auc": 0.65, "ctr_auc_cold": 0.55, "ctr_auc_tail": float("nan")}
    ranked = {"auc": 0.1, "auc_cold": 0.1, "auc_tail": 0.1}
    opened.set_untrained({"popularity": {**ranked, **popular}})
    aucs = {("none", 0): 0.60, ("none", 1): 0.64, ("gated", 0): 0.70, ("gated", 1): 0.71}
    frame = ranking().assign(history_length=1, popularity=5)
    for (mode, seed), auc in aucs.items():
        metrics = {"ctr_auc": auc, "ctr_auc_cold": auc - 0.1, "ctr_auc_tail": auc - 0.2, "logloss": 1.0}
        opened.add(result(mode, seed, ranking=frame, metrics=metrics))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    rows = Page(text).table("Mean AUC over labelled rows and seeds")
    headings = ("CTR AUC", "cold rows", "long-tail items")
    # 0.60 and 0.64 are 0.02 from their mean each: a standard deviation of 0.02 * sqrt(2).
    assert rows["deepfm none"] == dict(zip(headings, [f"{0.62 - x:.4f} ± 0.0283" for x in (0, 0.1, 0.2)], strict=True))
    assert rows["deepfm gated"]["CTR AUC"] == "0.7050 ± 0.0071"
    assert rows["deepfm popularity"] == dict(zip(headings, ["0.6500", "0.5500", "-"], strict=True))
    assert "Below popularity on labelled rows, which needs no training: deepfm none." in text
    kept = json.loads((tmp_path / "results.json").read_text())["report"]["labelled"]
    assert kept[0]["ctr_auc"] == {"mean": pytest.approx(0.62), "deviation": pytest.approx(0.02 * 2**0.5)}
    assert kept[2]["ctr_auc_tail"] == {"mean": None, "deviation": None}


def test_without_the_protocol_the_report_says_nothing_of_labelled_rows(folder):
    assert RunFolder(folder, None).report["labelled"] == []
    assert "Labelled rows" not in (folder / "report.html").read_text(encoding="utf-8")


def rankings_of(n, seeds, rng):
    """Rankings of two modes, with ties in popularity and two interactions a user."""
    base = pd.DataFrame({"user_id": np.arange(n) // 2, "item_id": np.arange(n), "cold": False, "tail": False})
    base = base.assign(
        history_length=np.repeat(rng.integers(0, 30, n // 2), 2), popularity=np.minimum(rng.integers(0, 12, n), 8)
    )
    return {(mode, s): base.assign(auc=rng.random(n)) for mode in ("none", "gated") for s in range(seeds)}


def test_levels_are_means_with_intervals_around_them():
    found = rankings_of(60, 2, np.random.default_rng(0))
    levels = auc_levels("deepfm", found)
    assert [(level.stratum, level.mode) for level in levels] == [("all", "none"), ("all", "gated")]
    for level in levels:
        naive = np.mean([row["auc"] for s in (0, 1) for _, row in found[level.mode, s].iterrows()])
        assert level.mean == pytest.approx(naive)
        assert 0 <= level.low < level.mean < level.high <= 1
        assert (level.n_interactions, level.n_users, level.seeds) == (60, 30, [0, 1])


def test_gains_by_size_put_every_interaction_in_one_range():
    found = rankings_of(200, 2, np.random.default_rng(1))
    base = found["none", 0]
    gains = gains_by_size("deepfm", found)
    gain = np.mean([found["gated", s]["auc"] - found["none", s]["auc"] for s in (0, 1)], axis=0)
    for column in ("history_length", "popularity"):
        own = [d for d in gains if d.stratum == column]
        assert 3 < len(own) <= 10
        assert sum(d.n_interactions for d in own) == 200
        assert len({d.label for d in own}) == len(own)
        above = -1
        for d in own:
            low, *rest = (int(number) for number in re.findall(r"\d+", d.label))
            high = np.inf if "more" in d.label else (rest or [low])[0]
            assert low > above
            above = high
            inside = base[column].between(low, high)
            assert d.n_interactions == inside.sum()
            assert d.mean == pytest.approx(gain[inside].mean())


def test_levels_by_size_have_the_ranges_of_the_gains():
    found = rankings_of(200, 2, np.random.default_rng(1))
    base = found["none", 0]
    levels = levels_by_size("deepfm", {**found, ("popularity", 0): found["none", 1]})
    assert {(level["stratum"], level["label"]) for level in levels} == {
        (d.stratum, d.label) for d in gains_by_size("deepfm", found)
    }
    for level in levels:
        low, *rest = (int(number) for number in re.findall(r"\d+", level["label"]))
        inside = base[level["stratum"]].between(low, np.inf if "more" in level["label"] else (rest or [low])[0])
        mode = level["mode"]
        runs = [found["none", 1]] if mode == "popularity" else [found[mode, s] for s in (0, 1)]
        assert level["mean"] == pytest.approx(np.mean([run["auc"][inside].mean() for run in runs]))
        assert level["n_interactions"] == inside.sum()


def test_the_first_section_says_what_came_out_and_draws_what_needs_no_training(folder):
    kept = json.loads((folder / "results.json").read_text())["report"]
    assert {row["mode"] for row in kept["levels_by_size"]} > {"none", "gated", "popularity"}
    page = page_of(folder)
    alts = [image["alt"] for image in page.images]
    assert any("by training interactions of the item" in alt and "popularity" in alt for alt in alts[:3])
    assert alts[2].startswith("Shares of users")
    text = (folder / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    (verdict, flattery) = re.findall(r'<p class="verdict">(.*?)</p>', text)
    gains = [d for d in kept["differences"] if d["stratum"] == "all" and d["clear"] and d["mean"] > 0]
    assert bool(gains) == ("ranks at AUC" in verdict)
    assert "best of several" in flattery
    assert not_found([verdict], kept) == []
    times = page.table("Time of an epoch of training, without rankings")
    assert times["deepfm none"]["over plain"] == "1.00"


def test_the_page_shows_what_example_users_would_see(folder):
    examples = RunFolder(folder, None).examples
    page = page_of(folder)
    assert len(examples["users"]) == 4
    assert {(run["mode"], run["seed"]) for run in examples["runs"]} == {("none", 0), ("global", 0), ("gated", 0)}
    for number, user in enumerate(examples["users"]):
        rows = page.table(f"User {user['user']}")
        for run in examples["runs"]:
            shown = run["ranked"][number]
            row = rows[f"deepfm {run['mode']} seed 0"]
            assert row == {
                "place of what was taken": f"{shown['rank']} of {shown['of']}",
                "the first five": "; ".join(shown["top"]),
            }


def test_the_verdict_claims_no_gain_that_is_not_clear_and_names_what_serving_needs():
    plain = {"backbone": "din", "mode": "none", "stratum": "all", "label": "", "mean": 0.5}
    summary = {"differences": [], "levels": [plain], "pace": []}
    assert sentences.verdict(summary) == []

    def told(*gains):
        rows = [
            {**plain, "mode": mode, "mean": mean, "low": mean - 0.01, "high": mean + 0.01, "clear": abs(mean) > 0.01}
            for mode, mean in gains
        ]
        levels = [plain, *({**row, "mean": 0.5 + row["mean"]} for row in rows)]
        pace = [{"backbone": "din", "mode": mode, "seconds": 3.0, "ratio": 1.5} for mode, _ in gains]
        return sentences.verdict({"differences": rows, "levels": levels, "pace": pace})

    unclear, *more = told(("gated", 0.005))
    assert "no way of training that was compared is clearly better" in unclear
    assert more == []
    assert "clearly better" in told(("gated", -0.2))[0]
    best, flattery = told(("gated", 0.02), ("init+gated", 0.1), ("kar", 0.05))
    assert best.startswith("din trained with init+gated ranks at AUC 0.6000 where the plain model has 0.5000: +0.1000")
    assert best.endswith("To serve it needs what the plain model needs; an epoch of training takes 1.50 times as long.")
    assert "flatters" in flattery
    assert "needs further inputs" in told(("embed", 0.1))[0]


def test_the_cost_of_the_scores_is_told_where_it_is_recorded():
    for recorded, told in [
        ({"cost": 1.5}, ["The scores cost $1.50."]),
        ({"counts": {"cost": 2}}, ["The scores cost $2.00."]),
    ]:
        assert sentences.cost({"inputs": {"origin": recorded}}) == told
    assert sentences.cost({"inputs": {"origin": {"cost": None}}}) == sentences.cost({"inputs": None}) == []


def test_the_origin_of_scores_is_read_from_parquet(tmp_path):
    frame = scores()
    plain = pyarrow.Table.from_pandas(frame)
    metadata = {b"sllmr_plugin": json.dumps({"model": "m", "counts": {"cost": 1.5}}).encode(), b"made by": b"hand"}
    told = plain.replace_schema_metadata({**plain.schema.metadata, **metadata})
    pyarrow.parquet.write_table(told, tmp_path / "told.parquet")
    pyarrow.parquet.write_table(plain, tmp_path / "plain.parquet")
    frame.to_csv(tmp_path / "scores.csv", index=False)
    assert read_origin(tmp_path / "told.parquet") == {"model": "m", "counts": {"cost": 1.5}, "made by": "hand"}
    assert read_origin(tmp_path / "plain.parquet") == {}
    assert read_origin(tmp_path / "scores.csv") == {}
    users, items = ({f"{kind}{k:02d}": k for k in range(30)} for kind in "ui")
    table = ScoreTable.read(tmp_path / "told.parquet", user_index=users, item_index=items)
    assert table.origin["model"] == "m"
    assert table.within(5, 30).origin == table.origin


def test_runs_of_before_are_read_and_nan_survives():
    run = result(epochs=[{"valid_auc": 0.5, "loss": 0.7, "sllmr_gate": float("nan")}])
    written = json.loads(json.dumps(run.to_json(), allow_nan=False))
    assert np.isnan(RunResult.from_json(written).epochs[0]["sllmr_gate"])
    del written["epochs"], written["versions"]
    assert RunResult.from_json(written).epochs == []


def test_the_command_names_the_page(folder, capsys):
    assert main(["report", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out


def test_folders_without_runs_are_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "give the folder of a comparison" in capsys.readouterr().err
    (tmp_path / "results.json").write_text('{"format": 2, "runs": [], "differences": [], "strata": []}')
    with pytest.raises(RunFolderError, match="no finished run; run sllmr compare"):
        write_report(tmp_path)


def test_tokens_and_cost_of_scores_are_shown_where_they_are_recorded():
    told = {"model": "m", "tokens": {"prompt": 12, "completion": 3}, "cost": 0.25}
    rows = {name: cells[0].text for name, cells in origin({"origin": told}).rows}
    assert (rows["tokens sent"], rows["tokens written"], rows["cost in USD"]) == ("12", "3", "0.25")
    assert "tokens" not in rows
    unpriced = {name: cells[0].text for name, cells in origin({"origin": told | {"cost": None}}).rows}
    assert unpriced["cost in USD"] == "not recorded"
    untold = {name: cells[0].text for name, cells in origin({"origin": {"model": "m"}}).rows}
    assert untold["tokens"] == untold["cost in USD"] == "not recorded"
