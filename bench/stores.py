"""blockyard's own stores, measured by `blockyard bench`: memory, a folder, and S3 servers.

The servers are what development machines have: moto and LocalStack in Python, Ceph in C++. Of
the last two, those take part that are installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from bench.fleet import environment
from servers import ceph, localstack, moto
from servers.endpoint import Endpoint, create_bucket
from servers.process import ServerError

_BUCKET = "blocks"


def measure(seconds: float) -> dict[str, list[dict[str, Any]]]:
    """The rows of `blockyard bench --json` for each store, about `seconds` each."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, opened in _STORES.items():
        print(f"  blockyard bench on {name}", flush=True)
        try:
            with opened() as (url, keys):
                found[name] = _bench(url, keys, seconds)
        except ServerError as error:
            print(f"    left out: {error}", file=sys.stderr)
    return found


def _bench(url: str, keys: dict[str, str], seconds: float) -> list[dict[str, Any]]:
    command = [Path(sys.executable).with_name("blockyard"), "bench", "--json", "--bytes=64GiB"]
    done = subprocess.run(
        [*command, f"--store={url}", f"--seconds={seconds:g}"],
        env={**environment(), **keys},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


Opened = Generator[tuple[str, dict[str, str]]]


@contextmanager
def _memory() -> Opened:
    yield "memory://", {}


@contextmanager
def _folder() -> Opened:
    with tempfile.TemporaryDirectory(prefix="blockyard-bench-") as folder:
        yield f"file://{folder}", {}


def _server(
    serve: Callable[[], AbstractContextManager[Endpoint]],
) -> Callable[[], AbstractContextManager[tuple[str, dict[str, str]]]]:
    @contextmanager
    def opened() -> Opened:
        with serve() as endpoint:
            create_bucket(endpoint, _BUCKET)
            keys = {
                "AWS_ACCESS_KEY_ID": endpoint.access_key,
                "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
            }
            yield endpoint.store_url(_BUCKET), keys

    return opened


_STORES: dict[str, Callable[[], AbstractContextManager[tuple[str, dict[str, str]]]]] = {
    "memory": _memory,
    "file": _folder,
    "S3: moto": _server(moto.serve),
    "S3: LocalStack": _server(localstack.serve),
    "S3: Ceph": _server(ceph.serve),
}
