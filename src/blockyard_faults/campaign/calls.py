"""One call of a store: under a deadline, watched, and checked to end as a call may.

A call may end in its result, in an error of ours, or in an exception that the caller's own code
raised; in time, and with nothing of the caller's own lost on the way.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import math
import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from blockyard.aio import AsyncBlockStore
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    TransportTimeoutError,
)
from blockyard.sync import BlockStore
from blockyard_faults.campaign import watch
from blockyard_faults.campaign.expected import OVERRUN, SWALLOWED, UNTYPED, Tally

KINDS: tuple[Callable[[], BaseException], ...] = (
    lambda: ValueError("own"),
    lambda: KeyError("own"),
    lambda: RuntimeError("own"),
    lambda: AssertionError("own"),
    lambda: TimeoutError("own"),
    lambda: ConnectionResetError("own"),
    lambda: OSError(errno.EIO, "own"),
    lambda: BlockNotFoundError("own"),
    lambda: MemoryError("own"),
    lambda: RecursionError("own"),
    lambda: StopIteration("own"),
    lambda: StopAsyncIteration("own"),
    lambda: GeneratorExit("own"),
    lambda: SystemExit("own"),
    lambda: KeyboardInterrupt("own"),
    lambda: asyncio.CancelledError("own"),
    lambda: concurrent.futures.CancelledError("own"),
    lambda: asyncio.InvalidStateError("own"),
)
"""Every kind of exception that machinery between the caller's code and the caller might eat."""


class Own:
    """What the caller's own code raised within one call.

    `interrupted` says whether some of it came from outside: a signal's handler, a cancellation.
    """

    def __init__(self) -> None:
        self.raised: list[BaseException] = []
        self.interrupted = False

    def throw(self, error: BaseException) -> NoReturn:
        """Raise `error`, and remember it."""
        self.raised.append(error)
        raise error

    def interrupt(self, error: BaseException) -> NoReturn:
        """Raise `error` as something from outside."""
        self.interrupted = True
        self.throw(error)

    def reached(self, error: BaseException | None) -> bool:
        """Whether `error` is, or carries, something that was raised here."""
        if any(error is raised for raised in self.raised):
            return True
        if not isinstance(error, BlockStoreError | RuntimeError | asyncio.CancelledError):
            return False
        return self.reached(error.__cause__)


Seek = tuple[int, int]
"""A position to seek to, and how many bytes to read from there."""


class Client(Protocol):
    """Calls a method of an open store under a deadline in seconds.

    The clients have two methods of their own besides: `collected`, all that `iter_content` gives,
    and `sought`, what a file from `open_content` reads after each seek.
    """

    @property
    def lets_go(self) -> bool:
        """Whether a call past its deadline leaves the caller's own code to itself."""
        ...

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        """What the method returns; its errors pass. `own` notes what a client itself raises."""
        ...


