"""Time of `predict` wrapped against plain, alternating in one run: ``python benchmarks/predict_overhead.py``.

Also checks that both give the same values, and fails if they do not.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from step_overhead import BACKBONES, build, data

from sllmr_plugin import SelectiveConfig, wrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    n_users, n_items = 4_500, 2_800
    x, _, table = data(arguments.rows, n_users, n_items)
    for name in BACKBONES:
        plain = build(name, 16, n_users, n_items)
        wrapped = wrap(
            build(name, 16, n_users, n_items), table, user="user_id", item="item_id", config=SelectiveConfig()
        )
        inputs = {feature: x[feature] for feature in plain.feature_index}
        ratios = []
        for _ in range(arguments.repeats):
            times, values = [], []
            for model in (plain, wrapped):
                start = time.perf_counter()
                values.append(model.predict(dict(inputs), 1024))
                times.append(time.perf_counter() - start)
            np.testing.assert_array_equal(*values)
            ratios.append(times[1] / times[0])
        print(f"{name:9} identical values, wrapped/plain {statistics.median(ratios):.2f}x", flush=True)


if __name__ == "__main__":
    main()
