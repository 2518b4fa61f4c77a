"""What users do to a call: their own code within it, and signals and cancellations from outside.

A `Mischief` is done once, when their code (a source, a target, a callback) is called for the nth
time. `Companion` is the store that it calls back into, from the same thread or from a forked child.
The clients here interrupt a share of their calls at a random moment, once (a cancellation also
again and again, as the cancel scopes of anyio do), and note the exception in the call's `Own`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import random
import signal
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

from blockyard.aio import AsyncBlockStore
from blockyard.errors import BlockStoreError
from blockyard.sync import BlockStore
from blockyard_faults.campaign.calls import KINDS, AsyncioClient, BlockingClient, Own
from blockyard_faults.campaign.expected import HUNG, UNTYPED, WRONG, Content, Tally

Item = TypeVar("Item")
Act = Callable[[], None]

_BEACON = Content(7, 20_000)
_CHILD_DEADLINE = 20.0
_CHILD_HUNG = 50.0
_UNTIL_ALL_IS_STILL = 0.05
_FINE, _WRONG, _UNTYPED = 0, 11, 12
_C = ctypes.PyDLL(None)


class Mischief:
    """`act` is done when `__call__` is called for the `nth` time."""

    def __init__(self, nth: int, act: Act) -> None:
        self._left = nth
        self._act = act

    def __call__(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()

    def while_giving(self, items: Sequence[Item]) -> Iterator[Item]:
        """The items, with a call before each."""
        for item in items:
            self()
            yield item


NOTHING = Mischief(0, lambda: None)


class ReadingFile:
    """A file open for reading bytes that is nothing but its `read`."""

    def __init__(self, data: bytes, mischief: Mischief) -> None:
        self._rest = memoryview(data)
        self._mischief = mischief

    def read(self, size: int, /) -> bytes:
        self._mischief()
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)


class WritingFile:
    """A file open for writing bytes, which takes at most `most` at a time."""

    def __init__(self, most: int, mischief: Mischief) -> None:
        self.written = bytearray()
        self._most = most
        self._mischief = mischief

    def write(self, data: Any, /) -> int:
        self._mischief()
        part = memoryview(data).cast("B")[: self._most]
        self.written += part
        return len(part)


SourceKind = Literal["buffer", "path", "file", "generator", "async generator"]
BLOCKING_SOURCES: tuple[SourceKind, ...] = ("buffer", "path", "file", "generator")
ASYNCIO_SOURCES: tuple[SourceKind, ...] = (*BLOCKING_SOURCES, "async generator")
RUNS_OWN_CODE = ("file", "generator", "async generator")


def source(kind: SourceKind, data: bytes, piece: int, mischief: Mischief, folder: Path) -> Any:
    """`data` as a source of that kind, in pieces of `piece` bytes where it comes in pieces."""
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    match kind:
        case "buffer":
            return data
        case "path":
            path = folder / f"source-{os.getpid()}-{time.monotonic_ns()}"
            _ = path.write_bytes(data)
            return path
        case "file":
            return ReadingFile(data, mischief)
        case "generator":
            return mischief.while_giving(pieces)
        case "async generator":
            return _given_async(pieces, mischief)


async def _given_async(pieces: Sequence[bytes], mischief: Mischief) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        mischief()
        yield piece


class Companion:
    """A store that the caller's own code calls back into, below keys of its own.

    What it finds there is compared with what it wrote; what goes wrong is counted in `tally`.
    """

    def __init__(self, store: BlockStore, namespace: str, tally: Tally) -> None:
        self._store = store.with_options(deadline=_CHILD_DEADLINE)
        self._tally = tally
        self._keys = [f"{namespace}-beacon/{number}" for number in range(3)]
        self._written = False

    def prepare(self) -> bool:
        """Write what is read later; whether that has succeeded."""
        if not self._written:
            try:
                _ = self._store.write_blocks([(key, _BEACON.data) for key in self._keys])
            except BlockStoreError:
                return False
            self._written = True
        return True

    def call_back(self) -> None:
        """Use the store from within a call of it."""
        self._count(self._outcome(), "from within a call")

    def fork(self) -> None:
        """Use the store in a forked child, which ends without cleaning up."""
        self._in_child(os.fork)

    def fork_in_c(self) -> None:
        """As `fork`, by the C library's fork, which runs no hook of Python's.

        Not while another thread waits for the interpreter: the child's would wait for it for ever.
        """
        time.sleep(_UNTIL_ALL_IS_STILL)
        self._in_child(_C.fork)

    def _in_child(self, fork: Callable[[], int]) -> None:
        pid = fork()
        if pid == 0:
            try:
                os._exit(self._outcome())
            finally:
                os._exit(_UNTYPED)
        until = time.monotonic() + _CHILD_HUNG
        while time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._count(os.waitstatus_to_exitcode(status), "in a forked child")
                return
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        _ = os.waitpid(pid, 0)
        how = getattr(fork, "__module__", None) or "C"
        self._tally.breaks(HUNG, f"{self._keys[0]}: a child forked by {how} used the store")

    def _outcome(self) -> int:
        try:
            single = self._store.read_block(self._keys[0])
            several = self._store.read_blocks(self._keys)
        except BlockStoreError:
            return _FINE  # it may fail, as any call under such faults
        except BaseException:  # noqa: BLE001 - told by the exit code
            traceback.print_exc()
            return _UNTYPED
        return _FINE if all(data == _BEACON.data for data in (single, *several)) else _WRONG

    def _count(self, outcome: int, where: str) -> None:
        if outcome == _WRONG:
            self._tally.breaks(WRONG, f"{self._keys[0]}: {where}")
        elif outcome != _FINE:
            self._tally.breaks(UNTYPED, f"{self._keys[0]}: {where}: exit code {outcome}")


def drawn(source: random.Random, own: Own, companion: Companion | None, calls: int) -> Mischief:
    """A mischief at one of the first `calls` calls: an exception, a wait, a callback, a fork."""

    def throw() -> None:
        own.throw(source.choice(KINDS)())

    def wait() -> None:
        time.sleep(source.uniform(0, 0.02))

    acts: list[Act] = [throw] * 4 + [wait]
    if companion is not None and companion.prepare():
        acts += [companion.call_back, companion.call_back, companion.fork]
    return Mischief(source.randint(1, max(calls, 1)), source.choice(acts))


_SHARE = 0.4
_MEAN = 0.015
"""Seconds on average until a call is interrupted; some are over by then."""


class AlarmError(TimeoutError):
    """What the idiom of `signal.alarm` raises."""


_RAISED: dict[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: SystemExit,
    signal.SIGALRM: AlarmError,
}


class SignalledClient(BlockingClient):
    """A blocking client on the main thread, to which signals are sent in the middle of calls.

    The handlers raise: of SIGINT KeyboardInterrupt, of SIGTERM SystemExit, of SIGALRM an error of
    the caller's.
    """

    def __init__(self, store: BlockStore, seed: str) -> None:
        super().__init__(store)
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable
        self._armed: Own | None = None
        self._main = threading.get_ident()
        self._due: queue.SimpleQueue[tuple[float, int] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, name="signals", daemon=True)

    def __enter__(self) -> SignalledClient:
        for each in _RAISED:
            _ = signal.signal(each, self._handle)
        self._sender.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._due.put(None)
        self._sender.join()
        _ = signal.signal(signal.SIGINT, signal.default_int_handler)
        _ = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _ = signal.signal(signal.SIGALRM, signal.SIG_DFL)

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        if self._random.random() >= _SHARE:
            return self.now(deadline, method, *args, **options)
        due = (self._random.expovariate(1 / _MEAN), self._random.choice(list(_RAISED)))
        try:
            self._armed = own
            self._due.put(due)
            return self.now(deadline, method, *args, **options)
        finally:
            self._armed = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        own, self._armed = self._armed, None
        if own is not None:  # else it came too late
            own.interrupt(_RAISED[number](f"signal {number}"))

    def _send(self) -> None:
        while (due := self._due.get()) is not None:
            time.sleep(due[0])
            signal.pthread_kill(self._main, due[1])


class CancellingClient(AsyncioClient):
    """An asyncio client whose calls are cancelled at random moments."""

    def __init__(self, store: AsyncBlockStore, seed: str) -> None:
        super().__init__(store)
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        call = super().call(own, deadline, method, *args, **options)
        if self._random.random() >= _SHARE:
            return await call
        task = asyncio.ensure_future(_outcome(call, own))
        _ = await asyncio.wait([task], timeout=self._random.expovariate(1 / _MEAN))
        times = self._random.choice((1, 2, 1_000_000))
        asked = 0
        while not task.done() and asked < times:
            asked += task.cancel()
            _ = await asyncio.wait([task], timeout=0.001)
        _ = await asyncio.wait([task])
        if task.cancelled():
            own.interrupt(asyncio.CancelledError("from outside"))
        if asked and not own.raised:  # and the call went on to an end of its own
            own.interrupted = True
            own.raised.append(asyncio.CancelledError("from outside, not passed on"))
        result, error = task.result()
        if error is not None:
            raise error
        return result


async def _outcome(call: Awaitable[Any], own: Own) -> tuple[Any, BaseException | None]:
    """What the call returns or raises; a task is ended by a cancellation from outside alone."""
    try:
        return await call, None
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and not own.reached(error):
            raise
        return None, error
