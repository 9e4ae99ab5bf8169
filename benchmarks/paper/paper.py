"""What the paper printed, and how the runs here differ from its protocol; read from the YAML files beside."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

STRATA = ("all", "cold", "tail")
"""The columns of Table 3 in a domain: all test interactions, those of cold users, those of long-tail items."""


@dataclass(frozen=True)
class Paper:
    """Figures of the paper under the names of this package.

    Attributes
    ----------
    domains : mapping of str to str
        Name of a data set here -> the paper's name of the domain.
    backbones : mapping of str to str
        Name of a backbone here -> the paper's.
    frameworks : mapping of str to str
        Mode here -> the paper's name in Table 2.
    methods : mapping of str to str
        Mode here -> the paper's name in Table 3.
    table_1 : mapping of str to mapping of str to int
        Data set -> counts.
    table_2 : mapping of (str, str, str) to float
        Data set, backbone, mode -> AUC.
    ablated : str
        The backbone of Table 3.
    table_3 : mapping of (str, str, str) to float
        Data set, mode, stratum -> AUC.
    """

    domains: Mapping[str, str]
    backbones: Mapping[str, str]
    frameworks: Mapping[str, str]
    methods: Mapping[str, str]
    table_1: Mapping[str, Mapping[str, int]]
    table_2: Mapping[tuple[str, str, str], float]
    ablated: str
    table_3: Mapping[tuple[str, str, str], float]


@dataclass(frozen=True)
class ProtocolDifference:
    """A point in which runs here differ from the paper's, or in which the paper does not say what it did."""

    what: str
    paper: str
    here: str


@functools.cache
def paper_figures() -> Paper:
    """Read ``paper.yaml``."""
    content = _read("paper.yaml")
    domains, backbones, frameworks = (content[name] for name in ("domains", "backbones", "frameworks"))
    rows = content["table_3"]["rows"]
    return Paper(
        domains={here: theirs for theirs, here in domains.items()},
        backbones={here: theirs for theirs, here in backbones.items()},
        frameworks={here: theirs for theirs, here in frameworks.items()},
        methods={row["mode"]: row["method"] for row in rows},
        table_1={domains[domain]: counts for domain, counts in content["table_1"].items()},
        table_2={
            (data, backbones[backbone], frameworks[framework]): auc
            for backbone, part in content["table_2"].items()
            for framework, aucs in part.items()
            for data, auc in zip(domains.values(), aucs, strict=True)
        },
        ablated=backbones[content["table_3"]["backbone"]],
        table_3={
            (data, row["mode"], stratum): auc
            for row in rows
            for (data, stratum), auc in zip(
                ((data, stratum) for data in domains.values() for stratum in STRATA), row["auc"], strict=True
            )
        },
    )


@functools.cache
def protocol_differences() -> tuple[ProtocolDifference, ...]:
    """Read ``protocol.yaml``."""
    return tuple(ProtocolDifference(**entry) for entry in _read("protocol.yaml"))


def _read(name: str) -> Any:
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))
