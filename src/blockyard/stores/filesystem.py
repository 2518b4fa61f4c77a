"""Blocks as files below a folder of this machine.

Owns the meaning of the operations and the names of their errors. How keys become paths is in
`paths.py`, how files are reached and written in `disk.py`, how they are listed in `walk.py`.
Every disk call runs through the context's runtime.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from math import inf
from pathlib import Path
from typing import TypeVar

from blockyard import syscalls
from blockyard.context import Context
from blockyard.crc32c import crc32c
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    LocalStorageError,
)
from blockyard.managing import contextmanager
from blockyard.model import (
    KIB,
    Block,
    BlockInfo,
    CopyResult,
    DeleteResult,
    HealthReport,
    Page,
    Part,
    Upload,
)
from blockyard.stores import disk
from blockyard.stores.base import (
    Data,
    ListRequest,
    OpenUpload,
    ReadRequest,
    Store,
    UploadRequest,
    WriteRequest,
    check_conditions,
    check_match,
    check_options,
    check_size,
    requested_range,
)
from blockyard.stores.disk import Check
from blockyard.stores.locks import ReplacedError, Version, version_of
from blockyard.stores.paths import OWN_AREA, BlockPath, path_of
from blockyard.stores.walk import Walk
from blockyard.user_code import pass_on_foreign

_WALKS_KEPT = 64
_PLACES_KEPT = 250_000
"""Files and folders that the walks which are kept have still to visit, but for the latest walk: a
listing that nobody goes on with holds no more."""
_STALE_TRIES = 4
_AT_ONCE = 256 * KIB
_BEHIND_ALL = b"\xff"
"""Behind a folder, it comes after all keys in there: no UTF-8 has such a byte."""

Result = TypeVar("Result")


class FilesystemStore(Store):
    """A store in the folder `root`, safely shared with other threads and processes.

    The folder need not exist: the first write, or `health_check`, makes it, and until then the
    store is empty. A block is durable, with the folders that lead to it, before a write returns.
    A writer that is killed leaves at most a temporary file, which no reader sees and which a
    store removes once it is an hour old: at its first write, and then once an hour. `if_absent`
    needs a file system with hard links, `if_match` one with locks (flock(2)). The deadline of
    a call is looked at between the steps of its work on the disk; a single step is not cut short.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._prepared = False
        self._reads_cached: bool | None = None
        """Whether what is in the page cache can be read without a wait; None: not known yet."""
        self._purge_at = -inf
        self._walks: OrderedDict[tuple[str, str, bool], Walk] = OrderedDict()

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        check_options(request)
        now = ctx.runtime.now()
        return await _on_disk(ctx, lambda: self._write(request, now, ctx.check_deadline))

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        if self._reads_cached:
            block = self._read_cached(request, ctx.check_deadline)
            if block is not None:
                return block
        return await self._reading(ctx, lambda: self._read(request, ctx.check_deadline))

    async def start_upload(self, ctx: Context, request: UploadRequest) -> OpenUpload:
        check_options(request)
        return await ctx.runtime.blocking(lambda: self._start(request, ctx.check_deadline))

    async def upload_part(
        self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
    ) -> Part:
        def write() -> Part:
            with self._upload(upload, ctx.check_deadline) as temporary:
                disk.write_part(temporary.file, data, offset, ctx.check_deadline)
            return Part(number, len(data), crc32c(data), "")

        return await ctx.runtime.blocking(write)

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        now = ctx.runtime.now()
        return await _on_disk(ctx, lambda: self._complete(upload, parts, now, ctx.check_deadline))

    async def abort_upload(self, ctx: Context, upload: Upload) -> None:
        def remove() -> None:
            with self._errors(f"abort_upload {upload.key!r}"):
                disk.remove_upload(self._root, upload.id)

        await ctx.runtime.blocking(remove)

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        return await self._reading(ctx, lambda: self._stat(key, ctx.check_deadline))

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        now = ctx.runtime.now()
        return await self._reading(
            ctx, lambda: self._copy(source_key, target_key, now, ctx.check_deadline)
        )

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        check = ctx.check_deadline
        if if_match is None:
            await _on_disk(ctx, lambda: self._delete_one(key, check))
        else:
            await _on_disk(ctx, lambda: self._delete_version(key, if_match, check))

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        if keys:
            with self._errors(f"delete_blocks {keys[0]!r}"):
                ctx.check_deadline()
        by_folder: dict[tuple[str, ...], list[str]] = {}
        for key in dict.fromkeys(keys):
            by_folder.setdefault(path_of(key).folders, []).append(key)
        outcomes = await ctx.gather(
            lambda group: ctx.runtime.blocking(lambda: self._delete(group, ctx.check_deadline)),
            by_folder.values(),
        )
        failed = {key: error for outcome in outcomes for key, error in outcome.items()}
        ctx.unknown_attempts += sum(error.unknown_attempts for error in failed.values())
        return DeleteResult([key for key in dict.fromkeys(keys) if key not in failed], failed)

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        return await ctx.runtime.blocking(lambda: self._list(request, ctx.check_deadline))

    @property
    def name(self) -> str:
        return str(self._root)

    @property
    def identity(self) -> str:
        return os.path.realpath(self._root)

    async def clock(self, ctx: Context) -> datetime | None:
        """See `Store.clock`. It is told by a new file, so that a folder can't be only read."""

        def look() -> datetime | None:
            with syscalls.errors_ignored():  # whoever may not write here removes nothing either
                return disk.clock(self._root) if self._root.is_dir() else None
            return None

        return await ctx.runtime.blocking(look)

    async def health_check(self, ctx: Context) -> HealthReport:
        started = ctx.runtime.now()
        await ctx.runtime.blocking(lambda: self._check_writable(started, ctx.check_deadline))
        return HealthReport(ctx.runtime.now() - started, store=self.name)

    async def _reading(self, ctx: Context, call: Callable[[], Result]) -> Result:
        """Run a call that reads; again when another machine removes, over NFS, what it reads.

        To that machine's readers a block that is replaced stays as it was until they close it.
        """
        before, tries_left = ctx.unknown_attempts, _STALE_TRIES
        while True:
            try:
                return await _on_disk(ctx, call)
            except LocalStorageError as error:
                error.unknown_attempts = ctx.unknown_attempts - before
                if not tries_left or not _is_stale(error):
                    raise
            tries_left -= 1

    def _write(self, request: WriteRequest, now: float, check: Check) -> BlockInfo:
        with self._errors(f"{request.operation} {request.key!r}"):
            check()
            self._prepare()
            version = self._expected(request, path_of(request.key))
            with disk.temporary_file(self._root) as temporary:
                self._purge(temporary, now)
                disk.write_all(temporary.file, request.data, check)
                return self._commit(request, temporary, version, check)

    def _commit(
        self,
        request: WriteRequest | UploadRequest,
        temporary: disk.TemporaryFile,
        version: Version | None,
        check: Check,
    ) -> BlockInfo:
        """Put what was written in place of the `version` that is expected there."""
        path = path_of(request.key)
        replace = not request.if_absent
        try:
            known = disk.commit(
                self._root, temporary, path, replace=replace, check=check, version=version
            )
        except FileExistsError:
            raise _exists(request) from None
        except (FileNotFoundError, ReplacedError):
            _ = self._expected(request, path)  # which says what is there instead
            raise
        return disk.block_info(request.key, known)

    def _start(self, request: UploadRequest, check: Check) -> OpenUpload:
        with self._errors(f"{request.operation} {request.key!r}"):
            check()
            self._prepare()
            _ = self._expected(request, path_of(request.key))
            return OpenUpload(Upload(request.key, disk.new_upload(self._root)), request)

    def _complete(
        self, upload: OpenUpload, parts: Sequence[Part], now: float, check: Check
    ) -> BlockInfo:
        request, size = upload.request, sum(part.size for part in parts)
        with self._upload(upload, check) as temporary:
            self._purge(temporary, now)
            found = os.fstat(temporary.file).st_size
            if found != size:
                raise OSError(errno.EIO, f"the upload has {found} bytes, not {size}")
            version = self._expected(request, path_of(request.key))
            info = self._commit(request, temporary, version, check)
            if request.if_absent:  # the block is a further name of the file then
                with syscalls.errors_ignored():
                    os.unlink(temporary.name, dir_fd=temporary.area)
        return info

    @contextmanager
    def _upload(
        self, upload: OpenUpload, check: Check
    ) -> Generator[disk.TemporaryFile, None, None]:
        """The file of an upload under way."""
        with self._errors(f"{upload.request.operation} {upload.request.key!r}"):
            check()
            with ExitStack() as opened:
                try:
                    file = disk.opened_upload(self._root, upload.upload.id)
                    temporary = opened.enter_context(file)
                except FileNotFoundError:
                    gone = "the upload is gone: it was aborted"
                    raise FileNotFoundError(errno.ENOENT, gone) from None
                yield temporary

    def _expected(self, request: WriteRequest | UploadRequest, path: BlockPath) -> Version | None:
        """The version that is to be replaced, if any. Raises what the conditions do.

        Looked at before anything is written, so that what would be refused at its end is not.
        """
        key = request.key
        if request.if_match is not None:
            return self._matching(request.operation, key, request.if_match)
        if request.if_absent:
            with (
                suppress(FileNotFoundError),
                disk.opened_folder(self._root, path.folders) as folder,
            ):
                _ = disk.stat_file(folder, path.name)
                raise _exists(request)
        return None

    def _matching(self, operation: str, key: str, if_match: str) -> Version:
        """The version of the block with that ETag. Raises what the condition does."""
        path, where = path_of(key), f"{operation} {key!r}"
        try:
            with disk.opened_folder(self._root, path.folders) as folder:
                known = disk.open_version(folder, path.name)
        except FileNotFoundError:
            raise _not_found(operation, key) from None
        check_match(where, if_match, disk.block_info(key, known).etag)
        return version_of(known)

    def _read(self, request: ReadRequest, check: Check) -> Block:
        key = request.key
        with self._opened(request.operation, key, check) as (file, known):
            begin, end = _span(request, known)
            size, data = end - begin, b""
            if request.into is not None:
                disk.read_into(file, request.into[:size], check, begin)
            else:
                data = disk.read_range(file, begin, size, check)
            if self._reads_cached is None:
                self._reads_cached = syscalls.reads_cached(file)
        return Block(data, size, lambda: _told(key, known))

    def _read_cached(self, request: ReadRequest, check: Check) -> Block | None:
        """The same on the spot, of up to 256 KiB that are in the page cache; None: not so.

        A thread costs an event loop ten times as much. Opening the file may wait for the disk, if
        nobody has for long.
        """
        key = request.key
        with self._opened(request.operation, key, check) as (file, known):
            begin, end = _span(request, known)
            size = end - begin
            data = _cached(file, size, begin) if size <= _AT_ONCE else None
        if data is None:
            return None
        if request.into is not None:
            request.into[:size] = data
            data = b""
        return Block(data, size, lambda: _told(key, known))

    def _stat(self, key: str, check: Check) -> BlockInfo:
        path = path_of(key)
        with self._errors(f"stat_block {key!r}"):
            check()
            try:
                known = disk.stat_block(self._root, path)
            except FileNotFoundError:
                raise _not_found("stat_block", key) from None
        return _told(key, known)

    def _copy(self, source_key: str, target_key: str, now: float, check: Check) -> CopyResult:
        with self._opened("copy_block", source_key, check) as (file, source):
            self._prepare()
            with disk.temporary_file(self._root) as temporary:
                self._purge(temporary, now)
                disk.copy_all(file, temporary.file, source.st_size, check)
                target = path_of(target_key)
                known = disk.commit(self._root, temporary, target, replace=True, check=check)
        info = disk.block_info(target_key, known)
        return CopyResult(target_key, info.etag, info.last_modified)

    def _delete(self, keys: Sequence[str], check: Check) -> dict[str, BlockStoreError]:
        """Delete keys of one folder; the error of each that is still there."""
        paths = {key: path_of(key) for key in keys}
        folders = paths[keys[0]].folders
        names = [path.name for path in paths.values()]
        try:
            failed = disk.remove(self._root, folders, names, check)
        except FileNotFoundError:
            return {}
        except OSError as error:
            pass_on_foreign(error)
            failed = dict.fromkeys(names, error)
        return {
            key: self._error(f"delete_block {key!r}", failed[path.name])
            for key, path in paths.items()
            if path.name in failed
        }

    def _delete_one(self, key: str, check: Check) -> None:
        with self._errors(f"delete_block {key!r}"):
            check()
        for error in self._delete([key], check).values():
            try:
                raise error
            finally:
                del error  # which its traceback refers to

    def _delete_version(self, key: str, if_match: str, check: Check) -> None:
        with self._errors(f"delete_block {key!r}"):
            check()
            version = self._matching("delete_block", key, if_match)
            try:
                disk.remove_version(self._root, path_of(key), version, check)
            except (FileNotFoundError, ReplacedError):
                _ = self._matching("delete_block", key, if_match)  # says what is there instead
                raise

    def _list(self, request: ListRequest, check: Check) -> Page:
        """One page. Its token is the last key, or the last folder, which no key there can be."""
        prefix, by_folder = request.prefix, request.delimiter != ""
        token = request.token or ""
        walk = self._walks.pop((prefix, token, by_folder), None) if token else None
        if walk is None:
            after = (token or request.start_after).encode()
            if by_folder and "/" in token[len(prefix) :]:
                after += _BEHIND_ALL
            walk = Walk(self._root, prefix, after, by_folder=by_folder)
        with self._errors(f"{request.operation} {prefix!r}"):
            check()
            blocks, folders, more = walk.page(request.page_size, check)
        if not more:
            return Page(blocks, None, folders)
        token = max(blocks[-1].key if blocks else "", folders[-1] if folders else "")
        self._keep(walk, (prefix, token, by_folder))
        return Page(blocks, token, folders)

    def _keep(self, walk: Walk, place: tuple[str, str, bool]) -> None:
        """Keep a walk for its next page: without it, that would read the folders again.

        Each step here is one of the dictionary's, so that no lock is needed.
        """
        self._walks[place] = walk
        while len(self._walks) > 1:
            kept = list(self._walks.values())
            if len(kept) <= _WALKS_KEPT and sum(each.left for each in kept) <= _PLACES_KEPT:
                return
            with suppress(KeyError):  # others took them all meanwhile
                _ = self._walks.popitem(last=False)

    def _check_writable(self, now: float, check: Check) -> None:
        with self._errors("health_check"):
            check()
            self._prepare()
            with disk.temporary_file(self._root) as temporary:
                self._purge(temporary, now)
                disk.write_all(temporary.file, b"writable", check)
                os.fsync(temporary.file)
            disk.check_writable(self._root)
            check()

    def _prepare(self) -> None:
        """Before the first write: see that this folder can hold blocks."""
        if self._prepared:
            return
        with disk.opened_folder(self._root, [OWN_AREA], make=True):
            pass
        if disk.ignores_case(self._root):
            raise OSError(
                errno.ENOTSUP,
                "the file system ignores case: keys that differ in nothing else would be one",
            )
        self._prepared = True

    def _purge(self, temporary: disk.TemporaryFile, now: float) -> None:
        """Tidy up at the first write, and then once an hour; `now` on the runtime's clock."""
        if now >= self._purge_at:
            self._purge_at = now + disk.LEFT_BEHIND
            disk.purge(temporary)

    @contextmanager
    def _opened(
        self, operation: str, key: str, check: Check
    ) -> Generator[tuple[int, os.stat_result], None, None]:
        """The block's file, open for reading, and what is known of it."""
        with self._errors(f"{operation} {key!r}"):
            check()
            try:
                file, known = disk.open_block(self._root, path_of(key))
            except FileNotFoundError:
                raise _not_found(operation, key) from None
            try:
                yield file, known
            finally:
                syscalls.close(file)

    @contextmanager
    def _errors(self, what: str) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            pass_on_foreign(error)
            raise self._error(what, error) from error

    def _error(self, what: str, error: OSError) -> BlockStoreError:
        if isinstance(error, DeadlineExceededError):
            return DeadlineExceededError(f"{what}: {error} (in {self._root})")
        failed = LocalStorageError(f"{what}: {error.strerror or error} (in {self._root})")
        failed.unknown_attempts = int(isinstance(error, disk.UnknownOutcomeError))
        return failed


