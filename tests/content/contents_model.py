"""The protocol of contents, as a model: what each operation on a content asks for, in which order.

`contents_world` is the service that answers, `explorer` tries every interleaving, `test_protocol`
has the scenarios. Every rule that matters is a field of `Rules`, so that a test can take it away
and see what breaks. Not modelled: the plain layout, deletes by prefix, manifests served from a
cache (a reader that paused after its GET holds the same).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tests.content.contents_world import (
    ABSENT,
    LATE,
    Action,
    Manifest,
    Replaced,
    Service,
    allows,
)
from tests.content.explorer import LOST, Process

SETTLED = 10
SETTLED_UNCONDITIONALLY = 30
ORPHAN = 24 * 60
STALL = ORPHAN // 2


@dataclass(frozen=True)
class Rules:
    """The rules of the protocol; a test takes one away."""

    service: str = Service.ALL
    conditional_put: bool = True
    """Manifests are written under If-Match, or If-None-Match where there is none."""
    conditional_delete: bool = True
    """Manifests are deleted under If-Match, never replaced ones."""
    conditions_refused: bool = True
    """Conditional writes are refused by a service that ignores conditions."""
    look_before_verdict: bool = True
    """After 412 the manifest is read: this write may be there, from an attempt before."""
    look_into_history: bool = True
    """A write that is named in the history has taken effect."""
    history_limit: int = 12
    full_history_is_unknown: bool = True
    """Nothing is concluded from an absence in a full history."""
    old_attempt_is_unknown: bool = True
    """Nothing is concluded once the first attempt is settled."""
    tombstone_before_retry: bool = True
    """A write at absence of unknown outcome is tried again over a tombstone only."""
    wait_before_lost: bool = True
    """Nobody is told that a write lost while an attempt at absence may be under way."""
    tombstone_when_young: bool = True
    """A young manifest is replaced by a tombstone, not deleted."""
    first_answer_only: bool = True
    """A young manifest is deleted by its creator only if its first attempt was answered."""
    tombstone_settles: bool = True
    """A tombstone is removed once it is settled."""
    keep_unknown_blocks: bool = True
    """Blocks of a write stay, where a manifest naming them was sent, unless it certainly lost."""
    replaced_settles: bool = True
    """Blocks of a replaced generation stay until it is settled."""
    check_stall: bool = True
    """A writer whose replies are half a day apart stops."""
    stall_since_begin: bool = True
    """The first reply is compared with when the write began."""
    sign_check: bool = True
    """A manifest is signed with the time of the last reply."""
    list_before_look: bool = True
    """`clean` reads the manifest after the listing."""
    orphan_ages: bool = True
    """`clean` removes what is a day old."""
    leave_unsettled: bool = True
    """Without conditions a delete leaves the blocks of an unsettled manifest."""
    settles_longer: bool = True
    """Without conditions nothing is settled while a signature is valid and a request late."""
    blind_writes_name_nothing: bool = True
    """Without conditions a delete concludes nothing from what a history does not name."""
    copy_starts_over: bool = True
    """A copy whose source was replaced meanwhile begins a generation of its own."""
    damage_is_unknown: bool = True
    """Nothing is concluded from a manifest that is damaged."""
    damage_fills_history: bool = True
    """What replaces a damaged manifest has a full history: nothing is concluded from it."""
    damage_keeps_orphans: bool = True
    """`clean` removes nothing of a content whose manifest is damaged."""
    reread: bool = True
    """A reader that misses a block reads the manifest again."""

    @property
    def settled(self) -> int:
        """The age from which on something is settled."""
        longer = self.service == Service.NONE and self.settles_longer
        return SETTLED_UNCONDITIONALLY if longer else SETTLED


BEGIN, GET, LIST = Action("begin"), Action("get"), Action("list")


def tell(what: str, id_: str | None = None, wanted: str | None = None) -> Action:
    """An operation ends, and this is what its caller gets."""
    return Action("tell", (what, id_), wanted=wanted)


def names(manifest: Manifest | None, id_: str, rules: Rules) -> bool:
    """Whether the manifest is that version, or names it among those replaced."""
    if manifest is None or manifest.damaged:
        return False
    return manifest.id == id_ or (
        rules.look_into_history and any(old.id == id_ for old in manifest.history)
    )


def succeeding(manifest: Manifest | None, now: int, rules: Rules) -> tuple[Replaced, ...]:
    """The history of what replaces `manifest` at `now`."""
    if manifest is None:
        return ()
    if manifest.damaged:
        return (Replaced("?", now, 0),) * rules.history_limit * rules.damage_fills_history
    history = (*manifest.history, Replaced(manifest.id, now, manifest.blocks * manifest.live))
    return history[-rules.history_limit :]


def delete_blocks(*generations: tuple[str, int]) -> Process:
    """Delete the blocks of each (generation, number of blocks)."""
    for on in tuple((name, n) for name, blocks in generations for n in reversed(range(blocks))):
        yield Action("delete_block", on)


def sweep(history: tuple[Replaced, ...], now: int, rules: Rules) -> Process:
    """Delete what was replaced and is settled; returns the history that says so."""
    old = tuple(
        (entry.id, entry.blocks)
        for entry in history
        if now - entry.at >= rules.settled or not rules.replaced_settles
    )
    yield from delete_blocks(*old)
    swept = {name for name, _ in old}
    return tuple(entry._replace(blocks=0) if entry.id in swept else entry for entry in history)


class Intent(NamedTuple):
    """A write: the id of its version, its caller's condition, and how it is to be done."""

    id: str
    wanted: str | None = None
    blocks: int = 1
    tries: int = 3


