"""Write-back, as a model: what each operation asks of the folder and the store, in which order.

`stage_world` is what answers, `tests/content/explorer.py` tries every interleaving, and
`test_stage_protocol` has the scenarios. Every rule that matters is a field of `Rules`, so that a
test can take it away and see what breaks.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.cache.stage_world import SETTLE, Step
from tests.content.explorer import LOST, Process


@dataclass(frozen=True)
class Rules:
    """The rules of write-back; a test takes one away."""

    sync_before_acknowledging: bool = True
    """A staged write is told to be done once its folder is synced."""
    one_upload: bool = True
    """Who changes the block in the store holds the key's lock of uploads."""
    doubt_waits: bool = True
    """After an attempt of unknown outcome another version waits until that has settled."""
    doubt_is_marked: bool = True
    """A mark in the folder, made before a request, says so to who comes after a kill."""
    unknown_leaves_mark: bool = True
    """An answer to a later attempt ends no doubt about the ones before."""
    killed_is_in_doubt: bool = True
    """The doubt left by a process that was killed begins when its lock was found free."""
    boot_is_in_doubt: bool = True
    """After a reboot every block is in doubt, until what was sent before has settled."""
    remove_own_only: bool = True
    """What was uploaded is removed from the stage if it is still what is staged there."""
    sync_after_removing: bool = True
    """The lock of uploads is given back when the removal is synced."""
    stage_first: bool = True
    """Readers look into the stage before they look for an entry."""
    epoch_before: bool = True
    """Entries are dropped before a change is sent."""
    fill_by_epoch: bool = True
    """What was read under another epoch is not kept."""
    no_fill_in_doubt: bool = True
    """What was read while a change is under way or in doubt is not kept."""
    doubt_after_epoch: bool = True
    """Readers look for the mark when they have looked at the epoch."""
    upload_before_condition: bool = True
    """A conditional change comes after what is staged."""
    drop_superseded: bool = True
    """A change that goes through removes from the stage what it found there."""


def staged_write(rules: Rules, version: str) -> Process:
    _ = yield Step("begin")
    _ = yield Step("rename", version)
    if rules.sync_before_acknowledging:
        _ = yield Step("sync")
    _ = yield Step("tell", ("written", version))
    _ = yield Step("end")


def through(rules: Rules, version: str, *, conditional: bool = False, tries: int = 2) -> Process:
    """A delete, a copy, a conditional write, or one that is too large for the stage."""
    _ = yield Step("begin")
    yield from _lock(rules)
    if conditional and rules.upload_before_condition:
        yield from _upload(rules)
    superseded = yield Step("staged")
    yield from _wait_for_doubt(rules, version)
    sent = yield from _change(rules, version, tries)
    if sent and superseded is not None and rules.drop_superseded and not conditional:
        yield from _remove(rules, superseded)
    if rules.one_upload:
        _ = yield Step("free_lock")
    if sent:
        _ = yield Step("tell", ("written", version))
    _ = yield Step("end")


def uploader(rules: Rules) -> Process:
    """What goes on in the background of a process while others are at work."""
    waiting = True
    while waiting:
        staged = yield Step("staged")
        if staged is not None:
            yield from _lock(rules)
            yield from _upload(rules)
            if rules.one_upload:
                _ = yield Step("free_lock")
        waiting = yield Step("others")
        del staged


def drain(rules: Rules) -> Process:
    """Another process, once the others have ended."""
    others = True
    while others:
        others = yield Step("others")
    yield from _lock(rules)
    yield from _upload(rules)
    if rules.one_upload:
        _ = yield Step("free_lock")
    now = yield Step("begin")
    _ = yield Step("wait", not_before=now + SETTLE)
    _ = yield Step("tell", ("drained", None))


def read(rules: Rules) -> Process:
    _ = yield Step("begin")
    if rules.stage_first:
        staged = yield Step("staged")
        if staged is not None:
            _ = yield Step("tell", ("read", staged))
            return
    doubt = False
    if not rules.doubt_after_epoch:
        doubt = yield from _in_doubt()
    _ = yield Step("look_at_epoch")
    if rules.doubt_after_epoch:
        doubt = yield from _in_doubt()
    if not rules.no_fill_in_doubt:
        doubt = False
    entry = yield Step("look_at_entry")
    if entry is not None:
        _ = yield Step("tell", ("read", entry))
        return
    if not rules.stage_first:
        staged = yield Step("staged")
        if staged is not None:
            _ = yield Step("tell", ("read", staged))
            return
    found = yield Step("get")
    _ = yield Step("tell", ("read", found))
    if not doubt:
        _ = yield Step("fill" if rules.fill_by_epoch else "fill_anyway", found)


def read_twice(rules: Rules) -> Process:
    yield from read(rules)
    yield from read(rules)


def evict(rules: Rules) -> Process:
    _ = yield Step("evict")


def _in_doubt() -> Process:
    mark, booted, now = yield Step("look_at_mark")
    if booted is not None and now < booted + SETTLE:
        return True
    return mark is not None and (mark.at is None or now < mark.at + SETTLE)


def _lock(rules: Rules) -> Process:
    taken = not rules.one_upload
    while not taken:
        taken = yield Step("take_lock")


def _upload(rules: Rules) -> Process:
    """With the lock of uploads held: the version that is staged, not what is staged meanwhile."""
    staged = yield Step("staged")
    if staged is not None:
        yield from _wait_for_doubt(rules, staged)
        _ = yield from _change(rules, staged, tries=9)
        yield from _remove(rules, staged)


def _wait_for_doubt(rules: Rules, version: str) -> Process:
    mark, booted, now = yield Step("look_at_mark")
    if mark is not None and mark.at is None:
        if rules.killed_is_in_doubt:
            _ = yield Step("end_mark", mark.version)
            mark = mark._replace(at=now)
        else:
            mark = None
    ends = 0
    if mark is not None and mark.version != version and rules.doubt_waits:
        ends = mark.at + SETTLE
    if booted is not None and rules.boot_is_in_doubt:
        ends = max(ends, booted + SETTLE)
    if now < ends:
        _ = yield Step("wait", not_before=ends)


def _change(rules: Rules, version: str, tries: int) -> Process:
    """Send it, again at once if need be; whether it was answered."""
    found = yield Step("look_at_mark")
    unknown = found[0] is not None and found[0].version == version
    del found
    if rules.doubt_is_marked:
        _ = yield Step("set_mark", version)
    if rules.epoch_before:
        _ = yield Step("raise_epoch")
    answer = LOST
    while answer is LOST and tries:
        answer = yield Step("send", version)
        unknown = unknown or answer is LOST
        tries -= 1
    if unknown and rules.unknown_leaves_mark:
        _ = yield Step("end_mark", version)
    else:
        _ = yield Step("remove_mark")
    return answer is not LOST


def _remove(rules: Rules, version: str) -> Process:
    _ = yield Step("remove" if rules.remove_own_only else "remove_any", version)
    if rules.sync_after_removing:
        _ = yield Step("sync")
