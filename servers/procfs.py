"""What the kernel says of a session: which of its processes live, where they listen. proc(5)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_LISTENING = "0A"  # TCP_LISTEN
_ZOMBIE = "Z"


def living_members(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    return [int(folder.name) for folder in _PROC.iterdir() if _lives_in(folder, session)]


def exposed_addresses(session: int) -> list[str]:
    """Where the processes of a session listen for others than this machine, as ADDRESS:PORT."""
    inodes = {inode for pid in living_members(session) for inode in _socket_inodes(pid)}
    return [
        f"{address}:{port}"
        for address, port, inode in _listeners()
        if inode in inodes and not ipaddress.ip_address(address).is_loopback
    ]


def _lives_in(folder: Path, session: int) -> bool:
    if not folder.name.isdigit():
        return False
    try:
        stat = (folder / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False  # it ended in the meantime
    state, _parent, _group, its_session = stat.rpartition(")")[2].split()[:4]
    return int(its_session) == session and state != _ZOMBIE


def _socket_inodes(pid: int) -> Iterator[str]:
    with suppress(FileNotFoundError):  # the process ended in the meantime
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed in the meantime
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    yield target.removeprefix("socket:[").removesuffix("]")


def _listeners() -> Iterator[tuple[str, int, str]]:
    """Address, port and inode of every listening TCP socket; see proc_net_tcp in the kernel."""
    for table in ("tcp", "tcp6"):
        path = _PROC / "net" / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENING:
                address, port = fields[1].split(":")
                yield _address(address), int(port, 16), fields[9]


def _address(hexadecimal: str) -> str:
    """The kernel prints an address as 32-bit words in the byte order of the machine."""
    words = [int(hexadecimal[at : at + 8], 16) for at in range(0, len(hexadecimal), 8)]
    return str(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))
