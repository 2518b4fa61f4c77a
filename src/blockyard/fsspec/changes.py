"""Files copied, moved and deleted: inside the service where it can."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

from blockyard.errors import BlockNotFoundError, BlockStoreError, PreconditionFailedError
from blockyard.fsspec import blocking
from blockyard.fsspec.base import missing, translated
from blockyard.fsspec.files import Entry
from blockyard.fsspec.stores import Place
from blockyard.fsspec.transfers import Transfers
from blockyard.fsspec.untyped import stringify_path

_Pair = tuple[str, str]
"""What is copied, and where to."""
_NOTED = 20
"""Errors that are told beside the first one."""


class _Copied(NamedTuple):
    """A file that is moved, as it was just before it was copied."""

    place: Place
    seen: Entry


class Changes(Transfers):
    """`cp`, `mv`, `rm` and their kin."""

    async def _copy(  # noqa: PLR0917 - fsspec's signature
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        on_error: str | None = None,
        maxdepth: int | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        """As fsspec's, but refuses copies of which one would overwrite the source of another."""
        planned: list[_Pair] = []
        among_all = self._is_all(path2)
        path1, path2 = await self._named(path1, "" if among_all else path2, self._isdir)
        await super()._copy(path1, path2, recursive=recursive, maxdepth=maxdepth, planned=planned)
        if among_all and not path2:
            planned = [(source, target[1:]) for source, target in planned if target]
        await self._check_apart(planned)
        copies = [self._cp_file(*pair, **options) for pair in planned]
        sources = [source for source, _ in planned]
        ignored = on_error == "ignore" or (on_error is None and recursive)
        _raise_first(
            zip(
                sources,
                await self._chunked(copies, batch_size, return_exceptions=True, nofiles=True),
                strict=True,
            ),
            but=FileNotFoundError if ignored else (),
        )

    async def _check_apart(self, pairs: list[_Pair]) -> None:
        """Raise `ValueError` if files are copied to where another is copied from, or to."""
        clashing = _clashing(pairs)
        if not clashing:
            return
        targets = {target for _, target in clashing}
        suspects = [pair for pair in pairs if not targets.isdisjoint(pair)]
        files = [pair for pair in suspects if await self._file(pair[0]) is not None]
        for source, target in _clashing(files):  # folders may well be both
            raise ValueError(
                f"copy: {source!r} to {target!r}: another file is copied from there, or to it"
            )

    async def _cp_file(
        self,
        path1: str,
        path2: str,
        moved: list[_Copied] | None = None,
        markers: bool = False,
        planned: list[_Pair] | None = None,
        **_: Any,
    ) -> None:
        """Copy a file: inside the service, or between two buckets through this machine."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if planned is not None:  # of many, which are looked at before the first is copied
            planned.append((path1, path2))
            return
        if moved is not None and path1 == path2:
            return
        source, target = self._stores.place(path1), self._stores.place(path2)
        try:
            with translated(path1), self._changing(path2):
                if moved is None:
                    await _copy_across(source, target)
                else:
                    moved.append(await _copied(source, target))
        except FileNotFoundError:
            if await self._folder(path1) is None:
                raise
            if markers and moved is not None:
                await self._copy_marker(path1, path2, moved)

    async def _mv(
        self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None
    ) -> None:
        """Copy all, then delete what was copied: nothing that came into the folder meanwhile.

        Other tools mark a folder by an empty object, whose key ends with a slash: it goes along.
        """
        self._check_named("mv", path1)
        if self._strip_protocol(path1) == self._strip_protocol(path2):
            return
        moved: list[_Copied] = []
        try:
            await self._copy(
                path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise",
                moved=moved, markers=recursive,
            )  # fmt: skip
        except BlockStoreError as error:
            error.add_note("mv: nothing was deleted")
            raise
        deletes = [self._delete_copied(copied) for copied in moved]
        paths = [copied.place.base + copied.place.name for copied in moved]
        _raise_first(
            zip(paths, await self._chunked(deletes, return_exceptions=True), strict=True),
            "mv: all files were copied",
        )

    async def _copy_marker(self, folder: str, to: str, moved: list[_Copied]) -> None:
        """Copy the marker of a folder, if it has one."""
        source, target = self._stores.place(f"{folder}/"), self._stores.place(f"{to}/")
        if not source.files.have_markers:
            return
        with suppress(BlockNotFoundError), self._changing(to):
            moved.append(await _copied(source, target))

    async def _delete_copied(self, copied: _Copied) -> None:
        """Delete what was copied, and no version of it that has come since."""
        place = copied.place
        with self._changing(place.base + place.name):
            try:
                await place.files.delete_copied(copied.seen)
            except PreconditionFailedError as error:
                error.add_note(
                    f"mv: {place.base + place.name!r} was copied, and replaced since: what is "
                    "there now stays"
                )
                raise

    def mv(
        self,
        path1: str,
        path2: str,
        recursive: bool = False,
        maxdepth: int | None = None,
        **_: Any,
    ) -> None:
        """Move files: each is copied inside the service; then those are deleted."""
        blocking.run(self.loop, self._mv, path1, path2, recursive, maxdepth)

    async def _mv_file(self, path1: str, path2: str) -> None:
        await self._mv(path1, path2)

    async def _rm_file(self, path: str, **_: Any) -> None:
        await self._delete([self._strip_protocol(path)])

    async def _rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **ignored: Any,
    ) -> None:
        """Delete files, and with `recursive` what is in folders: a thousand keys a request."""
        self._check_named("rm", path)
        paths: list[str] = await self._expand_path(
            path, recursive=recursive and maxdepth is not None, maxdepth=maxdepth
        )
        if not recursive or maxdepth is not None:
            await self._delete(paths)
            return
        trees = _outermost(paths)
        calls = [self._rm_tree(each) for each in trees]
        _raise_first(
            zip(trees, await self._chunked(calls, batch_size, return_exceptions=True), strict=True)
        )

    def _check_named(self, operation: str, paths: Any) -> None:
        """Raise `ValueError` for a folder without a name: its path is that of another one."""
        given = cast("list[Any]", paths if isinstance(paths, list) else [paths])
        for path in given:
            name = stringify_path(path).removeprefix(f"{self.protocol}://")
            if name == "/" or name.endswith("//"):
                raise ValueError(
                    f"{operation} {path!r}: a folder without a name can't be told from the one "
                    "that it lies in: give the paths of what is in it, or that one's"
                )

    async def _rm_tree(self, path: str) -> None:
        """Delete a file, and all that is below its name."""
        place = self._stores.place(path)
        is_file = await self._file(path) is not None
        with self._changing(path, below=True):
            if is_file:
                await place.files.delete([place.name])
            if not await place.files.delete_below(place.folder) and not is_file:
                raise missing(path)

    async def _delete(self, paths: Iterable[str]) -> None:
        """Delete files: no error where there is none."""
        by_store: dict[int, list[Place]] = {}
        for path in paths:
            place = self._stores.place(path)
            by_store.setdefault(id(place.files), []).append(place)
        failed: list[tuple[str, BlockStoreError]] = []
        for places in by_store.values():
            try:
                await places[0].files.delete([place.name for place in places])
            except BlockStoreError as error:
                failed.append((places[0].base, error))
            finally:
                for place in places:
                    self._infos.forget(place.base + place.name)
        try:
            _raise_first(failed)
        finally:
            del failed  # which the traceback of one of them refers to, by way of this frame

    def touch(self, path: str, truncate: bool = True, **options: Any) -> None:
        """Store an empty file; without `truncate` only where none is.

        Raises `NotImplementedError` for one that is to be left as it is: its time can't be changed.
        """
        try:
            with self.open(path, "wb" if truncate else "xb", **options):
                pass
        except FileExistsError as error:
            raise NotImplementedError(f"touch {path!r}: stores change no times alone") from error

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """There are no folders to be made: raises `FileExistsError` as told, and does nothing."""
        path = self._strip_protocol(path)
        if not exist_ok and await self._exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


async def _copy_across(source: Place, target: Place) -> None:
    if source.files is target.files:
        await source.files.copy(source.name, target.name)
    else:
        options, version = await source.files.carried(source.name)
        pieces = source.files.pieces(source.name, version)
        await target.files.write(target.name, pieces, False, **options)


async def _copied(source: Place, target: Place) -> _Copied:
    """Copy a file that is to be deleted then."""
    seen = await source.files.stat(source.name)
    await _copy_across(source, target)
    return _Copied(source, seen)


def _raise_first(
    ended: Iterable[tuple[str, object]],
    *notes: str,
    but: type[Exception] | tuple[()] = (),
) -> None:
    """Raise the first error of several calls, of which the others are noted: what is left.

    Those of the kind `but` are none. What the calls gave is to be in no variable of the caller's,
    to which the error's traceback refers.
    """
    first = _first_of(
        [
            (path, each)
            for path, each in ended
            if isinstance(each, BaseException) and not isinstance(each, but)
        ],
        notes,
    )
    try:
        if first is not None:
            raise first
    finally:
        del first, ended


def _first_of(
    errors: list[tuple[str, BaseException]], notes: Iterable[str]
) -> BaseException | None:
    if not errors:
        return None
    (_, first), *others = errors
    for note in notes:
        first.add_note(note)
    for path, error in others[:_NOTED]:
        first.add_note(f"and {path!r}: {error}")
    if len(others) > _NOTED:
        first.add_note(f"and {len(others) - _NOTED} others")
    return first


def _outermost(paths: Sequence[str]) -> list[str]:
    """The paths that lie below none of the others: `**` finds folders and what is in them."""
    known = set(paths)

    def is_below(path: str) -> bool:
        parts = path.split("/")
        above = ("/".join(parts[:count]) for count in range(1, len(parts)))
        return any(each in known for each in above)

    return [path for path in dict.fromkeys(paths) if not is_below(path)]


def _clashing(pairs: Iterable[_Pair]) -> list[_Pair]:
    """The copies whose result depends on the order in which they are made."""
    pairs = list(dict.fromkeys(pairs))
    sources, times = {source for source, _ in pairs}, Counter(target for _, target in pairs)
    return [
        (source, target)
        for source, target in pairs
        if source != target and (target in sources or times[target] > 1)
    ]
