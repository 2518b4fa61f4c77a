"""What is found under the key of a manifest, and what follows from its age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blockyard.content.manifest import MOST_REPLACED, NOT_KNOWN, Manifest, Replaced
from blockyard.errors import BlockStoreError
from blockyard.model import BlockInfo

SETTLED = 600.0
"""Seconds after which no request of a client that gave up takes effect any more: twice as long as
is assumed of the latest."""
SWEPT = 1800.0
"""Seconds after which the blocks of what was replaced are deleted. Where conditions are ignored a
manifest may be put back until then: by a PUT that was stopped for as long as its signature is
valid, 15 minutes, and is late besides."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is under the key of a manifest: nothing, or a manifest, which may be a tombstone.

    `at` is the service's time when it was looked at, `stored_at` when the manifest was stored, both
    in seconds since the epoch; `began` is the time before, on the runtime's clock. `guessed`: it
    was there some time ago. `damage`: something is there that can't be read as a manifest, so that
    it names nothing; it can be replaced on its ETag all the same.
    """

    manifest: Manifest | None
    at: float
    began: float
    etag: str = ""
    stored_at: float | None = None
    guessed: bool = False
    damage: BlockStoreError | None = None

    @property
    def live(self) -> Manifest | None:
        """The manifest, unless it is a tombstone."""
        return None if self.manifest is None or self.manifest.deleted else self.manifest

    @property
    def settled(self) -> bool:
        """Whether nothing that was under way when it was stored can come late."""
        return self.is_older(SETTLED)

    def is_older(self, seconds: float) -> bool:
        """Whether it was stored at least so long ago."""
        return self.stored_at is not None and self.at - self.stored_at >= seconds

    @property
    def replaced_long_ago(self) -> tuple[Replaced, ...]:
        """What its history names whose blocks may be deleted."""
        if self.manifest is None:
            return ()
        history = self.manifest.history
        return tuple(each for each in history if each.blocks and self.at - each.at >= SWEPT)

    def history(self, swept: frozenset[str] = frozenset()) -> tuple[Replaced, ...]:
        """The history of what is put in its place; the blocks of those `swept` are gone.

        What a damaged manifest was, and replaced, is not known. A history that is full says so:
        from what it does not name nothing is concluded.
        """
        if self.damage is not None:
            return (Replaced(NOT_KNOWN, self.at, 0),) * MOST_REPLACED
        if self.manifest is None:
            return ()
        last = Replaced(self.manifest.id, self.at, self.manifest.blocks)
        replaced = (*self.manifest.history, last)
        return tuple(
            each._replace(blocks=0) if each.id in swept else each
            for each in replaced[-MOST_REPLACED:]
        )


Condition = Callable[[Found], BlockStoreError | None]
"""What is wrong with what is there now, for a change that must not be made then."""


def stored_at(info: BlockInfo) -> float | None:
    """When an object was stored, in seconds since the epoch."""
    return None if info.last_modified is None else info.last_modified.timestamp()