def write(rules: Rules, intent: Intent) -> Process:
    """Write a content, replacing what the caller's condition allows.

    Returns whether it was created where nothing was, answered at the first attempt.
    """
    last = began = yield BEGIN
    if intent.wanted is not None:
        if rules.service == Service.NONE and rules.conditions_refused:
            return False
        manifest, _, _ = yield GET
        if not allows(manifest, intent.wanted):
            yield from finish(rules, intent._replace(blocks=0), "lost")
            return False
        del manifest
    for number in range(intent.blocks):
        reply = yield Action("put_block", (intent.id, number))
        while reply is LOST:
            reply = yield Action("put_block", (intent.id, number))
        unknown = last == began and not rules.stall_since_begin
        if stalled(last, reply.date, rules) and not unknown:
            yield tell("stopped", intent.id)
            return False
        last = reply.date
        del reply, unknown
    return (yield from commit(rules, intent, last))


def stalled(last: int, now: int, rules: Rules) -> bool:
    """Whether a writer's replies are too far apart."""
    return rules.check_stall and now - last >= STALL


class Attempts(NamedTuple):
    """What a writer knows of its PUTs of the manifest that were not answered."""

    unanswered: int = 0
    first: int | None = None
    """The last reply before the first one was sent."""
    at_absence: int | None = None
    """The first reply after the last one at absence was given up."""
    at_absence_now: bool = False

    def looked(self, now: int) -> Attempts:
        """The manifest was read since."""
        if not self.at_absence_now:
            return self
        return self._replace(at_absence=now, at_absence_now=False)

    def lost(self, now: int, at_absence: bool) -> Attempts:
        """There was no reply to one more."""
        first = now if self.first is None else self.first
        return Attempts(self.unanswered + 1, first, self.at_absence, at_absence)


def verdict(
    rules: Rules, write: Intent, manifest: Manifest | None, now: int, attempts: Attempts
) -> str | None:
    """What became of a write, from a manifest read after its attempts; None: try, or try again."""
    if attempts.unanswered:
        if names(manifest, write.id, rules):
            return "written"
        if may_be_forgotten(manifest, now - attempts.first, rules):
            return "unknown"
    if not allows(manifest, write.wanted):
        absence = attempts.at_absence
        certain = absence is None or not must_wait(rules) or now >= absence + LATE
        return "lost" if certain else "wait"
    if attempts.unanswered == write.tries:
        return "unknown"
    if manifest is None and attempts.at_absence is not None and rules.tombstone_before_retry:
        return "seal"
    return None


