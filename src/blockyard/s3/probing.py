"""A service is tried out with an object that is nobody's block, which is removed whatever happens.

What becomes of that object is no change of the caller's: its requests may be tried again under
`Context.once`, and errors do not say of them that they may have taken effect.
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
from blockyard.s3.calls import Caller
from blockyard.s3.writing import Writer
from blockyard.stores.base import WriteRequest
from blockyard.tidying import tidy_up

Result = TypeVar("Result")
_log = logging.getLogger("blockyard.s3")
Undo = Callable[[Context], Coroutine[Any, Any, object]]

PROBE = b"probe"
"""What is in the object."""


@dataclass(slots=True, eq=False)
class Probe:
    """The object; `undo` takes back what else is begun with it, the last first."""

    key: str
    full_key: str
    info: BlockInfo
    undo: list[Undo] = field(default_factory=list[Undo])


class Probing:
    """Tries out the service of one bucket."""

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
        """What `work` returns, given an object made for that."""
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
        if left:  # which is no reason for the caller's operation to fail
            _log.warning("%s: %s", operation, left)
        return found

    async def _tidy_up(
        self, ctx: Context, operation: str, probe: Probe, error: BaseException | None
    ) -> str:
        left = f"{probe.key!r}, an object of blockyard's own, may be left: `clean` removes it"
        return await tidy_up(ctx, error, lambda ctx: self._remove(ctx, operation, probe), left)

    async def _remove(self, ctx: Context, operation: str, probe: Probe) -> None:
        """All that there is of it, whatever of it fails. Raises the last error."""

        async def delete(ctx: Context) -> None:
            call = FunctionCall(
                operation,
                probe.key,
                lambda address: requests.delete_object(address, probe.full_key),
                changes=True,
            )
            with suppress(BlockNotFoundError):
                await self._caller.done(ctx, call)

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
