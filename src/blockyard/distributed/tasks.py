"""One task over a range of keys: what a worker is handed, what it does, and what it hands back.

Each of these is small and can be pickled. A task may be run twice, as executors do when a worker is
lost: what it has verified, copied or deleted before is then verified or copied again, or gone.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from blockyard.content.manifest import generation_of
from blockyard.content.transfers import Tally
from blockyard.content.writing import ContentWriter
from blockyard.context import Context
from blockyard.distributed.key_ranges import KeyRange
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    StoreClosedError,
)
from blockyard.keys import MANIFEST_SUFFIX
from blockyard.model import BlockInfo, DeleteResult, VerifyReport
from blockyard.operations import Operations
from blockyard.prefixes import PAGE_SIZE, delete_some
from blockyard.stores.base import ListRequest
from blockyard.verifying import Walk, bare

if TYPE_CHECKING:
    from blockyard.sync import BlockStore


Result = TypeVar("Result")

_CONTENTS = 8
"""How many contents a task copies at a time."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What became of the blocks and contents of a prefix that was copied.

    `blocks` and `contents` count those that were copied; `failed` maps the keys of the others (of a
    content, the key of its manifest) to their errors.
    """

    blocks: int
    contents: int
    failed: Mapping[str, BlockStoreError]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What came of a task: how many `keys` it did, and where it stopped, if not at the end."""

    keys: int
    stopped_after: str | None
    result: Result


class Work(Protocol[Result]):
    """What is done to each key of a range."""

    @property
    def operation(self) -> str:
        """What errors name."""
        ...

    async def do(
        self, operations: Operations, ctx: Context, task: Task[Result]
    ) -> Outcome[Result]: ...


@dataclass(frozen=True, slots=True)
class Task(Generic[Result]):
    """`work` on the keys of a range, the first `most` or some more; `id` is no other task's."""

    id: str
    work: Work[Result]
    keys: KeyRange
    most: int

    def __str__(self) -> str:
        bounds = f"after {self.keys.after!r}" if self.keys.after else "from the first"
        bounds += f" up to {self.keys.up_to!r}" if self.keys.up_to else ""
        return f"task {self.id} (keys {bounds})"


@dataclass(frozen=True, slots=True)
class Verify:
    """Read each block, and hold it to its checksums."""

    operation = "verify_by_prefix"

    async def do(
        self, operations: Operations, ctx: Context, task: Task[VerifyReport]
    ) -> Outcome[VerifyReport]:
        walk = Walk(operations, Tally(ctx, None))
        keys, stopped = await _pages(operations, ctx, task, partial(walk.verify, ctx))
        return Outcome(keys, stopped, walk.report())


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy each block and content to the key with `target` in place of `source`."""

    source: str
    target: str
    operation = "copy_by_prefix"

    async def do(
        self, operations: Operations, ctx: Context, task: Task[CopyReport]
    ) -> Outcome[CopyReport]:
        copying = _Copying(self, operations, ctx)
        keys, stopped = await _pages(operations, ctx, task, copying.copy)
        return Outcome(keys, stopped, copying.report())


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the blocks: `manifests` alone, all but those, or (None) all."""

    manifests: bool | None
    dry_run: bool
    operation = "delete_by_prefix"

    async def do(
        self, operations: Operations, ctx: Context, task: Task[DeleteResult]
    ) -> Outcome[DeleteResult]:
        deleted, failed = list[str](), dict[str, BlockStoreError]()

        async def delete(blocks: list[BlockInfo]) -> None:
            keys = [block.key for block in blocks if self._is_meant(block.key)]
            if self.dry_run:
                deleted.extend(keys)
            else:
                await delete_some(operations, ctx, keys, deleted, failed)

        keys, stopped = await _pages(operations, ctx, task, delete)
        return Outcome(keys, stopped, DeleteResult(deleted, failed))

    def _is_meant(self, key: str) -> bool:
        return self.manifests in {None, key.endswith(MANIFEST_SUFFIX)}


