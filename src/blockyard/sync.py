"""The blocking client: one line a method, each running an operation of `operations.py`.

A single call runs here, on the caller's thread, over plain sockets: its coroutine never
suspends. The I/O of a bulk call is done on one background event loop, which the store
starts when it first needs it; the caller's own code in it runs on the caller's thread. Threads
share a store safely; after a fork the child starts with fresh sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from functools import partial
from io import BufferedReader
from types import TracebackType
from typing import Any, Self, TypeVar

from blockyard import arguments
from blockyard.arguments import SAME, Same
from blockyard.buffer import Buffer
from blockyard.bulk_reads import BulkRead
from blockyard.client import Client
from blockyard.config import StoreConfig
from blockyard.content.types import (
    CleanReport,
    ContentEntry,
    ContentInfo,
    ContentSource,
    ContentTarget,
    Progress,
)
from blockyard.context import CacheUse, Context, Lifetime
from blockyard.errors import BlockTooLargeError
from blockyard.iterators import Fetch, PageIterator
from blockyard.model import (
    PART_SIZE,
    BlockInfo,
    CopyResult,
    DeleteResult,
    FolderListing,
    HealthReport,
    Method,
    PresignedRequest,
    StagedBlock,
    VerifyReport,
)
from blockyard.operations import Operations
from blockyard.put_options import PutOptions
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.bulk import BulkLoop

Item = TypeVar("Item")
Result = TypeVar("Result")


class BlockStore(Client[BlockingRuntime]):
    """An open block store. Get one from `blockyard.open_store`; close it, or use `with`.

    Every method raises `StoreClosedError` after `close`, `InvalidKeyError` for a key that no
    store can hold, a `TransportError` or `S3Error` when the service can't be reached or refuses,
    and a `LocalStorageError` when the disk of a folder or a cache does; `TypeError` and
    `ValueError` for other wrong arguments. What else a method raises is said there.
    `AsyncBlockStore` has the same methods.

    Your own code in a call (iterators, files, `progress`) runs on the thread that made the call; it
    may take its time, and call the store. Whatever it raises ends the call, which tidies up and
    raises that very exception, with a note of what failed besides. It can't be interrupted: a
    deadline that passes meanwhile is raised when it has returned. A generator that is left early is
    closed.
    """

    def __init__(
        self,
        operations: Operations,
        runtime: BlockingRuntime,
        bulk: BulkLoop,
        *,
        deadline: float | None,
        concurrency: int,
        cache: CacheUse = "use",
        source: StoreConfig | None = None,
    ) -> None:
        super().__init__(
            operations,
            runtime,
            deadline=deadline,
            concurrency=concurrency,
            cache=cache,
            source=source,
        )
        self._bulk = bulk

    def with_options(
        self,
        *,
        deadline: float | Same | None = SAME,
        concurrency: int | Same = SAME,
        cache: CacheUse | Same = SAME,
    ) -> BlockStore:
        """A view of the same open store whose calls run under other options.

        `deadline` limits each call, retries and waits included, to that many seconds: past it
        the call raises `DeadlineExceededError`; None takes the limit off. `concurrency` is how many
        requests a bulk call keeps in flight. `cache` says what reads are to do with the store's
        cache, where it has one: "use" it; "bypass" it, and keep nothing of what is read; "refresh"
        what it has, with a read from the store. Closing the view closes the store.
        """
        return BlockStore(
            self._operations,
            self._runtime,
            self._bulk,
            deadline=arguments.deadline(deadline, self._deadline),
            concurrency=self._concurrency
            if concurrency is SAME
            else arguments.concurrency("with_options", concurrency),
            cache=arguments.cache_use(cache, self._cache),
            source=self._source,
        )

    def write_block(
        self,
        key: str,
        data: Buffer,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        options: PutOptions | None = None,
    ) -> BlockInfo:
        """Store `data` (any contiguous buffer, up to `MAX_BLOCK_SIZE` bytes) under `key`.

        Durable once it returns. With `if_absent`, raises `BlockExistsError` instead of
        replacing a block. With `if_match`, replaces only the block that has that ETag, as
        `BlockInfo.etag` has it: raises `PreconditionFailedError` when it has another,
        `BlockNotFoundError` when there is none. Neither of these two has changed anything; when a
        reply was lost and it can't be told whether the write was done, a `TransportError` says so.
        Raises `UnsupportedError` where the service ignores the condition, and where a folder or
        memory has no place for something of `options`, which say how the block is to be stored.
        https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
        """
        return run_to_end(
            self._operations.write_block(
                self._context(), key, data, if_absent=if_absent, if_match=if_match, options=options
            )
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

    def read_block_with_info(
        self,
        key: str,
        offset: int = 0,
        length: int | None = None,
        *,
        suffix: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        lifetime: Lifetime = "default",
    ) -> tuple[bytes, BlockInfo]:
        """The bytes of a block, or a range of them, and what block they are of, in one request.

        All of it unless `offset` and `length` say otherwise, as in `read_block_range`; `suffix`
        asks for that many bytes at its end instead, all of a shorter block. `if_match` and
        `if_none_match` are ETags, as `BlockInfo.etag` has them: raises `PreconditionFailedError`
        when the block has another than the one, `NotModifiedError` when it has the other.
        `lifetime` is for a cache in front: an "immutable" block is never written twice, so it is
        not asked for again; a "mutable" one is, even where `revalidate` is never. Such a cache
        keeps neither metadata nor content type nor storage class, and those are not told then.
        Raises `BlockNotFoundError`, `InvalidRangeError`.
        https://www.rfc-editor.org/rfc/rfc9110#name-conditional-requests
        """
        return run_to_end(
            self._operations.read_block_with_info(
                self._context(),
                key,
                offset,
                length,
                suffix=suffix,
                if_match=if_match,
                if_none_match=if_none_match,
                lifetime=lifetime,
            )
        )

    def read_blocks(self, keys: Iterable[str]) -> list[bytes]:
        """Many whole blocks at once, in request order; the first error is raised."""
        return self._read_many(self._operations.read_blocks(self._context(), keys))

    def read_block_ranges(self, ranges: Iterable[tuple[str, int, int | None]]) -> list[bytes]:
        """Many ranges `(key, offset, length)` at once, in request order."""
        return self._read_many(self._operations.read_block_ranges(self._context(), ranges))

    def write_blocks(
        self, blocks: Iterable[tuple[str, Buffer]], *, options: PutOptions | None = None
    ) -> list[BlockInfo]:
        """Store many blocks `(key, data)` at once, drawn from an iterator as places free up.

        No more is drawn while those in flight hold `in_flight` bytes (64 MiB). The first error is
        raised; blocks written before it stay. Of several blocks with one key the last is what is
        stored: each is written when the one before it has been. `options` are for all of them.
        """
        return self._run_many(partial(self._operations.write_blocks, options=options), blocks)

    def stat_block(self, key: str) -> BlockInfo:
        """Size, ETag and time of the block, its metadata, content type and storage class.

        The metadata is {} where it has none, and in a folder; type and class are "" where there are
        none. Raises `BlockNotFoundError`.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html
        """
        return run_to_end(self._operations.stat_block(self._context(), key))

    def block_exists(self, key: str) -> bool:
        """Whether there is a block under `key`."""
        return run_to_end(self._operations.block_exists(self._context(), key))

    def copy_block(self, source_key: str, target_key: str) -> CopyResult:
        """Copy a block inside the service, replacing the target.

        One request: `stat_block` tells the size of the copy, which its reply does not. What S3 does
        not copy so, an object over 5 GiB, is copied in parts, `concurrency` of them side by side,
        and appears when it is whole. Raises `BlockNotFoundError`, and `PreconditionFailedError` for
        one that is replaced while its parts are copied.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
        """
        try:
            return run_to_end(self._operations.copy_block(self._context(), source_key, target_key))
        except BlockTooLargeError:
            pass
        return self._run_many(
            lambda ctx, keys: self._operations.copy_block(ctx, *keys), (source_key, target_key)
        )

    def presign(
        self,
        key: str,
        method: Method = "GET",
        expires: float = 3600,
        *,
        options: PutOptions | None = None,
    ) -> PresignedRequest:
        """A request of the block that anybody may send within `expires` seconds, up to a week.

        `method` is GET, HEAD, PUT or DELETE; `options` are for a PUT. The headers of the result
        have to be sent with it as they are, and are none for most stores. Nothing is sent, and
        nothing is checked: the credentials may run out before. Raises `UnsupportedError` for a
        store that is not S3, or unsigned.
        https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
        """
        return run_to_end(
            self._operations.presign(self._context(), key, method, expires, options=options)
        )

    def delete_block(self, key: str, *, if_match: str | None = None) -> None:
        """Delete the block; no error when it is absent.

        With `if_match` deletes only the block that has that ETag, as `BlockInfo.etag` has it:
        raises `PreconditionFailedError` when there is another, `BlockNotFoundError` when there is
        none, and `UnsupportedError` for a service that ignores the condition; nothing is deleted
        then. A `TransportError` says that replies were lost, and that it may have been deleted.
        https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-deletes.html
        """
        return run_to_end(self._operations.delete_block(self._context(), key, if_match=if_match))

    def delete_blocks(self, keys: Iterable[str], *, raise_on_failure: bool = True) -> DeleteResult:
        """Delete many blocks, in batches, and say what became of each key.

        Raises `PartialDeleteError` when any could not be deleted, after all were tried; its
        `result` is what is returned where `raise_on_failure` is False.
        https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
        """
        return self._run_many(
            partial(self._operations.delete_blocks, raise_on_failure=raise_on_failure), keys
        )

    def delete_by_prefix(
        self,
        prefix: str,
        *,
        literal: bool = False,
        dry_run: bool = False,
        raise_on_failure: bool = True,
    ) -> DeleteResult:
        """Delete the block or content `prefix` and all below `prefix/`, not `prefix0/a`.

        Manifests go before the blocks of their contents. With `literal`, every key that begins with
        `prefix` instead; the empty prefix needs it. With `dry_run` nothing is deleted, and
        `deleted` holds what would be. Failures are raised, or not, as by `delete_blocks`.
        """
        return self._run_many(
            partial(
                self._operations.delete_by_prefix,
                literal=literal,
                dry_run=dry_run,
                raise_on_failure=raise_on_failure,
            ),
            prefix,
        )

    def list_by_prefix(self, prefix: str = "") -> list[str]:
        """The keys that begin with the literal `prefix`, in the order of their UTF-8 bytes.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
        """
        return run_to_end(self._operations.list_by_prefix(self._context(), prefix))

    def list_folder(self, prefix: str = "") -> FolderListing:
        """What lies directly in the folder `prefix`, or in the store: its blocks and its folders.

        `share1` and `share1/` are the same folder. A thousand entries a request, whatever lies
        below them.
        """
        return run_to_end(self._operations.list_folder(self._context(), prefix))

    def iter_blocks(self, prefix: str = "", *, start_after: str = "") -> PageIterator[BlockInfo]:
        """The blocks whose keys begin with the literal `prefix`, fetched page by page.

        With `start_after`, those whose keys come after that one in the order of their UTF-8 bytes.

        A step that raises leaves the iterator where it was: the next one tries again. A deadline
        is that of each step.
        """
        return PageIterator(
            self._operations.pages(prefix, start_after),
            lambda fetch: run_to_end(fetch(self._context())),
        )

    def verify_by_prefix(
        self, prefix: str = "", *, progress: Progress | None = None
    ) -> VerifyReport:
        """Read every block whose key begins with the literal `prefix`, and report the damaged.

        A block is verified against its page checksums, else to the checksum that the service keeps,
        else to an ETag that is an MD5; in a folder or in memory there are none. Many blocks are
        read at once, `in_flight` bytes at most (64 MiB) or a single one. Raises what a listing
        does. `progress` is called with the bytes done so far.
        """
        return self._run_many(partial(self._verifier.verify_by_prefix, progress=progress), prefix)

    def pending(self) -> list[StagedBlock]:
        """The blocks that a cache in write-back mode has not uploaded yet, the oldest first.

        Those of all processes that share its folder. Raises `LocalStorageError`.
        """
        return run_to_end(self._operations.pending(self._context()))

    def drain(self, timeout: float | None = None) -> list[StagedBlock]:
        """Upload what a cache in write-back mode has not uploaded yet; returns what is left.

        That is empty once the store has every block that was written before this call, by any
        process that shares the folder. It tries for `timeout` seconds, at most for the client's
        deadline; without either until each block was uploaded or refused. Raises
        `LocalStorageError`.
        """
        return self._run_many(self._operations.drain, timeout)

    def health_check(self) -> HealthReport:
        """Show that the bucket or folder can be used now; the typed error says why it can't."""
        return run_to_end(self._operations.health_check(self._context()))

    def write_object(
        self,
        key: str,
        source: ContentSource,
        *,
        part_size: int = PART_SIZE,
        options: PutOptions | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        concurrency: int | None = None,
        progress: Progress | None = None,
    ) -> BlockInfo:
        """Store what `source` holds as one object under `key`, of any size up to `MAX_OBJECT_SIZE`.

        `source` is a path, a buffer, a file open for reading bytes (from its position on) or an
        iterable of buffers. What fits in one part of `part_size` bytes (8 MiB, 5 MiB at least) is
        written as `write_block` writes; else the parts are sent while the source is read,
        `concurrency` of them at a time (as many as fit in 64 MiB), and put together at the end in
        one step: readers see the old object or the new one, whole. Memory for so many parts is
        used; they are larger where there would be more than 10,000. After a failure the parts that
        were sent are given up, and what was there before stays. `progress` is called with the bytes
        done so far.

        `if_absent`, `if_match` and `options` are as for `write_block`, and so are the errors;
        `OutcomeUnknownError` when replies were lost and it can't be told whether the object was put
        in place, `LocalStorageError` when the file at a path can't be read, `BlockTooLargeError`.
        https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
        """
        write = partial(
            self._objects.write_object,
            source=source,
            part_size=part_size,
            options=options,
            if_absent=if_absent,
            if_match=if_match,
            concurrency=concurrency,
            progress=progress,
        )
        return self._run_many(write, key)

    def read_object_into(
        self,
        key: str,
        target: ContentTarget,
        *,
        offset: int = 0,
        length: int | None = None,
        part_size: int = PART_SIZE,
        if_match: str | None = None,
        concurrency: int | None = None,
        progress: Progress | None = None,
    ) -> BlockInfo:
        """Read an object of any size, or a range of it, into a file; returns what object it was.

        `target` is a path, where the file appears (or is replaced) only when it is whole, or a
        file open for writing bytes, which is written in order. What is no longer than `part_size`
        (8 MiB; 64 KiB to 1 GiB) takes one request; else the rest is read in parts of the same
        version, `concurrency` of them at a time (as many as fit in 64 MiB), which are verified as
        ranges of a block are. `progress` is called with the bytes done so far.

        `if_match` is as for `read_block_with_info`. Raises `BlockNotFoundError`;
        `InvalidRangeError` when `offset` is at or past the end (but 0 is always in range);
        `PreconditionFailedError` when the object is replaced while it is read: into a file at a
        path it is read once more before, unless `if_match` is given; `IntegrityError`; and
        `LocalStorageError` when the file at a path can't be written.
        """
        read = partial(
            self._object_reader.read_object_into,
            target=target,
            offset=offset,
            length=length,
            part_size=part_size,
            if_match=if_match,
            concurrency=concurrency,
            progress=progress,
        )
        return self._run_many(read, key)

    def iter_object(
        self,
        key: str,
        offset: int = 0,
        length: int | None = None,
        *,
        part_size: int = PART_SIZE,
        if_match: str | None = None,
    ) -> PageIterator[bytes]:
        """The bytes of an object of any size, or of a range of it, part by part.

        Read ahead as by `iter_content`, in parts of one version. A step raises what
        `read_object_into` does, and leaves the iterator where it was: the next one tries again, and
        gives the next bytes of the version that the first step found, or raises. A deadline is that
        of each step.
        """
        fetch, window = self._object_reader.blocks(key, offset, length, part_size, if_match)
        return self._iterator(fetch, window.stop)

    def write_content(
        self,
        content_id: str,
        source: ContentSource,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        block_size: int | None = None,
        chunk_blocks: int | None = None,
        content_type: str = "",
        modified: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
        options: PutOptions | None = None,
        progress: Progress | None = None,
    ) -> ContentInfo:
        """Store what `source` holds as the content `content_id`, replacing the one that was there.

        `source` is a path, a buffer, a file open for reading bytes (from its position on) or an
        iterable of buffers. It is stored in blocks of `block_size` bytes (4 MiB), `chunk_blocks` of
        them (16; up to 10,000) below each `chunk-C`, and a manifest that names them is put in place
        in one step: readers see the old content or the new one, whole, however the write ends. Up
        to 64 KiB are kept in the manifest itself: one request.
        Memory for as many blocks as may be in flight is used, however long the source is.
        `progress` is called with the bytes done so far.

        With `if_absent`, raises `ContentExistsError` where there is a content; with `if_match`, a
        `ContentInfo.version`, `ContentChangedError` where there is another, or none.
        `content_type` (up to 1,024 characters of printable ASCII), `modified` and `metadata` (up to
        8 KiB of JSON) are kept with it: see `stat_content`. `options` say how its blocks and its
        manifest are stored: encryption, storage class, ACL and tags, and nothing else; raises
        `ValueError` for others, and `UnsupportedError` as `write_block` does.

        Raises `LocalStorageError` when the file at a path can't be read, `UnsupportedError` for a
        condition where the service ignores those, and `OutcomeUnknownError` when replies were lost
        and it can't be told whether the content was replaced.
        """
        writer = self._writer
        from blockyard.content.write_options import WriteOptions  # noqa: PLC0415 - imported with it

        said = WriteOptions(
            if_absent, if_match, block_size, chunk_blocks, content_type, modified, metadata, options
        )
        write = partial(writer.write_content, source=source, progress=progress, options=said)
        return self._run_many(write, content_id)

    def read_content(self, content_id: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes of the content from `offset`, to its end when None, clamped there.

        Reads only the blocks that the range touches, several at once. Raises
        `BlockNotFoundError` when there is no such content; `InvalidRangeError` when `offset` is
        at or past the end (but 0 is always in range); `IntegrityError` when a block is missing or
        not as it was written; `ContentReplacedError` when the content is replaced again and again.
        """
        return self._run_many(
            partial(self._reader.read_content, offset=offset, length=length), content_id
        )

    def read_content_into(
        self,
        content_id: str,
        target: ContentTarget,
        *,
        offset: int = 0,
        length: int | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Read a content, or a range of it, into a file, and return how many bytes that were.

        `target` is a path, where the file appears (or is replaced) only when it is whole, or a
        file open for writing bytes, which is written in order. Raises what `read_content` does,
        and `LocalStorageError` when the file at a path can't be written. `progress` is called
        with the bytes done so far.
        """
        return self._run_many(
            partial(
                self._reader.read_content_into,
                target=target,
                offset=offset,
                length=length,
                progress=progress,
            ),
            content_id,
        )

    def iter_content(
        self, content_id: str, offset: int = 0, length: int | None = None
    ) -> PageIterator[bytes]:
        """The bytes of a content, or of a range of it, block by block.

        While your code works on one, the next are read: one, then two, four, up to `in_flight`
        bytes and `concurrency` blocks, until the iterator is closed or dropped. A step raises what
        `read_content` does, and leaves the iterator where it was: the next one tries again, and
        gives the next bytes of the content that the first step found, or raises. A deadline is that
        of each step.
        """
        fetch, window = self._reader.blocks(content_id, offset, length)
        return self._iterator(fetch, window.stop)

    def open_content(self, content_id: str) -> BufferedReader:
        """The content as a file open for reading bytes, seekable and buffered.

        Read in order it is read ahead, more and more, until it is closed or dropped; little is
        after a seek, and nothing where reads jump about. It reads the version that was there when
        it was opened; once that is deleted, some minutes after it was replaced, the next read
        raises `ContentReplacedError`. Raises what `read_content` does. Close the file before the
        store.
        """
        reader = self._reader
        from blockyard.content import files  # noqa: PLC0415 - imported with it

        layout = run_to_end(reader.layout(self._context(), content_id, "open_content"))
        cursor = files.Cursor(reader, layout)
        raw = files.RawContentFile(cursor, partial(self._run_many, cursor.fetch))
        return BufferedReader(raw, files.FIRST_WINDOW)

    def stat_content(self, content_id: str) -> ContentInfo:
        """What is known of the content: size, version, checksum, and what its writer said of it.

        One request; raises what `read_content` does. Contents in the plain layout are listed.
        """
        return run_to_end(self._reader.stat_content(self._context(), content_id))

    def content_exists(self, content_id: str) -> bool:
        """Whether there is a content of that id: its manifest, or block 0 in the plain layout."""
        return run_to_end(self._reader.content_exists(self._context(), content_id))

    def list_contents(self, prefix: str = "") -> list[ContentEntry]:
        """The contents whose ids begin with the literal `prefix`, in the order of their UTF-8.

        Each with the time when it was stored; `stat_content` tells more. One request for every
        thousand contents of a folder, and one for each that has blocks, however many.
        """
        return self._run_many(self._reader.list_contents, prefix)

    def copy_content(
        self, source_id: str, target_id: str, *, progress: Progress | None = None
    ) -> ContentInfo:
        """Copy a content inside the service, replacing the target in one step.

        Raises what `read_content` does of the source, and `OutcomeUnknownError`.
        """
        return self._run_many(
            partial(self._writer.copy_content, target_id=target_id, progress=progress), source_id
        )

    def delete_content(self, content_id: str) -> None:
        """Delete the content in one step, then its blocks; no error when it is absent.

        A tombstone of some hundred bytes may be left for a while: `clean_contents` removes it.
        Raises `PartialDeleteError` when some blocks could not be deleted, and
        `OutcomeUnknownError`.
        """
        return self._run_many(self._writer.delete_content, content_id)

    def adopt_content(self, content_id: str) -> ContentInfo:
        """Give a content in the plain layout, which another system wrote, a manifest.

        Its blocks stay where they are. One that has a manifest is left as it is. Raises what
        `read_content` does, and `ContentExistsError` when it was given one meanwhile.
        """
        return self._run_many(self._cleaner.adopt_content, content_id)

    def clean_contents(
        self, prefix: str = "", *, dry_run: bool = True, no_writers: bool = False
    ) -> CleanReport:
        """Remove what is left of contents whose ids begin with the literal `prefix`.

        Blocks of writes that were killed, a day old at least; generations that were replaced half
        an hour ago; tombstones ten minutes old; parts of objects whose keys begin so, of uploads
        that began a day ago and were never completed. With `dry_run` it only tells what would be
        removed. `no_writers` promises that nobody writes there, and nobody reads what was replaced:
        then age is no matter.
        """
        clean = partial(self._cleaner.clean_contents, dry_run=dry_run, no_writers=no_writers)
        return self._run_many(clean, prefix)

    def close(self) -> None:
        """Close the store and its connections. Later calls raise `StoreClosedError`.

        So do calls of many blocks and of contents that are under way. They first take back what
        they wrote, or finish the replacement of a content, for 10 s at most: a note on the error
        says what they had to leave.
        """
        self._operations.refuse_more()
        try:
            self._bulk.close()
        finally:
            self._runtime.close()
            self._operations.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_many(self, read: BulkRead) -> list[bytes]:
        answered = read.answered()
        if answered is not None:
            return answered
        return self._run_many(lambda ctx, read: read.complete(ctx), read)

    def _iterator(self, fetch: Fetch[Item], stop: Callable[[], None]) -> PageIterator[Item]:
        """An iterator over pages; `stop` ends its read-ahead."""
        return PageIterator(
            fetch, lambda fetch: self._run_many(lambda ctx, fetch: fetch(ctx), fetch), stop
        )

    def _run_many(
        self, operation: Callable[[Context, Item], Coroutine[Any, Any, Result]], item: Item
    ) -> Result:
        bulk = self._bulk.get()
        return bulk.run(operation, item, self._deadline, self._concurrency, self._cache)
