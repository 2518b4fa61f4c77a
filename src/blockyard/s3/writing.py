"""PutObject: the write, proof that it was done, and its conditions (`If-None-Match`, `If-Match`).

A conditional write carries a nonce in its metadata. Where a reply was lost, the retry is refused
with a 412, for the block of the first attempt is there: by the nonce the writer recognises it. A
write with `if_match` also stores a hash of the ETag that it replaces, which tells a competing
writer that its own attempts did not replace that version.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from blockyard.config import S3Config
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    PreconditionFailedError,
    ProtocolError,
    S3Error,
    TransportError,
    UnsupportedError,
)
from blockyard.managing import contextmanager
from blockyard.model import KIB, BlockInfo
from blockyard.s3 import requests, responses
from blockyard.s3.call import Call
from blockyard.s3.caller import Caller
from blockyard.s3.endpoints import Address
from blockyard.s3.integrity import CHECKSUM, PAGE_CHECKSUMS, upload_headers
from blockyard.s3.object_headers import ENCRYPTION, check_encrypted
from blockyard.s3.reading import Reader
from blockyard.s3.recovery import refuses_a_header
from blockyard.s3.responses import check_accepted, check_stored
from blockyard.s3.signing import UNSIGNED_PAYLOAD
from blockyard.stores.base import Data, WriteRequest
from blockyard.stores.checks import check_match

_HASHED_INLINE = 64 * KIB
"""Bodies up to this many bytes are hashed on the spot; larger ones off the event loop."""
NONCE = "x-amz-meta-blockyard-nonce"
"""Metadata by which a writer recognises its own object after a lost reply."""
REPLACES = "x-amz-meta-blockyard-replaces"
"""Metadata of a block written with `if_match`: the hash of the ETag that it replaced."""


@dataclass(slots=True, eq=False)
class _Put(Call):
    """The PutObject call for `asked`; `bare_etag` sends the ETag of `If-Match` unquoted."""

    full_key: str
    asked: WriteRequest
    headers: dict[str, str]
    changes: bool = field(default=True, kw_only=True)
    bare_etag: bool = field(default=False, kw_only=True)

    @property
    def where(self) -> str:
        return f"{self.operation} {self.key!r}"

    def check_encrypted(self, reply: Response) -> None:
        if self.object_headers or ENCRYPTION in self.headers:
            asked, where = {**self.headers, **(self.object_headers or {})}, f"{self.where}: stored"
            check_encrypted(where, asked, reply.headers)

    def request(self, address: Address) -> Request:
        return requests.put_object(
            address,
            self.full_key,
            self.asked.data,
            headers=self.headers,
            if_absent=self.asked.if_absent,
            if_match=self.asked.if_match,
            bare_etag=self.bare_etag,
        )


class Writer:
    """Writes blocks of one bucket."""

    def __init__(self, caller: Caller, reader: Reader, config: S3Config) -> None:
        self._caller = caller
        self._reader = reader
        self._sign_payload = config.sign_payload == "always" or (
            config.sign_payload == "auto" and caller.site.address.origin.scheme == "http"
        )
        self._etag_proves = config.write_proof == "etag"

    @property
    def signs_payload(self) -> bool:
        """Whether the signature covers a hash of the body."""
        return self._sign_payload

    def payload_hash(self, data: Data) -> str:
        """The value of `x-amz-content-sha256` for a body."""
        return sha256(data).hexdigest() if self._sign_payload else UNSIGNED_PAYLOAD

    async def write(self, ctx: Context, request: WriteRequest, full_key: str) -> BlockInfo:
        """See `Store.write`."""
        learnt = self._caller.capabilities
        if self._enforces_condition(request) is False:
            raise _condition_ignored_error(request, "not stored")
        payload_hash, headers = await self._integrity_headers(ctx, request.data)
        headers |= self._caller.headers.write(request.operation, request.key, request.options)
        if request.conditional:
            headers[NONCE] = ctx.runtime.nonce()
        if request.if_match is not None:
            headers[REPLACES] = version_hash(request.if_match)
        self._caller.headers.check_metadata(
            request.operation, request.key, request.options, headers
        )
        if not learnt.upload_checksum:
            del headers[CHECKSUM]
        put = _Put(
            request.operation, request.key, full_key, request, headers, payload_hash=payload_hash
        )
        put.bare_etag = learnt.bare_etags
        put.object_headers = self._caller.headers.read
        if self._enforces_condition(request) is None:
            await self._check_condition_now(ctx, put)
        try:
            info = await self._put(ctx, put)
        except S3Error as error:
            if request.conditional and (error.status == 501 or error.code == "NotImplemented"):
                raise _condition_ignored_error(request, "not stored") from error
            raise
        if self._enforces_condition(request) is None:
            await self._probe_enforcement(ctx, put)
        return info

    def check(self, request: WriteRequest) -> None:
        """See `Store.check_write`."""
        what = request.operation, request.key, request.options
        known = self._caller.headers
        headers = known.write(*what)
        if known.has_metadata:
            known.check_metadata(*what, upload_headers(request.data) | headers)

    def _enforces_condition(self, request: WriteRequest) -> bool | None:
        """Whether the service enforces the condition of this write; None: not known yet."""
        learnt = self._caller.capabilities
        if request.if_absent:
            return learnt.conditional_writes
        return True if request.if_match is None else learnt.matching_writes

    def _learn_enforcement(self, request: WriteRequest, *, enforced: bool) -> None:
        if request.if_absent:
            self._caller.capabilities.conditional_writes = enforced
        else:
            self._caller.capabilities.matching_writes = enforced

    async def _put(self, ctx: Context, put: _Put) -> BlockInfo:
        """Send the PUT; again without its checksum header if the service refuses that header."""
        try:
            return await self._send_put(ctx, put)
        except S3Error as error:
            if CHECKSUM not in put.headers or not refuses_a_header(error):
                raise
        del put.headers[CHECKSUM]
        info = await self._send_put(ctx, put)
        self._caller.capabilities.upload_checksum = False  # since it was that, and nothing else
        return info

    async def _send_put(self, ctx: Context, put: _Put) -> BlockInfo:
        try:
            info = await self._caller.call(ctx, put, self._reply_check(put))
        except S3Error as error:
            if not put.asked.conditional or error.status != 412:
                raise
            return await self._resolve_refusal(ctx, put, error)
        except BlockNotFoundError as error:  # the reply to `If-Match` where there is no block
            if put.history().unknown:
                raise _unknown_outcome_error(put, "there is no block now") from error
            raise
        return info if self._etag_proves else await self._confirm_by_head(ctx, put)

    def _reply_check(self, put: _Put) -> Callable[[Response], BlockInfo]:
        """The function that checks the reply to the PUT and gives the info of the block."""
        check = check_stored if self._etag_proves else check_accepted
        key, size = put.asked.key, len(put.asked.data)

        def stored(reply: Response) -> BlockInfo:
            check(reply)
            put.check_encrypted(reply)
            found = reply.headers.get(CHECKSUM)
            if found is not None and found != put.headers.get(CHECKSUM, found):
                raise ProtocolError(f"the service stored other bytes: their CRC32C is {found[:40]}")
            return responses.block_info(key, reply, size=size)

        return stored

    async def _confirm_by_head(self, ctx: Context, put: _Put) -> BlockInfo:
        """The info of the block by a HEAD, for a service whose reply to a PUT proves nothing."""
        with ctx.after_change():
            with suppress(BlockNotFoundError):
                reply = await self._head(ctx, put)
                if reply.headers.get(PAGE_CHECKSUMS) == put.headers[PAGE_CHECKSUMS]:
                    return responses.stat_result(reply, put.operation, put.asked.key)
            raise ProtocolError(
                f"{put.where}: the service took the block, but it is not what is there: "
                "it was lost, or replaced since"
            )

    async def _check_condition_now(self, ctx: Context, put: _Put) -> None:
        """Raise where the condition does not hold now, by a HEAD.

        For a service not yet known to enforce conditions: one that ignores them would replace the
        block.
        """
        if not put.asked.if_absent:
            reply = await self._head(ctx, put)
            check_match(put.where, put.asked.if_match, _etag(reply))
            return
        with suppress(BlockNotFoundError):
            _ = await self._head(ctx, put)
            raise _exists_error(put)

    async def _probe_enforcement(self, ctx: Context, put: _Put) -> None:
        """Find out whether the service enforced a conditional write to its condition.

        Some take the header and ignore it, so that of two writers both seem to win. The block just
        written is written once more, which has to be refused: there is a block, and it never had
        the ETag that is asked for now. With `if_absent` it is sent twice, since somebody may have
        deleted the block in between: then the first one was right to succeed.
        """
        request = put.asked
        if request.if_match is not None:
            request = replace(request, if_match=put.headers[NONCE])
        with ctx.after_change():
            for _ in range(2 if request.if_absent else 1):
                again = replace(put, attempts=None, asked=request)
                try:
                    _ = await self._caller.call(ctx, again, self._reply_check(put))
                except S3Error as error:
                    if error.status != 412:
                        raise
                except BlockNotFoundError:  # deleted in between, and not stored again
                    pass
                else:
                    continue
                self._learn_enforcement(request, enforced=True)
                return
            self._learn_enforcement(request, enforced=False)
            raise _condition_ignored_error(request, "stored, perhaps in place of another")

    async def _resolve_refusal(self, ctx: Context, put: _Put, refused: S3Error) -> BlockInfo:
        """After a 412: the block, if an earlier attempt of this write has stored it; else raise."""
        request, unknown = put.asked, put.history().unknown
        if request.if_absent:
            self._caller.capabilities.conditional_writes = True
        etag = None
        with adding_unknown_attempts(unknown), suppress(BlockNotFoundError):  # deleted since
            reply = await self._head(ctx, put)
            if reply.headers.get(NONCE) == put.headers[NONCE]:
                put.check_encrypted(reply)
                return responses.stat_result(reply, put.operation, request.key)
            etag = _etag(reply)
            if reply.headers.get(REPLACES, "") == put.headers.get(REPLACES):
                unknown = 0  # another replaced that version, so no attempt of this one did
        if request.if_absent:
            error = _exists_error(put)
            error.unknown_attempts = unknown  # should that block go, they may succeed yet
            try:
                raise error from refused
            finally:
                del error  # which its traceback refers to
        unproven = self._caller.capabilities.matching_writes is None
        if etag == request.if_match and unproven and not put.bare_etag:
            return await self._retry_with_bare_etag(ctx, put)
        if unknown:
            now = "there is no block now" if etag is None else f"its ETag is {etag!r} now"
            raise _unknown_outcome_error(put, now) from refused
        if etag is None:
            raise BlockNotFoundError(f"{put.where}: there is no such block") from refused
        check_match(put.where, request.if_match, etag)
        if unproven:
            raise _condition_ignored_error(request, "not stored") from refused
        raise PreconditionFailedError(
            f"{put.where}: its ETag was not {request.if_match!r}, though it is now"
        ) from refused

    async def _retry_with_bare_etag(self, ctx: Context, put: _Put) -> BlockInfo:
        """Retry with an unquoted ETag in `If-Match`: Ceph compares the quotes as well."""
        put.bare_etag = True
        info = await self._send_put(ctx, put)
        self._caller.capabilities.bare_etags = True
        return info

    def _head(self, ctx: Context, put: _Put) -> Coroutine[Any, Any, Response]:
        return self._reader.head(ctx, put.operation, put.asked.key, put.full_key)

    async def _integrity_headers(
        self, ctx: Context, data: bytes | memoryview
    ) -> tuple[str, dict[str, str]]:
        """The payload hash to sign and the checksum headers, off the event loop for much data."""

        def computed() -> tuple[str, dict[str, str]]:
            return self.payload_hash(data), upload_headers(data)

        return computed() if len(data) <= _HASHED_INLINE else await ctx.runtime.blocking(computed)


def version_hash(etag: str) -> str:
    """The hash of an ETag that `REPLACES` holds."""
    return sha256(etag.encode()).hexdigest()[:32]


@contextmanager
def adding_unknown_attempts(attempts: int) -> Generator[None]:
    """Add `attempts` of unknown outcome to every error raised inside."""
    try:
        yield
    except BlockStoreError as error:
        error.unknown_attempts += attempts
        raise


def _etag(reply: Response) -> str:
    return responses.unquoted(reply.headers.get("etag", ""))


def _exists_error(put: _Put) -> BlockExistsError:
    return BlockExistsError(f"{put.where}: a block is there already")


def _unknown_outcome_error(put: _Put, now: str) -> TransportError:
    """The error for a block that is another one after an attempt whose reply was lost."""
    error = TransportError(
        f"{put.where}: no reply says whether it replaced ETag {put.asked.if_match!r}: {now}, "
        "so it did not, or what it wrote was replaced or deleted since"
    )
    error.unknown_attempts = put.history().unknown
    return error


def _condition_ignored_error(request: WriteRequest, outcome: str) -> UnsupportedError:
    header, option = "If-Match", "if_match"
    if request.if_absent:
        header, option = "If-None-Match", "if_absent"
    return UnsupportedError(
        f"{request.operation} {request.key!r}: {outcome}: the service does not hold writes to "
        f"{header}, so {option} is not possible"
    )