def commit(rules: Rules, write: Intent, last: int) -> Process:
    """Put the manifest in place: steps 3 to 5 of a write, and what follows 412 and no answer."""
    attempts = Attempts()
    while True:
        manifest, now, _ = yield GET
        attempts = attempts.looked(now)
        what = verdict(rules, write, manifest, now, attempts)
        if stalled(last, now, rules):
            what = "unknown" if attempts.unanswered else "stopped"
        last = now
        if what == "wait":
            yield Action("wait", not_before=attempts.at_absence + LATE)
            continue
        if what == "seal":
            attempts = attempts._replace(unanswered=attempts.unanswered + 1)
            seal = Manifest(f"{write.id}-seal{attempts.unanswered}", live=False)
            yield Action("put", seal, match=ABSENT, signed=now)
            del seal
            continue
        if what is not None:
            yield from finish(rules, write, what)
            mine = manifest is not None and not manifest.history
            return what == "written" and mine and not rules.first_answer_only
        known = manifest.history if manifest and not manifest.damaged else ()
        history = yield from sweep(known, now, rules)
        over = manifest._replace(history=history) if manifest else None
        new = Manifest(write.id, True, write.blocks, succeeding(over, now, rules))
        reply = yield put(rules, new, over, now, write.wanted)
        while reply is LOST and (rules.service == Service.NONE or not rules.look_before_verdict):
            reply = yield put(rules, new, over, now, write.wanted)
        if reply is LOST:
            attempts = attempts.lost(now, manifest is None)
        elif reply.status == 200:
            yield from finish(rules, write, "written")
            return manifest is None and not attempts.unanswered
        elif reply.status == 403:
            yield from finish(rules, write, "unknown" if attempts.unanswered else "stopped")
            return False
        elif write.wanted is not None and not rules.look_before_verdict:
            yield from finish(rules, write, "lost")
            return False
        del known, history, over, new, reply


def finish(rules: Rules, write: Intent, what: str) -> Process:
    """Tell the caller; delete the blocks that no manifest can come to name."""
    if what == "lost":
        yield tell("exists" if write.wanted == ABSENT else "changed", write.id, write.wanted)
    else:
        yield tell(what, write.id)
    if what == "lost" or (what == "unknown" and not rules.keep_unknown_blocks):
        yield from delete_blocks((write.id, write.blocks))


def must_wait(rules: Rules) -> bool:
    """Whether absence may come back."""
    return rules.wait_before_lost and rules.service == Service.ALL


def may_be_forgotten(manifest: Manifest | None, since: int, rules: Rules) -> bool:
    """Whether the manifest may have been there, and be named no more."""
    if manifest is not None and manifest.damaged:
        return rules.damage_is_unknown
    full = manifest is not None and len(manifest.history) >= rules.history_limit
    return (full and rules.full_history_is_unknown) or (
        since >= rules.settled and rules.old_attempt_is_unknown
    )


def put(
    rules: Rules, new: Manifest, over: Manifest | None, signed: int, wanted: str | None = None
) -> Action:
    """The PUT of a manifest over the one that was seen."""
    match = ABSENT if over is None else over.id
    return Action(
        "put",
        new,
        match=match if rules.conditional_put else None,
        signed=signed if rules.sign_check else None,
        wanted=wanted,
    )


def delete(rules: Rules, id_: str, created: str | None = None, tries: int = 3) -> Process:
    """Delete a content; `created` is one that this store object created, answered at once."""
    yield BEGIN
    attempts, aim, aim_settled = 0, None, False
    while True:
        manifest, now, modified = yield GET
        settled = now - modified >= rules.settled
        if manifest is None or not (manifest.live or manifest.damaged):
            break
        if aim is not None and aim.id != manifest.id and was_absent(manifest, aim, id_, rules):
            break
        if attempts == tries or (attempts and manifest.damaged and rules.damage_is_unknown):
            yield tell("unknown", id_)
            return
        mine = manifest.id == created and not manifest.history
        at_once = settled or mine or not rules.tombstone_when_young
        at_once = at_once and not manifest.damaged
        if rules.service == Service.ALL and at_once:
            match = manifest.id if rules.conditional_delete else None
            reply = yield Action("delete", (id_, manifest.id), match=match)
        else:
            tombstone = Manifest(id_, False, 0, succeeding(manifest, now, rules))
            reply = yield put(rules, tombstone, manifest, now)
            del tombstone
        if reply is LOST:
            attempts += 1
            aim, aim_settled = manifest, settled
        elif reply.status == 403:
            yield tell("unknown", id_)
            return
        elif reply.status != 412:
            aim, aim_settled, manifest = manifest, settled, None
            break
        del reply
    yield tell("deleted", id_)
    sure = rules.service != Service.NONE or not rules.leave_unsettled
    if aim is not None and (aim_settled or sure) and not aim.damaged:
        yield from delete_blocks((aim.id, aim.blocks), *((o.id, o.blocks) for o in aim.history))
    if manifest is not None and not manifest.live and settled and rules.service == Service.ALL:
        yield Action("delete", (None, manifest.id), match=manifest.id)


