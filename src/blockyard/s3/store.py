"""The S3 store: each operation as the calls it takes and what their replies mean."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

from blockyard.config import S3Config
from blockyard.context import Context, Response
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockTooLargeError,
    BufferTooSmallError,
    InvalidKeyError,
    OversizedBodyError,
    S3Error,
)
from blockyard.keys import MAX_KEY_BYTES, range_past_end
from blockyard.model import KIB, BlockInfo, DeleteResult, HealthReport, Page
from blockyard.s3 import requests, responses
from blockyard.s3.calls import Caller, PlainCall
from blockyard.s3.credentials import CredentialSource
from blockyard.s3.deleting import Deleting
from blockyard.s3.fetching import Asked
from blockyard.s3.integrity import CHECKSUM, checksum_or_etag_claim, upload_headers
from blockyard.s3.reading import Reader
from blockyard.s3.signing import UNSIGNED_PAYLOAD
from blockyard.stores.base import Store

_HASHED_INLINE = 64 * KIB
"""Bodies up to this many bytes are hashed at once; larger ones where they block no one."""
_NONCE = "x-amz-meta-blockyard-nonce"
_HEADER_REFUSED = frozenset({"InvalidArgument", "NotImplemented"})
"""What services answer that refuse headers they do not know."""


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
        self._checksum_welcome = True

    async def write_block(
        self, ctx: Context, key: str, data: bytes | memoryview, *, if_absent: bool
    ) -> BlockInfo:
        payload_hash, headers = await self._guards(ctx, data)
        if if_absent:
            headers[_NONCE] = ctx.runtime.nonce()
        if not self._checksum_welcome:
            del headers[CHECKSUM]
        try:
            return await self._put(ctx, key, data, payload_hash, headers)
        except S3Error as error:
            if CHECKSUM not in headers or error.code not in _HEADER_REFUSED:
                raise
        del headers[CHECKSUM]
        info = await self._put(ctx, key, data, payload_hash, headers)
        self._checksum_welcome = False  # since it was that, and nothing else
        return info

    async def _put(
        self,
        ctx: Context,
        key: str,
        data: bytes | memoryview,
        payload_hash: str,
        headers: dict[str, str],
    ) -> BlockInfo:
        full_key = self._full_key(key)
        if_absent = _NONCE in headers
        call = PlainCall(
            "write_block",
            key,
            lambda address: requests.put_object(
                address, full_key, data, headers=headers, if_absent=if_absent
            ),
            payload_hash=payload_hash,
        )
        try:
            return await self._caller.call(
                ctx, call, lambda reply: responses.block_info(key, reply, size=len(data))
            )
        except S3Error as error:
            if not if_absent or error.status != 412:
                raise
            return await self._own_write_or_exists(ctx, key, headers[_NONCE], error)

    async def read_block(self, ctx: Context, key: str) -> bytes:
        asked = Asked("read_block", key, self._full_key(key))
        try:
            reply, _ = await self._reader.read(ctx, asked)
        except OversizedBodyError as error:
            raise BlockTooLargeError(f"read_block {key!r}: {error}") from None
        return reply.body

    async def read_block_into(self, ctx: Context, key: str, buffer: memoryview) -> int:
        full_key = self._full_key(key)
        asked = Asked(
            "read_block_into", key, full_key, into=buffer, limit=len(buffer), hedged=False
        )
        try:
            reply, _ = await self._reader.read(ctx, asked)
        except OversizedBodyError as error:
            raise BufferTooSmallError(
                f"read_block_into {key!r}: the block has {error.size} bytes, "
                f"the buffer {len(buffer)}"
            ) from None
        return reply.size

    def read_block_range(
        self, ctx: Context, key: str, offset: int, length: int | None
    ) -> Coroutine[Any, Any, bytes]:
        if length == 0:
            return self._read_nothing(ctx, key, offset)
        return self._reader.read_range(ctx, key, self._full_key(key), offset, length)

    async def _read_nothing(self, ctx: Context, key: str, offset: int) -> bytes:
        """An empty range, which HTTP has none of."""
        info = await self.stat_block(ctx, key)
        if offset >= info.size:
            raise range_past_end(key, offset, info.size)
        return b""

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        asked = Asked("verify_block", key, self._full_key(key))
        try:
            _, held_to = await self._reader.read(ctx, asked, checksum_or_etag_claim)
        except OversizedBodyError as error:
            raise BlockTooLargeError(f"verify_block {key!r}: {error}") from None
        return None if held_to is None else held_to.name

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        return responses.block_info(key, await self._head(ctx, "stat_block", key))

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        source, target = self._full_key(source_key), self._full_key(target_key)
        call = PlainCall(
            "copy_block",
            source_key,
            lambda address: requests.copy_object(address, source, target),
        )
        _ = await self._caller.call(
            ctx, call, lambda reply: responses.copy_result(reply, source_key)
        )
        return await self.stat_block(ctx, target_key)

    async def delete_block(self, ctx: Context, key: str) -> None:
        full_key = self._full_key(key)
        call = PlainCall(
            "delete_block", key, lambda address: requests.delete_object(address, full_key)
        )
        try:
            _ = await self._caller.call(ctx, call, _whole)
        except BlockNotFoundError:  # some services say so; AWS answers 204
            return

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        return await self._deleting.delete(ctx, keys, self.delete_block)

    async def list_page(self, ctx: Context, prefix: str, token: str | None, page_size: int) -> Page:
        call = self._listing("list_by_prefix", prefix, token, page_size)
        return await self._caller.call(
            ctx, call, lambda reply: responses.list_page(reply, self._prefix)
        )

    async def list_keys(
        self, ctx: Context, prefix: str, token: str | None, page_size: int
    ) -> tuple[list[str], str | None]:
        call = self._listing("list_by_prefix", prefix, token, page_size)
        return await self._caller.call(
            ctx, call, lambda reply: responses.list_keys(reply, self._prefix)
        )

    async def health_check(self, ctx: Context) -> HealthReport:
        begun = ctx.runtime.now()
        call = PlainCall("health_check", None, requests.head_bucket)
        try:
            reply = await self._caller.call(ctx, call, _whole)
        except S3Error:
            # the reply to a HEAD has no body: ask again in a way that says what is wrong
            listing = self._listing("health_check", "", None, page_size=1)
            _ = await self._caller.call(ctx, listing, _whole)
            raise
        where = self._config.endpoint or self._caller.site.address.host
        hedging = self._caller.hedging
        return HealthReport(
            latency=ctx.runtime.now() - begun,
            store=f"s3://{self._config.bucket}/{self._prefix} at {where}",
            server=reply.headers.get("server", ""),
            reads=hedging.reads if hedging else 0,
            hedges=hedging.sent if hedging else 0,
        )

    def _listing(self, operation: str, prefix: str, token: str | None, page_size: int) -> PlainCall:
        full_prefix = self._prefix + prefix
        return PlainCall(
            operation,
            None,
            lambda address: requests.list_objects(
                address, full_prefix, token=token, max_keys=page_size
            ),
        )

    async def _head(self, ctx: Context, operation: str, key: str) -> Response:
        """The headers of an object. A 404 to a HEAD does not say what is missing: ask."""
        full_key = self._full_key(key)
        call = PlainCall(operation, key, lambda address: requests.head_object(address, full_key))
        try:
            return await self._caller.call(ctx, call, _whole)
        except BlockNotFoundError:
            bucket = PlainCall(operation, None, requests.head_bucket)
            _ = await self._caller.call(ctx, bucket, _whole)
            raise

    async def _own_write_or_exists(
        self, ctx: Context, key: str, nonce: str, refused: S3Error
    ) -> BlockInfo:
        """After a 412: the block is there, and it may be ours, from a try whose reply was lost."""
        with suppress(BlockNotFoundError):  # deleted since: at the time of the write it was there
            reply = await self._head(ctx, "write_block", key)
            if reply.headers.get(_NONCE) == nonce:
                return responses.block_info(key, reply)
        error = BlockExistsError(f"write_block {key!r}: a block is there already")
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


def _whole(reply: Response) -> Response:
    return reply
