"""Faults after the request took effect: its reply is lost, late, cut or corrupted."""

from __future__ import annotations

from dataclasses import dataclass

from blockyard.testing.messages import Message
from blockyard.testing.steps import Close, Pause, Reset, Steps, Trickle
from blockyard_faults.fault import Position, ReplyFault, offset


@dataclass(frozen=True)
class LoseReply(ReplyFault):
    """RST in place of the reply, when the request has taken effect."""

    def steps(self, request: Message, reply: Message) -> Steps:
        return [Reset()]


@dataclass(frozen=True)
class ResetDuringBody(ReplyFault):
    """RST when the reply's head and `after` of its body have gone; 0: right after the head."""

    after: Position = 0

    def steps(self, request: Message, reply: Message) -> Steps:
        return [_beginning(reply, self.after), Reset()]


@dataclass(frozen=True)
class Truncate(ReplyFault):
    """A clean end (FIN) when `after` of the body has gone, under its full Content-Length."""

    after: Position = 0.5

    def steps(self, request: Message, reply: Message) -> Steps | None:
        if offset(self.after, len(reply.body)) >= len(reply.body):
            return None
        return [_beginning(reply, self.after), Close()]


@dataclass(frozen=True)
class Stall(ReplyFault):
    """No byte for `seconds`: before the head, or when `after` of the body has gone."""

    seconds: float
    after: Position | None = None

    def steps(self, request: Message, reply: Message) -> Steps | None:
        if self.after is None:
            return [Pause(self.seconds), reply.encode()]
        if not reply.body:
            return None
        cut = offset(self.after, len(reply.body))
        return [_beginning(reply, self.after), Pause(self.seconds), reply.body[cut:]]


@dataclass(frozen=True)
class TrickleBody(ReplyFault):
    """The body in pieces of `size` bytes, one every `tick` seconds."""

    size: int = 1
    tick: float = 0.01

    def steps(self, request: Message, reply: Message) -> Steps | None:
        if not reply.body:
            return None
        return [reply.head.encode(), Trickle(reply.body, self.size, self.tick)]


@dataclass(frozen=True)
class WrongLength(ReplyFault):
    """A Content-Length that is `by` bytes too large, or too small when `by` is negative.

    Too large, the connection is closed after the body. Too small, it stays open, and what was
    not announced stands before the next reply.
    """

    by: int

    def steps(self, request: Message, reply: Message) -> Steps | None:
        if not reply.body or len(reply.body) + self.by < 0:
            return None
        head = reply.head.with_header("Content-Length", str(len(reply.body) + self.by))
        return [head.encode(), reply.body, *([Close()] if self.by > 0 else [])]


@dataclass(frozen=True)
class GarbageHead(ReplyFault):
    """`data` in place of the reply, then a clean end."""

    data: bytes = b"\x15\x03\x01\x00\x02\x02\x50 this is no HTTP\r\n\r\n"

    def steps(self, request: Message, reply: Message) -> Steps:
        return [self.data, Close()]


@dataclass(frozen=True)
class FlipBit(ReplyFault):
    """One bit of the body the other way round: bit `bit` (0 to 7) of the byte `at`."""

    at: Position = 0.5
    bit: int = 0

    def steps(self, request: Message, reply: Message) -> Steps | None:
        place = offset(self.at, len(reply.body))
        if place >= len(reply.body):
            return None
        return [reply.head.encode(), _flipped(reply.body, place, self.bit)]


@dataclass(frozen=True)
class FlipHeaderBit(ReplyFault):
    """One bit of the first character of the reply's header `header` the other way round."""

    header: str
    bit: int = 0

    def steps(self, request: Message, reply: Message) -> Steps | None:
        value = reply.head.get(self.header)
        if not value:
            return None
        flipped = _flipped(value.encode("latin-1"), 0, self.bit).decode("latin-1")
        return [reply.head.with_header(self.header, flipped).encode(), reply.body]


@dataclass(frozen=True)
class FlipUploadBit(ReplyFault):
    """One bit of the request's body the other way round on its way to the server."""

    at: Position = 0.5
    bit: int = 0

    def passed_on(self, request: Message) -> Message:
        place = offset(self.at, len(request.body))
        if place >= len(request.body):
            return request
        return Message(request.head, _flipped(request.body, place, self.bit))

    def steps(self, request: Message, reply: Message) -> Steps | None:
        return [reply.encode()] if self.passed_on(request) is not request else None


def _beginning(reply: Message, after: Position) -> bytes:
    return reply.head.encode() + reply.body[: offset(after, len(reply.body))]


def _flipped(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)
