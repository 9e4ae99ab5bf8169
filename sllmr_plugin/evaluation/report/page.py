"""Writes the page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import RunFolderError
from ..hints import hints, size_in_points
from ..modes import Mode
from ..plots import region_name, save, svg_data_uri
from ..store import RunFolder, write_whole
from ..tables import Table
from . import figures, sections, sentences
from .summary import summarise


def write_report(folder: str | Path) -> Path:
    """Write a page about a run folder: one HTML file that needs nothing else, and its plots as PNG beside it.

    Nothing is trained. What the page shows is put into ``results.json`` under ``report``.

    Parameters
    ----------
    folder : path
        A run folder that `compare` has written; it may be unfinished.

    Returns
    -------
    Path
        ``report.html`` in the folder; the plots are in ``plots/``.

    Raises
    ------
    RunFolderError
        If the folder has no finished run, or cannot be read or written.
    """
    runs = RunFolder(folder, None)
    if not runs.runs:
        raise RunFolderError(f"{runs.path} holds no finished run; run sllmr compare with --out {runs.path} first.")
    summary = summarise(runs)
    runs.set_report(summary)
    page = _Page(runs.path)
    text = page.render(summary)
    path = runs.report_file
    try:
        page.write_plots()
        write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written ({error}); make the folder writable.") from None
    return path


class _Page:
    """Collects plots and tables for the template."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plots: list[figures.Plot] = []

    def render(self, summary: Mapping[str, Any]) -> str:
        """Return the page."""
        import jinja2
        import markupsafe

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("sllmr_plugin.evaluation.report"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        source = (resources.files(__package__) / "templates" / "sort.js").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")
        backbones = list(dict.fromkeys(run["backbone"] for run in summary["runs"]))
        return environment.get_template("page.html").render(
            title=f"{', '.join(backbones)}: training with LLM scores compared",
            folder=self._folder.resolve().name,
            version=__version__,
            script=markupsafe.Markup(source),
            script_hash=f"sha256-{digest}",  # the page runs this script and no other
            verdict=sentences.verdict(summary),
            first=self._block(figures.first_plots(summary), []),
            cost=sentences.cost(summary),
            examples=self._examples(summary),
            compared=sentences.compared(summary),
            modes=[(mode, Mode.of(mode).says) for mode in dict.fromkeys(run["mode"] for run in summary["runs"])],
            cautions=sentences.cautions(summary),
            headline=sentences.headline(summary["differences"]),
            certainty=sentences.certainty(summary["differences"]),
            differences=self._differences(summary),
            levels=self._block(
                figures.level_plots(summary),
                [("Mean AUC of interactions and seeds", sections.levels(summary["levels"]))],
            ),
            labelled=self._labelled(summary),
            sizes=[(size, name, self._gains(summary, size)) for size, name in sections.SIZES.items()],
            reliability=self._reliability(summary),
            gate_basis=sentences.gate_basis(summary),
            gate_map=self._block(figures.gate_map_plots(summary), []),
            gate=self._gate(summary),
            curves=self._curves(summary),
            coverage=sections.coverage(summary["inputs"]),
            origin=sections.origin(summary["inputs"]),
            runs=[("Every run", sections.runs(summary["runs"])), *self._pace(summary), *self._metrics(summary)],
            settings=sections.settings(summary["settings"]),
            versions=sections.versions(summary["versions"]),
        )

    def write_plots(self) -> None:
        """Write the plots that the page has, as PNG, instead of those written before."""
        place = self._folder / "plots"
        place.mkdir(exist_ok=True)
        for old in place.glob("*.png"):
            old.unlink()
        for plot in self._plots:
            save(plot.figure, place / f"{plot.name}.png")

    def _block(
        self, plots: Sequence[figures.Plot], tables: Sequence[tuple[str, Table]]
    ) -> dict[str, list[dict[str, Any]]]:
        self._plots.extend(plots)
        images = [
            {
                "src": svg_data_uri(plot.figure),
                "alt": plot.alt,
                "caption": plot.caption,
                "size": size_in_points(plot.figure),
                "hints": hints(plot.figure),
            }
            for plot in plots
        ]
        return {"plots": images, "tables": [{"caption": caption, "section": section} for caption, section in tables]}

    def _examples(self, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
        examples, found = summary["examples"], []
        runs = [run for run in examples.get("runs", []) if run["mode"] in figures.shown_modes(run["backbone"], summary)]
        for number, user in enumerate(examples.get("users", [])):
            ranked = [(run, run["ranked"][number]) for run in runs]
            found.append({**user, "table": sections.example(ranked)})
        return found if runs else []

    def _pace(self, summary: Mapping[str, Any]) -> list[tuple[str, Table]]:
        rows = summary["pace"]
        return [("Time of an epoch of training, without rankings", sections.pace(rows))] if rows else []

    def _metrics(self, summary: Mapping[str, Any]) -> list[tuple[str, Table]]:
        section = sections.metrics(summary["runs"])
        return [("Other metrics of every run", section)] if section.headings else []

    def _differences(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        rows = summary["differences"]
        tables = [("AUC minus that of the plain model", sections.differences(rows, "minus none"))] if rows else []
        for (baseline,), own in sections.grouped(summary["additions"], "baseline").items():
            table = sections.differences(own, f"minus {baseline}")
            tables.append((f"AUC minus that of {baseline}: what was added to it", table))
        return self._block(figures.difference_plots(summary), tables)

    def _labelled(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        rows = summary["labelled"]
        return self._block([], [("Mean AUC over labelled rows and seeds", sections.labelled(rows))] if rows else [])

    def _gains(self, summary: Mapping[str, Any], size: str) -> dict[str, Any]:
        rows = [row for row in summary["gains_by_size"] if row["stratum"] == size]
        tables = [
            (f"{backbone}: AUC minus that of the plain model", sections.gains(own, sections.SIZES[size]))
            for (backbone,), own in sections.grouped(rows, "backbone").items()
        ]
        return self._block(figures.gain_plots(summary, size), tables)

    def _reliability(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        if summary["reliability"] is None:
            return self._block([], [])
        regions = figures.coarse_regions(summary["reliability"]["regions"])
        tables = [("Pairs of a held-out item and a candidate, by region", sections.reliability(regions, region_name))]
        return self._block(figures.reliability_plots(summary), tables)

    def _gate(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        found = figures.gate_plots(summary)
        return self._block([plot for plot, _ in found], [(plot.caption, sections.gate(rows)) for plot, rows in found])

    def _curves(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        tables = [
            (backbone, sections.curves(own))
            for (backbone,), own in sections.grouped(summary["curves"], "backbone").items()
        ]
        return self._block(figures.curve_plots(summary), tables)
