"""A store whose requests can be held, lost and delivered late, with a clock that a test moves.

Each client is an operation of the library, a coroutine that stops before each of its requests and
pauses. A test, or chance, says which client goes on, and what becomes of its request. Requests
under way are delivered later, within `LATE` seconds, or dropped. After each change the manifest of
the one content is looked at: what was there, in order, is what promises are checked against.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from blockyard.content.cleaning import ContentCleaner
from blockyard.content.manifest import Manifest, decode, generation_key, manifest_key
from blockyard.content.reading import ContentReader
from blockyard.content.upload import LONGEST_WRITE
from blockyard.content.write_options import WriteOptions
from blockyard.content.writing import ContentWriter
from blockyard.context import Context, UserItems
from blockyard.crc32c import crc32c
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    ContentChangedError,
    ContentExistsError,
    OutcomeUnknownError,
    TransportTimeoutError,
    UnsupportedError,
)
from blockyard.model import Block, BlockInfo, CopyResult, DeleteResult, Page
from blockyard.operations import Operations
from blockyard.stores.base import ListRequest, ReadRequest, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from tests.s3.pretend import PretendRuntime, PretendS3

Item = TypeVar("Item")
Result = TypeVar("Result")

LATE = 300.0
"""Seconds for which a request may be under way after its client gave it up."""
SIGNATURE = 900.0
"""Seconds for which the service accepts a signature; what is older is refused."""
CONTENT = "content"
BLOCK_SIZE = 4
_START = 1.7e9


class KilledError(BaseException):
    """The process of this client is gone: nothing that it still does reaches the service."""


class Asked(NamedTuple):
    """What a client stopped at: a request, or a pause until a time."""

    verb: str
    key: str = ""
    changes: bool = False
    until: float = 0.0


class Late(NamedTuple):
    """A request under way."""

    asked: Asked
    client: Client
    apply: Callable[[], Coroutine[Any, Any, Any]]
    given_up: float


@dataclass(frozen=True)
class _Stop:
    asked: Asked

    def __await__(self) -> Generator[Asked, str, str]:
        return (yield self.asked)


class Version(NamedTuple):
    """What was under the key of the manifest: nothing, a tombstone or a live manifest."""

    id: str | None
    live: bool
    etag: str | None


@dataclass(eq=False)
class World:
    """The service and its past. `honours` says on which requests it holds to conditions."""

    honours: frozenset[str] = frozenset({"PUT", "DELETE"})
    clock: float = _START
    late: list[Late] = field(default_factory=list[Late])
    past: list[Version] = field(default_factory=lambda: [Version(None, False, None)])
    refused: set[str] = field(default_factory=set[str])
    told: list[str] = field(default_factory=list[str])
    """What happened, for whoever reads a failure."""

    def __post_init__(self) -> None:
        self.memory = MemoryStore()
        self.writers: dict[str, Client] = {}
        """The client of each id of a manifest that was sent."""
        self._ids = 0

    @property
    def strict(self) -> bool:
        """Whether what is replaced stays replaced."""
        return "PUT" in self.honours

    def next_id(self) -> str:
        """Text that nobody had before, as `Runtime.nonce` gives."""
        self._ids += 1
        return f"{self._ids:016x}00000000"

    def pass_time(self, seconds: float) -> None:
        """Let time pass; what has been under way for too long is lost."""
        self.clock += seconds
        self.late = [late for late in self.late if self.clock - late.given_up < LATE]
        self.told.append(f"-- {self.clock - _START:.0f} s")

    def deliver(self, late: Late | None = None) -> None:
        """Apply a request that is under way: the only one, or that one."""
        if late is None:
            (late,) = self.late
        self.late.remove(late)
        self.told.append(f"late, from {late.client.name}: {late.asked.verb} {late.asked.key}")
        try:
            _ = _to_end(late.apply())
        except BlockStoreError as error:
            self.told.append(f"  refused: {type(error).__name__}")
        self.observe()

    def manifest(self) -> Manifest | None:
        """What is under the key of the manifest now."""
        block = self.memory._blocks.get(manifest_key(CONTENT))
        return None if block is None else decode("observe", block.data)

    def observe(self) -> None:
        """Note what is there now, and check that it is whole and was not there before."""
        block = self.memory._blocks.get(manifest_key(CONTENT))
        manifest = self.manifest()
        etag = None if block is None else block.info.etag
        if etag != self.past[-1].etag:
            id_ = None if manifest is None else manifest.id
            if self.strict and id_ is not None:
                before = {version.id for version in self.past}
                assert id_ not in before, self.say(f"{id_} takes effect a second time")
                assert id_ not in self.refused, self.say(f"{id_} was refused and takes effect")
            self.past.append(Version(id_, manifest is not None and not manifest.deleted, etag))
            self.told.append(f"  now: {self.past[-1]}")
        if manifest is not None and not manifest.deleted and manifest.layout == "generation":
            self._check_blocks(manifest)

    def _check_blocks(self, manifest: Manifest) -> None:
        for index, key in enumerate(self.named()):
            block = self.memory._blocks.get(key)
            assert block is not None, self.say(f"{key} is gone, and the manifest names it")
            assert crc32c(block.data) == manifest.checksum(index), self.say(f"{key} is another")

    def blocks(self) -> list[str]:
        """The keys of all blocks of the content."""
        return [key for key in sorted(self.memory._blocks) if key.startswith(f"{CONTENT}/")]

    def named(self) -> list[str]:
        """The keys of the blocks that the manifest names."""
        manifest = self.manifest()
        if manifest is None or manifest.deleted:
            return []
        size = manifest.chunk_blocks
        return [generation_key(CONTENT, manifest.id, n, size) for n in range(manifest.blocks)]

    def whole(self, content_id: str) -> bytes:
        """What is stored as a content."""
        manifest = decode("whole", self.memory._blocks[manifest_key(content_id)].data)
        if manifest.layout == "inline":
            return manifest.data
        keys = [
            generation_key(content_id, manifest.id, n, manifest.chunk_blocks)
            for n in range(manifest.blocks)
        ]
        return b"".join(self.memory._blocks[key].data for key in keys)

    def say(self, what: str) -> str:
        """A message with all that happened."""
        return "\n".join([what, *self.told])

    def store(self, inline_limit: int = 0) -> Opened:
        """A store object of its own; it keeps contents up to `inline_limit` in their manifests."""
        return Opened(self, inline_limit)


class Opened:
    """What one open store does with contents."""

    def __init__(self, world: World, inline_limit: int) -> None:
        self.world = world
        operations = Operations(_HeldStore(world))
        self.reader = ContentReader(operations, BLOCK_SIZE)
        self.writer = ContentWriter(operations, BLOCK_SIZE, inline_limit)
        self.cleaner = ContentCleaner(operations)

    def write(
        self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> Client:
        """Begin to write the content."""
        options = WriteOptions(if_absent=if_absent, if_match=if_match)
        return Client(
            self.world,
            name,
            lambda ctx: self.writer.write_content(ctx, CONTENT, data, None, options),
            data=data,
            wanted=if_match,
        )

    def copy(self, name: str, target: str) -> Client:
        """Begin to copy the content to another."""
        return Client(
            self.world,
            name,
            lambda ctx: self.writer.copy_content(ctx, CONTENT, target, None),
            copies_to=target,
        )

    def delete(self, name: str) -> Client:
        """Begin to delete the content."""
        return Client(self.world, name, lambda ctx: self.writer.delete_content(ctx, CONTENT))

    def read(self, name: str) -> Client:
        """Begin to read the content, all of it."""
        return Client(self.world, name, lambda ctx: self.reader.read_content(ctx, CONTENT, 0, None))

    def clean(self, name: str, *, no_writers: bool = False) -> Client:
        """Begin to clean what is left."""
        return Client(
            self.world,
            name,
            lambda ctx: self.cleaner.clean_contents(ctx, "", dry_run=False, no_writers=no_writers),
        )


class Client:
    """One operation under way. `at` is what it stopped at; None when it has ended."""

    def __init__(
        self,
        world: World,
        name: str,
        operation: Callable[[Context], Coroutine[Any, Any, Any]],
        *,
        data: bytes = b"",
        copies_to: str = "",
        wanted: str | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.data = data
        self.copies_to = copies_to
        self.wanted = wanted
        self.began = len(world.past) - 1
        self._began_at = world.clock
        self.result: Any = None
        self.error: BaseException | None = None
        self.ids: set[str] = set()
        self.at: Asked | None = None
        self._killed = False
        self._coroutine = operation(Context(_Runtime(self)))
        self._go_on(None)

    def step(self, decision: str = "answered") -> None:
        """Go on to the next request: this one is "answered", "lost" once applied, or "held"."""
        assert self.at is not None
        if self.at.until > self.world.clock:
            self.world.pass_time(self.at.until - self.world.clock)
        self.world.told.append(f"{self.name}: {self.at.verb} {self.at.key} {decision}")
        self._go_on(decision)

    def run(self, verb: str = "", key: str = "") -> Client:
        """Go on, all answered, to the next such request, or to the end."""
        while self.at is not None and not (verb and self.at.verb == verb and key in self.at.key):
            self.step()
        assert not verb or self.at is not None, self.world.say(f"{self.name} has ended")
        return self

    def kill(self) -> None:
        """End the process: what it has not sent is never sent."""
        self._killed = True
        self.world.told.append(f"{self.name} is killed")
        while self.at is not None:
            self._go_on("killed")

    def finish(self) -> Any:
        """Run to the end; return or raise what the caller gets."""
        _ = self.run()
        if self.error is not None:
            raise self.error
        return self.result

    def _go_on(self, decision: str | None) -> None:
        try:
            self.at = self._coroutine.send(decision)
        except StopIteration as stop:
            self.at, self.result = None, stop.value
        except (BlockStoreError, KilledError) as error:
            self.at, self.error = None, error
        if not self._killed:
            self.world.observe()
            if self.at is None:
                outcome = type(self.error).__name__ if self.error else repr(self.result)
                self.world.told.append(f"{self.name} gets {outcome}")
                self._check_told()

    def _check_told(self) -> None:
        """What the caller was told is true at some moment since the operation began."""
        world, past = self.world, self.world.past[self.began :]
        took_effect = self.ids & {version.id for version in past}
        match self.error:
            case None if self.data:
                assert self.result.version in took_effect, world.say(f"{self.name}: not written")
            case None if isinstance(self.result, bytes) or self.copies_to:
                got = world.whole(self.copies_to) if self.copies_to else self.result
                live = {version.id for version in past if version.live}
                there = {client.data for id_, client in world.writers.items() if id_ in live}
                assert got in there, world.say(f"{self.name} got {got!r}")
            case None if self.result is None:
                assert not all(version.live for version in past), world.say("not deleted")
            case ContentExistsError() | ContentChangedError():
                if world.strict:
                    assert not took_effect, world.say(f"{self.name} is told that it lost")
                    assert self._was_refused(past), world.say(f"{self.name} was not refused")
                    world.refused |= self.ids
            case BlockNotFoundError():
                assert not all(version.live for version in past), world.say("it was there")
            case OutcomeUnknownError() | None:
                pass
            case _ if isinstance(self.error, UnsupportedError) and not world.strict:
                pass
            case _:
                raise AssertionError(world.say(f"{self.name}: {self.error!r}")) from self.error

    def _was_refused(self, past: list[Version]) -> bool:
        """Whether the caller's condition failed at some moment, or the write took too long."""
        if self.world.clock - self._began_at >= LONGEST_WRITE:
            return True
        if self.wanted is None:
            return any(version.live for version in past)
        return any(not version.live or version.id != self.wanted for version in past)


