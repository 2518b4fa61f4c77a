"""Peak memory of reading many gigabytes of 4 MiB blocks, 32 at a time, each dropped once read.

`python -m bench.memory CONTENDER URL BUCKET BYTES` reads that much and prints the peak resident
size of the process, and what it was before the first read, both in bytes (VmHWM of proc(5)).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import data
from bench.driving import WrongLengthError
from bench.site import Site
from bench.workloads import KIB, MIB, split_contender

IN_FLIGHT = 32
BLOCK = 4 * MIB
ALLOWED = IN_FLIGHT * BLOCK + 64 * MIB
CONTENDERS = (
    "blockyard many",
    "blockyard asyncio",
    "obstore asyncio",
    "boto3 threads",
    "aiobotocore asyncio",
)


@dataclass(frozen=True, slots=True)
class Peak:
    """Resident bytes: before the first read, and the most there ever were."""

    before: int
    peak: int


def measure(contender: str, where: dict[str, str], environment: dict[str, str], total: int) -> Peak:
    """Read `total` bytes in a fresh process."""
    command = [sys.executable, "-m", "bench.memory", contender, where["url"], where["bucket"]]
    done = subprocess.run(
        [*command, str(total)], env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return Peak(**json.loads(done.stdout))


def main() -> None:
    contender, url, bucket, total = sys.argv[1:]
    peer, mode, _ = split_contender(contender)
    module = import_module(f"bench.peers.{peer}")
    site = Site(url, bucket)
    keys = list(itertools.islice(itertools.cycle(data.read_keys(BLOCK)), int(total) // BLOCK))
    before = _peak()
    match mode:
        case "many":
            _read_many(module.ManyClient(site, IN_FLIGHT), keys)
        case "asyncio":
            asyncio.run(_read_asyncio(module.AsyncClient(site), iter(keys)))
        case _:
            _read_threads(module.Client(site), iter(keys))
    print(json.dumps({"before": before, "peak": _peak()}), flush=True)
    os._exit(0)  # some clients' threads abort the interpreter when it winds up


def _read_many(client: Any, keys: list[str]) -> None:
    for first in range(0, len(keys), IN_FLIGHT):
        for block in client.read_many(keys[first : first + IN_FLIGHT]):
            _check(block)
        del block  # the last of a batch would be held through the next


async def _read_asyncio(client: Any, keys: Iterator[str]) -> None:
    await client.open()

    async def work() -> None:
        for key in keys:
            _check(await client.read(key))

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            _ = group.create_task(work())
    await client.close()


def _read_threads(client: Any, keys: Iterator[str]) -> None:
    def work() -> None:
        for key in keys:
            _check(client.read(key))

    threads = [threading.Thread(target=work) for _ in range(IN_FLIGHT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _check(block: Any) -> None:
    if len(block) != BLOCK:
        raise WrongLengthError(f"{len(block)} bytes, expected {BLOCK}")


def _peak() -> int:
    """The kernel's high-water mark of this program; getrusage(2) keeps that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * KIB


if __name__ == "__main__":
    main()
