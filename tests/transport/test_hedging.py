"""Hedged reads: when a second request goes out, which reply is read, and what is left behind."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from blockyard import AsyncBlockStore, BlockStore, open_async_store, open_store
from blockyard.config import HttpConfig
from blockyard.context import Hedge, Response
from blockyard.errors import (
    DeadlineExceededError,
    IncompleteBodyError,
    TransportConnectionError,
    TransportError,
)
from blockyard.model import MIB
from blockyard.s3.hedging import Hedging
from blockyard.testing.loopback import Connection, LoopbackServer
from blockyard.testing.messages import read_head
from blockyard.testing.scripted import (
    ClientCloses,
    Close,
    Pause,
    Receive,
    Reset,
    ScriptedServer,
)
from blockyard.testing.steps import Step
from blockyard.transport import exchanging
from servers.certificates import ServerCertificate, issue_certificate
from tests.transport.runtimes import LIMIT, OK, Driver, ask, both_runtimes, driving

FIRST = OK.replace(b"hello", b"first")
SECOND = OK.replace(b"hello", b"again")
AFTER = 0.03
"""Seconds until the hedges of these tests, unless they are meant never to come."""
LONG = 0.4
"""Seconds after which a reply is late beyond doubt."""
LONGER = 4 * LONG
"""Seconds in which a busy machine shakes hands twice."""
NEVER = 60.0


@pytest.fixture(autouse=True)
def time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a TLS handshake takes longer than a second request waits for one."""
    monkeypatch.setattr(exchanging, "_LEAST_CONNECT_SECONDS", 10.0)


# When.


def after_reads(*waits: float) -> Hedging:
    hedging = Hedging()
    for waited in waits:
        hedging.answered(waited)
    return hedging


def test_nothing_is_hedged_until_enough_was_seen() -> None:
    assert after_reads(*[0.1] * 63).hedge is None
    assert after_reads(*[0.1] * 64).hedge is not None


def test_late_is_later_than_95_in_100() -> None:
    hedging = after_reads(*[each / 1000 for each in range(512)])
    assert hedging.hedge is not None
    assert sum(each / 1000 > hedging.hedge.after for each in range(512)) == 25  # of 512


def test_what_is_late_follows_the_service() -> None:
    hedging = after_reads(*[0.001] * 1000)
    assert hedging.hedge is not None
    assert hedging.hedge.after == 0.001
    for _ in range(511):
        hedging.answered(0.5)
    assert hedging.hedge.after == 0.5


def test_one_read_in_twenty_pays_for_a_hedge() -> None:
    hedging = after_reads(*[0.1] * 64)
    assert hedging.hedge is not None
    assert [hedging.hedge.allowed() for _ in range(5)] == [True, True, True, False, False]
    assert hedging.sent == 3
    for _ in range(15):
        hedging.answered(0.1)
    assert not hedging.hedge.allowed()
    hedging.answered(0.1)
    assert hedging.hedge.allowed()
    assert not hedging.hedge.allowed()


def test_a_quiet_time_is_not_saved_up_for_a_storm() -> None:
    hedging = after_reads(*[0.1] * 100_000)
    assert hedging.hedge is not None
    assert sum(hedging.hedge.allowed() for _ in range(1000)) == 25


def test_the_budget_holds_whatever_happens() -> None:
    hedging = after_reads(*[0.1] * 64)
    allowed = 0
    for _ in range(5000):
        assert hedging.hedge is not None
        for _ in range(3):
            allowed += hedging.hedge.allowed()
        hedging.answered(1.0)
        assert allowed == hedging.sent <= hedging.reads / 20
    assert hedging.sent > 240


def test_threads_do_not_overdraw_the_budget() -> None:
    hedging = after_reads(*[0.1] * 512)
    hedge = hedging.hedge
    assert hedge is not None
    allowed: list[int] = []
    start = threading.Barrier(8)

    def draw() -> None:
        _ = start.wait()
        allowed.append(sum(hedge.allowed() for _ in range(2000)))

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == hedging.sent == 25


# Which reply, and what becomes of the other connection.


class Allowing:
    """A hedge, and how often it was asked for."""

    def __init__(self, *, after: float = AFTER, answer: bool = True) -> None:
        self.asked = 0
        self.won = 0
        self._answer = answer
        self.hedge = Hedge(after, self._allowed, self._count_won)

    def _allowed(self) -> bool:
        self.asked += 1
        return self._answer

    def _count_won(self) -> None:
        self.won += 1


