"""Four forked workers, after their parent has read, go on with its file system and its Zarr store.

`BLOCKYARD_FORKS=100` starts them so often, not five times.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import fsspec
import numpy
import pytest
import zarr

from blockyard.zarr import BlockyardStore
from tests.small_s3 import SmallS3, small_s3

STARTS = int(os.environ.get("BLOCKYARD_FORKS", "5"))
WORKERS = 4
HANGS = 60
"""Seconds after which a worker is ended: none takes one."""
SHAPE = (40, 40)
VALUES: Any = numpy.arange(SHAPE[0] * SHAPE[1], dtype="i4").reshape(SHAPE)
FILES = {f"dir/{number}": random.Random(number).randbytes(70_000) for number in range(8)}  # noqa: S311

Read = Callable[[], bool]


@contextmanager
def by_fsspec(server: SmallS3) -> Generator[Read]:
    """Whole files, parts of one, and a listing."""
    fs = fsspec.filesystem("blockyard", store=server.store_url(), skip_instance_cache=True)
    fs.pipe(FILES)

    def read() -> bool:
        with fs.open("dir/1", block_size=1000) as file:
            _ = file.seek(100)
            part = file.read(50_000)
        fs.invalidate_cache()
        return (
            fs.cat(sorted(FILES)) == FILES
            and part == FILES["dir/1"][100:50_100]
            and fs.ls("dir", detail=False) == sorted(FILES)
        )

    yield read


@contextmanager
def by_zarr(server: SmallS3) -> Generator[Read]:
    """An array: on zarr's own event loop, and by its store's blocking methods."""
    with BlockyardStore(server.store_url()) as store:
        created: Any = zarr.create_array(
            store, name="array", shape=SHAPE, chunks=(10, 10), dtype="i4", compressors=None
        )
        created[:] = VALUES
        array: Any = zarr.open_array(store, path="array", mode="r")

        def read() -> bool:
            found = numpy.asarray(array[:])
            chunk = store.get_sync("array/c/0/0")
            return (
                numpy.array_equal(found, VALUES)
                and chunk is not None
                and chunk.to_bytes() == VALUES[:10, :10].tobytes()
            )

        yield read


def worker(read: Read) -> int:
    """The id of a child that reads twice, and ends with 0 if it was right."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _ = signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _ = signal.alarm(HANGS)
        code = 0 if read() and read() else 2
    finally:
        os._exit(code)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("system", [by_fsspec, by_zarr])
def test_forked_workers_after_the_parent_has_read(system: Any) -> None:
    with small_s3() as server, system(server) as read:
        assert read()
        for _ in range(STARTS):
            workers = [worker(read) for _ in range(WORKERS)]
            assert read()  # the parent goes on meanwhile
            ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
            assert ended == [0] * WORKERS
