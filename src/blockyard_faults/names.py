"""Host names that fail to resolve for a while, or that only a test knows."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

from blockyard.transport import resolving

if TYPE_CHECKING:
    from types import TracebackType


class FaultyNames:
    """Answers for the host names of `addresses` in this process, inside a `with` block.

    Each of them fails to resolve `failures` times (temporary failure, EAI_AGAIN) and then
    gives its address; every other name is resolved as ever. This takes the place of
    `socket.getaddrinfo`, which asyncio uses as well. `lookups` counts the questions.
    """

    def __init__(self, addresses: dict[str, str], *, failures: int = 0) -> None:
        self._addresses = addresses
        self._failures = failures
        self._resolve = socket.getaddrinfo
        self.lookups = dict.fromkeys(addresses, 0)

    def __enter__(self) -> Self:
        self._patch = mock.patch("socket.getaddrinfo", self._getaddrinfo)
        _ = self._patch.start()
        self._forget()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _ = self._patch.stop()
        self._forget()

    def _forget(self) -> None:
        """What blockyard has found for these names, and keeps for a few seconds."""
        for host in self._addresses:
            resolving.forget(host)

    def _getaddrinfo(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in self._addresses:
            self.lookups[host] += 1
            if self.lookups[host] <= self._failures:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            host = self._addresses[host]
        return self._resolve(host, *args, **kwargs)
