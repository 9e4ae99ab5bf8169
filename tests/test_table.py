"""The tables of a comparison in text, Markdown, LaTeX and JSON."""

import json
import math
import re
from dataclasses import replace

import pytest

from sllmr_plugin.evaluation.comparison import Comparison, format_table
from sllmr_plugin.evaluation.differences import Difference, StratumAuc
from tests.evaluation_cases import result

GATE = {"all": 0.25, "cold": 0.5, "tail": 0.125, "neither": 0.0}


def difference(mode="gated", stratum="all", low=0.01, high=0.05, label="", **changes):
    values = {"backbone": "deepfm", "mode": mode, "stratum": stratum, "label": label, "seeds": [0, 1]}
    values |= {"n_interactions": 10, "n_users": 9, "mean": (low + high) / 2, "low": low, "high": high}
    return Difference(**{**values, "p_value": 0.0012, "wins": 5, "ties": 1, "losses": 3, **changes})


def comparison():
    runs = [result("none", 0, 0.60), result("none", 1, 0.70)]
    runs += [result("gated", 0, 0.62, gate=GATE), result("gated", 1, 0.74, gate=GATE)]
    return Comparison(runs, [difference(), difference(stratum="cold", low=-0.01)])


def test_text_has_means_deviations_intervals_and_a_mark_where_zero_is_out():
    lines = format_table(comparison()).splitlines()
    assert lines[0] == "deepfm, seeds 0, 1: full-ranking AUC of 10 test interactions"
    assert lines[1] == "(4 of cold users, 0 of long-tail items)"
    assert lines[4].split()[:4] == ["none", "0.6500", "±", "0.0707"]  # sqrt(0.005)
    assert lines[4].split()[7] == "-"  # no long-tail item
    assert lines[8].split() == "gated +0.0300 [+0.0100, +0.0500]* +0.0200 [-0.0100, +0.0500] -".split()
    assert re.split(r"  +", lines[11]) == ["gated", "0.0012", "5 / 1 / 3"]
    assert lines[14].split() == ["gated", *"0.250 ± 0.000 0.500 ± 0.000 0.125 ± 0.000 0.000 ± 0.000".split()]
    assert lines[16] == "* the interval leaves out zero"
    assert "new users and seeds" in lines[17]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(("low", "high"), [(-0.02, 0.05), (-0.05, 0.0), (0.0, 0.05), (math.nan, math.nan)])
@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_an_interval_that_holds_zero_is_never_bold(form, low, high):
    runs = [result("none"), result("gated")]
    bold = {"text": "*", "markdown": "**", "latex": r"\textbf"}[form]
    held = Comparison(runs, [difference(low=low, high=high, mean=0.02)])
    assert bold not in format_table(held, form)
    for sign in (1, -1):
        out = Comparison(runs, [difference(low=min(sign * 0.01, sign * 0.05), high=max(sign * 0.01, sign * 0.05))])
        assert format_table(out, form).count(bold) == {"text": 2, "markdown": 2, "latex": 1}[form]


def test_one_seed_has_no_deviation_and_says_what_it_cannot_tell():
    runs = [result(), result("global", auc=0.4), result(backbone="din")]
    text = format_table(Comparison(runs, [difference("global", seeds=[0])]))
    assert "±" not in text
    assert "one seed cannot tell" in text
    assert text.count("full-ranking AUC") == 2
    assert "minus none" not in text.split("din, seed 0")[1]


def test_a_sampled_auc_is_called_that():
    errors = [{"auc": 0.0012, "auc_cold": 0.002, "auc_tail": math.nan}]
    errors.append({"auc": 0.0015, "auc_cold": 0.001, "auc_tail": math.nan})
    runs = [result(seed=k, test_items=50, sampling_error=error) for k, error in enumerate(errors)]
    lines = format_table(Comparison(runs)).splitlines()
    assert lines[0] == "deepfm, seeds 0, 1: sampled AUC of 10 test interactions"
    assert lines[2] == "each against 50 items drawn at random from those its user has not seen;"
    assert lines[3] == "standard error from the draw, at most: 0.0015 (AUC), 0.0020 (cold users)"


def test_undefined_interactions_are_reported():
    assert "left out" not in format_table(Comparison([result()]))
    lines = format_table(Comparison([result(n_undefined=3)])).splitlines()
    assert lines[2] == "left out: 3 of users who have seen the whole catalogue"


