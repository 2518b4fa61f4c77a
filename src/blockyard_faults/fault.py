"""What a fault is: a value that says what goes wrong with one request."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blockyard.testing.messages import Message
    from blockyard.testing.steps import Steps

Position = int | float
"""A place in a body: an int counts bytes, a float below 1 is a share of the body."""


def offset(at: Position, length: int) -> int:
    """`at` in bytes, in a body of `length` bytes. It may lie past the end."""
    return int(at * length) if isinstance(at, float) else at


class _Named:
    @property
    def name(self) -> str:
        """What it is counted under: `ResetBefore` is "reset_before"."""
        return re.sub(r"(?<=.)(?=[A-Z])", "_", type(self).__name__).lower()


class RequestFault(_Named, ABC):
    """A fault that keeps the request from the server behind the proxy: it takes no effect."""

    def wanted(self, length: int) -> int | None:
        """How many of the request body's `length` bytes are read before `steps` are played.

        None: all of them, and all chunks of a body in chunks, whose `length` counts as 0.
        """
        return None

    @abstractmethod
    def steps(self, method: str) -> Steps:
        """What the client of a `method` request meets."""


class ReplyFault(_Named, ABC):
    """A fault in the reply: the request has taken effect on the server behind the proxy."""

    def passed_on(self, request: Message) -> Message:
        """The request as the server behind the proxy gets it."""
        return request

    @abstractmethod
    def steps(self, request: Message, reply: Message) -> Steps | None:
        """What the client meets in place of `reply`; None when this reply can't be so harmed.

        The body of a reply to HEAD is empty, whatever its head says.
        """


Fault = RequestFault | ReplyFault
"""What goes wrong with one request. Faults are values: equal, hashable, used again at will."""
