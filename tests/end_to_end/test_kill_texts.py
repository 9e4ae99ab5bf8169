"""Kill -9 while texts are written: no answer that was received is asked again, and the table is that of a quiet run."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import time

import pandas as pd
import pytest

from ..scoring_server import ScoringServer
from .nursery import wait_for_a_moment

N_KILLS = 6
CONCURRENCY = 4


def committed(path):
    """Hashes of the messages whose answers are in a ledger, killed writers or not."""
    if not path.exists():
        return set()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {json.loads(text)["messages_sha256"] for (text,) in connection.execute("SELECT request FROM answers")}
    except sqlite3.OperationalError:  # killed before the tables were there
        return set()
    finally:
        connection.close()


def asked(seen):
    return [hashlib.sha256(json.dumps(one.body["messages"]).encode()).hexdigest() for one in seen]


# Two of the 40 items have one training interaction that a reason can be written about, the others two or more.
@pytest.mark.parametrize(("kinds", "n_texts"), [("user,item", 60 + 40), ("pattern,reason", 60 + 40 * 2 - 2)])
def test_kills_lose_no_text_and_repeat_at_most_what_was_in_flight(tmp_path, nursery, kinds, n_texts):
    rng = random.Random(3)
    pairs = [(user, item) for user in range(60) for item in rng.sample(range(40), 5)]
    pd.DataFrame(pairs, columns=["user_id", "item_id"]).to_csv(tmp_path / "clicks.csv", index=False)
    pd.DataFrame({"item_id": range(40), "title": [f"Thing {k}" for k in range(40)]}).to_csv(
        tmp_path / "items.csv", index=False
    )
    ledger = tmp_path / "killed.ledger.sqlite"

    def arguments(name, server):
        data = ["--interactions", str(tmp_path / "clicks.csv"), "--items", str(tmp_path / "items.csv")]
        common = [*data, "--model", "tiny", "--base-url", server.base_url, "--concurrency", str(CONCURRENCY)]
        kind = ["--kind", kinds, *(["--reasons-per-item", "2"] if "reason" in kinds else [])]
        return ["texts", *common, *kind, "--out", str(tmp_path / f"{name}.parquet")]

    # Every seventh answer cannot be used, so kills fall into conversations as well.
    def plan(number, body):
        return "garbage" if number % 7 == 6 and len(body["messages"]) == 2 else None

    with ScoringServer(plan, latency=0.04) as server:
        in_flight = 0
        for _ in range(N_KILLS):
            seen_before, known_before = len(server.seen), committed(ledger)
            process = nursery.start(arguments("killed", server))
            wait_for_a_moment(server, seen_before, rng)
            os.kill(process, signal.SIGKILL)
            assert nursery.wait() == -signal.SIGKILL, "it had finished before it was killed: more users are needed"
            time.sleep(0.06)  # what the server was at when its client died
            here = set(asked(server.seen[seen_before:]))
            assert not here & known_before, "an answer that was there has been asked for again"
            lost = here - committed(ledger)
            assert len(lost) <= CONCURRENCY
            in_flight += len(lost)
        assert in_flight > 0
        seen_before, known_before = len(server.seen), committed(ledger)
        assert known_before
        nursery.start(arguments("killed", server))
        assert nursery.wait() == 0
        everything = asked(server.seen)
        assert not set(asked(server.seen[seen_before:])) & known_before
        assert set(everything) == committed(ledger)
        assert len(everything) - len(set(everything)) <= in_flight

    with ScoringServer() as server:  # another server, which never gives garbage: same texts
        nursery.start(arguments("quiet", server))
        assert nursery.wait() == 0
    killed, quiet = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("killed", "quiet"))
    assert len(quiet) == n_texts
    pd.testing.assert_frame_equal(killed, quiet)
