"""A score table of ten users and twelve items with a hand-made backbone, and loops over its probe pairs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch

from sllmr_plugin.scores.table import ScoreTable
from sllmr_plugin.training.sampler import DrawableScores, RowBuilder
from sllmr_plugin.training.view import Usable

# Columns of the input: user, item, context (the user's), category (the item's).
USER, ITEM, CONTEXT, CATEGORY = range(4)
N_USERS, N_ITEMS = 10, 12
COLD = [user < 4 for user in range(N_USERS)]
TAIL = [item % 3 == 0 for item in range(N_ITEMS)]
POPULARITY = [item * item for item in range(N_ITEMS)]

# user -> scored items; user 8 has ties among them, user 9 has one item only
CANDIDATES = {
    user: {item: ((user * 5 + item * 7) % 9) / 8 for item in range(user % 3, N_ITEMS, 2)} for user in (1, 2, 3, 5, 6)
}
CANDIDATES[8] = {1: 0.5, 2: 0.5, 3: 0.25}
CANDIDATES[9] = {4: 0.5}
# user 7 has probes and no candidates
PROBES = {1: {0: 0.9}, 3: {5: 0.1, 9: 0.8}, 6: {5: 0.55}, 7: {1: 0.7}}


def template(user):
    return [user, 0.0, 100.0 + user, 0.0]


def row_of(user, item, context=None):
    return [user, item, 100.0 + user if context is None else context, item % 4]


def score(rows):
    """Score rows by a backbone that depends on all columns: (n,) logits."""
    weights = torch.tensor([0.31, -0.17, 0.013, 0.29], dtype=rows.dtype)
    return torch.sin(rows @ weights * 3)


def opinion(logit):
    """Return what a backend makes of logits: logit, probability and uncertainty."""
    return logit, logit.sigmoid(), 1 - (2 * logit.sigmoid() - 1).abs()


def score_rows(rows):
    return opinion(score(rows))


def usable(candidates=None, probes=None, cold=None, tail=None, positive=()):
    """Put candidates and probes, ``{user: {item: score}}``, into a table; `positive` are (user, item) that trained."""
    groups = {
        "candidate": CANDIDATES if candidates is None else candidates,
        "probe": PROBES if probes is None else probes,
    }
    rows = [
        (user, item, value, kind)
        for kind, group in groups.items()
        for user, items in group.items()
        for item, value in items.items()
    ]
    table = ScoreTable.read(pd.DataFrame(rows, columns=["user_id", "item_id", "score", "kind"]))

    def builder(group):
        return RowBuilder(
            torch.tensor([template(user) for user in group.users.tolist()]).view(-1, 4),
            torch.tensor([ITEM, CATEGORY]),
            torch.arange(N_ITEMS),
            torch.tensor([[item, item % 4] for item in range(N_ITEMS)], dtype=torch.float32),
        )

    owner = table.candidates.users[table.candidates.user_of_entry].tolist()
    scored = zip(owner, table.candidates.items.tolist(), strict=True)
    everyone = torch.ones(int(table.candidates.users.max()) + 1, dtype=torch.bool)
    everything = torch.ones(int(table.candidates.items.max()) + 1, dtype=torch.bool)
    return Usable(
        DrawableScores.of(table.candidates, everyone, everything, two_scores=False),
        table.probes,
        builder(table.candidates),
        builder(table.probes),
        torch.tensor(COLD if cold is None else cold),
        torch.tensor(TAIL if tail is None else tail),
        torch.tensor(POPULARITY),
        torch.tensor([number for number, pair in enumerate(scored) if pair in set(positive)], dtype=torch.int64),
    )


def many(seed):
    """Draw candidates and probes of all users, no item both for a user."""
    rng = np.random.default_rng(seed)
    candidates, probes = {}, {}
    for user in range(N_USERS):
        items = rng.permutation(N_ITEMS).tolist()
        n_probes = int(rng.integers(0, 4))
        probes[user] = {item: int(rng.integers(0, 9)) / 8 for item in items[:n_probes]}
        if user != 4:  # has probes or not, but never candidates
            candidates[user] = {
                item: int(rng.integers(0, 9)) / 8 for item in items[n_probes : int(rng.integers(5, 13))]
            }
    return candidates, probes


def probe_pairs(candidates, probes, positive=()):
    """Loop over probes and their user's candidates that are not training positives: (user, probe, candidate)."""
    return [
        (user, probe, item)
        for user, held_out in probes.items()
        for probe in held_out
        for item in candidates.get(user, {})
        if (user, item) not in positive
    ]


def one_logit(user, item):
    return score(torch.tensor([row_of(user, item)])).item()


def importance_by_hand(pairs):
    """Return how much each probe pair counts: the catalogue's share of the candidate's popularity over that in pairs.

    Every item has a popularity of its own here, and there are twelve: tenths end at the 2nd, 3rd, 4th, 5th, 6th, 8th,
    9th, 10th, 11th and 12th.
    """
    band_of = [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9]
    in_pairs = [band_of[item] for _, _, item in pairs]
    weight = [min(band_of.count(k) / N_ITEMS / (in_pairs.count(k) / len(pairs)), 5) for k in in_pairs]
    return {pair: value * len(pairs) / sum(weight) for pair, value in zip(pairs, weight, strict=True)}


def disagreements(candidates, probes, positive=(), logit=one_logit):
    """Return the probe pairs about which the LLM has an opinion that the backbone does not share."""
    found = []
    for user, probe, item in probe_pairs(candidates, probes, positive):
        t_probe, t_item = probes[user][probe], candidates[user][item]
        s_probe, s_item = logit(user, probe), logit(user, item)
        if t_probe == t_item:
            continue
        if s_probe == s_item or (t_probe > t_item) != (s_probe > s_item):
            found.append((user, probe, item))
    return found


def evidence(pairs, candidates, probes, logit=one_logit):
    """Return signals (n, 4), whether the LLM was right (n,), and user (n,) of probe pairs."""
    design, right, users = [], [], []
    for user, probe, item in pairs:
        t_probe, t_item = probes[user][probe], candidates[user][item]
        first, second = (probe, item) if t_probe > t_item else (item, probe)
        q = [1 - abs(2 / (1 + math.exp(-logit(user, i))) - 1) for i in (first, second)]
        design.append([COLD[user], (TAIL[first] + TAIL[second]) / 2, sum(q) / 2, abs(t_probe - t_item)])
        right.append(t_probe > t_item)
        users.append(user)
    return np.array(design, dtype=float), np.array(right), np.array(users)