def was_absent(manifest: Manifest, aim: Manifest, id_: str, rules: Rules) -> bool:
    """Whether there was nothing between what was to be deleted and another that is there now."""
    if manifest.damaged:
        return False
    if names(manifest, id_, rules):
        return True
    if rules.service == Service.NONE and rules.blind_writes_name_nothing:
        return False
    return len(manifest.history) < rules.history_limit and not names(manifest, aim.id, rules)


def read(rules: Rules, restarts: int = 8) -> Process:
    """Read all of a content."""
    yield BEGIN
    seen = yield GET
    manifest = seen.manifest
    while manifest is not None and manifest.live:
        del seen
        status = 200
        for number in range(manifest.blocks):
            status = yield Action("get_block", (manifest.id, number))
            if status == 404:
                break
        if status == 200:
            yield tell("read", manifest.id)
            return
        if not rules.reread:
            yield tell("damaged", manifest.id)
            return
        seen = yield GET
        if seen.manifest is not None and seen.manifest.id == manifest.id:
            yield tell("damaged", manifest.id)
            return
        if restarts == 0:
            yield tell("starved")
            return
        restarts -= 1
        manifest = seen.manifest
    yield tell("nothing there")


def copy(rules: Rules, name: str, restarts: int = 2) -> Process:
    """Copy the blocks of a content into a generation of another one, which is then committed."""
    yield BEGIN
    manifest, _, _ = yield GET
    while manifest is not None and manifest.live:
        generation = f"{name}{restarts}" if rules.copy_starts_over else name
        reply = None
        for number in range(manifest.blocks):
            reply = yield Action("copy_block", (manifest.id, number, generation))
            while reply is LOST:
                reply = yield Action("copy_block", (manifest.id, number, generation))
            if reply.status == 404:
                break
        if reply is None or reply.status == 200:
            yield tell("copied", generation)
            return
        before = manifest.id
        manifest, _, _ = yield GET
        if manifest is not None and manifest.id == before:
            yield tell("damaged", before)
            return
        restarts -= 1
        del reply, before
    yield tell("nothing there")


def rot(rules: Rules) -> Process:
    """The manifest that is there can't be read any more: a disk lost some of it."""
    yield Action("rot")


def clean(rules: Rules) -> Process:
    """Remove orphans, what was replaced and is settled, and a settled tombstone."""
    if not rules.list_before_look:
        seen = yield GET
    listed = yield LIST
    if rules.list_before_look:
        seen = yield GET
    manifest, now, modified = seen
    if manifest is not None and manifest.damaged:
        if rules.damage_keeps_orphans:
            return
        manifest = None
    history = () if manifest is None else manifest.history
    named = {old.id for old in history} | ({manifest.id} if manifest else set())
    orphans = tuple(
        (generation, blocks)
        for generation, at, blocks in listed.body
        if generation not in named and (listed.date - at >= ORPHAN or not rules.orphan_ages)
    )
    named = listed = seen = None
    yield from delete_blocks(*orphans)
    yield from sweep(history, now, rules)
    old = now - modified >= rules.settled or not rules.tombstone_settles
    if manifest is not None and not manifest.live and old and rules.service == Service.ALL:
        match = manifest.id if rules.conditional_delete else None
        yield Action("delete", (None, manifest.id), match=match)
