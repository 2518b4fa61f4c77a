"""Multipart uploads: begin, parts, abort, list. `completing.py` completes them.

Each part is sent with its CRC32C. Before the first conditional upload to a service that is not AWS,
a probe object shows whether CompleteMultipartUpload enforces the condition: a service that ignores
it would replace a block that must stay.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import md5

from blockyard.context import Context, Response
from blockyard.crc32c import crc32c
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    OutcomeUnknownError,
    PreconditionFailedError,
    ProtocolError,
    S3Error,
    TransportError,
    UnsupportedError,
)
from blockyard.model import BlockInfo, Part, Upload, UploadPage
from blockyard.s3 import requests, responses
from blockyard.s3.call import FunctionCall
from blockyard.s3.caller import Caller
from blockyard.s3.completing import (
    Completer,
    base64_of,
    condition_ignored_error,
    learn_enforcement,
)
from blockyard.s3.integrity import CHECKSUM, CHECKSUM_TYPE, FULL_OBJECT
from blockyard.s3.listing import uploads_page
from blockyard.s3.object_headers import check_encrypted
from blockyard.s3.probing import PROBE, Probe, Probing
from blockyard.s3.reading import Reader
from blockyard.s3.recovery import lacking, refuses_a_header
from blockyard.s3.tags import TAGGING
from blockyard.s3.writing import NONCE, REPLACES, Writer, version_hash
from blockyard.stores.base import Data, OpenUpload, UploadRequest
from blockyard.stores.checks import etag_mismatch
from blockyard.tidying import tidy_up

_OPERATION = "write_object"
_ALGORITHM = "x-amz-checksum-algorithm"
_COMPOSITE = "COMPOSITE"
_AS_LONG_AS_A_NONCE = "0" * 24
_MORE = "more"
"""Key of `OpenUpload.state`: a lost reply may have begun another upload, whose id is not known."""
_log = logging.getLogger("blockyard.s3")


class Uploads:
    """The multipart uploads of one bucket."""

    def __init__(
        self, caller: Caller, reader: Reader, writer: Writer, key_prefix: str, *, etag_proves: bool
    ) -> None:
        self._caller = caller
        self._reader = reader
        self._writer = writer
        self._prefix = key_prefix
        self._probing = Probing(caller, writer, key_prefix)
        self._completer = Completer(caller, reader, etag_proves=etag_proves)

    async def start(self, ctx: Context, request: UploadRequest, full_key: str) -> OpenUpload:
        """See `Store.start_upload`. Raises at once where the condition does not hold now."""
        headers = self._headers(request)
        if request.conditional:
            if await self._enforces_condition(ctx, request) is False:
                raise condition_ignored_error(request)
            await self._check_condition_now(ctx, request, full_key)
        return await self.begin(ctx, request, full_key, headers)

    async def begin(
        self,
        ctx: Context,
        request: UploadRequest,
        full_key: str,
        headers: Mapping[str, str],
        *,
        checked: bool = True,
    ) -> OpenUpload:
        """CreateMultipartUpload with these object headers; conditions are not looked at.

        With `checked` the service is asked to keep a CRC32C of the object, where it can.
        """
        learnt = self._caller.capabilities
        nonce = ctx.runtime.nonce()
        headers = {**headers, NONCE: nonce}
        asked = headers | {_ALGORITHM: "CRC32C", CHECKSUM_TYPE: FULL_OBJECT}
        state = {"nonce": nonce, "tags": headers.get(TAGGING, "")}
        try:
            if checked and learnt.part_checksums is not False:
                try:
                    return await self._create(ctx, request, full_key, asked, state)
                except S3Error as error:
                    if not refuses_a_header(error) or learnt.part_checksums:
                        raise
            opened = await self._create(ctx, request, full_key, headers, state)
        except S3Error as error:
            if learnt.uploads or not lacking(error):
                raise
            raise _no_uploads(request) from error
        if checked:
            learnt.part_checksums = False  # since it was those headers, and nothing else
        return opened

    async def part(self, ctx: Context, opened: OpenUpload, number: int, data: Data) -> Part:
        """See `Store.upload_part`."""
        learnt, full_key = self._caller.capabilities, self._prefix + opened.upload.key
        checksums = bool(opened.state["checksums"])
        proven = learnt.part_checksums and checksums
        hashed = not proven and not self._writer.signs_payload

        def integrity_headers() -> tuple[str, int, dict[str, str]]:
            crc, headers = crc32c(data), dict[str, str]()
            if checksums:
                headers[CHECKSUM] = base64_of(crc)
            if hashed:
                digest = md5(data, usedforsecurity=False).digest()
                headers["content-md5"] = b64encode(digest).decode()
            return self._writer.payload_hash(data), crc, headers

        payload_hash, crc, headers = await ctx.runtime.blocking(integrity_headers)
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
            checksum = reply.headers.get(CHECKSUM)
            if checksum is not None and checksum != base64_of(crc):
                raise ProtocolError(
                    f"the service stored other bytes of part {number}: "
                    f"their CRC32C is {checksum[:40]}"
                )
            if checksum is not None:
                learnt.part_checksums = True
            etag = responses.unquoted(reply.headers["etag"])
            return Part(number, len(data), crc, etag, checksum is not None)

        return await self._caller.call(ctx, call, stored)

    async def complete(self, ctx: Context, opened: OpenUpload, parts: Sequence[Part]) -> BlockInfo:
        """See `Store.complete_upload`."""
        return await self._completer.complete(ctx, opened, self._prefix + opened.upload.key, parts)

    async def abort(self, ctx: Context, upload: Upload) -> None:
        """See `Store.abort_upload`."""
        full_key = self._prefix + upload.key
        call = FunctionCall(
            "abort_upload",
            upload.key,
            lambda address: requests.abort_upload(address, full_key, upload.id),
        )
        try:
            await self._caller.call_without_result(ctx, call)
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
        except BlockNotFoundError:  # a service that takes it for a read
            pass
        except S3Error as error:
            if not lacking(error) and error.code != "NoSuchUpload":  # rclone's answer
                raise
        return UploadPage([], None)

    def _headers(self, request: UploadRequest) -> dict[str, str]:
        """The headers of the object. Raises `ValueError` for more metadata than fits."""
        headers = dict(self._caller.headers.write(_OPERATION, request.key, request.options))
        if request.if_match is not None:
            headers[REPLACES] = version_hash(request.if_match)
        with_nonce = headers | {NONCE: _AS_LONG_AS_A_NONCE}
        self._caller.headers.check_metadata(
            request.operation, request.key, request.options, with_nonce
        )
        return headers

    async def _create(
        self,
        ctx: Context,
        request: UploadRequest,
        full_key: str,
        headers: dict[str, str],
        state: dict[str, str],
    ) -> OpenUpload:
        left = f"an upload of {request.key!r} may be left: `clean` removes it"
        call = FunctionCall(
            request.operation,
            request.key,
            lambda address: requests.create_upload(address, full_key, headers),
            object_headers=self._caller.headers.read,
            leaves=left,
        )

        def created(reply: Response) -> tuple[OpenUpload, Response]:
            upload_id = responses.upload_id(reply, request.operation, request.key)
            checksums = ""
            if _ALGORITHM in headers:
                checksums = reply.headers.get(CHECKSUM_TYPE, _COMPOSITE)
            upload = Upload(request.key, upload_id)
            return OpenUpload(upload, request, {**state, "checksums": checksums}), reply

        opened, reply = await self._caller.call(ctx, call, created)
        self._caller.capabilities.uploads = True
        if call.history().unknown:
            opened = replace(opened, state={**opened.state, _MORE: "begun"})
            if not ctx.probing:
                _log.info("%s: %s", request.operation, left)
        where = f"{request.operation} {request.key!r}: not stored"
        asked = headers | self._caller.headers.read
        try:
            check_encrypted(where, asked, reply.headers)
        except UnsupportedError as error:
            _ = await tidy_up(ctx, error, lambda ctx: self.abort(ctx, opened.upload), f"and {left}")
            raise
        return opened

    async def _check_condition_now(
        self, ctx: Context, request: UploadRequest, full_key: str
    ) -> None:
        """Raise before any part is sent where the condition does not hold now."""
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
            raise etag_mismatch(where, request.if_match, etag)

    async def _enforces_condition(self, ctx: Context, request: UploadRequest) -> bool:
        """Whether the service enforces the condition of a completion. Probed once a store."""
        learnt = self._caller.capabilities
        known = learnt.conditional_uploads if request.if_absent else learnt.matching_uploads
        if known is not None:
            return known
        try:
            enforced = await self._probe_enforcement(ctx, request)
        except BlockStoreError as error:
            error.add_note(
                f"{_OPERATION} {request.key!r}: before it, with an object made for that, "
                "whether the service holds the end of an upload to its condition"
            )
            error.unknown_attempts = 0  # of the caller's object
            raise
        learn_enforcement(learnt, request, enforced=enforced)
        return enforced

    async def _probe_enforcement(self, ctx: Context, request: UploadRequest) -> bool:
        """Whether an upload of a probe object is refused when its condition does not hold."""

        async def probe_upload(own: Context, probe: Probe) -> bool:
            if request.if_absent:
                wanted = UploadRequest(probe.key, if_absent=True)
            else:
                wanted = UploadRequest(probe.key, if_match=own.runtime.nonce())
            opened: OpenUpload | None = None

            async def abort(ctx: Context) -> None:
                if opened is None or _MORE in opened.state:
                    begun = (await self.list(ctx, probe.key, None)).uploads
                else:
                    begun = [opened.upload]
                for upload in begun:
                    await self.abort(ctx, upload)

            probe.undo.append(abort)
            opened = await self.begin(own, wanted, probe.full_key, self._headers(wanted))
            try:
                part = await self.part(own, opened, 1, PROBE)
                _ = await self.complete(own, opened, [part])
            except (BlockExistsError, PreconditionFailedError) as error:
                failure = error.__cause__
                if not isinstance(failure, S3Error) or failure.status == 412:
                    return True  # else no condition was refused
            except UnsupportedError:
                return False
            except OutcomeUnknownError as error:  # of the caller's object it is known
                failure = error.__cause__
                if not isinstance(failure, TransportError):
                    failure = TransportError(str(error))
            else:
                return False
            try:  # out here, so that it is not the cause of its own context
                raise failure
            finally:
                del failure  # which its traceback refers to

        return await self._probing.find_out(ctx, _OPERATION, probe_upload)


def _markers(token: str) -> tuple[str, str]:
    key, _, upload_id = token.partition("\0")
    return key, upload_id


def _no_uploads(request: UploadRequest) -> UnsupportedError:
    return UnsupportedError(
        f"{request.operation} {request.key!r}: the service has no multipart uploads, so an object "
        "of more than one part can't be stored"
    )
