"""What hedged reads save at the 99th percentile: `python -m bench.hedging`, by hand.

The endpoint, in a process of its own, answers three replies in a hundred 300 ms late and the others
after 2 ms. Printed are the latencies of reads with and without hedging, and how many second
requests that took.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import blockyard

LATE, USUAL, SHARE = 0.3, 0.002, 0.03
READS = 3000
REPLY = b'HTTP/1.1 200 OK\r\nContent-Length: 16384\r\nETag: "x"\r\n\r\n' + bytes(16384)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(LATE if random.random() < SHARE else USUAL)
            writer.write(REPLY)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(parent: Connection) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    parent.send(server.sockets[0].getsockname()[1])
    await asyncio.to_thread(parent.poll, None)  # until the parent has ended
    server.close()


def run_server(parent: Connection) -> None:
    asyncio.run(serve(parent))


@contextmanager
def endpoint() -> Generator[str, None, None]:
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=run_server, args=(theirs,), daemon=True)
    process.start()
    yield f"http://127.0.0.1:{ours.recv()}"
    ours.close()
    process.terminate()
    process.join()


def one_at_a_time(url: str) -> tuple[list[float], int]:
    with blockyard.open_store(url) as store:
        times: list[float] = []
        for _ in range(READS // 3):
            begun = time.perf_counter()
            _ = store.read_block("k")
            times.append(time.perf_counter() - begun)
        return times, store.health_check().hedges


def under_asyncio(url: str, in_flight: int) -> tuple[list[float], int]:
    async def main() -> tuple[list[float], int]:
        times: list[float] = []
        left = iter(range(READS))

        async def reader(store: blockyard.AsyncBlockStore) -> None:
            for _ in left:
                begun = time.perf_counter()
                _ = await store.read_block("k")
                times.append(time.perf_counter() - begun)

        async with await blockyard.open_async_store(url) as store:
            _ = await asyncio.gather(*[reader(store) for _ in range(in_flight)])
            return times, (await store.health_check()).hedges

    return asyncio.run(main())


def show(name: str, hedged: str, times: list[float], hedges: int) -> None:
    times.sort()
    shown = "".join(f"{times[int(len(times) * share)] * 1e3:9.1f}" for share in (0.5, 0.95, 0.99))
    extra = f"{hedges / len(times):8.2%}" if hedges else ""
    _ = sys.stdout.write(f"{name:22}{hedged:>9}{shown}{extra:>10}\n")
    _ = sys.stdout.flush()


def main() -> None:
    _ = sys.stdout.write(
        f"{'':22}{'hedging':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'extra':>10}\n"
    )
    with endpoint() as address:
        for hedged in ("false", "true"):
            url = f"s3://bucket?endpoint={address}&anonymous=true&hedge_reads={hedged}"
            show("blocking, 1 at a time", hedged, *one_at_a_time(url))
            for in_flight in (1, 8, 32):
                name = f"asyncio, {in_flight} in flight"
                show(name, hedged, *under_asyncio(url, in_flight))


if __name__ == "__main__":
    main()
