"""The end of a multipart upload: what proves it, and what is known after a lost reply.

CompleteMultipartUpload can't be repeated: once it was done there is no upload any more. So the
object carries a nonce in its metadata, which tells whether the one that is there is of this upload.
What the service says of the whole is compared with what was sent.
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
from blockyard.s3.calls import Caller
from blockyard.s3.endpoints import Address
from blockyard.s3.integrity import CHECKSUM, CHECKSUM_TYPE, FULL_OBJECT
from blockyard.s3.reading import Reader
from blockyard.s3.recovery import Capabilities, lacking
from blockyard.s3.responses import UploadResult
from blockyard.s3.writing import NONCE, REPLACES, replaced
from blockyard.stores.base import OpenUpload, UploadRequest, changed

_OBJECT_SIZE = "x-amz-mp-object-size"


@dataclass(slots=True, eq=False)
class _Complete(Call):
    """The end of an upload; `bare_etag` sends the ETag of its condition without quotes."""

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
        """What tells this upload's object."""
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


class _Whole(NamedTuple):
    """What all parts of an object are together."""

    size: int
    checksum: str
    etag: str | None

    @classmethod
    def of(cls, parts: Sequence[Part]) -> _Whole:
        size = sum(part.size for part in parts)
        return cls(size, checksum_of_all(parts), responses.etag_of_parts(parts))


class Completer:
    """Ends the uploads of one bucket. With `etag_proves` the reply to that is proof enough."""

    def __init__(self, caller: Caller, reader: Reader, *, etag_proves: bool) -> None:
        self._caller = caller
        self._reader = reader
        self._etag_proves = etag_proves

    async def complete(
        self, ctx: Context, opened: OpenUpload, full_key: str, parts: Sequence[Part]
    ) -> BlockInfo:
        """See `Store.complete_upload`."""
        whole, headers = _Whole.of(parts), dict[str, str]()
        if opened.state["checksums"] == FULL_OBJECT and whole.checksum:
            headers = {
                CHECKSUM: whole.checksum,
                CHECKSUM_TYPE: FULL_OBJECT,
                _OBJECT_SIZE: str(whole.size),
            }
        operation, key = opened.request.operation, opened.request.key
        call = _Complete(operation, key, full_key, opened, parts, headers, payload_hash=None)
        call.bare_etag = self._caller.capabilities.bare_etags
        call.object_headers = self._caller.headers.read
        try:
            told = await self._call(ctx, call)
        except BlockStoreError as error:
            return await self._own_or_refused(ctx, call, whole, error)
        return await self._proven(ctx, call, whole, told)

    async def _call(self, ctx: Context, call: _Complete) -> UploadResult:
        read = partial(responses.complete_result, operation=call.operation, key=call.key)
        try:
            return await self._caller.call(ctx, call, read)
        except S3Error as error:
            request = call.opened.request
            if request.conditional and lacking(error):
                learn_holds_to(self._caller.capabilities, request, holds=False)
                raise unconditional(request) from error
            raise

    async def _proven(
        self, ctx: Context, call: _Complete, whole: _Whole, told: UploadResult
    ) -> BlockInfo:
        """The object, looked up where the reply does not prove enough, or has another ETag."""
        with ctx.after_change():
            learnt = self._caller.capabilities
            proven = _compared(call, told, whole) and self._etag_proves
            info = BlockInfo(call.opened.request.key, whole.size, told.etag)
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
            info = _own(call, whole, reply)
            if learnt.upload_etags is None:
                learnt.upload_etags = info.etag == told.etag
            return info

    async def _own_or_refused(
        self, ctx: Context, call: _Complete, whole: _Whole, error: BlockStoreError
    ) -> BlockInfo:
        """After a failure: the object where it is there all the same, else raise what is known.

        A retry of what was done finds no upload any more, or meets the object that it made.
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
                raise _unknown_outcome(call, "what is there now can't be found out") from failure
            if reply is not None and reply.headers.get(NONCE) == call.nonce:
                with ctx.after_change():
                    return _own(call, whole, reply)
            etag = None if reply is None else responses.unquoted(reply.headers.get("etag", ""))
            if request.if_absent and etag is not None and (status == 412 or not unknown):
                raise _exists(call, unknown) from error
            if request.if_match is not None:
                if reply is not None and reply.headers.get(REPLACES) == replaced(request.if_match):
                    unknown = 0  # another replaced that version, so no attempt of this one did
                if etag == request.if_match and status == 412 and not call.bare_etag:
                    return await self._with_bare_etag(ctx, call, whole)
                if not unknown and etag is None:
                    raise BlockNotFoundError(f"{call.where}: there is no such block") from error
                if not unknown and etag != request.if_match:
                    raise changed(call.where, request.if_match, etag) from error
            if unknown:
                now = "there is none now" if etag is None else f"its ETag is {etag!r} now"
                raise _unknown_outcome(call, now) from error
            raise error
        finally:
            del error  # which its traceback refers to, by way of this frame

    async def _with_bare_etag(self, ctx: Context, call: _Complete, whole: _Whole) -> BlockInfo:
        """Once more, when the ETag is the one that was asked for: Ceph compares its quotes too."""
        call.bare_etag = True
        try:
            told = await self._call(ctx, call)
        except BlockStoreError as error:
            return await self._own_or_refused(ctx, call, whole, error)
        self._caller.capabilities.bare_etags = True
        return await self._proven(ctx, call, whole, told)

    async def _head(self, ctx: Context, call: _Complete) -> Response:
        return await self._reader.head(ctx, call.operation, call.opened.request.key, call.full_key)


def _compared(call: _Complete, told: UploadResult, whole: _Whole) -> bool:
    """Whether what the service says of the object shows that it is what was sent.

    Raises `IntegrityError` where it shows that it is not.
    """
    parts = call.parts
    if told.checksum and whole.checksum:
        sent = whole.checksum
        if "-" in told.checksum:  # the checksum of those of the parts
            sums = b"".join([b64decode(checksum_of(part)) for part in parts])
            sent = f"{base64_of(crc32c(sums))}-{len(parts)}"
        if told.checksum != sent:
            raise _other_bytes(call, f"their CRC32C is {told.checksum[:60]}, not {sent}")
        return True
    if whole.etag is None or not responses.is_etag_of_parts(told.etag, len(parts)):
        return False
    if told.etag != whole.etag:
        raise _other_bytes(call, f"their ETag is {told.etag[:60]}, not {whole.etag}")
    return True


def _own(call: _Complete, whole: _Whole, reply: Response) -> BlockInfo:
    """This upload's object, as the reply to a HEAD says."""
    info = responses.stat_result(reply, call.operation, call.opened.request.key)
    if info.size != whole.size:
        raise _other_bytes(call, f"it has {info.size} of them, not {whole.size}")
    return info


