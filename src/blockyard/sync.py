"""The blocking face: one line a method, each running an operation of `operations.py`.

A single call runs here, on the caller's thread, over plain sockets: its coroutine never
suspends. A many-at-once call goes to one background event loop that the store starts when it
first needs it. Threads share a store safely; after a fork the child starts with fresh sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

from blockyard.context import Context
from blockyard.model import BlockInfo, DeleteResult, HealthReport
from blockyard.transport.blocking import run_to_end

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

    from blockyard.operations import Operations
    from blockyard.transport.background import BackgroundLoop
    from blockyard.transport.blocking import BlockingRuntime

Item = TypeVar("Item")
Result = TypeVar("Result")


class BlockStore:
    """An open block store. Get one from `blockyard.open_store`; close it, or use `with`.

    Every method raises `StoreClosedError` after `close`, `InvalidKeyError` for a key that no
    store can hold, and a `TransportError` or `S3Error` when the service can't be reached or
    refuses; what else a method raises is said there. `AsyncBlockStore` has the same methods.
    """

    def __init__(
        self,
        operations: Operations,
        runtime: BlockingRuntime,
        background: BackgroundLoop,
        *,
        deadline: float | None,
        concurrency: int,
    ) -> None:
        self._operations = operations
        self._runtime = runtime
        self._background = background
        self._deadline = deadline
        self._concurrency = concurrency
        self._endless = Context(runtime, None, concurrency)

    def with_options(
        self, *, deadline: float | None = None, concurrency: int | None = None
    ) -> BlockStore:
        """A view of the same open store whose calls run under other options.

        `deadline` limits each call, retries and waits included, to that many seconds: past it
        the call raises `DeadlineExceededError`. `concurrency` is how many requests a
        many-at-once call keeps in flight. Closing the view closes the store.
        """
        return BlockStore(
            self._operations,
            self._runtime,
            self._background,
            deadline=self._deadline if deadline is None else deadline,
            concurrency=self._concurrency if concurrency is None else concurrency,
        )

    def write_block(self, key: str, data: Buffer, *, if_absent: bool = False) -> BlockInfo:
        """Store `data` (any contiguous buffer, up to `MAX_BLOCK_SIZE` bytes) under `key`.

        Durable once it returns. With `if_absent`, raises `BlockExistsError` instead of
        replacing a block. https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
        """
        return run_to_end(
            self._operations.write_block(self._context(), key, data, if_absent=if_absent)
        )

    def read_block(self, key: str) -> bytes:
        """The whole block. Raises `BlockNotFoundError`.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
        """
        return run_to_end(self._operations.read_block(self._context(), key))

    def read_block_into(self, key: str, buffer: Buffer) -> int:
        """Read the block into the start of `buffer` (writable) and return its size in bytes.

        The fastest read when the buffer is reused. Raises `BlockNotFoundError`, and
        `BufferTooSmallError` when the block is larger than the buffer.
        """
        return run_to_end(self._operations.read_block_into(self._context(), key, buffer))

    def read_block_range(self, key: str, offset: int, length: int | None = None) -> bytes:
        """`length` bytes of the block from `offset`, to its end when None, clamped there.

        Raises `BlockNotFoundError`, and `InvalidRangeError` when `offset` is at or past the
        end. https://www.rfc-editor.org/rfc/rfc9110#name-range-requests
        """
        return run_to_end(self._operations.read_block_range(self._context(), key, offset, length))

    def read_blocks(self, keys: Iterable[str]) -> list[bytes]:
        """Many whole blocks at once, in the order asked; the first error is raised."""
        return self._run_many(self._operations.read_blocks, keys)

    def read_block_ranges(self, ranges: Iterable[tuple[str, int, int | None]]) -> list[bytes]:
        """Many ranges `(key, offset, length)` at once, in the order asked; see `read_block_range`."""
        return self._run_many(self._operations.read_block_ranges, ranges)

    def write_blocks(self, blocks: Iterable[tuple[str, Buffer]]) -> list[BlockInfo]:
        """Store many blocks `(key, data)` at once. From an iterator they are drawn as places free up.

        The first error is raised; blocks written before it stay.
        """
        return self._run_many(self._operations.write_blocks, blocks)

    def stat_block(self, key: str) -> BlockInfo:
        """Size, ETag and time of the block. Raises `BlockNotFoundError`.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html
        """
        return run_to_end(self._operations.stat_block(self._context(), key))

    def block_exists(self, key: str) -> bool:
        """Whether there is a block under `key`."""
        return run_to_end(self._operations.block_exists(self._context(), key))

    def copy_block(self, source_key: str, target_key: str) -> BlockInfo:
        """Copy a block inside the service, replacing the target. Raises `BlockNotFoundError`.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
        """
        return run_to_end(self._operations.copy_block(self._context(), source_key, target_key))

    def delete_block(self, key: str) -> None:
        """Delete the block; no error when it is absent."""
        return run_to_end(self._operations.delete_block(self._context(), key))

    def delete_blocks(self, keys: Iterable[str]) -> DeleteResult:
        """Delete many blocks, in batches, and say what became of each key.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
        """
        return run_to_end(self._operations.delete_blocks(self._context(), keys))

    def delete_by_prefix(
        self, prefix: str, *, literal: bool = False, dry_run: bool = False
    ) -> DeleteResult:
        """Delete the block `prefix` and every block below `prefix/`: `share1` leaves `share10/a`.

        With `literal`, every key that begins with `prefix` instead; the empty prefix needs it.
        With `dry_run` nothing is deleted, and `deleted` holds what would be.
        """
        return run_to_end(
            self._operations.delete_by_prefix(
                self._context(), prefix, literal=literal, dry_run=dry_run
            )
        )

    def list_by_prefix(self, prefix: str = "") -> list[str]:
        """The keys that begin with the literal `prefix`, in the order of their UTF-8 bytes.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
        """
        return run_to_end(self._operations.list_by_prefix(self._context(), prefix))

    def iter_blocks(self, prefix: str = "") -> Iterator[BlockInfo]:
        """The blocks whose keys begin with the literal `prefix`, fetched page by page."""
        token: str | None = None
        while True:
            page = run_to_end(self._operations.list_page(self._context(), prefix, token))
            yield from page.blocks
            token = page.next_token
            if token is None:
                return

    def health_check(self) -> HealthReport:
        """Show that the bucket or folder can be used now; the typed error says why it can't."""
        return run_to_end(self._operations.health_check(self._context()))

    def close(self) -> None:
        """Close the store and its connections. Later calls raise `StoreClosedError`."""
        self._operations.close()
        self._background.close()
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _context(self) -> Context:
        if self._deadline is None:
            return self._endless
        return Context(self._runtime, self._runtime.now() + self._deadline, self._concurrency)

    def _run_many(
        self, operation: Callable[[Context, Item], Coroutine[Any, Any, Result]], item: Item
    ) -> Result:
        return self._background.run(operation, item, self._deadline, self._concurrency)
