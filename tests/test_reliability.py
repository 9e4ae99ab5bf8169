"""Who is right about held-out items: against loops over probes and candidates, and told in words, JSON and a plot."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import SelectiveConfig, SLLMRError, reliability
from sllmr_plugin.cli import main
from sllmr_plugin.cli import reliability as command
from sllmr_plugin.errors import OrderEchoWarning
from sllmr_plugin.evaluation import reliability as reliability_module
from sllmr_plugin.evaluation.plots import plot_gate
from sllmr_plugin.evaluation.reliability import MEASURES
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.scores.origin import write_parquet
from sllmr_plugin.wrapping import is_wrapped
from tests.matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
NAMES = {"user": "user_id", "item": "item_id", "item_features": ["item_id", "category", "price"]}


def scores_with_probes(seed=0):
    """Return scores of ten items and two probes for each of twelve users, ties among them."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(1, 13):
        items = rng.choice(np.arange(1, zoo.N_ITEMS + 1), 12, replace=False)
        kinds = ["probe"] * 2 + ["candidate"] * 10
        rows += [(user, item, round(rng.random(), 1), kind) for item, kind in zip(items, kinds, strict=True)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "score", "kind"])


def trained(seed=0):
    torch.manual_seed(seed)
    model = zoo.build(DEEPFM)
    zoo.compile_model(DEEPFM, model)
    zoo.fit(DEEPFM, model, epochs=1, validate=False)
    return model


@pytest.fixture(scope="module")
def case():
    """A trained plain model, its scores and what `reliability` says."""
    model, frame = trained(), scores_with_probes()
    x, y = zoo.inputs(model), zoo.labels(DEEPFM)
    config = SelectiveConfig(cold_threshold=5, tail_quantile=0.4)
    return model, frame, reliability(model, frame, x=x, y=y, config=config, resamples=200, **NAMES)


def by_loop(model, frame, cold_threshold=5, tail_quantile=0.4):
    """Yield (user, cold, has a long-tail item, q of the pair, LLM gap, model gap, probe, candidate) of every pair."""
    x, y = zoo.samples()
    history, popularity = {}, {}
    positives = set()
    for user, item, label in zip(x["user_id"], x["item_id"], y, strict=True):
        if label:
            history[user] = history.get(user, 0) + 1
            popularity[item] = popularity.get(item, 0) + 1
            positives.add((user, item))
    catalogue = sorted(set(x["item_id"]) | set(frame["item_id"]))
    counts = sorted(popularity.get(item, 0) for item in catalogue)
    threshold = counts[int(np.ceil(tail_quantile * len(counts))) - 1]

    def row_of(user, item):
        latest = max(np.flatnonzero(x["user_id"] == user))
        row = {name: values[latest] for name, values in x.items()}
        row |= {"item_id": item, "category": 1 + item % zoo.N_CATEGORIES, "price": np.float32(item / zoo.N_ITEMS)}
        return {name: np.array([row[name]]) for name in model.feature_index}

    for user, group in frame.groupby("user_id"):
        if user not in set(x["user_id"]):
            continue
        probability = {item: float(model.predict(row_of(user, item)).ravel()[0]) for item in group["item_id"]}
        score = dict(zip(group["item_id"], group["score"], strict=True))
        probes, candidates = (group["item_id"][group["kind"] == kind] for kind in ("probe", "candidate"))
        for probe, candidate in itertools.product(probes, candidates):
            if (user, candidate) in positives:
                continue
            q = sum(2 * min(p, 1 - p) for p in (probability[probe], probability[candidate]))
            tail = min(popularity.get(probe, 0), popularity.get(candidate, 0)) <= threshold
            llm, backbone = score[probe] - score[candidate], probability[probe] - probability[candidate]
            cold = history.get(user, 0) < cold_threshold
            yield user, cold, tail, q, round(llm, 6), backbone, probe, candidate


