"""A proxy on the loopback interface that does harm, by plan, between a client and an S3 server."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter, deque
from typing import TYPE_CHECKING

from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import (
    Head,
    Message,
    framed,
    read_body,
    read_head,
    reply_framing,
    request_framing,
    whole,
)
from blockyard.testing.steps import play
from blockyard_faults.fault import Fault, RequestFault
from blockyard_faults.held import HeldRequests, Hold
from blockyard_faults.plans import Plan, SeenRequest
from blockyard_faults.upstream import Address, Upstream, UpstreamLostError

if TYPE_CHECKING:
    import ssl
_HOP_BY_HOP = ("connection", "keep-alive", "proxy-connection")
_SECRET = ("authorization", "proxy-authorization", "cookie", "x-amz-security-token")
_SECRET_IN_TARGET = re.compile(r"(x-amz-(?:signature|security-token)=)[^&]*", re.IGNORECASE)


class FaultProxy(LoopbackServer):
    """An HTTP/1.1 proxy in front of `upstream_url` that gives each request the fault of `plan`.

    Point a client's endpoint at `url`, with path-style addressing. The `Host` header goes on as
    the client signed it, so signatures hold wherever the server accepts any host name. Bodies
    are streamed; only a request that meets a fault is held in memory. Connections are kept open
    on both sides. A client that closes its side is taken to be gone, and its request dropped.

    `tls` makes the client's side HTTPS; `upstream_tls` is the context for an https upstream.
    `handshake_delay` is the seconds before each TLS handshake begins; `close_after` closes each
    client connection, without a word, once it has served that many requests. `log_limit` is how
    many requests `requests` keeps. Raises `ValueError` for a URL that names no server.
    """

    def __init__(
        self,
        upstream_url: str,
        plan: Plan,
        *,
        tls: ssl.SSLContext | None = None,
        upstream_tls: ssl.SSLContext | None = None,
        handshake_delay: float = 0.0,
        close_after: int | None = None,
        log_limit: int = 10_000,
    ) -> None:
        super().__init__(tls=tls, handshake_delay=handshake_delay)
        self._address = Address.of(upstream_url, upstream_tls)
        self._held = HeldRequests(self._address)
        self._plan = plan
        self._close_after = close_after
        self._numbers = itertools.count(1)
        self._log: deque[SeenRequest] = deque(maxlen=log_limit)
        self._counts: Counter[str] = Counter()
        self._upstream_failures = 0

    @property
    def requests(self) -> list[SeenRequest]:
        """The requests seen, oldest first, whatever became of them."""
        return list(self._log)

    @property
    def counts(self) -> Counter[str]:
        """How often each fault was met, by name; not those for which a reply gave no hold."""
        return self._counts.copy()

    @property
    def upstream_failures(self) -> int:
        """How often the server behind was not reached or broke off, and the client was reset."""
        return self._upstream_failures

    @property
    def held(self) -> int:
        """How many requests are kept by `Hold` and have not been answered by the server yet."""
        return len(self._held)

    def release(self) -> list[int]:
        """Hand every request that `Hold` keeps to the server, the oldest first.

        Returns the statuses of the replies, 0 where the server broke off, when all have come.
        """
        return asyncio.run_coroutine_threadsafe(self._held.release(), self._loop).result()

    async def serve(self, client: Connection) -> None:
        """Pass requests on until either side has had enough."""
        upstream = Upstream(self._address)
        this = asyncio.current_task()
        assert this is not None

        def hang_up(gone: asyncio.Future[None]) -> None:
            _ = this.cancel()

        client.gone.add_done_callback(hang_up)
        try:
            await self._serve(client, upstream)
        except UpstreamLostError:
            self._upstream_failures += 1
            await client.reset()
        finally:
            _ = client.gone.remove_done_callback(hang_up)
            await upstream.close()

    async def _serve(self, client: Connection, upstream: Upstream) -> None:
        for served in itertools.count(1):
            head = await read_head(client.reader)
            if head is None:
                return
            fault = self._plan(self._see(client, head))
            if head.get("expect"):  # answered here, so that nothing waits for the server behind
                await client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self._answer(client, upstream, head.without("expect", *_HOP_BY_HOP), fault)
            if client.closed or not head.keeps_open or served == self._close_after:
                return

    async def _answer(
        self, client: Connection, upstream: Upstream, head: Head, fault: Fault | None
    ) -> None:
        if fault is None:
            await self._pass_on(client, upstream, head)
        elif isinstance(fault, Hold):
            self._held.hold(await _whole_request(client, head), fault)
            self._counts[fault.name] += 1
            await play(fault.steps(head.method), client)
        elif isinstance(fault, RequestFault):
            await _read_some(client, head, fault)
            self._counts[fault.name] += 1
            await play(fault.steps(head.method), client)
        else:
            request = await _whole_request(client, head)
            reply = await upstream.ask_whole(fault.passed_on(request))
            self._answered(head, reply.head)
            reply = Message(_as_ours(reply.head), reply.body)
            steps = fault.steps(request, reply)
            if steps is None:
                steps = [reply.encode()]
            else:
                self._counts[fault.name] += 1
            await play(steps, client)

    async def _pass_on(self, client: Connection, upstream: Upstream, head: Head) -> None:
        """The request and its reply unharmed, piece by piece."""
        sent = request_framing(head)
        reply = await upstream.ask(head, framed(sent, read_body(client.reader, sent)))
        self._answered(head, reply)
        framing = reply_framing(reply, head.method)
        await client.send(_as_ours(reply).encode())
        async for piece in framed(framing, upstream.answer(reply, framing)):
            await client.send(piece)
        if framing == "until close" or not upstream.took_all:
            await client.close()

    def _answered(self, request: Head, reply: Head) -> None:
        if reply.status < 300:
            self._held.answered(request)

    def _see(self, client: Connection, head: Head) -> SeenRequest:
        framing = request_framing(head)
        request = SeenRequest(
            number=next(self._numbers),
            connection=client.number,
            method=head.method,
            target=_SECRET_IN_TARGET.sub(r"\1***", head.target),
            headers={name: "***" if name in _SECRET else value for name, value in head.items()},
            body_length=framing if isinstance(framing, int) else None,
        )
        self._log.append(request)
        return request


async def _read_some(client: Connection, head: Head, fault: RequestFault) -> None:
    """As much of the request's body as the fault lets through."""
    framing = request_framing(head)
    length = framing if isinstance(framing, int) else 0
    wanted = fault.wanted(length)
    async for _ in read_body(client.reader, framing if wanted is None else min(wanted, length)):
        pass


async def _whole_request(client: Connection, head: Head) -> Message:
    """The request as it came, with all of its body."""
    framing = request_framing(head)
    return await whole(head, framing, read_body(client.reader, framing))


def _as_ours(reply: Head) -> Head:
    """The head as the proxy sends it: what was between it and the server behind is left out."""
    first, *others = reply.without(*_HOP_BY_HOP).lines
    return Head((b"HTTP/1.1" + first[8:], *others))
