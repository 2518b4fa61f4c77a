"""Deletes of one version of a block: `If-Match` with a DELETE, and whether the service honours it.

A service that ignores the header would delete any version. So before the first such delete of a
store an object is made for that, below the key prefix, and has to outlive a delete that names
another ETag. A delete leaves nothing to know it by: where a reply was lost and the version is gone
at the next attempt, that can't be told from another's change.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-deletes.html
"""

from __future__ import annotations

from contextlib import suppress

from blockyard.context import Context
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    PreconditionFailedError,
    S3Error,
    TransportError,
    UnsupportedError,
)
from blockyard.s3 import requests, responses
from blockyard.s3.call import FunctionCall
from blockyard.s3.calls import Caller
from blockyard.s3.probing import Probe, Probing
from blockyard.s3.reading import Reader
from blockyard.s3.recovery import lacking
from blockyard.s3.writing import REPLACES, Writer, perhaps_done, replaced
from blockyard.stores.base import changed

_OPERATION = "delete_block"
_PROBES = 3
"""Objects tried before giving up, when others delete them meanwhile."""


class MatchingDeletes:
    """Deletes single versions of the blocks of one bucket."""

    def __init__(self, caller: Caller, reader: Reader, writer: Writer, key_prefix: str) -> None:
        self._caller = caller
        self._reader = reader
        self._probing = Probing(caller, writer, key_prefix)
        self._bare_etags = False
        """Whether the ETag goes without quotes."""

    async def delete(self, ctx: Context, key: str, full_key: str, if_match: str) -> None:
        """See `Store.delete_block`."""
        learnt = self._caller.capabilities
        if learnt.matching_deletes is None:
            try:
                learnt.matching_deletes = await self._find_out(ctx)
            except BlockStoreError as error:
                error.add_note(
                    f"delete_block {key!r}: before it, with an object made for that, "
                    "whether the service holds deletes to If-Match"
                )
                error.unknown_attempts = 0  # of the caller's block
                raise
        if not learnt.matching_deletes:
            raise _unconditional(key)
        call = self._deleting(key, full_key, if_match, bare=self._bare_etags)
        try:
            await self._caller.done(ctx, call)
        except S3Error as error:
            if lacking(error):
                raise _unconditional(key) from error
            if error.status != 412:
                raise
            raise await self._refusal(ctx, call, full_key, if_match) from error
        except BlockNotFoundError as error:
            if call.history().unknown:
                raise _unknown_outcome(call, if_match, "there is no block now") from error
            raise

    async def _refusal(
        self, ctx: Context, call: FunctionCall, full_key: str, if_match: str
    ) -> BlockStoreError:
        """What a 412 means: the block is another one, or, of some services, there is none."""
        where, unknown, etag = f"{_OPERATION} {call.key!r}", call.history().unknown, None
        with perhaps_done(unknown), suppress(BlockNotFoundError):
            reply = await self._reader.head(ctx, _OPERATION, call.key or "", full_key)
            etag = responses.unquoted(reply.headers.get("etag", ""))
            if reply.headers.get(REPLACES) == replaced(if_match):
                unknown = 0  # that version was there until another replaced it
        if unknown:
            now = "there is no block now" if etag is None else f"its ETag is {etag!r} now"
            return _unknown_outcome(call, if_match, now)
        if etag is None:
            return BlockNotFoundError(f"{where}: there is no such block")
        if etag != if_match:
            return changed(where, if_match, etag)
        return PreconditionFailedError(f"{where}: its ETag was not {if_match!r}, though it is now")

    async def _find_out(self, ctx: Context) -> bool:
        """Whether the service compares ETags; tried on objects that are nobody's block."""
        for _ in range(_PROBES):
            compares = await self._probing.find_out(ctx, _OPERATION, self._shown)
            if compares is not None:
                return compares
        raise TransportError("the object was gone each time before anything was learnt from it")

    async def _shown(self, ctx: Context, probe: Probe) -> bool | None:
        """What one object shows; None where another deleted it meanwhile."""
        try:
            return await self._compares(ctx, probe.key, probe.full_key, probe.info.etag)
        except UnsupportedError:
            return False
        except BlockNotFoundError:
            return None

    async def _compares(self, ctx: Context, key: str, full_key: str, etag: str) -> bool:
        """Whether a delete of the object with another ETag is refused, and one with its own not.

        Raises `BlockNotFoundError` where it is gone, which shows nothing, and `UnsupportedError`.
        """
        if await self._deleted(ctx, self._deleting(key, full_key, ctx.runtime.nonce())):
            return False
        for bare in (False, True):
            call = self._deleting(key, full_key, etag, bare=bare)
            try:
                deleted = await self._deleted(ctx, call)
            except BlockNotFoundError:
                if not call.history().unknown:
                    raise
                deleted = True
            if deleted:
                self._bare_etags = bare
                return True
        _ = await self._reader.head(ctx, _OPERATION, key, full_key)
        return False

    async def _deleted(self, ctx: Context, call: FunctionCall) -> bool:
        """Whether the service says that it deleted the object, and not that the ETag is another."""
        try:
            await self._caller.done(ctx, call)
        except S3Error as error:
            if lacking(error):
                raise _unconditional(call.key or "") from error
            if error.status != 412:
                raise
            return False
        return True

    def _deleting(
        self, key: str, full_key: str, if_match: str, *, bare: bool = False
    ) -> FunctionCall:
        return FunctionCall(
            _OPERATION,
            key,
            lambda address: requests.delete_object(
                address, full_key, if_match=if_match, bare_etag=bare
            ),
            changes=True,
        )


def _unknown_outcome(call: FunctionCall, if_match: str, now: str) -> TransportError:
    """The error for a version that is gone after an attempt whose reply was lost."""
    error = TransportError(
        f"{_OPERATION} {call.key!r}: no reply says whether it deleted ETag {if_match!r}: {now}, "
        "so it did, or another replaced or deleted it"
    )
    error.unknown_attempts = call.history().unknown
    return error


def _unconditional(key: str) -> UnsupportedError:
    return UnsupportedError(
        f"{_OPERATION} {key!r}: not deleted: the service does not hold deletes to If-Match, "
        "so if_match is not possible"
    )