def test_labels_have_a_row_a_mode():
    strata = [
        StratumAuc("deepfm", mode, "kind", label, n, [auc, auc + 0.1])
        for label, n in (("new", 4), ("old_er", 6))
        for mode, auc in (("none", 0.5), ("gated", 0.6))
    ]
    whole = comparison()
    whole = Comparison(whole.runs, [*whole.differences, difference(stratum="kind", label="new")], strata)
    text = format_table(whole)
    section = text[text.index("by kind") :].splitlines()
    assert re.split(r"  +", section[1]) == ["new (4)", "none", "0.5500 ± 0.0707"]
    assert re.split(r"  +", section[2]) == ["", "gated", "0.6500 ± 0.0707", "+0.0300 [+0.0100, +0.0500]*"]
    assert re.split(r"  +", section[4]) == ["", "gated", "0.6500 ± 0.0707"]
    latex = format_table(whole, "latex")
    assert r"old\_er (6) & none & 0.5500 $\pm$ 0.0707 &  \\" in latex


def test_other_metrics_are_there_on_request():
    clicks = {"ctr_auc": 0.7, "gauc": 0.6, "logloss": 0.5, "ece": math.nan}
    runs = [result(metrics=clicks)]
    assert "GAUC" not in format_table(Comparison(runs))
    text = format_table(Comparison(runs), more=True)
    assert text.splitlines()[-1].split() == ["none", "0.7000", "0.6000", "0.5000", "-"]
    assert "NDCG" not in text  # a sampled ranking has none


def test_markdown_and_latex_have_the_cells_of_the_text():
    text, markdown, latex = (format_table(comparison(), form) for form in ("text", "markdown", "latex"))
    numbers = re.compile(r"[-+]?\d+\.\d+")
    assert numbers.findall(text) == numbers.findall(markdown) == numbers.findall(latex)
    assert "| gated | **+0.0300 [+0.0100, +0.0500]** | +0.0200 [-0.0100, +0.0500] | - |" in markdown
    for line in markdown.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    for section in latex.split(r"\begin{tabular}{")[1:]:
        columns = section.index("}")
        rows = [line for line in section.splitlines() if line.endswith(r"\\")]
        assert {row.count(" & ") + 1 for row in rows} == {columns}


def test_latex_escapes_what_it_would_read_as_commands():
    strata = [StratumAuc("deepfm", "none", r"a_b%$\x{", "50%&#", 1, [0.5])]
    latex = format_table(Comparison([result()], [], strata), "latex")
    assert r"by a\_b\%\$\textbackslash{}x\{" in latex
    assert r"50\%\&\# (1)" in latex
    strata = [StratumAuc("deepfm", "none", "size^2", "< ~3", 1, [0.5])]
    latex = format_table(Comparison([result()], [], strata), "latex")
    assert r"by size\textasciicircum{}2" in latex
    assert r"\textless{} \textasciitilde{}3 (1)" in latex


def test_additions_have_tables_of_their_own():
    added = difference("init+gated", baseline="init", low=0.002, high=0.004)
    runs = [result(mode) for mode in ("none", "init", "init+gated")]
    lines = format_table(Comparison(runs, [difference("init+gated"), added])).splitlines()
    heads = [line.split("  ")[0] for line in lines]
    assert "+0.0300 [+0.0100, +0.0500]*" in lines[heads.index("minus none") + 1]
    assert "+0.0030 [+0.0020, +0.0040]*" in lines[heads.index("minus init") + 1]


def test_html_has_the_cells_of_the_text_and_escapes_labels():
    strata = [StratumAuc("deepfm", "none", "kind", "<b>&", 1, [0.5])]
    whole = Comparison(comparison().runs, comparison().differences, strata)
    page = format_table(whole, "html")
    numbers = re.compile(r"[-+]?\d+\.\d+")
    assert numbers.findall(page) == numbers.findall(format_table(whole))
    assert "&lt;b&gt;&amp; (1)" in page
    assert "<b>+0.0300 [+0.0100, +0.0500]</b>" in page
    assert page.count("<tr>") == page.count("</tr>")
    assert whole._repr_html_() == page
    assert str(whole) == format_table(whole)


def test_json_has_every_figure():
    content = json.loads(format_table(comparison(), "json"), parse_constant=pytest.fail)
    assert [run["auc"] for run in content["runs"]] == [0.6, 0.7, 0.62, 0.74]
    assert [(d["low"], d["clear"]) for d in content["differences"]] == [(0.01, True), (-0.01, False)]
    untrained = {"popularity": {"auc": 0.5, "auc_cold": float("nan")}}
    content = json.loads(format_table(replace(comparison(), untrained=untrained), "json"), parse_constant=pytest.fail)
    assert content["popularity"] == {"auc": 0.5, "auc_cold": None}
