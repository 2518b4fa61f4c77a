"""The base of the test servers: what is sent arrives, whichever way the connection then ends."""

from __future__ import annotations

import socket
import threading

import pytest

from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.steps import Close, Reset

MORE_THAN_SOCKETS_HOLD = 32 << 20


class Sender(LoopbackServer):
    """Sends much more than the client reads, and ends the connection at once."""

    def __init__(self, end: Close | Reset) -> None:
        super().__init__()
        self.sent = threading.Event()
        self.unsent = 0
        self.delays = True
        self._end = end

    async def serve(self, client: Connection) -> None:
        transport = client._writer.transport
        transport.set_write_buffer_limits(high=MORE_THAN_SOCKETS_HOLD)
        await client.send(bytes(MORE_THAN_SOCKETS_HOLD))
        self.unsent = transport.get_write_buffer_size()
        self.delays = not client._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        self.sent.set()
        await self._end.play(client)


@pytest.mark.parametrize("end", [Close(), Reset()])
def test_a_slow_client_gets_all_that_was_sent_before_the_end(end: Close | Reset) -> None:
    with (
        Sender(end) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock,
    ):
        assert server.sent.wait(5)
        assert server.unsent > 0
        received = 0
        while received < MORE_THAN_SOCKETS_HOLD:
            received += len(sock.recv(1 << 20))
        if isinstance(end, Close):
            assert sock.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                _ = sock.recv(1)
        assert server.wait_until_drained()


def test_pieces_are_sent_as_they_come() -> None:
    with (
        Sender(Reset()) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5),
    ):
        assert server.sent.wait(5)
        assert not server.delays
