"""Multipart uploads: an object of any size, sent in parts, put in place in one step at the end.

Each part goes with its CRC32C, and what the service says of the whole is compared with what was
sent. The object carries a nonce in its metadata: CompleteMultipartUpload can't be repeated, so when
a reply was lost it tells whether the object that is there is the one of this upload.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import md5
from typing import NamedTuple, TypeVar

from blockyard.context import Context, Request, Response
from blockyard.crc32c import combined, crc32c
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    IntegrityError,
    OutcomeUnknownError,
    PreconditionFailedError,
    ProtocolError,
    S3Error,
    UnsupportedError,
)
from blockyard.keys import PROBE_PREFIX
from blockyard.model import BlockInfo, Part, Upload, UploadPage
from blockyard.s3 import requests, responses
from blockyard.s3.calls import Call, Caller, FunctionCall
from blockyard.s3.endpoints import Address
from blockyard.s3.integrity import CHECKSUM
from blockyard.s3.listing import uploads_page
from blockyard.s3.reading import Reader
from blockyard.s3.recovery import lacking, refuses_a_header
from blockyard.s3.responses import UploadResult
from blockyard.s3.writing import NONCE, REPLACES, Writer, replaced
from blockyard.stores.base import Data, OpenUpload, UploadRequest, WriteRequest, changed

Result = TypeVar("Result")

_OPERATION = "write_object"
_ALGORITHM = "x-amz-checksum-algorithm"
_TYPE = "x-amz-checksum-type"
_WHOLE = "FULL_OBJECT"
_SIZE = "x-amz-mp-object-size"
_PARTS, _PARTS_AND_WHOLE = "parts", "parts and whole"
"""What the service compares checksums of, by the reply to the beginning of an upload."""


@dataclass(slots=True)
class _Complete(Call):
    """The end of an upload; `bare_etag` sends the ETag of its condition without quotes."""

    full_key: str
    opened: OpenUpload
    parts: list[tuple[int, str, str]]
    headers: dict[str, str]
    changes: bool = field(default=True, kw_only=True)
    bare_etag: bool = field(default=False, kw_only=True)

    @property
    def where(self) -> str:
        return f"{_OPERATION} {self.key!r}"

    def request(self, address: Address) -> Request:
        asked = self.opened.request
        return requests.complete_upload(
            address,
            self.full_key,
            self.opened.upload.id,
            self.parts,
            self.headers,
            if_absent=asked.if_absent,
            if_match=asked.if_match,
            bare_etag=self.bare_etag,
        )


class _Whole(NamedTuple):
    """What all parts of an object are together."""

    size: int
    crc32c: int
    etag: str | None

    @classmethod
    def of(cls, parts: Sequence[Part]) -> _Whole:
        whole = 0
        for part in parts:
            whole = combined(whole, part.crc32c, part.size)
        return cls(sum(part.size for part in parts), whole, responses.etag_of_parts(parts))


class Uploads:
    """The multipart uploads of one bucket."""

    def __init__(
        self, caller: Caller, reader: Reader, writer: Writer, key_prefix: str, *, etag_proves: bool
    ) -> None:
        self._caller = caller
        self._reader = reader
        self._writer = writer
        self._prefix = key_prefix
        self._etag_proves = etag_proves

    async def start(self, ctx: Context, request: UploadRequest, full_key: str) -> OpenUpload:
        """See `Store.start_upload`. A condition that does not hold now is refused here."""
        if request.conditional:
            if await self._holds_to(ctx, request) is False:
                raise _unconditional(request)
            await self._refuse_now(ctx, request, full_key)
        return await self._create(ctx, request, full_key)

    async def part(self, ctx: Context, opened: OpenUpload, number: int, data: Data) -> Part:
        """See `Store.upload_part`."""
        learnt, full_key = self._caller.capabilities, self._prefix + opened.upload.key
        checksums = bool(opened.state["checksums"])
        proven = learnt.part_checksums and checksums
        hashed = not proven and not self._writer.signs_payload

        def guards() -> tuple[str, int, dict[str, str]]:
            crc, headers = crc32c(data), dict[str, str]()
            if checksums:
                headers[CHECKSUM] = _base64(crc)
            if hashed:
                digest = md5(data, usedforsecurity=False).digest()
                headers["content-md5"] = b64encode(digest).decode()
            return self._writer.payload_hash(data), crc, headers

        payload_hash, crc, headers = await ctx.runtime.blocking(guards)
        call = FunctionCall(
            _OPERATION,
            opened.upload.key,
            lambda address: requests.upload_part(
                address, full_key, opened.upload.id, number, memoryview(data), headers=headers
            ),
            payload_hash=payload_hash,
            object_headers=self._caller.headers.read,
        )

        def stored(reply: Response) -> Part:
            responses.check_stored(reply)
            told = reply.headers.get(CHECKSUM)
            if told is not None and told != _base64(crc):
                raise ProtocolError(
                    f"the service stored other bytes of part {number}: their CRC32C is {told[:40]}"
                )
            if told is not None:
                learnt.part_checksums = True
            etag = responses.unquoted(reply.headers["etag"])
            return Part(number, len(data), crc, etag, told is not None)

        return await self._caller.call(ctx, call, stored)

    async def complete(self, ctx: Context, opened: OpenUpload, parts: Sequence[Part]) -> BlockInfo:
        """See `Store.complete_upload`."""
        key, whole = opened.upload.key, _Whole.of(parts)
        headers = dict[str, str]()
        if opened.state["checksums"] == _PARTS_AND_WHOLE:
            headers = {CHECKSUM: _base64(whole.crc32c), _TYPE: _WHOLE, _SIZE: str(whole.size)}
        listed = [
            (part.number, part.etag, _base64(part.crc32c) if part.verified else "")
            for part in parts
        ]
        call = _Complete(
            _OPERATION, key, self._prefix + key, opened, listed, headers, payload_hash=None
        )
        call.bare_etag = self._caller.capabilities.bare_etags
        call.object_headers = self._caller.headers.read
        try:
            told = await self._call_complete(ctx, call)
        except BlockStoreError as error:
            return await self._own_or_refused(ctx, call, whole, error)
        proven = self._compared(call, told, parts, whole)
        learnt = self._caller.capabilities
        if proven and learnt.upload_etags and self._etag_proves:
            return BlockInfo(key, whole.size, told.etag)
        info = await self._looked_up(ctx, call, whole)
        if learnt.upload_etags is None:
            learnt.upload_etags = info.etag == told.etag
        return info

    async def abort(self, ctx: Context, upload: Upload) -> None:
        """See `Store.abort_upload`."""
        full_key = self._prefix + upload.key
        call = FunctionCall(
            "abort_upload",
            upload.key,
            lambda address: requests.abort_upload(address, full_key, upload.id),
        )
        try:
            await self._caller.call(ctx, call, responses.check_deleted)
        except BlockNotFoundError:
            return
        except S3Error as error:
            if error.status != 404:
                raise

    async def list(self, ctx: Context, prefix: str, token: str | None) -> UploadPage:
        """See `Store.list_uploads`; none where the service has no such listing."""
        after = None if token is None else _markers(token)
        full_prefix = self._prefix + prefix
        call = FunctionCall(
            "list_uploads",
            None,
            lambda address: requests.list_uploads(address, full_prefix, after),
        )
        read = partial(uploads_page, prefix=full_prefix, after=after, key_prefix=self._prefix)
        try:
            return await self._caller.call(ctx, call, read)
        except S3Error as error:
            if not lacking(error):
                raise
            return UploadPage([], None)

    async def _create(self, ctx: Context, request: UploadRequest, full_key: str) -> OpenUpload:
        learnt = self._caller.capabilities
        nonce = ctx.runtime.nonce()
        headers = dict(self._caller.headers.write(_OPERATION, request.key, request.options))
        headers[NONCE] = nonce
        if request.if_match is not None:
            headers[REPLACES] = replaced(request.if_match)
        checked = headers | {_ALGORITHM: "CRC32C", _TYPE: _WHOLE}
        state = {"nonce": nonce}
        try:
            if learnt.part_checksums is not False:
                try:
                    return await self._created(ctx, request, full_key, checked, state)
                except S3Error as error:
                    if not refuses_a_header(error) or learnt.part_checksums:
                        raise
            opened = await self._created(ctx, request, full_key, headers, state)
        except S3Error as error:
            if learnt.uploads or not lacking(error):
                raise
            raise _no_uploads(request.key) from error
        learnt.part_checksums = False  # since it was those headers, and nothing else
        return opened

    async def _created(
        self,
        ctx: Context,
        request: UploadRequest,
        full_key: str,
        headers: dict[str, str],
        state: dict[str, str],
    ) -> OpenUpload:
        call = FunctionCall(
            _OPERATION,
            request.key,
            lambda address: requests.create_upload(address, full_key, headers),
            object_headers=self._caller.headers.read,
        )

        def created(reply: Response) -> OpenUpload:
            upload_id = responses.upload_id(reply, _OPERATION, request.key)
            checksums = ""
            if _ALGORITHM in headers:
                whole = reply.headers.get(_TYPE) == _WHOLE
                checksums = _PARTS_AND_WHOLE if whole else _PARTS
            upload = Upload(request.key, upload_id)
            return OpenUpload(upload, request, {**state, "checksums": checksums})

        opened = await self._caller.call(ctx, call, created)
        self._caller.capabilities.uploads = True
        return opened

    async def _call_complete(self, ctx: Context, call: _Complete) -> UploadResult:
        read = partial(responses.complete_result, operation=_OPERATION, key=call.key)
        try:
            return await self._caller.call(ctx, call, read)
        except S3Error as error:
            request = call.opened.request
            if request.conditional and lacking(error):
                self._learn_holds_to(request, holds=False)
                raise _unconditional(request) from error
            raise

    def _compared(
        self, call: _Complete, told: UploadResult, parts: Sequence[Part], whole: _Whole
    ) -> bool:
        """Whether what the service says of the object shows that it is what was sent.

        Raises `IntegrityError` where it shows that it is not.
        """
        if told.checksum:
            sent = _base64(whole.crc32c)
            if "-" in told.checksum:  # the checksum of those of the parts
                sums = b"".join([part.crc32c.to_bytes(4, "big") for part in parts])
                sent = f"{_base64(crc32c(sums))}-{len(parts)}"
            if told.checksum != sent:
                raise _other_bytes(call, f"their CRC32C is {told.checksum[:60]}, not {sent}")
            return True
        if whole.etag is None or not responses.is_etag_of_parts(told.etag, len(parts)):
            return False
        if told.etag != whole.etag:
            raise _other_bytes(call, f"their ETag is {told.etag[:60]}, not {whole.etag}")
        return True

    async def _looked_up(self, ctx: Context, call: _Complete, whole: _Whole) -> BlockInfo:
        """The object, of the size that was sent, where the reply to its end proves too little."""
        try:
            reply = await self._head(ctx, call)
        except BlockNotFoundError:
            reply = None
        except BlockStoreError as error:
            error.unknown_attempts += 1
            raise
        if reply is None or not _is_own(call, reply):
            error = ProtocolError(
                f"{call.where}: the service took the object, but it is not what is there: "
                "it was lost, or replaced since"
            )
            error.unknown_attempts = 1
            raise error
        return self._own(call, whole, reply)

    def _own(self, call: _Complete, whole: _Whole, reply: Response) -> BlockInfo:
        """This upload's object, as the reply to a HEAD says."""
        info = responses.stat_result(reply, _OPERATION, call.opened.upload.key)
        if info.size != whole.size:
            raise _other_bytes(call, f"it has {info.size} of them, not {whole.size}")
        return info

    async def _own_or_refused(
        self, ctx: Context, call: _Complete, whole: _Whole, error: BlockStoreError
    ) -> BlockInfo:
        """After a failure: the object where it is there all the same, else raise what is known.

        A retry of what was done finds no upload any more, or meets the object that it made.
        """
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
        if reply is not None and _is_own(call, reply):
            return self._own(call, whole, reply)
        etag = None if reply is None else responses.unquoted(reply.headers.get("etag", ""))
        if request.if_absent and reply is not None:
            exists = _exists(call)
            exists.unknown_attempts = unknown
            raise exists from error
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

    async def _with_bare_etag(self, ctx: Context, call: _Complete, whole: _Whole) -> BlockInfo:
        """Once more, when the ETag is the one that was asked for: Ceph compares its quotes too."""
        call.bare_etag = True
        try:
            _ = await self._call_complete(ctx, call)
        except BlockStoreError as error:
            return await self._own_or_refused(ctx, call, whole, error)
        self._caller.capabilities.bare_etags = True
        return await self._looked_up(ctx, call, whole)

    async def _refuse_now(self, ctx: Context, request: UploadRequest, full_key: str) -> None:
        """Raise at once, and not when all is sent, where the condition does not hold."""
        where = f"{_OPERATION} {request.key!r}"
        try:
            reply = await self._reader.head(ctx, _OPERATION, request.key, full_key)
        except BlockNotFoundError:
            if request.if_match is not None:
                raise
            return
        if request.if_absent:
            raise BlockExistsError(f"{where}: a block is there already")
        etag = responses.unquoted(reply.headers.get("etag", ""))
        if etag != request.if_match:
            raise changed(where, request.if_match, etag)

    async def _holds_to(self, ctx: Context, request: UploadRequest) -> bool:
        """Whether the service holds the end of an upload to its condition: found out once."""
        learnt = self._caller.capabilities
        known = learnt.conditional_uploads if request.if_absent else learnt.matching_uploads
        if known is not None:
            return known
        try:
            holds = await self._find_out(ctx, request)
        except BlockStoreError as error:
            error.add_note(
                f"{_OPERATION} {request.key!r}: before it, with an object made for that, "
                "whether the service holds the end of an upload to its condition"
            )
            error.unknown_attempts = 0  # of the caller's object
            raise
        self._learn_holds_to(request, holds=holds)
        return holds

    def _learn_holds_to(self, request: UploadRequest, *, holds: bool) -> None:
        if request.if_absent:
            self._caller.capabilities.conditional_uploads = holds
        else:
            self._caller.capabilities.matching_uploads = holds

    async def _find_out(self, ctx: Context, request: UploadRequest) -> bool:
        """Whether an upload whose condition does not hold is refused, of an object for that."""
        own = replace(ctx, once=False)  # what it does is no change of the caller's
        key = PROBE_PREFIX + ctx.runtime.nonce()
        full_key = self._prefix + key
        if request.if_absent:
            wanted = UploadRequest(key, if_absent=True)
        else:
            wanted = UploadRequest(key, if_match=own.runtime.nonce())
        _ = await self._writer.write(own, WriteRequest(key, b"probe"), full_key)
        try:
            opened = await self._create(own, wanted, full_key)
            try:
                part = await self.part(own, opened, 1, b"probe")
                _ = await self.complete(own, opened, [part])
            except (BlockExistsError, PreconditionFailedError):
                return True
            except UnsupportedError:
                return False
            finally:
                with suppress(BlockStoreError):
                    await self.abort(own, opened.upload)
        finally:
            delete = FunctionCall(
                _OPERATION,
                key,
                lambda address: requests.delete_object(address, full_key),
                changes=True,
            )
            with suppress(BlockStoreError):
                await self._caller.call(own, delete, responses.check_deleted)
        return False

    async def _head(self, ctx: Context, call: _Complete) -> Response:
        return await self._reader.head(ctx, _OPERATION, call.opened.upload.key, call.full_key)