def test_counts_and_shares_are_those_of_a_loop(case):
    model, frame, result = case
    pairs = list(by_loop(model, frame))
    for users, items in itertools.product(("all", "cold", "warm"), ("all", "tail", "head")):
        region = [
            pair
            for pair in pairs
            if users in ("all", "cold" if pair[1] else "warm") and items in ("all", "tail" if pair[2] else "head")
        ]
        row = result.region(users=users, items=items)
        disagree = [pair for pair in region if pair[4] != 0 and pair[4] * pair[5] <= 0]
        assert row["n_pairs"] == len(region)
        assert row["n_users"] == len({pair[0] for pair in region})
        assert row["n_disagree"] == len(disagree)
        if region:
            assert row["llm_right"] == pytest.approx(np.mean([(p[4] > 0) + (p[4] == 0) / 2 for p in region]))
            assert row["backbone_right"] == pytest.approx(np.mean([(p[5] > 0) + (p[5] == 0) / 2 for p in region]))
        if disagree:
            assert row[MEASURES[2]] == pytest.approx(np.mean([p[4] > 0 for p in disagree]))
    assert result.region(users="cold")["n_pairs"] > 0
    assert result.region(users="warm")["n_pairs"] > 0


class Arithmetic(torch.nn.Module):
    """Scores with many ties that depend on user and item."""

    def forward(self, rows):
        return ((7 * rows[:, 0] + 3 * rows[:, 1]) % 5).float()[:, None]


def test_what_needs_no_training_orders_the_same_pairs(case, monkeypatch):
    model, frame, plain = case
    monkeypatch.setattr(reliability_module, "_BLOCK", 7)  # several blocks, the last one short
    x, y = zoo.inputs(model), zoo.labels(DEEPFM)
    config = SelectiveConfig(cold_threshold=5, tail_quantile=0.4)
    untrained = {"popularity": Arithmetic(), "content+popularity": Arithmetic()}
    result = reliability(model, frame, x=x, y=y, config=config, resamples=200, untrained=untrained, **NAMES)
    assert result.untrained == ["popularity", "content+popularity"]
    assert plain.untrained == []
    pd.testing.assert_frame_equal(result.table[list(plain.table)], plain.table)  # the others' shares are as they were
    pairs = list(by_loop(model, frame))
    assert len(pairs) > 14
    shares = {}
    for users, items in itertools.product(("all", "cold", "warm"), ("all", "tail", "head")):
        region = [
            (7 * user + 3 * probe) % 5 - (7 * user + 3 * candidate) % 5
            for user, cold, tail, *_, probe, candidate in pairs
            if users in ("all", "cold" if cold else "warm") and items in ("all", "tail" if tail else "head")
        ]
        shares[users, items] = np.mean([(gap > 0) + (gap == 0) / 2 for gap in region]) if region else np.nan
        row = result.region(users=users, items=items)
        assert row["popularity_right"] == pytest.approx(shares[users, items], nan_ok=True)
    whole = result.region()
    assert whole["popularity_right_low"] < whole["popularity_right"] < whole["popularity_right_high"]
    assert result.content()["regions"][0]["popularity_right"] == pytest.approx(shares["all", "all"])
    lines = str(result).splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("pairs of"))
    assert lines[header].split() == ["pairs", "of", "LLM", "backbone", "popularity", "content+popularity"]
    assert [line.split("  ")[0] for line in lines[header + 1 : header + 10]] == [
        *("all pairs", "cold users", "warm users", "long-tail item", "popular items"),
        *("cold users, long-tail item", "cold users, popular items"),
        *("warm users, long-tail item", "warm users, popular items"),
    ]
    assert f"{shares['warm', 'tail']:.2f}" in lines[header + 8]


def test_who_is_right_less_often_than_what_needs_no_training_is_said(case):
    model, frame, _ = case
    x, y = zoo.inputs(model), zoo.labels(DEEPFM)
    told = {}
    for name, score in (("perfect", 1.0), ("useless", -1.0)):
        of_probes = set(zip(*(frame.loc[frame["kind"] == "probe", key] for key in ("user_id", "item_id")), strict=True))

        class Oracle(torch.nn.Module):
            def forward(self, rows, of_probes=of_probes, score=score):
                return torch.tensor([score * ((int(user), int(item)) in of_probes) for user, item in rows])[:, None]

        result = reliability(model, frame, x=x, y=y, resamples=20, untrained={name: Oracle()}, **NAMES)
        told[name] = [line for line in str(result).splitlines() if line.startswith("below")]
        assert result.region()[f"{name}_right"] == (score + 1) / 2
    says = "which needs no training: LLM, backbone"
    assert told["perfect"][0] == f"below perfect, {says}"
    assert f"below perfect on long-tail items, {says}" in told["perfect"]
    assert told["useless"] == []


