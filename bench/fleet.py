"""The workers: a process for each client, taking turns so that one runs at a time."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from bench import data, limit, pages, wire
from bench.driving import Sample
from bench.workloads import LIMIT, Workload, split_contender
from servers.endpoint import Endpoint

REPOSITORY = Path(__file__).resolve().parent.parent
_PATIENCE = 120.0


class WorkerError(Exception):
    """A client could not do what was asked; the message holds its traceback."""


class Fleet:
    """The endpoints and the workers, started when first needed; use it in a `with`."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._endpoints: dict[str, Endpoint] = {}
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._workers.values():
            worker.stop()
        self._running.close()

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint `nginx`, `nginx-tls` or `pages`, which runs until the fleet is left."""
        if name not in self._endpoints:
            serving = {
                "nginx": wire.serve,
                "nginx-tls": lambda: wire.serve(tls=True),
                "pages": pages.serve,
            }
            self._endpoints[name] = self._running.enter_context(serving[name]())
        return self._endpoints[name]

    def sample(self, workload: Workload, contender: str, seconds: float) -> Sample:
        """Let one contender work for about `seconds`. Raises `WorkerError`."""
        endpoint = self.endpoint(workload.endpoint)
        if contender == LIMIT:
            return limit.measure(workload, endpoint, seconds)
        peer, _, _ = split_contender(contender)
        if peer not in self._workers:
            self._workers[peer] = Worker(peer)
        try:
            return self._workers[peer].ask(command_for(workload, contender, endpoint, seconds))
        except WorkerError:
            self._workers.pop(peer).stop()
            raise


def command_for(
    workload: Workload, contender: str, endpoint: Endpoint, seconds: float
) -> dict[str, Any]:
    """What a worker is told; see `worker`."""
    peer, mode, variant = split_contender(contender)
    return {
        "workload": workload.as_json(),
        "contender": contender,
        "mode": mode,
        "variant": variant,
        "seconds": seconds,
        "where": where(endpoint, peer, variant),
    }


def where(endpoint: Endpoint, peer: str, variant: str = "default") -> dict[str, str]:
    """Where a client finds the blocks it reads; see `wire` for the two buckets."""
    own = peer == "blockyard" and variant != "unverified"
    return {
        "url": endpoint.url,
        "ca_bundle": endpoint.ca_bundle,
        "bucket": data.KEPT if own else data.PLAIN,
    }


def environment() -> dict[str, str]:
    """For a client's process: no proxy and no settings but what the harness gives it."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(REPOSITORY),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


class Worker:
    """One client's process, and the pipes to it; `command` is another than `bench.worker`."""

    def __init__(self, peer: str, command: Sequence[str] | None = None) -> None:
        self._peer = peer
        self._process = subprocess.Popen(
            command or [sys.executable, "-m", "bench.worker", peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=environment(),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def ask(self, command: dict[str, Any]) -> Sample:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        print(json.dumps(command), file=requests, flush=True)
        ready, _, _ = select.select([answers], [], [], _PATIENCE)
        line = answers.readline() if ready else ""
        if not line:
            what = "ended" if ready else f"did not answer within {_PATIENCE:g} s"
            raise WorkerError(f"{self._peer} {what}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return Sample(**answer)

    def stop(self) -> None:
        self._process.kill()  # it holds nothing that would be lost
        _ = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
