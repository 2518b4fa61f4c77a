"""The pages of documentation name what is there: modules, files, commands, each other."""

from __future__ import annotations

import importlib
import operator
import re
import tomllib
from pathlib import Path

import pytest

import blockyard
import blockyard_faults.campaign
from tests.docs.markdown_pages import REPOSITORY, anchors, links, named, page, table

ARCHITECTURE = page("ARCHITECTURE.md")
PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"))
)
CAMPAIGN = REPOSITORY / "src" / "blockyard_faults" / "campaign"
POINTER = re.compile(r"docs/[\w/-]+\.md")


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


def listed_modules() -> list[str]:
    """The modules that the bullets of ARCHITECTURE.md name: a package, then its modules."""
    section = ARCHITECTURE.partition("## Modules")[2].partition("\nBeside the package")[0]
    found: list[str] = []
    for bullet in re.split(r"^- ", section, flags=re.MULTILINE)[1:]:
        package, *modules = named(bullet)
        root = "" if package.startswith("src/") else "src/blockyard"
        folder = Path(root, package)
        found += [(folder / f"{module}.py").as_posix() for module in modules]
    return found


def test_the_architecture_names_each_module_once() -> None:
    modules = [
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "src").rglob("*.py")
        if path.name != "__init__.py" or path.parent.parent.name == "src"
        if path.parent != CAMPAIGN
    ]
    assert sorted(listed_modules()) == sorted(modules)


def test_the_campaign_names_its_modules_itself() -> None:
    there = {path.stem for path in CAMPAIGN.glob("*.py")} - {"__init__", "__main__"}
    assert {name for name in named(blockyard_faults.campaign.__doc__ or "") if " " not in name} == (
        there
    )


@pytest.mark.parametrize(("name", "most"), [("README.md", 250), ("ARCHITECTURE.md", 150)])
def test_the_first_pages_stay_short(name: str, most: int) -> None:
    assert len(page(name).splitlines()) < most


def steps_of_a_read() -> list[tuple[str, list[str]]]:
    """Each step of the page on reading the code: its module, and the functions it names."""
    items = re.split(r"^\d+\. ", page("docs/reading-the-code.md"), flags=re.MULTILINE)[1:]
    return [
        (named(item)[0], [name[:-2] for name in named(item) if name.endswith("()")])
        for item in items
    ]


def test_the_page_on_reading_names_functions_that_are_there() -> None:
    steps = steps_of_a_read()
    assert len(steps) > 10
    for module, functions in steps:
        assert functions, module
        found = importlib.import_module(f"blockyard.{module[:-3].replace('/', '.')}")
        for function in functions:
            assert callable(operator.attrgetter(function)(found)), (module, function)


def test_what_the_architecture_points_to_is_there() -> None:
    text = ARCHITECTURE + page("CONTRIBUTING.md")
    paths = set(re.findall(r"`([\w/-]+/(?:[\w-]+\.(?:py|md))?)`", text))
    assert len(paths) > 15
    roots = (REPOSITORY, REPOSITORY / "src" / "blockyard", REPOSITORY / "docs")
    for path in paths:
        assert any((root / path).exists() for root in roots), path


def test_pages_that_the_code_points_to_are_there() -> None:
    modules = (REPOSITORY / "src").rglob("*.py")
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
