"""The runtime interface: what operations ask for, so that they do no I/O of their own.

Every store operation is one coroutine whose first argument is a `Context`. What an operation
can't do purely it asks of the context's `Runtime`: one HTTP exchange, a pause, a disk call,
many operations at once, the time. There are two runtimes. The coroutines of the blocking one
never suspend, so the blocking client runs any operation with a single `send(None)`; those of the
asyncio one are ordinary. This is why nothing in blockyard is written twice.

This module owns the protocol only: no socket, no asyncio, no clock.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Hashable,
    Iterable,
    Mapping,
    MutableMapping,
)
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

from blockyard.errors import BlockStoreError, DeadlineExceededError
from blockyard.managing import contextmanager

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Result = TypeVar("Result")


CacheUse = Literal["use", "bypass", "refresh"]
Lifetime = Literal["default", "immutable", "mutable"]


class Origin(NamedTuple):
    """Where requests go: `scheme` is "http" or "https", `host` a name or a bare IP address."""

    scheme: str
    host: str
    port: int


@dataclass(slots=True)
class Request:
    """One HTTP request, ready to send but for its `Content-Length`.

    `target` is the path and query as they go on the wire (percent-encoded); `headers` hold
    every other header, `Host` included, as text that has no CR or LF. `fresh` asks for a new
    connection; `sum_body` for the checksum of a large reply, taken while it comes. With
    `until_close` the reply to a GET may end with the connection, for what shows when it broke off.
    `resent` is set by the runtime that sent it a second time, over another connection, since the
    first one broke; with `once` it does not.
    """

    origin: Origin
    method: str
    target: str
    headers: dict[str, str] = field(repr=False)  # one of them may be the session token
    body: bytes | memoryview = field(default=b"", repr=False)
    fresh: bool = False
    sum_body: bool = False
    until_close: bool = False
    once: bool = False
    resent: bool = False


@dataclass(slots=True, eq=False)
class Response:
    """One HTTP reply, its body read to the end.

    `headers` have lower-case names; a repeated one is joined with ", ". `body` holds the body,
    or b"" when it went into the destination given to `exchange`; `size` counts its bytes
    wherever they went. `waited` is how many seconds the first byte took to come. `crc32c` is that
    of the body where it was requested and came in pieces; None elsewhere.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int
    waited: float = 0.0
    crc32c: int | None = None


class Hedge(NamedTuple):
    """When a request that is not answered goes out a second time, on another connection.

    `after` is in seconds; `allowed` is asked once they have passed, and counts what it allows;
    `won` is called when the second one is answered first.
    """

    after: float
    allowed: Callable[[], bool]
    won: Callable[[], object]


@dataclass(frozen=True, slots=True)
class UserItems(Generic[Item]):
    """An iterable of the caller's own, drawn where their code runs: see `Runtime.user_code`."""

    items: Iterable[Item]
    deadline: float | None
    size: Callable[[Item], int]
    """How many bytes an item holds; it does not raise."""
    in_flight: int
    """No more is drawn while the items under way hold this many bytes."""


class Descriptor(Protocol):
    """What can be waited for: it has a descriptor."""

    def fileno(self) -> int: ...


