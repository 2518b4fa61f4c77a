"""Processes that share one cache folder, killed at any moment, over a disk that damages it.

Each key is written by one process and read by all. A read has to be of a version that was not
replaced before it began, byte for byte, and may never fail. While that goes on the processes are
killed and started again, and their entries are flipped, cut and replaced. Files and folders of the
cache can't be opened for a moment, by root neither. Half of the time the cache is on a small file
system, where this user can mount one, which others fill.

While something can't be opened nobody writes: a change that the folder can't be told of is one that
other processes do not know of, by what `docs/cache.md` promises.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import logging
import os
import secrets
import struct
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from blockyard import open_store
from blockyard.cache import disk
from blockyard.cache.disk import DiskCache
from blockyard.cache.store import CacheStore
from blockyard.context import Context
from blockyard.model import KIB, MIB, Block
from blockyard.s3.integrity import PageChecksums, upload_headers
from blockyard.stores.base import ReadRequest
from blockyard.stores.checks import requested_range
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.wrapper import WrapperStore
from blockyard_faults.disks import feel_modes, small_disk
from blockyard_faults.killing import LONGEST, Log, add_log, kill, started

PROCESSES = 4
SIZE = 16 * MIB
"""Bytes of the budget: less than all blocks have."""
_DISK = 14 * MIB
"""Bytes of the small file system: less than the budget."""
_KEYS = 96
_UNIT = 16
"""Bytes of the text that a block repeats: its key and version."""
_NUMBER = struct.Struct(">q")
_RETRY_AFTER = 0.3
"""Seconds after which the disk is tried again: most processes do not live for 10 s."""
_COUNTED = ("hits", "damaged", "dropped")
_LIVES = (0.05, 0.8)
"""Seconds that a process lives."""


@dataclass(slots=True)
class Result:
    """What was seen: `broken` says what should not have been."""

    reads: int = 0
    hits: int = 0
    damaged: int = 0
    writes: int = 0
    kills: int = 0
    dropped: int = 0
    denied: int = 0
    filled_up: int = 0
    most: float = 0.0
    broken: list[str] = field(default_factory=list[str])


class SummedStore(WrapperStore):
    """A folder of blocks, half of which have page checksums, as those of S3 have."""

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        if not request.page_sums or int(request.key[1:]) % 2:
            return await self.inner.read(ctx, request)
        asked = replace(request, offset=None, length=None, suffix=None, page_sums=False)
        whole = await self.inner.read(ctx, asked)
        headers = upload_headers(whole.data)
        stored = PageChecksums.of(headers)
        assert stored is not None
        begin, end = requested_range(request, whole.size)
        sums = stored.all(headers)
        return Block(whole.data[begin:end], end - begin, whole.describe, stored, sums)


def block_of(key: int, version: int) -> bytes:
    """The block that a key has in a version."""
    units = 1 + (key * 7919 + version * 104_729) % (400 * KIB // _UNIT)
    return b"%04d:%010d;" % (key, version) * units


class Versions:
    """The versions of all keys that were begun to be written, and that were acknowledged."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)

    def begun(self, key: int) -> int:
        return self._at(2 * key)

    def acknowledged(self, key: int) -> int:
        return self._at(2 * key + 1)

    def begin(self, key: int, version: int) -> None:
        _ = os.pwrite(self._file, _NUMBER.pack(version), 16 * key)

    def acknowledge(self, key: int, version: int) -> None:
        _ = os.pwrite(self._file, _NUMBER.pack(version), 16 * key + 8)

    def _at(self, place: int) -> int:
        return _NUMBER.unpack(os.pread(self._file, 8, 8 * place).ljust(8, b"\0"))[0]