class _Runtime(PretendRuntime):
    """The runtime of one client, on the world's clock."""

    def __init__(self, client: Client) -> None:
        super().__init__(PretendS3())
        self.client = client

    async def sleep(self, seconds: float) -> None:
        world = self.client.world
        if await _Stop(Asked("pause", until=world.clock + seconds)) == "killed":
            raise KilledError

    async def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item] | UserItems[Item],
        concurrency: int,
        in_turn: Callable[[Item], str] | None = None,
    ) -> list[Result]:
        assert not isinstance(items, UserItems)
        return [await operation(item) for item in items]

    async def finish(self, operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
        return await operation

    def now(self) -> float:
        return self.client.world.clock

    def wall_time(self) -> float:
        return self.client.world.clock

    def nonce(self) -> str:
        return self.client.world.next_id()


class _HeldStore(WrapperStore):
    """Stops each client before its requests, which are sent until answered, or once."""

    def __init__(self, world: World) -> None:
        super().__init__(world.memory)
        self._world = world

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        self._check("PUT", "write_block", request.key, conditional=request.conditional)
        if request.key == manifest_key(CONTENT):
            id_, client = decode("write", bytes(request.data)).id, _client(ctx)
            client.ids.add(id_)
            _ = self._world.writers.setdefault(id_, client)
        return await self._ask(
            ctx,
            Asked("PUT", request.key, changes=True),
            lambda: self.inner.write(replace(ctx, deadline=None), request),
        )

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        self._check("DELETE", "delete_block", key, conditional=if_match is not None)
        await self._ask(
            ctx,
            Asked("DELETE", key, changes=True),
            lambda: self.inner.delete_block(replace(ctx, deadline=None), key, if_match),
        )

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        for key in keys:
            await self.delete_block(ctx, key)
        return DeleteResult(list(keys))

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        return await self._ask(
            ctx,
            Asked("COPY", target_key, changes=True),
            lambda: self.inner.copy_block(replace(ctx, deadline=None), source_key, target_key),
        )

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        asked = Asked("GET", request.key)
        return await self._ask(ctx, asked, lambda: self.inner.read(ctx, request))

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        return await self._ask(ctx, Asked("HEAD", key), lambda: self.inner.stat_block(ctx, key))

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        asked = Asked("LIST", request.prefix)
        return await self._ask(ctx, asked, lambda: self.inner.list(ctx, request))

    async def list_keys(self, ctx: Context, request: ListRequest) -> Any:
        asked = Asked("LIST", request.prefix)
        return await self._ask(ctx, asked, lambda: self.inner.list_keys(ctx, request))

    def _check(self, method: str, operation: str, key: str, *, conditional: bool) -> None:
        if conditional and method not in self._world.honours:
            raise UnsupportedError(f"{operation} {key!r}: the service ignores conditions")

    async def _ask(
        self,
        ctx: Context,
        asked: Asked,
        apply: Callable[[], Coroutine[Any, Any, Result]],
    ) -> Result:
        client = _client(ctx)
        while True:
            ctx.check_deadline()
            signed = self._world.clock
            decision = await _Stop(asked)
            if decision == "killed":
                raise KilledError
            if self._world.clock - signed > SIGNATURE:
                continue  # refused, and signed anew
            if decision == "answered":
                return await apply()
            if decision == "held":
                self._world.late.append(Late(asked, client, apply, self._world.clock))
            else:
                try:
                    _ = await apply()
                except BlockStoreError as error:
                    self._world.told.append(f"  refused: {type(error).__name__}")
                self._world.observe()
            ctx.unknown_attempts += 1
            if ctx.once:
                raise TransportTimeoutError(f"{asked.verb} {asked.key!r}: no reply")


def _client(ctx: Context) -> Client:
    runtime = ctx.runtime
    assert isinstance(runtime, _Runtime)
    return runtime.client


def _to_end(operation: Coroutine[Any, Any, Result]) -> Result:
    try:
        _ = operation.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a request that is applied does not wait")
