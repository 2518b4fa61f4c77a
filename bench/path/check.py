"""Whether the path is what it says: each of its properties measured with plain sockets.

`python -m bench.path` prints what was found; the tests hold each to its bounds.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.path.network import SERVER_ADDRESS, Path, PathUnavailableError
from bench.path.service import PORT, at_the_far_end

_CONNECTS = 20
_PIECE = 4 << 20
_SECONDS = 1.5
"""How long a rate is measured for, by so many pieces as take that long."""
_LINKS = ((1, 100), (10, 100), (1, 1000))
"""Round trips in milliseconds and rates in megabits per second."""
_PUT = f"PUT /bucket/probe HTTP/1.1\r\nContent-Length: {_PIECE}\r\n\r\n".encode()
_GET = b"GET /bucket/probe HTTP/1.1\r\n\r\n"
_HEAD = b"HEAD /bucket HTTP/1.1\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured, in what it is expected to be, and whether it is within the bounds."""

    what: str
    found: str
    right: bool


def check(path: Path, links: Sequence[tuple[float, float]] = _LINKS) -> list[Finding]:
    """Measure all that a path does, at some round trips and rates. Takes about half a minute."""
    found: list[Finding] = []
    with at_the_far_end(path):
        found += [round_trip(path, rtt) for rtt in (0, 1, 10, 30, 100)]
        for rtt, rate in links:
            found += throughput(path, rtt, rate)
        found.append(losses(path))
        found.append(silence(path))
        found.append(forgotten(path))
    return found


def round_trip(path: Path, rtt: float) -> Finding:
    """The time to connect: one round trip, within a millisecond."""
    path.change(rtt=rtt, rate=0, loss=0, idle=0)
    taken = path.call("client", connect_seconds) * 1e3
    return Finding(f"connect at {rtt:g} ms", f"{taken:.2f} ms", abs(taken - rtt) < 1)


def throughput(path: Path, rtt: float, rate: float) -> list[Finding]:
    """What one flow gets of the link, each way: within a tenth of the rate."""
    path.change(rtt=rtt, rate=rate, loss=0, idle=0)
    found: list[Finding] = []
    pieces = round(rate * 1e6 / 8 * _SECONDS / _PIECE)
    for way, measure in (("up", upload_rate), ("down", download_rate)):
        got = path.call("client", measure, pieces) / 1e6
        what = f"{way} at {rtt:g} ms and {rate:g} Mbit/s"
        found.append(Finding(what, f"{got:.0f} Mbit/s", 0.9 * rate < got < 1.02 * rate))
    return found


def losses(path: Path) -> Finding:
    """How many packets of a loss of 1 % are lost."""
    path.change(rtt=1, rate=0, loss=1, idle=0)
    before = path.counters()["down"]
    _ = path.call("client", download_rate, 20)
    after = path.counters()["down"]
    lost = (after["losses"] - before["losses"]) / (after["segments"] - before["segments"]) * 100
    return Finding("loss of 1 %", f"{lost:.2f} %", 0.8 < lost < 1.2)


def silence(path: Path) -> Finding:
    """That nothing comes through a silence of a second, and something does after it."""
    path.change(rtt=1, rate=0, loss=0, idle=0)

    def answered_after() -> float:
        with Flow() as flow:
            path.silence(1.0)
            return seconds_of(lambda: flow.answers(60))

    taken = path.call("client", answered_after)
    return Finding("a silence of 1 s", f"answered after {taken:.2f} s", 1.0 <= taken < 5.0)


def forgotten(path: Path) -> Finding:
    """That a flow that was idle for longer than allowed is dead, and a new one is not."""
    path.change(rtt=1, rate=0, loss=0, idle=1)

    def answers() -> tuple[bool, bool, bool]:
        with Flow() as old:
            before = old.answers(5)
            time.sleep(2)
            after = old.answers(1)
        with Flow() as new:
            return before, after, new.answers(5)

    outcome = path.call("client", answers)
    path.change(idle=0)
    words = "/".join("answered" if one else "dead" for one in outcome)
    return Finding("a flow in use, idle, new", words, outcome == (True, False, True))


class Flow:
    """A connection to the service, for requests one behind the other."""

    def __init__(self) -> None:
        self._socket = socket.create_connection((SERVER_ADDRESS, PORT), timeout=60)
        self._incoming = self._socket.makefile("rb")

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *_: object) -> None:
        self._incoming.close()
        self._socket.close()

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def read_head(self) -> None:
        """Read the head of a reply."""
        while (line := self._incoming.readline()) != b"\r\n":
            if not line:
                raise ConnectionError("the service closed the connection")

    def answers(self, seconds: float) -> bool:
        """Whether a request is answered within so many seconds."""
        self._socket.settimeout(seconds)
        try:
            self.send(_HEAD)
            self.read_head()
        except TimeoutError:
            return False
        return True

    def upload(self, pieces: int) -> None:
        """Store pieces, waiting for no reply before the last has been sent."""
        for _ in range(pieces):
            self.send(_PUT)
            self.send(bytes(_PIECE))
        for _ in range(pieces):
            self.read_head()

    def download(self, pieces: int) -> None:
        """Read as many pieces, the next one always asked for already."""
        self.send(_GET)
        for number in range(pieces):
            if number + 1 < pieces:
                self.send(_GET)
            self.read_head()
            _ = self._incoming.read(_PIECE)


def connect_seconds() -> float:
    """The shortest of some connects, in seconds: the machine itself makes others longer."""
    taken: list[float] = []
    for _ in range(_CONNECTS):
        begun = time.perf_counter()
        socket.create_connection((SERVER_ADDRESS, PORT), timeout=60).close()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def upload_rate(pieces: int) -> float:
    """Bits a second that one flow, already under way, carries to the server."""
    with Flow() as flow:
        flow.upload(1)
        return _bits(pieces) / seconds_of(lambda: flow.upload(pieces))


def download_rate(pieces: int) -> float:
    """Bits a second that one flow, already under way, brings from the server."""
    with Flow() as flow:
        flow.upload(1)
        flow.download(1)
        return _bits(pieces) / seconds_of(lambda: flow.download(pieces))


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    _ = work()
    return time.perf_counter() - begun


def _bits(pieces: int) -> int:
    return pieces * _PIECE * 8


def main() -> int:
    try:
        with Path() as path:
            findings = check(path)
    except PathUnavailableError as error:
        print(f"skipped: {error}")
        return 0
    for each in findings:
        print(f"{each.what:32} {each.found:24} {'right' if each.right else 'WRONG'}", flush=True)
    return 0 if all(each.right for each in findings) else 1
