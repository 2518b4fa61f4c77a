"""A real file as blocks on a real S3 endpoint, from nothing, in under a minute: `make demo`.

It starts moto, an embedded S3, on loopback; stores a tar archive of what this Python is made of;
and shows what is there, reads it in part and whole, copies it and deletes it. Every byte that
comes back is compared with the file.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from blockyard import BLOCK_SIZE, BlockStore, HealthReport, S3Config, StoreConfig, open_store
from servers import moto
from servers.endpoint import create_bucket

MIB = 1024 * 1024
BUCKET = "demo"
FILE_SIZE = 64 * MIB  # at least
CONTENT, COPY = "share1", "share10"  # one name begins with the other: see `delete`
RANGE_SIZE = 16 * 1024
RANGES = 256


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="blockyard-demo-") as folder:
        source = Path(folder, "python.tar")
        with step("make a file", f"of {FILE_SIZE // MIB} MiB from Python's own library"):
            make_file(source)
        with moto.serve() as endpoint:
            say("endpoint", f"moto, embedded, at {endpoint.url}")
            create_bucket(endpoint, BUCKET)
            config = StoreConfig(s3=S3Config(**endpoint.s3_settings(BUCKET, "blocks/")))
            with open_store(config) as store:
                show(store, source, Path(folder, "back.tar"))


def show(store: BlockStore, source: Path, target: Path) -> None:
    """Every kind of operation, each with what it did and how fast it went."""
    health(store.health_check())
    write(store, source)
    listing(store)
    read_ranges(store, source)
    read_whole(store, target)
    verify("what was read", source, target)
    with step("copy", f"{CONTENT} to {COPY}, inside the server"):
        _ = store.copy_content(CONTENT, COPY)
    delete(store)
    _ = store.read_content_into(COPY, target)
    verify("the copy", source, target)
    with step("delete", "all the rest"):
        _ = store.delete_by_prefix("", literal=True)
    say("blocks left", str(len(store.list_by_prefix())))


def make_file(target: Path) -> None:
    """A tar archive of installed files, of `FILE_SIZE` or somewhat more."""
    folders = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    with tarfile.open(target, "w") as archive:
        for path in files:
            archive.add(path)
            if archive.offset >= FILE_SIZE:
                return
    raise SystemExit(f"error: Python's library has less than {FILE_SIZE // MIB} MiB of files")


def health(report: HealthReport) -> None:
    say("health", f"{report.store} answers in {report.latency * 1000:.1f} ms")


def write(store: BlockStore, source: Path) -> None:
    with step("write", f"{source.name} as the content {CONTENT}", source.stat().st_size):
        written = store.write_content(CONTENT, source)
    say("", f"{written.blocks} blocks of up to 4 MiB, {written.size:,} bytes")


def listing(store: BlockStore) -> None:
    with step("list", f"what lies below {CONTENT}/"):
        blocks = list(store.iter_blocks(f"{CONTENT}/"))
    for block in (blocks[0], blocks[-1]):
        say("", f"{block.key}  {block.size:,} bytes")


def read_ranges(store: BlockStore, source: Path) -> None:
    """Ranges spread over the first chunk, many in flight, each compared with the file."""
    keys = store.list_by_prefix(f"{CONTENT}/")[:16]
    stride = BLOCK_SIZE // RANGES
    asked = [(number % len(keys), number * stride) for number in range(RANGES)]
    what = f"{RANGES} of {RANGE_SIZE // 1024} KiB, 32 in flight"
    with step("read ranges", what, RANGES * RANGE_SIZE):
        parts = store.read_block_ranges([(keys[block], at, RANGE_SIZE) for block, at in asked])
    with source.open("rb") as file:
        for (block, at), part in zip(asked, parts, strict=True):
            _ = file.seek(block * BLOCK_SIZE + at)
            if file.read(RANGE_SIZE) != part:
                raise SystemExit(f"error: {keys[block]} at {at} is not what was written")
    say("", "each is what the file has there")


def read_whole(store: BlockStore, target: Path) -> None:
    with step("read", f"{CONTENT} into a file", store.stat_content(CONTENT).size):
        _ = store.read_content_into(CONTENT, target)


def verify(what: str, source: Path, target: Path) -> None:
    expected, found = sha256(source), sha256(target)
    if expected != found:
        raise SystemExit(f"error: {what} has SHA-256 {found}, expected {expected}")
    say("verify", f"{what} has the file's SHA-256, {found[:16]}...")


def delete(store: BlockStore) -> None:
    """The prefix `share1` means that content, and not `share10` as well."""
    with step("delete", f"by the prefix {CONTENT}"):
        deleted = store.delete_by_prefix(CONTENT)
    left = store.list_by_prefix()
    say("", f"{len(deleted.deleted)} keys are gone, the {len(left)} of {COPY} are still there")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def step(name: str, what: str, size: int = 0) -> Generator[None]:
    """Time a step and say so; `size` in bytes gives its rate."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    rate = f", {size / seconds / 1e6:,.0f} MB/s" if size else ""
    say(name, f"{what}: {seconds:.2f} s{rate}")


def say(name: str, what: str) -> None:
    print(f"{name:12} {what}", flush=True)


if __name__ == "__main__":
    main()