def test_thirds_of_uncertainty_and_classes_of_gap_split_the_pairs(case):
    model, frame, result = case
    pairs = list(by_loop(model, frame))
    low, high = np.quantile([pair[3] for pair in pairs], [1 / 3, 2 / 3])
    middle = [pair for pair in pairs if low < pair[3] <= high]
    assert abs(result.region(uncertainty="middle")["n_pairs"] - len(middle)) <= 1  # a rounding at the border
    assert result.region(llm_gap="0.2 to 0.4")["n_pairs"] == sum(0.2 <= round(abs(p[4]), 1) < 0.4 for p in pairs)
    crossed = result.table[(result.table[["users", "items", "uncertainty"]] != "all").all(axis=1)]
    assert len(crossed) == 12
    assert crossed["n_pairs"].sum() == len(pairs)


def test_intervals_resample_users(case):
    model, frame, result = case
    pairs = list(by_loop(model, frame))
    users = sorted({pair[0] for pair in pairs})
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(800):
        drawn = [pair for user in rng.choice(users, len(users)) for pair in pairs if pair[0] == user]
        shares.append(np.mean([(p[4] > 0) + (p[4] == 0) / 2 for p in drawn]))
    row = result.region()
    assert [row["llm_right_low"], row["llm_right_high"]] == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.05)
    assert row["llm_right_low"] < row["llm_right"] < row["llm_right_high"]


def test_a_plain_model_is_plain_again_and_a_wrapped_one_keeps_its_settings(case):
    model, frame, result = case
    assert not is_wrapped(model)
    assert "sllmr" not in model.__dict__
    config = SelectiveConfig(cold_threshold=5, tail_quantile=0.4)
    from sllmr_plugin import unwrap, wrap

    wrap(model, frame, config=config, **NAMES)
    x, y = zoo.inputs(model), zoo.labels(DEEPFM)
    again = reliability(model, x=x, y=y, resamples=200)
    other = reliability(model, x=x, y=y, resamples=200, config=config.replace(uncertainty="entropy"))
    assert model.sllmr.config == config
    unwrap(model)
    pd.testing.assert_frame_equal(again.table, result.table)
    assert other.uncertainty == "entropy"


def test_who_is_always_right_and_who_is_always_wrong():
    model = trained()
    frame = scores_with_probes()
    x, y = zoo.inputs(model), zoo.labels(DEEPFM)
    for right in (True, False):
        sure = frame.assign(score=np.where((frame["kind"] == "probe") == right, 0.9, 0.1))
        result = reliability(model, sure, x=x, y=y, resamples=50, **NAMES)
        row = result.region()
        assert [row["llm_right"], row["llm_right_low"], row["llm_right_high"]] == [float(right)] * 3
        assert row[MEASURES[2]] == float(right)
        says = "do not follow the LLM" if not right else "follow the LLM: it is right"
        for users, items in itertools.product(("cold", "warm"), ("tail", "head")):
            n_users = result.region(users=users, items=items)["n_users"]
            where = f"{users} users, {'with a long-tail item' if items == 'tail' else 'popular items only'}: "
            expected = where + (says if n_users >= 10 else "undecided: too few users for an interval")
            assert any(line.startswith(expected) for line in result.verdict())


def test_json_and_plot(case, tmp_path):
    _, _, result = case
    result.to_json(tmp_path / "reliability.json")
    read = json.loads((tmp_path / "reliability.json").read_text())
    assert len(read["regions"]) == len(result.table)
    assert read["regions"][0]["n_pairs"] == result.region()["n_pairs"]
    result.plot(tmp_path / "map.svg")
    drawn = (tmp_path / "map.svg").read_text()
    assert drawn.startswith("<?xml")
    result.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(SLLMRError, match="png, .svg or .pdf"):
        result.plot(tmp_path / "map.docx")


def test_gate_plot_needs_a_gate(tmp_path):
    epochs = [
        {"sllmr_gate": 0.5, "sllmr_gate_cold": 0.6, "sllmr_gate_tail": 0.4, "sllmr_gate_neither": 0.1},
        {"sllmr_gate": 0.4, "sllmr_gate_cold": 0.6, "sllmr_gate_tail": 0.3, "sllmr_gate_neither": 0.0},
    ]
    plot_gate(epochs, tmp_path / "gate.png")
    plot_gate([epoch | {"sllmr_gate_w_gap": 2.0} for epoch in epochs], tmp_path / "weights.png")
    assert (tmp_path / "weights.png").stat().st_size > (tmp_path / "gate.png").stat().st_size
    with pytest.raises(SLLMRError, match="no epoch had a gate"):
        plot_gate([{"sllmr_loss": 1.0}], tmp_path / "none.png")