class UserCode(Protocol):
    """Runs the caller's own code, while it is entered: see `Runtime.user_code`.

    What is `quick` need not be entered.
    """

    async def run(self, call: Callable[[], Result]) -> Result:
        """Raises `UserCodeError`, which carries whatever the code raised, so that no exception of
        it is taken for a cancellation or an end.

        Raises `DeadlineExceededError` at the deadline; code on a blocking store's calling thread
        can't be interrupted: it goes on, and the call returns when it has ended.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class UserTask(Protocol[Item_co]):
    """Steps an async iterable of the caller's own, while it is entered: see `Runtime.user_task`."""

    async def run(self, call: Callable[[AsyncIterator[Item_co]], Awaitable[Result]]) -> Result:
        """What `call(iterator)` returns, awaited in the task. Raises what `UserCode.run` does.

        At the deadline it is cancelled.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class TaskQueue(Protocol[Result]):
    """Operations under way, whose results are taken in order, by one call or by several.

    It belongs to the process and the event loop that made it.
    """

    def __len__(self) -> int:
        """How many were begun, and not taken yet."""
        ...

    @property
    def usable(self) -> bool:
        """Whether this call may begin operations here, and wait for them."""
        ...

    def begin(self, operation: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        """Have one more go on once there is a place, also when this call has ended."""
        ...

    async def is_ready(self, seconds: float) -> bool:
        """Whether the first has ended, or does within so many seconds."""
        ...

    async def next(self, deadline: float | None) -> Result:
        """Take the first: what it returns or raises, once it has ended.

        Raises `DeadlineExceededError` at the deadline. It is cut off then, and when this is
        cancelled. Raises `ValueError` when another thread or task has stopped this meanwhile.
        """
        ...

    def stop(self) -> None:
        """Cancel what is under way, from any thread, and wait for nothing."""
        ...

    async def end(self) -> None:
        """Cancel what is under way, and wait until it has ended."""
        ...


class Runtime(Protocol):
    """What operations may ask for. See `transport/blocking.py` and `transport/aio.py`."""

    def exchange(
        self,
        request: Request,
        *,
        into: memoryview | None = None,
        limit: int,
        deadline: float | None = None,
        hedge: Hedge | None = None,
    ) -> Coroutine[Any, Any, Response]:
        """Send `request` and read the whole reply.

        The body of a 200 or 206 goes straight into `into` when that is given, and comes back
        as `Response.body` otherwise, as that of every other status does. A body of more than
        `limit` bytes (or than `into` holds) is refused before it is read.

        With a `hedge` the reply that begins first is the one; `into` must be None.

        Raises a `TransportError` and nothing else; `IncompleteBodyError` when the head of a 200
        or 206 came and the body broke off; `DeadlineExceededError` once `deadline` has passed.
        A pooled connection that turns out to have been closed while idle is replaced silently,
        unless the request is to be sent `once`.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Pause."""
        ...

    async def blocking(self, call: Callable[[], Result]) -> Result:
        """Run a call that may block (a disk, a large hash) without stalling others.

        None of the caller's own code: see `user_code`. Cancelled, it ends when a call that has
        begun has ended.
        """
        ...

    def user_code(
        self,
        deadline: float | None = None,
        *,
        quick: bool = False,
        close: Callable[[], object] | None = None,
    ) -> UserCode:
        """Where one object of the caller's own runs: an iterator, a file, a `progress`.

        A blocking store runs it on the thread that made the call, and nowhere else. An asyncio
        store runs it on a thread of its own, since it may block, or on the event loop if it is
        `quick`. Never on a loop or in a pool that calls share; all of its steps on one thread, and
        in the context that the call was made in.

        `close` is the last that runs there, when an error ends the call.
        """
        ...

    def user_task(
        self, items: AsyncIterable[Item], deadline: float | None = None
    ) -> UserTask[Item]:
        """What steps an async iterable of the caller's own, where `awaits` is true.

        All of its steps are made in one task, which `aclose` of a generator ends in as well.
        """
        ...

    @property
    def awaits(self) -> bool:
        """Whether this call can await the caller's own coroutines: only those under asyncio can."""
        ...

    suspends: bool
    """Whether other operations of this thread go on while one waits."""

    async def readable(self, file: Descriptor, deadline: float | None) -> None:
        """Wait until a pipe, socket or terminal has bytes to read, has ended or is broken.

        At once for what can't be waited for, as a regular file. Nothing is read. Raises
        `DeadlineExceededError` at the deadline.
        """
        ...

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        """Begin a call that may block, on a private daemon thread, whoever waits for it.

        Raises `TransportError` when the system has no thread to give.
        """
        ...

    async def wait(self, future: Future[Result], deadline: float | None) -> Result:
        """What a call begun by `start` returns or raises.

        Raises `DeadlineExceededError` at the deadline. The call goes on for others that wait for
        it, when one of them has waited too long, is cancelled or is interrupted.
        """
        ...

    async def once(
        self,
        under_way: MutableMapping[Hashable, Any],
        key: Hashable,
        operation: Callable[[], Coroutine[Any, Any, Result]],
        deadline: float | None = None,
    ) -> tuple[Result, bool]:
        """Await `operation()`, or what another caller gets who awaits it for the same `key` now.

        Also whether it is another's. `under_way` is shared by those who may share results: threads
        and event loops of one process. When the one that runs it is cancelled or interrupted, one
        of the others begins it anew; when it fails, each of them makes the call for itself. Nobody
        waits for what goes on only after their own call: in a signal handler or a finalizer that
        interrupted one, the call is made. Raises `DeadlineExceededError` at the deadline.
        """
        ...

    async def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item] | AsyncIterator[Item] | UserItems[Item],
        concurrency: int,
        in_turn: Callable[[Item], str] | None = None,
    ) -> list[Result]:
        """Await `operation(item)` for every item, at most `concurrency` at a time.

        Results come in the order of the items, which are drawn only as places become free; an
        `AsyncIterator` is none of the caller's own, nor has it an `in_turn`. Items for which that
        gives the same text go one after the other, in their order. The first error cancels what is
        under way and is raised when all of that has ended. Returns when every item is done, and not
        otherwise. Raises `ValueError` when `concurrency` is below 1.
        """
        ...

    def task_queue(self, places: int) -> TaskQueue[Any]:
        """For operations that go on between calls, `places` at a time. Raises `TransportError`.

        The runtime ends them when it is closed, and they end when their queue is dropped.
        """
        ...

    async def finish(self, operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
        """Await an operation that is to end before its caller does, also when that is cancelled.

        A service may go on with a request whose sender is gone, so what undoes a change waits
        for it first: at most `seconds` from the cancellation on.
        """
        ...

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def wall_time(self) -> float:
        """Seconds since the epoch, for signatures and expiries."""
        ...

    def jitter(self) -> float:
        """A random number in [0, 1)."""
        ...

    def nonce(self) -> str:
        """Text that nobody has used before, to know one's own write by."""
        ...


@dataclass(slots=True, eq=False)
class Context:
    """One call's surroundings: the runtime that does its I/O, its deadline and its options.

    `deadline` is an instant on `runtime.now()`'s clock; `concurrency` is how many requests a
    bulk call keeps in flight. `unknown_attempts` counts the requests made under this
    context to change what is stored whose outcome is not known: tried again or not, they may have
    taken effect, or may still. So it counts what the errors of stores say of themselves, and more:
    a change that succeeded at last is among it. Who wants to know it of one change gives that a
    context of its own.
    `cache` is what a cache is to do with reads: "use" it; "bypass" it, and keep nothing; or
    "refresh" it, with what the store has now. `tidying` is set for what puts in order what a call
    left behind: it goes on while the store is being closed. With `once` a change is not sent again
    after an attempt whose outcome is unknown: what that attempt came to is raised. What was
    certainly not carried out is tried again as ever. `probing` is set for what tries a service out
    with an object of its own, of which nothing is a change of the caller's. `reply_headers` are
    those of the last reply: `Store.date` reads them. `late` has, for all contexts of a call, the
    instant at which it began to tidy up past its deadline: see `tidying.py`.
    """

    runtime: Runtime
    deadline: float | None = None
    concurrency: int = 32
    unknown_attempts: int = 0
    tidying: bool = False
    probing: bool = False
    cache: CacheUse = "use"
    once: bool = False
    reply_headers: Mapping[str, str] | None = None
    late: list[float] = field(default_factory=lambda: [-inf])

    def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item] | UserItems[Item],
        in_turn: Callable[[Item], str] | None = None,
    ) -> Coroutine[Any, Any, list[Result]]:
        """`Runtime.gather` with this call's concurrency."""
        return self.runtime.gather(operation, items, self.concurrency, in_turn)

    @contextmanager
    def after_change(self) -> Generator[None]:
        """What follows on a change that was made: where it fails, that may have taken effect."""
        try:
            yield
        except BlockStoreError as error:
            self.leaves_unknown(error)
            raise

    def leaves_unknown(self, error: BlockStoreError) -> None:
        """Count, here and in `error`, a change that may have taken effect all the same."""
        error.unknown_attempts += 1
        self.unknown_attempts += 1

    def check_deadline(self) -> None:
        """Raise `DeadlineExceededError` once the deadline has passed."""
        if self.deadline is not None and self.runtime.now() >= self.deadline:
            raise DeadlineExceededError("the deadline of this call has passed")

    def check_deadline_of(self, where: str) -> None:
        """As `check_deadline`, for an operation that the error names."""
        try:
            self.check_deadline()
        except DeadlineExceededError as error:
            raise DeadlineExceededError(f"{where}: {error}") from None

    async def sleep(self, seconds: float) -> None:
        """Pause, or raise `DeadlineExceededError` at once when the deadline would pass first."""
        if self.deadline is not None and self.runtime.now() + seconds >= self.deadline:
            raise DeadlineExceededError("the deadline of this call would pass before its next try")
        await self.runtime.sleep(seconds)

    def user_code(
        self, *, quick: bool = False, close: Callable[[], object] | None = None
    ) -> UserCode:
        """`Runtime.user_code` with this call's deadline."""
        return self.runtime.user_code(self.deadline, quick=quick, close=close)


def check_concurrency(concurrency: int) -> None:
    """Raise `ValueError` for a concurrency under which nothing would be done."""
    if concurrency < 1:
        raise ValueError(f"concurrency: expected 1 or more, got {concurrency!r}")
