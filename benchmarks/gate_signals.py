"""Which signals tell when the LLM is right: ``python benchmarks/gate_signals.py --data FOLDER --out DIR``.

Models are trained to their best epoch, and logistic regressions of "the LLM is right" on different signals are
cross-validated, by user, on the probe pairs about which LLM and model disagree. Prints the held-out log loss; the
lower, the more a signal tells. Columns: the plain model, and the one whose embeddings start from the folder's texts.
"""

from __future__ import annotations

import numpy as np
from common import Bench
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, cross_val_predict

from sllmr_plugin import SelectiveConfig
from sllmr_plugin.evaluation.training import train, wrap_arguments
from sllmr_plugin.training.probes import JudgedPairs
from sllmr_plugin.wrapping import wrap
from sllmr_plugin.zoo.deepctr import input_rows

SETS = {
    "none": (),
    "cold, tail": ("cold", "tail"),
    "uncertainty": ("uncertainty",),
    "gap": ("gap",),
    "cold, tail, uncertainty": ("cold", "tail", "uncertainty"),
    "cold, tail, uncertainty, gap": ("cold", "tail", "uncertainty", "gap"),
    "... and history length": ("cold", "tail", "uncertainty", "gap", "history"),
    "... and both popularities": ("cold", "tail", "uncertainty", "gap", "popularity of first", "popularity of second"),
    "... and the model's margin": ("cold", "tail", "uncertainty", "gap", "margin"),
}


def columns(judged: JudgedPairs, bench: Bench) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return signals by name, whether the LLM was right, and the user, of the pairs in disagreement."""
    which = judged.disagree
    signals, right, user = judged.evidence(which)
    cold, tail, uncertainty, gap = signals.design().numpy().T
    popularity = np.log1p(np.asarray(bench.data.popularity))
    probe, candidate = (popularity[judged.pairs.keys[which, column].numpy()] for column in (1, 2))
    named = {
        "cold": cold,
        "tail": tail,
        "uncertainty": uncertainty,
        "gap": gap,
        "history": np.log1p(np.asarray(bench.data.history_length))[user.numpy()],
        "popularity of first": np.where(right.numpy(), probe, candidate),
        "popularity of second": np.where(right.numpy(), candidate, probe),
        "margin": judged.model_gap[which].abs().numpy(),
    }
    return named, right.numpy(), user.numpy()


def held_out_loss(named: dict[str, np.ndarray], right: np.ndarray, user: np.ndarray, signals: tuple[str, ...]) -> float:
    design = np.column_stack([np.ones(len(right)), *(named[name] - named[name].mean() for name in signals)])
    folds = GroupKFold(10, shuffle=True, random_state=0)
    chance = cross_val_predict(
        LogisticRegression(fit_intercept=False), design, right, groups=user, cv=folds, method="predict_proba"
    )
    return float(log_loss(right, chance[:, 1]))


def main() -> None:
    bench, _ = Bench.from_command_line(__doc__)
    losses: dict[str, list[list[float]]] = {name: [] for name in SETS}
    disagreements = []
    for seed in range(bench.seeds):
        rows = bench.settings.rows(bench.data, seed)
        cases = []
        for start in (None, bench.start):
            trained = train(
                bench.data,
                rows,
                bench.table,
                backbone=bench.backbone,
                config=SelectiveConfig.of_mode("none"),
                seed=seed,
                settings=bench.settings,
                start=start,
            )
            model = wrap(trained.model, bench.table, **wrap_arguments(bench.data))
            cases.append(columns(model.judge_probes(input_rows(model, rows[0]), rows[1]), bench))
        disagreements.append([len(right) for _, right, _ in cases])
        for name, signals in SETS.items():
            losses[name].append([held_out_loss(*case, signals) for case in cases])
    print(f"{'signals':32}{'plain':>10}{'from texts':>12}   mean of {bench.seeds} seeds")
    plain, initialised = np.mean(disagreements, axis=0)
    print(f"{'(pairs in disagreement)':32}{plain:>10.0f}{initialised:>12.0f}")
    for name, values in losses.items():
        plain, initialised = np.mean(values, axis=0)
        print(f"{name:32}{plain:>10.4f}{initialised:>12.4f}")


if __name__ == "__main__":
    main()
