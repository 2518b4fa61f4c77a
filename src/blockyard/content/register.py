"""The manifest of each content as an atomic register, changed by compare-and-swap (CAS).

The requests (`manifest_requests.py`) are conditional: PUT and DELETE with `If-Match`, PUT with
`If-None-Match: *` where there is no manifest. ETags of manifests are unique, so a late request with
`If-Match` is harmless. Absence is not unique (the ABA problem): a PUT on absence is never repeated
after an unknown outcome; a tombstone is put there first, and then replaced.
docs/decisions/content-layout.md has the protocol and what was found by model checking.

Where a service ignores conditions the same requests go out without them, and the last one applied
wins, whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from blockyard.content.manifest import MOST_REPLACED, Manifest, generation_prefix
from blockyard.content.manifest_requests import Change, ManifestRequests, Outcome
from blockyard.content.manifest_state import SETTLED, SWEPT, Condition, ManifestState
from blockyard.context import Context
from blockyard.errors import BlockStoreError, DeadlineExceededError, OutcomeUnknownError

_TRIES = 6
"""How often the manifest is read to find out an unknown outcome."""
_PAUSE = 1.0
_CONTENDED_PAUSE = 0.05


Result = TypeVar("Result")
Rest = ParamSpec("Rest")


def _counting_attempts(
    method: Callable[Concatenate[Register, Context, Change, Rest], Awaitable[Result]],
) -> Callable[Concatenate[Register, Context, Change, Rest], Coroutine[Any, Any, Result]]:
    """Decorate a method so that its errors carry the `unknown_attempts` of the change."""

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


class Register(ManifestRequests):
    """The manifests of one store, each changed by compare-and-swap until the outcome is known."""

    @_counting_attempts
    async def replace(  # noqa: PLR0912, PLR0915 - one branch for each rule of the protocol
        self,
        ctx: Context,
        change: Change,
        manifest: Manifest,
        condition: Condition,
        guess: ManifestState | None = None,
    ) -> None:
        """Replace whatever manifest is there by `manifest`; try `guess` as the current state first.

        Raises the error that `condition` returns for the current state, and `OutcomeUnknownError`
        when it can't be told whether the change was made, or will be.
        """
        first_sent: float | None = None
        unanswered: set[str] = set()  # `If-Match` of PUTs of unknown outcome; "" for absence
        tries = 0
        if not self.conditional_puts:
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
                if seen is None and "" in unanswered and self.conditional_puts:
                    await self._put_tombstone(ctx, change, found)
                    continue
                swept = await self._sweep_replaced(ctx, change, found)
                written = replace(manifest, history=found.history(swept))
                outcome = await self.put(ctx, change, written, found)
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
        self, ctx: Context, change: Change, found: ManifestState | None = None
    ) -> Manifest | None:
        """Remove the manifest: by a delete, or by a tombstone that `clean` deletes later.

        `found` is its state, if known. Returns the manifest that was removed, or the tombstone
        found there, with those generations in its history whose blocks may be deleted; None where
        none may. Raises `OutcomeUnknownError`.
        """
        tombstone = self.new_id(ctx)
        target: ManifestState | None = None
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
        self, ctx: Context, change: Change, found: ManifestState, tombstone: str, tries: int
    ) -> Outcome:
        seen = found.manifest
        known = self.last_written.get(change.content_id)
        own = not tries and known is not None and known.etag == found.etag
        at_once = (
            seen is not None
            and seen.layout != "plain"
            and (found.settled or (own and not seen.history))
        )
        if self.conditional_deletes and at_once:
            result = await self.delete(ctx, change, found.etag)
            if self.conditional_deletes:
                return result
        marked = Manifest(tombstone, history=found.history(), deleted=True)
        return await self.put(ctx, change, marked, found)

    @_counting_attempts
    async def remove_tombstone(self, ctx: Context, change: Change, found: ManifestState) -> bool:
        """Delete a settled tombstone, if the service enforces `If-Match`; return whether it was."""
        if not found.settled or not self.conditional_deletes:
            return False
        outcome = await self.delete(ctx, change, found.etag)
        return outcome is Outcome.DONE and self.conditional_deletes

    async def _put_tombstone(self, ctx: Context, change: Change, found: ManifestState) -> None:
        """Put a tombstone on absence, so that a late PUT on absence is refused from then on."""
        marked = Manifest(self.new_id(ctx), deleted=True)
        outcome = await self.put(ctx, change, marked, found)
        if outcome is Outcome.UNKNOWN:
            await self._pause(ctx, change)

    async def _sweep_replaced(
        self, ctx: Context, change: Change, found: ManifestState
    ) -> frozenset[str]:
        """Delete the blocks of generations that were replaced long ago; return their ids."""
        for each in found.replaced_long_ago:
            await self.delete_generation(ctx, change.content_id, each.id)
        return frozenset(each.id for each in found.replaced_long_ago)

    async def delete_generation(self, ctx: Context, content_id: str, generation: str) -> None:
        """Delete all blocks of a generation. Raises `PartialDeleteError`."""
        prefix = generation_prefix(content_id, generation)
        _ = await self._operations.delete_by_prefix(ctx, prefix, literal=True)

    def _is_gone(self, target: ManifestState | None, seen: Manifest | None, tombstone: str) -> bool:
        """After a lost reply: whether the current manifest shows that `target` was removed."""
        if seen is None:
            return True
        if target is None:
            return False
        if seen.names(tombstone):
            return True
        if (
            not self.conditional_puts or target.manifest is None
        ):  # it may name what was there before `target` was
            return False
        return len(seen.history) < MOST_REPLACED and not seen.names(target.manifest.id)

    def _to_sweep(self, target: ManifestState | None, found: ManifestState) -> Manifest | None:
        """The removed manifest, if no late PUT of another manifest can name its blocks.

        Where conditions are ignored any recent manifest may still arrive late.
        """
        if target is not None:
            old = self.conditional_puts or target.is_older(SWEPT)
            return target.manifest if old else None
        if found.manifest is None:
            return None
        return replace(found.manifest, history=found.replaced_long_ago)

    async def _pause(self, ctx: Context, change: Change) -> None:
        """Sleep before the manifest is read again to find out an unknown outcome."""
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
