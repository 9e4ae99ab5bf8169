"""The table model of everything that is printed or shown: named rows of cells, as text, Markdown, LaTeX or HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_LEAST_WIDTH = 18  # of a text column, so that short tables below each other line up
_LATEX = str.maketrans(
    {
        **{sign: "\\" + sign for sign in "_%&#${}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
    }
)


@dataclass(frozen=True)
class Cell:
    """A text, and whether it is a difference whose interval leaves out zero."""

    text: str
    clear: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of named cells under headings.

    Attributes
    ----------
    head : str
        Heading of the row names.
    headings : list of str
        One a column.
    rows : list of (str, list of Cell)
        Name and cells.
    narrow : bool, default=False
        Text columns are as wide as their cells; else at least so wide that tables below each other line up.
    """

    head: str
    headings: list[str]
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)
    narrow: bool = False

    def add(self, name: str, texts: Sequence[str]) -> None:
        """Add a row of plain cells."""
        self.rows.append((name, [Cell(text) for text in texts]))


@dataclass(frozen=True)
class Sheet:
    """Tables of one thing: what was measured, the tables, and remarks on them."""

    caption: list[str]
    tables: list[Table]
    remarks: list[str] = field(default_factory=list)

    def write(self, form: str = "text") -> str:
        """Return the sheet in one of `FORMATS`; clear differences are bold, in text marked with ``*``."""
        return "\n".join(FORMATS[form](self))


def _text(sheet: Sheet) -> list[str]:
    lines = list(sheet.caption)
    for table in sheet.tables:
        lines += ["", *text_lines(table)]
    if any(cell.clear for table in sheet.tables for _, cells in table.rows for cell in cells):
        lines += ["", "* the interval leaves out zero"]
    elif sheet.remarks:
        lines.append("")
    return [*lines, *sheet.remarks]


def text_lines(table: Table) -> list[str]:
    """Return a table as lines of aligned text."""
    rows = [(table.head, table.headings)]
    rows += [(name, [cell.text + "*" * cell.clear for cell in cells]) for name, cells in table.rows]
    least, gap = (0, 2) if table.narrow else (_LEAST_WIDTH, 1)
    lead = max(least - 3, *(len(name) + gap for name, _ in rows))
    widths = [
        max(least, *(len(text) + gap for text in column)) for column in zip(*(texts for _, texts in rows), strict=True)
    ]
    return [
        (name.ljust(lead) + "".join(text.ljust(width) for text, width in zip(texts, widths, strict=True))).rstrip()
        for name, texts in rows
    ]


def _markdown(sheet: Sheet) -> list[str]:
    lines = [" ".join(sheet.caption)]
    for table in sheet.tables:
        lines += ["", _bars(table.head, table.headings), _bars("---", ["---:"] * len(table.headings))]
        for name, cells in table.rows:
            lines.append(_bars(name, [f"**{cell.text}**" if cell.clear else cell.text for cell in cells]))
    return [*lines, *([""] if sheet.remarks else []), *sheet.remarks]


def _bars(name: str, texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", r"\|") for text in [name, *texts]) + " |"


def _latex(sheet: Sheet) -> list[str]:
    lines = [f"% {line}" for line in [*sheet.caption, *sheet.remarks]]
    for table in sheet.tables:
        lines += ["", r"\begin{tabular}{l" + "r" * len(table.headings) + "}", r"\toprule"]
        lines += [_ampersands(table.head, [Cell(heading) for heading in table.headings]), r"\midrule"]
        lines += [_ampersands(name, cells) for name, cells in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
    return lines


def _ampersands(name: str, cells: list[Cell]) -> str:
    texts = [name.translate(_LATEX)]
    for cell in cells:
        text = cell.text.translate(_LATEX)
        texts.append(rf"\textbf{{{text}}}" if cell.clear else text)
    return " & ".join(texts) + r" \\"


def _html(sheet: Sheet) -> list[str]:
    lines = [f"<p>{html.escape(' '.join(sheet.caption))}</p>"]
    for table in sheet.tables:
        heads = "".join(f"<th>{html.escape(text)}</th>" for text in [table.head, *table.headings])
        lines += ["<table>", f"<thead><tr>{heads}</tr></thead>", "<tbody>"]
        for name, cells in table.rows:
            texts = [f"<b>{html.escape(cell.text)}</b>" if cell.clear else html.escape(cell.text) for cell in cells]
            lines.append(f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{text}</td>' for text in texts)}</tr>")
        lines += ["</tbody>", "</table>"]
    return [*lines, *(f"<p>{html.escape(remark)}</p>" for remark in sheet.remarks)]


FORMATS: dict[str, Callable[[Sheet], list[str]]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "html": _html,
}
"""Forms that a sheet can be written in."""
