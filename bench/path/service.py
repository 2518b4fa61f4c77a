"""A bucket in memory as an S3 service over HTTP/1.1, on one event loop.

`python -m bench.path.service ADDRESS PORT FILE` serves until it is ended, and makes FILE once it
listens. `POST /BUCKET?fill=COUNT&prefix=PREFIX`, which is not S3's, makes that many empty
objects, so that a benchmark can delete them again and again.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path as FilePath

import httptools

from bench.path.network import SERVER_ADDRESS, Path
from bench.path.objects import Bucket, Reply, Request, keys_below
from servers.endpoint import Endpoint
from servers.process import Process, temporary_folder

_REPOSITORY = FilePath(__file__).parents[2]
PORT = 8080
_BACKLOG = 1024
_SENT_TOGETHER = 64 * 1024
"""A body up to so many bytes goes out with its head, in one call of the system."""


class Conversation(asyncio.Protocol):
    """One client's connection: requests in, and to each its reply."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        request = Request(
            self._parser.get_method().decode(),
            self._target.decode("latin-1"),
            self._headers,
            b"".join(self._pieces),
        )
        self._pieces.clear()
        self._send(self._fill(request) or self._bucket.answer(request))

    def _fill(self, request: Request) -> Reply | None:
        query = request.query if request.method == "POST" else {}
        if "fill" not in query:
            return None
        for key in keys_below(query["prefix"], int(query["fill"])):
            _ = self._bucket.put(key, b"")
        return Reply(200)

    def _send(self, reply: Reply) -> None:
        if len(reply.body) <= _SENT_TOGETHER:
            self._transport.write(reply.head() + reply.body)
        else:
            self._transport.write(reply.head())
            self._transport.write(reply.body)


async def serve(address: str, port: int) -> asyncio.Server:
    """Listen there, on the loop that runs."""
    bucket = Bucket()
    return await asyncio.get_running_loop().create_server(
        lambda: Conversation(bucket), address, port, backlog=_BACKLOG, family=socket.AF_INET
    )


@contextmanager
def at_the_far_end(path: Path) -> Generator[Endpoint]:
    """The service on the server's side of a path, in a process of its own."""
    with temporary_folder("service") as folder:
        listening = folder / "listening"
        module = [sys.executable, "-m", __name__, SERVER_ADDRESS, str(PORT), str(listening)]
        with Process(
            "service",
            path.command("server", module),
            folder,
            listening.exists,
            environment={"PYTHONPATH": str(_REPOSITORY)},
        ) as process:
            yield Endpoint(
                kind="memory",
                url=f"http://{SERVER_ADDRESS}:{PORT}",
                access_key="testing",
                secret_key="testing",
                processes={"service": process},
            )


def main() -> None:
    address, port, listening = sys.argv[1:]
    with asyncio.Runner() as runner:
        server = runner.run(serve(address, int(port)))
        FilePath(listening).touch()
        runner.run(server.serve_forever())


if __name__ == "__main__":
    main()
