"""CompleteMultipartUpload: proof that it was done, and recovery after a lost reply.

The request is not idempotent: once it was done, the upload is gone and a retry gets a 404. So the
object carries a nonce in its metadata, by which a HEAD tells whether this upload made it.
What the service says of the whole object is compared with what was sent.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from blockyard.context import Context, Request, Response
from blockyard.crc32c import combined, crc32c
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    IntegrityError,
    OutcomeUnknownError,
    ProtocolError,
    S3Error,
    UnsupportedError,
)
from blockyard.model import BlockInfo, Part
from blockyard.s3 import requests, responses
from blockyard.s3.call import Call
from blockyard.s3.caller import Caller
from blockyard.s3.endpoints import Address
from blockyard.s3.integrity import CHECKSUM, CHECKSUM_TYPE, FULL_OBJECT
from blockyard.s3.reading import Reader
from blockyard.s3.recovery import Capabilities, lacking
from blockyard.s3.responses import UploadResult
from blockyard.s3.writing import NONCE, REPLACES, version_hash
from blockyard.stores.base import OpenUpload, UploadRequest
from blockyard.stores.checks import etag_mismatch

_OBJECT_SIZE = "x-amz-mp-object-size"


@dataclass(slots=True, eq=False)
class _Complete(Call):
    """The CompleteMultipartUpload call; `bare_etag` sends the ETag of `If-Match` unquoted."""

    full_key: str
    opened: OpenUpload
    parts: Sequence[Part]
    headers: dict[str, str]
    changes: bool = field(default=True, kw_only=True)
    bare_etag: bool = field(default=False, kw_only=True)

    @property
    def where(self) -> str:
        return f"{self.operation} {self.key!r}"

    @property
    def nonce(self) -> str:
        """The nonce in the metadata of the object that this upload makes."""
        return self.opened.state["nonce"]

    def request(self, address: Address) -> Request:
        asked = self.opened.request
        listed = [
            (part.number, part.etag, checksum_of(part) if part.verified else "")
            for part in self.parts
        ]
        return requests.complete_upload(
            address,
            self.full_key,
            self.opened.upload.id,
            listed,
            self.headers,
            if_absent=asked.if_absent,
            if_match=asked.if_match,
            bare_etag=self.bare_etag,
        )


class _Total(NamedTuple):
    """Size, CRC32C and multipart ETag that all parts together should have."""

    size: int
    checksum: str
    etag: str | None

    @classmethod
    def of(cls, parts: Sequence[Part]) -> _Total:
        size = sum(part.size for part in parts)
        return cls(size, checksum_of_all(parts), responses.etag_of_parts(parts))


class Completer:
    """Completes uploads to one bucket.

    With `etag_proves` an ETag in the reply is enough proof; else the object is looked up as well.
    """

    def __init__(self, caller: Caller, reader: Reader, *, etag_proves: bool) -> None:
        self._caller = caller
        self._reader = reader
        self._etag_proves = etag_proves

    async def complete(
        self, ctx: Context, opened: OpenUpload, full_key: str, parts: Sequence[Part]
    ) -> BlockInfo:
        """See `Store.complete_upload`."""
        total, headers = _Total.of(parts), dict[str, str]()
        if opened.state["checksums"] == FULL_OBJECT and total.checksum:
            headers = {
                CHECKSUM: total.checksum,
                CHECKSUM_TYPE: FULL_OBJECT,
                _OBJECT_SIZE: str(total.size),
            }
        operation, key = opened.request.operation, opened.request.key
        call = _Complete(operation, key, full_key, opened, parts, headers, payload_hash=None)
        call.bare_etag = self._caller.capabilities.bare_etags
        call.object_headers = self._caller.headers.read
        try:
            result = await self._call(ctx, call)
        except BlockStoreError as error:
            return await self._resolve_failure(ctx, call, total, error)
        return await self._confirmed_info(ctx, call, total, result)

    async def _call(self, ctx: Context, call: _Complete) -> UploadResult:
        read = partial(responses.complete_result, operation=call.operation, key=call.key)
        try:
            return await self._caller.call(ctx, call, read)
        except S3Error as error:
            request = call.opened.request
            if request.conditional and lacking(error):
                learn_enforcement(self._caller.capabilities, request, enforced=False)
                raise condition_ignored_error(request) from error
            raise

    async def _confirmed_info(
        self, ctx: Context, call: _Complete, total: _Total, result: UploadResult
    ) -> BlockInfo:
        """The info of the completed object; from a HEAD where the reply does not prove enough."""
        with ctx.after_change():
            learnt = self._caller.capabilities
            proven = _matches_sent(call, result, total) and self._etag_proves
            info = BlockInfo(call.opened.request.key, total.size, result.etag)
            if proven and learnt.upload_etags:
                return info
            reply = None
            with suppress(BlockNotFoundError):
                reply = await self._head(ctx, call)
            if reply is None or reply.headers.get(NONCE, call.nonce) != call.nonce:
                if proven:  # and replaced or deleted since
                    return info
                raise ProtocolError(
                    f"{call.where}: the service took the object, but it is not what is there: "
                    "it was lost, or replaced since"
                )
            info = _own_object(call, total, reply)
            if learnt.upload_etags is None:
                learnt.upload_etags = info.etag == result.etag
            return info

    async def _resolve_failure(
        self, ctx: Context, call: _Complete, total: _Total, error: BlockStoreError
    ) -> BlockInfo:
        """After a failure, look whether the object is there all the same; else raise.

        A retry of a completion that was done gets a 404 for the upload, or fails the condition on
        the object that it made itself: the nonce tells.
        """
        try:
            unknown, request = call.history().unknown, call.opened.request
            status = error.status if isinstance(error, S3Error) else 0
            missing = isinstance(error, BlockNotFoundError)
            if not unknown and not missing and status not in {404, 409, 412}:
                raise error
            reply = None
            try:
                with suppress(BlockNotFoundError):
                    reply = await self._head(ctx, call)
            except BlockStoreError as failure:
                if not unknown:
                    raise error from failure
                raise _unknown_outcome_error(
                    call, "what is there now can't be found out"
                ) from failure
            if reply is not None and reply.headers.get(NONCE) == call.nonce:
                with ctx.after_change():
                    return _own_object(call, total, reply)
            etag = None if reply is None else responses.unquoted(reply.headers.get("etag", ""))
            if request.if_absent and etag is not None and (status == 412 or not unknown):
                raise _exists_error(call, unknown) from error
            if request.if_match is not None:
                if reply is not None and reply.headers.get(REPLACES) == version_hash(
                    request.if_match
                ):
                    unknown = (
                        0  # another writer replaced that version, so no attempt of this one did
                    )
                if etag == request.if_match and status == 412 and not call.bare_etag:
                    return await self._retry_with_bare_etag(ctx, call, total)
                if not unknown and etag is None:
                    raise BlockNotFoundError(f"{call.where}: there is no such block") from error
                if not unknown and etag != request.if_match:
                    raise etag_mismatch(call.where, request.if_match, etag) from error
            if unknown:
                now = "there is none now" if etag is None else f"its ETag is {etag!r} now"
                raise _unknown_outcome_error(call, now) from error
            raise error
        finally:
            del error  # which its traceback refers to, by way of this frame

    async def _retry_with_bare_etag(
        self, ctx: Context, call: _Complete, total: _Total
    ) -> BlockInfo:
        """Retry with an unquoted ETag in `If-Match`: Ceph compares the quotes as well."""
        call.bare_etag = True
        try:
            result = await self._call(ctx, call)
        except BlockStoreError as error:
            return await self._resolve_failure(ctx, call, total, error)
        self._caller.capabilities.bare_etags = True
        return await self._confirmed_info(ctx, call, total, result)

    async def _head(self, ctx: Context, call: _Complete) -> Response:
        return await self._reader.head(ctx, call.operation, call.opened.request.key, call.full_key)


def _matches_sent(call: _Complete, result: UploadResult, total: _Total) -> bool:
    """Whether checksum or ETag of the object prove that its bytes are those sent.

    Raises `IntegrityError` where they prove that it has other bytes.
    """
    parts = call.parts
    if result.checksum and total.checksum:
        sent = total.checksum
        if "-" in result.checksum:  # a composite: the checksum of the checksums of the parts
            sums = b"".join([b64decode(checksum_of(part)) for part in parts])
            sent = f"{base64_of(crc32c(sums))}-{len(parts)}"
        if result.checksum != sent:
            raise _other_bytes_error(call, f"their CRC32C is {result.checksum[:60]}, not {sent}")
        return True
    if total.etag is None or not responses.is_etag_of_parts(result.etag, len(parts)):
        return False
    if result.etag != total.etag:
        raise _other_bytes_error(call, f"their ETag is {result.etag[:60]}, not {total.etag}")
    return True


def _own_object(call: _Complete, total: _Total, reply: Response) -> BlockInfo:
    """The info of this upload's object, from the reply to a HEAD. Raises `IntegrityError`."""
    info = responses.stat_result(reply, call.operation, call.opened.request.key)
    if info.size != total.size:
        raise _other_bytes_error(call, f"it has {info.size} of them, not {total.size}")
    return info


