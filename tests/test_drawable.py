"""`DrawableScores` and pages given back, against a copy of the part that can be drawn."""

import mmap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.scores import arrays as mapped_pages
from sllmr_plugin.scores.arrays import MappedPages, UserScores
from sllmr_plugin.training.sampler import DrawableScores

N_USERS, N_ITEMS = 9, 12
PAIRS = st.dictionaries(
    st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1)), st.integers(0, 3).map(lambda k: k / 4)
)


def grouped(pairs):
    users, items = (np.array([key[k] for key in pairs], dtype=np.int64) for k in (0, 1))
    return UserScores.from_arrays(users, items, np.array(list(pairs.values()), dtype=np.float32))


def mask(size, members):
    return torch.tensor([k in members for k in range(size)])


@given(PAIRS, st.sets(st.integers(0, N_USERS - 1)), st.sets(st.integers(0, N_ITEMS - 1)), st.booleans(), st.data())
@settings(max_examples=150)
def test_what_is_drawn_is_what_a_copy_holds(pairs, users, items, two_scores, data):
    left = {(u, i): score for (u, i), score in pairs.items() if u in users and i in items}
    of_user = {u: [score for (v, _), score in left.items() if u == v] for u in sorted({u for u, _ in left})}
    enough = [u for u, scores in of_user.items() if not two_scores or len(set(scores)) > 1]
    kept = grouped({key: score for key, score in left.items() if key[0] in enough})

    whole = grouped(pairs)
    drawable = DrawableScores.of(whole, mask(N_USERS, users), mask(N_ITEMS, items), two_scores=two_scores)
    assert len(drawable) == len(kept)
    assert drawable.users.tolist() == enough
    some = torch.tensor(data.draw(st.lists(st.sampled_from(range(len(enough))), max_size=5)) if enough else []).long()
    entry, valid = drawable.block(some)
    expected_entry, expected_valid = kept.block(some)
    assert torch.equal(valid, expected_valid)
    assert torch.equal(drawable.items[entry], kept.items[expected_entry])  # padding too
    assert torch.equal(drawable.scores[entry], kept.scores[expected_entry])

    asked = torch.cartesian_prod(torch.arange(N_USERS), torch.arange(N_ITEMS)).T.contiguous()
    entry, found = drawable.locate(*asked)
    expected_entry, expected_found = kept.locate(*asked)
    assert torch.equal(found, expected_found)
    assert torch.equal(drawable.scores[entry[found]], kept.scores[expected_entry[found]])


@given(PAIRS, st.integers(1, 20))
@settings(max_examples=80)
def test_pieces_cover_the_table_and_keep_users_whole(pairs, size):
    table = grouped(pairs)
    pieces = list(table.pieces(size))
    assert [k for users, _ in pieces for k in range(users.start, users.stop)] == list(range(len(table.users)))
    assert [k for _, entries in pieces for k in range(entries.start, entries.stop)] == list(range(len(table)))
    for users, entries in pieces:
        assert entries.start == table.offsets[users.start]
        assert entries.stop == table.offsets[users.stop]
        assert entries.stop - entries.start <= size or users.stop - users.start == 1
    assert torch.nonzero(table.items_seen(N_ITEMS)).flatten().tolist() == sorted({item for _, item in pairs})


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="pages cannot be given back here")
def test_pages_go_back_after_some_look_ups_and_can_be_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_pages, "_SMALL", 0)
    path = tmp_path / "numbers"
    numbers = np.arange(1 << 20, dtype=np.int64)
    numbers.tofile(path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    table = torch.from_numpy(np.frombuffer(mapped, dtype=np.int64))
    pages = MappedPages({mapped: 8})

    def resident():
        """Kilobytes of the map in this process's memory."""
        with open("/proc/self/smaps") as lines:
            here = False
            for line in lines:
                if str(path) in line:
                    here = True
                elif here and line.startswith("Rss:"):
                    return int(line.split()[1])
        raise AssertionError("not mapped")

    assert table.sum() == numbers.sum()
    full = resident()
    assert full >= 8192
    pages.looked_up(mapped_pages._PLACES - 1)
    assert resident() == full
    pages.looked_up(1)
    assert resident() == 0
    pages.will_walk(slice(5, 1 << 19))
    assert table.sum() == numbers.sum()