def hedged(driver: Driver, url: str, allowing: Allowing, seconds: float | None = None) -> Response:
    deadline = None if seconds is None else time.monotonic() + seconds
    exchange = driver.runtime.exchange(
        ask(url), limit=LIMIT, deadline=deadline, hedge=allowing.hedge
    )
    return driver.run(exchange)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return issue_certificate(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificate: ServerCertificate) -> Tls | None:
    return Tls(certificate) if request.param == "tls" else None


class Tls:
    def __init__(self, certificate: ServerCertificate) -> None:
        self.http = HttpConfig(ca_bundle=str(certificate.authority))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate.certificate, certificate.key)


class BothAsked(Step):
    """Goes on when each of two connections has had its request, however late the second is."""

    def __init__(self) -> None:
        self._there = 0

    async def play(self, client: Connection) -> None:
        self._there += 1
        while self._there < 2:  # noqa: ASYNC110 - both are on the server's loop
            await asyncio.sleep(0.001)


@contextmanager
def talking(
    runtime: str, tls: Tls | None, *scripts: list[object], http: HttpConfig | None = None
) -> Generator[tuple[Driver, ScriptedServer], None, None]:
    """A runtime, and a server that plays `scripts`; at the end neither has a connection left."""
    http = tls.http if tls else http
    context = tls.context if tls else None
    with (
        ScriptedServer(*scripts, tls=context) as server,  # pyright: ignore[reportArgumentType]
        driving(runtime, http) as driver,  # pyright: ignore[reportArgumentType]
    ):
        yield driver, server


@both_runtimes
def test_a_reply_in_time_is_not_hedged(runtime: str, tls: Tls | None) -> None:
    allowing = Allowing(after=NEVER)
    with talking(runtime, tls, [Receive(), FIRST, Receive(), FIRST]) as (driver, server):
        for _ in range(2):
            assert hedged(driver, server.url, allowing).body == b"first"
        assert driver.counts() == (0, 1)
    assert allowing.asked == 0


@both_runtimes
def test_a_late_reply_is_overtaken_and_its_connection_closed(runtime: str, tls: Tls | None) -> None:
    allowing = Allowing()
    late = [Receive(), ClientCloses()]
    with talking(runtime, tls, late, [Receive(), SECOND, Receive(), SECOND]) as (driver, server):
        response = hedged(driver, server.url, allowing)
        assert response.body == b"again"
        assert response.waited >= AFTER
        assert driver.counts() == (0, 1)  # the winner's
        assert hedged(driver, server.url, Allowing(after=NEVER)).body == b"again"
    assert (allowing.asked, allowing.won) == (1, 1)
    assert len(server.requests) == 3
    assert server.requests[0].head.lines == server.requests[1].head.lines


@both_runtimes
def test_the_first_reply_wins_when_it_begins_first(runtime: str, tls: Tls | None) -> None:
    """Over TLS the second connection has something to read all the same: session tickets."""
    both = BothAsked()
    first, second = [Receive(), both, FIRST], [Receive(), both, ClientCloses()]
    with talking(runtime, tls, first, second) as (driver, server):
        allowing = Allowing()
        assert hedged(driver, server.url, allowing).body == b"first"
        assert driver.counts() == (0, 1)
    assert (allowing.asked, allowing.won) == (1, 0)


@both_runtimes
def test_a_reply_that_has_begun_is_waited_for(runtime: str, tls: Tls | None) -> None:
    begins = [Receive(), FIRST[:5], Pause(3 * LONG), FIRST[5:]]
    with talking(runtime, tls, begins) as (driver, server):
        allowing = Allowing(after=2 * LONG)
        assert hedged(driver, server.url, allowing).body == b"first"
    assert allowing.asked == 0


@both_runtimes
def test_a_reply_that_begins_is_read_though_the_other_would_be_whole_sooner(runtime: str) -> None:
    both = BothAsked()
    with talking(
        runtime,
        None,
        [Receive(), both, FIRST[:-1], Pause(LONG), FIRST[-1:]],
        [Receive(), both, Pause(LONG / 2), ClientCloses()],
    ) as (driver, server):
        assert hedged(driver, server.url, Allowing()).body == b"first"


@both_runtimes
def test_without_budget_the_first_reply_is_waited_for(runtime: str, tls: Tls | None) -> None:
    allowing = Allowing(answer=False)
    with talking(runtime, tls, [Receive(), Pause(LONG), FIRST]) as (driver, server):
        assert hedged(driver, server.url, allowing).body == b"first"
    assert allowing.asked == 1


