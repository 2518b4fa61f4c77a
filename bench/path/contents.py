"""`python -m bench.path.contents`: contents of 64 MiB over the emulated path, and what fills it.

Each call has a store of its own, so that it connects first. With `--timeline` one round, in which
is drawn when each request began and ended, and every 50 ms how full the link was. obstore's `get`,
`get` as a stream and `put` are beside. Needs Linux and root.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path as FilePath
from statistics import median
from typing import Any

from bench.path.network import Path
from bench.path.service import at_the_far_end
from bench.site import Site
from bench.workloads import MIB

_LARGE, _BLOCK, _STEP = 64 * MIB, 4 * MIB, 64 * 1024
_WORK = 0.02
"""Seconds of work on each block, of who works on what is read."""
_EVERY = 0.05
_REPOSITORY = FilePath(__file__).parents[2]
_OURS = (
    "iter_content",
    "iter_content, 20 ms of work a block",
    "open_content, steps of 64 KiB",
    "read_content_into a stream",
    "read_content",
    "write_content",
    "read_blocks",
)
_THEIRS = ("obstore get", "obstore stream", "obstore put")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--rtt", type=float, default=30, help="milliseconds")
    _ = parser.add_argument("--rate", type=float, default=300, help="Mbit/s; 0: no limit")
    _ = parser.add_argument("--rounds", type=int, default=7)
    _ = parser.add_argument("--only", default="", help="works whose name holds this")
    _ = parser.add_argument("--timeline", action="store_true")
    _ = parser.add_argument("--client", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.client:
        answer(chosen.client)
        return
    works = [work for work in (*_OURS, *_THEIRS) if chosen.only in work]
    with Path(rtt=0, rate=0) as path, at_the_far_end(path) as service:
        program = [sys.executable, "-m", __spec__.name, "--client", service.url]
        with subprocess.Popen(
            path.command("client", program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_REPOSITORY,
        ) as client:
            ask(client)
            path.change(rtt=chosen.rtt, rate=chosen.rate)
            if chosen.timeline:
                for work in works:
                    draw(path, client, work, chosen.rate)
            else:
                compare(client, works, chosen.rounds, chosen.rate)
            assert client.stdin is not None
            client.stdin.close()


def compare(client: subprocess.Popen[str], works: list[str], rounds: int, rate: float) -> None:
    """All in turns, in another order each time; medians, and how full they keep the link."""
    taken: dict[str, list[float]] = {work: [] for work in works}
    for _ in range(rounds):
        for work in random.sample(works, len(works)):
            taken[work].append(ask(client, work)["seconds"])
    for work, seconds in taken.items():
        full = f"{_LARGE * 8 / 1e6 / rate / median(seconds):5.2f} of the link" if rate else ""
        least, most = min(seconds), max(seconds)
        print(f"{work:38} {median(seconds):6.3f} s ({least:.3f} to {most:.3f}) {full}")


def draw(path: Path, client: subprocess.Popen[str], work: str, rate: float) -> None:
    """The requests of one call, and what passed in the meantime."""
    samples: list[tuple[float, int, int]] = []
    done = threading.Event()

    def sample() -> None:
        while not done.is_set():
            counted = path.counters()
            samples.append((time.monotonic(), counted["up"]["bytes"], counted["down"]["bytes"]))
            _ = done.wait(_EVERY)

    sampling = threading.Thread(target=sample)
    sampling.start()
    found = ask(client, work)
    done.set()
    sampling.join()
    began = found["began"]
    print(f"\n{work}: {found['seconds']:.3f} s")
    for method, target, start, end in sorted(found["requests"], key=lambda each: each[2]):
        print(f"  {(start - began) * 1e3:6.0f} to {(end - began) * 1e3:6.0f} ms  {method} {target}")
    for name, way in (("up", 1), ("down", 2)):
        passed: list[str] = []
        for first, then in pairwise(samples):
            rate_now = (then[way] - first[way]) * 8e-6 / (then[0] - first[0])
            passed.append(f"{(first[0] - began) * 1e3:.0f}: {rate_now:.0f}")
        print(f"  Mbit/s {name} of {rate:g}, from so many ms on: {', '.join(passed)}")


def ask(client: subprocess.Popen[str], work: str = "") -> Any:
    """What the client says of one work; first of all that it is ready."""
    assert client.stdin is not None
    assert client.stdout is not None
    if work:
        print(work, file=client.stdin, flush=True)
    return json.loads(client.stdout.readline())


def answer(url: str) -> None:
    """On the client's side: store what is read, then do each work whose name comes."""
    import obstore

    import blockyard
    from bench.peers.blockyard import settings
    from bench.peers.obstore import open_store as open_obstore

    site, data = Site(url, "bucket"), random.Random(16).randbytes(_LARGE)
    requests = _noted_requests()
    with blockyard.open_store(**settings(site)) as store:
        _ = store.write_content("content", data)
        _ = store.write_blocks(
            (f"block/{at}", data[at : at + _BLOCK]) for at in range(0, _LARGE, _BLOCK)
        )
    _ = obstore.put(open_obstore(site), "object", data)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        work = line.strip()
        requests.clear()
        if work in _OURS:
            with blockyard.open_store(**settings(site)) as store:
                began = time.monotonic()
                size = _ours(store, data)[work]()
                seconds = time.monotonic() - began
                if work == "write_content":
                    store.delete_content("new")
        else:
            peer = open_obstore(site)
            began = time.monotonic()
            size = _theirs(peer, data)[work]()
            seconds = time.monotonic() - began
        assert size == _LARGE
        told = {"began": began, "seconds": seconds, "requests": list(requests)}
        print(json.dumps(told), flush=True)


def _ours(store: Any, data: bytes) -> dict[str, Callable[[], int]]:
    def steps() -> int:
        size = 0
        with store.open_content("content") as file:
            while piece := file.read(_STEP):
                size += len(piece)
        return size

    def work() -> int:
        size = 0
        for block in store.iter_content("content"):
            time.sleep(_WORK)
            size += len(block)
        return size

    keys = [f"block/{at}" for at in range(0, _LARGE, _BLOCK)]
    calls = (
        lambda: sum(len(block) for block in store.iter_content("content")),
        work,
        steps,
        lambda: store.read_content_into("content", _Nowhere()),
        lambda: len(store.read_content("content")),
        lambda: store.write_content("new", data).size,
        lambda: sum(len(block) for block in store.read_blocks(keys)),
    )
    return dict(zip(_OURS, calls, strict=True))


def _theirs(store: Any, data: bytes) -> dict[str, Callable[[], int]]:
    import obstore

    def put() -> int:
        _ = obstore.put(store, "new", data)
        return len(data)

    calls = (
        lambda: len(obstore.get(store, "object").bytes()),
        lambda: sum(len(each) for each in obstore.get(store, "object").stream(MIB)),
        put,
    )
    return dict(zip(_THEIRS, calls, strict=True))


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)


def _noted_requests() -> list[tuple[str, str, float, float]]:
    """Method, end of the target, begin and end of each request from now on."""
    from blockyard.transport.exchanging import NetworkRuntime

    requests: list[tuple[str, str, float, float]] = []
    exchange = NetworkRuntime.exchange

    async def noted(self: NetworkRuntime, request: Any, **more: Any) -> Any:
        began = time.monotonic()
        try:
            return await exchange(self, request, **more)
        finally:
            requests.append((request.method, request.target[-40:], began, time.monotonic()))

    NetworkRuntime.exchange = noted  # type: ignore[method-assign]
    return requests


if __name__ == "__main__":
    main()
