"""Prices from YAML, and the guess of a prompt's tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.errors import PriceError
from sllmr_plugin.scoring.prices import Price, Prices, estimate_tokens


def test_a_dated_name_has_the_price_of_the_name_and_a_longer_name_has_not():
    prices = Prices({"gpt-4o": Price(1, 2)})
    assert prices.of("gpt-4o-2024-08-06") == prices.of("gpt-4o") == Price(1, 2)
    assert prices.of("gpt-4o-mini") is None
    assert prices.of("ft:gpt-4o:me") is None


def test_the_bundled_file_reads_and_names_the_default_model():
    prices = Prices.read()
    assert prices.of("gpt-4o-mini").cost(1e6, 1e6) == pytest.approx(0.75)
    assert prices.batch_discount == 0.5


def test_a_file_of_the_users(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("models:\n  local: {prompt: 0, completion: 0}\n")
    assert Prices.read(file).of("local") == Price(0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models: 3",
        "models: {a: 1}",
        "models: {a: {prompt: 1}}",
        "models: {a: {prompt: -1, completion: 1}}",
        "models: {a: {prompt: .nan, completion: 1}}",
        "models: {a: {prompt: x, completion: 1}}",
        "models: [",
        "models: {}\nbatch_discount: x",
    ],
)
def test_a_file_of_another_form_is_refused_by_name(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(PriceError, match=r"p\.yaml"):
        Prices.read(tmp_path / "p.yaml")


def test_no_file_is_refused(tmp_path):
    with pytest.raises(PriceError, match="--prices"):
        Prices.read(tmp_path / "none.yaml")


@given(st.lists(st.text()))
def test_the_guess_counts_every_character_once(texts):
    plain = sum(character.isascii() for text in texts for character in text)
    other = sum(not character.isascii() for text in texts for character in text)
    guess = estimate_tokens([{"role": "user", "content": text} for text in texts])
    assert guess - 4 * len(texts) - other == -(-plain * 2 // 7)
