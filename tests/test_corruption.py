"""Wrong scores: which ones are changed, and how."""

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin.errors import ConfigError
from sllmr_plugin.evaluation.corruption import CORRUPTIONS, corrupt
from sllmr_plugin.evaluation.strata import Strata
from sllmr_plugin.scores.table import ScoreTable

STRATA = Strata(cold=np.array([False, True, False]), tail=np.array([False, False, True, True]), tail_popularity=1)


def table():
    rows = [(1, 1, 0.9, "candidate"), (1, 2, 0.25, "candidate"), (2, 1, 0.5, "candidate"), (2, 3, 1.0, "candidate")]
    rows += [(1, 3, 0.75, "probe"), (2, 2, 0.125, "probe")]
    return ScoreTable.read(pd.DataFrame(rows, columns=["user_id", "item_id", "score", "kind"]))


def scores(wrong):
    """Return the candidates' scores in the order above, then the probes'."""
    return torch.cat([wrong.candidates.scores, wrong.probes.scores]).tolist()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("inverted", [0.1, 0.75, 0.5, 0.0, 0.25, 0.875]),
        ("warm_inverted", [0.9, 0.25, 0.5, 0.0, 0.75, 0.875]),  # user 2 is warm
        ("tail_inverted", [0.9, 0.75, 0.5, 0.0, 0.25, 0.875]),  # items 2 and 3 are long-tail
    ],
)
def test_scores_are_turned_around_where_they_should(kind, expected):
    right = table()
    assert scores(corrupt(right, kind, STRATA)) == pytest.approx(expected)
    assert scores(right) == pytest.approx([0.9, 0.25, 0.5, 1.0, 0.75, 0.125])  # the table itself stays


def test_random_scores_are_seeded_and_have_nothing_of_the_old_ones():
    n = 4000
    frame = pd.DataFrame({"user_id": np.arange(n) % 3, "item_id": np.arange(n), "score": np.linspace(0, 1, n)})
    right = ScoreTable.read(frame)
    wrong = corrupt(right, "random", STRATA, seed=3)
    assert scores(wrong) == scores(corrupt(right, "random", STRATA, seed=3))
    assert scores(wrong) != scores(corrupt(right, "random", STRATA, seed=4))
    assert abs(np.corrcoef(scores(wrong), scores(right))[0, 1]) < 0.06  # four standard errors
    assert 0 <= min(scores(wrong)) <= max(scores(wrong)) <= 1


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="'upside_down' is not one of random, inverted, warm_inverted, tail_inverted"):
        corrupt(table(), "upside_down", STRATA)
    assert len(CORRUPTIONS) == 4
