"""The manifest of each content as a register: looked at, replaced and removed in one step.

Everything rests on requests under a condition: PUT and DELETE with `If-Match`, PUT with
`If-None-Match: *` where nothing is. ETags of manifests are unique, so a request under `If-Match`
that arrives late is harmless. Only absence can come true twice: a PUT of a manifest at absence is
never made a second time when its outcome is unknown, but a tombstone is put there first and then
replaced. docs/decisions/content-layout.md has the protocol and what was found by model checking.

Where a service ignores conditions the same requests go out without them: the last applied is there,
whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from blockyard.content.found import SETTLED, SWEPT, Condition, Found, stored_at
from blockyard.content.manifest import (
    MOST_REPLACED,
    Manifest,
    decode,
    encode,
    generation_prefix,
    manifest_key,
)
from blockyard.context import Context
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    IntegrityError,
    LocalStorageError,
    OutcomeUnknownError,
    PreconditionFailedError,
    UnsupportedError,
)
from blockyard.operations import Operations
from blockyard.put_options import PutOptions
from blockyard.stores.base import ReadRequest, WriteRequest

_PUT_WITHIN = 60.0
"""Seconds after the checks within which the PUT of a manifest is sent. A process that was stopped
for longer checks again: `clean` may have been there."""
_TRIES = 6
"""How often the outcome of a change is looked for while it is unknown."""
_PAUSE = 1.0
_CONTENDED_PAUSE = 0.05
_KNOWN = 1000
"""How many contents that were written are remembered."""


class Outcome(Enum):
    """What became of one request."""

    DONE = auto()
    REFUSED = auto()
    """Its condition did not hold: it has not changed anything, and will not."""
    UNKNOWN = auto()


@dataclass(slots=True)
class Change:
    """One change of a content under way.

    `options` are those of what is put in place. `sent` says that a request for it went out which
    may have taken effect or may still; `unknown_attempts` counts those of unknown outcome.
    `failure` is the last one's, which no frame may hold: its traceback leads to them.
    """

    operation: str
    content_id: str
    options: PutOptions | None = None
    sent: bool = False
    unknown_attempts: int = 0
    failure: BlockStoreError | None = None

    @property
    def where(self) -> str:
        """What errors begin with."""
        return f"{self.operation} {self.content_id!r}"


Result = TypeVar("Result")
Rest = ParamSpec("Rest")


def _counting_attempts(
    method: Callable[Concatenate[Register, Context, Change, Rest], Awaitable[Result]],
) -> Callable[Concatenate[Register, Context, Change, Rest], Coroutine[Any, Any, Result]]:
    """The method, whose errors say how many attempts of the change may take effect yet."""

    @wraps(method)
    async def counting(
        self: Register, ctx: Context, change: Change, *args: Rest.args, **options: Rest.kwargs
    ) -> Result:
        try:
            return await method(self, ctx, change, *args, **options)
        except BlockStoreError as error:
            error.unknown_attempts = change.unknown_attempts
            raise
        finally:
            change.failure = None

    return counting


class Register:
    """The manifests of one store."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._conditional_puts = True
        self._conditional_deletes = True
        self._known: dict[str, Found] = {}
        """What was last put in place from here, by content, the oldest first: a hint, no more."""

    @property
    def conditional(self) -> bool:
        """Whether the service holds writes to their conditions, as far as is known."""
        return self._conditional_puts

    def new_id(self, ctx: Context) -> str:
        """The id of a new write: its time in UTC and 16 random digits."""
        now = datetime.fromtimestamp(int(ctx.runtime.wall_time()), UTC)
        return f"{now:%Y%m%dT%H%M%SZ}-{ctx.runtime.nonce()[:16]}"

    async def look(
        self, ctx: Context, content_id: str, operation: str, *, cached: bool = False
    ) -> Found:
        """As `find`. Raises `IntegrityError` for a manifest that is damaged."""
        found = await self.find(ctx, content_id, operation, cached=cached)
        if found.damage is None:
            return found
        try:
            raise found.damage
        finally:
            del found  # to which the traceback of its damage refers, by way of this frame

    async def find(
        self, ctx: Context, content_id: str, operation: str, *, cached: bool = False
    ) -> Found:
        """What is there now, damaged or not; from a cache only where that is said to do."""
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
            return Found(None, self.now(own), began)
        except IntegrityError as error:  # it did not match what is stored with it
            return await self._find_unread(own, key, began, error)
        found = Found(None, self.now(own), began, block.info.etag, stored_at(block.info))
        try:
            return replace(found, manifest=decode(f"{operation} {content_id!r}", block.data))
        except IntegrityError as error:
            return replace(found, damage=error)

    async def _find_unread(
        self, ctx: Context, key: str, began: float, error: IntegrityError
    ) -> Found:
        """What is there in place of a manifest whose bytes can't be had."""
        try:
            info = await self._operations.store.stat_block(ctx, key)
        except BlockNotFoundError:
            return Found(None, self.now(ctx), began)
        return Found(None, self.now(ctx), began, info.etag, stored_at(info), damage=error)

    def now(self, ctx: Context) -> float:
        """The service's clock at the last reply, in seconds since the epoch; else ours."""
        date = self._operations.store.date(ctx)
        return ctx.runtime.wall_time() if date is None else date.timestamp()

    def guess(self, ctx: Context, content_id: str) -> Found:
        """What is there if nobody else has changed it: what was put there from here, or nothing."""
        known = self._known.get(content_id)
        return known or Found(None, self.now(ctx), ctx.runtime.now(), guessed=True)

    @_counting_attempts
    async def replace(  # noqa: PLR0912, PLR0915 - one branch for each rule of the protocol
        self,
        ctx: Context,
        change: Change,
        manifest: Manifest,
        condition: Condition,
        guess: Found | None = None,
    ) -> None:
        """Put `manifest` in the place of what is there, of `guess` if it still is.

        Raises what `condition` gives, and `OutcomeUnknownError` when it can't be told whether it
        was, or will be.
        """
        first_sent: float | None = None
        unanswered: set[str] = set()  # ETags of what was to be replaced: "" for nothing
        tries = 0
        if not self._conditional_puts:
            guess = None
        if guess is not None:  # what it replaces is replaced now
            guess = replace(guess, at=self.now(ctx), began=ctx.runtime.now())
        while True:
            try:
                found = guess or await self.find(ctx, change.content_id, change.operation)
                guess = None
                seen = found.manifest
                if seen is not None and seen.names(manifest.id):
                    return
                if first_sent is not None:
                    if found.damage is not None:
                        raise _unknown(change, "what is there now is damaged") from found.damage
                    full = seen is not None and len(seen.history) >= MOST_REPLACED
                    if full or found.at - first_sent >= SETTLED or tries >= _TRIES:
                        raise _unknown(
                            change, "what is there now does not show it"
                        ) from change.failure
                lost = condition(found)
                if lost is not None:
                    if found.guessed:
                        continue
                    if {"", found.etag} & unanswered:  # may take effect yet
                        raise _unknown(change, "another one is there now") from change.failure
                    change.sent = False
                    change.unknown_attempts = 0
                    try:
                        raise lost
                    finally:
                        del lost, found  # which its traceback refers to: it may be the damage
                if seen is None and "" in unanswered and self._conditional_puts:
                    await self._put_tombstone(ctx, change, found)
                    continue
                swept = await self._sweep_replaced(ctx, change, found)
                written = replace(manifest, history=found.history(swept))
                outcome = await self._put(ctx, change, written, found)
            except DeadlineExceededError as error:
                if first_sent is None:
                    raise
                raise _unknown(change, "the deadline passed") from error
            match outcome:
                case Outcome.DONE:
                    return
                case Outcome.REFUSED:
                    if not found.guessed:
                        await ctx.sleep(_CONTENDED_PAUSE * ctx.runtime.jitter())
                case Outcome.UNKNOWN:
                    tries += 1
                    first_sent = found.at if first_sent is None else first_sent
                    unanswered.add(found.etag)
                    await self._pause(ctx, change)

    @_counting_attempts
    async def remove(
        self, ctx: Context, change: Change, found: Found | None = None
    ) -> Manifest | None:
        """Remove what is there, `found` first: nothing is left, or a tombstone for a while.

        Returns what was removed, or the tombstone that was there, with the history whose blocks may
        be deleted; None where nothing may. Raises `OutcomeUnknownError`.
        """
        tombstone = self.new_id(ctx)
        target: Found | None = None
        tries = 0
        while True:
            try:
                found = found or await self.find(ctx, change.content_id, change.operation)
                current, found = found, None
                seen = current.manifest
                if current.damage is None and self._is_gone(target, seen, tombstone):
                    return self._to_sweep(target, current)
                if seen is not None and seen.deleted:
                    _ = await self.remove_tombstone(ctx, change, current)
                    return self._to_sweep(target, current)
                if tries >= _TRIES:
                    raise _unknown(change, "it is there still") from change.failure
                if tries and current.damage is not None:
                    raise _unknown(change, "what is there now is damaged") from current.damage
                target = current
                outcome = await self._remove_once(ctx, change, current, tombstone, tries)
            except DeadlineExceededError as error:
                if not tries:
                    raise
                raise _unknown(change, "the deadline passed") from error
            match outcome:
                case Outcome.DONE:
                    return self._to_sweep(target, current)
                case Outcome.REFUSED:
                    await ctx.sleep(_CONTENDED_PAUSE * ctx.runtime.jitter())
                case Outcome.UNKNOWN:
                    tries += 1
                    await self._pause(ctx, change)

    async def _remove_once(
        self, ctx: Context, change: Change, found: Found, tombstone: str, tries: int
    ) -> Outcome:
        seen = found.manifest
        known = self._known.get(change.content_id)
        own = not tries and known is not None and known.etag == found.etag
        at_once = (
            seen is not None
            and seen.layout != "plain"
            and (found.settled or (own and not seen.history))
        )
        if self._conditional_deletes and at_once:
            result = await self._delete(ctx, change, found.etag)
            if self._conditional_deletes:
                return result
        marked = Manifest(tombstone, history=found.history(), deleted=True)
        return await self._put(ctx, change, marked, found)

    @_counting_attempts
    async def remove_tombstone(self, ctx: Context, change: Change, found: Found) -> bool:
        """Remove a settled tombstone where nothing can be put there meanwhile; whether it was."""
        if not found.settled or not self._conditional_deletes:
            return False
        outcome = await self._delete(ctx, change, found.etag)
        return outcome is Outcome.DONE and self._conditional_deletes

    async def _put_tombstone(self, ctx: Context, change: Change, found: Found) -> None:
        """So that a manifest that comes late is not taken for the only one."""
        marked = Manifest(self.new_id(ctx), deleted=True)
        outcome = await self._put(ctx, change, marked, found)
        if outcome is Outcome.UNKNOWN:
            await self._pause(ctx, change)

    async def _sweep_replaced(self, ctx: Context, change: Change, found: Found) -> frozenset[str]:
        """Delete the blocks of generations that were replaced long enough ago."""
        for each in found.replaced_long_ago:
            await self.delete_generation(ctx, change.content_id, each.id)
        return frozenset(each.id for each in found.replaced_long_ago)

    async def delete_generation(self, ctx: Context, content_id: str, generation: str) -> None:
        """Delete all blocks of a generation. Raises `PartialDeleteError`."""
        prefix = generation_prefix(content_id, generation)
        _ = await self._operations.delete_by_prefix(ctx, prefix, literal=True)

    async def _put(self, ctx: Context, change: Change, manifest: Manifest, found: Found) -> Outcome:
        """Put a manifest in the place of what was found, and of nothing else."""
        key = manifest_key(change.content_id)
        data = encode(manifest, ctx.runtime.nonce())
        request = WriteRequest(key, data, options=change.options, through=True)
        if self._conditional_puts:
            request.if_match = found.etag or None
            request.if_absent = not found.etag
        until = found.began + _PUT_WITHIN
        deadline = until if ctx.deadline is None else min(until, ctx.deadline)
        own = replace(ctx, unknown_attempts=0, once=True, deadline=deadline)
        change.sent = True
        _ = self._known.pop(change.content_id, None)
        try:
            info = await self._operations.store.write(own, request)
        except (BlockExistsError, PreconditionFailedError, BlockNotFoundError) as error:
            change.failure = error
            return self._failed(change, own)
        except UnsupportedError as error:
            if error.of_options:
                _ = self._failed(change, own)
                raise
            if not self._conditional_puts:
                raise
            self._conditional_puts = False
            change.failure = error
            return Outcome.REFUSED  # it may be there all the same: the next look says
        except BlockStoreError as error:
            change.failure = error
            if self._failed(change, own) is Outcome.UNKNOWN:
                if isinstance(error, LocalStorageError):  # it is there, but may not outlast a crash
                    raise
                return Outcome.UNKNOWN
            if not isinstance(error, DeadlineExceededError) or ctx.runtime.now() < until:
                raise
            ctx.check_deadline()
            return Outcome.REFUSED  # it is only too long ago that it was checked
        finally:
            ctx.unknown_attempts += own.unknown_attempts
            change.unknown_attempts += own.unknown_attempts
        if not own.unknown_attempts:
            self._remember(own, change.content_id, manifest, info.etag)
        return Outcome.DONE

    def _is_gone(self, target: Found | None, seen: Manifest | None, tombstone: str) -> bool:
        """Whether what is there now shows that `target` was deleted, when the reply was lost."""
        if seen is None:
            return True
        if target is None:
            return False
        if seen.names(tombstone):
            return True
        if (
            not self._conditional_puts or target.manifest is None
        ):  # it may name what was there before `target` was
            return False
        return len(seen.history) < MOST_REPLACED and not seen.names(target.manifest.id)

    def _to_sweep(self, target: Found | None, found: Found) -> Manifest | None:
        """What was removed and has no blocks that a manifest which comes late may name.

        Where conditions are ignored any manifest that is not old may come late.
        """
        if target is not None:
            old = self._conditional_puts or target.is_older(SWEPT)
            return target.manifest if old else None
        if found.manifest is None:
            return None
        return replace(found.manifest, history=found.replaced_long_ago)

    def _remember(self, ctx: Context, content_id: str, manifest: Manifest, etag: str) -> None:
        at, began = self.now(ctx), ctx.runtime.now()
        known = replace(manifest, data=b"", checksums=b"", etags=())
        self._known[content_id] = Found(known, at, began, etag, at, guessed=True)
        while len(self._known) > _KNOWN:
            _ = self._known.pop(next(iter(self._known)), None)

    def _failed(self, change: Change, own: Context) -> Outcome:
        """What became of a request that failed under this context."""
        if own.unknown_attempts:
            return Outcome.UNKNOWN
        change.sent = change.unknown_attempts > 0
        return Outcome.REFUSED

    async def _delete(self, ctx: Context, change: Change, etag: str) -> Outcome:
        """Delete the manifest with that ETag, and no other."""
        own = replace(ctx, unknown_attempts=0, once=True)
        key = manifest_key(change.content_id)
        try:
            await self._operations.store.delete_block(own, key, if_match=etag)
        except (PreconditionFailedError, BlockNotFoundError) as error:
            change.failure = error
            return Outcome.UNKNOWN if own.unknown_attempts else Outcome.REFUSED
        except UnsupportedError:
            self._conditional_deletes = False
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

    async def _pause(self, ctx: Context, change: Change) -> None:
        """Before the next look for an unknown outcome."""
        try:
            await ctx.sleep(_PAUSE * ctx.runtime.jitter())
        except DeadlineExceededError:
            raise _unknown(
                change, "the deadline would pass before the next look"
            ) from change.failure


def _unknown(change: Change, why: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"{change.where}: whether it was done is not known, and it may be done yet: {why}"
    )
