"""Time to the first result: from the start of a fresh interpreter to the first 4 MiB block read.

`python -m bench.startup PEER URL BUCKET` is one such process: it imports the client, opens it,
reads one block and prints the time on the machine's monotonic clock, which all processes share.
The peer `nothing` imports and reads nothing: what an interpreter and this module take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench.site import Site

NOTHING = "nothing"
_KEY = "read/4194304/00/block-0000"
_SIZE = 4 * 1024 * 1024


def measure(peer: str, where: dict[str, str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds to the first result, and CPU seconds of the whole process."""
    command = [sys.executable, "-m", "bench.startup", peer, where["url"], where["bucket"]]
    begun = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{peer}: the first read failed")
    return float(said) - begun, usage.ru_utime + usage.ru_stime


def main() -> None:
    peer, url, bucket = sys.argv[1:]
    if peer != NOTHING:
        read = _read_asyncio if peer == "aiobotocore" else _read
        if read(peer, Site(url, bucket)) != _SIZE:
            sys.exit(f"{peer} read a block of another size")
    print(time.monotonic(), flush=True)
    os._exit(0)  # some clients' threads abort the interpreter when it winds up


def _read(peer: str, site: Site) -> int:
    module = __import__(f"bench.peers.{peer}", fromlist=["Client"])
    return len(module.Client(site).read(_KEY))


def _read_asyncio(peer: str, site: Site) -> int:
    import asyncio

    module = __import__(f"bench.peers.{peer}", fromlist=["AsyncClient"])

    async def first() -> int:
        client = module.AsyncClient(site)
        await client.open()
        try:
            return len(await client.read(_KEY))
        finally:
            await client.close()

    return asyncio.run(first())


if __name__ == "__main__":
    main()
