"""The reference pages of the documentation name every public object, and nothing that is not there."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sllmr_plugin"
DIRECTIVES = re.findall(
    r"^::: (\S+)$", "\n".join(page.read_text() for page in sorted(ROOT.glob("docs/reference/*.md"))), re.MULTILINE
)


def public_modules():
    """Modules that declare `__all__`, in whatever block."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(r"^\s*__all__\s*[:=]", path.read_text(encoding="utf-8"), re.MULTILINE):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def resolve(name):
    """The object of a dotted name; a module stands for itself."""
    owner, _, last = name.rpartition(".")
    module = import_module(owner)
    return getattr(module, last) if hasattr(module, last) else import_module(name)


def documented():
    """Ids of all objects on the reference pages: those named, and the public ones defined in a module that is named."""
    found = {}
    for name in DIRECTIVES:
        value = resolve(name)
        found[id(value)] = value
        if name == getattr(value, "__name__", ""):  # a module
            own = [part for part in vars(value).values() if getattr(part, "__module__", "") == name]
            found |= {id(part): part for part in own}
    return found


def test_public_modules_are_found():
    found = list(public_modules())
    assert {"sllmr_plugin", "sllmr_plugin.scoring", "sllmr_plugin.regularizer.gates"} <= set(found)
    assert "sllmr_plugin.backends" not in found


@pytest.mark.parametrize("module", list(public_modules()))
def test_every_public_name_is_on_a_reference_page(module):
    public, pages = import_module(module), documented()
    assert [name for name in public.__all__ if id(getattr(public, name)) not in pages] == []


def test_no_object_is_on_the_pages_twice():
    assert sorted(name for name in set(DIRECTIVES) if DIRECTIVES.count(name) > 1) == []
    objects = [id(resolve(name)) for name in DIRECTIVES]
    assert len(objects) == len(set(objects))


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"([\w/]+\.md)$", navigation, re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    tutorials = {f"tutorials/{path.stem}.md" for path in ROOT.glob("docs/tutorials/*.ipynb")}
    assert listed == pages | tutorials | {"index.md", "contributing.md", "changelog.md"}
