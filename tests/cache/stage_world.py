"""One block behind a cache folder with a stage, as a model, and the invariants of write-back.

Owns what the store holds, what is staged, the clean entry, the mark of doubt, the lock of uploads,
and what is known of the past. Versions are names, those of deletes begin with "x". Times are
periods of `SETTLE_SECONDS`. What a reader finds is the staged version, or else what the store
holds: `past` is every version that this was. A version never comes back once another replaced it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.content.explorer import BrokenError

SETTLE = 1
"""For how long a request may still be applied after its client gave up."""


class Mark(NamedTuple):
    """A change of this version was sent; `at` is when it ended, None while it is under way."""

    version: str
    at: int | None


class Step(NamedTuple):
    """One step of a process."""

    verb: str
    on: Any = None
    not_before: int = 0

    @property
    def local(self) -> bool:
        return self.verb in {"begin", "tell"}

    @property
    def changes(self) -> bool:
        return self.verb == "send"

    def __str__(self) -> str:
        return self.verb + ("" if self.on is None else f" {self.on}")


class World(NamedTuple):
    """The store and the folder with one block, and what is known of its past."""

    store: str = "old"
    stage: str | None = None
    synced: str | None = None
    """What is staged after a power cut."""
    entry: str | None = "old"
    same_epoch: frozenset[str] = frozenset()
    """The readers since whose look at the epoch it has not been raised."""
    mark: Mark | None = None
    lock: str | None = None
    booted: int | None = None
    """When the power failed, if it did."""
    at_work: frozenset[str] = frozenset()
    past: tuple[str, ...] = ("old",)
    hidden: frozenset[str] = frozenset()
    """What went through to the store while another version was staged, which is newer."""
    undone: frozenset[str] = frozenset()
    """What a power cut undid of what nobody was told, which may still come about."""
    began: tuple[tuple[str, int], ...] = ()
    acknowledged: frozenset[str] = frozenset()

    def apply(self, process: str, action: Step, now: int, late: bool) -> tuple[World, Any]:
        world, reply = getattr(self, f"_{action.verb}")(process, action.on, now)
        return world._seen(), reply

    def killed(self, process: str) -> World:
        free = None if self.lock == process else self.lock
        return self._replace(lock=free, at_work=self.at_work - {process})

    def power_failed(self, now: int) -> World:
        """The mark was not synced, and entries are asked about once before they are used."""
        world = self._replace(
            stage=self.synced, mark=None, entry=None, lock=None, booted=now, began=()
        )
        back = world.found
        if back != self.past[-1]:
            undone = self.past[-1:]
            if back in self.past:
                undone = self.past[len(self.past) - self.past[::-1].index(back) :]
            if gone := [each for each in undone if each in self.acknowledged]:
                raise BrokenError(f"{gone} is acknowledged, and undone by a power cut")
            world = world._replace(past=(*self.past, back), undone=frozenset(undone))
        return world

    @property
    def found(self) -> str:
        """What a reader finds who has nothing cached."""
        return self.store if self.stage is None else self.stage

    def _seen(self) -> World:
        found = self.found
        if found == self.past[-1]:
            return self
        if found in self.past and found not in self.undone:
            raise BrokenError(f"{found} is back, after {self.past[-1]}")
        return self._replace(past=(*self.past, found), undone=frozenset())

    def _begin(self, process: str, on: Any, now: int) -> tuple[World, int]:
        began = {**dict(self.began), process: len(self.past) - 1}
        return self._replace(began=tuple(sorted(began.items()))), now

    def _end(self, process: str, on: Any, now: int) -> tuple[World, None]:
        return self._replace(at_work=self.at_work - {process}), None

    def _tell(self, process: str, on: Any, now: int) -> tuple[World, None]:
        """Check what a caller is told. What went through may lie just before what is staged."""
        what, version = on
        past = self.past[dict(self.began).get(process, 0) :]
        match what:
            case "written":
                if version not in past and len(past) == 1:
                    raise BrokenError(f"{version} is acknowledged, and never took effect")
                return self._replace(acknowledged=self.acknowledged | {version}), None
            case "read":
                just_before = version in self.hidden and len(past) > 1
                if version not in past and not just_before:
                    raise BrokenError(f"a reader is told {version}, replaced before it began")
            case "drained":
                if self.stage is not None or self.store != self.past[-1]:
                    raise BrokenError(f"drained, and the store holds {self.store}")
        return self, None

    # The store.

    def _send(self, process: str, on: str, now: int) -> tuple[World, str]:
        hidden = self.hidden
        if self.stage is not None and on not in self.past:
            hidden |= {on}
        return self._replace(store=on, hidden=hidden), "done"

    def _get(self, process: str, on: Any, now: int) -> tuple[World, str]:
        return self, self.store

    # The folder: each is one step under the lock of changes, where it needs one.

    def _rename(self, process: str, on: str, now: int) -> tuple[World, None]:
        return self._replace(stage=on), None

    def _sync(self, process: str, on: Any, now: int) -> tuple[World, None]:
        return self._replace(synced=self.stage), None

    def _staged(self, process: str, on: Any, now: int) -> tuple[World, str | None]:
        return self, self.stage

    def _remove(self, process: str, on: str, now: int) -> tuple[World, bool]:
        if self.stage != on:
            return self, False
        return self._replace(stage=None), True

    def _remove_any(self, process: str, on: str, now: int) -> tuple[World, bool]:
        return self._replace(stage=None), True

    def _take_lock(self, process: str, on: Any, now: int) -> tuple[World, bool]:
        if self.lock is not None:
            return self, False
        return self._replace(lock=process), True

    def _free_lock(self, process: str, on: Any, now: int) -> tuple[World, None]:
        return self._replace(lock=None), None

    def _look_at_mark(
        self, process: str, on: Any, now: int
    ) -> tuple[World, tuple[Mark | None, int | None, int]]:
        return self, (self.mark, self.booted, now)

    def _set_mark(self, process: str, on: str, now: int) -> tuple[World, None]:
        return self._replace(mark=Mark(on, None)), None

    def _end_mark(self, process: str, on: str, now: int) -> tuple[World, None]:
        return self._replace(mark=Mark(on, now)), None

    def _remove_mark(self, process: str, on: Any, now: int) -> tuple[World, None]:
        return self._replace(mark=None), None

    def _raise_epoch(self, process: str, on: Any, now: int) -> tuple[World, None]:
        return self._replace(same_epoch=frozenset(), entry=None), None

    def _look_at_epoch(self, process: str, on: Any, now: int) -> tuple[World, None]:
        return self._replace(same_epoch=self.same_epoch | {process}), None

    def _look_at_entry(self, process: str, on: Any, now: int) -> tuple[World, str | None]:
        return self, self.entry

    def _fill(self, process: str, on: str, now: int) -> tuple[World, None]:
        if process not in self.same_epoch:
            return self, None
        return self._fill_anyway(process, on, now)

    def _fill_anyway(self, process: str, on: str, now: int) -> tuple[World, None]:
        return self._replace(entry=on, same_epoch=self.same_epoch - {process}), None

    def _evict(self, process: str, on: Any, now: int) -> tuple[World, None]:
        return self._replace(entry=None), None

    def _others(self, process: str, on: Any, now: int) -> tuple[World, bool]:
        return self, bool(self.at_work)

    def _wait(self, process: str, on: Any, now: int) -> tuple[World, None]:
        return self, None
