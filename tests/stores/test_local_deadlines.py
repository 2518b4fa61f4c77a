"""Deadlines of `file://` and `memory://`: looked at between the steps of every operation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockyard import DeadlineExceededError
from blockyard.model import MIB
from blockyard.stores import file_io
from blockyard.stores.base import Store
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, open_client
from blockyard.testing.samples import content

STORES: dict[str, Callable[[Path], Store]] = {
    "file": FilesystemStore,
    "memory": lambda _: MemoryStore(),
}
PASSED = 1e-9  # a deadline that has passed when the operation begins
DATA = content(200_000)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, client: Any, tmp_path: Path) -> Iterator[BlockStore]:
    with open_client(client, STORES[request.param](tmp_path / "root")) as opened:
        opened.store.write_block("a/b", DATA)
        opened.store.write_content("movie", DATA)
        yield opened.store


CALLS: dict[str, Callable[[BlockStore], object]] = {
    "write_block": lambda store: store.write_block("a/b", b"late"),
    "write_block if_absent": lambda store: store.write_block("new", b"late", if_absent=True),
    "write_blocks": lambda store: store.write_blocks([("new", b"late")]),
    "read_block": lambda store: store.read_block("a/b"),
    "read_block_into": lambda store: store.read_block_into("a/b", bytearray(len(DATA))),
    "read_block_range": lambda store: store.read_block_range("a/b", 10, 10),
    "read_blocks": lambda store: store.read_blocks(["a/b", "a/b"]),
    "read_block_ranges": lambda store: store.read_block_ranges([("a/b", 1, 2)]),
    "stat_block": lambda store: store.stat_block("a/b"),
    "block_exists": lambda store: store.block_exists("a/b"),
    "copy_block": lambda store: store.copy_block("a/b", "new"),
    "delete_block": lambda store: store.delete_block("a/b"),
    "delete_blocks": lambda store: store.delete_blocks(["a/b"]),
    "delete_by_prefix": lambda store: store.delete_by_prefix("a/b"),
    "list_by_prefix": lambda store: store.list_by_prefix(),
    "iter_blocks": lambda store: list(store.iter_blocks()),
    "verify_by_prefix": lambda store: store.verify_by_prefix(),
    "health_check": lambda store: store.health_check(),
    "write_content": lambda store: store.write_content("movie", b"late"),
    "read_content": lambda store: store.read_content("movie"),
    "stat_content": lambda store: store.stat_content("movie"),
    "content_exists": lambda store: store.content_exists("movie"),
    "list_contents": lambda store: store.list_contents(),
    "copy_content": lambda store: store.copy_content("movie", "new"),
    "delete_content": lambda store: store.delete_content("movie"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_deadline_that_has_passed(store: BlockStore, call: str) -> None:
    late = store.with_options(deadline=PASSED)
    keys = store.list_by_prefix()
    with pytest.raises(DeadlineExceededError) as raised:
        CALLS[call](late)
    assert "the deadline of this call has passed" in str(raised.value)
    assert any(
        name in str(raised.value) for name in ("a/b", "new", "movie", f"{call} ''", "health")
    )
    assert store.list_by_prefix() == keys
    assert store.read_block("a/b") == DATA
    assert store.read_content("movie") == DATA


@pytest.fixture
def folder(client: Any, tmp_path: Path) -> Iterator[BlockStore]:
    with open_client(client, FilesystemStore(tmp_path / "root")) as opened:
        yield opened.store


def slowed(monkeypatch: pytest.MonkeyPatch, call: str, seconds: float) -> list[float]:
    """A disk that takes its time for each of these calls; when they began."""
    real = getattr(os, call)
    begun: list[float] = []

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.append(time.monotonic())
        time.sleep(seconds)
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, slow)
    return begun


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("slow", "call"),
    [
        ("write", lambda store: store.write_block("a", bytes(10 * MIB))),
        ("preadv", lambda store: store.read_block_into("large", bytearray(10 * MIB))),
        ("preadv", lambda store: store.read_block("large")),
        ("copy_file_range", lambda store: store.copy_block("large", "a")),
        (
            "unlink",
            lambda store: store.delete_blocks(
                [f"many/{n}" for n in range(20)], raise_on_failure=False
            ),
        ),
        ("stat", lambda store: store.list_by_prefix("many/")),
    ],
    ids=["write", "read into", "read", "copy", "delete", "list"],
)
def test_large_work_ends_at_the_deadline_or_a_step_later(
    folder: BlockStore, monkeypatch: pytest.MonkeyPatch, slow: str, call: Any
) -> None:
    folder.write_block("large", bytes(10 * MIB))
    folder.write_blocks([(f"many/{n:02}", b"") for n in range(20)])
    monkeypatch.setattr(file_io, "STEP", MIB)
    steps = slowed(monkeypatch, slow, 0.2)
    late = folder.with_options(deadline=0.5)
    if slow == "unlink":
        outcome = call(late)
        assert 0 < len(outcome.deleted) < 20 == len(outcome.deleted) + len(outcome.failed)
        assert all(isinstance(error, DeadlineExceededError) for error in outcome.failed.values())
    else:
        with pytest.raises(DeadlineExceededError):
            call(late)
    assert len(steps) < 5 or slow == "stat"
    assert not folder.block_exists("a")
    monkeypatch.undo()
    left = os.listdir(folder_of(folder) / ".blockyard")
    assert [name for name in left if not name.startswith("lock-")] == []


def folder_of(store: BlockStore) -> Path:
    return Path(store.health_check().store)


def test_a_write_that_is_late_replaces_nothing(
    folder: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_block("a", b"old")
    with monkeypatch.context() as patch:
        slowed(patch, "fsync", 0.3)
        with pytest.raises(DeadlineExceededError, match="write_block 'a'"):
            folder.with_options(deadline=0.2).write_block("a", b"new")
    assert folder.read_block("a") == b"old"


def test_pages_of_a_long_walk(folder: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_blocks([(f"{n % 7}/{n}", b"") for n in range(60)])
    slowed(monkeypatch, "listdir", 0.1)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="list_by_prefix ''"):
        folder.with_options(deadline=0.25).list_by_prefix()
    assert time.monotonic() - begun < 30
