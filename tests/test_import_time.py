"""What `import blockyard` brings in, and what it waits with until a store is opened."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockyard
from blockyard import client, errors
from blockyard.testing.scripted import Receive, ScriptedServer
from tests.docs.markdown_pages import REPOSITORY

HEAVY = {"asyncio", "botocore", "crc32c", "email", "httptools", "ssl", "typer", "yaml"}


def imported_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_the_package_alone_is_light() -> None:
    loaded = imported_by("import blockyard")
    assert "blockyard.errors" in loaded
    assert not loaded & HEAVY
    assert len(loaded - imported_by("import dataclasses, datetime, typing")) < 10


OPENED: dict[str, set[str]] = {
    "memory://": {"blockyard.s3.store", "blockyard.stores.filesystem"},
    "file:///nowhere": {"blockyard.s3.store", "blockyard.stores.memory"},
    "s3://my-data?access_key=A&secret_key=B": {"blockyard.stores.filesystem", "difflib"},
}
"""What stores of other types, and errors, would need."""


@pytest.mark.parametrize("source", OPENED)
def test_an_open_store_has_what_its_single_calls_need(source: str) -> None:
    loaded = imported_by(f"import blockyard; blockyard.open_store({source!r}).close()")
    assert "blockyard.config" in loaded
    others = OPENED[source] | (HEAVY - {"httptools", "ssl"})
    assert not loaded & (others | {"blockyard.aio", "importlib.metadata", "typing_extensions"})


def test_a_single_call_needs_no_asyncio_and_many_at_once_do() -> None:
    body = [b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 3\r\n\r\nabc']
    with ScriptedServer([Receive(), *body]) as server:
        url = f"s3://bucket?endpoint={server.url}&force_path_style=true&anonymous=true"
        opened = f"import blockyard; store = blockyard.open_store({url!r})"
        loaded = imported_by(f"{opened}; assert store.read_block('k') == b'abc'; store.close()")
    assert not loaded & {"asyncio", "email", "blockyard.transport.background"}
    loaded = imported_by(
        "import blockyard; store = blockyard.open_store('memory://'); store.write_block('a', b'')\n"
        "print(store.read_blocks(['a']))"
    )
    assert {"asyncio", "blockyard.transport.background"} <= loaded


def test_botocore_is_not_needed_for_keys_in_the_environment() -> None:
    loaded = imported_by(
        "import os; os.environ |= {'AWS_ACCESS_KEY_ID': 'A', 'AWS_SECRET_ACCESS_KEY': 'B'}\n"
        "import blockyard; blockyard.open_store('s3://my-data').close()"
    )
    assert "botocore" not in loaded


def test_every_public_name_is_there() -> None:
    assert sorted(blockyard.__all__) == sorted(set(blockyard.__all__))
    for name in blockyard.__all__:
        assert getattr(blockyard, name) is not None
        assert name in dir(blockyard)


def test_every_error_is_public() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {name for name in defined if name.endswith("Error")} <= set(blockyard.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'blockyard' has no attribute 'open_stroe'"):
        _ = getattr(blockyard, "open_stroe")  # noqa: B009


def test_modules_that_are_imported_late_are_seen_by_what_looks_at_imports() -> None:
    """PyInstaller and its like find statements, those for type checkers too, but no names."""
    package = REPOSITORY / "src" / "blockyard"
    by_name = [path for path in package.rglob("*.py") if "import_module(" in path.read_text()]
    # the suite for tests may want numpy, which need not be there
    assert set(by_name) == {
        package / name for name in ("__init__.py", "testing/samples.py", "transport/importing.py")
    }

    imported = re.compile(r'imported\("(.*)"\)')
    named = {name for path in package.rglob("*.py") for name in imported.findall(path.read_text())}
    named |= {*blockyard._LATER.values(), *(module for module, _ in client._LATER.values())}
    assert named <= {name for path in package.rglob("*.py") for name in imported_in(path)}


def imported_in(path: Path) -> Iterator[str]:
    """The modules of its import statements."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{each.name}" for each in node.names)


def test_a_first_read_needs_nothing_of_contents() -> None:
    loaded = imported_by(
        "import blockyard; store = blockyard.open_store('memory://')\n"
        "_ = store.write_block('a', b'b')\n"
        "assert store.read_block('a') == b'b'"
    )
    assert [n for n in loaded if n.startswith("blockyard.content.")] == ["blockyard.content.types"]
    assert "random" not in loaded


def test_a_handler_in_the_middle_of_a_late_import_makes_calls_of_its_own() -> None:
    """It finds no half of a module, whenever it comes."""
    program = """
import signal, blockyard
store = blockyard.open_store("memory://")
found = []
signal.signal(signal.SIGALRM, lambda *_: found.append(store.content_exists("other")))
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.002)
store.write_content("made", b"x" * 100_000)
while len(found) < 3:
    signal.pause()
signal.setitimer(signal.ITIMER_REAL, 0)
print(store.read_content("made") == b"x" * 100_000, set(found))
"""
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout == "True {False}\n"
