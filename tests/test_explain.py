"""`explain`: weights and scores against the adaptor and the model; the card; the command, which trains once."""

import contextlib
import html
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import CURecAdaptor, KARAdaptor, augment, explain
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.errors import ConfigError, EvaluationError
from sllmr_plugin.evaluation.explain import AttendedReason, Explanation, cards_page
from sllmr_plugin.zoo.deepctr import build_model, input_rows

from .text_cases import NO_USER_TEXT, encoded, interactions, reason_frame, text_frame

pytestmark = pytest.mark.filterwarnings("ignore::sllmr_plugin.CoverageWarning")
ITEM = 5  # of the most reasons
RAW_ITEM = f"i{ITEM - 1:02d}"
INDEX = {"user_index": interactions().user_index, "item_index": interactions().item_index}


def trained(name="deepfm", **options):
    data = interactions()
    rows = training_rows(data, history_length=3)
    texts = encoded(reasons=True)
    adaptor = CURecAdaptor(texts, *rows, user="user_id", item="item_id", dim=4, **options)
    model = build_model(name, data, embedding_dim=4, history_length=3, seed=2, dense=adaptor.widths)
    model = augment(model, adaptor, user="user_id", item="item_id")
    model.compile(torch.optim.Adam(model.parameters(), lr=0.05), "binary_crossentropy")
    torch.manual_seed(3)
    with contextlib.redirect_stdout(io.StringIO()):
        model.fit(input_rows(model, rows[0]), rows[1], batch_size=16, epochs=3, verbose=0)
    return model, rows, texts


def others(texts, user, item):
    told = texts.reasons
    return [text for u, i, text in zip(told.users, told.items, told.texts, strict=True) if i == item and u != user]


def test_weights_are_the_attentions_and_scores_the_models():
    model, rows, texts = trained()
    adaptor = model.augmentation.adaptor
    user, item = 3, ITEM
    assert len(others(texts, user, item)) >= 3
    found = explain(model, user, item, k=99)
    assert sorted(reason.text for reason in found.reasons) == sorted(others(texts, user, item))
    assert found.n_reasons == len(found.reasons)
    assert sum(reason.weight for reason in found.reasons) == pytest.approx(1)
    weights = [reason.weight for reason in found.reasons]
    assert weights == sorted(weights, reverse=True)
    numbers, of_heads = adaptor.attention(torch.tensor([user]), torch.tensor([item]))
    by_number = dict(zip(numbers[0].tolist(), of_heads[0].T.tolist(), strict=True))
    told = texts.reasons
    for reason in found.reasons:
        mine = [k for k in by_number if k >= 0 and adaptor.texts[k] == reason.text]
        assert any(reason.head_weights == pytest.approx(by_number[k]) for k in mine)
        assert reason.weight == pytest.approx(np.mean(reason.head_weights))
    assert found.pattern == dict(zip(told.patterns.codes["user"], told.pattern_texts, strict=True))[user]
    x = {"user_id": np.array([user]), "item_id": np.array([item])}
    assert found.score == pytest.approx(float(model.predict(x)[0, 0]), abs=1e-6)
    scores = {reason.score_without for reason in found.reasons}
    assert len(scores) > 1
    assert found.score not in scores

    # The same model with an adaptor that never knew the first reason scores as if it were hidden.
    first = found.reasons[0]
    place = next(
        k for k, text in enumerate(told.texts) if text == first.text and told.items[k] == item and told.users[k] != user
    )
    keep = np.arange(len(told.users)) != place
    assert scored_with(model, rows, texts, keep, x) == pytest.approx(first.score_without, abs=1e-6)
    assert scored_with(model, rows, texts, told.items != item, x) == pytest.approx(
        found.score_without_reasons, abs=1e-6
    )


def scored_with(model, rows, texts, keep, x):
    """Return the score by an adaptor of some of the reasons, with the weights of the model's."""
    from dataclasses import replace

    told = texts.reasons
    parts = {name: getattr(told, name)[keep] for name in ("users", "items", "positions", "vectors")}
    fewer = replace(told, **parts, texts=tuple(np.array(told.texts, dtype=object)[keep]))
    other = CURecAdaptor(replace(texts, reasons=fewer), *rows, user="user_id", item="item_id", dim=4)
    other.load_state_dict(model.augmentation.adaptor.state_dict())
    own, model.augmentation.adaptor = model.augmentation.adaptor, other
    score = float(model.predict(x)[0, 0])
    model.augmentation.adaptor = own
    return score


def test_a_user_is_not_shown_reasons_of_their_own_and_the_model_is_left_as_it_was():
    model, rows, texts = trained()
    told = texts.reasons
    user, item = int(told.users[0]), int(told.items[0])
    assert told.texts[0] not in others(texts, user, item)
    x = {"user_id": np.array([user]), "item_id": np.array([item])}
    model.train()
    before = model.predict(x)
    model.train()
    found = explain(model, user, item, k=99)
    assert told.texts[0] not in [reason.text for reason in found.reasons]
    assert model.training
    np.testing.assert_array_equal(model.predict(x), before)
    raw = explain(model, f"u{user - 1:02d}", f"i{item - 1:02d}", k=99, title="A title", **INDEX)
    assert raw.reasons == found.reasons
    assert (raw.user, raw.item, raw.title) == (f"u{user - 1:02d}", f"i{item - 1:02d}", "A title")


