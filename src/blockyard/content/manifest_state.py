"""`ManifestState`: the observed state of a manifest key, and what follows from its age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blockyard.content.manifest import MOST_REPLACED, NOT_KNOWN, Manifest, Replaced
from blockyard.errors import BlockStoreError
from blockyard.model import BlockInfo

SETTLED = 600.0
"""Seconds after which no late request takes effect any more: twice the longest delay assumed."""
SWEPT = 1800.0
"""Seconds after which the blocks of a replaced generation are deleted. Where conditions are ignored
an older manifest may be put back until then, by a PUT that was held up for as long as its signature
is valid (15 minutes) and was late besides."""


@dataclass(frozen=True, slots=True)
class ManifestState:
    """The state of the key of a manifest: absent, a manifest or tombstone, or damaged.

    at: the service's time when it was read, in seconds since the epoch
    began: the time before it was read, by the runtime's clock
    stored_at: when the manifest was stored, in seconds since the epoch
    guessed: not read now, but known from some time ago
    damage: the error of an object that can't be read as a manifest; it names no blocks, and can be
        replaced on its ETag like any other
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
        """Whether no request that was under way when it was stored can take effect any more."""
        return self.is_older(SETTLED)

    def is_older(self, seconds: float) -> bool:
        """Whether it was stored at least so many seconds ago."""
        return self.stored_at is not None and self.at - self.stored_at >= seconds

    @property
    def replaced_long_ago(self) -> tuple[Replaced, ...]:
        """The generations in its history whose blocks may be deleted."""
        if self.manifest is None:
            return ()
        history = self.manifest.history
        return tuple(each for each in history if each.blocks and self.at - each.at >= SWEPT)

    def history(self, swept: frozenset[str] = frozenset()) -> tuple[Replaced, ...]:
        """The history for the manifest that replaces this one; blocks of those `swept` are gone.

        What a damaged manifest named is not known: its successor gets a full history, which means
        that nothing can be concluded from a generation missing in it.
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


Condition = Callable[[ManifestState], BlockStoreError | None]
"""The error where the current state does not permit a change; None where it does."""


def stored_at(info: BlockInfo) -> float | None:
    """When an object was stored, in seconds since the epoch."""
    return None if info.last_modified is None else info.last_modified.timestamp()