class Worker:
    """One of the processes."""

    def __init__(self, folder: Path, number: int, random: Random) -> None:
        feel_modes()
        disk.RETRY_AFTER = _RETRY_AFTER
        logging.getLogger("blockyard.cache").setLevel(logging.ERROR)  # there would be many warnings
        self._number = number
        self._writing = os.open(folder / "writing", os.O_RDWR | os.O_CREAT)
        self._random = random
        self._versions = Versions(folder / "versions")
        self.tell = Log(folder / "log").tell
        self._memory = random.choice([None, 1 * MIB])
        self._disk = DiskCache(folder / "cache", SIZE, "store")
        inner = SummedStore(FilesystemStore(folder / "store"))
        cache = CacheStore(inner, memory=self._memory, disk=self._disk, revalidate="never")
        self._store = open_store(cache)

    def run(self) -> None:
        """Read and write until killed."""
        done = 0
        before = self._disk.stats()
        while True:
            key = min(int(self._random.expovariate(8 / _KEYS)), _KEYS - 1)
            writes = self._random.random() < 0.03 and key % PROCESSES == self._number
            try:
                self._write(key) if writes else self._read(key)
            except Exception:  # noqa: BLE001 - none is expected, and each is told
                self.tell(broken=f"k{key}: {traceback.format_exc()}")
            done += 1
            if done % 20 == 0:
                now = self._disk.stats()
                new = {name: now[name] - before[name] for name in _COUNTED}
                self.tell(reads=20, **new)
                before = now

    def _write(self, key: int) -> None:
        version = self._versions.begun(key) + 1
        self._versions.begin(key, version)
        fcntl.flock(self._writing, fcntl.LOCK_SH)
        try:
            _ = self._store.write_block(f"k{key}", block_of(key, version))
        finally:
            fcntl.flock(self._writing, fcntl.LOCK_UN)
        self._versions.acknowledge(key, version)
        self.tell(writes=1)

    def _read(self, key: int) -> None:
        least = self._versions.acknowledged(key)
        if self._random.random() < 0.5:
            begin, data = 0, self._store.read_block(f"k{key}")
        else:
            begin = self._random.randrange(4) * 16 * KIB
            size = len(block_of(key, least))
            if begin >= size or self._versions.begun(key) != least:
                return
            with suppress(ValueError):  # another version began meanwhile, and is shorter
                data = self._store.read_block_range(f"k{key}", begin, 20_000)
                self._check(key, begin, data, least, whole=False)
            return
        self._check(key, begin, data, least, whole=True)

    def _check(self, key: int, begin: int, data: bytes, least: int, *, whole: bool) -> None:
        text = data[5:15]
        version = int(text) if text.isdigit() else -1
        block = block_of(key, max(version, 0))
        right = block if whole else block[begin : begin + 20_000]
        most = self._versions.begun(key)
        if data != right or not least <= version <= most:
            what = f"version {version} of {least} to {most}, {data[:40]!r}, {len(data)} bytes"
            self.tell(broken=f"k{key} at {begin}: {what}, equal: {data == right}")


def run(folder: Path, seconds: float, seed: int, *, small: bool) -> Result:
    """Let processes share a cache in `folder` for so long, and say what they saw.

    `small` says that the cache is on a small file system, which is to be filled.
    """
    random = Random(seed)  # noqa: S311 - to be repeated
    versions = Versions(folder / "versions")
    with open_store(FilesystemStore(folder / "store")) as store:
        for key in range(_KEYS):
            _ = store.write_block(f"k{key}", block_of(key, 1))
            versions.begin(key, 1)
            versions.acknowledge(key, 1)
    result = Result()
    children: dict[int, tuple[int, float]] = {}
    ends = time.monotonic() + seconds
    try:
        while (now := time.monotonic()) < ends or not (
            (result.kills and result.denied and (result.filled_up or not small))
            or now > ends + LONGEST
        ):
            for number in set(range(PROCESSES)) - {number for number, _ in children.values()}:
                lives = random.uniform(*_LIVES) if random.random() < 0.8 else seconds / 2
                children[started(_live, folder, number, random.randrange(1 << 30))] = (
                    number,
                    now + lives,
                )
            for child, (_, until) in list(children.items()):
                if now >= until:
                    kill(child)
                    del children[child]
                    result.kills += 1
            _trouble(folder, random, result, small=small)
            result.most = max(result.most, allocated(folder / "cache") / SIZE)
            time.sleep(0.02)
    finally:
        for child in children:
            kill(child)
    _read_log(folder / "log", result, small=small)
    return result


def _live(folder: Path, number: int, seed: int) -> None:
    Worker(folder, number, Random(seed)).run()  # noqa: S311 - to be repeated


def _trouble(folder: Path, random: Random, result: Result, *, small: bool) -> None:
    """Do something to the cache, now and then."""
    what = random.random()
    if what < 0.5:
        _damage(folder / "cache", random)
    elif what < 0.56:
        result.denied += _deny(folder, random)
    elif what < 0.62 and small:
        result.filled_up += _fill_up(folder / "cache")


