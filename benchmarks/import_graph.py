"""Which modules of a package import which: read from the source, in any form of import.

The architecture test checks these arrows against the layers, and `journeys.py` counts them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arrow:
    """One import: `source` imports `target`, both dotted names within the package ("" is the package itself)."""

    source: str
    target: str
    name: str  # what is imported from there, "" if it is the module itself
    line: int
    deferred: bool  # within a function, or for type checkers only: it does not run when the module is imported


def module_name(path: Path, package: Path) -> str:
    """Return the dotted name of a file within its package; a folder's name is that of its ``__init__.py``."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package: Path) -> dict[str, Path]:
    """Return dotted name -> file of all modules, however deep their folders."""
    return {module_name(path, package): path for path in sorted(package.rglob("*.py"))}


def arrows(package: Path) -> list[Arrow]:
    """Return every import of one of the package's own modules, anywhere in its files.

    A name that is imported from the package itself (``from sllmr_plugin import wrap``) is an arrow to the module that
    the name comes from, as far as the package's ``__init__.py`` shows it.
    """
    known = modules(package)
    face = _names_of_the_face(package, known)
    found = []
    for name, path in known.items():
        for line, target, imported, deferred in _imports(path, package):
            inside = f"{target}.{imported}".strip(".") if imported else target
            if inside in known:
                target, imported = inside, ""
            elif not target:
                target = face.get(imported, "")
            if target != name:
                found.append(Arrow(name, target, imported, line, deferred))
    return found


def _names_of_the_face(package: Path, known: dict[str, Path]) -> dict[str, str]:
    """Return public name -> module, read from the imports of the package's ``__init__.py``."""
    face = {}
    if "" in known:
        for node in ast.walk(ast.parse(known[""].read_text())):
            if isinstance(node, ast.ImportFrom):
                target = _absolute(node.module, node.level, known[""], package)
                if target is not None:
                    face.update({alias.asname or alias.name: target for alias in node.names})
    return face


def _imports(path: Path, package: Path) -> Iterator[tuple[int, str, str, bool]]:
    """Yield line, module, imported name ("" if a whole module) and whether it is deferred."""
    tree = ast.parse(path.read_text(), str(path))
    deferred = _deferred(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                target = _absolute(alias.name, 0, path, package)
                if target is not None:
                    yield node.lineno, target, "", id(node) in deferred
        elif isinstance(node, ast.ImportFrom):
            target = _absolute(node.module, node.level, path, package)
            if target is not None:
                for alias in node.names:
                    yield node.lineno, target, alias.name, id(node) in deferred
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = getattr(node.args[0], "value", None) if node.args else None
            if called in ("import_module", "__import__") and isinstance(name, str):
                level = len(name) - len(name.lstrip("."))
                target = _absolute(name[level:] or None, level, path, package)
                if target is not None:
                    yield node.lineno, target, "", id(node) in deferred


def _absolute(module: str | None, level: int, path: Path, package: Path) -> str | None:
    """Return a module's dotted name within the package, None if it lies outside."""
    if level:
        folder = path.relative_to(package).parent.parts  # one dot is the folder that the file lies in
        return ".".join([*folder[: len(folder) - level + 1], *([module] if module else [])])
    parts = (module or "").split(".")
    return ".".join(parts[1:]) if parts[0] == package.name else None


def _deferred(tree: ast.Module) -> set[int]:
    """Return the ids of all nodes that do not run when the module is imported."""
    found: set[int] = set()
    for node in ast.walk(tree):
        bodies: list[ast.stmt] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            bodies = node.body
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            bodies = node.body
        found.update(id(inner) for statement in bodies for inner in ast.walk(statement))
    return found


# ---------------------------------------------------------------------- seen from the street


def room_of(module: str, known: dict[str, Path]) -> str:
    """Return the folder that a module lies in, or the module itself if it lies in the package's root."""
    folder = module if module and known[module].name == "__init__.py" else module.rpartition(".")[0]
    return folder or module


@dataclass(frozen=True)
class Street:
    """A package's rooms, the arrows between them, and on which floor each stands."""

    floor: dict[str, int]  # room -> floor, counted from 0; a room stands above all that it imports
    arrows: set[tuple[str, str]]
    upward: set[tuple[str, str]]  # the arrows that close a cycle; they were left out to find the floors

    @property
    def floors(self) -> int:
        """Return how many rooms the longest chain of imports has."""
        return 1 + max(self.floor.values(), default=-1)


def street(package: Path) -> Street:
    """Return the rooms of a package and how they stand.

    The package's own ``__init__.py`` and ``__main__.py`` are the door, no rooms: they may import all, and all may ask
    them for the version. Of the arrows on a cycle the one with the fewest import statements is called upward (among
    equals, those that are deferred first), until no cycle is left.
    """
    known = modules(package)
    inside = [name for name in known if name not in ("", "__main__")]
    weight: dict[tuple[str, str], list[int]] = {}
    for arrow in arrows(package):
        if arrow.source in inside and arrow.target in inside:
            pair = room_of(arrow.source, known), room_of(arrow.target, known)
            if pair[0] != pair[1]:
                count = weight.setdefault(pair, [0, 0])
                count[arrow.deferred] += 1
    rooms = {room_of(name, known) for name in inside}
    left = dict(weight)
    upward = set()
    while cycle := _on_a_cycle(rooms, set(left)):
        worst = min(cycle, key=lambda pair: (*left[pair], pair))
        upward.add(worst)
        del left[worst]
    floor: dict[str, int] = {}

    def stand(room: str) -> int:
        if room not in floor:
            floor[room] = 1 + max((stand(target) for source, target in left if source == room), default=-1)
        return floor[room]

    for room in sorted(rooms):
        stand(room)
    return Street(floor, set(weight), upward)


def _on_a_cycle(rooms: set[str], pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the arrows that a cycle goes through."""
    reach = {room: {target for source, target in pairs if source == room} for room in rooms}
    for middle in rooms:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    return {(source, target) for source, target in pairs if source in reach[target]}
