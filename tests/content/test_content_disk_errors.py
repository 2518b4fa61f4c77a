"""Contents in a folder whose disk fails after a change was made: the old one or the new, whole."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from blockyard import (
    BlockNotFoundError,
    BlockStore,
    LocalStorageError,
    PartialDeleteError,
    open_store,
    syscalls,
)
from tests.content.test_content_requests import NEW, OLD, OPERATIONS, Operation


class FailingSync:
    """Syncs of folders, of which the `nth` fails."""

    def __init__(self, nth: int) -> None:
        self.calls = 0
        self._nth = nth

    def __call__(self, folder: int) -> None:
        self.calls += 1
        if self.calls == self._nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def now(store: BlockStore) -> bytes | None:
    with suppress(BlockNotFoundError):
        return store.read_content("film")
    return None


@pytest.mark.parametrize(
    ("operation", "replaces", "allowed"), OPERATIONS.values(), ids=OPERATIONS.keys()
)
def test_one_sync_fails(
    operation: Operation,
    replaces: bool,
    allowed: set[bytes | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = calls = 0
    while calls >= failed:
        failed += 1
        with open_store(f"file://{tmp_path / str(failed)}") as store:
            _ = store.write_content("other", NEW, block_size=16_384)
            if replaces:
                _ = store.write_content("film", OLD, block_size=16_384)
            sync = FailingSync(failed)
            with monkeypatch.context() as patched:
                patched.setattr(syscalls, "sync_folder", sync)
                try:
                    _ = operation(store)
                except (LocalStorageError, PartialDeleteError):
                    assert sync.calls >= failed
                else:
                    assert now(store) != (OLD if replaces else None)
            calls = sync.calls
            assert now(store) in allowed
    assert failed >= 3


def test_a_write_whose_folder_is_not_synced_may_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(f"file://{tmp_path}") as store:
        _ = store.write_block("k", b"old")
        monkeypatch.setattr(syscalls, "sync_folder", FailingSync(1))
        with pytest.raises(LocalStorageError) as raised:
            _ = store.write_block("k", b"new")
        assert (raised.value.unknown_attempts, store.read_block("k")) == (1, b"new")
        monkeypatch.setattr(syscalls, "sync_folder", FailingSync(1))
        with pytest.raises(LocalStorageError) as raised:
            store.delete_block("k")
        assert (raised.value.unknown_attempts, store.block_exists("k")) == (1, False)