def _is_own(call: _Complete, reply: Response) -> bool:
    return reply.headers.get(NONCE) == call.opened.state["nonce"]


def _markers(token: str) -> tuple[str, str]:
    key, _, upload_id = token.partition("\0")
    return key, upload_id


def _base64(crc: int) -> str:
    return b64encode(crc.to_bytes(4, "big")).decode()


def _exists(call: _Complete) -> BlockExistsError:
    return BlockExistsError(f"{call.where}: a block is there already")


def _other_bytes(call: _Complete, how: str) -> IntegrityError:
    return IntegrityError(
        f"{call.where}: the service stored other bytes than were sent: {how}; delete the object"
    )


def _unknown_outcome(call: _Complete, now: str) -> OutcomeUnknownError:
    error = OutcomeUnknownError(
        f"{call.where}: no reply says whether the object was put in place, and it may be yet: {now}"
    )
    error.unknown_attempts = call.history().unknown
    return error


def _no_uploads(key: str) -> UnsupportedError:
    return UnsupportedError(
        f"{_OPERATION} {key!r}: the service has no multipart uploads, so an object of more than "
        "one part can't be stored"
    )


def _unconditional(request: UploadRequest) -> UnsupportedError:
    header, option = "If-Match", "if_match"
    if request.if_absent:
        header, option = "If-None-Match", "if_absent"
    return UnsupportedError(
        f"{_OPERATION} {request.key!r}: not stored: the service does not hold uploads in parts to "
        f"{header}, so {option} is not possible for more than one part"
    )
