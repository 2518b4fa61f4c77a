"""The service that a content is kept in, as a model, and the invariants of the protocol.

Owns the manifest register with its conditions, the blocks, and what is known of the past: what the
register held, and what callers were told. Times are minutes. A manifest's id stands for its ETag.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.content.explorer import BrokenError

LATE = 5
"""For how long a request may still be applied after its client gave up."""
SIGNATURE = 15
"""For how long a service accepts a signature."""
ABSENT = "absent"
"""The condition that there is nothing, or a tombstone where it is a caller's."""


class Service:
    """Which conditions a service honours."""

    ALL = "all"
    NOT_ON_DELETE = "not on DELETE"
    NONE = "none"


class Replaced(NamedTuple):
    """An entry of a history. No `blocks`: they are swept."""

    id: str
    at: int
    blocks: int


class Manifest(NamedTuple):
    """What the register holds; a tombstone is not `live`, and nobody can read one `damaged`."""

    id: str
    live: bool = True
    blocks: int = 0
    history: tuple[Replaced, ...] = ()
    damaged: bool = False

    def __str__(self) -> str:
        names = ", ".join(f"{old.id} {old.at}" for old in self.history)
        return f"{'manifest' if self.live else 'tombstone'} {self.id}[{names}]"


class Block(NamedTuple):
    """A block of a generation, when it was written, and of which version its bytes are."""

    generation: str
    number: int
    at: int
    version: str


class Seen(NamedTuple):
    """The reply to a GET of the manifest."""

    manifest: Manifest | None
    date: int
    modified: int


class Reply(NamedTuple):
    """The reply to any other request."""

    status: int
    date: int
    body: Any = None


class Action(NamedTuple):
    """One step of a process; `wanted` is the caller's condition."""

    verb: str
    on: Any = None
    match: str | None = None
    signed: int | None = None
    wanted: str | None = None
    not_before: int = 0

    @property
    def local(self) -> bool:
        return self.verb in {"begin", "tell"}

    @property
    def changes(self) -> bool:
        return self.verb in {"put", "delete", "put_block", "copy_block", "delete_block"}

    def __str__(self) -> str:
        if self.verb == "wait":
            return f"wait until minute {self.not_before}"
        on = "" if self.on is None else f" {self.on}"
        return self.verb.replace("_", " ") + on + (f" if {self.match}" if self.match else "")


