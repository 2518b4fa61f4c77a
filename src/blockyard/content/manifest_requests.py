"""Single requests for the manifest of a content: read it, replace it or delete it on a condition.

A PUT or DELETE goes out once (`Context.once`) and ends in an `Outcome`: done, refused, or unknown.
What to do after an unknown one is the protocol's: see `register.py`. Where a service ignores
conditions the same requests go out without them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto

from blockyard.content.manifest import Manifest, decode, encode, manifest_key
from blockyard.content.manifest_state import ManifestState, stored_at
from blockyard.context import Context
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    IntegrityError,
    LocalStorageError,
    PreconditionFailedError,
    UnsupportedError,
)
from blockyard.operations import Operations
from blockyard.put_options import PutOptions
from blockyard.stores.base import ReadRequest, WriteRequest

_PUT_WITHIN = 60.0
"""Seconds after the checks within which the PUT of a manifest is sent. A process that was stopped
for longer checks again: `clean` may have been there."""
_WRITTEN_KEPT = 1000
"""How many contents the last written manifest is remembered of."""


class Outcome(Enum):
    """The outcome of one conditional request."""

    DONE = auto()
    REFUSED = auto()
    """The condition did not hold: nothing was changed, nor will be."""
    UNKNOWN = auto()


@dataclass(slots=True)
class Change:
    """One change of a content, which may take several requests.

    options: those of the manifest to be put
    sent: a request went out that may have taken effect, or may still
    unknown_attempts: how many requests have an unknown outcome
    failure: the last failure; no frame may hold it, since its traceback refers to the frames
    """

    operation: str
    content_id: str
    options: PutOptions | None = None
    sent: bool = False
    unknown_attempts: int = 0
    failure: BlockStoreError | None = None

    @property
    def where(self) -> str:
        """The beginning of error messages."""
        return f"{self.operation} {self.content_id!r}"


class ManifestRequests:
    """Requests for the manifests of one store."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.conditional_puts = True
        self.conditional_deletes = True
        self.last_written: dict[str, ManifestState] = {}
        """The manifests that this process wrote last, by content, the oldest first: a hint only."""

    @property
    def conditional(self) -> bool:
        """Whether the service enforces conditions of writes, as far as is known."""
        return self.conditional_puts

    def new_id(self, ctx: Context) -> str:
        """The id of a new write: its time in UTC and 16 random digits."""
        now = datetime.fromtimestamp(int(ctx.runtime.wall_time()), UTC)
        return f"{now:%Y%m%dT%H%M%SZ}-{ctx.runtime.nonce()[:16]}"

    async def look(
        self, ctx: Context, content_id: str, operation: str, *, cached: bool = False
    ) -> ManifestState:
        """`find`, but raises `IntegrityError` for a damaged manifest."""
        found = await self.find(ctx, content_id, operation, cached=cached)
        if found.damage is None:
            return found
        try:
            raise found.damage
        finally:
            del found  # to which the traceback of its damage refers, by way of this frame

    async def find(
        self, ctx: Context, content_id: str, operation: str, *, cached: bool = False
    ) -> ManifestState:
        """Read the current state of the manifest, from a cache only if `cached`."""
        self._operations.check_open(operation, ctx)
        own = replace(ctx, reply_headers=None)
        if not cached and ctx.cache == "use":
            own.cache = "refresh"
        key = manifest_key(content_id)
        request = ReadRequest(key, operation=operation, lifetime="mutable", with_info=True)
        began = ctx.runtime.now()
        try:
            block = await self._operations.store.read(own, request)
        except BlockNotFoundError:
            return ManifestState(None, self.now(own), began)
        except IntegrityError as error:  # it did not match what is stored with it
            return await self._find_unread(own, key, began, error)
        found = ManifestState(None, self.now(own), began, block.info.etag, stored_at(block.info))
        try:
            return replace(found, manifest=decode(f"{operation} {content_id!r}", block.data))
        except IntegrityError as error:
            return replace(found, damage=error)

    async def _find_unread(
        self, ctx: Context, key: str, began: float, error: IntegrityError
    ) -> ManifestState:
        """The state of a manifest whose bytes fail verification, by a HEAD."""
        try:
            info = await self._operations.store.stat_block(ctx, key)
        except BlockNotFoundError:
            return ManifestState(None, self.now(ctx), began)
        return ManifestState(None, self.now(ctx), began, info.etag, stored_at(info), damage=error)

    def now(self, ctx: Context) -> float:
        """The service's clock at the last reply, in seconds since the epoch; else ours."""
        date = self._operations.store.date(ctx)
        return ctx.runtime.wall_time() if date is None else date.timestamp()

    def guess(self, ctx: Context, content_id: str) -> ManifestState:
        """The state that this process wrote last, or absence: right unless others changed it."""
        known = self.last_written.get(content_id)
        return known or ManifestState(None, self.now(ctx), ctx.runtime.now(), guessed=True)

    async def put(
        self, ctx: Context, change: Change, manifest: Manifest, found: ManifestState
    ) -> Outcome:
        """Replace the manifest if its state still is `found` (compare-and-swap)."""
        key = manifest_key(change.content_id)
        data = encode(manifest, ctx.runtime.nonce())
        request = WriteRequest(key, data, options=change.options, through=True)
        if self.conditional_puts:
            request.if_match = found.etag or None
            request.if_absent = not found.etag
        until = found.began + _PUT_WITHIN
        deadline = until if ctx.deadline is None else min(until, ctx.deadline)
        own = replace(ctx, unknown_attempts=0, once=True, deadline=deadline)
        change.sent = True
        _ = self.last_written.pop(change.content_id, None)
        try:
            info = await self._operations.store.write(own, request)
        except (BlockExistsError, PreconditionFailedError, BlockNotFoundError) as error:
            change.failure = error
            return self._failed_outcome(change, own)
        except UnsupportedError as error:
            if error.of_options:
                _ = self._failed_outcome(change, own)
                raise
            if not self.conditional_puts:
                raise
            self.conditional_puts = False
            change.failure = error
            return Outcome.REFUSED  # it may have been stored all the same: the next `find` tells
        except BlockStoreError as error:
            change.failure = error
            if self._failed_outcome(change, own) is Outcome.UNKNOWN:
                if isinstance(error, LocalStorageError):  # stored, but may not survive a crash
                    raise
                return Outcome.UNKNOWN
            if not isinstance(error, DeadlineExceededError) or ctx.runtime.now() < until:
                raise
            ctx.check_deadline()
            return Outcome.REFUSED  # not sent: the checks were made too long ago
        finally:
            ctx.unknown_attempts += own.unknown_attempts
            change.unknown_attempts += own.unknown_attempts
        if not own.unknown_attempts:
            self._remember(own, change.content_id, manifest, info.etag)
        return Outcome.DONE

    def _remember(self, ctx: Context, content_id: str, manifest: Manifest, etag: str) -> None:
        at, began = self.now(ctx), ctx.runtime.now()
        known = replace(manifest, data=b"", checksums=b"", etags=())
        self.last_written[content_id] = ManifestState(known, at, began, etag, at, guessed=True)
        while len(self.last_written) > _WRITTEN_KEPT:
            _ = self.last_written.pop(next(iter(self.last_written)), None)

    def _failed_outcome(self, change: Change, own: Context) -> Outcome:
        """The outcome of a request that failed under the context `own`."""
        if own.unknown_attempts:
            return Outcome.UNKNOWN
        change.sent = change.unknown_attempts > 0
        return Outcome.REFUSED

    async def delete(self, ctx: Context, change: Change, etag: str) -> Outcome:
        """Delete the manifest if it still has that ETag (compare-and-delete)."""
        own = replace(ctx, unknown_attempts=0, once=True)
        key = manifest_key(change.content_id)
        try:
            await self._operations.store.delete_block(own, key, if_match=etag)
        except (PreconditionFailedError, BlockNotFoundError) as error:
            change.failure = error
            return Outcome.UNKNOWN if own.unknown_attempts else Outcome.REFUSED
        except UnsupportedError:
            self.conditional_deletes = False
            return Outcome.REFUSED
        except BlockStoreError as error:
            if not own.unknown_attempts:
                raise
            change.failure = error
            return Outcome.UNKNOWN
        finally:
            ctx.unknown_attempts += own.unknown_attempts
            change.unknown_attempts += own.unknown_attempts
        return Outcome.DONE
