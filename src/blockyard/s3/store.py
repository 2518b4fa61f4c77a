"""The S3 store: each operation as the calls it takes and what their replies mean."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from blockyard.config import S3Config
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    InvalidKeyError,
    ProtocolError,
    S3Error,
    UnsupportedError,
)
from blockyard.keys import MAX_KEY_BYTES
from blockyard.model import KIB, Block, BlockInfo, DeleteResult, HealthReport, Page
from blockyard.s3 import listing, requests, responses
from blockyard.s3.attempts import Call, PlainCall
from blockyard.s3.calls import Caller
from blockyard.s3.capabilities import lacking, refuses_a_header
from blockyard.s3.credentials import CredentialSource
from blockyard.s3.deleting import Deleting
from blockyard.s3.integrity import (
    CHECKSUM,
    PAGE_CHECKSUMS,
    service_checksum_or_etag,
    upload_headers,
)
from blockyard.s3.listing import PageAsked
from blockyard.s3.proof import check_deleted, check_stored, check_taken
from blockyard.s3.reading import Reader
from blockyard.s3.requests import Address
from blockyard.s3.signing import UNSIGNED_PAYLOAD
from blockyard.stores.base import ListRequest, ReadRequest, Store

_HASHED_INLINE = 64 * KIB
"""Bodies up to this many bytes are hashed at once; larger ones where they block no one."""
_NONCE = "x-amz-meta-blockyard-nonce"


class S3Store(Store):
    """Blocks as objects of one bucket, their keys behind `key_prefix`."""

    def __init__(self, config: S3Config, credentials: CredentialSource) -> None:
        self._config = config
        self._prefix = config.key_prefix
        self._caller = Caller(config, credentials)
        self._reader = Reader(self._caller, config.integrity.verify_ranges)
        self._deleting = Deleting(self._caller, config.key_prefix)
        signed = config.sign_payload == "always" or (
            config.sign_payload == "auto" and self._caller.site.address.origin.scheme == "http"
        )
        self._sign_payload = signed
        self._etag_proves = config.write_proof == "etag"

    async def write_block(
        self, ctx: Context, key: str, data: bytes | memoryview, *, if_absent: bool
    ) -> BlockInfo:
        learnt = self._caller.capabilities
        if if_absent and learnt.conditional_writes is False:
            raise _unconditional(f"write_block {key!r}: not stored")
        if if_absent and learnt.conditional_writes is None:
            await self._refuse_existing(ctx, key)
        payload_hash, headers = await self._guards(ctx, data)
        if if_absent:
            headers[_NONCE] = ctx.runtime.nonce()
        if not learnt.upload_checksum:
            del headers[CHECKSUM]
        full_key = self._full_key(key)
        put = _Put("write_block", key, full_key, data, headers, payload_hash=payload_hash)
        try:
            info = await self._put(ctx, put)
        except S3Error as error:
            if if_absent and (error.status == 501 or error.code == "NotImplemented"):
                raise _unconditional(f"write_block {key!r}: not stored") from error
            raise
        if if_absent and learnt.conditional_writes is None:
            await self._check_conditional(ctx, put)
        return info

    async def _put(self, ctx: Context, put: _Put) -> BlockInfo:
        """Without its checksum header where it is that which the service refuses."""
        try:
            return await self._put_as_it_is(ctx, put)
        except S3Error as error:
            if CHECKSUM not in put.headers or not refuses_a_header(error):
                raise
        del put.headers[CHECKSUM]
        info = await self._put_as_it_is(ctx, put)
        self._caller.capabilities.upload_checksum = False  # since it was that, and nothing else
        return info

    async def _put_as_it_is(self, ctx: Context, put: _Put) -> BlockInfo:
        if_absent = _NONCE in put.headers
        try:
            info = await self._caller.call(ctx, put, self._stored(put))
        except S3Error as error:
            if not if_absent or error.status != 412:
                raise
            self._caller.capabilities.conditional_writes = True
            return await self._own_write_or_exists(ctx, put, error)
        return info if self._etag_proves else await self._looked_up(ctx, put)

    def _stored(self, put: _Put) -> Callable[[Response], BlockInfo]:
        """What the reply to the write is held to, and read as."""
        check = check_stored if self._etag_proves else check_taken
        key, size = put.key or "", len(put.data)

        def stored(reply: Response) -> BlockInfo:
            check(reply)
            found = reply.headers.get(CHECKSUM)
            if found is not None and found != put.headers.get(CHECKSUM, found):
                raise ProtocolError(f"the service stored other bytes: their CRC32C is {found[:40]}")
            return responses.block_info(key, reply, size=size)

        return stored

    async def _looked_up(self, ctx: Context, put: _Put) -> BlockInfo:
        """The block, if it is there: for a service whose reply to a write proves nothing."""
        key = put.key or ""
        with _perhaps_done(1):
            with suppress(BlockNotFoundError):
                reply = await self._head(ctx, "write_block", key)
                if reply.headers.get(PAGE_CHECKSUMS) == put.headers[PAGE_CHECKSUMS]:
                    return responses.stat_result(reply, "write_block", key)
            raise ProtocolError(
                f"write_block {key!r}: the service took the block, but it is not what is there: "
                "it was lost, or replaced since"
            )

    async def _refuse_existing(self, ctx: Context, key: str) -> None:
        """Before it is known that conditions are kept: a service that ignores them would replace
        the block."""
        with suppress(BlockNotFoundError):
            _ = await self._head(ctx, "write_block", key)
            raise BlockExistsError(f"write_block {key!r}: a block is there already")

    async def _check_conditional(self, ctx: Context, put: _Put) -> None:
        """Find out whether the service holds a conditional write to its condition.

        Some take `If-None-Match: *` and ignore it, so that of two writers both seem to win. The
        block just written is written once more, which has to be refused. Sent twice, since
        somebody may have deleted the block in between: then the first one was right to succeed.
        """
        learnt = self._caller.capabilities
        with _perhaps_done(1):
            for _ in range(2):
                try:
                    _ = await self._caller.call(ctx, replace(put, attempts=None), self._stored(put))
                except S3Error as error:
                    if error.status != 412:
                        raise
                    learnt.conditional_writes = True
                    return
            learnt.conditional_writes = False
            raise _unconditional(f"write_block {put.key!r}: stored, perhaps in place of another")

    def read(self, ctx: Context, request: ReadRequest) -> Coroutine[Any, Any, Block]:
        return self._reader.read(ctx, request, self._full_key(request.key))

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        request = ReadRequest(key, operation="verify_block")
        block = await self._reader.read(ctx, request, self._full_key(key), service_checksum_or_etag)
        return None if block.checksums is None else block.checksums.name

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        reply = await self._head(ctx, "stat_block", key)
        return responses.stat_result(reply, "stat_block", key)

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        """See `Store.copy_block`. The reply to a copy does not tell the size: the source's is the
        copy's when both have one ETag, so the source is looked up beside the copy."""
        learnt = self._caller.capabilities
        if learnt.copies is False:
            raise _no_copies(source_key)

        async def sides(copy: bool) -> BlockInfo | None:
            if copy:
                return await self._copied(ctx, source_key, target_key)
            if not learnt.copies_keep_etags:
                return None
            with suppress(BlockStoreError):  # if it matters, the copy will tell
                return await self.stat_block(ctx, source_key)
            return None

        source, copied = await ctx.runtime.gather(sides, (False, True), 2)
        learnt.copies = True
        if source is None or copied is None or source.etag != copied.etag:
            learnt.copies_keep_etags = source is None and learnt.copies_keep_etags
            with _perhaps_done(1):
                return await self.stat_block(ctx, target_key)
        return copied._replace(size=source.size)

    async def _copied(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        """The copy, but for its size."""
        learnt = self._caller.capabilities
        source, target = self._full_key(source_key), self._full_key(target_key)
        call = PlainCall(
            "copy_block",
            source_key,
            lambda address: requests.copy_object(address, source, target),
            changes=True,
        )

        def copied(reply: Response) -> BlockInfo:
            if not reply.body:  # the source was ignored, and nothing was stored as the target
                raise _no_copies(source_key)
            etag, last_modified = responses.copy_result(reply, source_key)
            return BlockInfo(target_key, 0, etag, last_modified)

        try:
            return await self._caller.call(ctx, call, copied)
        except UnsupportedError:
            learnt.copies = False
            raise
        except S3Error as error:
            if learnt.copies or not lacking(error):
                raise
            learnt.copies = False
            raise _no_copies(source_key) from error

    async def delete_block(self, ctx: Context, key: str) -> None:
        full_key = self._full_key(key)
        call = PlainCall(
            "delete_block",
            key,
            lambda address: requests.delete_object(address, full_key),
            changes=True,
        )
        try:
            await self._caller.call(ctx, call, check_deleted)
        except BlockNotFoundError:  # some services say so; AWS answers 204
            return

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        return await self._deleting.delete(ctx, keys, self.delete_block)

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        asked = PageAsked.of(request, self._prefix)
        call = _listing(request.operation, asked, request.page_size)
        return await self._caller.call(
            ctx, call, lambda reply: listing.list_page(reply, asked, self._prefix)
        )

    async def list_keys(
        self, ctx: Context, request: ListRequest
    ) -> tuple[builtins.list[str], str | None]:
        asked = PageAsked.of(request, self._prefix)
        call = _listing(request.operation, asked, request.page_size)
        return await self._caller.call(
            ctx, call, lambda reply: listing.list_keys(reply, asked, self._prefix)
        )

    @property
    def name(self) -> str:
        where = self._config.endpoint or self._caller.site.address.host
        return f"s3://{self._config.bucket}/{self._prefix} at {where}"

    async def health_check(self, ctx: Context) -> HealthReport:
        """See `Store.health_check`. A listing proves more than the reply to a HEAD of the bucket,
        which has no body, may be refused to those who may list, and any web server gives."""
        begun = ctx.runtime.now()
        asked = PageAsked(self._prefix)

        def listed(reply: Response) -> Response:
            _ = listing.list_keys(reply, asked)
            return reply

        reply = await self._caller.call(ctx, _listing("health_check", asked, 1), listed)
        hedging = self._caller.hedging
        return HealthReport(
            latency=ctx.runtime.now() - begun,
            store=self.name,
            server=reply.headers.get("server", ""),
            reads=hedging.reads if hedging else 0,
            hedges=hedging.sent if hedging else 0,
        )

    def _head(self, ctx: Context, operation: str, key: str) -> Coroutine[Any, Any, Response]:
        return self._reader.head(ctx, operation, key, self._full_key(key))

    async def _own_write_or_exists(self, ctx: Context, put: _Put, refused: S3Error) -> BlockInfo:
        """After a 412: the block is there, and it may be ours, from a try whose reply was lost."""
        key = put.key or ""
        tried = _perhaps_done(put.history().unknown)
        with tried, suppress(BlockNotFoundError):  # deleted since: when it was written it was there
            reply = await self._head(ctx, "write_block", key)
            if reply.headers.get(_NONCE) == put.headers[_NONCE]:
                return responses.stat_result(reply, "write_block", key)
        error = BlockExistsError(f"write_block {key!r}: a block is there already")
        error.unknown_attempts = put.history().unknown  # should that block go, they may succeed yet
        raise error from refused

    async def _guards(self, ctx: Context, data: bytes | memoryview) -> tuple[str, dict[str, str]]:
        """The payload hash to sign and the checksum headers; for much data where it blocks none."""

        def guards() -> tuple[str, dict[str, str]]:
            signed = sha256(data).hexdigest() if self._sign_payload else UNSIGNED_PAYLOAD
            return signed, upload_headers(data)

        return guards() if len(data) <= _HASHED_INLINE else await ctx.runtime.blocking(guards)

    def _full_key(self, key: str) -> str:
        full_key = self._prefix + key
        if len(full_key) * 4 > MAX_KEY_BYTES and len(full_key.encode()) > MAX_KEY_BYTES:
            raise InvalidKeyError(
                f"key {key[:40]!r}...: with key_prefix it has {len(full_key.encode())} bytes, "
                f"the limit is {MAX_KEY_BYTES}"
            )
        return full_key


@dataclass(slots=True)
class _Put(Call):
    """A write; conditional when its `headers` hold a nonce."""

    full_key: str
    data: bytes | memoryview
    headers: dict[str, str]
    changes: bool = field(default=True, kw_only=True)

    def request(self, address: Address) -> Request:
        return requests.put_object(
            address,
            self.full_key,
            self.data,
            headers=self.headers,
            if_absent=_NONCE in self.headers,
        )


@contextmanager
def _perhaps_done(attempts: int) -> Generator[None]:
    """What follows on a change: its errors say that `attempts` may have taken effect."""
    try:
        yield
    except BlockStoreError as error:
        error.unknown_attempts += attempts
        raise


def _listing(operation: str, asked: PageAsked, page_size: int) -> PlainCall:
    return PlainCall(
        operation,
        None,
        lambda address: requests.list_objects(
            address,
            asked.prefix,
            token=asked.token,
            max_keys=page_size,
            delimiter=asked.delimiter,
            start_after=asked.after if asked.token is None else "",
        ),
    )


def _unconditional(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what}: the service does not hold writes to If-None-Match, so if_absent is not possible"
    )


def _no_copies(source_key: str) -> UnsupportedError:
    return UnsupportedError(f"copy_block {source_key!r}: the service has no CopyObject")