@both_runtimes
@pytest.mark.parametrize("end", [Reset(), Close()])
@pytest.mark.parametrize("fails", ["first", "second"])
def test_one_that_fails_leaves_it_to_the_other(
    runtime: str, tls: Tls | None, end: object, fails: str
) -> None:
    both = BothAsked()
    broken, answered = [Receive(), both, end], [Receive(), both, Pause(LONG / 2), SECOND]
    scripts = [broken, answered] if fails == "first" else [answered, broken]
    with talking(runtime, tls, *scripts) as (driver, server):
        assert hedged(driver, server.url, Allowing()).body == b"again"
        assert driver.counts() == (0, 1)


@both_runtimes
def test_both_failing_is_an_error(runtime: str, tls: Tls | None) -> None:
    broken = [Receive(), BothAsked(), Reset()]
    with talking(runtime, tls, broken, broken) as (driver, server):
        with pytest.raises(TransportConnectionError):
            _ = hedged(driver, server.url, Allowing())
        assert driver.counts() == (0, 0)


@both_runtimes
def test_one_that_fails_before_it_is_late_is_an_error_at_once(runtime: str) -> None:
    allowing = Allowing(after=NEVER)
    with (
        talking(runtime, None, [Receive(), Reset()]) as (driver, server),
        pytest.raises(TransportConnectionError),
    ):
        _ = hedged(driver, server.url, allowing)
    assert allowing.asked == 0


@both_runtimes
def test_a_winner_that_breaks_off_is_told_with_what_came(runtime: str) -> None:
    late = [Receive(), ClientCloses()]
    with talking(runtime, None, late, [Receive(), SECOND[:-2], Close()]) as (driver, server):
        with pytest.raises(IncompleteBodyError) as raised:
            _ = hedged(driver, server.url, Allowing())
        assert raised.value.partial == b"aga"
        assert driver.counts() == (0, 0)


@both_runtimes
@pytest.mark.parametrize("end", [Reset(), Close()])
def test_a_connection_closed_while_idle_is_replaced(
    runtime: str, tls: Tls | None, end: object
) -> None:
    """It fails as the next request comes, which nothing can tell before."""
    with talking(runtime, tls, [Receive(), FIRST, Receive(), end], [Receive(), SECOND]) as (
        driver,
        server,
    ):
        allowing = Allowing(after=NEVER)
        assert hedged(driver, server.url, allowing).body == b"first"
        assert hedged(driver, server.url, allowing).body == b"again"
        assert driver.counts() == (0, 1)


@both_runtimes
def test_the_deadline_ends_both(runtime: str, tls: Tls | None) -> None:
    silent = [Receive(), ClientCloses()]
    with talking(runtime, tls, silent, silent) as (driver, server):
        with pytest.raises(DeadlineExceededError):
            _ = hedged(driver, server.url, Allowing(), seconds=LONGER)
        assert driver.counts() == (0, 0)
        assert server.wait_until_drained()


@both_runtimes
def test_a_pool_without_room_for_a_second_connection(runtime: str) -> None:
    with talking(
        runtime, None, [Receive(), Pause(LONG), FIRST], http=HttpConfig(max_connections=1)
    ) as (driver, server):
        allowing = Allowing()
        assert hedged(driver, server.url, allowing).body == b"first"
        assert driver.counts() == (0, 1)
    assert (allowing.asked, allowing.won) == (0, 0)


