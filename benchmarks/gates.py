"""Gate objectives beside each other: ``python benchmarks/gates.py --data FOLDER --out DIR``.

A DeepFM is trained plain, ungated, and with each gate objective and kind of uncertainty. Prints AUC differences to
plain, paired by seed.
"""

from __future__ import annotations

from common import Bench, spread

GATES = ("disagreement", "fixed", "budget", "joint", "bilevel")


def main() -> None:
    bench = Bench.from_command_line(__doc__)
    plain = bench.run("none", "plain")
    print(f"{'gate':28}{'AUC':>13}{'cold users':>19}{'long-tail':>19}")
    print(f"{'open (mode global)':28}{spread(bench.run('global', 'global') - plain)}", flush=True)
    for gate in GATES:
        print(f"{gate:28}{spread(bench.run('gated', gate, {'gate': gate}) - plain)}", flush=True)
    entropy = bench.run("gated", "entropy", {"uncertainty": "entropy"})
    print(f"{'disagreement, entropy':28}{spread(entropy - plain)}", flush=True)


if __name__ == "__main__":
    main()
