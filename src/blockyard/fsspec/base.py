"""What every file system of ours is: the stores behind its paths, its name, and where it runs."""

from __future__ import annotations

import asyncio
import errno
import math
import os
from collections.abc import Callable, Generator
from numbers import Real
from typing import Any, ClassVar, cast

from blockyard.client import Client
from blockyard.config import StoreConfig
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    ConfigError,
    ContentExistsError,
    UnsupportedError,
)
from blockyard.fsspec import urls
from blockyard.fsspec.blocking import mirrored
from blockyard.fsspec.files import Entry, Files
from blockyard.fsspec.info_cache import InfoCache
from blockyard.fsspec.options import plain, without_secrets
from blockyard.fsspec.stores import Given, Stores
from blockyard.fsspec.tasks import as_task, together
from blockyard.fsspec.untyped import (
    AsyncFileSystem,
    Cached,
    get_loop,
    json_encoder,
    run_in_chunks,
    stringify_path,
    tokenize,
)
from blockyard.managing import contextmanager
from blockyard.stores.base import Store

Info = dict[str, Any]

REMEMBERED = 5.0
"""Seconds for which what is known of a path is given out again."""


class _Instances(Cached):
    """fsspec gives out one file system for equal arguments: told apart by their `repr`.

    That of an open store or a configuration does not tell it from others, so each of those has its
    own.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        options = plain(options)
        store = options.get("store")
        if _is_open(store) or isinstance(store, StoreConfig):
            options["skip_instance_cache"] = True
        return super().__call__(*args, **options)


@mirrored
class StoreFileSystem(AsyncFileSystem, metaclass=_Instances):
    """A file system over stores; see `BlockyardFileSystem`."""

    protocol: ClassVar[str]
    _files: ClassVar[Callable[..., Files]]

    def __init__(
        self,
        *,
        store: Given = None,
        asynchronous: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        batch_size: int | None = None,
        use_listings_cache: bool = True,
        listings_expiry_time: float | None = REMEMBERED,
        **settings: Any,
    ) -> None:
        super().__init__(asynchronous=asynchronous, loop=loop, batch_size=batch_size)
        self._stores = Stores(store, urls.named_as_ours(settings), type(self)._files)
        seconds = _expiry(listings_expiry_time)
        self._infos = InfoCache(seconds if use_listings_cache else 0.0)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in cast("list[Any]", path)]
        return urls.path_of(stringify_path(path), cls.protocol)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return urls.settings_of(path)

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        return urls.url_of(self._strip_protocol(name), self.protocol)

    @property
    def fsid(self) -> str:
        """Equal for file systems that are equal."""
        return f"{self.protocol}_{self._fs_token}"

    @property
    def _fs_token(self) -> str:
        given: Any = self.storage_options.get("store")
        if isinstance(given, StoreConfig):
            return tokenize(self._fs_token_, hash(given))
        if _is_open(given):
            return tokenize(self._fs_token_, id(getattr(given, "_operations", given)))
        return self._fs_token_

    def __reduce__(self) -> tuple[Any, ...]:
        make, (kind, args, options) = super().__reduce__()
        if self._stores.in_memory and not isinstance(options["store"], Client):
            options = {**options, "store": self._stores.given}  # else it would be an empty one
        return make, (kind, args, options)

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """What `from_dict` makes it of again, with its secrets unless they are to be left out.

        Raises `TypeError` if it was made with an open store or a configuration, `UnsupportedError`
        of a store in memory: another process would have an empty one.
        """
        store: Any = self.storage_options.get("store")
        if not isinstance(store, str | os.PathLike | None):
            raise TypeError(
                f"store: expected a URL or a path, to write the file system as JSON; got "
                f"{type(store).__name__}: pickles can have that"
            )
        if self._stores.in_memory:
            raise UnsupportedError(
                "a memory:// store is in the memory of this process, and can't be written as JSON "
                "for another one: s3:// and file:// stores can"
            )
        options = (
            self.storage_options if include_password else without_secrets(self.storage_options)
        )
        given = {name: value for name, value in options.items() if value is not None}
        kind = type(self)
        return {
            "cls": f"{kind.__module__}:{kind.__name__}",
            "protocol": self.protocol,
            "args": list[Any](),
            **json_encoder.make_serializable(given),
        }

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that calls run on: that of fsspec, in a forked child a new one."""
        if self._pid != os.getpid():
            self._loop = None if self.asynchronous else get_loop()
            self._pid = os.getpid()
        return self._loop

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what is remembered of a path and what lies below it, or of all."""
        self._infos.forget_below("" if path is None else self._strip_protocol(path))
        super().invalidate_cache(path)

    @contextmanager
    def _changing(self, path: str, *, below: bool = False) -> Generator[None]:
        """Forget what is known of a path once it was changed, or may be."""
        try:
            yield
        finally:
            if below:
                self._infos.forget_below(path)
            else:
                self._infos.forget(path)

    async def _chunked(
        self,
        calls: list[Any],
        batch_size: int | None = None,
        *,
        return_exceptions: bool = False,
        nofiles: bool = False,
    ) -> list[Any]:
        """Await many, so many at once as fsspec's settings say: more that have `nofiles` open."""
        running = run_in_chunks(
            [as_task(call) for call in calls],
            batch_size=batch_size or self.batch_size,
            return_exceptions=return_exceptions,
            nofiles=nofiles,
        )
        return await together(running)


def _expiry(given: Any) -> float:
    """Seconds; None has nothing expire, as fsspec's own caches have it. Raises `ConfigError`."""
    if given is None:
        return math.inf
    if not isinstance(given, Real) or isinstance(given, bool) or not float(given) >= 0:
        raise ConfigError(
            f"listings_expiry_time: expected seconds from 0, or None to keep all, got {given!r}"
        )
    return float(given)


def _is_open(store: object) -> bool:
    return isinstance(store, Client | Store)


def file_info(path: str, entry: Entry) -> Info:
    """What fsspec says of a file."""
    return {
        "name": path,
        "size": entry.size,
        "type": "file",
        "ETag": entry.version,
        "LastModified": entry.modified,
        "mtime": None if entry.modified is None else entry.modified.timestamp(),
    }


def folder_info(path: str) -> Info:
    """What fsspec says of a folder."""
    return {"name": path, "size": 0, "type": "directory"}


def missing(path: str) -> FileNotFoundError:
    """The error for what is not there."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


@contextmanager
def translated(path: str) -> Generator[None]:
    """Raise Python's own errors for a file that is not there, or is and should not be."""
    try:
        yield
    except BlockNotFoundError as error:
        raise missing(path) from error
    except (BlockExistsError, ContentExistsError) as error:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
