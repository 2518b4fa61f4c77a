"""One client in a process of its own, told what to do in lines of JSON.

`python -m bench.worker PEER` reads a command a line from its standard input and answers each
with a line: a sample, or the error that came instead. It opens the client when it is first
needed and keeps it, and its connections, for as long as it runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Any, TextIO
from urllib.request import urlopen

from bench import data
from bench.driving import (
    Sample,
    WrongLengthError,
    drive_asyncio,
    drive_held,
    drive_many,
    drive_plain,
    drive_threads,
)
from bench.site import Site
from bench.workloads import DELETED, KIB, LISTED, MIB, RANGED_BLOCK

_WARM_UP = 0.15
"""Part of the measuring time that is worked before it begins."""
_BATCH_BYTES = 64 * MIB
_BATCH = 1024
_PICKED = 4096

Command = dict[str, Any]
"""See `fleet.command_for`."""


class Worker:
    """The clients of one peer, by mode and endpoint."""

    def __init__(self, peer: str) -> None:
        self._module = import_module(f"bench.peers.{peer}")
        self._clients: dict[Any, Any] = {}
        self._loop = asyncio.Runner()
        self._verified: set[str] = set()

    def run(self, command: Command) -> Sample:
        """Measure one workload for a while; the first time, check what it reads or writes."""
        work, seconds = command["workload"], command["seconds"]
        client = self._client(command)
        items = _items(work, command["contender"])
        if command["contender"] + work["name"] not in self._verified:
            self._verify(client, command, items)
            self._verified.add(command["contender"] + work["name"])
        if work["operation"] in {"list", "delete"}:
            return self._drive(client, command, items, 0, 1)
        warm = self._drive(client, command, items, seconds * _WARM_UP, work["in_flight"])
        batch = _batch(work, warm.operations / warm.seconds * seconds)
        return self._drive(client, command, items, seconds, batch)

    def close(self) -> None:
        for (mode, *_), client in self._clients.items():
            if mode == "asyncio":
                self._loop.run(client.close())
            else:
                client.close()
        self._loop.close()

    def _client(self, command: Command) -> Any:
        mode, work, where = command["mode"], command["workload"], command["where"]
        many = work["in_flight"] if mode == "many" else None
        kind = "plain" if mode in {"threads", "held"} else mode
        wanted = (
            kind,
            where["url"],
            where["bucket"],
            work["sign_payload"],
            command["variant"],
            many,
        )
        if wanted not in self._clients:
            site = Site(
                where["url"],
                where["bucket"],
                ca_bundle=where["ca_bundle"],
                sign_payload=work["sign_payload"],
                variant=command["variant"],
            )
            self._clients[wanted] = self._open(kind, site, many)
        return self._clients[wanted]

    def _open(self, kind: str, site: Site, many: int | None) -> Any:
        match kind:
            case "asyncio":
                client = self._module.AsyncClient(site)
                self._loop.run(client.open())
                return client
            case "many":
                return self._module.ManyClient(site, many)
            case _:
                return self._module.Client(site)

    def _drive(
        self, client: Any, command: Command, items: list[Any], seconds: float, batch: int
    ) -> Sample:
        work = command["workload"]
        call = _call(client, command["mode"], work["operation"])
        size = work["size"] if work["operation"] in {"read", "range"} else None
        match command["mode"]:
            case "plain":
                return drive_plain(call, items, seconds, size)
            case "threads":
                return drive_threads(call, items, seconds, size, work["in_flight"])
            case "held":
                count = work["in_flight"]
                return drive_held(call, items, seconds, size, count=count, batch=batch)
            case "asyncio":
                return self._loop.run(drive_asyncio(call, items, seconds, size, work["in_flight"]))
            case "many":
                return drive_many(call, items, seconds, size, batch)
            case other:
                raise ValueError(other)

    def _verify(self, client: Any, command: Command, items: list[Any]) -> None:
        """Hold what one call reads, or what can be read back of what it wrote, to the truth."""
        work, mode = command["workload"], command["mode"]
        operation = work["operation"]
        if operation == "list":
            found = client.list_keys()
            if found != LISTED:
                raise WrongLengthError(f"{found} keys listed, expected {LISTED}")
        elif operation == "delete":
            deleted = client.delete(items[0][0])
            if deleted != DELETED:
                raise WrongLengthError(f"{deleted} keys deleted, expected {DELETED}")
        elif operation == "write":
            key, body = items[0][0], os.urandom(work["size"])
            _ = self._once(client, mode, operation, (key, body))
            if _read_back(command["where"], key) != body:
                raise WrongLengthError(f"{key}: stored were other bytes than were written")
        elif operation in {"read", "range"}:
            found = bytes(self._once(client, mode, operation, items[0]))
            key, *part = items[0] if isinstance(items[0], tuple) else (items[0],)
            whole = data.content(RANGED_BLOCK if part else work["size"], key)
            wanted = whole[part[0] : part[0] + part[1]] if part else whole
            if found != wanted:
                raise WrongLengthError(f"{items[0]}: read other bytes than were stored")

    def _once(self, client: Any, mode: str, operation: str, item: Any) -> Any:
        call = _call(client, mode, operation)
        match mode:
            case "many":
                return (call([item]) or [None])[0]
            case "asyncio":
                return self._loop.run(call(*item))
            case _:
                return call(*item)


def _read_back(where: dict[str, Any], key: str) -> bytes:
    """What the server has under `key`, by another client than the one that is measured."""
    context = ssl.create_default_context(cafile=where["ca_bundle"]) if where["ca_bundle"] else None
    with urlopen(f"{where['url']}/{where['bucket']}/{key}", context=context) as reply:
        return reply.read()


def _call(client: Any, mode: str, operation: str) -> Any:
    names = {
        "read": "read_many" if mode == "many" else "read",
        "range": "read_ranges" if mode == "many" else "read_range",
        "write": "write_many" if mode == "many" else "write",
        "list": "list_keys",
        "delete": "delete",
        "copy": "copy",
    }
    return getattr(client, names[operation])


def _items(work: dict[str, Any], contender: str) -> list[Any]:
    """The arguments of the calls, in a random order that is the same for all."""
    chance = random.Random(work["name"])
    size = work["size"]
    many = contender.endswith(" many")
    match work["operation"]:
        case "read":
            keys = chance.choices(data.read_keys(size), k=_PICKED)
            return keys if many else [(key,) for key in keys]
        case "range":
            keys = chance.choices(data.read_keys(RANGED_BLOCK), k=_PICKED)
            step = size if work["aligned"] else 1
            places = (RANGED_BLOCK - size) // step + 1
            return [(key, chance.randrange(places) * step, size) for key in keys]
        case "write":
            body = data.body(size)
            return [(key, body) for key in data.written_keys(size)]
        case "list":
            return [()]
        case "delete":
            return [(data.LISTED_KEYS[:DELETED],)]
        case "copy":
            return [("share/source", "share/target")]
        case other:
            raise ValueError(other)


def _batch(work: dict[str, Any], expected: float) -> int:
    """Operations to a bulk call, where about `expected` are done while measuring.

    A quarter of them, but no more than `_BATCH` or than fit in `_BATCH_BYTES`, and always
    enough to keep all places taken.
    """
    most = min(_BATCH, _BATCH_BYTES // max(work["size"], 1 * KIB), round(expected / 4))
    return max(work["in_flight"], most)


def main() -> None:
    answers = take_stdout()
    worker = Worker(sys.argv[1])
    answer_commands(worker.run, answers)
    worker.close()


def answer_commands(run: Callable[[Command], Sample], answers: TextIO) -> None:
    """Answer each line of standard input with a line of `answers`."""
    for line in sys.stdin:
        try:
            answer = asdict(run(json.loads(line)))
        except Exception as error:
            answer = {"error": "".join(traceback.format_exception(error, limit=-4))}
        print(json.dumps(answer), file=answers, flush=True)


def take_stdout() -> TextIO:
    """The standard output, for answers alone: what a client prints goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w")
    _ = os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    main()