async def _on_disk(ctx: Context, call: Callable[[], Result]) -> Result:
    """Run a call, whose error may say that a change of it has an unknown outcome."""
    try:
        return await ctx.runtime.blocking(call)
    except LocalStorageError as error:
        ctx.unknown_attempts += error.unknown_attempts
        raise


def _span(request: ReadRequest, known: os.stat_result) -> tuple[int, int]:
    """The bytes requested of the block. Raises what its conditions and limits do."""
    if request.if_match is not None or request.if_none_match is not None:
        check_conditions(request, disk.block_info(request.key, known).etag)
    begin, end = requested_range(request, known.st_size)
    check_size(request, end - begin)
    return begin, end


def _cached(file: int, size: int, offset: int) -> bytes | None:
    """`syscalls.read_cached`; None as well where another file system is mounted below the root."""
    try:
        return syscalls.read_cached(file, size, offset)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return None


def _is_stale(error: LocalStorageError) -> bool:
    """Whether what was opened was removed meanwhile, on another machine."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ESTALE


def _not_found(operation: str, key: str) -> BlockNotFoundError:
    return BlockNotFoundError(f"{operation} {key!r}: no block under that key")


def _told(key: str, known: os.stat_result) -> BlockInfo:
    """What a look at a block tells: that it has no metadata, since there is no place for any."""
    return disk.block_info(key, known)._replace(metadata={})


def _exists(request: WriteRequest | UploadRequest) -> BlockExistsError:
    return BlockExistsError(f"{request.operation} {request.key!r}: there is a block under that key")
