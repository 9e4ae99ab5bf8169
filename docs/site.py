"""What the site adds to the pages of this folder, as hooks of MkDocs (mkdocs.yml).

README.md, CHANGELOG.md, CONTRIBUTING.md, the examples and the tutorials' notebooks become pages, with links that lead
to them. Formulas become MathML, which browsers show without a script. The build fails where a page would load anything
from elsewhere.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples/index.md",
}
_EXAMPLE = re.compile(r"\]\((?:\.\./)?((?:examples/)?)(\w+)\.py\)")
_TUTORIAL = re.compile(r"\]\(((?:\.\./|tutorials/)*)(\w+)\.ipynb\)")
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
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(str(path))
        pictures = {f"{path.stem}_{name}": picture for name, picture in resources["outputs"].items()}
        for name in resources["outputs"]:
            text = text.replace(f"]({name})", f"]({path.stem}_{name})")
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=picture))
        files.remove(files.src_uris[f"tutorials/{path.name}"])  # the notebook itself: the page has its name
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to examples and tutorials lead to their pages."""
    for source, target in PAGES.items():
        markdown = markdown.replace(f"]({source})", f"]({target})")
    return _TUTORIAL.sub(r"](\1\2.md)", _EXAMPLE.sub(r"](\1\2.md)", markdown))


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
