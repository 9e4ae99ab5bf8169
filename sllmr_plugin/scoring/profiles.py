"""Profiles of users and items: who is shown beside whom, and the form of the answer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..datasets.content import Content
from ..datasets.interactions import Interactions
from ..errors import AnswerError, ConfigError
from ..scores.ids import encode_ids
from ..scores.reading import read_table
from .draws import id_keys, mix
from .requests import training_titles

FORM = "identity: a, b, c; interests: x, y, z"
_PROFILE = re.compile(r"\s*identity\s*:([^;:]+);\s*interests\s*:([^;:]+?)[.;]?\s*", re.IGNORECASE)
_MOST_ENTRIES = 10
_FACTORS = 32
_BLOCK = 512  # users whose cosines to all users are held at a time


def profile_format(max_words: int) -> str:
    """Say in words how to answer with a profile; a template's ``$answer_format``."""
    return (
        f'Answer with one JSON object and nothing else, of the form {{"text": "{FORM}"}}, with three to five short '
        f"entries of your own in place of the letters of each list, at most {max_words} words in all."
    )


def parse_profile(text: str) -> str:
    """Return a profile in its form, one blank behind each comma, or refuse it.

    Parameters
    ----------
    text : str
        A text that `parse_text` has read; upper case, blanks, and a full stop at the end do not matter.

    Raises
    ------
    AnswerError
        If it does not hold to the form, a list is empty or longer than ten, or it is the form itself.

    Examples
    --------
    >>> parse_profile("Identity: PC player,collector; Interests: chess , puzzles.")
    'identity: PC player, collector; interests: chess, puzzles'
    """
    found = _PROFILE.fullmatch(text)
    lists = [[" ".join(entry.split()) for entry in part.split(",")] for part in found.groups()] if found else []
    if not lists or any(not all(entries) or len(entries) > _MOST_ENTRIES for entries in lists):
        raise AnswerError(
            f"the text is not of the form {FORM}. Write these two words, each with a colon and a list of 1 to "
            f"{_MOST_ENTRIES} short entries with commas between, and one semicolon between the lists."
        )
    identity, interests = (", ".join(entries) for entries in lists)
    profile = f"identity: {identity}; interests: {interests}"
    if profile.casefold() == FORM:
        raise AnswerError("the text is a form that is not filled in. Write entries of your own in place of letters.")
    return profile


def nearest_users(data: Interactions, users: np.ndarray, most: int) -> list[list[int]]:
    """Find the users whose training interactions are most like those of others.

    The matrix of training positives, each divided by the root of the counts of its user and its item, is factorised by
    a truncated singular value decomposition (32 factors); nearest is the highest cosine of the users' factors. Cosines
    are compared with six digits and ties go to the lower code, so that the same data give the same prompts.

    Parameters
    ----------
    data : Interactions
        Nothing that is held out is looked at.
    users : ndarray
        (n,) codes.
    most : int
        Users wanted of each, at most; only those with a training positive, and never the user.

    Returns
    -------
    list of list of int
        Codes, the nearest first.
    """
    # Imported here: the command line's help, and workers of scoring, do without SciPy.
    from scipy import sparse
    from scipy.sparse.linalg import svds

    taken = data.train[data.train["label"] == 1].drop_duplicates(["user", "item"])
    user, item = (taken[name].to_numpy() for name in ("user", "item"))
    degrees = np.sqrt(np.bincount(user)[user] * np.bincount(item)[item])
    matrix = sparse.csr_matrix((1 / degrees, (user, item)), shape=(data.n_users + 1, data.n_items + 1))
    k = min(_FACTORS, data.n_users, data.n_items)
    left, values, _ = svds(matrix, k=k, v0=np.ones(min(matrix.shape)), solver="arpack")
    factors = left * values
    length = np.linalg.norm(factors, axis=1, keepdims=True)
    factors = factors / np.where(length > 0, length, 1)
    with_history = np.unique(user)
    found = []
    for start in range(0, len(users), _BLOCK):
        part = users[start : start + _BLOCK]
        cosine = np.round(factors[part] @ factors[with_history].T, 6) + 0.0
        cosine[part[:, None] == with_history[None, :]] = -np.inf
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :most]
        found += [
            [int(with_history[place]) for place in places if cosine[row, place] > -np.inf]
            for row, places in enumerate(order)
        ]
    return found


def titles_beside(data: Interactions, users: np.ndarray, most: int, length: int) -> list[tuple[tuple[str, ...], ...]]:
    """Return, for (n,) users, the training titles of their nearest users (`nearest_users`), each oldest first."""
    near = nearest_users(data, users, most)
    wanted = np.unique([code for codes in near for code in codes]).astype(np.int64)
    titles = dict(zip(wanted.tolist(), training_titles(data, wanted, length), strict=True))
    return [tuple(titles[code] for code in codes if titles[code]) for codes in near]


