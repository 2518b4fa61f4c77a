"""Blocks in this process's memory: for tests, and for data that need not outlive the process.

Owns the dictionary and the sorted list of its keys; does no I/O. A copy of the data is made on
the way in, unless it is `bytes`, and none on the way out: what is stored is immutable.

Each change is one atomic operation of the dictionary (`atomic_dict.py`), under no lock. So a signal
handler or a finalizer may call the store in the middle of another call of its thread, and a fork at
any moment leaves the child a store that works.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import NamedTuple

from blockyard import atomic_dict
from blockyard.context import Context
from blockyard.crc32c import crc32c
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    LocalStorageError,
)
from blockyard.model import (
    Block,
    BlockInfo,
    CopyResult,
    DeleteResult,
    HealthReport,
    Page,
    Part,
    Upload,
    UploadPage,
)
from blockyard.put_options import PutOptions
from blockyard.stores.base import (
    Data,
    ListRequest,
    OpenUpload,
    ReadRequest,
    Store,
    UploadRequest,
    WriteRequest,
)
from blockyard.stores.checks import (
    check_conditions,
    check_match,
    check_options,
    check_size,
    requested_range,
)
from blockyard.stores.ordered_keys import OrderedKeys

_AFTER_SLASH = chr(ord("/") + 1)
_NO_METADATA: Mapping[str, str] = {}


class _Block(NamedTuple):
    """A block; `metadata` and `content_type` are told by a look at it, and not by a listing."""

    data: bytes
    info: BlockInfo
    metadata: Mapping[str, str] = _NO_METADATA
    content_type: str = ""

    def told(self) -> BlockInfo:
        """All that is known of it."""
        return self.info._replace(metadata=dict(self.metadata), content_type=self.content_type)


class MemoryStore(Store):
    """A store that lives and dies with this object. Closing it keeps the blocks.

    Threads and event loops share it.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, _Block] = {}
        self._keys = OrderedKeys(self._blocks)
        self._writes = count(1)
        self._uploads: dict[str, tuple[Upload, dict[int, bytes]]] = {}

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        return self._write(ctx, request, bytes(request.data))

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        block = self._get(ctx, request.operation, request.key)
        data = block.data
        check_conditions(request, block.info.etag)
        begin, end = requested_range(request, len(data))
        size = end - begin
        check_size(request, size)
        if request.into is not None:
            request.into[:size] = memoryview(data)[begin:end]
            return Block(b"", size, block.told)
        return Block(data[begin:end], size, block.told)

    async def start_upload(self, ctx: Context, request: UploadRequest) -> OpenUpload:
        _check(ctx, request.operation, request.key)
        check_options(request, "content_type", "metadata")
        started = datetime.fromtimestamp(ctx.runtime.wall_time(), UTC)
        upload = Upload(request.key, f"{next(self._writes):x}", started)
        self._uploads[upload.id] = (upload, {})
        return OpenUpload(upload, request)

    async def upload_part(
        self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
    ) -> Part:
        part = bytes(data)
        self._parts(ctx, upload)[number] = part
        return Part(number, len(part), crc32c(part), f"{number}", verified=True)

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        held = self._parts(ctx, upload)
        data = b"".join([held[part.number] for part in parts])
        info = self._write(ctx, upload.request, data)
        _ = self._uploads.pop(upload.upload.id, None)
        return info

    async def abort_upload(self, ctx: Context, upload: Upload) -> None:
        _check(ctx, "abort_upload", upload.key)
        _ = self._uploads.pop(upload.id, None)

    async def list_uploads(self, ctx: Context, prefix: str, token: str | None) -> UploadPage:
        _check(ctx, "list_uploads", prefix)
        uploads = [upload for upload, _ in list(self._uploads.values())]
        return UploadPage(sorted(each for each in uploads if each.key.startswith(prefix)), None)

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        return self._get(ctx, "stat_block", key).told()

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        source = self._get(ctx, "copy_block", source_key)
        block = self._block(ctx, target_key, source.data)
        block = block._replace(metadata=source.metadata, content_type=source.content_type)
        atomic_dict.put(self._blocks, target_key, block)
        self._keys.note(target_key)
        return CopyResult(target_key, block.info.etag, block.info.last_modified)

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        _check(ctx, "delete_block", key)
        if if_match is None:
            atomic_dict.pop(self._blocks, key)
            return
        deleted = False
        while not deleted:
            old = self._get(ctx, "delete_block", key)
            check_match(f"delete_block {key!r}", if_match, old.info.etag)
            deleted = atomic_dict.remove(self._blocks, key, old)

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        unique = list(dict.fromkeys(keys))
        if unique:
            _check(ctx, "delete_blocks", unique[0])
        for key in unique:
            atomic_dict.pop(self._blocks, key)
        return DeleteResult(unique)

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        """See `Store.list`. A token is the first key of the next page."""
        _check(ctx, request.operation, request.prefix)
        keys, prefix = self._keys.all(), request.prefix
        start = max(bisect_left(keys, prefix), bisect_right(keys, request.start_after))
        if request.token is not None:
            start = bisect_left(keys, request.token)
        page = Page([], None)
        while start < len(keys) and keys[start].startswith(prefix):
            key = keys[start]
            block = self._blocks.get(key)
            start += 1
            if block is None:  # deleted since the list was made
                continue
            if len(page.blocks) + len(page.folders) == request.page_size:
                return replace(page, next_token=key)
            behind = key.find("/", len(prefix)) + 1 if request.delimiter else 0
            if behind:
                page.folders.append(key[:behind])
                start = bisect_left(keys, key[: behind - 1] + _AFTER_SLASH)
            else:
                page.blocks.append(block.info)
        return page

    @property
    def name(self) -> str:
        return "memory"

    async def health_check(self, ctx: Context) -> HealthReport:
        _check(ctx, "health_check", self.name)
        return HealthReport(latency=0.0, store=self.name)

    def _block(
        self, ctx: Context, key: str, data: bytes, options: PutOptions | None = None
    ) -> _Block:
        modified = datetime.fromtimestamp(ctx.runtime.wall_time(), UTC)
        # The checksum tells contents apart across stores, the count within this one.
        etag = f"{crc32c(data):08x}-{next(self._writes):x}"
        info = BlockInfo(key, len(data), etag, modified)
        if options is None:
            return _Block(data, info)
        return _Block(data, info, dict(options.metadata or {}), options.content_type or "")

    def _write(self, ctx: Context, request: WriteRequest | UploadRequest, data: bytes) -> BlockInfo:
        key = request.key
        _check(ctx, request.operation, key)
        check_options(request, "content_type", "metadata")
        block = self._block(ctx, key, data, request.options)
        if request.if_match is not None:
            self._replace(ctx, request.operation, request.if_match, block)
        elif not request.if_absent:
            atomic_dict.put(self._blocks, key, block)
        elif self._blocks.setdefault(key, block) is not block:
            raise BlockExistsError(f"{request.operation} {key!r}: there is a block under that key")
        self._keys.note(key)
        return block.info

    def _parts(self, ctx: Context, upload: OpenUpload) -> dict[int, bytes]:
        """The parts of an upload under way."""
        key = upload.request.key
        _check(ctx, upload.request.operation, key)
        try:
            _, parts = self._uploads[upload.upload.id]
        except KeyError:
            raise LocalStorageError(
                f"{upload.request.operation} {key!r}: the upload is gone: it was aborted"
            ) from None
        return parts

    def _replace(self, ctx: Context, operation: str, if_match: str, block: _Block) -> None:
        """Compare and swap: replace the block with that ETag by `block`."""
        key = block.info.key
        replaced = False
        while not replaced:
            old = self._get(ctx, operation, key)
            check_match(f"{operation} {key!r}", if_match, old.info.etag)
            replaced = atomic_dict.replace(self._blocks, key, old, block)

    def _get(self, ctx: Context, operation: str, key: str) -> _Block:
        _check(ctx, operation, key)
        block = self._blocks.get(key)
        if block is None:
            raise BlockNotFoundError(f"{operation} {key!r}: no block under that key")
        return block


def _check(ctx: Context, operation: str, key: str) -> None:
    """Check the deadline before an operation, each of which takes well below a second."""
    ctx.check_deadline_of(f"{operation} {key!r}")
