"""Ports of this machine: one that is free, one that answers."""

from __future__ import annotations

import http.client
import random
import socket

# Below the kernel's range for outgoing connections: there, a client that retries while its server
# is down can be handed the server's port, and then talks to itself.
_PORTS = range(20_000, 32_000)
_CHANCE = random.SystemRandom()
"""No seed: one that processes share would have them all try the same ports at the same moment."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    for port in _CHANCE.sample(_PORTS, k=100):
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port was found on 127.0.0.1")


def accepts_connections(port: int) -> bool:
    """Whether something listens on the port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def answers_http(port: int) -> bool:
    """Whether something on 127.0.0.1 answers an HTTP request, whatever it says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        _ = connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