def run(store: BlockStore, task: Task[Result]) -> Outcome[Result]:
    """Do a task: what a worker calls. Raises what the listing raises."""
    do = partial(task.work.do, store._operations)  # pyright: ignore[reportPrivateUsage]
    return store._run_many(do, task)  # pyright: ignore[reportPrivateUsage]


class _Copying:
    """Copies a page of blocks at a time.

    The blocks of a content are copied with its manifest, by `copy_content`: so the copy is whole,
    and of one version, also when the content is replaced meanwhile.
    """

    def __init__(self, work: Copy, operations: Operations, ctx: Context) -> None:
        self._work = work
        self._operations = operations
        self._writer = ContentWriter(operations)
        self._ctx = ctx
        self._blocks = self._contents = 0
        self._failed: dict[str, BlockStoreError] = {}

    async def copy(self, blocks: list[BlockInfo]) -> None:
        _ = await self._ctx.gather(self._copy_block, [each for each in blocks if _is_alone(each)])
        manifests = [each for each in blocks if each.key.endswith(MANIFEST_SUFFIX)]
        at_once = min(_CONTENTS, self._ctx.concurrency)
        _ = await self._ctx.runtime.gather(self._copy_content, manifests, at_once)

    def report(self) -> CopyReport:
        return CopyReport(self._blocks, self._contents, dict(sorted(self._failed.items())))

    async def _copy_block(self, block: BlockInfo) -> None:
        own = replace(self._ctx, unknown_attempts=0)
        copy = self._operations.copy_block(own, block.key, self._target(block.key))
        if await self._copied(block.key, copy):
            self._blocks += 1

    async def _copy_content(self, manifest: BlockInfo) -> None:
        """By a part of the requests that may be in flight, as several are copied at a time."""
        concurrency = max(1, self._ctx.concurrency // _CONTENTS)
        own = replace(self._ctx, unknown_attempts=0, concurrency=concurrency)
        source = manifest.key.removesuffix(MANIFEST_SUFFIX)
        copy = self._writer.copy_content(own, source, self._target(source), None)
        if await self._copied(manifest.key, copy):
            self._contents += 1

    def _target(self, key: str) -> str:
        return self._work.target + key.removeprefix(self._work.source)

    async def _copied(self, key: str, copy: Coroutine[Any, Any, object]) -> bool:
        """Whether it was; a failure is kept against the key."""
        try:
            _ = await copy
        except (StoreClosedError, DeadlineExceededError):
            raise
        except BlockNotFoundError:  # deleted since it was listed, or a content's tombstone
            return False
        except BlockStoreError as error:
            self._failed[key] = bare(error)
            return False
        return True


def _is_alone(block: BlockInfo) -> bool:
    """Whether it is no part of a content that has a manifest."""
    return not block.key.endswith(MANIFEST_SUFFIX) and generation_of(block.key) is None


async def _pages(
    operations: Operations,
    ctx: Context,
    task: Task[Any],
    use: Callable[[list[BlockInfo]], Coroutine[Any, Any, None]],
) -> tuple[int, str | None]:
    """Use the blocks of a task's keys, page by page: how many, and after which key it stopped."""
    operation, count, last = task.work.operation, 0, ""
    request = ListRequest(
        task.keys.prefix,
        None,
        min(task.most, PAGE_SIZE),
        start_after=task.keys.after,
        operation=operation,
    )
    while True:
        operations.check_open(operation, ctx)
        page = await operations.store.list(ctx, request)
        blocks = [block for block in page.blocks if task.keys.holds(block.key)]
        await use(blocks)
        count += len(blocks)
        last = blocks[-1].key if blocks else last
        if page.next_token is None or len(blocks) < len(page.blocks):
            return count, None
        if count >= task.most:
            return count, last
        request.token = page.next_token
