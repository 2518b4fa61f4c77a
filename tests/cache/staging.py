"""What the tests of write-back share: stores on one folder, as processes have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Never, TypeVar, cast

from blockyard.cache.disk import DiskCache
from blockyard.cache.folder import Folder
from blockyard.cache.stage import Stage
from blockyard.cache.store import CacheStore
from blockyard.cache.write_back import WriteBackStore
from blockyard.context import Context
from blockyard.errors import BlockStoreError, TransportError
from blockyard.model import MIB, BlockInfo, DeleteResult, StagedBlock
from blockyard.stores.base import ReadRequest, Store, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from tests.s3.pretend import PretendRuntime, PretendS3

Result = TypeVar("Result")
UPTIME = 1000.0
IDENTITY = "MemoryStore"


class NoThreads(PretendRuntime):
    """A clock that only pauses move, and no thread: uploads are made when a test says so."""

    def __init__(self) -> None:
        super().__init__(PretendS3())
        self.clock = UPTIME

    def wall_time(self) -> float:
        return time.time()

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        raise TransportError("no thread")

    def close(self) -> None: ...


@dataclass
class Lost:
    """What becomes of a change: applied, or `late`: when the test applies it; never answered."""

    late: bool = False


class Service(WrapperStore):
    """The store below. `outcomes` are those of the next changes: None is what it would do."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.outcomes: list[Lost | BlockStoreError | None] = []
        self.always: Lost | BlockStoreError | None = None
        self.sent: list[tuple[str, bytes | None]] = []
        self.late: list[Callable[[], Coroutine[Any, Any, object]]] = []
        self.before: Callable[[], object] = lambda: None

    async def _change(
        self, ctx: Context, call: Callable[[], Coroutine[Any, Any, Result]]
    ) -> Result:
        self.before()
        outcome = self.outcomes.pop(0) if self.outcomes else self.always
        if outcome is None:
            return await call()
        if isinstance(outcome, BlockStoreError):
            raise outcome
        ctx.unknown_attempts += 1
        if outcome.late:
            self.late.append(call)
        else:
            _ = await call()
        raise TransportError("the reply was lost")

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        self.sent.append((request.key, bytes(request.data)))
        kept = replace(request, data=bytes(request.data))
        return await self._change(ctx, lambda: self.inner.write(ctx, kept))

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        self.sent.append((key, None))
        return await self._change(ctx, lambda: self.inner.delete_block(ctx, key, if_match))

    async def delete_blocks(self, ctx: Context, keys: Any) -> DeleteResult:
        self.sent += [(key, None) for key in keys]
        return await self._change(ctx, lambda: self.inner.delete_blocks(ctx, keys))

    @property
    def name(self) -> str:
        return IDENTITY


class Process:
    """A store with a stage, as one of the processes that share the folder `root` has it."""

    def __init__(self, root: Path, service: Store, *, size: int = 32 * MIB) -> None:
        self.root = root
        self.runtime = NoThreads()
        cache = CacheStore(
            service,
            memory=MIB,
            disk=DiskCache(root, 32 * MIB, service.identity),
            revalidate="never",
        )
        runtime = cast("BlockingRuntime", cast("object", self.runtime))
        self.store = WriteBackStore(cache, Folder(root), size, runtime)
        self.stage: Stage = self.store._stage

    @property
    def ctx(self) -> Context:
        return Context(cast("Any", self.runtime))

    def wait(self, seconds: float) -> None:
        self.runtime.clock += seconds

    def write(self, key: str, data: bytes, **how: Any) -> BlockInfo:
        return run_to_end(self.store.write(self.ctx, WriteRequest(key, data, **how)))

    def read(self, key: str, **how: Any) -> bytes:
        return run_to_end(self.store.read(self.ctx, ReadRequest(key, **how))).data

    def delete(self, key: str) -> None:
        run_to_end(self.store.delete_block(self.ctx, key))

    def upload(self, key: str) -> float | None:
        """What a thread of the background does; how many seconds later it is to try again."""
        again = self.store._upload_later(self.stage.name(key))
        return None if again is None else again - self.runtime.clock

    def drain(self, seconds: float | None = None) -> list[StagedBlock]:
        ctx = self.ctx
        if seconds is not None:
            ctx.deadline = self.runtime.clock + seconds
        return run_to_end(self.store.drain(ctx))

    @property
    def pending(self) -> list[StagedBlock]:
        return run_to_end(self.store.pending(self.ctx))

    @property
    def staged(self) -> list[str]:
        return [each.key for each in self.pending]

    def path(self, key: str) -> Path:
        return self.root / "stage" / self.stage.name(key).hex()


def files_in_stage(root: Path) -> list[Path]:
    """All files in the stage of the folder `root`: what is staged, and what is being written."""
    return [path for path in sorted((root / "stage").rglob("*")) if path.is_file()]


def never(*_: Any) -> Never:
    raise AssertionError("not to be called")