def checksum_of(part: Part) -> str:
    """The CRC32C of a part in base64, "" where it is not known."""
    return "" if part.crc32c is None else base64_of(part.crc32c)


def checksum_of_all(parts: Sequence[Part]) -> str:
    """The CRC32C of all parts together in base64, "" where that of a part is not known."""
    total = 0
    for part in parts:
        if part.crc32c is None:
            return ""
        total = combined(total, part.crc32c, part.size)
    return base64_of(total)


def base64_of(crc: int) -> str:
    """A CRC32C in base64, as in headers."""
    return b64encode(crc.to_bytes(4, "big")).decode()


def learn_enforcement(learnt: Capabilities, request: UploadRequest, *, enforced: bool) -> None:
    """Note whether the service enforces this kind of condition when an upload is completed."""
    if request.if_absent:
        learnt.conditional_uploads = enforced
    else:
        learnt.matching_uploads = enforced


def condition_ignored_error(request: UploadRequest) -> UnsupportedError:
    """The error for a condition that the service ignores."""
    header, option = "If-Match", "if_match"
    if request.if_absent:
        header, option = "If-None-Match", "if_absent"
    return UnsupportedError(
        f"{request.operation} {request.key!r}: not stored: the service does not hold uploads in "
        f"parts to {header}, so {option} is not possible for more than one part"
    )


def _other_bytes_error(call: _Complete, how: str) -> IntegrityError:
    return IntegrityError(
        f"{call.where}: the service stored other bytes than were sent: {how}; delete the object"
    )


def _exists_error(call: _Complete, unknown: int) -> BlockExistsError:
    error = BlockExistsError(f"{call.where}: a block is there already")
    error.unknown_attempts = unknown
    return error


def _unknown_outcome_error(call: _Complete, now: str) -> OutcomeUnknownError:
    error = OutcomeUnknownError(
        f"{call.where}: no reply says whether the object was put in place, and it may be yet: {now}"
    )
    error.unknown_attempts = call.history().unknown
    return error