def test_without_reasons_or_pattern_it_says_so():
    model, _, _ = trained()
    found = explain(model, NO_USER_TEXT[0], 7)
    assert (found.reasons, found.n_reasons, found.pattern) == ((), 0, "")
    assert found.score == found.score_without_reasons
    assert "no other user's reason" in str(found)
    assert "none was written" in str(found)
    assert "No other user's reason" in found.to_html()


def test_a_model_with_histories_needs_them():
    model, rows, _ = trained("din")
    with pytest.raises(EvaluationError, match="also reads hist_item_id, seq_length"):
        explain(model, 3, 8)
    x = {name: values[:1] for name, values in rows[0].items()}
    pair = {"user_id": np.array([3]), "item_id": np.array([8])}
    expected = float(model.predict({**x, **pair})[0, 0])
    assert explain(model, 3, 8, x=x).score == pytest.approx(expected, abs=1e-6)
    with pytest.raises(EvaluationError, match=r"x\['hist_item_id'\] has 2 values, the model reads 3"):
        explain(model, 3, 8, x={**x, "hist_item_id": np.array([[1, 2]])})


def test_what_cannot_be_explained_is_refused():
    model, rows, texts = trained()
    with pytest.raises(EvaluationError, match="user 'nobody' is not known"):
        explain(model, "nobody", "i03", **INDEX)
    with pytest.raises(EvaluationError, match="k=0"):
        explain(model, 3, 8, k=0)
    with pytest.raises(EvaluationError, match="a Linear has no reasons to show"):
        explain(torch.nn.Linear(1, 1), 3, 8)
    adaptor = KARAdaptor(texts)
    other = build_model("deepfm", interactions(), embedding_dim=4, dense=adaptor.widths)
    with pytest.raises(EvaluationError, match="with KARAdaptor has no reasons"):
        explain(augment(other, adaptor, user="user_id", item="item_id"), 3, 8)
    with pytest.raises(ConfigError, match="fuse='mean'"):
        explain(trained(fuse="mean")[0], 3, 8)


HOSTILE = Explanation(
    "<b>u</b>", 7, 'A "<script>alert(1)</script>"', 0.75, 0.5, "likes <i>tags</i>",
    (AttendedReason("because <img src=x>", 0.6, (0.5, 0.7), 0.7), AttendedReason("& more", 0.4, (0.5, 0.3), 0.8)), 4,
)  # fmt: skip


def test_the_card_is_whole_and_escapes_texts():
    page = cards_page([HOSTILE])
    for text in ("<script>", "<img", "<i>", "<b>"):
        assert text not in page
    assert html.escape("because <img src=x>") in page
    assert "http" not in page
    assert "+0.0500" in page
    assert "-0.0500" in page
    assert "2 of 4 reasons" in page
    assert json.loads(json.dumps(HOSTILE.to_json()))["reasons"][0] == {
        "text": "because <img src=x>",
        "weight": 0.6,
        "head_weights": [0.5, 0.7],
        "score_without": 0.7,
    }
    assert str(HOSTILE).splitlines()[-1] == "  0.40  score -0.0500  & more"


def test_the_command_trains_once_and_then_explains(tmp_path, capsys):
    data = interactions()
    frame = pd.concat([part.assign(split=name) for name, part in (("train", data.train), ("valid", data.valid))])
    frame = pd.DataFrame(
        {
            "user_id": data.user_ids[frame["user"] - 1],
            "item_id": data.item_ids[frame["item"] - 1],
            "split": frame["split"],
        }
    )
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    items = pd.DataFrame({"item_id": data.item_ids, "title": [f"Title {k}" for k in range(data.n_items)]})
    items.to_csv(tmp_path / "items.csv", index=False)
    text_frame().to_csv(tmp_path / "texts.csv", index=False)
    reason_frame().to_parquet(tmp_path / "reasons.parquet")
    files = [str(tmp_path / name) for name in ("clicks.csv", "items.csv", "texts.csv", "reasons.parquet")]
    common = ["explain", "--interactions", files[0], "--items", files[1], "--texts", files[2], "--texts", files[3]]
    common += ["--out", str(tmp_path / "kept"), "--quick", "--epochs", "2", "--embedding-dim", "4", "--user", "u02"]
    assert main([*common, "--item", RAW_ITEM, "--k", "2", "--html", str(tmp_path / "card.html")]) == 0
    out, err = capsys.readouterr()
    assert "training, epoch 2" in err
    assert out.startswith(f"user u02, item {RAW_ITEM} (Title {ITEM - 1}): score 0.")
    assert "2 of " in out
    assert f"Title {ITEM - 1} ({RAW_ITEM})" in (tmp_path / "card.html").read_text()
    assert main([*common, "--item", RAW_ITEM, "--k", "2"]) == 0
    again, err = capsys.readouterr()
    assert again == out
    assert "training" not in err
    assert main([*common, "--top", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scores = [one["score"] for one in found]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    taken = frame[(frame["user_id"] == "u02") & (frame["split"] == "train")]["item_id"]
    assert not {one["item"] for one in found} & set(taken)
    assert main([*common, "--seed", "1", "--item", RAW_ITEM]) == 2
    assert "keeps another model (seed was 0, now 1)" in capsys.readouterr().err
    assert main([*common[:-1], "u99"]) == 2
    assert "--user u99: the interactions and items have no such user" in capsys.readouterr().err
