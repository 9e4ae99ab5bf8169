"""The source of the documentation: lines that fit beside each other in a review."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("sllmr_plugin/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
)
LONGEST = 120


def too_long(text):
    """Numbers of lines that are too long and could be broken: not in tables, formulas, or what a command printed."""
    found, fence = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(```|\$\$)", line)
        if mark and not fence:
            # a formula on one line opens nothing
            fence = "" if mark[1] == "$$" and re.search(r".\$\$\W*$", line) else mark[1]
            continue
        if fence:
            is_end = line.strip().startswith(fence) or (fence == "$$" and "$$" in line)
            fence = "" if is_end else fence
            kept_whole = not re.match(r"\s*(sllmr|python|pip|torchrun|make) ", line)
        else:
            kept_whole = line.lstrip().startswith("|") or " " not in line.strip()
        if len(line) > LONGEST and not kept_whole:
            found.append(number)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_short(path):
    assert too_long(path.read_text(encoding="utf-8")) == []


def test_what_counts_as_too_long():
    long = "word " * 30
    lines = [long, "", f"| {long} |", "", "```", long, f"sllmr {long}", "```", long, f"$$ {long} $$", long]
    assert too_long("\n".join(lines)) == [1, 7, 9, 11]
    assert too_long("x" * 130) == []  # a link, say
