"""One call over a prefix: its ranges go to an executor as tasks, and what comes back is merged.

Nothing here schedules: the executor says what runs where, and what is tried again. So many tasks
are with it at a time; once fewer are, what is left of a range is split for the places that are
free. All waiting is done on the caller's thread, and so is all splitting.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from typing import Any, Generic, NamedTuple, TypeVar

from blockyard import arguments
from blockyard.distributed.key_ranges import KeyRange, Splitter
from blockyard.distributed.tasks import Outcome, Task, Work, run
from blockyard.errors import BlockStoreError, DeadlineExceededError, ExecutorError
from blockyard.sync import BlockStore
from blockyard.transport.blocking import run_to_end

Result = TypeVar("Result")

_MOST_TASKS = 10_000
_MOST_KEYS = 1_000_000


class Piece(NamedTuple, Generic[Result]):
    """What is to be done, and to which keys."""

    work: Work[Result]
    keys: KeyRange


class Job:
    """One call: its arguments, checked, and its tasks. Raises `TypeError`, `ValueError`.

    The errors for `prefix` call it `what`.
    """

    def __init__(
        self,
        operation: str,
        store: BlockStore,
        prefix: str,
        executor: Executor,
        *,
        tasks: int,
        keys_per_task: int,
        what: str = "prefix",
    ) -> None:
        self.operation = operation
        self.prefix = arguments.prefix(operation, prefix, what)
        self._store = _checked(operation, "store", store, BlockStore, _STORE)
        self._executor = _checked(operation, "executor", executor, Executor, _EXECUTOR)
        self._tasks = _count(operation, "tasks", tasks, _MOST_TASKS)
        self._keys_per_task = _count(operation, "keys_per_task", keys_per_task, _MOST_KEYS)
        self._splitter = Splitter(store._operations, operation)  # pyright: ignore[reportPrivateUsage]
        self._deadline = store._deadline  # pyright: ignore[reportPrivateUsage]
        self._now = store._runtime.now  # pyright: ignore[reportPrivateUsage]
        self._begun = self._now()
        self._id = os.urandom(6).hex()
        self._made = self._done = self._keys = 0
        self._running: dict[Future[Outcome[Any]], Task[Any]] = {}

    def run(
        self,
        pieces: Iterable[Piece[Result]],
        merge: Callable[[Result], Result],
        progress: Callable[[Result], object] | None,
    ) -> None:
        """Have all of `pieces` done, each result merged, and the caller told what that makes.

        Whatever is raised, by a task, by `progress` or by an interrupt, ends it: what the executor
        has not begun is cancelled.
        """
        progress = arguments.progress(self.operation, progress)
        try:
            self._run(deque(pieces), merge, progress)
        finally:
            for future in self._running:
                _ = future.cancel()
            self._running.clear()

    def _run(
        self,
        whole: deque[Piece[Result]],
        merge: Callable[[Result], Result],
        progress: Callable[[Result], object] | None,
    ) -> None:
        ready = deque[Piece[Result]]()
        while whole or ready or self._running:
            while whole and (room := self._tasks - len(ready) - len(self._running)) > 0:
                piece = whole.popleft()
                ready += self._split(piece, room - len(whole))
            while ready:
                self._submit(ready.popleft())
            for future in self._ended():
                task = self._running.pop(future)
                outcome = self._outcome(future, task)
                if outcome.stopped_after is not None:
                    rest = task.keys._replace(after=outcome.stopped_after)
                    whole.append(Piece(task.work, rest))
                so_far = merge(outcome.result)
                if progress is not None:
                    _ = progress(so_far)

    def _split(self, piece: Piece[Result], into: int) -> list[Piece[Result]]:
        store = self._view()
        ctx = store._context()  # pyright: ignore[reportPrivateUsage]
        parts = run_to_end(self._splitter.split(ctx, piece.keys, into))
        return [Piece(piece.work, keys) for keys in parts]

    def _submit(self, piece: Piece[Any]) -> None:
        self._made += 1
        task = Task(f"{self._id}-{self._made}", *piece, self._keys_per_task)
        store = self._view()
        try:
            future = self._executor.submit(run, store, task)
        except Exception as error:
            raise self._not_run(task, error) from error
        self._running[future] = task

    def _ended(self) -> Iterable[Future[Outcome[Any]]]:
        """Those that have ended, one at least where any is running."""
        if not self._running:
            return ()
        ended = wait(self._running, self._left(), FIRST_COMPLETED).done
        if not ended:
            raise self._too_late()
        return ended

    def _outcome(self, future: Future[Outcome[Any]], task: Task[Any]) -> Outcome[Any]:
        try:
            # that of a task that exits as well, which is not to end this program
            error: BaseException | None = future.exception()
        except CancelledError as cancelled:
            error = cancelled
        try:
            if isinstance(error, BlockStoreError):
                error.add_note(f"in {task}; {self._progress()}")
                raise error
            if error is not None:
                raise self._not_run(task, error) from error
        finally:
            del error  # which its traceback refers to, by way of this frame
        outcome = future.result()
        self._done += 1
        self._keys += outcome.keys
        return outcome

    def _view(self) -> BlockStore:
        """The store, each call of it with the time that is left."""
        left = self._left()
        if left is None:
            return self._store
        if left <= 0:
            raise self._too_late()
        return self._store.with_options(deadline=left)

    def _left(self) -> float | None:
        return None if self._deadline is None else self._begun + self._deadline - self._now()

    def _too_late(self) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"{self.operation} {self.prefix!r}: the deadline of {self._deadline:g} s has passed; "
            f"{self._progress()}"
        )

    def _not_run(self, task: Task[Any], error: BaseException) -> ExecutorError:
        return ExecutorError(
            f"{self.operation} {self.prefix!r}: the executor did not bring {task} to its end: "
            f"{type(error).__name__}: {error}; {self._progress()}"
        )

    def _progress(self) -> str:
        return (
            f"{self._done} tasks with {self._keys} keys were done before, "
            f"{len(self._running)} others were with the executor"
        )


_STORE = "a BlockStore (open_store makes one of an AsyncBlockStore)"
_EXECUTOR = "an Executor of concurrent.futures (Dask: client.get_executor(pure=False))"
Kind = TypeVar("Kind")


def _checked(operation: str, name: str, value: Kind, kind: type[Kind], expected: str) -> Kind:
    if isinstance(value, kind):
        return value
    raise arguments.unsuitable(operation, name, expected, value)


def _count(operation: str, name: str, value: int, most: int) -> int:
    number = arguments.whole(operation, value, name)
    if 1 <= number <= most:
        return number
    raise ValueError(f"{operation}: {name}: expected 1 to {most}, got {number}")
