"""Requests that reach the server late: after their client gave up, retried or went on."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from blockyard.testing.messages import Head, Message
from blockyard.testing.steps import Pause, Reset, Steps
from blockyard_faults.fault import RequestFault
from blockyard_faults.upstream import Address, Upstream, UpstreamLostError

_CHANGES = ("PUT", "POST", "DELETE")


@dataclass(frozen=True)
class Hold(RequestFault):
    """The request is kept and handed to the server later; its reply goes to nobody.

    The client meets silence until it gives up, or with `reset` a RST once the whole request has
    come. The request is handed over when the server has answered `answered` later changes (PUT,
    POST, DELETE) of the same path with success: 1 is the client's retry, 2 a write or delete
    after that. Or when `seconds` have passed; or when `FaultProxy.release` is called, and with
    neither of the two only then.
    """

    answered: int | None = None
    seconds: float | None = None
    reset: bool = False

    def steps(self, method: str) -> Steps:
        return [Reset() if self.reset else Pause(float("inf"))]


@dataclass(eq=False)
class _Held:
    request: Message
    left: int | None
    due: asyncio.Event = field(default_factory=asyncio.Event)


class HeldRequests:
    """The requests that one proxy holds, and their way to the server at `address`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._waiting: dict[_Held, asyncio.Task[int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, request: Message, fault: Hold) -> None:
        """Keep `request` until it is due."""
        held = _Held(request, fault.answered)
        self._waiting[held] = asyncio.create_task(self._deliver(held, fault.seconds))

    def answered(self, head: Head) -> None:
        """The server has answered the request `head` with success."""
        if head.method not in _CHANGES:
            return
        for held in self._waiting:
            if held.left is not None and _path(held.request.head) == _path(head):
                held.left -= 1
                if held.left <= 0:
                    held.due.set()

    async def release(self) -> list[int]:
        """Hand over every request that is held, one after the other; the statuses of the replies.

        The status of a request that the server broke off is 0.
        """
        statuses: list[int] = []
        for held, delivery in list(self._waiting.items()):
            held.due.set()
            statuses.append(await delivery)
        return statuses

    async def _deliver(self, held: _Held, seconds: float | None) -> int:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    _ = await held.due.wait()
            return await self._ask(held.request)
        finally:
            del self._waiting[held]

    async def _ask(self, request: Message) -> int:
        upstream = Upstream(self._address)
        try:
            return (await upstream.ask_whole(request)).head.status
        except UpstreamLostError:
            return 0
        finally:
            await upstream.close()


def _path(head: Head) -> str:
    return head.target.partition("?")[0]
