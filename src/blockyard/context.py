"""The runtime interface: the I/O that operations ask for, so that they do none themselves.

Every store operation is one coroutine whose first argument is a `Context`. For I/O it asks the
context's `Runtime`: an HTTP exchange, a sleep, a disk call, concurrent operations, the time. There
are two runtimes. The coroutines of the blocking one never suspend, so the blocking client runs any
operation with a single `send(None)`; those of the asyncio one are ordinary. This is why nothing in
blockyard is written twice.

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

    target: path and query, percent-encoded
    headers: all other headers, `Host` included, without CR or LF
    fresh: send over a new connection
    sum_body: compute the checksum of a large reply while it is received
    until_close: the reply to a GET may end with the connection, for callers that detect truncation
    once: don't send again over another connection when a reused one broke
    resent: set by the runtime when it did
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
    """One HTTP response, its body read to the end.

    headers: lower-case names; repeated ones joined with ", "
    body: b"" where it went into the destination given to `exchange`; `size` counts its bytes anyway
    waited: seconds until the first byte
    crc32c: of the body, where it was requested and the body came in pieces; else None
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int
    waited: float = 0.0
    crc32c: int | None = None


class Hedge(NamedTuple):
    """When to send an unanswered request a second time, over another connection.

    after: seconds
    allowed: called after that time; counts the hedges that it allows
    won: called when the second request is answered first
    """

    after: float
    allowed: Callable[[], bool]
    won: Callable[[], object]


