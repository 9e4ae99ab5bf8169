"""What LLM-CF's gain is made of, on the demo's simulated texts: ``python benchmarks/llm_cf_ablation.py``.

DeepFM at the settings of `sllmr compare`, seeds 0 to 2, with

  own texts            the sample's own texts alone, retrieval switched off
  drawn exemplars      exemplars drawn from the training rows, known by the texts of their user and item
  reasoned, unread     the exemplars of the reasoning texts, without what these say
  reasoned             with what they say: LLM-CF as it is, where the text table has reasoning

Prints the full-ranking AUC of the test interactions as mean ± standard deviation over seeds, likewise the differences
to the plain model of the same seed, and of the AUC each of these. For intervals over users, run `sllmr compare`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from common import METRICS, spread

from sllmr_plugin import LLMCFAdaptor, ScoreTable, SelectiveConfig, TextTable
from sllmr_plugin.datasets.demo import demo_paths, load_demo
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.evaluation.run import train_and_rank
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.knowledge import EncodedTexts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1 (default: 3, at least 2)")
    n_seeds = parser.parse_args().seeds
    data, _ = load_demo()
    table = TextTable.read(demo_paths().texts, user_index=data.user_index, item_index=data.item_index)
    texts = EncodedTexts.of(table)
    assert texts.reasoning is not None
    without = replace(texts, reasoning=None)
    unread = replace(texts, reasoning=replace(texts.reasoning, vectors=np.zeros_like(texts.reasoning.vectors)))

    def run(seed: int, adaptor: Callable[..., LLMCFAdaptor] | None) -> tuple[float, ...]:
        rows = training_rows(data, seed=seed)
        made = adaptor(*rows, user="user_id", item="item_id", seed=seed) if adaptor else None
        result = train_and_rank(
            data,
            rows,
            ScoreTable.empty(),
            backbone="deepfm",
            config=SelectiveConfig(weight=0.0),
            seed=seed,
            settings=RunSettings.quick(),
            adaptor=made,
            verbose=False,
        )
        return tuple(getattr(result, metric) for metric in METRICS)

    ways: dict[str, Callable[..., LLMCFAdaptor] | None] = {
        "plain": None,
        "own texts": lambda *rows, **names: LLMCFAdaptor(without, *rows, n_each=0, **names),
        "drawn exemplars": lambda *rows, **names: LLMCFAdaptor(without, *rows, **names),
        "reasoned, unread": lambda *rows, **names: LLMCFAdaptor(unread, *rows, **names),
        "reasoned": lambda *rows, **names: LLMCFAdaptor(texts, *rows, **names),
    }
    print(f"{'':18}{'AUC':>14}{'cold users':>19}{'long-tail items':>19}")
    plain = None
    for name, adaptor in ways.items():
        auc = np.array([run(seed, adaptor) for seed in range(n_seeds)])  # (n_seeds, 3)
        print(f"{name:18}{spread(auc).replace('+', ' ')}", flush=True)
        plain = auc if plain is None else plain
        if adaptor:
            print(f"{'  minus plain':18}{spread(auc - plain)}", flush=True)
            seeds = ", ".join(f"{gain:+.4f}" for gain in (auc - plain)[:, 0])
            print(f"{'  AUC by seed':18}   {seeds}", flush=True)


if __name__ == "__main__":
    main()
