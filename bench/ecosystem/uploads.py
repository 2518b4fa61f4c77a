"""One large file written by fsspec's `open`, beside the uploads of others.

Each contender uploads the same bytes, drawn from a file object, to the sink (`sink.py`), in its own
way and size of parts, and in a fresh process: they take turns. `python -m bench.ecosystem.uploads
CONTENDER URL BYTES` is one of these, and prints the seconds, those of CPU, and the peak resident
size (VmHWM of proc(5)).
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.driving import Stopwatch
from bench.ecosystem import sink
from bench.fleet import environment
from bench.site import Site
from bench.workloads import KIB, MIB

ALLOWED = 200 * MIB
"""The most resident bytes that blockyard may take, whatever the size of the file."""
AT_LEAST = 0.9
"""How fast blockyard is to be, as a part of the fastest of obstore and boto3."""
BUCKET = "uploads"
KEY = "folder/large"
_HELD = 16 * MIB
_COPIED = 1 * MIB
"""Bytes that a program which copies a file writes at once."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Wall and CPU seconds of one upload, and the peak resident bytes of its process."""

    seconds: float
    cpu: float
    peak: int


class Source(io.RawIOBase):
    """So many bytes: the 16 MiB of a file that is held in memory, over and over."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._at = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this
        _ = self._file.write(random.Random(17).randbytes(_HELD))
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        wanted = memoryview(buffer)[: self._size - self._at]
        taken = os.preadv(self._file.fileno(), [wanted], self._at % _HELD)
        self._at += taken
        return taken


Contender = Callable[[Site, Source], None]
"""Uploads all of the source; what it imports was imported before."""


def _blockyard_open() -> Contender:
    import fsspec

    import blockyard.fsspec  # noqa: F401 - else the first file would
    from bench.peers.blockyard import settings

    def upload(site: Site, source: Source) -> None:
        options = settings(site)
        with fsspec.open(f"blockyard://{options.pop('bucket')}/{KEY}", "wb", **options) as file:
            shutil.copyfileobj(source, file, _COPIED)

    return upload


def _obstore_put() -> Contender:
    import obstore

    from bench.peers.obstore import open_store

    def upload(site: Site, source: Source) -> None:
        obstore.put(open_store(site), KEY, io.BufferedReader(source, _COPIED))

    return upload


def _obstore_writer() -> Contender:
    import obstore

    from bench.peers.obstore import open_store

    def upload(site: Site, source: Source) -> None:
        with obstore.open_writer(open_store(site), KEY) as file:
            shutil.copyfileobj(source, file, _COPIED)

    return upload


def _boto3_upload() -> Contender:
    from bench.peers.boto3 import open_client

    return lambda site, source: open_client(site).upload_fileobj(source, site.bucket, KEY)


def _s3fs_open() -> Contender:
    from bench.peers.s3fs import open_filesystem

    def upload(site: Site, source: Source) -> None:
        with open_filesystem(site).open(f"{site.bucket}/{KEY}", "wb") as file:
            shutil.copyfileobj(source, file, _COPIED)

    return upload


OURS = "blockyard open"
CONTENDERS: dict[str, Callable[[], Contender]] = {
    OURS: _blockyard_open,
    "obstore put": _obstore_put,
    "obstore open_writer": _obstore_writer,
    "boto3 upload_fileobj": _boto3_upload,
    "s3fs open": _s3fs_open,
}
Uploads = dict[str, list[Upload]]


def measure(size: int, rounds: int) -> Uploads:
    """Uploads of so many bytes, in rounds in which all contenders take their turn."""
    taken: Uploads = {name: [] for name in CONTENDERS}
    with sink.serve() as endpoint:
        for _ in range(rounds):
            for name, uploads in taken.items():
                command = [
                    sys.executable,
                    "-m",
                    "bench.ecosystem.uploads",
                    name,
                    endpoint.url,
                    str(size),
                ]
                done = subprocess.run(
                    command, env=environment(), stdout=subprocess.PIPE, check=True, text=True
                )
                uploads.append(Upload(**json.loads(done.stdout)))
    return taken


def upload(contender: str, url: str, size: int) -> Upload:
    upload_all = CONTENDERS[contender]()
    with Source(size) as source:
        watch = Stopwatch()
        upload_all(Site(url, BUCKET), source)
        sample = watch.sample(1)
    status = Path("/proc/self/status").read_text()
    return Upload(sample.seconds, sample.cpu, int(status.partition("VmHWM:")[2].split()[0]) * KIB)


def main() -> None:
    contender, url, size = sys.argv[1:]
    print(json.dumps(asdict(upload(contender, url, int(size)))), flush=True)
    os._exit(0)  # some clients' threads abort the interpreter when it winds up


if __name__ == "__main__":
    main()