def test_what_is_missing_is_said():
    model = trained()
    x, y = zoo.inputs(model), zoo.labels(DEEPFM)
    frame = scores_with_probes()
    with pytest.raises(SLLMRError, match="no usable probe"):
        reliability(model, frame[frame["kind"] == "candidate"], x=x, y=y, **NAMES)
    assert not is_wrapped(model)  # unwrapped again, after an error as well
    with pytest.raises(SLLMRError, match="has no scores"):
        reliability(model, x=x, y=y)


def held_out_clicks(tmp_path):
    """Write interactions and scores that are right about every probe; return the clicks and the command's arguments."""
    rng = np.random.default_rng(0)
    clicks = [(f"u{user}", f"i{item}") for user in range(12) for item in rng.permutation(15)[:5]]
    pd.DataFrame(clicks, columns=["user_id", "item_id"]).to_csv(tmp_path / "clicks.csv", index=False)
    held_out = {user: items[-2] for user, items in pd.DataFrame(clicks).groupby(0)[1].agg(list).items()}
    taken = set(clicks)
    rows = [(u, i, 0.9, "probe") for u, i in held_out.items()]
    rows += [
        (f"u{u}", f"i{i}", 0.3, "candidate") for u in range(12) for i in range(15) if (f"u{u}", f"i{i}") not in taken
    ]
    scores = pd.DataFrame(rows, columns=["user_id", "item_id", "score", "kind"])
    scores.to_parquet(tmp_path / "scores.parquet")
    arguments = ["--interactions", str(tmp_path / "clicks.csv"), "--scores", str(tmp_path / "scores.parquet")]
    small = ["--epochs", "1", "--embedding-dim", "4", "--batch-size", "16", "--resamples", "20"]
    return clicks, scores, arguments, small


