"""What grows with users, items, embeddings and pairs: ``python benchmarks/scaling.py --prompt-tokens 600 ...``.

One size at a time is varied, at three values each, the others staying at the middle one. Plain and wrapped DeepFM
(default settings, 32 users and some 160 extra rows on a batch of 128) alternate; milliseconds are medians of the
processor time of a step, a share of the start of `fit` included. Straight lines are fitted through the three sizes and
drawn out to ``--users``; the memory of the model and the bill of the language model are arithmetic, shown with its
terms. Prices are arguments: they change.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import step_overhead
import torch

from sllmr_plugin import SelectiveConfig, wrap

BATCH, STEPS = 128, 40
SIZES = {
    "users": (20_000, 80_000, 320_000),
    "items": (10_000, 40_000, 160_000),
    "embedding": (4, 16, 64),
    "pairs a user": (1, 4, 16),
}
MIDDLE = {"users": 80_000, "items": 40_000, "embedding": 16, "pairs a user": 4}
FLOAT32_IDS = 2**24  # ids beyond collide in DeepCTR-Torch's input matrix


def measure(sizes: dict[str, int], repeats: int) -> tuple[float, float]:
    """Return milliseconds of a plain and of a wrapped step."""
    x, y, table = step_overhead.data(STEPS * BATCH, sizes["users"], sizes["items"])
    config = SelectiveConfig(gate="none", pairs_per_user=sizes["pairs a user"])
    plain, model = (step_overhead.build("deepfm", sizes["embedding"], sizes["users"], sizes["items"]) for _ in range(2))
    wrapped = wrap(model, table, user="user_id", item="item_id", config=config)
    times: tuple[list[float], list[float]] = ([], [])
    for each in (plain, wrapped):
        each.compile("adam", "binary_crossentropy")
        step_overhead.seconds(each, x, y, BATCH, time.process_time)
    for _ in range(repeats):
        for each, spent in zip((plain, wrapped), times, strict=True):
            spent.append(step_overhead.seconds(each, x, y, BATCH, time.process_time) / STEPS * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--users", type=float, default=1e8, help="size to extrapolate to (default 1e8)")
    parser.add_argument("--scored", type=float, default=1.0, help="share of the users that are scored (default 1)")
    parser.add_argument("--candidates", type=int, default=20, help="scored items a user, one prompt (default 20)")
    parser.add_argument(
        "--prompt-tokens", type=float, required=True, help="of a request; sllmr score --dry-run has them"
    )
    parser.add_argument("--answer-tokens", type=float, required=True)
    parser.add_argument("--prompt-price", type=float, required=True, help="dollars a million tokens of prompt")
    parser.add_argument("--answer-price", type=float, required=True, help="dollars a million tokens of answer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':13}{'size':>9}{'plain ms/step':>15}{'wrapped ms/step':>17}{'difference':>12}")
    lines: dict[str, np.ndarray] = {}
    for name, sizes in SIZES.items():
        measured = []
        for size in sizes:
            plain, wrapped = measure({**MIDDLE, name: size}, arguments.repeats)
            measured.append((plain, wrapped))
            print(f"{name:13}{size:>9}{plain:>15.2f}{wrapped:>17.2f}{wrapped - plain:>12.2f}", flush=True)
        lines[name] = np.polyfit(sizes, np.array(measured), 1)  # (2, 2): slope and start, of plain and of wrapped
        (slope, wrapped_slope), _ = lines[name]
        print(f"{'':13}a straight line: {slope:.3g} ms a step for each more, wrapped {wrapped_slope:.3g}")
    extrapolate(arguments, lines["users"])


def extrapolate(arguments: argparse.Namespace, line: np.ndarray) -> None:
    """Print the arithmetic for many users."""
    n, dim, per = arguments.users, MIDDLE["embedding"], arguments.candidates
    (slope, wrapped_slope), (start, wrapped_start) = line
    print(f"\n{n:.3g} users, {dim} numbers a user, {per} candidates for {arguments.scored:.0%} of them")
    print(f"a step, plain:   {start:.3g} ms + {slope:.3g} ms x {n:.3g} = {(start + slope * n) / 1000:.3g} s")
    print(
        f"a step, wrapped: {wrapped_start:.3g} ms + {wrapped_slope:.3g} ms x {n:.3g} "
        f"= {(wrapped_start + wrapped_slope * n) / 1000:.3g} s"
    )
    print(
        f"user embeddings with gradient and Adam: 4 x 4 bytes x {dim + 1} x {n:.3g} = {16 * (dim + 1) * n / 1e9:.3g} GB"
    )
    if n > FLOAT32_IDS:
        print(f"  (DeepCTR-Torch itself ends at {FLOAT32_IDS} ids a feature: its inputs are float32)")
    pairs = n * arguments.scored * per
    print(f"score table: 16 bytes x {pairs:.3g} pairs + 16 x {n * arguments.scored:.3g} users", end=" ")
    print(f"= {(16 * pairs + 16 * n * arguments.scored) / 1e9:.3g} GB on disk")
    a_prompt = arguments.prompt_tokens * arguments.prompt_price
    an_answer = arguments.answer_tokens * arguments.answer_price
    print(
        f"language model: {n * arguments.scored:.3g} requests x ({arguments.prompt_tokens:g} tokens x "
        f"${arguments.prompt_price:g} + {arguments.answer_tokens:g} x ${arguments.answer_price:g}) / 10^6 "
        f"= ${n * arguments.scored * (a_prompt + an_answer) / 1e6:,.0f}"
    )


if __name__ == "__main__":
    main()
