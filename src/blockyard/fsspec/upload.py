"""The upload behind a file open for writing: pieces are collected, and sent by a task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from blockyard.buffer import Buffer
from blockyard.model import MIB
from blockyard.stores.base import Data
from blockyard.transport.memory import receivable

_PIECES_WAITING = 1
"""Pieces that may wait to be sent while the next one is collected."""
_LARGE = 1 * MIB
"""Up to this size the buffer grows with its bytes, so that small files take little memory."""

Write = Callable[[Buffer | AsyncIterator[Data]], Coroutine[Any, Any, None]]


class PieceBuffer:
    """Collects what is written into a piece of up to `most` bytes.

    Bytes are copied at once, while they are in the processor's cache: the program can reuse its
    memory, where keeping references would take as much again. Above `_LARGE` bytes the memory of a
    full piece is allocated as a whole, so that nothing has to be joined in the end.
    """

    def __init__(self, most: int) -> None:
        self.size = 0
        self._most = most
        self._begun = bytearray()
        self._large: tuple[bytes, memoryview] | None = None
        """The piece as a whole, and the places of its bytes."""

    def add(self, data: memoryview) -> None:
        """Add all of `data`, for which there has to be room.

        Atomic: where a signal handler raises, `size` is unchanged, and the next `add` overwrites
        what was copied.
        """
        size = self.size + len(data)
        if self._large is None and size > _LARGE:
            whole, places = receivable(self._most)
            places[: self.size] = memoryview(self._begun)[: self.size]
            self._large = whole, places
            self._begun = bytearray()
        if self._large is None:
            del self._begun[self.size :]
            self._begun += data
        else:
            self._large[1][self.size : size] = data
        self.size = size

    def take(self) -> Data:
        """Return the piece, as immutable bytes, and begin an empty one."""
        if self._large is None:
            taken: Data = bytes(memoryview(self._begun)[: self.size])
        else:
            whole, places = self._large
            taken = whole if self.size == self._most else bytes(places[: self.size])
        self._begun, self._large, self.size = bytearray(), None, 0
        return taken


class Upload:
    """A task that writes a file from pieces that are handed to it.

    Made and used on an event loop, except for `offer`.
    """

    def __init__(self, write: Write) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces = deque[Data | None]()
        self._piece_added, self._piece_taken = asyncio.Event(), asyncio.Event()
        self.task = asyncio.ensure_future(write(self._taken()))

    def offer(self, piece: Data) -> bool:
        """Hand over a piece from another thread; False if it would have to wait.

        Saves the writing program from waiting for a turn of the event loop.
        """
        if len(self._pieces) >= _PIECES_WAITING or self.task.done():
            return False
        self._pieces.append(piece)
        _ = self._loop.call_soon_threadsafe(self._piece_added.set)
        return True

    async def feed(self, piece: Data | None) -> None:
        """Hand over a piece when there is room; None ends the file. Raises what ended the write."""
        while len(self._pieces) >= _PIECES_WAITING and not self.task.done():
            self._piece_taken.clear()
            room = asyncio.ensure_future(self._piece_taken.wait())
            try:
                _ = await asyncio.wait({room, self.task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                _ = room.cancel()
        if self.task.done():
            await self.task
        self._pieces.append(piece)
        self._piece_added.set()

    async def finish(self) -> None:
        """End the file, and wait until it is stored."""
        await self.feed(None)
        await self.task

    async def abort(self) -> None:
        """Cancel the write, so that nothing is stored, and wait for its end."""
        _ = self.task.cancel()
        _ = await asyncio.wait({self.task})
        if not self.task.cancelled():
            _ = self.task.exception()  # seen

    async def _taken(self) -> AsyncIterator[Data]:
        while True:
            while not self._pieces:
                self._piece_added.clear()
                if not self._pieces:  # one that came from a thread just before
                    _ = await self._piece_added.wait()
            piece = self._pieces.popleft()
            self._piece_taken.set()
            if piece is None:
                return
            yield piece
