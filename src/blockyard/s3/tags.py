"""Tags of objects that are uploaded in parts.

They are sent with CreateMultipartUpload, where Ceph (up to 16 at least) ignores them. So after the
first such upload to a service that is not AWS the tags are read back; where they are missing, they
are set by PutObjectTagging from then on.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from blockyard.context import Context, Response
from blockyard.errors import OversizedBodyError, S3Error
from blockyard.s3 import requests, responses
from blockyard.s3.call import FunctionCall
from blockyard.s3.caller import Caller
from blockyard.s3.recovery import lacking
from blockyard.s3.responses import Tag

TAGGING = "x-amz-tagging"
"""The header with the tags of an object, encoded as a query string."""


class Tags:
    """Reads and sets the tags of objects in one bucket."""

    def __init__(self, caller: Caller, key_prefix: str) -> None:
        self._caller = caller
        self._prefix = key_prefix

    async def read(self, ctx: Context, operation: str, key: str) -> list[Tag]:
        """The tags of an object. Raises `UnsupportedError` where the service has no tags."""
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
            raise responses.no_tags_error(operation, key) from error

    async def ensure(self, ctx: Context, operation: str, key: str, wanted: str) -> None:
        """After a completion, set the tags where the service has ignored those of the upload."""
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
        await self._caller.call_without_result(ctx, call)
