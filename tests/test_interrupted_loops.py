"""What a signal handler raises at the jump back of a loop runs the `finally` around that loop.

CPython 3.13 leaves the jump of `while condition`, and of a `for` that ends with an `if`, out of the
`try` or `with` that the loop is in: https://github.com/python/cpython/issues/130279. A lock is
never released then, a connection never given back. What the caller's frame has is not affected, so
such a loop is in a function of its own, or is a `while True` with a `break`.
"""

from __future__ import annotations

import dis
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, cast

import pytest

import blockyard

PACKAGE = Path(blockyard.__file__).parent

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 13), reason="Pythons before 3.13 raise there inside of the try"
)


def jumps_out_of_try(code: CodeType) -> Iterator[int | None]:
    """The lines of the loops in `code` whose jump back is outside of a `try` that they are in."""
    bytecode = dis.Bytecode(code)
    opcodes = {each.offset: each.opname for each in bytecode}
    tries: list[Any] = cast("Any", bytecode).exception_entries

    def handlers(offset: int) -> set[int]:
        """Not those of the interpreter's own, in comprehensions and around generators."""
        return {
            entry.target
            for entry in tries
            if entry.start <= offset < entry.end and opcodes[entry.target] == "PUSH_EXC_INFO"
        }

    for each in bytecode:
        if each.opname == "JUMP_BACKWARD" and handlers(each.argval) - handlers(each.offset):
            yield each.positions.lineno if each.positions else None


def codes(code: CodeType) -> Iterator[CodeType]:
    """It, and those of the functions and classes in it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from codes(inner)


def test_no_loop_jumps_back_out_of_its_try() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for code in codes(compile(path.read_text(), path, "exec"))
        for line in jumps_out_of_try(code)
    ]
    assert found == []


def test_such_a_jump_is_where_a_finally_is_lost() -> None:
    """The loop has no other place at which a signal is handled."""
    held = [None]

    def loop() -> None:
        try:
            while held:
                pass
        finally:
            held.clear()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGVTALRM, interrupt)
    try:
        with suppress(InterruptedError):
            _ = signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
            loop()
    finally:
        _ = signal.signal(signal.SIGVTALRM, before)
    assert bool(held) == any(jumps_out_of_try(loop.__code__))
