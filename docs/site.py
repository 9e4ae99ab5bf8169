"""What the site adds to the pages of this folder, as hooks of MkDocs (mkdocs.yml).

README.md, CHANGELOG.md, CONTRIBUTING.md and the examples become pages, with links that lead to them. Formulas
become MathML, which browsers show without a script. The build fails where a page would load anything from elsewhere.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_EXAMPLE = re.compile(r"\]\((?:\.\./)?examples/(\w+)\.py\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_LOADS = re.compile(r'<(?:script|img|iframe|link(?![^>]*rel="canonical"))\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside this folder."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text.replace("](docs/", "](")))
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = f"# {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n"
        files.append(File.generated(config, f"examples/{path.stem}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to examples lead to their pages."""
    return _EXAMPLE.sub(r"](examples/\1.md)", markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Write formulas as MathML."""

    def mathml(match: re.Match[str]) -> str:
        return convert(unescape(match[2]), display="block" if match[1] == "div" else "inline")

    html = _FORMULA.sub(mathml, html)
    if "arithmatex" in html:
        raise PluginError(f"{page.file.src_uri}: a formula is not written as MathML")
    return html


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Fail where a page loads a script, style, font or image that is not the site's."""
    found = _LOADS.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} would load from elsewhere: {found[0]}")
    return output
