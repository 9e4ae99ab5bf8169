"""Cells that hold several values, and names of columns that say how they are separated."""

from __future__ import annotations

# Words for characters that a shell or a list of names reads otherwise.
_SEPARATORS = {"space": None, "comma": ",", "pipe": "|"}


def column_and_separator(name: str) -> tuple[str, str | None, bool]:
    """Read ``COLUMN`` or ``COLUMN:SEPARATOR``.

    Parameters
    ----------
    name : str
        The words ``space``, ``comma`` and ``pipe`` stand for these characters.

    Returns
    -------
    tuple of (str, str or None, bool)
        The column, what separates its values (None: any blanks), and whether it has several. A name without a column
        or without the separator that it announces has the column "".
    """
    column, several, separator = name.partition(":")
    if several and not separator:
        return "", None, True
    return column, _SEPARATORS.get(separator, separator), bool(several)


def parts(text: str, separator: str | None) -> list[str]:
    """Return the different values of a cell, in its order."""
    return list(dict.fromkeys(part.strip() for part in text.split(separator) if part.strip()))
