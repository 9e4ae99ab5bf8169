"""Profiles of users in RecLM's form: read from a text table, and taken apart."""

from __future__ import annotations

import os
import re

import pandas as pd

from ..errors import TextTableError
from ..scores.reading import read_table

KIND = "user_profile"
#: How a profile is written (RecLM, Appendix 6.6).
FORM = "identity: a, b, c; interests: x, y, z"
_FORM = re.compile(r"\s*identity\s*:\s*(?P<identity>.*?)\s*;\s*interests\s*:\s*(?P<interests>.*?)\s*", re.I | re.DOTALL)


def read_profiles(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the profiles of a text table.

    Parameters
    ----------
    path : path
        ``kind, id, text``, as ``sllmr texts`` writes it; rows of other kinds than user_profile are passed over.

    Returns
    -------
    dict of str to str
        Raw user id, as text, -> profile on one line.

    Raises
    ------
    TextTableError
        If the table cannot be read, has no profile, or one is not of the `FORM`.
    """
    table = read_table(path, "texts", error=TextTableError)
    table.require_columns(["kind", "id", "text"])
    ids, texts = table.texts("id"), table.texts("text")
    wanted = (table.frame["kind"] == KIND).to_numpy()
    if not wanted.any():
        raise TextTableError(
            f"{table.name} has no text of kind {KIND}. Have profiles of users written, in the form '{FORM}'."
        )
    strange = wanted & ~pd.Series(texts).map(lambda text: bool(_FORM.fullmatch(text))).to_numpy()
    table.refuse(strange, "text", f"write it as '{FORM}', or leave the row out", problem="which is not a profile")
    return {id: " ".join(text.split()) for id, text, take in zip(ids, texts, wanted, strict=True) if take}


def parts(profile: str) -> tuple[str, str]:
    """Return a profile's identities and interests, each as it is written.

    Raises
    ------
    TextTableError
        If it is not of the `FORM`.

    Examples
    --------
    >>> parts("identity: student; interests: chess, puzzles")
    ('student', 'chess, puzzles')
    """
    found = _FORM.fullmatch(profile)
    if found is None:
        raise TextTableError(f"{profile!r} is not a profile. Write it as '{FORM}'.")
    return found["identity"], found["interests"]
