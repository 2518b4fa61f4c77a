"""What the figures were taken on, and with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from bench.peers import NAMES


def describe() -> dict[str, str]:
    """The machine and its system, in words."""
    memory = int(_field(Path("/proc/meminfo"), "MemTotal").split()[0]) / 1024**2
    return {
        "processor": _field(Path("/proc/cpuinfo"), "model name"),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": _field(Path("/etc/os-release"), "PRETTY_NAME", "=").strip('"'),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": _said("nginx", "-v").rpartition("/")[2],
        "wrk": _said("wrk", "-v").partition("[")[0].removeprefix("wrk ").strip(),
    }


def versions() -> dict[str, str]:
    """The version of each client."""
    return {name: version(name) for name in NAMES}


def commit() -> str:
    """The commit that was measured; "+" after it when files differ from it."""
    found = _said("git", "rev-parse", "--short", "HEAD")
    return found + ("+" if _said("git", "status", "--porcelain", "--", "src", "bench") else "")


def load() -> float:
    """How many programs wanted a core over the last minute: anything but a small part of one
    disturbs the figures."""
    return os.getloadavg()[0]


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
