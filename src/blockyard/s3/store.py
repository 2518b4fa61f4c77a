"""The S3 store: each operation as the calls it takes and what their replies mean."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from blockyard.config import S3Config
from blockyard.context import Context, Response
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    BlockTooLargeError,
    InvalidKeyError,
    NotS3Error,
    S3Error,
    UnsupportedError,
)
from blockyard.keys import MAX_KEY_BYTES
from blockyard.model import (
    Block,
    BlockInfo,
    CopyResult,
    DeleteResult,
    HealthReport,
    Page,
    Part,
    PresignedRequest,
    StoreStats,
    Upload,
    UploadPage,
)
from blockyard.put_options import PutOptions
from blockyard.s3 import listing, part_copies, requests, responses
from blockyard.s3.call import FunctionCall
from blockyard.s3.caller import Caller
from blockyard.s3.completing import checksum_of_all
from blockyard.s3.credentials import CredentialSource
from blockyard.s3.dates import http_date
from blockyard.s3.deleting import Deleting
from blockyard.s3.endpoints import service_of
from blockyard.s3.integrity import crc32c_of_all, service_checksum_or_etag
from blockyard.s3.listing import PageRequest
from blockyard.s3.matching_deletes import MatchingDeletes
from blockyard.s3.object_headers import check_encrypted, is_encrypted
from blockyard.s3.part_copies import PartCopies, is_copy, may_be_too_large
from blockyard.s3.reading import Reader
from blockyard.s3.recovery import lacking
from blockyard.s3.tags import Tags
from blockyard.s3.uploads import Uploads
from blockyard.s3.writing import Writer
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

Result = TypeVar("Result")


class S3Store(Store):
    """Blocks as objects of one bucket, their keys behind `key_prefix`."""

    def __init__(self, config: S3Config, credentials: CredentialSource) -> None:
        self._config = config
        self._prefix = config.key_prefix
        self._etag_proves = config.write_proof == "etag"
        self._caller = Caller(config, credentials)
        self._reader = Reader(self._caller, config.integrity.verify_ranges)
        self._writer = Writer(self._caller, self._reader, config)
        self._uploads = Uploads(
            self._caller,
            self._reader,
            self._writer,
            config.key_prefix,
            etag_proves=self._etag_proves,
        )
        self._tags = Tags(self._caller, config.key_prefix)
        self._part_copies = PartCopies(
            self._caller, self._reader, self._uploads, self._tags, config.key_prefix
        )
        self._deleting = Deleting(self._caller, config.key_prefix)
        self._matching_deletes = MatchingDeletes(
            self._caller, self._reader, self._writer, config.key_prefix
        )

    def write(self, ctx: Context, request: WriteRequest) -> Coroutine[Any, Any, BlockInfo]:
        full_key = self._full_key(request.operation, request.key)
        return self._writer.write(ctx, request, full_key)

    def check_write(self, request: WriteRequest) -> None:
        _ = self._full_key(request.operation, request.key)
        self._writer.check(request)

    def read(self, ctx: Context, request: ReadRequest) -> Coroutine[Any, Any, Block]:
        return self._reader.read(ctx, request, self._full_key(request.operation, request.key))

    @property
    def reads_in_parts(self) -> bool:
        return True

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        request = ReadRequest(key, operation="verify_block")
        full_key = self._full_key(request.operation, key)
        block = await self._reader.read(ctx, request, full_key, service_checksum_or_etag)
        return None if block.checksums is None else block.checksums.name

    @property
    def keeps_crc32c(self) -> bool:
        verifies = self._config.integrity.verify_ranges != "off"
        return verifies and self._caller.capabilities.checksum_mode is True

    async def kept_crc32c(self, ctx: Context, operation: str, key: str, etag: str) -> int | None:
        full_key = self._full_key(operation, key)
        reply = await self._reader.head(ctx, operation, key, full_key, checksum=True)
        if responses.unquoted(reply.headers["etag"]) != etag:
            return None
        return crc32c_of_all(reply.headers)

    async def start_upload(self, ctx: Context, request: UploadRequest) -> OpenUpload:
        full_key = self._full_key(request.operation, request.key)
        return await self._uploads.start(ctx, request, full_key)

    async def upload_part(
        self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
    ) -> Part:
        return await self._uploads.part(ctx, upload, number, data)

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        copied = is_copy(upload)
        if copied:
            await self._part_copies.check_source(ctx, upload, checksum_of_all(parts))
        info = await self._uploads.complete(ctx, upload, parts)
        request = upload.request
        await self._tags.ensure(ctx, request.operation, request.key, upload.state["tags"])
        return await self._part_copies.check_copy(ctx, upload, info) if copied else info

    async def abort_upload(self, ctx: Context, upload: Upload) -> None:
        return await self._uploads.abort(ctx, upload)

    async def list_uploads(self, ctx: Context, prefix: str, token: str | None) -> UploadPage:
        return await self._uploads.list(ctx, prefix, token)

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        full_key = self._full_key("stat_block", key)
        reply = await self._reader.head(ctx, "stat_block", key, full_key)
        return responses.stat_result(reply, "stat_block", key)

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        learnt = self._caller.capabilities
        if learnt.copies is False:
            raise _no_copies(source_key)
        source = self._full_key("copy_block", source_key)
        target = self._full_key("copy_block", target_key)
        call = FunctionCall(
            "copy_block",
            source_key,
            lambda address: requests.copy_object(address, source, target),
            changes=True,
            object_headers=self._caller.headers.copy,
        )

        def copied(reply: Response) -> tuple[CopyResult, Response]:
            if not reply.body:
                if self._etag_proves:
                    responses.check_stored(reply)
                raise _no_copies(source_key)  # the source was ignored, and nothing stored in place
            return CopyResult(target_key, *responses.copy_result(reply, source_key)), reply

        try:
            result, reply = await self._caller.call(ctx, call, copied)
        except UnsupportedError as error:
            if not self._etag_proves:
                await self._check_ignored(ctx, source_key, target, error)
            learnt.copies = False
            raise
        except S3Error as error:
            if may_be_too_large(error) or lacking(error):
                await self._refuse_copy(ctx, source_key, error)
            if learnt.copies or not lacking(error):
                raise
            learnt.copies = False
            raise _no_copies(source_key) from error
        learnt.copies = True
        where = f"copy_block {source_key!r}: the copy {target_key!r} is stored"
        with ctx.after_change():
            check_encrypted(where, self._caller.headers.copy, reply.headers)
        return result

    async def _check_ignored(
        self, ctx: Context, source_key: str, target: str, error: UnsupportedError
    ) -> None:
        """Raise unless an empty object is what a copy has left, whose source was ignored then."""
        with ctx.after_change():
            with suppress(BlockNotFoundError):
                reply = await self._reader.head(ctx, "copy_block", source_key, target)
                if responses.block_info(source_key, reply).size == 0:
                    return
            raise NotS3Error(
                f"copy_block {source_key!r}: the reply is empty, and no empty object is there: "
                "did a proxy or gateway send it?"
            ) from error

    async def options_of(self, ctx: Context, key: str) -> tuple[PutOptions, BlockInfo]:
        return await self._part_copies.options_of(ctx, key)

    async def start_copy(
        self, ctx: Context, source_key: str, target_key: str
    ) -> tuple[OpenUpload, BlockInfo]:
        _ = self._full_key("copy_block", target_key)
        return await self._part_copies.start(ctx, source_key, target_key)

    async def copy_part(
        self, ctx: Context, upload: OpenUpload, number: int, source: BlockInfo, span: range
    ) -> Part:
        return await self._part_copies.part(ctx, upload, number, source, span)

    async def _refuse_copy(self, ctx: Context, source_key: str, refused: S3Error) -> None:
        """Raise what says more than the service did, where it is for the object's sake."""
        full_key = self._full_key("copy_block", source_key)
        try:
            reply = await self._reader.head(ctx, "copy_block", source_key, full_key)
        except BlockStoreError:
            return
        size = responses.block_info(source_key, reply).size
        if size > part_copies.LARGEST_COPY:
            raise BlockTooLargeError(
                f"copy_block {source_key!r}: {size} bytes, the limit of one CopyObject is "
                f"{part_copies.LARGEST_COPY}"
            ) from refused
        if lacking(refused) and is_encrypted(reply.headers):
            raise UnsupportedError(
                f"copy_block {source_key!r}: the service copies no encrypted objects"
            ) from refused

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        full_key = self._full_key("delete_block", key)
        if if_match is not None:
            await self._matching_deletes.delete(ctx, key, full_key, if_match)
            return
        call = FunctionCall(
            "delete_block",
            key,
            lambda address: requests.delete_object(address, full_key),
            changes=True,
        )
        try:
            await self._caller.call_without_result(ctx, call)
        except BlockNotFoundError:  # some services say so; AWS answers 204
            return

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        return await self._deleting.delete(ctx, keys, self.delete_block)

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        return await self._listed(ctx, request, listing.list_page)

    async def list_keys(
        self, ctx: Context, request: ListRequest
    ) -> tuple[builtins.list[str], str | None]:
        return await self._listed(ctx, request, listing.list_keys)

    def _listed(
        self,
        ctx: Context,
        request: ListRequest,
        read: Callable[[Response, PageRequest, str], Result],
    ) -> Coroutine[Any, Any, Result]:
        page = PageRequest.of(request, self._prefix)
        call = _listing(request.operation, page, request.page_size)
        return self._caller.call(ctx, call, lambda reply: read(reply, page, self._prefix))

    @property
    def name(self) -> str:
        where = self._config.endpoint or self._caller.site.address.host
        return f"s3://{self._config.bucket}/{self._prefix} at {where}"

    @property
    def identity(self) -> str:
        where = service_of(self._config.endpoint, self._config.region)
        return f"s3://{self._config.bucket}/{self._prefix} at {where}"

    async def presign(self, ctx: Context, request: PresignRequest) -> PresignedRequest:
        return await self._caller.presigned(ctx, request, self._full_key("presign", request.key))

    def date(self, ctx: Context) -> datetime | None:
        return None if ctx.reply_headers is None else http_date(ctx.reply_headers.get("date", ""))

    def stats(self) -> StoreStats:
        return self._caller.stats(self._reader.page_size)

    async def health_check(self, ctx: Context) -> HealthReport:
        """See `Store.health_check`. A listing proves more than the reply to a HEAD of the bucket,
        which has no body, may be refused to those who may list, and any web server gives."""
        begun = ctx.runtime.now()
        page = PageRequest(self._prefix)

        def listed(reply: Response) -> Response:
            _ = listing.list_keys(reply, page)
            return reply

        reply = await self._caller.call(ctx, _listing("health_check", page, 1), listed)
        latency = ctx.runtime.now() - begun
        return HealthReport(latency, self.name, reply.headers.get("server", ""))

    def _full_key(self, operation: str, key: str) -> str:
        full_key = self._prefix + key
        if len(full_key) * 4 > MAX_KEY_BYTES and len(full_key.encode()) > MAX_KEY_BYTES:
            raise InvalidKeyError(
                f"{operation} {key[:40]!r}...: with key_prefix the key has "
                f"{len(full_key.encode())} bytes, the limit is {MAX_KEY_BYTES}"
            )
        return full_key


def _listing(operation: str, page: PageRequest, page_size: int) -> FunctionCall:
    return FunctionCall(
        operation,
        None,
        lambda address: requests.list_objects(
            address,
            page.prefix,
            token=page.token,
            max_keys=page_size,
            delimiter=page.delimiter,
            start_after=page.after if page.token is None else "",
        ),
    )


def _no_copies(source_key: str) -> UnsupportedError:
    return UnsupportedError(f"copy_block {source_key!r}: the service has no CopyObject")