def _deny(folder: Path, random: Random) -> bool:
    """Let nobody open a file or folder of the cache for a moment, in which nobody writes."""
    cache = folder / "cache"
    shard = random.choice([cache, *(cache / "blocks").glob("*")])
    names = ["blocks", "new", "lock", "usage", "epochs", "format"]
    path = random.choice([cache, shard, *shard.glob("*"), *(cache / name for name in names)])
    writing = os.open(folder / "writing", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(writing, fcntl.LOCK_EX)
        mode = path.stat().st_mode
        path.chmod(0)
        time.sleep(0.05)
        path.chmod(mode)
    except FileNotFoundError:  # it was removed or replaced
        return False
    finally:
        os.close(writing)
    return True


def _fill_up(cache: Path) -> bool:
    """Leave no room on the file system for a moment."""
    path, full = cache / "others", False
    try:
        with path.open("wb", buffering=0) as file:
            while file.write(bytes(MIB // 4)):
                pass
    except OSError as error:
        full = error.errno == errno.ENOSPC
    time.sleep(0.1)
    path.unlink()
    return full


def _damage(cache: Path, random: Random) -> None:
    """Do something to an entry."""
    entries = list((cache / "blocks").glob("*/*"))
    if not entries:
        return
    path = random.choice(entries)
    with suppress(OSError, ValueError):  # it is gone, or empty
        size = path.stat().st_size
        what = random.random()
        if what < 0.6:
            place = random.randrange(min(size, 4096) if what < 0.3 else size)
            with path.open("r+b") as file:
                _ = file.seek(place)
                _ = file.write(random.randbytes(1))
        elif what < 0.7:
            os.truncate(path, random.randrange(size))
        elif what < 0.8:
            path.unlink()
        elif what < 0.9:
            other = random.choice(entries)
            os.rename(other, path)
        else:
            path.with_name("foreign").touch()


def allocated(root: Path) -> int:
    """Bytes allocated below a cache's folder, folders and all, while nobody writes."""
    total = 0
    try:
        lock = os.open(root / "lock", os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder, _, files in os.walk(root):
            for name in [".", *files]:
                with suppress(FileNotFoundError):
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    finally:
        os.close(lock)
    return total


def _modes_are_felt(folder: Path) -> bool:
    """Whether a process of the campaign can't open what has a mode of 0."""
    path = folder / "felt"
    path.touch(mode=0)

    def look() -> None:
        feel_modes()
        try:
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            os._exit(0)

    return os.waitpid(started(look), 0)[1] == 0


def _read_log(path: Path, result: Result, *, small: bool) -> None:
    add_log(path, result)
    if result.most > 1.02:
        result.broken.append(f"the folder had {result.most:.3f} of its budget")
    if not (result.hits and result.damaged and result.kills and result.denied):
        result.broken.append("nothing was hit, damaged, denied or killed: nothing was tested")
    if not _modes_are_felt(path.parent):
        result.broken.append("a mode of 0 keeps nobody out: it was not tested")
    if small and not (result.filled_up and result.dropped):
        result.broken.append("the disk was never full: it was not tested")


def main() -> int:
    """Run for `--seconds`; 0 when nothing was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--seconds", type=float, default=300.0)
    _ = parser.add_argument("--seed", type=int, help="repeats the faults, but not when they come")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    broken = 0
    for small in (False, True):
        with (
            tempfile.TemporaryDirectory() as folder,
            small_disk(Path(folder) / "cache", _DISK) if small else nullcontext(True) as there,
        ):
            if not there:
                _ = sys.stdout.write(
                    "on a full disk: not tested: mounting a small one takes root\n"
                )
                continue
            result = run(Path(folder), options.seconds / 2, seed, small=small)
        _ = sys.stdout.write("\n".join([*result.broken[:10], _seen(result, seed, small=small), ""]))
        broken += len(result.broken)
    return 1 if broken else 0


def _seen(result: Result, seed: int, *, small: bool) -> str:
    return (
        f"{'on a small disk, ' if small else ''}seed {seed}: {result.reads} reads, {result.hits} "
        f"from the disk cache, {result.writes} writes, {result.damaged} damaged entries found, "
        f"{result.denied} times something could not be opened, {result.filled_up} times the disk "
        f"was full, {result.dropped} fills dropped, {result.kills} processes killed, at most "
        f"{result.most:.3f} of the budget, {len(result.broken)} broken"
    )


if __name__ == "__main__":
    sys.exit(main())
