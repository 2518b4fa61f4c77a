"""Chunks and files read through Zarr and fsspec: one client in a process of its own.

`python -m bench.ecosystem.chunks PEER URL BUCKET` answers commands as `bench.worker` does. A work
is the chunks of a Zarr store, each read by the store's own method (`get` by so many tasks, or
`get_sync` one after the other), from nginx or from moto; all of a Zarr array, as programs read it;
or many files of a file system at once. One operation is one chunk or file. The peer `memory` is
Zarr's own `MemoryStore`: what Zarr takes for an array, whatever it is read from.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

from bench import data
from bench.driving import Sample, WrongLengthError, drive_asyncio, drive_many, drive_plain
from bench.peers.blockyard import settings
from bench.site import Site
from bench.worker import Command, answer_commands, take_stdout
from bench.workloads import CHUNKED, CHUNKS, size_name

IN_FLIGHT = 32
STORED = 128
"""The chunks of each size that are stored on moto."""
_WARM_UP = 0.15
"""Part of the measuring time that is worked before it begins."""
ON_MOTO = "Zarr store, moto"
WORKS: dict[str, tuple[str, ...]] = {
    "Zarr store": ("blockyard asyncio", "blockyard sync", "obstore asyncio", "s3fs asyncio"),
    ON_MOTO: ("blockyard asyncio", "obstore asyncio", "s3fs asyncio"),
    "Zarr array": ("blockyard", "obstore", "s3fs", "memory"),
    "fsspec": ("blockyard", "s3fs"),
}
"""The kinds of work, and who takes part in each."""


def work_names() -> dict[str, tuple[str, int]]:
    """The works by their names: kind and bytes."""
    return {f"{kind}, {size_name(size)}": (kind, size) for kind in WORKS for size in CHUNKS}


class Reader:
    """One peer's stores and file systems."""

    def __init__(self, peer: str, site: Site) -> None:
        self._peer = peer
        self._site = site
        self._loop = asyncio.Runner()
        self._store = self._array_store = self._files = None

    def run(self, command: Command) -> Sample:
        """Work for a while, after a short warm-up."""
        kind, size, seconds = command["kind"], command["size"], command["seconds"]
        keys = data.read_keys(size)
        calls = {
            "Zarr store": partial(self._chunks, keys),
            ON_MOTO: partial(self._chunks, keys[:STORED]),
            "Zarr array": self._array,
            "fsspec": self._cat,
        }
        call = partial(calls[kind], size, command["contender"].partition(" ")[2])
        _ = call(seconds * _WARM_UP)
        return call(seconds)

    def close(self) -> None:
        """Close what holds connections, and says so."""
        for store in (self._store, self._array_store):
            if store is not None:
                store.close()
        self._loop.close()

    def _chunks(self, keys: list[str], size: int, mode: str, seconds: float) -> Sample:
        from zarr.core.buffer import default_buffer_prototype

        self._store = self._store or _zarr_store(self._peer, self._site)
        prototype, store = default_buffer_prototype(), self._store
        if mode == "sync":
            read = partial(store.get_sync, prototype=prototype)
            return drive_plain(read, [(key,) for key in keys], seconds, size)
        items = [(key, prototype) for key in keys]
        return self._loop.run(drive_asyncio(store.get, items, seconds, size, IN_FLIGHT))

    def _array(self, size: int, mode: str, seconds: float) -> Sample:
        import zarr

        with zarr.config.set({"async.concurrency": IN_FLIGHT}):
            self._array_store = self._array_store or _zarr_store(self._peer, self._site)
            array = zarr.open_array(
                self._array_store, mode="r", path=data.array_path(size), zarr_format=3
            )
            first = data.chunk(size)

            def read(chunks: list[int]) -> list[Any]:
                found = array[:]
                if found.nbytes != CHUNKED * size or found[-size:].tobytes() != first:
                    raise WrongLengthError(f"{found.nbytes} bytes, or other ones")
                return [memoryview(found)[:size]] * len(chunks)

            return drive_many(read, range(CHUNKED), seconds, size, CHUNKED)

    def _cat(self, size: int, mode: str, seconds: float) -> Sample:
        self._files = self._files or _file_system(self._peer, self._site)
        files = self._files

        def read(paths: list[str]) -> list[bytes]:
            found = files.cat(paths, batch_size=IN_FLIGHT)
            return [found[path] for path in paths]

        paths = [f"{self._site.bucket}/{key}" for key in data.read_keys(size)]
        return drive_many(read, paths, seconds, size, CHUNKED)


def _zarr_store(peer: str, site: Site) -> Any:
    if peer == "memory":
        return _in_memory()
    if peer == "blockyard":
        from blockyard.zarr import BlockyardStore

        return BlockyardStore(None, **settings(site))
    if peer == "obstore":
        from zarr.storage import ObjectStore

        from bench.peers.obstore import open_store

        return ObjectStore(open_store(site))
    from zarr.storage import FsspecStore

    return FsspecStore(_file_system(peer, site, asynchronous=True), path=site.bucket)


def _in_memory() -> Any:
    from zarr.core.buffer import cpu
    from zarr.storage import MemoryStore

    return MemoryStore(
        {
            f"{data.array_path(size)}/{name}": cpu.Buffer.from_bytes(held)
            for size in CHUNKS
            for name, held in data.array(size).items()
        }
    )


def _file_system(peer: str, site: Site, *, asynchronous: bool = False) -> Any:
    if peer == "blockyard":
        from blockyard.fsspec import BlockyardFileSystem

        options = settings(site)
        del options["bucket"]
        return BlockyardFileSystem(**options)
    from bench.peers.s3fs import open_filesystem

    return open_filesystem(site, asynchronous=asynchronous)


def main() -> None:
    peer, url, bucket = sys.argv[1:]
    answers = take_stdout()
    reader = Reader(peer, Site(url, bucket))
    answer_commands(reader.run, answers)
    reader.close()


if __name__ == "__main__":
    main()
