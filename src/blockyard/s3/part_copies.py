"""Copies in parts (UploadPartCopy) of objects over the limit of CopyObject, 5 GiB.

A multipart upload copies no metadata: metadata, content headers and tags of the source are sent
again, with the storage headers of a CopyObject (`object_headers.py`). Each part is conditional on
the ETag of the source, which is compared once more before the completion, since some services
ignore the condition. In the end size and checksums of the copy are compared with the source's.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/CopyingObjectsMPUapi.html
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace

from blockyard.context import Context, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockStoreError,
    IntegrityError,
    PreconditionFailedError,
    S3Error,
    UnsupportedError,
)
from blockyard.model import MIB, BlockInfo, Part
from blockyard.put_options import PutOptions
from blockyard.s3 import requests, responses
from blockyard.s3.call import FunctionCall
from blockyard.s3.caller import Caller
from blockyard.s3.integrity import CHECKSUM, CHECKSUM_TYPE, FULL_OBJECT
from blockyard.s3.object_headers import METADATA, tagging
from blockyard.s3.reading import Reader
from blockyard.s3.recovery import lacking
from blockyard.s3.responses import Tag
from blockyard.s3.tags import TAGGING, Tags
from blockyard.s3.uploads import Uploads
from blockyard.s3.writing import NONCE, REPLACES
from blockyard.stores.base import OpenUpload, UploadRequest

LARGEST_COPY = 5 * 1024 * MIB
"""Bytes that a CopyObject takes: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html"""
_OPERATION = "copy_block"
_CARRIED = (
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
)
_TAG_COUNT = "x-amz-tagging-count"
_CHECKSUM_OF = "x-amz-checksum-"
_SOURCE, _ETAG, _SIZE = "source", "source-etag", "source-size"


class PartCopies:
    """Copies in parts within one bucket."""

    def __init__(
        self, caller: Caller, reader: Reader, uploads: Uploads, tags: Tags, key_prefix: str
    ) -> None:
        self._caller = caller
        self._reader = reader
        self._uploads = uploads
        self._tagging = tags
        self._prefix = key_prefix

    async def start(
        self, ctx: Context, source_key: str, target_key: str
    ) -> tuple[OpenUpload, BlockInfo]:
        """See `Store.start_copy`."""
        reply = await self._head(ctx, source_key)
        source = responses.stat_result(reply, _OPERATION, source_key)
        headers = self._carried(source_key, reply.headers)
        if tags := await self._tags(ctx, source_key, reply.headers):
            headers[TAGGING] = tagging(tags)
        headers |= self._caller.headers.copied
        checksums = _of_the_whole(reply.headers)
        request = UploadRequest(target_key, operation=_OPERATION)
        opened = await self._uploads.begin(
            ctx, request, self._prefix + target_key, headers, checked=CHECKSUM in checksums
        )
        known = {_SOURCE: source_key, _ETAG: source.etag, _SIZE: str(source.size)}
        return replace(opened, state={**opened.state, **known, **checksums}), source

    async def options_of(self, ctx: Context, key: str) -> tuple[PutOptions, BlockInfo]:
        """See `Store.options_of`."""
        reply = await self._head(ctx, key)
        info = responses.stat_result(reply, _OPERATION, key)
        headers = self._carried(key, reply.headers)
        try:
            tags = await self._tags(ctx, key, reply.headers)
        except AccessDeniedError:
            if _TAG_COUNT in reply.headers:  # sent only to those who may read the tags
                raise
            tags = []
        options = PutOptions(
            content_type=headers.get("content-type"),
            cache_control=headers.get("cache-control"),
            content_disposition=headers.get("content-disposition"),
            content_encoding=headers.get("content-encoding"),
            content_language=headers.get("content-language"),
            metadata=info.metadata or None,
            tags=dict(tags) or None,
        )
        return options, info

    async def part(
        self, ctx: Context, opened: OpenUpload, number: int, source: BlockInfo, span: range
    ) -> Part:
        """See `Store.copy_part`."""
        call = FunctionCall(
            _OPERATION,
            source.key,
            lambda address: requests.copy_part(
                address,
                self._prefix + opened.upload.key,
                opened.upload.id,
                number,
                source_key=self._prefix + source.key,
                span=span,
                etag=source.etag,
            ),
            object_headers=self._caller.headers.copied_part,
        )

        def copied(reply: Response) -> Part:
            etag, checksum = responses.copied_part(reply, _OPERATION, source.key)
            if not checksum or opened.state["checksums"] == "":
                return Part(number, len(span), None, etag)
            crc = int.from_bytes(b64decode(checksum), "big")
            return Part(number, len(span), crc, etag, verified=True)

        try:
            return await self._caller.call(ctx, call, copied)
        except S3Error as error:
            if error.status != 412:
                raise
            raise _replaced(source.key) from error

    async def check_source(self, ctx: Context, opened: OpenUpload, sent: str) -> None:
        """Before the completion: raise where the source was replaced, or other bytes were copied.

        `sent` is the checksum of all parts, "" where it is not known.
        """
        key, state = opened.state[_SOURCE], opened.state
        info = responses.block_info(key, await self._head(ctx, key))
        if (info.etag, str(info.size)) != (state[_ETAG], state[_SIZE]):
            raise _replaced(key)
        if sent and sent != state.get(CHECKSUM, sent):
            raise IntegrityError(
                f"{_OPERATION} {key!r}: the service copied other bytes: their CRC32C is {sent}, "
                f"that of the source {state[CHECKSUM]}"
            )

    async def check_copy(self, ctx: Context, opened: OpenUpload, copy: BlockInfo) -> BlockInfo:
        """After the completion: the info of the copy. Raises `IntegrityError` for other bytes.

        A copy that another writer has replaced since is not compared.
        """
        with ctx.after_change():
            reply = await self._head(ctx, opened.upload.key)
            if reply.headers.get(NONCE) != opened.state["nonce"]:
                return copy
            found, state = responses.block_info(opened.upload.key, reply), opened.state
            there = {_SIZE: str(found.size), **_of_the_whole(reply.headers)}
            for name, value in there.items():
                if state.get(name, value) == value:
                    continue
                raise IntegrityError(
                    f"{_OPERATION} {state[_SOURCE]!r}: the copy {opened.upload.key!r} has "
                    f"other bytes: {name.removeprefix('source-')} {value}, not {state[name]}; "
                    "delete it"
                )
            return found

    async def _head(self, ctx: Context, key: str) -> Response:
        checked = self._caller.capabilities.checksum_mode is True
        return await self._reader.head(ctx, _OPERATION, key, self._prefix + key, checksum=checked)

    def _carried(self, key: str, headers: Mapping[str, str]) -> dict[str, str]:
        """The content headers and metadata of the source that the copy gets."""
        if headers.get("x-amz-missing-meta", "0") != "0":
            raise UnsupportedError(
                f"{_OPERATION} {key!r}: it has metadata that no header can hold, so a copy in "
                "parts, or to another bucket, would lack it"
            )
        return {
            name: value
            for name, value in headers.items()
            if name in _CARRIED or (name.startswith(METADATA) and name != REPLACES)
        }

    async def _tags(self, ctx: Context, key: str, headers: Mapping[str, str]) -> list[Tag]:
        """The tags of the source; none where the service has no tags."""
        try:
            return await self._tagging.read(ctx, _OPERATION, key)
        except (S3Error, UnsupportedError) as error:
            if isinstance(error, UnsupportedError) and _TAG_COUNT not in headers:
                return []
            error.add_note("they were the object's tags that were asked for: they go with a copy")
            raise


def is_copy(opened: OpenUpload) -> bool:
    """Whether an upload is a copy."""
    return _SOURCE in opened.state


def may_be_too_large(error: BlockStoreError) -> bool:
    """Whether a CopyObject may have been refused for the size of its source."""
    return isinstance(error, S3Error) and error.status in {400, 413} and not lacking(error)


def _of_the_whole(headers: Mapping[str, str]) -> dict[str, str]:
    """The full-object checksums that the service keeps, composite ones left out."""
    if headers.get(CHECKSUM_TYPE, FULL_OBJECT) != FULL_OBJECT:
        return {}
    return {
        name: value
        for name, value in headers.items()
        if name.startswith(_CHECKSUM_OF) and name != CHECKSUM_TYPE and "-" not in value
    }


def _replaced(key: str) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"{_OPERATION} {key!r}: it was replaced while it was copied, and nothing is stored"
    )
