"""One operation for all who ask for the same thing at the same time: see `Runtime.once`.

The first to ask runs it where it is, on its own thread or event loop; the others wait for that.
Whether it ends well, fails or is cut off, they are told: by the one who runs it or, when a signal
handler raised in the middle of that, by the end of its frame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Hashable, MutableMapping
from typing import Any, TypeVar

from blockyard.errors import BlockStoreError
from blockyard.transport.threads import Call

Result = TypeVar("Result")


class SharedCall(Call[None]):
    """An operation under way, which others may wait for. `loop` is the event loop it runs on."""

    def __init__(self, loop: object) -> None:
        super().__init__(lambda: None)
        self.thread = threading.get_ident()
        self.loop = loop
        self.results: list[Any] = []
        """What it returned, once it has."""
        self.failed = False
        """Whether it raised an error of ours, which may be those of the others as well."""

    def end(self) -> None:
        """Tell those who wait. Done a second time, it does nothing."""
        if not self.done():
            self.run()


class _Lease:
    """Held by the frame that runs the operation alone: when that is gone, the call has ended."""

    __slots__ = ("call",)

    def __init__(self, call: SharedCall) -> None:
        self.call = call

    def __del__(self) -> None:
        self.call.end()


async def shared(
    under_way: MutableMapping[Hashable, SharedCall],
    key: Hashable,
    operation: Callable[[], Coroutine[Any, Any, Result]],
    loop: object,
    wait: Callable[[SharedCall], Coroutine[Any, Any, bool]],
) -> tuple[Result, bool]:
    """See `Runtime.once`. `wait` waits until a call has ended; False where it may not do that."""
    while True:
        mine = SharedCall(loop)
        lease = _Lease(mine)
        try:
            call = under_way.setdefault(key, mine)
            if call is mine:
                result = await operation()
                mine.results.append(result)
                return result, False
        except BlockStoreError:
            mine.failed = True
            raise
        finally:
            try:
                mine.end()
            finally:
                if under_way.get(key) is mine:
                    _ = under_way.pop(key, None)
        del lease
        if call.done():  # its end was interrupted before it was taken out
            if under_way.get(key) is call:
                _ = under_way.pop(key, None)
            continue
        if not await wait(call) or call.failed:
            return await operation(), False
        if call.results:
            return call.results[0], True
