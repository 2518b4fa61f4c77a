"""Conditional deletes: DELETE with `If-Match`, and whether the service enforces it.

A service that ignores the header would delete any version. So before the first conditional delete
of a store a probe object is made below the key prefix, which has to survive a delete with another
ETag. A delete leaves no trace: where a reply was lost and the version is gone at the retry, our own
delete can't be told from another client's.
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
from blockyard.s3.caller import Caller
from blockyard.s3.probing import Probe, Probing
from blockyard.s3.reading import Reader
from blockyard.s3.recovery import lacking
from blockyard.s3.writing import REPLACES, Writer, adding_unknown_attempts, version_hash
from blockyard.stores.checks import etag_mismatch

_OPERATION = "delete_block"
_PROBES = 3
"""Objects tried before giving up, when others delete them meanwhile."""


class MatchingDeletes:
    """Conditional deletes in one bucket."""

    def __init__(self, caller: Caller, reader: Reader, writer: Writer, key_prefix: str) -> None:
        self._caller = caller
        self._reader = reader
        self._probing = Probing(caller, writer, key_prefix)
        self._bare_etags = False
        """Whether `If-Match` is sent unquoted, as Ceph needs it."""

    async def delete(self, ctx: Context, key: str, full_key: str, if_match: str) -> None:
        """See `Store.delete_block`."""
        learnt = self._caller.capabilities
        if learnt.matching_deletes is None:
            try:
                learnt.matching_deletes = await self._probe_enforcement(ctx)
            except BlockStoreError as error:
                error.add_note(
                    f"delete_block {key!r}: before it, with an object made for that, "
                    "whether the service holds deletes to If-Match"
                )
                error.unknown_attempts = 0  # of the caller's block
                raise
        if not learnt.matching_deletes:
            raise _condition_ignored_error(key)
        call = self._delete_call(key, full_key, if_match, bare=self._bare_etags)
        try:
            await self._caller.call_without_result(ctx, call)
        except S3Error as error:
            if lacking(error):
                raise _condition_ignored_error(key) from error
            if error.status != 412:
                raise
            raise await self._refusal(ctx, call, full_key, if_match) from error
        except BlockNotFoundError as error:
            if call.history().unknown:
                raise _unknown_outcome_error(call, if_match, "there is no block now") from error
            raise

    async def _refusal(
        self, ctx: Context, call: FunctionCall, full_key: str, if_match: str
    ) -> BlockStoreError:
        """The error for a 412: another version is there or, from some services, none."""
        where, unknown, etag = f"{_OPERATION} {call.key!r}", call.history().unknown, None
        with adding_unknown_attempts(unknown), suppress(BlockNotFoundError):
            reply = await self._reader.head(ctx, _OPERATION, call.key or "", full_key)
            etag = responses.unquoted(reply.headers.get("etag", ""))
            if reply.headers.get(REPLACES) == version_hash(if_match):
                unknown = 0  # that version was there until another replaced it
        if unknown:
            now = "there is no block now" if etag is None else f"its ETag is {etag!r} now"
            return _unknown_outcome_error(call, if_match, now)
        if etag is None:
            return BlockNotFoundError(f"{where}: there is no such block")
        if etag != if_match:
            return etag_mismatch(where, if_match, etag)
        return PreconditionFailedError(f"{where}: its ETag was not {if_match!r}, though it is now")

    async def _probe_enforcement(self, ctx: Context) -> bool:
        """Whether the service compares ETags, tried out on probe objects."""
        for _ in range(_PROBES):
            compares = await self._probing.find_out(ctx, _OPERATION, self._probe_once)
            if compares is not None:
                return compares
        raise TransportError("the object was gone each time before anything was learnt from it")

    async def _probe_once(self, ctx: Context, probe: Probe) -> bool | None:
        """Whether the service compares ETags, by one probe; None where others deleted that."""
        try:
            return await self._compares_etags(ctx, probe.key, probe.full_key, probe.info.etag)
        except UnsupportedError:
            return False
        except BlockNotFoundError:
            return None

    async def _compares_etags(self, ctx: Context, key: str, full_key: str, etag: str) -> bool:
        """Whether a delete with another ETag is refused and one with the right ETag done.

        Raises `UnsupportedError`, and `BlockNotFoundError` where the probe is gone, which shows
        nothing.
        """
        if await self._is_deleted(ctx, self._delete_call(key, full_key, ctx.runtime.nonce())):
            return False
        for bare in (False, True):
            call = self._delete_call(key, full_key, etag, bare=bare)
            try:
                deleted = await self._is_deleted(ctx, call)
            except BlockNotFoundError:
                if not call.history().unknown:
                    raise
                deleted = True
            if deleted:
                self._bare_etags = bare
                return True
        _ = await self._reader.head(ctx, _OPERATION, key, full_key)
        return False

    async def _is_deleted(self, ctx: Context, call: FunctionCall) -> bool:
        """Send the delete; False for a 412."""
        try:
            await self._caller.call_without_result(ctx, call)
        except S3Error as error:
            if lacking(error):
                raise _condition_ignored_error(call.key or "") from error
            if error.status != 412:
                raise
            return False
        return True

    def _delete_call(
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


def _unknown_outcome_error(call: FunctionCall, if_match: str, now: str) -> TransportError:
    """The error for a version that is gone after an attempt whose reply was lost."""
    error = TransportError(
        f"{_OPERATION} {call.key!r}: no reply says whether it deleted ETag {if_match!r}: {now}, "
        "so it did, or another replaced or deleted it"
    )
    error.unknown_attempts = call.history().unknown
    return error


def _condition_ignored_error(key: str) -> UnsupportedError:
    return UnsupportedError(
        f"{_OPERATION} {key!r}: not deleted: the service does not hold deletes to If-Match, "
        "so if_match is not possible"
    )
