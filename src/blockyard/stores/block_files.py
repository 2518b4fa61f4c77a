"""`BlockFiles`: the operations of the filesystem store as blocking calls, with typed errors.

How keys become paths is in `paths.py`, how files are opened and committed in `disk.py`, how they
are read and written in `file_io.py`, listed in `walk.py`. `filesystem.py` runs these calls through
the runtime.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from math import inf
from pathlib import Path

from blockyard import syscalls
from blockyard.crc32c import crc32c
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    LocalStorageError,
)
from blockyard.managing import contextmanager
from blockyard.model import KIB, Block, BlockInfo, CopyResult, Page, Part, Upload
from blockyard.stores import disk, file_io
from blockyard.stores.base import (
    Data,
    ListRequest,
    OpenUpload,
    ReadRequest,
    UploadRequest,
    WriteRequest,
)
from blockyard.stores.checks import check_conditions, check_match, check_size, requested_range
from blockyard.stores.file_io import Check
from blockyard.stores.locks import ReplacedError, Version, version_of
from blockyard.stores.paths import OWN_AREA, BlockPath, path_of
from blockyard.stores.walk import Walk
from blockyard.user_code import pass_on_foreign

_WALKS_KEPT = 64
_PLACES_KEPT = 250_000
"""Files and folders still to be visited by all kept walks but the latest: a bound on what abandoned
listings hold."""
_READ_CACHED_MOST = 256 * KIB
_AFTER_ALL_KEYS = b"\xff"
"""Appended to the key of a folder it sorts after all keys in it: no UTF-8 has such a byte."""


class BlockFiles:
    """The blocks below the folder `root`. See `FilesystemStore`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._prepared = False
        self.reads_cached: bool | None = None
        """Whether what is in the page cache can be read without a wait; None: not known yet."""
        self._purge_at = -inf
        self._walks: OrderedDict[tuple[str, str, bool], Walk] = OrderedDict()

    def write(self, request: WriteRequest, now: float, check: Check) -> BlockInfo:
        with self._errors(f"{request.operation} {request.key!r}"):
            check()
            self._prepare()
            version = self._expected_version(request, path_of(request.key))
            with disk.temporary_file(self._root) as temporary:
                self._purge(temporary, now)
                file_io.write_all(temporary.file, request.data, check)
                return self._commit(request, temporary, version, check)

    def _commit(
        self,
        request: WriteRequest | UploadRequest,
        temporary: disk.TemporaryFile,
        version: Version | None,
        check: Check,
    ) -> BlockInfo:
        """Move the temporary file to its path; with a `version`, in place of only that version."""
        path = path_of(request.key)
        replace = not request.if_absent
        try:
            known = disk.commit(
                self._root, temporary, path, replace=replace, check=check, version=version
            )
        except FileExistsError:
            raise _exists(request) from None
        except (FileNotFoundError, ReplacedError):
            _ = self._expected_version(request, path)  # which says what is there instead
            raise
        return disk.block_info(request.key, known)

    def start_upload(self, request: UploadRequest, check: Check) -> OpenUpload:
        with self._errors(f"{request.operation} {request.key!r}"):
            check()
            self._prepare()
            _ = self._expected_version(request, path_of(request.key))
            return OpenUpload(Upload(request.key, disk.new_upload(self._root)), request)

    def write_part(
        self, upload: OpenUpload, number: int, offset: int, data: Data, check: Check
    ) -> Part:
        with self._opened_upload(upload, check) as temporary:
            file_io.write_part(temporary.file, data, offset, check)
        return Part(number, len(data), crc32c(data), "")

    def abort_upload(self, upload: Upload) -> None:
        with self._errors(f"abort_upload {upload.key!r}"):
            disk.remove_upload(self._root, upload.id)

    def complete_upload(
        self, upload: OpenUpload, parts: Sequence[Part], now: float, check: Check
    ) -> BlockInfo:
        request, size = upload.request, sum(part.size for part in parts)
        with self._opened_upload(upload, check) as temporary:
            self._purge(temporary, now)
            found = os.fstat(temporary.file).st_size
            if found != size:
                raise OSError(errno.EIO, f"the upload has {found} bytes, not {size}")
            version = self._expected_version(request, path_of(request.key))
            info = self._commit(request, temporary, version, check)
            if request.if_absent:  # the block is a further name of the file then
                with syscalls.errors_ignored():
                    os.unlink(temporary.name, dir_fd=temporary.area)
        return info

    @contextmanager
    def _opened_upload(
        self, upload: OpenUpload, check: Check
    ) -> Generator[disk.TemporaryFile, None, None]:
        """Open the temporary file that the parts of an upload are written to."""
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

    def _expected_version(
        self, request: WriteRequest | UploadRequest, path: BlockPath
    ) -> Version | None:
        """The version that `if_match` names, if any. Raises where a condition does not hold now.

        Checked before anything is written, so that a write which will be refused is refused early.
        """
        key = request.key
        if request.if_match is not None:
            return self._matched_version(request.operation, key, request.if_match)
        if request.if_absent:
            with (
                suppress(FileNotFoundError),
                disk.opened_folder(self._root, path.folders) as folder,
            ):
                _ = disk.stat_file(folder, path.name)
                raise _exists(request)
        return None

    def _matched_version(self, operation: str, key: str, if_match: str) -> Version:
        """The version of the block, whose ETag has to be `if_match`."""
        path, where = path_of(key), f"{operation} {key!r}"
        try:
            with disk.opened_folder(self._root, path.folders) as folder:
                known = disk.open_version(folder, path.name)
        except FileNotFoundError:
            raise _not_found(operation, key) from None
        check_match(where, if_match, disk.block_info(key, known).etag)
        return version_of(known)

    def read(self, request: ReadRequest, check: Check) -> Block:
        key = request.key
        with self._opened(request.operation, key, check) as (file, known):
            begin, end = _span(request, known)
            size, data = end - begin, b""
            if request.into is not None:
                file_io.read_into(file, request.into[:size], check, begin)
            else:
                data = file_io.read_range(file, begin, size, check)
            if self.reads_cached is None:
                self.reads_cached = syscalls.reads_cached(file)
        return Block(data, size, lambda: _block_info(key, known))

    def read_cached(self, request: ReadRequest, check: Check) -> Block | None:
        """Read up to 256 KiB from the page cache without waiting for the disk; None if not there.

        This needs no thread, which would cost an event loop ten times as much. Only opening the
        file may wait for the disk.
        """
        key = request.key
        with self._opened(request.operation, key, check) as (file, known):
            begin, end = _span(request, known)
            size = end - begin
            data = _cached(file, size, begin) if size <= _READ_CACHED_MOST else None
        if data is None:
            return None
        if request.into is not None:
            request.into[:size] = data
            data = b""
        return Block(data, size, lambda: _block_info(key, known))

    def stat(self, key: str, check: Check) -> BlockInfo:
        path = path_of(key)
        with self._errors(f"stat_block {key!r}"):
            check()
            try:
                known = disk.stat_block(self._root, path)
            except FileNotFoundError:
                raise _not_found("stat_block", key) from None
        return _block_info(key, known)

    def copy(self, source_key: str, target_key: str, now: float, check: Check) -> CopyResult:
        with self._opened("copy_block", source_key, check) as (file, source):
            self._prepare()
            with disk.temporary_file(self._root) as temporary:
                self._purge(temporary, now)
                file_io.copy_all(file, temporary.file, source.st_size, check)
                target = path_of(target_key)
                known = disk.commit(self._root, temporary, target, replace=True, check=check)
        info = disk.block_info(target_key, known)
        return CopyResult(target_key, info.etag, info.last_modified)

    def check_deadline(self, keys: Sequence[str], check: Check) -> None:
        """Raise where the deadline of a `delete_blocks` has passed before it begins."""
        if keys:
            with self._errors(f"delete_blocks {keys[0]!r}"):
                check()

    def delete(self, keys: Sequence[str], check: Check) -> dict[str, BlockStoreError]:
        """Delete keys of one folder; return the errors of those that are still there."""
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

    def delete_one(self, key: str, check: Check) -> None:
        with self._errors(f"delete_block {key!r}"):
            check()
        for error in self.delete([key], check).values():
            try:
                raise error
            finally:
                del error  # which its traceback refers to

    def delete_version(self, key: str, if_match: str, check: Check) -> None:
        with self._errors(f"delete_block {key!r}"):
            check()
            version = self._matched_version("delete_block", key, if_match)
            try:
                disk.remove_version(self._root, path_of(key), version, check)
            except (FileNotFoundError, ReplacedError):
                _ = self._matched_version(
                    "delete_block", key, if_match
                )  # says what is there instead
                raise

    def list(self, request: ListRequest, check: Check) -> Page:
        """One page. Its token is the last key or folder on it; a folder is no key in itself."""
        prefix, by_folder = request.prefix, request.delimiter != ""
        token = request.token or ""
        walk = self._walks.pop((prefix, token, by_folder), None) if token else None
        if walk is None:
            after = (token or request.start_after).encode()
            if by_folder and "/" in token[len(prefix) :]:
                after += _AFTER_ALL_KEYS
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
        """Keep a walk for its next page, which would have to read the folders again without it.

        Needs no lock: each step is one operation of the dictionary.
        """
        self._walks[place] = walk
        while len(self._walks) > 1:
            kept = list(self._walks.values())
            if len(kept) <= _WALKS_KEPT and sum(each.left for each in kept) <= _PLACES_KEPT:
                return
            with suppress(KeyError):  # others took them all meanwhile
                _ = self._walks.popitem(last=False)

    def clock(self) -> datetime | None:
        """The file system's time; None without write access, or where there is no folder yet."""
        with syscalls.errors_ignored():
            return disk.clock(self._root) if self._root.is_dir() else None
        return None

    def check_writable(self, now: float, check: Check) -> None:
        with self._errors("health_check"):
            check()
            self._prepare()
            with disk.temporary_file(self._root) as temporary:
                self._purge(temporary, now)
                file_io.write_all(temporary.file, b"writable", check)
                os.fsync(temporary.file)
            disk.check_writable(self._root)
            check()

    def _prepare(self) -> None:
        """Before the first write: make the folder, and check that it can hold blocks."""
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
        """Remove abandoned temporary files at the first write, then once an hour."""
        if now >= self._purge_at:
            self._purge_at = now + disk.LEFT_BEHIND
            disk.purge(temporary)

    @contextmanager
    def _opened(
        self, operation: str, key: str, check: Check
    ) -> Generator[tuple[int, os.stat_result], None, None]:
        """Open the block's file for reading; yields its descriptor and `fstat` result."""
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


def _span(request: ReadRequest, known: os.stat_result) -> tuple[int, int]:
    """Check the conditions and limits of a read; return start and end of the bytes to read."""
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


def _block_info(key: str, known: os.stat_result) -> BlockInfo:
    """What a block is; its metadata is {}, since files have no place for any."""
    return disk.block_info(key, known)._replace(metadata={})


def _not_found(operation: str, key: str) -> BlockNotFoundError:
    return BlockNotFoundError(f"{operation} {key!r}: no block under that key")


def _exists(request: WriteRequest | UploadRequest) -> BlockExistsError:
    return BlockExistsError(f"{request.operation} {request.key!r}: there is a block under that key")
