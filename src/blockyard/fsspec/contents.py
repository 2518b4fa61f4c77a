"""Contents as files: each under its id, whatever blocks it takes."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any

from blockyard.aio import AsyncBlockStore
from blockyard.buffer import Buffer
from blockyard.content.files import AsyncContentFile
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    InvalidRangeError,
    PreconditionFailedError,
    StoreClosedError,
    UnsupportedError,
)
from blockyard.fsspec.files import PIECE, Entry, Folder
from blockyard.model import DeleteResult


class ContentFiles:
    """The contents of a store. See `Files`; a listing tells no sizes."""

    have_markers = False
    takes = frozenset({
        "if_match", "block_size", "chunk_blocks", "content_type", "modified", "metadata", "options",
    })  # fmt: skip

    def __init__(self, store: AsyncBlockStore) -> None:
        self._store = store

    async def stat(self, name: str) -> Entry:
        info = await self._store.stat_content(name)
        return Entry(name, info.size, info.version, info.last_modified)

    async def read(self, name: str) -> bytes:
        return await self._store.read_content(name)

    async def read_range(
        self, name: str, offset: int, length: int, version: str = ""
    ) -> tuple[bytes, str]:
        if version:
            file, version = await self.open(name, version)
            async with file:
                _ = await file.seek(offset)
                return await file.read(length), version
        try:
            return await self._store.read_content(name, offset, length), version
        except InvalidRangeError:  # past its end
            return b"", version

    async def read_suffix(self, name: str, length: int) -> bytes:
        file, _ = await self.open(name)  # so that its size and its bytes are of one version
        async with file:
            _ = await file.seek(max(0, file.size - length))
            return await file.read()

    async def carried(self, name: str) -> tuple[dict[str, Any], str]:
        info = await self._store.stat_content(name)
        options = {
            "content_type": info.content_type,
            "metadata": info.metadata,
            "modified": info.modified,
        }
        return options, info.version

    async def pieces(self, name: str, version: str = "") -> AsyncIterator[bytes]:
        file, _ = await self.open(name, version)
        async with file:
            while True:
                piece = await file.read(PIECE)
                if not piece:
                    return
                yield piece

    async def open(self, name: str, version: str = "") -> tuple[AsyncContentFile, str]:
        """A content open for reading, and its version: `version`, if that is given."""
        file = await self._store.open_content(name)
        layout = file._cursor._layout  # pyright: ignore[reportPrivateUsage]
        info = layout.info
        now = info.version or f"{info.size} bytes of {info.last_modified}"  # of the plain layout
        if version not in {"", now}:
            file.stop()
            raise layout.replaced()
        return file, now

    async def download(self, name: str, path: str, callback: Any) -> None:
        _ = await self._store.read_content_into(name, path, progress=callback.absolute_update)

    async def write(
        self, name: str, data: Buffer | AsyncIterable[Buffer], if_absent: bool, **options: Any
    ) -> None:
        _ = await self._store.write_content(name, data, if_absent=if_absent, **options)

    async def upload(
        self, name: str, path: str, if_absent: bool, callback: Any, **options: Any
    ) -> None:
        _ = await self._store.write_content(
            name, path, if_absent=if_absent, progress=callback.absolute_update, **options
        )

    async def signed_url(self, name: str, seconds: float) -> str:
        raise UnsupportedError(f"sign {name!r}: a content is several objects, of a URL each")

    async def copy(self, name: str, to: str) -> None:
        _ = await self._store.copy_content(name, to)

    async def delete(self, names: Sequence[str]) -> None:
        if len(names) == 1:
            await self._store.delete_content(names[0])
            return
        deleted, failed = list[str](), dict[str, BlockStoreError]()
        for name in names:
            try:
                await self._store.delete_content(name)
            except (StoreClosedError, DeadlineExceededError):
                raise
            except BlockStoreError as error:
                failed[name] = error
            else:
                deleted.append(name)
        DeleteResult(deleted, failed).raise_for_failures()

    async def delete_copied(self, copied: Entry) -> None:
        try:
            now = await self.stat(copied.name)
        except BlockNotFoundError:
            return
        if now != copied:
            raise PreconditionFailedError(f"delete_content {copied.name!r}: it has been replaced")
        await self._store.delete_content(copied.name)

    async def delete_below(self, prefix: str) -> bool:
        names = [entry.name for entry in await self.below(prefix)]
        await self.delete(names)
        return bool(names)

    async def exist_below(self, prefix: str) -> bool:
        return bool(await self._store.list_contents(prefix))

    async def folder(self, prefix: str) -> Folder:
        entries = await self.below(prefix)
        files = [entry for entry in entries if "/" not in entry.name[len(prefix) :]]
        folders = [
            prefix + entry.name[len(prefix) :].partition("/")[0]
            for entry in entries
            if "/" in entry.name[len(prefix) :]
        ]
        return Folder(files, [*dict.fromkeys(folders)])

    async def below(self, prefix: str) -> Sequence[Entry]:
        found = await self._store.list_contents(prefix)
        return [Entry(entry.content_id, None, modified=entry.last_modified) for entry in found]
