"""Text encoders: the default against scikit-learn's own parts, and answers that cannot be used."""

import sys
import types
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from sllmr_plugin import SentenceTransformerEncoder, TextEncoder, TextEncoderError, TfidfSvdEncoder
from sllmr_plugin.evaluation.compare import describe_texts
from sllmr_plugin.knowledge import EncodedTexts, TextTable
from sllmr_plugin.knowledge.vectors import encode_checked

from .text_cases import interactions, reasoning_frame, text_frame

TEXTS = ["sea and stars", "stars above the forest", "a kettle", "a kettle of sea water", "forest"]


def test_the_default_keeps_the_geometry_of_tf_idf():
    vectors = TfidfSvdEncoder(dim=64).encode(TEXTS)
    assert isinstance(TfidfSvdEncoder(), TextEncoder)
    assert (vectors.shape, vectors.dtype) == ((5, 5), np.float32)  # five texts span five directions at most
    weights = TfidfVectorizer(sublinear_tf=True).fit_transform(TEXTS).toarray()
    np.testing.assert_allclose(vectors @ vectors.T, weights @ weights.T, atol=1e-5)


def test_fewer_dimensions_are_the_best_approximation_and_the_seed_decides():
    encoder = TfidfSvdEncoder(dim=2, seed=3)
    vectors = encoder.encode(TEXTS)
    np.testing.assert_array_equal(vectors, TfidfSvdEncoder(dim=2, seed=3).encode(TEXTS))
    singular = np.linalg.svd(TfidfVectorizer(sublinear_tf=True).fit_transform(TEXTS).toarray(), compute_uv=False)
    np.testing.assert_allclose(np.square(vectors).sum(axis=0), singular[:2] ** 2, rtol=1e-3)


def test_vectors_are_scaled_as_a_whole():
    class Doubled:
        def encode(self, texts):
            return 1000 * np.arange(2 * len(texts)).reshape(-1, 2)

    scaled = encode_checked(Doubled(), TEXTS)
    assert scaled.dtype == np.float32
    assert np.sqrt(np.square(scaled.astype(float)).mean()) == pytest.approx(1)
    np.testing.assert_allclose(scaled[4, 1] / scaled[1, 0], 9 / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (np.ones(5), r"shape \(5,\) for 5 texts"),
        (np.ones((4, 3)), r"shape \(4, 3\) for 5 texts"),
        (np.array([[1.0]] * 3 + [[np.nan]] * 2), "2 vectors that are not finite, first for 'a kettle of sea water'"),
        (np.zeros((5, 3)), "nothing but zeros"),
    ],
)
def test_unusable_vectors_are_refused(answer, told):
    encoder = types.SimpleNamespace(encode=lambda texts: answer)
    with pytest.raises(TextEncoderError, match=told):
        encode_checked(encoder, TEXTS)


def test_texts_without_words_and_sizes_without_sense():
    with pytest.raises(TextEncoderError, match="no words"):
        TfidfSvdEncoder().encode(["?", "!"])
    with pytest.raises(TextEncoderError, match="dim=0"):
        TfidfSvdEncoder(dim=0)


def test_users_and_items_are_encoded_together_and_once():
    calls = []

    class Recorder:
        def encode(self, texts):
            calls.append(list(texts))
            return np.arange(1, len(texts) + 1)[:, None]

    frame = text_frame().assign(id=lambda rows: rows["id"].str[1:].astype(int))  # "00" would not be a code
    table = TextTable.read(frame)
    found = EncodedTexts.of(table, Recorder())
    assert calls == [[*table.users, *table.items]]
    assert len(found.vectors["user"]) == len(table.users) == 10
    ratio = found.vectors["item"][0, 0] / found.vectors["user"][0, 0]
    assert ratio == pytest.approx(11)
    assert EncodedTexts.of(found) is found


def test_reasoning_is_encoded_apart_and_changes_nothing_about_the_others():
    data = interactions()
    indexes = {"user_index": data.user_index, "item_index": data.item_index}
    table = TextTable.read(pd.concat([text_frame(), reasoning_frame()]), **indexes)
    with_it, without = EncodedTexts.of(table), EncodedTexts.of(TextTable.read(text_frame(), **indexes))
    for kind in ("user", "item"):
        assert np.array_equal(with_it.vectors[kind], without.vectors[kind])
    assert without.reasoning is None
    told = with_it.reasoning
    assert np.array_equal(told.vectors, encode_checked(TfidfSvdEncoder(), table.reasoning["text"].tolist()))
    assert np.array_equal(told.labels, table.reasoning["label"])
    assert describe_texts(with_it) != describe_texts(without)
    other = replace(with_it, reasoning=replace(told, labels=1 - told.labels))
    assert describe_texts(other) != describe_texts(with_it)


def test_sentence_transformers_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(TextEncoderError, match=r"not installed. Run `pip install 'sllmr-plugin\[texts\]'`"):
        SentenceTransformerEncoder()

    class Model:
        def __init__(self, name, device):
            if name == "nowhere":
                raise OSError("no such model")
            self.name = name

        def encode(self, texts, batch_size, convert_to_numpy):
            assert (batch_size, convert_to_numpy) == (7, True)
            return np.array([[len(text), 1.0] for text in texts])

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Model))
    vectors = SentenceTransformerEncoder("mine", batch_size=7).encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [len(text) for text in TEXTS]
    with pytest.raises(TextEncoderError, match="cannot load 'nowhere' .no such model."):
        SentenceTransformerEncoder("nowhere")
