"""What is still to be sent of a request, over a non-blocking socket, plain or TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockyard.transport.tls import TlsSocket

if TYPE_CHECKING:
    import socket


class Outgoing:
    """The head and body of a request: the caller's own buffers, neither joined nor copied."""

    __slots__ = ("_parts", "_sock")

    def __init__(
        self, sock: socket.socket | TlsSocket, head: bytes, body: bytes | memoryview
    ) -> None:
        self._sock = sock
        self._parts: list[bytes | memoryview] = [head, body] if body else [head]

    @property
    def left(self) -> bool:
        """Whether there is anything that the socket has not taken yet."""
        return bool(self._parts)

    def send(self) -> bool:
        """Send some by one system call; whether more is to be sent.

        Raises what `socket.send` does: `BlockingIOError` when the socket takes nothing now.
        """
        sock, parts = self._sock, self._parts
        tls = isinstance(sock, TlsSocket)
        if not parts:
            return tls and not sock.flush()
        size = sock.send(parts[0]) if tls or len(parts) == 1 else sock.sendmsg(parts)
        while size and size >= len(parts[0]):
            size -= len(parts.pop(0))
        if size:
            parts[0] = memoryview(parts[0])[size:]
        return tls or bool(parts)
