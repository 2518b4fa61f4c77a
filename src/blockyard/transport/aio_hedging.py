"""Two requests for one reply, under asyncio: the reply that begins first is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from blockyard.context import Hedge, Request, Response
from blockyard.transport.clock import monotonic
from blockyard.transport.http1 import ReplyReader
from blockyard.transport.tasks import until_done

NewReply = Callable[[], ReplyReader]
Exchange = Callable[[NewReply], Coroutine[Any, Any, Response]]
"""An exchange that calls for a new reply each time that its request goes out."""


async def hedged(exchange: Exchange, hedge: Hedge, request: Request, limit: int) -> Response:
    """The reply of one exchange, or of a second one that is begun when it is late."""
    news = asyncio.Event()
    tries = [_Try(exchange, request, limit, news)]
    try:
        if await _is_late(tries[0], news, hedge.after) and hedge.allowed():
            tries.append(_Try(exchange, request, limit, news))
        winner = await _first_to_begin(tries, news)
        response = await winner.exchange
        response.waited += winner.sent - tries[0].sent
        return response
    finally:
        for each in tries:
            _ = each.exchange.cancel()
        await until_done(each.exchange for each in tries)


class _Try:
    """An exchange under way; `news` is set when its reply begins or it ends."""

    def __init__(
        self, exchange: Exchange, request: Request, limit: int, news: asyncio.Event
    ) -> None:
        self.reply: ReplyReader | None = None
        self._request = request
        self._limit = limit
        self._news = news
        self.exchange = asyncio.create_task(exchange(self._new_reply))
        self.exchange.add_done_callback(lambda _: news.set())

    @property
    def sent(self) -> float:
        """When the request last went out; 0 until it has."""
        return 0.0 if self.reply is None else self.reply.sent

    @property
    def begun(self) -> bool:
        return self.reply is not None and self.reply.begun

    @property
    def failed(self) -> bool:
        return self.exchange.done() and not self.begun

    def _new_reply(self) -> ReplyReader:
        self.reply = _TellingReply(self._request, self._limit, self._news)
        return self.reply


class _TellingReply(ReplyReader):
    """A reply that sets `news` as it comes in."""

    __slots__ = ("_news",)

    def __init__(self, request: Request, limit: int, news: asyncio.Event) -> None:
        super().__init__(request.method, None, limit, request.sum_body)
        self._news = news

    def feed(self, buffer: bytearray, size: int) -> None:
        self._news.set()
        super().feed(buffer, size)


async def _is_late(only: _Try, news: asyncio.Event, after: float) -> bool:
    """Whether no byte has come `after` seconds after the request went out."""
    loop = asyncio.get_running_loop()
    wait = after
    while wait > 0:
        alarm = loop.call_later(wait, news.set)
        try:
            _ = await news.wait()
        finally:
            alarm.cancel()
        if only.begun or only.exchange.done():
            return False
        news.clear()
        # while it still waits for a connection it is not late
        wait = only.sent + after - monotonic() if only.sent else after
    return True


async def _first_to_begin(tries: list[_Try], news: asyncio.Event) -> _Try:
    """The try whose reply begins first; the first one when all fail before."""
    while True:
        for each in tries:
            if each.begun:
                return each
        if all(each.failed for each in tries):
            return tries[0]
        news.clear()
        _ = await news.wait()