@dataclass(frozen=True, slots=True)
class UserItems(Generic[Item]):
    """An iterable of the caller's own, consumed where their code runs: see `Runtime.user_code`."""

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
        """Call it. Raises `UserCodeError` with whatever the code raised.

        Wrapped, its exceptions are not taken for a cancellation or the end of an iteration.
        Raises `DeadlineExceededError` at the deadline; code on a blocking store's calling thread
        can't be interrupted: the call returns when that has ended.
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
        """Await `call(iterator)` in the task. Raises what `UserCode.run` does.

        It is cancelled at the deadline.
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
    """Operations that run in the background, whose results are taken in order.

    It belongs to the process and the event loop that made it.
    """

    def __len__(self) -> int:
        """How many operations were begun and not taken yet."""
        ...

    @property
    def usable(self) -> bool:
        """Whether this call may begin operations here, and wait for them."""
        ...

    def begin(self, operation: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        """Queue an operation, which goes on after this call has ended."""
        ...

    async def is_ready(self, seconds: float) -> bool:
        """Whether the first operation has ended, or does within `seconds`."""
        ...

    async def next(self, deadline: float | None) -> Result:
        """Take the first operation: wait for it, and return or raise its result.

        At the deadline it is cancelled, and `DeadlineExceededError` raised; so it is when this is
        cancelled. Raises `ValueError` when another thread or task has stopped the queue meanwhile.
        """
        ...

    def stop(self) -> None:
        """Cancel all operations, from any thread, without waiting."""
        ...

    async def end(self) -> None:
        """Cancel all operations, and wait until they have ended."""
        ...


class Runtime(Protocol):
    """The I/O that operations may ask for. See `transport/blocking.py` and `transport/aio.py`."""

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

        The body of a 200 or 206 goes straight into `into` when that is given; else, as that of
        every other status, into `Response.body`. A body of more than `limit` bytes, or than `into`
        holds, is refused before it is read.

        With a `hedge` the reply that begins first is read; `into` must be None.

        Raises only `TransportError`s: `IncompleteBodyError` when the body of a 200 or 206 was
        truncated; `DeadlineExceededError` at the `deadline`. A pooled connection that turns out to
        have been closed while idle is replaced silently, unless the request is to be sent `once`.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        ...

    async def blocking(self, call: Callable[[], Result]) -> Result:
        """Run a call that may block (a disk, a large hash) without stalling other operations.

        Not for the caller's own code: see `user_code`. When cancelled, it ends when a call that has
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

        The blocking runtime runs it on the thread that made the call. The asyncio runtime runs it
        on a thread of its own, since it may block, or on the event loop if it is `quick`. Never on
        a loop or in a pool that calls share; all of its steps on one thread, and in the context
        (contextvars) of the call.

        `close` is called there last, when an error ends the call.
        """
        ...

    def user_task(
        self, items: AsyncIterable[Item], deadline: float | None = None
    ) -> UserTask[Item]:
        """Iterates over an async iterable of the caller's own, where `awaits` is true.

        All steps are made in one task, in which the `aclose` of a generator runs as well.
        """
        ...

    @property
    def awaits(self) -> bool:
        """Whether the caller's own coroutines can be awaited: only under asyncio."""
        ...

    suspends: bool
    """Whether other operations of this thread run while one waits."""

    async def readable(self, file: Descriptor, deadline: float | None) -> None:
        """Wait until a pipe, socket or terminal is readable, at its end, or broken. Reads nothing.

        Returns at once for what can't be waited for, such as a regular file. Raises
        `DeadlineExceededError` at the deadline.
        """
        ...

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        """Start a call that may block on a private daemon thread.

        Raises `TransportError` when the system has no thread to give.
        """
        ...

    async def wait(self, future: Future[Result], deadline: float | None) -> Result:
        """Wait for a call made by `start`; return or raise its result.

        Raises `DeadlineExceededError` at the deadline. The call goes on for others that wait for
        it, when one of them times out, is cancelled or is interrupted.
        """
        ...

    async def once(
        self,
        under_way: MutableMapping[Hashable, Any],
        key: Hashable,
        operation: Callable[[], Coroutine[Any, Any, Result]],
        deadline: float | None = None,
    ) -> tuple[Result, bool]:
        """Coalesce equal operations: await `operation()`, or one under way for the same `key`.

        Also returns whether the result was shared. `under_way` is the registry of those who may
        share results: threads and event loops of one process. When the one that runs it is
        cancelled or interrupted, another begins anew; when it fails, each makes the call for
        itself. A call made in a signal handler or a finalizer does not wait for one that it has
        interrupted: it is made. Raises `DeadlineExceededError` at the deadline.
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

        Results come in the order of the items, which are drawn only as places become free. An
        `AsyncIterator` is none of the caller's own, and can't have `in_turn`. Items for which
        `in_turn` gives the same text run one after the other, in their order. The first error
        cancels the others, and is raised when all of them have ended. Raises `ValueError` when
        `concurrency` is below 1.
        """
        ...

    def task_queue(self, places: int) -> TaskQueue[Any]:
        """A queue for operations that go on between calls, `places` at a time.

        They end when the runtime is closed, or when the queue is freed. Raises `TransportError`.
        """
        ...

    async def finish(self, operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
        """Await an operation to its end, also when this is cancelled: then for `seconds` at most.

        A service may still execute a request whose sender is gone, so what undoes a change waits
        for the change first.
        """
        ...

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        ...

    def wall_time(self) -> float:
        """Seconds since the epoch, for signatures and expiries."""
        ...

    def jitter(self) -> float:
        """A random number in [0, 1)."""
        ...

    def nonce(self) -> str:
        """A unique text, by which a writer recognises its own writes."""
        ...


@dataclass(slots=True, eq=False)
class Context:
    """The context of one call: the runtime that does its I/O, its deadline and its options.

    deadline: an instant on the clock of `runtime.now()` concurrency: how many requests a bulk call
    keeps in flight unknown_attempts: how many requests to change something, made under this
    context, have an unknown
        outcome: retried or not, they may have taken effect, or may still. More than the errors of
        stores report, since a change that succeeded after a retry counts too. To know it of a
        single change, give that a context of its own.
    tidying: set for cleanup after a failed call, which goes on while the store is being closed
    probing: set for requests about a probe object, which change nothing of the caller's
    cache: what a cache does with reads: "use" it; "bypass" it, and keep nothing; "refresh" it
    once: don't retry a change after an attempt of unknown outcome, but raise that attempt's error;
        attempts that were certainly not carried out are retried as ever
    reply_headers: those of the last reply, for `Store.date` late: shared by all contexts of a call:
    when its cleanup past the deadline began: see `tidying.py`
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
        """For requests that follow a change: an error here leaves its outcome unknown."""
        try:
            yield
        except BlockStoreError as error:
            self.leaves_unknown(error)
            raise

    def leaves_unknown(self, error: BlockStoreError) -> None:
        """Count, here and in `error`, a change that may have taken effect."""
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
        """Sleep; raise `DeadlineExceededError` at once if the deadline would pass first."""
        if self.deadline is not None and self.runtime.now() + seconds >= self.deadline:
            raise DeadlineExceededError("the deadline of this call would pass before its next try")
        await self.runtime.sleep(seconds)

    def user_code(
        self, *, quick: bool = False, close: Callable[[], object] | None = None
    ) -> UserCode:
        """`Runtime.user_code` with this call's deadline."""
        return self.runtime.user_code(self.deadline, quick=quick, close=close)


def check_concurrency(concurrency: int) -> None:
    """Raise `ValueError` for a concurrency below 1."""
    if concurrency < 1:
        raise ValueError(f"concurrency: expected 1 or more, got {concurrency!r}")
