"""The system refuses calls on the cache's folder, with each of its errors, once or from one on.

A reader gets the right bytes, or, of what is staged and can't be read, a typed error; a writer is
told the truth; what was acknowledged is uploaded once the folder can be used again.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from blockyard.errors import BlockStoreError, IntegrityError, LocalStorageError
from blockyard.stores.base import ReadRequest, WriteRequest
from blockyard.transport.blocking import run_to_end
from tests.cache.failing_calls import FailingCalls, open_files
from tests.cache.staging import Process, Service
from tests.cache.test_one_call_fails import (
    CHANGES,
    IN_STORE,
    STAGE,
    STAGED,
    Change,
    change_with_failure,
    changed,
    no_power_cuts,
    read_with_failure,
)

__all__ = ["no_power_cuts"]

REFUSALS = (
    *(errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EDQUOT, errno.EINTR),
    *(errno.ESTALE, errno.ENOMEM, errno.EACCES, errno.EPERM),
)
OF_ALL_CALLS = {errno.EINTR, errno.ESTALE, errno.ENOMEM, errno.EACCES, errno.EPERM}
"""Not even what is staged can be told where these are there to stay."""

refusals = pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.__getitem__)


def each(
    number: int, root: Path, onward: bool, step: int, does: Callable[[FailingCalls, Path], str]
) -> None:
    """Let calls fail, every `step`-th in its turn; which of them depends on the number."""
    nth, failed = 1 + REFUSALS.index(number) * step // len(REFUSALS), "not yet"
    while failed:
        folder = root / f"{nth}"
        failed = does(FailingCalls(folder, number, nth=nth, onward=onward), folder)
        assert open_files(folder) == []
        nth += step


@refusals
def test_reads_of_a_stage_that_is_refused_from_one_call_on(number: int, tmp_path: Path) -> None:
    def does(calls: FailingCalls, root: Path) -> str:
        service = Service()
        one = Process(root, service, size=STAGE)
        for key, block in IN_STORE.items():
            _ = run_to_end(service.inner.write(one.ctx, WriteRequest(key, block)))
        for key, block in STAGED.items():
            one.write(key, block)
        with calls.made():
            check(one, number)
            left = drained(one)
        if left == []:
            assert sorted(service.sent) == sorted(STAGED.items())
        assert {key: one.read(key) for key in (*STAGED, "other")} == IN_STORE | STAGED
        one.wait(61)
        assert one.drain() == []
        for key, block in STAGED.items():
            assert run_to_end(service.inner.read(one.ctx, ReadRequest(key))).data == block
        one.store.close()
        return calls.failed

    each(number, tmp_path, onward=True, step=11, does=does)


def check(one: Process, number: int) -> None:
    """Read all blocks, those that are not staged as they are."""
    for key, block in (IN_STORE | STAGED).items():
        for offset, length in ((None, None), (10, 100)):
            try:
                data = one.read(key, offset=offset, length=length)
            except LocalStorageError:
                assert key in STAGED or number in OF_ALL_CALLS
            else:
                assert data == (block if offset is None else block[10:110])


def drained(one: Process) -> list[object] | None:
    """What is left, if that can be told."""
    try:
        return [*one.drain()]
    except LocalStorageError:
        return None


@pytest.mark.thorough
@pytest.mark.parametrize("onward", [False, True])
@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES.keys())
@refusals
def test_a_change_in_write_back(
    change: Change, expected: dict[str, bytes | None], number: int, onward: bool, tmp_path: Path
) -> None:
    def does(calls: FailingCalls, root: Path) -> str:
        return change_with_failure(change, expected, calls, root)

    each(number, tmp_path, onward, step=63, does=does)


@pytest.mark.parametrize("onward", [False, True])
@refusals
def test_reads_go_on(number: int, onward: bool, tmp_path: Path) -> None:
    def does(calls: FailingCalls, root: Path) -> str:
        return read_with_failure(changed, calls, root)

    each(number, tmp_path, onward, step=27, does=does)


def link(path: Path) -> None:
    copy = path.with_suffix(".copy")
    _ = path.rename(copy)
    path.symlink_to(copy)


def listening(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # its own path is too long
        made.bind(path.name)


@pytest.mark.parametrize("becomes", [link, listening])
def test_what_is_no_file_any_more_is_damaged_and_not_taken_for_uploaded(
    one: Process, service: Service, monkeypatch: pytest.MonkeyPatch, becomes: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(one.root)
    _ = run_to_end(service.inner.write(one.ctx, WriteRequest("k", b"old")))
    one.write("k", b"new")
    becomes(one.path("k"))
    with pytest.raises(IntegrityError, match="staged of it in the cache is damaged"):
        _ = one.read("k")
    assert len(one.drain()) == 1
    assert service.sent == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EMFILE])
def test_what_may_not_be_opened_is_not_taken_for_uploaded(
    one: Process, service: Service, number: int
) -> None:
    _ = run_to_end(service.inner.write(one.ctx, WriteRequest("k", b"old")))
    one.write("k", b"new")
    real = os.open

    def refused(path: object, *how: object, **named: object) -> int:
        if str(path) == str(one.path("k")):
            raise OSError(number, os.strerror(number))
        return real(path, *how, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "open", refused)
        with pytest.raises(LocalStorageError):
            _ = one.read("k")
        assert one.upload("k") is not None
        (left,) = one.drain()
        assert left.error is not None
        assert [found.error for found in one.pending] == [left.error]
        with pytest.raises(BlockStoreError):
            _ = run_to_end(one.store.stat_block(one.ctx, "k"))
    assert one.read("k") == b"new"
    assert one.drain() == []
    assert service.sent == [("k", b"new")]


def test_a_lock_that_is_refused_is_not_waited_for(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SELinux does; a lock that is taken is EAGAIN."""

    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("fcntl.fcntl", refused)
    ctx = one.ctx
    ctx.deadline = one.runtime.clock + 10
    with pytest.raises(LocalStorageError, match="Permission denied"):
        run_to_end(one.store.delete_block(ctx, "k"))
