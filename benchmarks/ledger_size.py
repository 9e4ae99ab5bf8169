"""A ledger of many answers: ``python benchmarks/ledger_size.py --answers 1000000``.

Writes answers of twenty scores through `Ledger`, as a scoring run does, each 50,000 in turn waited for; opens the
ledger again, looks answers up as a run that goes on does, and prints seconds, sizes and resident memory. The figures
are of one run on one machine; what they are for is how they grow with ``--answers``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.ledger_file import LedgerAnswer, LedgerReader, answers_by_model, export_answers

BLOCK = 50_000
LOOKED_UP = 20_000


def key_of(number: int) -> str:
    """Return the key of an answer: as long as a real one."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def answer(number: int) -> LedgerAnswer:
    """Return an answer of twenty scores."""
    scores = tuple(round((number * k) % 101 / 100, 2) for k in range(1, 21))
    return LedgerAnswer(
        key=key_of(number),
        first_key=key_of(number),
        attempt=0,
        model="gpt-4o-mini",
        user_id=f"u{number}",
        repeat=0,
        request={"template": "default", "n_candidates": 20, "parameters": {"temperature": 0.0}},
        response=json.dumps({"scores": {str(k + 1): score for k, score in enumerate(scores)}}),
        scores=scores,
        prompt_tokens=480,
        completion_tokens=170,
        cost=0.000174,
    )


def megabytes() -> float:
    """Return the most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tell(what: str, start: float) -> None:
    """Print a step's seconds and the memory of the process."""
    print(f"{what:<46}{time.perf_counter() - start:9.2f} s   {megabytes():7.0f} MB at most so far", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--answers", type=int, default=1_000_000)
    arguments = parser.parse_args()
    n = arguments.answers
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.ledger.sqlite"
        start = time.perf_counter()
        with Ledger(path) as ledger:
            for first in range(0, n, BLOCK):
                for future in [ledger.record(answer(number)) for number in range(first, min(n, first + BLOCK))]:
                    future.result()
        tell(f"{n:,} answers written", start)
        print(f"{'the file':<46}{path.stat().st_size / 1e6:9.0f} MB")
        start = time.perf_counter()
        with Ledger(path) as ledger:
            tell("opened again", start)
            start = time.perf_counter()
            print(f"{'spent':<46}{ledger.spent():9.2f} USD")
            tell("  added up", start)
            start = time.perf_counter()
            numbers = np.random.default_rng(0).integers(0, n, LOOKED_UP)
            assert all(ledger.get(key_of(number)) == answer(number) for number in numbers.tolist())
            tell(f"{LOOKED_UP:,} answers looked up at random", start)
            start = time.perf_counter()
            assert all(ledger.get(key_of(-number - 1)) is None for number in numbers.tolist())
            tell(f"{LOOKED_UP:,} looked for that are not there", start)
        with LedgerReader(path) as reader:
            start = time.perf_counter()
            assert answers_by_model(reader)["answers"].sum() == n
            tell("sllmr ledger stats", start)
            start = time.perf_counter()
            assert export_answers(reader, Path(folder) / "answers.parquet") == n
            tell("sllmr ledger export, parquet", start)


if __name__ == "__main__":
    main()