@dataclass(frozen=True, eq=False)
class UserProfiles:
    """Profiles of users that profiles of items are made of, by user code.

    Attributes
    ----------
    texts : mapping of int to str
        User code -> profile.
    """

    texts: Mapping[int, str]

    @classmethod
    def read(cls, source: str | os.PathLike[str] | pd.DataFrame | None, data: Interactions) -> UserProfiles:
        """Read a text table with texts of kind user_profile, or, without any, of kind user.

        Raises
        ------
        ConfigError
            If there is no table, or it has neither; the message names the command that writes one.
        """
        remedy = (
            "Run sllmr texts --kind user_profile --out profiles.parquet first, then --kind item_profile --profiles "
            "profiles.parquet (profiles= in Python)."
        )
        if source is None:
            raise ConfigError(f"profiles of items are made of the profiles of users, and there are none. {remedy}")
        table = read_table(source, "profiles")
        table.require_columns(["kind", "id", "text"])
        frame = pd.DataFrame({"kind": table.frame["kind"], "id": table.texts("id"), "text": table.texts("text")})
        frame["user"] = encode_ids(frame["id"], data.user_index, what="user id", written=True)
        frame = frame[(frame["user"] > 0) & frame["text"].str.strip().ne("")]
        kind = "user_profile" if (frame["kind"] == "user_profile").any() else "user"
        texts = frame[frame["kind"] == kind].drop_duplicates("user")
        if texts.empty:
            raise ConfigError(f"{table.name} has no texts of kind user_profile of these users. {remedy}")
        return cls(dict(zip(texts["user"].tolist(), texts["text"].tolist(), strict=True)))


def profiles_beside(
    data: Interactions, profiles: UserProfiles, most: int, described: list[str]
) -> list[tuple[tuple[str, ...], ...]]:
    """Return, for every item of the catalogue, what its profile is written from.

    Parameters
    ----------
    data : Interactions
        Only training positives are looked at.
    profiles : UserProfiles
        Of users.
    most : int
        Users of an item, or items like it, at most.
    described : list of str
        (n_items,) title and attributes of each item, "" without a title, in the order of the codes.

    Returns
    -------
    list of tuple of tuple of str
        In the order of the codes: ``(profile,)`` of a user with the item in training, drawn by hash; of an item that no
        such user has, ``(title, profile)`` of a user of an item like it by the words of title and attributes (TF-IDF
        cosine), the most similar first. Empty where there is neither.
    """
    assert data.titles is not None
    taken = data.train.loc[data.train["label"] == 1, ["user", "item"]].drop_duplicates()
    taken = taken[taken["user"].isin(profiles.texts.keys())]
    user, item = (taken[name].to_numpy() for name in ("user", "item"))
    of_users = id_keys(data.user_ids, seed=0, purpose=12)[user - 1]
    key = mix(of_users ^ id_keys(data.item_ids, seed=0, purpose=13)[item - 1])
    ordered = taken.assign(key=key).sort_values("key", kind="stable")
    drawn = ordered.groupby("item")["user"].apply(lambda users: users.head(most).tolist()).to_dict()
    beside: list[tuple[tuple[str, ...], ...]] = [
        tuple((profiles.texts[code],) for code in drawn.get(number + 1, [])) for number in range(data.n_items)
    ]
    without = [number for number in range(data.n_items) if number + 1 not in drawn and described[number]]
    if without and drawn:
        vectors = Content.of(data, described).items
        known = np.array(sorted(drawn))
        titles = data.titles.tolist()
        for start in range(0, len(without), _BLOCK):
            part = np.array(without[start : start + _BLOCK])
            cosine = np.round((vectors[part + 1] @ vectors[known].T).toarray().astype(np.float64), 6)
            order = np.argsort(-cosine, axis=1, kind="stable")[:, :most]
            for row, number in enumerate(part.tolist()):
                like = [int(known[place]) for place in order[row] if cosine[row, place] > 0]
                beside[number] = tuple((titles[code - 1], profiles.texts[drawn[code][0]]) for code in like)
    return beside


def describe(data: Interactions, attributes: pd.DataFrame | None) -> list[str]:
    """Return title and attributes of each item as one text, (n_items,); "" for an item without a title."""
    assert data.titles is not None
    values = [[]] * data.n_items if attributes is None else attributes.to_numpy().tolist()
    return [
        " ".join([title, *own]) if title.strip() else ""
        for title, own in zip(data.titles.tolist(), values, strict=True)
    ]