def test_the_command_trains_as_a_comparison_does_and_judges_what_needs_no_training(tmp_path, capsys, monkeypatch):
    _, _, arguments, small = held_out_clicks(tmp_path)
    made, train = [], command.train

    def watched(data, rows, scores, **options):
        made.append(options | {"data": data})
        return train(data, rows, scores, **options)

    monkeypatch.setattr(command, "train", watched)
    items = pd.DataFrame({"item_id": [f"i{item}" for item in range(15)], "brand": ["a", "b", "c"] * 5})
    items.assign(title=[f"{'red' if item % 2 else 'blue'} thing number{item}" for item in range(15)]).to_csv(
        tmp_path / "items.csv", index=False
    )
    with_items = [*arguments, "--items", str(tmp_path / "items.csv"), "--attributes", "brand"]
    more = ["--initialise", "titles", "--initialise-scale", "0.2", "--negatives", "2", "--histories"]
    assert main(["reliability", *with_items, *small, *more, "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr()
    assert "training an initialised deepfm, 1 epoch, until 3 in a row bring nothing ..." in printed.out
    assert "an initialised deepfm: validation AUC 0." in printed.err
    assert "content+popularity" in printed.out
    assert made[0]["start"].scale == 0.2
    assert list(made[0]["data"].attributes) == ["item_brand"]
    assert not made[0]["config"].active
    assert made[0]["settings"] == RunSettings(epochs=1, embedding_dim=4, batch_size=16, negatives=2, histories=True)
    regions = json.loads((tmp_path / "a" / "reliability.json").read_text())["regions"]
    assert {"popularity_right", "content_right", "content+popularity_right"} <= regions[0].keys()

    assert main(["reliability", *arguments, *small[2:], "--quick", "--out", str(tmp_path / "b")]) == 0
    assert made[1]["settings"] == RunSettings.quick(embedding_dim=4, batch_size=16)
    assert made[1]["start"] is None
    regions = json.loads((tmp_path / "b" / "reliability.json").read_text())["regions"]
    assert [key for key in regions[0] if key.endswith("_right")] == ["llm_right", "backbone_right", "popularity_right"]
    measured = ["--uncertainty", "mc_dropout"]
    assert main(["reliability", *arguments, *small, *measured, "--out", str(tmp_path / "c")]) == 0
    assert made[2]["settings"].dropout == 0.1
    assert main(["reliability", *arguments, *small, *measured, "--dropout", "0.3", "--out", str(tmp_path / "c")]) == 0
    assert made[3]["settings"].dropout == 0.3
    capsys.readouterr()
    for wrong, told in (
        (["--initialise-scale", "0.3"], "go with --initialise; give that, too"),
        (["--text-model", "use"], "--text-model encodes what --initialise read"),
        (["--initialise", "titles"], "give that, too (--items)"),
    ):
        assert main(["reliability", *arguments, *small, *wrong, "--out", str(tmp_path / "d")]) == 2
        assert told in capsys.readouterr().err
    assert len(made) == 4


def test_the_command_writes_table_and_plot(tmp_path, capsys):
    clicks, scores, arguments, small = held_out_clicks(tmp_path)
    out = tmp_path / "out"
    assert main(["reliability", *arguments, *small, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "follow the LLM: it is right more often" in printed
    assert json.loads((out / "reliability.json").read_text())["regions"][0]["llm_right"] == 1.0
    assert (out / "reliability.png").exists()
    assert main(["reliability", *arguments, *small, "--backbone", "deepfn", "--out", str(out)]) == 2
    assert "deepfm" in capsys.readouterr().err

    scores[scores["kind"] == "candidate"].to_parquet(tmp_path / "scores.parquet")
    assert main(["reliability", *arguments, *small, "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert "has no probes" in printed.err
    assert "training a plain" not in printed.out

    last = dict(clicks)  # of each user: its test interaction
    leaked = scores.copy()
    probe = leaked["kind"] == "probe"
    leaked.loc[probe, "item_id"] = leaked.loc[probe, "user_id"].map(last)
    leaked.drop_duplicates(["user_id", "item_id"]).to_parquet(tmp_path / "scores.parquet")
    assert main(["reliability", *arguments, *small, "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert "are test interactions" in printed.err
    assert "training a plain" not in printed.out


def in_prompt_order(frame):
    """Put the scores of each user into the order of the rows, which is given as the prompt's."""
    place = frame.groupby("user_id").cumcount()
    return frame.assign(score=1 - place / 20, prompt_position=place)


@pytest.mark.parametrize("form", ["frame", "csv", "parquet with what scoring noted"])
def test_scores_that_echo_the_prompts_order_are_warned_of(case, tmp_path, form):
    model, frame, plain = case
    echo = in_prompt_order(frame)
    if form == "csv":
        echo.to_csv(tmp_path / "scores.csv", index=False)
        echo = tmp_path / "scores.csv"
    elif form != "frame":
        noted = {"prompt_order": {"correlation": -1.0, "answers": 12, "chance": 0.1}}
        write_parquet(echo.assign(score=frame["score"]), tmp_path / "scores.parquet", {"counts": noted})
        echo = tmp_path / "scores.parquet"
    with pytest.warns(OrderEchoWarning, match=r"rank correlation -1\.00.*12 answers.*--repeats"):
        result = reliability(model, echo, x=zoo.inputs(model), y=zoo.labels(DEEPFM), resamples=20, **NAMES)
    assert "place in the prompt -1.00 (12 answers)" in str(result)
    whole = result.region()
    assert str(result).splitlines()[3].split()[:5] == ["all"] * 4 + [str(whole["n_pairs"])]
    assert f"<td>{whole['n_disagree']}</td>" in result._repr_html_()
    assert repr(result).startswith(f"Reliability of {whole['n_pairs']} pairs of {whole['n_users']} users")
    assert result.content()["prompt_order"]["correlation"] == pytest.approx(-1)
    assert plain.prompt_order is None
    assert plain.content()["prompt_order"] is None


def test_shuffled_scores_have_a_correlation_near_zero_and_no_warning(case):
    model, frame, _ = case
    shuffled = frame.assign(prompt_position=frame.groupby("user_id").cumcount())
    result = reliability(model, shuffled, x=zoo.inputs(model), y=zoo.labels(DEEPFM), resamples=20, **NAMES)
    assert abs(result.prompt_order.correlation) < 0.5
