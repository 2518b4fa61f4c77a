"""The least that Python can do for the work we are slowest at: `python -m bench.floor`, by hand.

One socket, or 32 under epoll; requests prepared and unsigned; the reply's body made `bytes`;
nothing parsed, nothing checked, nothing tried again. What a write needs is the SHA-256 of its
body, so that is computed. In turns with blockyard, so that the two can be compared.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from urllib.parse import urlsplit

from bench import data, wire
from bench.driving import Sample, Stopwatch
from bench.samples import cpu_per_operation, rate
from bench.workloads import KIB, MIB, RANGED_BLOCK
from blockyard import BlockStore, open_store

_ROUNDS = 9
_RANGE = 16 * KIB
_RANGES = 640
_AT_ONCE = 32


def main() -> None:
    with wire.serve() as endpoint:
        address = ("127.0.0.1", urlsplit(endpoint.url).port or 0)
        with open_store(
            f"s3://{data.KEPT}?endpoint={endpoint.url}&region=us-east-1&force_path_style=true"
            f"&access_key={endpoint.access_key}&secret_key={endpoint.secret_key}"
        ) as store:
            _ranges(store, address)
            _writes(store, address)


def _ranges(store: BlockStore, address: tuple[str, int]) -> None:
    keys = data.read_keys(RANGED_BLOCK)
    asked = [(keys[n % len(keys)], n * 37 % 256 * _RANGE, _RANGE) for n in range(_RANGES)]
    requests = [
        f"GET /{data.KEPT}/{key} HTTP/1.1\r\nHost: floor\r\n"
        f"Range: bytes={first}-{first + length - 1}\r\n\r\n".encode()
        for key, first, length in asked
    ]
    alone = [_connected(address)]
    together = [_connected(address) for _ in range(_AT_ONCE)]
    _compare(
        "16 KiB ranges, one at a time",
        _RANGES,
        lambda: _read_all(alone, requests),
        lambda: [store.read_block_range(*each) for each in asked],
    )
    _compare(
        "16 KiB ranges, 32 in flight",
        _RANGES,
        lambda: _read_all(together, requests),
        lambda: store.read_block_ranges(asked),
    )
    for sock in (*alone, *together):
        sock.close()


def _writes(store: BlockStore, address: tuple[str, int]) -> None:
    keys, body = data.written_keys(4 * MIB), data.body(4 * MIB)

    def floor() -> None:
        for key in keys:
            signed = sha256(body).hexdigest()
            head = f"PUT /{data.KEPT}/{key} HTTP/1.1\r\nHost: floor\r\nX: {signed}\r\n"
            sent = sock.sendmsg([f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body])
            if sent < len(body):
                raise OSError("a blocking socket sends all, or fails")
            _ = sock.recv(64 * KIB)

    def ours() -> None:
        for key in keys:
            _ = store.write_block(key, body)

    with _connected(address) as sock:
        _compare("write 4 MiB, one at a time", len(keys), floor, ours)


def _read_all(socks: list[socket.socket], requests: list[bytes]) -> list[bytes]:
    """Send every request, on whichever socket has been answered."""
    left = iter(requests)
    scratch = bytearray(64 * KIB)
    by_number = {sock.fileno(): sock for sock in socks}
    ready = select.epoll()
    under_way = 0
    for number, sock in by_number.items():
        if len(socks) > 1:
            ready.register(number, select.EPOLLIN)
        under_way += _send_next(sock, left)
    bodies: list[bytes] = []
    while under_way:
        numbers = [number for number, _ in ready.poll()] if len(socks) > 1 else [*by_number]
        for number in numbers:
            bodies.append(_receive(by_number[number], scratch))
            under_way -= 1 - _send_next(by_number[number], left)
    ready.close()
    return bodies


def _send_next(sock: socket.socket, left: Iterator[bytes]) -> int:
    request = next(left, None)
    if request is None:
        return 0
    _ = sock.send(request)
    return 1


def _receive(sock: socket.socket, scratch: bytearray) -> bytes:
    size = sock.recv_into(scratch)
    begin = scratch.find(b"\r\n\r\n", 0, size) + 4
    while size < begin + _RANGE:
        size += sock.recv_into(memoryview(scratch)[size:])
    return bytes(memoryview(scratch)[begin:size])


def _connected(address: tuple[str, int]) -> socket.socket:
    sock = socket.create_connection(address)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _compare(
    what: str, operations: int, floor: Callable[[], object], ours: Callable[[], object]
) -> None:
    taken: dict[str, list[Sample]] = {"floor": [], "blockyard": []}
    for _ in range(_ROUNDS):
        for name, work in (("floor", floor), ("blockyard", ours)):
            watch = Stopwatch()
            _ = work()
            taken[name].append(watch.sample(operations))
    for name, samples in taken.items():
        wall, cpu = 1e6 / rate(samples), 1e6 * cpu_per_operation(samples)
        _ = sys.stdout.write(f"{what:30}{name:12}{wall:9,.0f} us{cpu:9,.0f} us of CPU\n")


if __name__ == "__main__":
    main()