@both_runtimes
def test_a_second_connection_that_does_not_come_about(runtime: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve() -> None:
        client, _ = listener.accept()
        listener.close()  # from now on nobody is let in
        with client:
            assert client.recv(4096)
            time.sleep(LONG)
            client.sendall(FIRST)
            assert client.recv(1) == b""

    server = threading.Thread(target=serve)
    server.start()
    with driving(runtime) as driver:  # pyright: ignore[reportArgumentType]
        allowing = Allowing()
        assert hedged(driver, f"http://127.0.0.1:{port}", allowing).body == b"first"
        assert driver.counts() == (0, 1)
    server.join()
    assert allowing.asked == 1


@pytest.mark.parametrize("when", ["before the hedge", "after it"])
def test_a_cancelled_read_leaves_nothing_behind(tls: Tls | None, when: str) -> None:
    silent = [Receive(), ClientCloses()]
    early = when == "before the hedge"
    with talking("asyncio", tls, *[silent] * (1 if early else 2)) as (driver, server):

        async def main() -> None:
            hedge = Hedge(NEVER if early else AFTER, lambda: True, lambda: None)
            call = asyncio.ensure_future(
                driver.runtime.exchange(ask(server.url), limit=LIMIT, hedge=hedge)
            )
            while len(server.requests) < (1 if early else 2):  # noqa: ASYNC110 - a thread's doing
                await asyncio.sleep(0.005)
            _ = call.cancel()
            with pytest.raises(asyncio.CancelledError):
                _ = await call
            assert len(asyncio.all_tasks()) == 1

        driver.run(main())
        assert driver.counts() == (0, 0)
        assert server.wait_until_drained()


def test_the_time_to_connect_is_not_held_against_a_reply(certificate: ServerCertificate) -> None:
    """A handshake that takes longer than replies do is no reason to begin another."""
    tls = Tls(certificate)
    allowing = Allowing(after=2 * LONG)
    with ScriptedServer([Receive(), FIRST], tls=tls.context) as server:
        server._handshake_delay = 3 * LONG
        with driving("asyncio", tls.http) as driver:
            assert hedged(driver, server.url, allowing).body == b"first"
    assert allowing.asked == 0


# A whole store.


class Forgetful(LoopbackServer):
    """Never answers one read in forty, once it has answered a hundred; one of them at a time.

    So the second request for that one is answered, however many others came between the two.
    """

    def __init__(self, body: bytes, tls: ssl.SSLContext | None) -> None:
        super().__init__(tls=tls)
        self.body = body
        self.seen = 0
        self.forgotten = 0
        self._forgets_next = 120
        self._holding = False

    async def serve(self, client: Connection) -> None:
        head = f'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: {len(self.body)}\r\n\r\n'
        while (request := await read_head(client.reader)) is not None:
            self.seen += 1
            listing = "?" in request.target
            if self.seen >= self._forgets_next and not self._holding and not listing:
                self.forgotten += 1
                self._forgets_next = self.seen + 40
                self._holding = True
                await client.gone
                self._holding = False
                return
            await client.send(LISTING if listing else head.encode() + self.body)


LISTED = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
LISTING = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LISTED), LISTED)
READS = 900


def blocking(store: BlockStore) -> list[bytes]:
    return [store.read_block("k") for _ in range(READS)]


def many(store: BlockStore) -> list[bytes]:
    return store.read_blocks(["k"] * READS)


@pytest.mark.parametrize("read", [blocking, many])
def test_a_forgetful_service_keeps_nobody_waiting(
    read: Callable[[BlockStore], list[bytes]], tls: Tls | None
) -> None:
    with Forgetful(b"data", tls.context if tls else None) as server:
        with open_store(source(server, tls), concurrency=4) as store:
            assert read(store) == [b"data"] * READS
            stats = store.stats()
        assert server.wait_until_drained()
    check_counts(server, stats.succeeded, stats.hedges)
    assert 1 <= stats.hedges_won <= stats.hedges  # a second one may be forgotten as well


def test_a_forgetful_service_keeps_nobody_waiting_under_asyncio(tls: Tls | None) -> None:
    async def main(url: str) -> tuple[int, int]:
        async with await open_async_store(url) as store:
            left = iter(range(READS))
            await asyncio.gather(*[reader(store, left) for _ in range(4)])
            stats = store.stats()
            return stats.succeeded, stats.hedges

    async def reader(store: AsyncBlockStore, left: object) -> None:
        for _ in left:  # pyright: ignore
            assert await store.read_block("k") == b"data"

    with Forgetful(b"data", tls.context if tls else None) as server:
        reads, hedges = asyncio.run(main(source(server, tls)))
        assert server.wait_until_drained()
    check_counts(server, reads, hedges)


def source(server: LoopbackServer, tls: Tls | None) -> str:
    bundle = f"&ca_bundle={tls.http.ca_bundle}" if tls else ""
    return f"s3://bucket?endpoint={server.url}&anonymous=true&hedge_reads=true{bundle}"


def check_counts(server: Forgetful, reads: int, hedges: int) -> None:
    assert reads == READS
    assert server.forgotten
    assert server.forgotten <= hedges <= READS / 20


def test_a_hedged_block_over_tls(certificate: ServerCertificate) -> None:
    tls = Tls(certificate)
    block = bytes(range(256)) * (4 * MIB // 256)
    with Forgetful(block, tls.context) as server:
        with open_store(source(server, tls)) as store:
            for _ in range(130):
                assert store.read_block("k") == block
            assert store.stats().hedges >= server.forgotten == 1
        assert server.wait_until_drained()


def test_a_failed_read_is_counted_as_what_it_was(certificate: ServerCertificate) -> None:
    """A second request counts though neither was answered."""
    hedging = after_reads(*[0.0] * 64)
    assert hedging.hedge is not None
    silent = [Receive(), ClientCloses()]
    with talking("blocking", None, silent, silent) as (driver, server):
        exchange = driver.runtime.exchange(
            ask(server.url), limit=LIMIT, deadline=time.monotonic() + LONGER, hedge=hedging.hedge
        )
        with pytest.raises(TransportError):
            _ = driver.run(exchange)
    assert hedging.sent == 1
