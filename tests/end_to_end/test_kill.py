"""Kill -9 at random moments: no answer that was received is asked again, and the table is that of a quiet run."""

import os
import random
import signal
import sqlite3
import time

import numpy as np
import pandas as pd

from sllmr_plugin.scoring.ledger_file import ledger_key

from ..scoring_server import ScoringServer
from .nursery import wait_for_a_moment

N_KILLS = 30
CONCURRENCY = 4
N_USERS = 150


def committed(path):
    """Keys of the answers in a ledger, killed writers or not."""
    if not path.exists():
        return set()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {key for (key,) in connection.execute("SELECT key FROM answers")}
    except sqlite3.OperationalError:  # killed before the tables were there
        return set()
    finally:
        connection.close()


def keys_of(seen):
    """What the server has seen, as ledger keys; worked out from the bodies alone."""
    keys = []
    for one in seen:
        body = one.body
        parameters = {"answer": "scores", "temperature": body["temperature"], "max_tokens": body["max_tokens"]}
        keys.append(ledger_key(body["messages"], body["model"], parameters, 1))
    return keys


def test_thirty_kills_lose_nothing_and_repeat_at_most_what_was_in_flight(tmp_path, nursery):
    rng = random.Random(7)
    draw = np.random.default_rng(7)
    pairs = [(user, int(item)) for user in range(N_USERS) for item in draw.permutation(40)[:4]]
    pd.DataFrame(pairs, columns=["user_id", "item_id"]).to_csv(tmp_path / "clicks.csv", index=False)
    pd.DataFrame({"item_id": range(40), "title": [f"Thing {k}" for k in range(40)]}).to_csv(
        tmp_path / "items.csv", index=False
    )
    data = ["--interactions", str(tmp_path / "clicks.csv"), "--items", str(tmp_path / "items.csv")]
    nursery.start(["candidates", *data, "--per-user", "5", "--out", str(tmp_path / "c.parquet")])
    assert nursery.wait() == 0
    ledger = tmp_path / "killed.ledger.sqlite"

    def arguments(name, server):
        common = ["--candidates", str(tmp_path / "c.parquet"), *data, "--model", "tiny", "--base-url", server.base_url]
        return ["score", *common, "--concurrency", str(CONCURRENCY), "--out", str(tmp_path / f"{name}.parquet")]

    # Every ninth answer cannot be used, so kills fall into conversations as well.
    def plan(number, body):
        return "garbage" if number % 9 == 8 and len(body["messages"]) == 2 else None

    killed_early = in_flight = 0
    with ScoringServer(plan, latency=0.04) as server:
        for _ in range(N_KILLS):
            seen_before, known_before = len(server.seen), committed(ledger)
            process = nursery.start(arguments("killed", server))
            wait_for_a_moment(server, seen_before, rng)
            os.kill(process, signal.SIGKILL)
            assert nursery.wait() == -signal.SIGKILL, "it had finished before it was killed: more users are needed"
            time.sleep(0.06)  # what the server was at when its client died
            killed_early += len(server.seen) == seen_before
            asked_here = set(keys_of(server.seen[seen_before:]))
            assert not asked_here & known_before, "an answer that was there has been asked for again"
            lost = asked_here - committed(ledger)
            assert len(lost) <= CONCURRENCY
            in_flight += len(lost)
        seen_before, known_before = len(server.seen), committed(ledger)
        nursery.start(arguments("killed", server))
        assert nursery.wait() == 0
        asked = keys_of(server.seen)
        assert not set(keys_of(server.seen[seen_before:])) & known_before
        assert set(asked) == committed(ledger)
        assert len(asked) - len(set(asked)) <= in_flight <= N_KILLS * CONCURRENCY
        assert killed_early < N_KILLS - 10  # most kills hit a run at work
        assert in_flight > 0

        log = (tmp_path / "log.txt").read_text()
        told = [int(line.split(" with ")[1].split()[0]) for line in log.splitlines() if "was killed with" in line]
        assert sum(told) >= in_flight
        assert max(told) <= CONCURRENCY

    with ScoringServer(latency=0.0) as server:  # another server, which never gives garbage: same scores
        nursery.start(arguments("quiet", server))
        assert nursery.wait() == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "killed.parquet"), pd.read_parquet(tmp_path / "quiet.parquet")
    )
