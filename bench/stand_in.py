"""Small servers of ours that stand in for a service, each in a process of its own."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from servers.endpoint import Endpoint
from servers.process import Process, temporary_folder
from servers.sockets import accepts_connections, free_port


def answer_at(port: int, converse: Callable[[socket.socket], None]) -> None:
    """Have `converse` answer each connection to a port of this machine, on a thread of its own."""
    with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
        while True:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=converse, args=(connection,), daemon=True).start()


@contextmanager
def serving(name: str, module: str) -> Generator[Endpoint]:
    """`python -m MODULE PORT`, which calls `answer_at`, until the end of the context."""
    port = free_port()
    repository = __file__.rpartition("/bench/")[0]
    with (
        temporary_folder(name) as folder,
        Process(
            name,
            [sys.executable, "-m", module, str(port)],
            folder,
            lambda: accepts_connections(port),
            environment={"PYTHONPATH": repository},
        ) as process,
    ):
        yield Endpoint(
            name, f"http://127.0.0.1:{port}", "testing", "testing", processes={name: process}
        )
