"""Writes what was reproduced: ``reproduction.md``, ``.tex``, ``.txt`` and ``.json``, and the figure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sllmr_plugin.errors import RunFolderError
from sllmr_plugin.evaluation.plots import save
from sllmr_plugin.evaluation.report.sentences import texts_told
from sllmr_plugin.evaluation.run import replace_nan
from sllmr_plugin.evaluation.store import write_json, write_whole
from sllmr_plugin.evaluation.tables import Sheet

from .figure import draw_figure_2
from .paper import paper_figures, protocol_differences
from .reproduction import Reproduction
from .results import DataResults
from .tables import figure_2, table_2, table_3

_FORMS = {"text": "txt", "markdown": "md", "latex": "tex"}
_TITLE = "The paper's tables, reproduced"
FIGURE = "figure2.png"


def write_documents(
    out: Path, reproduction: Reproduction, found: Sequence[DataResults], *, command: str, not_made: Sequence[str]
) -> str:
    """Write the tables beside the paper's figures, in every form.

    Parameters
    ----------
    out : pathlib.Path
        Gets ``reproduction.md``, ``tables.txt``, ``tables.tex``, ``reproduction.json`` and, if it is asked for,
        ``figure2.png``.
    reproduction : Reproduction
        What was asked for.
    found : sequence of DataResults
        Finished runs.
    command : str
        What makes all this again.
    not_made : sequence of str
        Runs that failed or were skipped, and why.

    Returns
    -------
    str
        The tables as text.
    """
    tables = _tables(reproduction, found)
    texts = {form: "\n\n\n".join(table.write(form) for table in tables) + "\n" for form in _FORMS}
    figure = draw_figure_2(found, reproduction) if reproduction.has_figure_2 else None
    page = _page(reproduction, found, texts["markdown"], command, not_made, figure is not None)
    try:
        if figure is not None:
            save(figure, out / FIGURE)
        for name, text in (("tables.txt", texts["text"]), ("tables.tex", texts["latex"]), ("reproduction.md", page)):
            write_whole(out / name, functools.partial(_write_text, text))
        write_json(out / "reproduction.json", _content(reproduction, found, command, not_made))
    except OSError as error:
        raise RunFolderError(f"{out}: cannot be written ({error}); choose another folder.") from None
    return texts["text"]


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _tables(reproduction: Reproduction, found: Sequence[DataResults]) -> list[Sheet]:
    wanted: list[tuple[bool, Callable[[DataResults, Reproduction], Sheet]]] = [
        (2 in reproduction.tables, table_2),
        (reproduction.has_table_3, table_3),
        (reproduction.has_figure_2, figure_2),
    ]
    return [lay_out(results, reproduction) for is_wanted, lay_out in wanted if is_wanted for results in found]


def protocol_lines() -> list[str]:
    """Return a line for each point in which the runs differ from the paper's, or in which the paper is silent."""
    return [f"{entry.what}: paper: {entry.paper}. Here: {entry.here}." for entry in protocol_differences()]


def data_lines(results: DataResults) -> list[str]:
    """Return what holds of the runs on a data set and must be known to read their figures."""
    paper, inputs, first = paper_figures(), results.inputs or {}, results.first
    lines = []
    counts = inputs.get("interactions", {})
    if counts:
        total = counts["train"] + counts["validation"] + counts["test"]
        lines.append(f"{counts['users']} users, {counts['items']} items, {total} interactions")
    rows = inputs.get("llm_cf")
    if rows:
        lines.append(
            f"counted as in Table 1: {rows['rows']} reviews, {rows['cold_rows']} of them cold, {rows['tail_items']} "
            "long-tail items"
        )
    theirs = paper.table_1.get(results.data)
    if theirs:
        lines.append(
            f"paper, Table 1: {theirs['users']} users, {theirs['items']} items, {theirs['reviews']} reviews, "
            f"{theirs['cold_interactions']} of them cold, {theirs['tail_items']} long-tail items"
        )
    else:
        lines.append("no domain of the paper, so there is nothing of the paper's to compare with")
    lines.append(_scores_line(inputs.get("origin", {}), bool(inputs.get("scores", {}).get("n_read"))))
    if results.texts:
        lines.append(texts_told(results.texts))
    if not first.n_cold:
        lines.append(
            "no test interaction is of a user with fewer than three training interactions; counted by the interactions "
            "before each row, as in the paper's Table 1, many are cold (--protocol llm-cf)"
        )
    if first.test_items:
        lines.append(f"ranking: against {first.test_items} items drawn for each user, where the paper ranks all")
    return lines


