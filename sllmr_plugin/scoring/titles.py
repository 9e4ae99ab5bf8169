"""Titles are data: what a title may hold once it stands in a prompt."""

from __future__ import annotations

import functools
import re
import unicodedata

from .schema import has_meaning

UNTITLED = "(untitled)"

# With these gone a title that a model repeats, escaped or not, can neither open a JSON value, nor end the string that
# it stands in, nor spell a chat template's control token such as <|im_end|> or [INST], nor a tag of thoughts.
_INERT = str.maketrans(
    {"{": "(", "}": ")", "[": "(", "]": ")", '"': "''", "\\": "/", "<": "‹", ">": "›", "◁": "‹", "▷": "›"}
)

# Control, format (bidi, zero-width, tag), surrogate and private-use characters: nobody sees them, a model reads them.
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co"})
# Invisible, though their category is that of a letter or mark: joiners, fillers and variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\ufe00-\ufe0f\U000e0000-\U000e0fff]")


@functools.lru_cache(maxsize=65536)  # the same item is a candidate of many users
def clean_title(title: str, max_characters: int = 200) -> str:
    r"""Make a title harmless in a prompt and on a line of its own, changing no ordinary title.

    Compatibility forms are folded (NFKC: full-width brackets become brackets). Then braces and brackets become
    parentheses, a double quote two apostrophes, a backslash a slash, angle brackets their single-quote look-alikes;
    white space of any kind becomes one space; characters that cannot be seen go. A title that would be
    a label or key in an answer, such as ``9`` or ``score``, is put in quotes.

    Parameters
    ----------
    title : str
        Any string.
    max_characters : int, default=200
        Longer titles are cut, the last character that is left being an ellipsis.

    Returns
    -------
    str
        1 to `max_characters` characters on one line; ``(untitled)``, cut likewise, where nothing is left.

    Examples
    --------
    >>> clean_title('Doom [PS4]\n"Best" {"1": 1.0}')
    "Doom (PS4) ''Best'' (''1'': 1.0)"
    """
    spaced = " ".join(unicodedata.normalize("NFKC", title).split())
    if not (spaced.isascii() and spaced.isprintable()):
        spaced = _INVISIBLE.sub("", spaced)
        spaced = "".join(char for char in spaced if unicodedata.category(char) not in _INVISIBLE_CATEGORIES)
        spaced = " ".join(spaced.split())  # a character that went may have stood between two spaces
    clean = spaced.translate(_INERT) or UNTITLED
    if has_meaning(clean):
        clean = f"'{clean}'"
    return clean if len(clean) <= max_characters else clean[: max_characters - 1].rstrip() + "…"
