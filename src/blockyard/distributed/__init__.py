"""Work on all keys of a prefix, by any `concurrent.futures.Executor`: also one of many machines.

Each function splits the prefix into ranges of keys and hands these to the executor, with the store;
a worker opens that again from its configuration (see "Other processes" in docs/configuration.md).
Threads, processes and, through `client.get_executor(pure=False)`, Dask's workers can do them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor

from blockyard import arguments
from blockyard.distributed.job import Job, Piece
from blockyard.distributed.key_ranges import KeyRange
from blockyard.distributed.tasks import Copy, CopyReport, Delete, Verify
from blockyard.errors import BlockStoreError, InvalidKeyError
from blockyard.keys import begins_keys, below, named_as
from blockyard.model import DeleteResult, VerifyReport
from blockyard.sync import BlockStore

__all__ = ["CopyReport", "copy_by_prefix", "delete_by_prefix", "verify_by_prefix"]

_TASKS = 64
_KEYS_PER_TASK = 10_000


def verify_by_prefix(
    store: BlockStore,
    prefix: str,
    executor: Executor,
    *,
    tasks: int = _TASKS,
    keys_per_task: int = _KEYS_PER_TASK,
    progress: Callable[[VerifyReport], object] | None = None,
) -> VerifyReport:
    """`store.verify_by_prefix(prefix)`, done by the workers of `executor`.

    It has up to `tasks` tasks at a time, each of some `keys_per_task` keys at most. A deadline of
    `store` (`with_options`) is that of the whole call. `progress` is called after each task with
    the report so far, on the thread that made the call. Raises what a listing does, and
    `ExecutorError` when the executor did not bring a task to its end: a worker was killed, say.
    Tasks that have not begun are cancelled then; the others go on to their end.
    """
    job = Job("verify_by_prefix", store, prefix, executor, tasks=tasks, keys_per_task=keys_per_task)
    report = _Verified()
    job.run([Piece(Verify(), KeyRange(job.prefix))], report.add, progress)
    return report.so_far()


def copy_by_prefix(
    store: BlockStore,
    source_prefix: str,
    target_prefix: str,
    executor: Executor,
    *,
    literal: bool = False,
    tasks: int = _TASKS,
    keys_per_task: int = _KEYS_PER_TASK,
    progress: Callable[[CopyReport], object] | None = None,
) -> CopyReport:
    """Copy the block or content `source_prefix`, and all below it, inside the service.

    With the prefixes `share1` and `share2`, `share1/a` comes to `share2/a`, and `share10/a` is left
    alone; with `literal` it is any key that begins so. Contents are copied as by `copy_content`:
    whole, and of one version. What was there is replaced. What could not be copied is in `failed`,
    and raises nothing. Raises `InvalidKeyError` where one of the prefixes begins the other. The
    rest is as in `verify_by_prefix`.
    """
    job = Job(
        "copy_by_prefix",
        store,
        source_prefix,
        executor,
        tasks=tasks,
        keys_per_task=keys_per_task,
        what="source_prefix",
    )
    target = arguments.prefix(job.operation, target_prefix, "target_prefix")
    literal = arguments.flag(job.operation, literal, "literal")
    report = _Copied()
    source, own = (each if literal else _folder(each) for each in (job.prefix, target))
    if source.startswith(own) or own.startswith(source):
        raise InvalidKeyError(
            f"{job.operation}: target_prefix {target!r}: expected one that does not begin with "
            f"{source!r}, the source's, nor the source's with it"
        )
    work = Copy(source, own) if literal else Copy(source[:-1], own[:-1])
    job.run([Piece(work, keys) for keys in _ranges(job.prefix, literal)], report.add, progress)
    return report.so_far()


def delete_by_prefix(
    store: BlockStore,
    prefix: str,
    executor: Executor,
    *,
    literal: bool = False,
    dry_run: bool = False,
    raise_on_failure: bool = True,
    tasks: int = _TASKS,
    keys_per_task: int = _KEYS_PER_TASK,
    progress: Callable[[DeleteResult], object] | None = None,
) -> DeleteResult:
    """`store.delete_by_prefix(prefix, ...)`, done by the workers of `executor`.

    `deleted` is in the order of the keys. All is listed twice: once for the manifests of contents,
    which are deleted first. The rest is as in `verify_by_prefix`.
    """
    job = Job("delete_by_prefix", store, prefix, executor, tasks=tasks, keys_per_task=keys_per_task)
    literal = arguments.flag(job.operation, literal, "literal")
    dry_run = arguments.flag(job.operation, dry_run, "dry_run")
    raising = arguments.flag(job.operation, raise_on_failure, "raise_on_failure")
    merged = _Deleted()
    arguments.check_not_all(job.operation, job.prefix, literal)
    for work in [Delete(None, dry_run)] if dry_run else [Delete(True, False), Delete(False, False)]:
        job.run([Piece(work, keys) for keys in _ranges(job.prefix, literal)], merged.add, progress)
    result = merged.so_far()
    if raising:
        result.raise_for_failures()
    return result


class _Verified:
    """The reports of all tasks so far, as one."""

    def __init__(self) -> None:
        self._verified: Counter[str] = Counter()
        self._unverifiable = self._size = 0
        self._damaged: dict[str, BlockStoreError] = {}
        self._unreadable: dict[str, BlockStoreError] = {}

    def add(self, report: VerifyReport) -> VerifyReport:
        self._verified.update(report.verified)
        self._unverifiable += report.unverifiable
        self._size += report.size
        self._damaged.update(report.damaged)
        self._unreadable.update(report.unreadable)
        return self.so_far()

    def so_far(self) -> VerifyReport:
        return VerifyReport(
            dict(self._verified),
            self._unverifiable,
            dict(sorted(self._damaged.items())),
            dict(sorted(self._unreadable.items())),
            self._size,
        )


class _Copied:
    """The reports of all tasks so far, as one."""

    def __init__(self) -> None:
        self._blocks = self._contents = 0
        self._failed: dict[str, BlockStoreError] = {}

    def add(self, report: CopyReport) -> CopyReport:
        self._blocks += report.blocks
        self._contents += report.contents
        self._failed.update(report.failed)
        return self.so_far()

    def so_far(self) -> CopyReport:
        return CopyReport(self._blocks, self._contents, dict(sorted(self._failed.items())))


class _Deleted:
    """The results of all tasks so far, as one."""

    def __init__(self) -> None:
        self._deleted: list[str] = []
        self._failed: dict[str, BlockStoreError] = {}

    def add(self, result: DeleteResult) -> DeleteResult:
        self._deleted += result.deleted  # and no copy is made of what may be millions
        self._failed.update(result.failed)
        return DeleteResult(self._deleted, self._failed)

    def so_far(self) -> DeleteResult:
        return DeleteResult(sorted(self._deleted), dict(sorted(self._failed.items())))


def _folder(prefix: str) -> str:
    return below(prefix) if prefix else ""


def _ranges(prefix: str, literal: bool) -> list[KeyRange]:
    """The keys of a folder, or that begin with `prefix`; none is longer than a key may be."""
    if literal:
        return [KeyRange(prefix)]
    ranges = [KeyRange(key, up_to=key) for key in named_as(prefix)]
    if begins_keys(below(prefix)):
        ranges.append(KeyRange(below(prefix)))
    return ranges
