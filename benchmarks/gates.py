"""Gate objectives beside each other: ``python benchmarks/gates.py --data FOLDER --out DIR``.

A backbone is trained at the default settings without pairs, with all of them (mode global), and with each gate
objective and another kind of uncertainty; the plain model, and the one whose embeddings start from the folder's texts.
Prints differences to the same model without pairs, paired by seed.
"""

from __future__ import annotations

from common import Bench, spread

GATES = ("disagreement", "fixed", "budget", "joint", "bilevel")


def main() -> None:
    bench, _ = Bench.from_command_line(__doc__)
    for base, pairs in (("none", ""), ("init", "init+")):
        without = bench.aucs(base, base)
        print(f"{base + ', AUC':28}{spread(without).replace('+', ' ')}")
        print(f"{'gate':28}{'minus ' + base:>13}{'cold users':>19}{'long-tail':>19}")
        ungated = bench.aucs(f"{pairs}global", f"{base}_global")
        print(f"{'open (mode global)':28}{spread(ungated - without)}", flush=True)
        for gate in GATES:
            gated = bench.aucs(f"{pairs}gated", f"{base}_{gate}", {"gate": gate})
            print(f"{gate:28}{spread(gated - without)}", flush=True)
        entropy = bench.aucs(f"{pairs}gated", f"{base}_entropy", {"uncertainty": "entropy"})
        print(f"{'disagreement, entropy':28}{spread(entropy - without)}\n", flush=True)


if __name__ == "__main__":
    main()
