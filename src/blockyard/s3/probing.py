"""Probe objects: try out what a service does, on an object of our own that is always removed.

A probe is no change of the caller's: its requests are retried even under `Context.once`, and do not
count as unknown attempts of the call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from blockyard.context import Context
from blockyard.errors import BlockNotFoundError, BlockStoreError
from blockyard.keys import PROBE_PREFIX
from blockyard.model import BlockInfo
from blockyard.s3 import requests
from blockyard.s3.call import FunctionCall
from blockyard.s3.caller import Caller
from blockyard.s3.writing import Writer
from blockyard.stores.base import WriteRequest
from blockyard.tidying import tidy_up

Result = TypeVar("Result")
_log = logging.getLogger("blockyard.s3")
Undo = Callable[[Context], Coroutine[Any, Any, object]]

PROBE = b"probe"
"""The bytes of a probe object."""


@dataclass(slots=True, eq=False)
class Probe:
    """A probe object; `undo` are further cleanups of the probe, run in reverse order."""

    key: str
    full_key: str
    info: BlockInfo
    undo: list[Undo] = field(default_factory=list[Undo])


class Probing:
    """Makes probe objects in one bucket."""

    def __init__(self, caller: Caller, writer: Writer, key_prefix: str) -> None:
        self._caller = caller
        self._writer = writer
        self._prefix = key_prefix

    async def find_out(
        self,
        ctx: Context,
        operation: str,
        work: Callable[[Context, Probe], Coroutine[Any, Any, Result]],
    ) -> Result:
        """Make a probe object, return what `work` finds out with it, and remove it."""
        own = replace(ctx, unknown_attempts=0, once=False, probing=True)
        key = PROBE_PREFIX + ctx.runtime.nonce()
        probe = Probe(key, self._prefix + key, BlockInfo(key, 0, ""))
        stored = True
        try:
            try:
                write = WriteRequest(key, PROBE)
                probe.info = await self._writer.write(own, write, probe.full_key)
            except BlockStoreError:
                stored = own.unknown_attempts > 0
                raise
            found = await work(own, probe)
        except BaseException as error:
            if stored:
                _ = await self._tidy_up(own, operation, probe, error)
            raise
        left = await self._tidy_up(own, operation, probe, None)
        if left:  # no reason for the caller's operation to fail
            _log.warning("%s: %s", operation, left)
        return found

    async def _tidy_up(
        self, ctx: Context, operation: str, probe: Probe, error: BaseException | None
    ) -> str:
        left = f"{probe.key!r}, an object of blockyard's own, may be left: `clean` removes it"
        return await tidy_up(ctx, error, lambda ctx: self._remove(ctx, operation, probe), left)

    async def _remove(self, ctx: Context, operation: str, probe: Probe) -> None:
        """Run every cleanup, also when some fail. Raises the last error."""

        async def delete(ctx: Context) -> None:
            call = FunctionCall(
                operation,
                probe.key,
                lambda address: requests.delete_object(address, probe.full_key),
                changes=True,
            )
            with suppress(BlockNotFoundError):
                await self._caller.call_without_result(ctx, call)

        failure: BlockStoreError | None = None
        for undo in [*reversed(probe.undo), delete]:
            try:
                _ = await undo(ctx)
            except BlockStoreError as error:
                failure = error
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # which its traceback refers to
