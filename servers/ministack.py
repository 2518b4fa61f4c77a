"""MiniStack, an emulator of AWS in one process: here its S3 alone, blocks in memory.

From the PyPI package `ministack`, in a virtual environment of its own (`make emulators-env`).
https://pypi.org/project/ministack/
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
    """MiniStack on loopback. It takes any keys."""
    program = require_emulator("ministack")
    port = free_port()
    environment = {
        "BIND_HOST": "127.0.0.1",  # by default it listens on every interface
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "LOG_LEVEL": "WARNING",
    }
    with (
        temporary_folder("ministack") as folder,
        Process(
            "ministack",
            [str(program)],
            folder,
            lambda: answers_http(port),
            environment=environment,
            timeout=60,
        ) as process,
    ):
        yield Endpoint(
            kind="ministack",
            url=f"http://127.0.0.1:{port}",
            access_key="test",
            secret_key=secrets.token_hex(20),  # any will do
            processes={"ministack": process},
        )
