"""Which pairs are worth their input rows: ``python benchmarks/pair_choice.py --data FOLDER --out DIR``.

A DeepFM is trained plain and with ungated pairs, chosen in different ways, so that the choice is all that differs.
Prints AUC differences to plain, paired by seed.
"""

from __future__ import annotations

from common import Bench, spread

# users in a step, scored items considered of each, most pairs of each, rule, lambda; at batch size 256
CHOICES = [
    (32, 10, 1, "largest", 0.1),
    (64, 10, 1, "largest", 0.1),
    (128, 10, 1, "largest", 0.1),
    (128, 10, 1, "largest", 0.2),
    (32, 10, 4, "largest", 0.2),
    (64, 10, 4, "largest", 0.1),
    (64, 10, 4, "largest", 0.2),
    (64, 10, 4, "largest", 0.4),
    (64, 10, 8, "largest", 0.2),
    (64, 10, 4, "gap_weighted", 0.2),
    (64, 10, 4, "uniform", 0.2),
]
FIELDS = ("users_per_step", "candidates_per_user", "pairs_per_user", "pair_rule", "weight")


def main() -> None:
    bench = Bench.from_command_line(__doc__)
    plain = bench.run("none", "plain")
    print(
        f"{'users':>6}{'items':>6}{'pairs':>6}  {'rule':14}{'lambda':>7}{'AUC':>13}{'cold users':>19}{'long-tail':>19}"
    )
    for choice in CHOICES:
        config = dict(zip(FIELDS, choice, strict=True))
        result = bench.run("global", "_".join(map(str, choice)), config)
        users, items, pairs, rule, weight = choice
        print(f"{users:>6}{items:>6}{pairs:>6}  {rule:14}{weight:>7}{spread(result - plain)}", flush=True)


if __name__ == "__main__":
    main()
