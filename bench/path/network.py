"""The emulated path: a client's and a server's network namespace, and what lies between them.

Nothing outlives it: the namespaces have no names and no files, so that the kernel removes them
with the last process in them, however this one ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as FilePath
from types import TracebackType
from typing import Any, Literal, TypeVar

CLIENT_ADDRESS = "198.18.0.1"
SERVER_ADDRESS = "198.18.0.2"
"""Of the block that is set aside for benchmarks (RFC 2544, appendix C.2.2)."""

Side = Literal["client", "server"]
Result = TypeVar("Result")
Counters = dict[str, dict[str, int]]

_SOURCE = FilePath(__file__).with_name("emulator.c")
_CLONE_NEWNET = 0x40000000  # setns(2)
_PROGRAMS = ("gcc", "ip", "nsenter")
_HOST_SETTINGS = {
    "tcp_no_metrics_save": "1",  # else what one connection learned of the path shapes the next
    "tcp_rmem": "4096 131072 6291456",
    "tcp_wmem": "4096 16384 4194304",
}
_LEAST_QUEUE = 256 * 1024
_NO_LIMIT = 1 << 30
_GRACE = 5.0


class PathUnavailableError(Exception):
    """This machine can't emulate a path; the message says what is missing."""


class Path:
    """Two hosts and the network between them, from `__enter__` to `__exit__`.

    `rtt` is the round trip in milliseconds, `rate` the megabits per second each way (0: no
    limit), `loss` the percentage of packets that are lost, `idle` the seconds after which a
    silent TCP flow is forgotten, as by a NAT or a firewall (0: never). The losses follow from
    `seed`. In front of the rate limit is a queue of one bandwidth-delay product, at least
    256 KiB. `congestion` is the hosts' TCP congestion control; all else of their TCP is as Linux
    comes, whatever this machine is set to.

        with Path(rtt=30, rate=1000) as path:
            subprocess.run(path.command("client", ["curl", f"http://{SERVER_ADDRESS}:8080/"]))

    Raises `PathUnavailableError` where it can't be made: it takes Linux, root, gcc, iproute2
    and util-linux.
    """

    def __init__(
        self,
        *,
        rtt: float = 0.0,
        rate: float = 0.0,
        loss: float = 0.0,
        idle: float = 0.0,
        seed: int = 1,
        congestion: str = "cubic",
    ) -> None:
        self._settings = {"rtt": rtt, "rate": rate, "loss": loss, "idle": idle, "seed": seed}
        self._congestion = congestion

    def __enter__(self) -> Path:
        require_path()
        with tempfile.TemporaryDirectory(prefix="blockyard-path-") as folder:
            program = FilePath(folder, "emulator")
            _ = subprocess.run(["gcc", "-O2", "-o", program, _SOURCE], check=True)
            self._emulator = subprocess.Popen(
                [program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # a Ctrl-C is for its owner, which ends it
            )
            # Once it has answered it runs, and needs its file no more.
            try:
                descriptors = self._answer()
                self._namespaces = {
                    side: f"/proc/{self._emulator.pid}/fd/{descriptor}"
                    for side, descriptor in descriptors.items()
                }
                self._set_up("client", CLIENT_ADDRESS, SERVER_ADDRESS)
                self._set_up("server", SERVER_ADDRESS, CLIENT_ADDRESS)
                self._configure(self._settings)
            except BaseException:
                self._end()
                raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """The process id of the emulator."""
        return self._emulator.pid

    def command(self, side: Side, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on that side, in a process of the same id."""
        return ["nsenter", f"--net={self._namespaces[side]}", "--", *command]

    def call(self, side: Side, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function on that side: on a thread there, and so are the threads it starts."""
        with ThreadPoolExecutor(1, initializer=_enter, initargs=(self._namespaces[side],)) as there:
            return there.submit(function, *arguments).result()

    def change(self, **settings: float) -> None:
        """Change some of `rtt`, `rate`, `loss`, `idle` and `seed`; the rest stays as it is."""
        unknown = settings.keys() - self._settings.keys()
        if unknown:
            raise TypeError(f"no such settings of a path: {', '.join(sorted(unknown))}")
        self._settings.update(settings)
        self._configure(self._settings, seeded="seed" in settings)

    def silence(self, seconds: float) -> None:
        """Let no packet pass from now on, for so long."""
        _ = self._tell(f"silence={seconds * 1e9:.0f}")

    def counters(self) -> Counters:
        """What came from the client (`up`) and from the server (`down`), and what was dropped."""
        return self._tell("")

    def _configure(self, settings: Mapping[str, float], *, seeded: bool = True) -> None:
        rtt, rate = settings["rtt"], settings["rate"]
        product = rate * 1e6 / 8 * rtt / 1e3
        _ = self._tell(
            f"delay={rtt / 2 * 1e6:.0f} rate={rate * 1e6:.0f}"
            f" queue={max(_LEAST_QUEUE, product) if rate else _NO_LIMIT:.0f}"
            f" loss={settings['loss'] / 100:.9f} idle={settings['idle'] * 1e9:.0f}"
            + (f" seed={settings['seed']:.0f}" if seeded else "")
        )

    def _set_up(self, side: Side, own: str, other: str) -> None:
        steps = [
            "link set lo up",
            "link set path0 txqueuelen 10000 up",
            f"address add {own} peer {other} dev path0",
            # By route: the default of a namespace can't be one that the kernel restricts.
            f"route replace {other} dev path0 src {own} congctl {self._congestion}",
        ]
        ip = self.command(side, ["ip", "-batch", "-"])
        _ = subprocess.run(ip, input="\n".join(steps) + "\n", text=True, check=True)
        settings = [
            f"echo {value} >/proc/sys/net/ipv4/{name}" for name, value in _HOST_SETTINGS.items()
        ]
        _ = subprocess.run(self.command(side, ["sh", "-ec", "; ".join(settings)]), check=True)

    def _tell(self, line: str) -> Counters:
        assert self._emulator.stdin is not None
        print(line, file=self._emulator.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._emulator.stdout is not None
        line = self._emulator.stdout.readline()
        if not line:
            raise PathUnavailableError("the path's emulator ended; its last words are above")
        return json.loads(line)

    def _end(self) -> None:
        for pipe in (self._emulator.stdin, self._emulator.stdout):
            if pipe is not None:
                pipe.close()
        try:
            _ = self._emulator.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._emulator.kill()
            _ = self._emulator.wait()


def _enter(namespace: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace} failed")
    finally:
        os.close(descriptor)


def require_path() -> None:
    """Raise `PathUnavailableError` where no path can be emulated."""
    if sys.platform != "linux":
        raise PathUnavailableError("an emulated path needs Linux")
    if os.geteuid() != 0:
        raise PathUnavailableError("an emulated path needs root")
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        raise PathUnavailableError(f"an emulated path needs {', '.join(missing)}")
    if not FilePath("/dev/net/tun").exists():
        raise PathUnavailableError("an emulated path needs /dev/net/tun")
