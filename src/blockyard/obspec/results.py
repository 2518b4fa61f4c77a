"""What a get gives: the first bytes at once, the others when they are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

from obspec import Attributes, GetOptions, ObjectMeta
from obspec import exceptions as obspec_errors

from blockyard.aio import AsyncBlockStore
from blockyard.buffer import Buffer
from blockyard.model import MIB, BlockInfo
from blockyard.obspec.values import length_of, meta_of, one_etag, translated
from blockyard.stores.base import ReadRequest
from blockyard.stores.checks import check_conditions
from blockyard.sync import BlockStore

PIECE = 8 * MIB
"""Bytes of an object that a get fetches before they are asked for, and at a time."""
Conditions = dict[str, Any]


class Wanted:
    """What a get is to give: a range, and the conditions that the object is to meet."""

    def __init__(self, path: str, options: GetOptions | None) -> None:
        given = dict(options or {})
        self.path = path
        self.head = bool(given.pop("head", False))
        self.start, self.stop = 0, cast("int | None", None)
        self.conditions: Conditions = {}
        match given.pop("range", None):
            case None:
                pass
            case {"offset": int(offset)}:
                self.start = offset
            case {"suffix": int(suffix)}:
                self.conditions["suffix"] = suffix
            case (int(start), int(stop)):
                self.start, self.stop = start, start + length_of("get", start, stop, None)
            case other:
                raise TypeError(f"get: range: expected (start, end), offset or suffix, got {other}")
        for name in ("if_match", "if_none_match"):
            value = given.pop(name, None)
            if value is not None:
                self.conditions[name] = one_etag(name, cast("str", value))
        for name, value in given.items():
            if value is not None:
                raise obspec_errors.NotSupportedError(f"get: {name} is not supported")

    @property
    def whole(self) -> bool:
        """Whether all of the object is wanted, which may be nothing."""
        return self.start == 0 and self.stop is None and "suffix" not in self.conditions

    def check(self, info: BlockInfo) -> None:
        """Raise the error for a version that the conditions refuse."""
        request = ReadRequest(self.path, operation="get")
        request.if_match = self.conditions.get("if_match")
        request.if_none_match = self.conditions.get("if_none_match")
        check_conditions(request, info.etag)

    @property
    def first_length(self) -> int | None:
        """How many bytes the first request asks for."""
        if "suffix" in self.conditions:
            return None
        return PIECE if self.stop is None else min(self.stop - self.start, PIECE)


class _Got:
    """An object as a get found it, and the bytes that came with it."""

    def __init__(self, wanted: Wanted, info: BlockInfo, data: bytes) -> None:
        self._path = wanted.path
        self._info = info
        self._data = data
        suffix = wanted.conditions.get("suffix")
        start = wanted.start if suffix is None else info.size - len(data)
        stop = info.size if wanted.stop is None else min(wanted.stop, info.size)
        self._range = (0, 0) if wanted.head else (start, stop)

    @property
    def attributes(self) -> Attributes:
        """Content type and metadata. Bytes that came through a cache have none: `head` tells."""
        kind = {"Content-Type": self._info.content_type} if self._info.content_type else {}
        return {**kind, **(self._info.metadata or {})}

    @property
    def meta(self) -> ObjectMeta:
        """Size, ETag and time of the object."""
        return meta_of(self._info)

    @property
    def range(self) -> tuple[int, int]:
        """The first byte, and the one after the last."""
        return self._range

    def _rest(self) -> Iterator[tuple[int, int]]:
        """Offset and length of what is still to be read."""
        start, stop = self._range
        for offset in range(start + len(self._data), stop, PIECE):
            yield offset, min(PIECE, stop - offset)


class GetResult(_Got):
    """See `obspec.GetResult`. A replaced object is a `PreconditionError` in its middle."""

    def __init__(self, store: BlockStore, wanted: Wanted, info: BlockInfo, data: bytes) -> None:
        super().__init__(wanted, info, data)
        self._store = store

    def buffer(self) -> Buffer:
        """All bytes."""
        pieces = [*self]
        return pieces[0] if len(pieces) == 1 else b"".join(map(bytes, pieces))

    def __iter__(self) -> Iterator[Buffer]:
        if self._data:
            yield self._data
        for offset, length in self._rest():
            with translated():
                piece, _ = self._store.read_block_with_info(
                    self._path, offset, length, if_match=self._info.etag
                )
            yield piece


class GetResultAsync(_Got):
    """See `obspec.GetResultAsync`, and `GetResult`."""

    def __init__(
        self, store: AsyncBlockStore, wanted: Wanted, info: BlockInfo, data: bytes
    ) -> None:
        super().__init__(wanted, info, data)
        self._store = store

    async def buffer_async(self) -> Buffer:
        """All bytes."""
        pieces = [piece async for piece in self]
        return pieces[0] if len(pieces) == 1 else b"".join(map(bytes, pieces))

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        if self._data:
            yield self._data
        for offset, length in self._rest():
            with translated():
                piece, _ = await self._store.read_block_with_info(
                    self._path, offset, length, if_match=self._info.etag
                )
            yield piece
