"""One client in a process of its own on the client's side of the path.

`python -m bench.path.worker PEER URL` takes commands as `bench.worker` does. Each client stores
itself what it reads, below a prefix of its own, so that each reads what it would have written.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any

from bench.driving import (
    Sample,
    WrongLengthError,
    drive_asyncio,
    drive_many,
    drive_plain,
    drive_threads,
)
from bench.path.works import BLOCK, LARGE, LISTED, SMALL, Work
from bench.site import Site
from bench.worker import Command, answer_commands, take_stdout
from bench.workloads import split_contender

_BUCKET = "bucket"
_BLOCKS = 32
_PICKED = 4096
_CALLS = {"range": "read_range"}
_MANY = {"range": "read_ranges", "read": "read_many", "write": "write_many"}
"""What calls are named, of `ManyClient` and of the others, where it is not as the operation."""


class Worker:
    """The clients of one peer."""

    def __init__(self, peer: str, url: str) -> None:
        self._module = import_module(f"bench.peers.{peer}")
        self._site = Site(url, _BUCKET)
        self._prefix = f"{peer}/"
        self._loop = asyncio.Runner()
        self._helper = self._module.Client(self._site)
        self._bodies = {size: os.urandom(size) for size in (SMALL, BLOCK, LARGE)}

    def run(self, command: Command) -> Sample:
        """Do one work for a while; without one, store what all works need.

        Each sample has a client of its own: what a connection has learned of the path in other
        work would be part of the figure. Where it is not done `once`, a first turn opens the
        connections.
        """
        if command["work"] is None:
            self._store_all()
            return Sample(1, 0.0, 0.0)
        work, (_, mode, _) = Work(**command["work"]), split_contender(command["contender"])
        with self._client(mode, work.in_flight) as client:
            if work.once:
                self._prepare(work)
                return self._drive(client, mode, work, 0, 1)
            _ = self._drive(client, mode, work, 0, work.in_flight)
            return self._drive(client, mode, work, command["seconds"], 2 * work.in_flight)

    def close(self) -> None:
        self._helper.close()
        self._loop.close()

    @contextmanager
    def _client(self, mode: str, in_flight: int) -> Generator[Any]:
        if mode == "asyncio":
            client = self._module.AsyncClient(self._site)
            self._loop.run(client.open())
            try:
                yield client
            finally:
                self._loop.run(client.close())
        else:
            many = mode == "many"
            opened = self._module.ManyClient if many else self._module.Client
            with closing(opened(self._site, in_flight) if many else opened(self._site)) as client:
                yield client

    def _drive(self, client: Any, mode: str, work: Work, seconds: float, batch: int) -> Sample:
        """`batch` is how many operations a bulk call is given."""
        names = _MANY if mode == "many" else _CALLS
        call = getattr(client, names.get(work.operation, work.operation))
        items = self._items(work, mode)
        size = work.size if work.operation in {"range", "read", "read_large"} else None
        match mode:
            case "plain":
                return drive_plain(call, items, seconds, size)
            case "threads":
                return drive_threads(call, items, seconds, size, work.in_flight)
            case "asyncio":
                return self._loop.run(drive_asyncio(call, items, seconds, size, work.in_flight))
            case "many":
                return drive_many(call, items, seconds, size, batch)
            case other:
                raise ValueError(other)

    def _prepare(self, work: Work) -> None:
        """Have the keys there that are deleted, and not the content that is written."""
        if work.operation == "delete_below":
            self._fill(f"{self._prefix}deleted/")
        if work.operation == "write_large":
            _ = self._helper.delete_below(f"{self._prefix}large/{work.size}-new/")

    def _items(self, work: Work, mode: str) -> list[Any]:
        """The arguments of the calls, the same for all clients but for their prefix."""
        size, prefix = work.size, self._prefix
        if work.operation == "range":
            chance = random.Random(work.name)
            places = [chance.randrange(BLOCK // size) * size for _ in range(_PICKED)]
            return [(self._block(at), place, size) for at, place in enumerate(places)]
        if work.operation == "read" and mode == "many":
            return [self._block(at) for at in range(_BLOCKS)]
        items: dict[str, list[Any]] = {
            "read": [(self._block(at),) for at in range(_BLOCKS)],
            "write": [(f"{prefix}new/{at}", self._bodies.get(size)) for at in range(_BLOCKS)],
            "read_large": [(f"{prefix}large/{size}",)],
            "write_large": [(f"{prefix}large/{size}-new", self._bodies.get(size))],
            "list_keys": [(f"{prefix}listed/",)],
            "delete_below": [(f"{prefix}deleted/",)],
            "copy": [(self._block(0), f"{prefix}copy")],
            "exists": [(f"{prefix}absent",)],
        }
        return items[work.operation]

    def _store_all(self) -> None:
        """Store what is read, and hold what is read back to it."""
        client = self._helper
        for at in range(_BLOCKS):
            client.write(self._block(at), self._bodies[BLOCK])
        for size in (SMALL, LARGE):
            client.write_large(f"{self._prefix}large/{size}", self._bodies[size])
            if bytes(client.read_large(f"{self._prefix}large/{size}")) != self._bodies[size]:
                raise WrongLengthError(f"{size} bytes were not read as they were written")
        if bytes(client.read(self._block(0))) != self._bodies[BLOCK]:
            raise WrongLengthError("a block was not read as it was written")
        self._fill(f"{self._prefix}listed/")
        self._fill(f"{self._prefix}deleted/")
        listed = client.list_keys(f"{self._prefix}listed/")
        deleted = client.delete_below(f"{self._prefix}deleted/")
        if (listed, deleted) != (LISTED, LISTED) or client.exists(f"{self._prefix}absent"):
            raise WrongLengthError(f"{listed} listed, {deleted} deleted, expected {LISTED} each")

    def _block(self, at: int) -> str:
        return f"{self._prefix}blocks/{at % _BLOCKS:02}"

    def _fill(self, prefix: str) -> None:
        """Have the service make keys to be listed or deleted."""
        connection = http.client.HTTPConnection(self._site.authority)
        connection.request("POST", f"/{_BUCKET}?fill={LISTED}&prefix={prefix}")
        if connection.getresponse().status != 200:
            raise ConnectionError("the service made no keys")
        connection.close()


def main() -> None:
    answers = take_stdout()
    worker = Worker(sys.argv[1], sys.argv[2])
    answer_commands(worker.run, answers)
    worker.close()


if __name__ == "__main__":
    main()
