"""Prices from YAML, and the guess of a prompt's tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.errors import PriceError
from sllmr_plugin.scoring.prices import Price, Prices, estimate_tokens, in_batches


def test_a_dated_name_has_the_price_of_the_name_and_a_longer_name_has_not():
    prices = Prices({"gpt-4o": Price(1, 2)})
    assert prices.of("gpt-4o-2024-08-06") == prices.of("gpt-4o") == Price(1, 2)
    assert prices.of("gpt-4o-mini") is None
    assert prices.of("ft:gpt-4o:me") is None


@pytest.mark.parametrize(
    "name",
    [
        "claude-sonnet-4-5-20250929",
        "claude-sonnet-4-5@20250929",
        "anthropic/claude-sonnet-4-5",
        "anthropic/claude-sonnet-4.5",
        "openrouter/anthropic/claude-sonnet-4.5",
        "Anthropic/claude-sonnet-4-5-20250929",
    ],
)
def test_the_names_that_proxies_give_a_model_have_its_price(name):
    assert Prices.read().of(name) == Price(3.00, 15.00, 0.30)


@pytest.mark.parametrize(
    "name",
    ["somebody/gpt-4o", "gpt-4o:free", "openai/", "/gpt-4o", "claude-sonnet-4-5-2025", "gpt-4o-mini-tts"],
)
def test_a_name_that_only_looks_like_a_known_one_has_no_price(name):
    assert Prices.read().of(name) is None


def test_a_full_name_of_the_file_comes_before_the_bare_one():
    prices = Prices({"gpt-4o": Price(1, 2), "openrouter/gpt-4o": Price(3, 4)}, providers=("openrouter",))
    assert prices.of("openrouter/gpt-4o-2024-08-06") == Price(3, 4)
    assert prices.of("openrouter/openrouter/gpt-4o") == Price(3, 4)


def test_cached_tokens_have_their_own_price_in_batches_too():
    price = Price(2.0, 8.0, cached=0.5)
    # 600 fresh, 400 cached, 100 written: 600 * 2 + 400 * 0.5 + 100 * 8 = 2,200 millionths
    assert price.cost(1000, 100, 400) == pytest.approx(0.0022)
    assert in_batches(price, 0.5).cost(1000, 100, 400) == pytest.approx(0.0011)
    assert Price(2.0, 8.0).cost(1000, 100, 400) == Price(2.0, 8.0).cost(1000, 100)


def test_no_bundled_price_of_cached_tokens_is_above_that_of_others():
    models = Prices.read().models
    of_embeddings = {name: models.pop(name) for name in list(models) if "embedding" in name}
    assert len(models) > 30
    assert all(price.cached < price.prompt < price.completion for price in models.values())
    assert of_embeddings.keys() >= {"text-embedding-3-small", "text-embedding-3-large"}
    assert all(price.prompt > price.completion == 0 for price in of_embeddings.values())


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
        "models: {}\nproviders: openai",
        "models: {a: {prompt: 1, completion: 1, cached: -1}}",
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
