"""A store in front of another one, to change what some operations do."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime

from blockyard.context import Context
from blockyard.merging import Range
from blockyard.model import (
    Block,
    BlockInfo,
    CopyResult,
    DeleteResult,
    HealthReport,
    Page,
    Part,
    PresignedRequest,
    StagedBlock,
    StoreStats,
    Upload,
    UploadPage,
)
from blockyard.put_options import PutOptions
from blockyard.stores.base import (
    Data,
    ListRequest,
    OpenUpload,
    PresignRequest,
    ReadRequest,
    Store,
    UploadRequest,
    WriteRequest,
)


class WrapperStore(Store):
    """Forwards every operation to the store `inner`; override those that are to differ."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        return await self.inner.write(ctx, request)

    def check_write(self, request: WriteRequest) -> None:
        self.inner.check_write(request)

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        return await self.inner.read(ctx, request)

    def read_at_once(self, ctx: Context, request: ReadRequest) -> Block | None:
        """Forwarded where `read` is: who overrides that is not to be passed by."""
        return self.inner.read_at_once(ctx, request) if self._reads_as_it_is else None

    def ranges_at_once(self, ctx: Context, wanted: Sequence[Range]) -> list[bytes | None]:
        """Forwarded where `read_at_once` is."""
        if self._reads_as_it_is and type(self).read_at_once is WrapperStore.read_at_once:
            return self.inner.ranges_at_once(ctx, wanted)
        return super().ranges_at_once(ctx, wanted)

    @property
    def reads_in_parts(self) -> bool:
        """Forwarded where `read` is."""
        return self._reads_as_it_is and self.inner.reads_in_parts

    @property
    def _reads_as_it_is(self) -> bool:
        return type(self).read is WrapperStore.read

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        return await self.inner.verify_block(ctx, key)

    @property
    def keeps_crc32c(self) -> bool:
        return self.inner.keeps_crc32c

    async def kept_crc32c(self, ctx: Context, operation: str, key: str, etag: str) -> int | None:
        return await self.inner.kept_crc32c(ctx, operation, key, etag)

    async def start_upload(self, ctx: Context, request: UploadRequest) -> OpenUpload:
        return await self.inner.start_upload(ctx, request)

    async def upload_part(
        self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
    ) -> Part:
        return await self.inner.upload_part(ctx, upload, number, offset, data)

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        return await self.inner.complete_upload(ctx, upload, parts)

    async def start_copy(
        self, ctx: Context, source_key: str, target_key: str
    ) -> tuple[OpenUpload, BlockInfo]:
        return await self.inner.start_copy(ctx, source_key, target_key)

    async def copy_part(
        self, ctx: Context, upload: OpenUpload, number: int, source: BlockInfo, span: range
    ) -> Part:
        return await self.inner.copy_part(ctx, upload, number, source, span)

    async def abort_upload(self, ctx: Context, upload: Upload) -> None:
        await self.inner.abort_upload(ctx, upload)

    async def list_uploads(self, ctx: Context, prefix: str, token: str | None) -> UploadPage:
        return await self.inner.list_uploads(ctx, prefix, token)

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        return await self.inner.stat_block(ctx, key)

    async def options_of(self, ctx: Context, key: str) -> tuple[PutOptions, BlockInfo]:
        return await self.inner.options_of(ctx, key)

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        return await self.inner.copy_block(ctx, source_key, target_key)

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        await self.inner.delete_block(ctx, key, if_match)

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        return await self.inner.delete_blocks(ctx, keys)

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        return await self.inner.list(ctx, request)

    async def list_keys(
        self, ctx: Context, request: ListRequest
    ) -> tuple[builtins.list[str], str | None]:
        return await self.inner.list_keys(ctx, request)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def identity(self) -> str:
        return self.inner.identity

    async def health_check(self, ctx: Context) -> HealthReport:
        return await self.inner.health_check(ctx)

    async def presign(self, ctx: Context, request: PresignRequest) -> PresignedRequest:
        return await self.inner.presign(ctx, request)

    async def pending(self, ctx: Context) -> builtins.list[StagedBlock]:
        return await self.inner.pending(ctx)

    async def drain(self, ctx: Context) -> builtins.list[StagedBlock]:
        return await self.inner.drain(ctx)

    def date(self, ctx: Context) -> datetime | None:
        return self.inner.date(ctx)

    async def clock(self, ctx: Context) -> datetime | None:
        return await self.inner.clock(ctx)

    def stats(self) -> StoreStats:
        return self.inner.stats()

    @property
    def waits_to_close(self) -> bool:
        return self.inner.waits_to_close

    def close(self) -> None:
        self.inner.close()
