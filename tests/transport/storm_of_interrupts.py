"""A process that is interrupted all the time, with nothing else in it that an interrupt could hang.

A test runner and a coverage tracer take locks in Python code of their own, which an interrupt can
end with the lock taken, so the tests run this as a child.
"""

from __future__ import annotations

import random
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections
from tests.transport.runtimes import LIMIT, EchoServer, ask, echo

STORMS = 500
EXCHANGES = 100
"""In one storm at most: an interrupt that a finalizer met is printed and gone, as Python does."""


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Interrupt exchanges at any moment, then see whether the runtime still works."""
    chance = random.Random(3)  # noqa: S311 - to be repeatable
    shared = BlockingRuntime(Connections(HttpConfig(max_connections=10_000), TimeoutConfig()))
    # A coroutine was never awaited when the interrupt came first. What shows that imports modules:
    # an interrupt in the middle of an import can leave its lock taken, and every thread waiting.
    warnings.simplefilter("ignore", RuntimeWarning)
    _ = signal.signal(signal.SIGALRM, interrupt)
    met = 0

    with EchoServer() as server:

        def exchange(target: str) -> None:
            reply = run_to_end(shared.exchange(ask(server.url, target=target), limit=LIMIT))
            assert reply.body == echo(target)

        for _ in range(STORMS):
            try:
                _ = signal.setitimer(signal.ITIMER_REAL, 0.0001 + chance.random() * 0.001)
                for _ in range(EXCHANGES):
                    exchange("/x")
            except KeyboardInterrupt:
                met += 1
        with suppress(KeyboardInterrupt):
            _ = signal.setitimer(signal.ITIMER_REAL, 0)
        with ThreadPoolExecutor(4) as threads:
            _ = list(threads.map(exchange, ["/y"] * 8))
        if (taken := shared.connections.here().counts()[0]) > 0:
            sys.exit(f"{taken} places in the pool are taken after the exchanges have ended")
        shared.close()
    if met < STORMS * 0.9:
        sys.exit(f"only {met} of {STORMS} interrupts were met")


if __name__ == "__main__":
    main()