class BlockingClient:
    """Calls on the running thread, so that a coroutine over it never suspends."""

    lets_go = False

    def __init__(self, store: BlockStore) -> None:
        self.store = store

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        return self.now(deadline, method, *args, **options)

    def now(self, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        """As `call`."""
        store = self.store.with_options(deadline=deadline)
        match method:
            case "collected":
                return b"".join(store.iter_content(*args))
            case "sought":
                return _sought(store, *args)
            case _:
                return getattr(store, method)(*args, **options)


class AsyncioClient:
    """Calls on the running event loop."""

    lets_go = True

    def __init__(self, store: AsyncBlockStore) -> None:
        self.store = store

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        store = self.store.with_options(deadline=deadline)
        match method:
            case "collected":
                return b"".join([piece async for piece in store.iter_content(*args)])
            case "sought":
                return await _sought_async(store, *args)
            case _:
                return await getattr(store, method)(*args, **options)


def _sought(store: BlockStore, content_id: str, seeks: Sequence[Seek]) -> list[bytes]:
    with store.open_content(content_id) as file:
        return [file.read(size) for position, size in seeks if file.seek(position) == position]


async def _sought_async(
    store: AsyncBlockStore, content_id: str, seeks: Sequence[Seek]
) -> list[bytes]:
    async with await store.open_content(content_id) as file:
        parts: list[bytes] = []
        for position, size in seeks:
            _ = await file.seek(position)
            parts.append(await file.read(size))
        return parts


DEADLINE = 60.0
"""Seconds that a call has, unless it is hurried."""
MARGIN = 1.0
"""Seconds past its deadline in which a call must have ended, but for those of `Watch.lateness`."""
_ACROSS = 6  # frames of a traceback that are told


class Calls:
    """Calls of one actor, one after the other.

    `uncertain` says of the last one whether a request of it may still be under way: a timeout was
    met, or so much time passed (`patience` seconds, the store's no-progress timeout) that one
    may have been, or it needed tries whose outcome is unknown. `owned` says whether the caller's
    own code raised within it, and `notes` has the notes on what came out of it.
    """

    def __init__(self, client: Client, tally: Tally, patience: float) -> None:
        self.deadline = DEADLINE
        self.tally = tally
        self.uncertain = False
        self.owned = False
        self.notes: list[str] = []
        self._client = client
        self._patience = patience

    async def ask(
        self, method: str, *args: Any, own: Own | None = None, **options: Any
    ) -> tuple[Any, BlockStoreError | None]:
        """What the method returned, or its error: one of ours, which stands for any other too.

        `owned` says whether that other one was the caller's own.
        """
        own = own or Own()
        what = f"{method} {str(args[:1])[:80]}"
        watched = watch.current().begins(what, self.deadline)
        result, failure = None, None
        begun = time.monotonic()
        try:
            result = await self._client.call(own, self.deadline, method, *args, **options)
        except BaseException as error:  # noqa: BLE001 - finding these is what this is for
            failure = error
        ended = time.monotonic()
        watch.current().ends(watched)
        self.tally.operations[method] += 1
        self._check_time(what, begun, ended, _notes(failure))
        timed_out = isinstance(failure, TransportTimeoutError)
        unknown = getattr(failure or result, "unknown_attempts", 0) > 0
        self.uncertain = timed_out or unknown or ended - begun >= self._patience
        return result, self._judged(what, own, failure, late=ended - begun >= self.deadline)

    def _judged(
        self, what: str, own: Own, failure: BaseException | None, late: bool
    ) -> BlockStoreError | None:
        self.tally.own += len(own.raised)
        self.owned = bool(own.raised)
        self.notes = _notes(failure)
        if own.raised:
            let_go = self._client.lets_go and late and isinstance(failure, DeadlineExceededError)
            if not let_go and not own.reached(failure):
                ended_in = "success" if failure is None else _told(failure)
                raised = ", ".join(map(_told, own.raised))
                self.tally.breaks(SWALLOWED, f"{what}: {raised}: ended in {ended_in}")
            return BlockStoreError("the caller's own")
        if isinstance(failure, BlockStoreError):
            self.count(failure)
            return failure
        if failure is not None:
            self.tally.breaks(UNTYPED, f"{what}: {_told(failure)}")
            return BlockStoreError("untyped")
        return None

    def _check_time(self, what: str, begun: float, ended: float, notes: Sequence[str]) -> None:
        due = begun + self.deadline
        over = ended - due
        self.tally.overrun = max(self.tally.overrun, over)
        net = over
        if over > MARGIN / 2:
            net -= watch.current().lateness(due, ended)
        self.tally.net_overrun = max(self.tally.net_overrun, net)
        if net > MARGIN:
            told = f"{what}: {ended - begun:.2f} s of {self.deadline:.3f} s ({net:.2f} s over)"
            self.tally.breaks(OVERRUN, "; ".join([told, *notes[-2:]]))

    def count(self, error: BlockStoreError) -> None:
        """Count an error, by its type and by whether the call had time."""
        kind = type(error).__name__
        if self.deadline < DEADLINE:
            self.tally.hurried[kind] += 1
            return
        self.tally.errors[kind] += 1
        _ = self.tally.examples.setdefault(kind, "; ".join([str(error), *_notes(error)]))


def _notes(error: BaseException | None) -> list[str]:
    """The notes on an error, and on those that it came from."""
    if error is None:
        return []
    return [*getattr(error, "__notes__", []), *_notes(error.__cause__)]


def _told(error: BaseException) -> str:
    """The exception, and the frames that it came through last."""
    frames = traceback.extract_tb(error.__traceback__)[-_ACROSS:]
    way = " < ".join(
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
        for frame in reversed(frames)
    )
    return f"{error!r} from {way}"


@dataclass(frozen=True, slots=True)
class Hurry:
    """A share of the calls gets between `least` and `most` seconds, all lengths as likely."""

    share: float
    least: float
    most: float

    def deadline(self, source: random.Random) -> float:
        """The seconds that the next call has."""
        if source.random() >= self.share:
            return DEADLINE
        return math.exp(source.uniform(math.log(self.least), math.log(self.most)))


RARELY = Hurry(0.02, 0.005, 0.5)
ALWAYS = Hurry(1.0, 0.001, 5.0)
OFTEN = Hurry(0.5, 0.05, 5.0)
