"""The model zoo's files: where they are, and YAML as settings by dotted name, each with its file and line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import ConfigError

# Of YAML 1.2's core schema. PyYAML's own rules are those of 1.1, for which 1e-3 is text, `no` is false, 1:30 is 90
# and 010 is 8. Here these are a number, and three texts, which no field wants where a number belongs.
_PLAIN = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(0|[1-9][0-9]*)(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
)


class Setting(NamedTuple):
    """A value and where it was set, in words such as ``model_zoo_configs/base.yaml, line 7``."""

    value: Any
    origin: str


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read here", problem_mark=mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either set of rules reads as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list_node(dumper: _Dumper, values: list) -> yaml.Node:
    on_one_line = not any(isinstance(value, str) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=on_one_line)


_Dumper.add_representer(list, _list_node)
for _name, _pattern, _first in _PLAIN:
    for _class in (_Loader, _Dumper):
        _firsts = [*_first.replace("\0", ""), *([""] if "\0" in _first else [])]
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _firsts)


def read_file(path: Path, name: str) -> dict[str, Setting]:
    """Read a file's settings by dotted name.

    Parameters
    ----------
    path : pathlib.Path
        A YAML mapping of mappings.
    name : str
        What to call the file in messages.

    Returns
    -------
    dict of str to Setting
        Mappings are taken apart, ``{config: {weight: 0.1}}`` is ``config.weight``; an empty section has no entry.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not a YAML mapping, or has a key twice; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise ConfigError(f"{name}: cannot be read ({reason}); give the path of a YAML file.") from None
    return _read(text, name, prefix="", lines=True)


def read_assignment(text: str) -> dict[str, Setting]:
    """Read ``dotted.name=value`` as of ``-o``; the value is YAML.

    Raises
    ------
    ConfigError
        If there is no ``=``, no name or no YAML behind it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"-o {text} is not KEY=VALUE; write for instance -o config.weight=0.2.")
    return _read(value, f"-o {text}", prefix=key.strip(), lines=False)


def dump(values: Mapping[str, Any], *, width: float = 110) -> str:
    """Return plain values as YAML that `read_file` reads as the same values; lists of numbers stand on one line."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)


def _read(text: str, name: str, *, prefix: str, lines: bool) -> dict[str, Setting]:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            root = yaml.ScalarNode("tag:yaml.org,2002:null", "", yaml.Mark(name, 0, 0, 0, "", 0))
        if not prefix and not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{name}: holds no `section:` with `key: value` lines below it; see model_zoo_configs.")
        found: dict[str, Setting] = {}
        for key, node in _leaves(root, prefix, name, lines):
            found[key] = Setting(loader.construct_object(node, deep=True), _origin(name, node, lines))
        return found
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if lines and error.problem_mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML ({error.problem}); correct it.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid YAML ({error}); correct it.") from None
    finally:
        loader.dispose()


def _leaves(node: yaml.Node, prefix: str, name: str, lines: bool) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the nodes that are not mappings, or are empty ones."""
    if not isinstance(node, yaml.MappingNode) or not node.value:
        yield prefix, node
        return
    first_line: dict[str, int] = {}
    for key_node, value_node in node.value:
        where = _origin(name, key_node, lines)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise ConfigError(f"{where}: a key is not plain text; write `key: value`.")
        dotted = f"{prefix}.{key_node.value}" if prefix else key_node.value
        if key_node.value in first_line:
            raise ConfigError(
                f"{where}: {dotted!r} is there twice (first in line {first_line[key_node.value]}); delete one."
            )
        first_line[key_node.value] = key_node.start_mark.line + 1
        yield from _leaves(value_node, dotted, name, lines)


def _origin(name: str, node: yaml.Node, lines: bool) -> str:
    return f"{name}, line {node.start_mark.line + 1}" if lines else name


FOLDER = "model_zoo_configs"
_SUFFIXES = (".yaml", ".yml")


def zoo_folder() -> Path:
    """Return the folder of the model zoo's files.

    An installed package has it inside; in a clone it lies beside the package.

    Raises
    ------
    ConfigError
        If it is in neither place.
    """
    package = Path(__file__).parents[1]
    for folder in (package / FOLDER, package.parent / FOLDER):
        if (folder / "base.yaml").is_file():
            return folder
    raise ConfigError(f"{FOLDER}/base.yaml is neither in {package} nor beside it; install the package again.")


def zoo_names(kind: str) -> list[str]:
    """Return the names of the files in ``models`` or ``data``, or of the settings beside ``base.yaml``."""
    folder = zoo_folder() / kind if kind != "settings" else zoo_folder()
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "base")


def find_file(kind: str, given: str) -> tuple[Path, str] | None:
    """Find the file that an argument means.

    Parameters
    ----------
    kind : {"models", "data", "settings"}
        What it is to describe.
    given : str
        A name in the zoo, or the path of a file of your own, which has a suffix.

    Returns
    -------
    (pathlib.Path, str) or None
        The file and what messages call it; None if the zoo has no such name.
    """
    if given.endswith(_SUFFIXES):
        return Path(given), given
    name = given.lower()
    if name not in zoo_names(kind):
        return None
    inner = f"{kind}/{name}.yaml" if kind != "settings" else f"{name}.yaml"
    return zoo_folder() / inner, f"{FOLDER}/{inner}"


def unknown_name(kind: str, given: str) -> ConfigError:
    """Return the error for a name that the zoo does not have."""
    names = zoo_names(kind)
    nearest = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.0)
    return ConfigError(
        f"the model zoo has no {given!r} under {kind}; did you mean {nearest[0]!r}? There are {', '.join(names)}. "
        "A file of your own is named by its path, which ends in .yaml."
    )
