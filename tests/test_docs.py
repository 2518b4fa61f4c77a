"""The pages of documentation name what is there: modules, files, commands, each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from markdown_pages import REPOSITORY, anchors, fenced, links, named, page, table

import blockyard

ARCHITECTURE = page("ARCHITECTURE.md")
PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"))
)
POINTER = re.compile(r"docs/[\w/-]+\.md")
ENTRY = re.compile(r"( *)(\S+)(?: {2,}(\S.*))?")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    folder = (REPOSITORY / name).parent
    for link in links(page(name)):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = folder / target if target else REPOSITORY / name
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path.read_text()), link


def rooms() -> dict[str, str]:
    """The paths in the tree of ARCHITECTURE.md, with what is said of each."""
    [tree] = [code for code in fenced(ARCHITECTURE, "text") if code.text.startswith("src/")]
    found: dict[str, str] = {}
    above: list[str] = []
    for line in tree.text.splitlines():
        match = ENTRY.fullmatch(line)
        assert match, line
        depth = len(match[1]) // 2
        above[depth:] = [match[2].rstrip("/")]
        found["/".join(above)] = match[3] or ""
    return found


def test_the_tree_of_the_architecture_is_the_package() -> None:
    package = REPOSITORY / "src" / "blockyard"
    modules = {
        path.relative_to(REPOSITORY).as_posix()
        for path in package.rglob("*.py")
        if path.name != "__init__.py" or path.parent == package
    }
    folders = {Path(module).parent.as_posix() for module in modules}
    listed = rooms()
    assert set(listed) == modules | folders
    assert all(said for path, said in listed.items() if path != "src/blockyard")


def test_what_the_architecture_points_to_is_there() -> None:
    text = ARCHITECTURE + page("CONTRIBUTING.md")
    paths = set(re.findall(r"`([\w/-]+/(?:[\w-]+\.(?:py|md))?)`", text))
    assert len(paths) > 15
    roots = (REPOSITORY, REPOSITORY / "src" / "blockyard", REPOSITORY / "docs")
    for path in paths:
        assert any((root / path).exists() for root in roots), path


def test_pages_that_the_code_points_to_are_there() -> None:
    modules = (REPOSITORY / "src" / "blockyard").rglob("*.py")
    named_in_code = {each for path in modules for each in POINTER.findall(path.read_text())}
    assert named_in_code
    assert [name for name in named_in_code if not (REPOSITORY / name).exists()] == []


def test_the_index_of_decisions_has_every_page() -> None:
    folder = REPOSITORY / "docs" / "decisions"
    listed = [link for link in links(page("docs/decisions/README.md")) if "/" not in link]
    there = [path.name for path in folder.glob("*.md") if path.name != "README.md"]
    assert sorted(listed) == sorted(there)


def test_every_dependency_of_users_has_a_page() -> None:
    project = tomllib.loads(page("pyproject.toml"))["project"]
    names = packages(project["dependencies"], *project["optional-dependencies"].values())
    decided = " ".join(path.name for path in (REPOSITORY / "docs" / "decisions").iterdir())
    assert [name for name in names - {"blockyard"} if name.lower() not in decided] == []


def test_every_dependency_of_development_has_a_line() -> None:
    groups = tomllib.loads(page("pyproject.toml"))["dependency-groups"]
    rows = table(page("docs/decisions/development.md"), "package")
    assert {name for row in rows for name in named(row[0])} == packages(*groups.values())


def packages(*requirements: list[str]) -> set[str]:
    """The names in lists of requirements."""
    return {re.split(r"[\[<>=]", each)[0] for asked in requirements for each in asked}


def test_the_commands_for_contributors_are_there() -> None:
    rows = table(page("CONTRIBUTING.md"), "command")
    makefile = page("Makefile")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    asked = {name.removeprefix("make ") for row in rows for name in named(row[0])}
    assert asked
    assert asked <= targets
    public = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert public
    assert set(public[1].split()) - asked == {"help"}


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", page("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == blockyard.__version__
