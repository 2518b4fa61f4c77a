"""DeleteObjects: batches of keys, with an outcome for each key.

A 200 may report failures of single keys; the transient ones are retried, and only those. A
service that throttles gets smaller batches, which grow again when it does not: a batch of 1000
keys counts as 1000 requests there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

from blockyard.context import Context
from blockyard.errors import (
    BlockStoreError,
    ProtocolError,
    S3Error,
    ThrottledError,
    UnsupportedError,
)
from blockyard.model import DeleteResult
from blockyard.s3 import requests
from blockyard.s3.call import Attempts, FunctionCall
from blockyard.s3.caller import Caller
from blockyard.s3.recovery import lacking
from blockyard.s3.responses import delete_outcome
from blockyard.s3.retry import is_transient, may_have_taken_effect

_BATCHES_IN_FLIGHT = 10
"""Batches in flight at a time, where the service keeps up: see `RateLimiter`."""
_OPERATION = "delete_blocks"
_SMALLEST = 10
_GROWTH = 100
"""What a batch shrinks to, at the least, and grows by when the service keeps up."""


class Deleting:
    """Deletes many keys of one bucket."""

    def __init__(self, caller: Caller, key_prefix: str) -> None:
        self._caller = caller
        self._prefix = key_prefix
        self._batch_size = requests.MAX_DELETED_AT_ONCE

    async def delete(
        self,
        ctx: Context,
        keys: Sequence[str],
        delete_one: Callable[[Context, str], Awaitable[None]],
    ) -> DeleteResult:
        """See `Store.delete_blocks`. Keys that XML can't carry go to `delete_one`.

        So do all of a service that turns out to have no DeleteObjects.
        """
        batched, single = self._split(keys)
        failed: dict[str, BlockStoreError] = {}
        request_errors: list[BlockStoreError] = []

        async def batch(batch_keys: list[str]) -> None:
            if self._caller.capabilities.delete_objects is False:
                single.extend(batch_keys)
                return
            try:
                failed.update(await self._delete_batch(ctx, batch_keys, request_errors))
            except UnsupportedError:
                self._caller.capabilities.delete_objects = False
                single.extend(batch_keys)

        async def one(key: str) -> None:
            try:
                await delete_one(ctx, key)
            except BlockStoreError as error:
                failed[key] = error

        _ = await ctx.runtime.gather(batch, self._batches(batched), _BATCHES_IN_FLIGHT)
        _ = await ctx.gather(one, single)
        if failed and len(failed) == len(keys) and _all_among(failed.values(), request_errors):
            error = request_errors[-1].with_traceback(None)  # whose frames refer to the error
            try:
                raise error  # not the keys' own failures: nothing was attempted
            finally:
                del error, request_errors, failed  # its traceback refers to them, by this frame
        return DeleteResult([key for key in keys if key not in failed], failed)

    def _split(self, keys: Sequence[str]) -> tuple[list[str], list[str]]:
        """Split keys into those for batches and those to be deleted one by one."""
        if self._can_be_batched("") and requests.all_xml_safe((self._prefix, *keys)):
            return list(keys), []
        batched = [key for key in keys if self._can_be_batched(key)]
        return batched, [key for key in keys if not self._can_be_batched(key)]

    def _can_be_batched(self, key: str) -> bool:
        has_batches = self._caller.capabilities.delete_objects is not False
        return has_batches and requests.xml_safe(self._prefix + key)

    def _batches(self, keys: list[str]) -> Iterator[list[str]]:
        """Cut batches lazily, each of the batch size in force when it is drawn."""
        begin = 0
        while begin < len(keys):
            end = begin + self._batch_size
            yield keys[begin:end]
            begin = end

    async def _delete_batch(
        self, ctx: Context, keys: list[str], request_errors: list[BlockStoreError]
    ) -> dict[str, BlockStoreError]:
        """Delete one batch, with retries; return the errors of the keys that are still there.

        Errors of whole requests, which are not about a single key, are added to `request_errors`.
        An attempt that deleted some key does not count as failed.
        """
        attempts = Attempts()
        failed: dict[str, BlockStoreError] = {}
        while keys:
            batch, later = keys[: self._batch_size], keys[self._batch_size :]
            call = self._delete_call(batch, attempts)
            try:
                refused = await self._request(ctx, call, batch)
            except ThrottledError as error:
                self._batch_size = max(self._batch_size // 2, _SMALLEST)
                request_errors.append(error)
                refused = dict.fromkeys(batch, error)
            except UnsupportedError:
                raise
            except BlockStoreError as error:
                request_errors.append(error)
                return failed | dict.fromkeys(keys, error)
            else:
                self._batch_size = min(self._batch_size + _GROWTH, requests.MAX_DELETED_AT_ONCE)
                if len(refused) < len(batch):
                    attempts.failed = attempts.throttled = 0
            again = [key for key, error in refused.items() if is_transient(error)]
            failed |= {key: error for key, error in refused.items() if not is_transient(error)}
            if again:
                try:
                    await self._caller.pause_or_raise(ctx, call, refused[again[0]])
                except BlockStoreError as error:
                    return failed | refused | dict.fromkeys(later, error)
            keys = again + later
        return failed

    def _delete_call(self, batch: list[str], attempts: Attempts) -> FunctionCall:
        full_keys = [self._prefix + key for key in batch]
        return FunctionCall(
            _OPERATION,
            None,
            lambda address: requests.delete_objects(address, full_keys),
            payload_hash=None,
            handled=(ThrottledError,),
            attempts=attempts,
            changes=True,
        )

    async def _request(
        self, ctx: Context, call: FunctionCall, batch: list[str]
    ) -> dict[str, BlockStoreError]:
        """Send one DeleteObjects request; return the errors of the keys that it did not delete.

        Raises `UnsupportedError` where the service does not have it: it says so, or its first reply
        names no key at all.
        """
        try:
            gone, refused = await self._caller.call(
                ctx, call, lambda reply: delete_outcome(reply, batch, self._prefix)
            )
        except S3Error as error:
            if lacking(error) and not self._caller.capabilities.delete_objects:
                raise UnsupportedError("the service has no DeleteObjects") from error
            raise
        learnt = self._caller.capabilities
        if gone or not all(isinstance(error, ProtocolError) for error in refused.values()):
            learnt.delete_objects = True
        elif learnt.delete_objects is None:
            raise UnsupportedError("the reply to DeleteObjects names no key")
        for error in refused.values():
            if may_have_taken_effect(error):  # of one key, and no less unknown
                ctx.leaves_unknown(error)
        return refused


def _all_among(errors: Collection[BlockStoreError], those: list[BlockStoreError]) -> bool:
    """Whether each of `errors` is one of `those`, by identity."""
    return {id(error) for error in errors} <= {id(error) for error in those}
