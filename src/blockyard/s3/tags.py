"""Tags of objects that are made in parts.

They go with the beginning of an upload, where Ceph, up to 16 at least, passes over them. So a
service that is not AWS is asked for those of its first such object, and gets them once more where
they are not there.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from blockyard.context import Context, Response
from blockyard.errors import OversizedBodyError, S3Error
from blockyard.s3 import requests, responses
from blockyard.s3.call import FunctionCall
from blockyard.s3.calls import Caller
from blockyard.s3.recovery import lacking
from blockyard.s3.responses import Tag

TAGGING = "x-amz-tagging"
"""The header that has the tags of an object that is written, as in a query."""


class Tags:
    """The tags of one bucket's objects."""

    def __init__(self, caller: Caller, key_prefix: str) -> None:
        self._caller = caller
        self._prefix = key_prefix

    async def read(self, ctx: Context, operation: str, key: str) -> list[Tag]:
        """Those of an object. Raises `UnsupportedError` where the service knows no tags."""
        full_key = self._prefix + key
        call = FunctionCall(
            operation,
            key,
            lambda address: requests.get_tags(address, full_key),
            handled=(OversizedBodyError,),
        )

        def read(reply: Response) -> list[Tag]:
            return responses.tags(reply, operation, key)

        try:
            return await self._caller.call(ctx, call, read)
        except (OversizedBodyError, S3Error) as error:  # it gives the object, or refuses
            if isinstance(error, S3Error) and not lacking(error):
                raise
            raise responses.without_tags(operation, key) from error

    async def ensure(self, ctx: Context, operation: str, key: str, wanted: str) -> None:
        """See to it that an object which was just made in parts has the tags it began with."""
        learnt = self._caller.capabilities
        if not wanted or learnt.upload_tags:
            return
        tags = parse_qsl(wanted, keep_blank_values=True)
        with ctx.after_change():
            if learnt.upload_tags is None:
                learnt.upload_tags = sorted(await self.read(ctx, operation, key)) == sorted(tags)
            if not learnt.upload_tags:
                await self._write(ctx, operation, key, tags)

    async def _write(self, ctx: Context, operation: str, key: str, tags: list[Tag]) -> None:
        full_key = self._prefix + key
        call = FunctionCall(
            operation,
            key,
            lambda address: requests.put_tags(address, full_key, tags),
            payload_hash=None,
            changes=True,
        )
        await self._caller.done(ctx, call)
