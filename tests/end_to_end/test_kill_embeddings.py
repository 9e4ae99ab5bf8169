"""Kill -9 while texts are embedded: no text whose vector was received is sent again, and the vectors are the same."""

import os
import random
import signal
import sqlite3
import time

import pandas as pd

from sllmr_plugin.scoring.embeddings.questions import text_key

from ..scoring_server import ScoringServer
from .nursery import wait_for_a_moment

N_KILLS = 8
N_ITEMS = 600
CONCURRENCY = 4
BATCH = 3


def committed(path):
    """Hashes of the texts whose vectors are in a ledger, killed writers or not."""
    if not path.exists():
        return set()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    query = "SELECT each.value FROM answers, json_each(request, '$.texts_sha256') AS each WHERE status = 'ok'"
    try:
        return {key for (key,) in connection.execute(query)}
    except sqlite3.OperationalError:  # killed before the tables were there
        return set()
    finally:
        connection.close()


def sent(seen):
    return [text_key(text) for one in seen for text in one.body["input"]]


def test_kills_lose_no_vector_and_repeat_at_most_what_was_in_flight(tmp_path, nursery):
    rng = random.Random(5)
    items = pd.DataFrame({"item_id": range(N_ITEMS), "title": [f"Thing {k}" for k in range(N_ITEMS)]})
    ledger = tmp_path / "killed.ledger.sqlite"

    def arguments(name, server, order):
        items.sample(frac=1, random_state=order).to_csv(tmp_path / "items.csv", index=False)  # other batches each time
        common = ["--items", str(tmp_path / "items.csv"), "--model", "tiny", "--base-url", server.base_url]
        sizes = ["--concurrency", str(CONCURRENCY), "--batch-size", str(BATCH)]
        return ["embed", *common, *sizes, "--out", str(tmp_path / f"{name}.parquet")]

    with ScoringServer(latency=0.04) as server:
        in_flight = 0
        for kill in range(N_KILLS):
            seen_before, known_before = len(server.seen), committed(ledger)
            process = nursery.start(arguments("killed", server, kill))
            wait_for_a_moment(server, seen_before, rng)
            os.kill(process, signal.SIGKILL)
            assert nursery.wait() == -signal.SIGKILL, "it had finished before it was killed: more items are needed"
            time.sleep(0.06)  # what the server was at when its client died
            here = sent(server.seen[seen_before:])
            assert not set(here) & known_before, "a text whose vector was there has been sent again"
            lost = set(here) - committed(ledger)
            assert len(lost) <= CONCURRENCY * BATCH
            in_flight += len(lost)
        assert in_flight > 0
        seen_before, known_before = len(server.seen), committed(ledger)
        assert known_before
        nursery.start(arguments("killed", server, N_KILLS))
        assert nursery.wait() == 0
        assert not set(sent(server.seen[seen_before:])) & known_before
        everything = sent(server.seen)
        assert set(everything) == committed(ledger)
        assert len(everything) - len(set(everything)) <= in_flight

    with ScoringServer() as server:
        nursery.start(arguments("quiet", server, N_KILLS))
        assert nursery.wait() == 0
    killed, quiet = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("killed", "quiet"))
    assert len(quiet) == N_ITEMS
    pd.testing.assert_frame_equal(killed, quiet)
