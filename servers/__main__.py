"""`python -m servers NAME`: run a server by hand until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import FrameType

from servers import ceph, localstack, ministack, moto, nginx, rclone
from servers.endpoint import Endpoint, create_bucket
from servers.process import ServerError

_BUCKET = "blocks"

_SERVERS: dict[str, Callable[[], AbstractContextManager[Endpoint]]] = {
    "moto": moto.serve,
    "moto-signed": partial(moto.serve, check_signatures=True),
    "localstack": localstack.serve,
    "ministack": ministack.serve,
    "rclone": rclone.serve,
    "ceph": ceph.serve,
    "ceph-bluestore": partial(ceph.serve, "bluestore"),
    "nginx": nginx.serve,
    "nginx-tls": partial(nginx.serve, tls=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m servers", description=__doc__)
    _ = parser.add_argument("name", choices=_SERVERS)
    name: str = parser.parse_args().name
    _ = signal.signal(signal.SIGTERM, _leave)
    try:
        with _SERVERS[name]() as endpoint:
            if endpoint.kind != "nginx":  # it has no buckets
                create_bucket(endpoint, _BUCKET)
            _introduce(endpoint)
            while True:
                signal.pause()
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _introduce(endpoint: Endpoint) -> None:
    # The keys open nothing but this server, which is gone with the process.
    print(f"export AWS_ACCESS_KEY_ID={endpoint.access_key}")
    print(f"export AWS_SECRET_ACCESS_KEY={endpoint.secret_key}")
    print(f"export BLOCKYARD_STORE='{endpoint.store_url(_BUCKET)}'")
    if endpoint.ca_bundle:
        print(f"export AWS_CA_BUNDLE={endpoint.ca_bundle}")
    for process in endpoint.processes.values():
        print(f"# {process.name} runs as pid {process.pid}")
    print("# Ctrl-C stops it.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
