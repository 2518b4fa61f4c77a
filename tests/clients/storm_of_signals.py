"""Bulk calls met by signals at any moment; run as a child: see `storm_of_interrupts.py`.

`python -m tests.clients.storm_of_signals interrupts | exceptions URL | singles URL`
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from types import FrameType

import blockyard
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.transport.background import BackgroundLoop
from blockyard.transport.connections import Connections

INTERRUPTS = 500
EXCEPTIONS = 300


class LateError(TimeoutError):
    """What the handler of an alarm raises."""


class Operation:
    """Goes on until it is cancelled, and has something to do then."""

    def __init__(self) -> None:
        self.begun = False
        self.tidied = False

    async def __call__(self, ctx: Context, _: None) -> None:
        self.begun = True

        async def one(_: int) -> None:
            async with ctx.user_code() as user:
                _ = await user.run(int)
            await ctx.runtime.sleep(60)

        try:
            _ = await ctx.gather(one, range(100))
        finally:
            await ctx.runtime.finish(ctx.runtime.sleep(0.001), 30)
            self.tidied = True


def interrupts() -> None:
    """SIGINT as a call begins, the first of its store or not."""
    chance = random.Random(11)  # noqa: S311 - to be repeatable
    main = threading.get_ident()
    for number in range(INTERRUPTS):
        background = BackgroundLoop(Connections(HttpConfig(), TimeoutConfig()))
        if number % 2:
            background.run(nothing, None, None, 1)
        operation, delay = Operation(), chance.random() * 0.003
        ready = threading.Event()

        def interrupt(delay: float = delay, ready: threading.Event = ready) -> None:
            ready.set()
            time.sleep(delay)
            signal.pthread_kill(main, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        try:
            interrupter.start()
            _ = ready.wait()
            background.run(operation, None, None, 8)
        except KeyboardInterrupt:
            pass
        else:
            sys.exit("the call returned")
        if operation.begun and not operation.tidied:
            sys.exit("the interrupt was raised before the operation had tidied up")
        interrupter.join()
        background.close()


async def nothing(ctx: Context, _: None) -> None: ...


def of_any_kind(store: blockyard.BlockStore) -> None:
    _ = store.write_blocks((f"{number:03}", b"block") for number in range(200))
    _ = store.read_blocks(f"{number:03}" for number in range(200))
    _ = store.write_content("movie", iter([b"content"] * 100))
    _ = store.read_block("000")


def single(store: blockyard.BlockStore) -> None:
    _ = store.write_block("single", b"single" * 1000)
    _ = store.read_block("single")
    _ = store.read_block_range("single", 5, 5)
    _ = store.copy_block("single", "copy")
    _ = store.list_by_prefix("s")
    store.delete_block("copy")


def exceptions(calls: Callable[[blockyard.BlockStore], None]) -> None:
    """A handler that raises, at any bytecode of calls."""
    chance = random.Random(12)  # noqa: S311 - to be repeatable

    fired = met = printed = 0
    stack: list[str] = []
    lost: list[str] = []

    def late(_: int, frame: FrameType | None) -> None:
        nonlocal fired, stack
        fired += 1
        stack = traceback.format_stack(frame, limit=8)
        raise LateError

    def ignored(_: object) -> None:
        """Python prints what a finalizer met, and goes on."""
        nonlocal printed
        printed += 1

    sys.unraisablehook = ignored
    # A coroutine was never awaited when the exception came first. What shows that takes every
    # `OSError` for one of its stream's, and drops it: so it would what the handler raises.
    warnings.simplefilter("ignore", RuntimeWarning)
    _ = signal.signal(signal.SIGALRM, late)
    store = blockyard.open_store(sys.argv[2])

    warm_up(store)
    before = descriptors()

    def call_until_fired(number: int) -> None:
        """Not in the `try`: no `except` covers a loop's jump back in Python 3.13 and 3.14.

        https://github.com/python/cpython/issues/130279
        """
        while fired == number:
            calls(store)

    for number in range(EXCEPTIONS):
        try:
            _ = signal.setitimer(signal.ITIMER_REAL, 0.0002 + chance.random() * 0.01)
            call_until_fired(number)
            lost += stack
        except LateError:
            met += 1
    if met + printed != EXCEPTIONS or met < 0.9 * EXCEPTIONS:
        told = f"{met} of {EXCEPTIONS} exceptions were raised, and {printed} printed; others at\n"
        sys.exit(told + "".join(lost))
    if (taken := store.stats().connections_taken) > 0:
        sys.exit(f"{taken} places in the pool are taken after the calls have ended")
    warm_up(store)
    ends = time.monotonic() + 20
    # A single call of file:// opens files on this very thread, and a descriptor that comes between
    # two bytecodes is lost: some 10 of 300. All others are opened on threads without signals.
    kept = calls is single and sys.argv[2].startswith("file:")
    while not kept and (now := descriptors()) > before + 8:
        if time.monotonic() > ends:
            sys.exit(f"{before} descriptors became {now}")
        time.sleep(0.05)
    store.close()


def warm_up(store: blockyard.BlockStore) -> None:
    """All that a store needs is there after this, and still works."""
    infos = store.write_blocks((f"{number:03}", b"block") for number in range(200))
    assert len(infos) == 200
    assert store.read_blocks([info.key for info in infos]) == [b"block"] * 200
    assert store.write_content("movie", b"content").size == 7


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    match sys.argv[1]:
        case "interrupts":
            interrupts()
        case "singles":
            exceptions(single)
        case _:
            exceptions(of_any_kind)
