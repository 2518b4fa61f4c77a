"""What the figures were taken on, and with."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from bench.peers import NAMES

_TICK = os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, str]:
    """The machine, its system, and what the clients are measured against, in words."""
    return describe_host() | {
        "nginx": _said("nginx", "-v").rpartition("/")[2],
        "wrk": _said("wrk", "-v").partition("[")[0].removeprefix("wrk ").strip(),
    }


def describe_host() -> dict[str, str]:
    """The machine and its system, in words."""
    memory = int(_field(Path("/proc/meminfo"), "MemTotal").split()[0]) / 1024**2
    return {
        "processor": _field(Path("/proc/cpuinfo"), "model name"),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": _field(Path("/etc/os-release"), "PRETTY_NAME", "=").strip('"'),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """The version of each client."""
    return {name: version(name) for name in NAMES}


def commit() -> str:
    """The commit that was measured; "+" after it when files differ from it."""
    found = _said("git", "rev-parse", "--short", "HEAD")
    return found + ("+" if _said("git", "status", "--porcelain", "--", "src", "bench") else "")


class Disturbance:
    """How much of the machine programs that are not ours take, since it was made. proc(5)."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._before = busy_seconds(interrupts=False) - _our_seconds()

    def cores(self) -> float:
        """Cores that others kept busy, on average. What is not near 0 disturbs the figures."""
        others = busy_seconds(interrupts=False) - _our_seconds() - self._before
        return max(0.0, others / (time.monotonic() - self._begun))


def busy_seconds(*, interrupts: bool) -> float:
    """Seconds that the cores spent on programs, and on interrupts if wanted, summed up."""
    user, nice, system, _idle, _wait, hard, soft = map(
        int, Path("/proc/stat").read_text().split()[1:8]
    )
    return (user + nice + system + (hard + soft if interrupts else 0)) / _TICK


def _our_seconds() -> float:
    """CPU seconds of this process and of all that descend from it, those that ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended in the meantime
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            ticks[int(folder.name)] = sum(map(int, fields[11:15]))
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks.get(pid, 0) for pid in ours) / _TICK


def _field(path: Path, name: str, separator: str = ":") -> str:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return line.partition(separator)[2].strip()
    return "unknown"


def _said(*command: str) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin"
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={"PATH": path, "HOME": os.environ.get("HOME", "/")},
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip()