def _scores_line(origin: dict[str, Any], has_scores: bool) -> str:
    if not has_scores:
        return "scores: none of these runs read any"
    named = {
        "lexical": "similarity of titles (content scorer lexical), no language model",
        "attributes": "similarity of item attributes (content scorer attributes), no language model",
    }
    scorer = origin.get("scorer")
    made = named.get(str(scorer)) or origin.get("model") or scorer
    told = [str(text) for text in (made, origin.get("note")) if text]
    return f"scores: {'; '.join(told) or 'the table does not say who made them'}"


def _page(
    reproduction: Reproduction,
    found: Sequence[DataResults],
    tables: str,
    command: str,
    not_made: Sequence[str],
    has_figure: bool,
) -> str:
    lines = [f"# {_TITLE}", "", "```", command, "```", ""]
    lines += ['Columns that begin with "paper" are copied from the paper; all others were measured by these runs.', ""]
    if reproduction.assignments or reproduction.setting:
        keys = ", ".join(
            [*([f"setting {reproduction.setting}"] if reproduction.setting else []), *reproduction.assignments]
        )
        lines += [f"Set for all runs, in departure from the model zoo's base: {keys}.", ""]
    lines += ["## Data", ""]
    for results in found:
        lines += [f"**{results.data}**", "", *(f"- {line}" for line in data_lines(results)), ""]
    lines += ["## Tables", "", tables]
    if has_figure:
        lines += ["## Figure 2", "", f"![gains by backbone]({FIGURE})", ""]
    lines += ["## Differences in protocol", "", "As the model zoo's base has it, before anything is set otherwise:", ""]
    lines += ["| | paper | here |", "| --- | --- | --- |"]
    lines += [f"| {entry.what} | {entry.paper} | {entry.here} |" for entry in protocol_differences()]
    if not_made:
        lines += ["", "## Not made", "", *(f"```\n{reason}\n```" for reason in not_made)]
    return "\n".join(lines) + "\n"


def _content(
    reproduction: Reproduction, found: Sequence[DataResults], command: str, not_made: Sequence[str]
) -> dict[str, Any]:
    paper = paper_figures()
    return {
        "command": command,
        "request": asdict(reproduction),
        "data": {
            results.data: {
                "remarks": data_lines(results),
                "runs": [{"folder": str(run.folder), **result.to_json()} for run, result in results.runs],
                "levels": [level.to_json() for level in results.levels.values()],
                "differences": [
                    {**gain.to_json(), "clear": gain.clear}
                    for gain in (*results.gains.values(), *results.additions.values())
                ],
                **replace_nan(results.untrained),
                "paper": {
                    "table_1": paper.table_1.get(results.data),
                    "table_2": [
                        {"backbone": backbone, "mode": mode, "auc": auc}
                        for (data, backbone, mode), auc in paper.table_2.items()
                        if data == results.data
                    ],
                    "table_3": [
                        {"mode": mode, "stratum": stratum, "auc": auc}
                        for (data, mode, stratum), auc in paper.table_3.items()
                        if data == results.data
                    ],
                },
            }
            for results in found
        },
        "protocol": [asdict(entry) for entry in protocol_differences()],
        "not_made": list(not_made),
    }
