"""A writer of the campaign: keys of its own, what they may hold, and operations on them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence

from blockyard_faults.campaign.calls import Calls
from blockyard_faults.campaign.clients import Client
from blockyard_faults.campaign.expected import BrokenPromiseError, Expected, Value
from blockyard_faults.campaign.hurry import Hurry
from blockyard_faults.campaign.tally import Tally


class Writer:
    """One writer of the keys below `namespace`, which nobody else writes.

    Broken promises go into `tally`; `patience` is the store's no-progress timeout (see `Calls`).
    """

    def __init__(self, client: Client, namespace: str, tally: Tally, patience: float) -> None:
        self.namespace = namespace
        self.expected = Expected()
        self.settled: set[str] = set()
        self.tally = tally
        self.calls = Calls(client, tally, patience)

    def answered(self, key: str, fits: Callable[[Value], bool], what: str) -> None:
        """Hold an answer of the store to what may be there; what breaks a promise is counted."""
        try:
            self.expected.answered(key, fits, what)
        except BrokenPromiseError as broken:
            self.tally.breaks(broken.promise, f"{self.namespace}: {broken}")


class Draws:
    """Draws operations of a writer; the same `random` draws the same from the same answers."""

    def __init__(
        self, writer: Writer, names: Iterable[str], random: random.Random, hurry: Hurry
    ) -> None:
        self._writer = writer
        self._random = random
        self._hurry = hurry
        self._generation = 0
        self._names = {name: f"{writer.namespace}/{name}" for name in names}
        self._operations: dict[Callable[[], Awaitable[None]], int] = {}
        """Each operation, and how often it is drawn beside the others."""

    @property
    def keys(self) -> Sequence[str]:
        """The keys that may be written."""
        return list(self._names.values())

    async def step(self) -> None:
        """One operation, with hardly any time now and then."""
        self._writer.calls.deadline = self._hurry.deadline(self._random)
        (operation,) = self._random.choices(
            list(self._operations), weights=list(self._operations.values())
        )
        await operation()
        for name, key in self._names.items():
            if key in self._writer.settled:  # it must not be written again
                self._generation += 1
                self._names[name] = f"{self._writer.namespace}/{name}~{self._generation}"
