"""The parts of a page of documentation that tests look at: code, tables, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")


class Code(NamedTuple):
    """A fenced block; `line` is where it begins in its page, from 0."""

    text: str
    line: int


def page(name: str) -> str:
    """The text of a page, by its path in the repository."""
    return (REPOSITORY / name).read_text()


def fenced(text: str, language: str) -> list[Code]:
    """The fenced blocks of one language, in order."""
    return [
        Code(match[2], text.count("\n", 0, match.start(2)))
        for match in _FENCE.finditer(text)
        if match[1] == language
    ]


def prose(text: str) -> str:
    """A page without its fenced blocks, each line break a blank."""
    return " ".join(_FENCE.sub("", text).split())


def tables(text: str, first_heading: str) -> list[list[list[str]]]:
    """The rows of every table whose first column has that heading."""
    lines = text.split("\n")
    starts = [at for at, line in enumerate(lines) if line.startswith(f"| {first_heading} |")]
    return [list(_rows(lines[start + 2 :])) for start in starts]


def table(text: str, first_heading: str) -> list[list[str]]:
    """The rows of the one table whose first column has that heading."""
    [rows] = tables(text, first_heading)
    return rows


def named(cell: str) -> list[str]:
    """What stands in backticks in a cell."""
    return _CODE.findall(cell)


def links(text: str) -> list[str]:
    """Where the links of a page lead, those of its fenced blocks left out."""
    return _LINK.findall(_FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The names by which GitHub's headings can be linked to."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _rows(lines: list[str]) -> Iterator[list[str]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]