class World(NamedTuple):
    """The service with one content, and what is known of its past."""

    service: str = Service.ALL
    register: Manifest | None = None
    modified: int = 0
    blocks: frozenset[Block] = frozenset()
    past: tuple[tuple[str | None, bool], ...] = ((None, False),)
    """Every (id, live) that the register held, in order."""
    began: tuple[tuple[str, int], ...] = ()
    acknowledged: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def apply(self, process: str, action: Action, now: int, late: bool) -> tuple[World, Any]:
        return getattr(self, f"_{action.verb}")(process, action, now, late)

    def killed(self, process: str) -> World:
        return self

    def power_failed(self, now: int) -> World:
        return self

    def _get(self, process: str, action: Action, now: int, late: bool) -> tuple[World, Seen]:
        return self, Seen(self.register, now, self.modified)

    def _put(self, process: str, action: Action, now: int, late: bool) -> tuple[World, Reply]:
        if action.signed is not None and now - action.signed > SIGNATURE + LATE * late:
            return self, Reply(403, now)
        if self.service != Service.NONE and action.match is not None:
            there = ABSENT if self.register is None else self.register.id
            if there != action.match:
                return self, Reply(412, now)
        self._check_effect(action)
        return self._become(action.on, now), Reply(200, now)

    def _check_effect(self, action: Action) -> None:
        new, old = action.on, self.register
        old = old and old._replace(damaged=False)  # whether it was there is no matter of reading it
        if action.wanted is not None and not allows(old, action.wanted):
            raise BrokenError(f"{new.id} replaces what its caller did not name")
        if self.service == Service.NONE:
            return
        if new.id in self.refused:
            raise BrokenError(f"{new.id} takes effect, and its caller was told that it did not")
        may_again = not new.live and new.id not in self.acknowledged  # its delete has not ended
        if any(id_ == new.id for id_, _ in self.past) and not may_again:
            raise BrokenError(f"{new.id} takes effect a second time")

    def _delete(self, process: str, action: Action, now: int, late: bool) -> tuple[World, Reply]:
        old = self.register
        if self.service == Service.ALL and action.match and (old is None or old.id != action.match):
            return self, Reply(412, now)
        if old is None:
            return self, Reply(204, now)
        name, aim = action.on
        ended = name is None or name in self.acknowledged
        if old.id != aim and old.id in self.acknowledged and ended:
            raise BrokenError(f"the DELETE of {aim} removes {old.id}, which is newer")
        return self._become(None, now), Reply(204, now)

    def _become(self, new: Manifest | None, now: int) -> World:
        entry = (new.id, new.live) if new else (None, False)
        world = self._replace(register=new, modified=now, past=(*self.past, entry))
        world._check_whole()
        return world

    def _check_whole(self) -> None:
        if self.register is not None and self.register.live:
            there = {block.number for block in self.blocks if block.generation == self.register.id}
            if len(there) != self.register.blocks:
                raise BrokenError(f"the manifest names blocks of {self.register.id} that are gone")

    def _put_block(self, process: str, action: Action, now: int, late: bool) -> tuple[World, Reply]:
        block = Block(*action.on, now, action.on[0])
        return self._replace(blocks=self._without(action.on) | {block}), Reply(200, now)

    def _copy_block(
        self, process: str, action: Action, now: int, late: bool
    ) -> tuple[World, Reply]:
        source, number, target = action.on
        copied = [block for block in self.blocks if block[:2] == (source, number)]
        if not copied:
            return self, Reply(404, now)
        block = Block(target, number, now, copied[0].version)
        blocks = self._without((target, number)) | {block}
        return self._replace(blocks=blocks), Reply(200, now)

    def _delete_block(
        self, process: str, action: Action, now: int, late: bool
    ) -> tuple[World, Reply]:
        world = self._replace(blocks=self._without(action.on))
        world._check_whole()
        return world, Reply(204, now)

    def _without(self, on: tuple[str, int]) -> frozenset[Block]:
        return frozenset(block for block in self.blocks if block[:2] != on)

    def _get_block(self, process: str, action: Action, now: int, late: bool) -> tuple[World, int]:
        return self, 200 if any(block[:2] == action.on for block in self.blocks) else 404

    def _rot(self, process: str, action: Action, now: int, late: bool) -> tuple[World, Reply]:
        old = self.register
        rotten = None if old is None else old._replace(damaged=True)
        return self._replace(register=rotten), Reply(200, now)

    def _list(self, process: str, action: Action, now: int, late: bool) -> tuple[World, Reply]:
        generations = {block.generation for block in self.blocks}
        listed = {name: [b.at for b in self.blocks if b.generation == name] for name in generations}
        body = tuple((name, max(at), len(at)) for name, at in sorted(listed.items()))
        return self, Reply(200, now, body)

    def _wait(self, process: str, action: Action, now: int, late: bool) -> tuple[World, Reply]:
        return self, Reply(200, now)

    def _begin(self, process: str, action: Action, now: int, late: bool) -> tuple[World, int]:
        began = dict(self.began) | {process: len(self.past) - 1}
        return self._replace(began=tuple(sorted(began.items()))), now

    def _versions(self, generation: str) -> set[tuple[str | None, bool]]:
        """Which versions the blocks of a generation have bytes of, as entries of the past."""
        return {(block.version, True) for block in self.blocks if block.generation == generation}

    def _tell(self, process: str, action: Action, now: int, late: bool) -> tuple[World, None]:
        """Check what an operation tells its caller, who began it at a known point of the past."""
        what, id_ = action.on
        past = self.past[dict(self.began)[process] :]
        ids = {entry[0] for entry in past}
        nothing = any(not live for _, live in past)
        truths = {
            "written": id_ in ids,
            "read": (id_, True) in past,
            "copied": len(self._versions(id_)) == 1 and self._versions(id_) <= set(past),
            "nothing there": nothing,
            "deleted": nothing,
            "exists": len(past) > 1 or self.past[-1][1],
            "changed": any(entry != (action.wanted, True) for entry in past),
            "replaced": len(past) > 1,
            "unknown": True,
            "stopped": True,
        }
        if not truths.get(what, False):
            raise BrokenError(f"{process} is told: {what} {id_}")
        if what in {"exists", "changed"}:
            if any(entry[0] == id_ for entry in self.past):
                raise BrokenError(f"{id_} took effect, and its caller is told: {what}")
            return self._replace(refused=self.refused | {id_}), None
        if what in {"written", "deleted"}:
            return self._replace(acknowledged=self.acknowledged | {id_}), None
        return self, None


def allows(manifest: Manifest | None, wanted: str | None) -> bool:
    """Whether the caller's condition holds."""
    if wanted is None:
        return True
    if manifest is not None and manifest.damaged:
        return False
    live = manifest is not None and manifest.live
    return not live if wanted == ABSENT else live and manifest.id == wanted
