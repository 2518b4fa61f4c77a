"""Context managers hold nothing of their block when an error has ended it: no cycle is left."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Generator

import pytest

from blockyard.managing import asynccontextmanager, contextmanager


@contextmanager
def translating() -> Generator[str]:
    try:
        yield "inside"
    except OSError as error:
        raise ValueError("translated") from error
    except LookupError:
        pass


@asynccontextmanager
async def translating_later() -> AsyncGenerator[str]:
    try:
        yield "inside"
    except OSError as error:
        raise ValueError("translated") from error
    except LookupError:
        pass


def failing(buffer: bytearray, error: type[Exception]) -> None:
    with translating() as value, memoryview(buffer):
        assert value == "inside"
        raise error


async def failing_later(buffer: bytearray, error: type[Exception]) -> None:
    async with translating_later() as value:
        assert value == "inside"
        with memoryview(buffer):
            raise error


def fail(buffer: bytearray, error: type[Exception], later: bool) -> None:
    view = memoryview(buffer)
    assert len(view) == len(buffer)
    if later:
        _ = failing_later(buffer, error).send(None)  # a loop would hold the error for a while
    else:
        failing(buffer, error)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("raised", [OSError, KeyError, TypeError])
def test_an_error_that_a_manager_met_holds_nothing(raised: type[Exception], later: bool) -> None:
    """From Python 3.12 on contextlib's own do."""
    _ = gc.collect()
    gc.disable()
    try:
        buffer = bytearray(10)
        told = ""
        try:
            fail(buffer, raised, later)
        except (ValueError, TypeError, StopIteration) as error:
            told = f"{error!r} of {error.__cause__!r}"
        buffer.append(1)  # which it can't be while anything holds a view
    finally:
        gc.enable()
    assert (
        told
        == {
            OSError: "ValueError('translated') of OSError()",
            KeyError: "StopIteration() of None" if later else "",  # the coroutine's end
            TypeError: "TypeError() of None",
        }[raised]
    )


def test_what_a_manager_does_otherwise_is_contextlibs() -> None:
    with translating() as value:
        assert value == "inside"
    assert translating.__name__ == "translating"

    @translating()
    def decorated() -> None:
        raise OSError

    with pytest.raises(ValueError, match="translated"):
        decorated()