def checksum_of(part: Part) -> str:
    """The CRC32C of a part as headers have it, "" where it is not known."""
    return "" if part.crc32c is None else base64_of(part.crc32c)


def checksum_of_all(parts: Sequence[Part]) -> str:
    """That of all parts together, "" where that of one is not known."""
    whole = 0
    for part in parts:
        if part.crc32c is None:
            return ""
        whole = combined(whole, part.crc32c, part.size)
    return base64_of(whole)


def base64_of(crc: int) -> str:
    """A CRC32C as headers have it."""
    return b64encode(crc.to_bytes(4, "big")).decode()


def learn_holds_to(learnt: Capabilities, request: UploadRequest, *, holds: bool) -> None:
    """Note whether the service holds an upload to the condition of this one."""
    if request.if_absent:
        learnt.conditional_uploads = holds
    else:
        learnt.matching_uploads = holds


def unconditional(request: UploadRequest) -> UnsupportedError:
    """The error for a condition that the service ignores."""
    header, option = "If-Match", "if_match"
    if request.if_absent:
        header, option = "If-None-Match", "if_absent"
    return UnsupportedError(
        f"{request.operation} {request.key!r}: not stored: the service does not hold uploads in "
        f"parts to {header}, so {option} is not possible for more than one part"
    )


def _other_bytes(call: _Complete, how: str) -> IntegrityError:
    return IntegrityError(
        f"{call.where}: the service stored other bytes than were sent: {how}; delete the object"
    )


def _exists(call: _Complete, unknown: int) -> BlockExistsError:
    error = BlockExistsError(f"{call.where}: a block is there already")
    error.unknown_attempts = unknown
    return error


def _unknown_outcome(call: _Complete, now: str) -> OutcomeUnknownError:
    error = OutcomeUnknownError(
        f"{call.where}: no reply says whether the object was put in place, and it may be yet: {now}"
    )
    error.unknown_attempts = call.history().unknown
    return error
