"""`python -m tests.hosts.greenlets URL`: two stores under gevent's monkey patch."""

from __future__ import annotations

from gevent import monkey

_ = monkey.patch_all()

import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402

import gevent  # noqa: E402

import blockyard  # noqa: E402

BLOCK = b"data" * 25_000


def outcome(call: Callable[[], object]) -> object:
    """What the call returned, or the name of the error that it raised."""
    try:
        return call()
    except blockyard.BlockStoreError as error:
        return type(error).__name__


def main(url: str) -> None:
    """Print the outcome of each step, one a line."""
    first, second = blockyard.open_store(url), blockyard.open_store(url)
    _ = first.write_block("k", BLOCK)
    for store in (first, second):
        reads = gevent.joinall([gevent.spawn(store.read_block, "k") for _ in range(8)])
        print(all(read.value == BLOCK for read in reads))
    print(first.read_blocks(["k"] * 8) == [BLOCK] * 8)
    print(outcome(lambda: second.read_blocks(["k"])))
    many = gevent.joinall([gevent.spawn(first.read_blocks, ["k"] * 8) for _ in range(4)])
    print(all(each.value == [BLOCK] * 8 for each in many))
    hurried = first.with_options(deadline=1)
    print(outcome(lambda: hurried.read_block("silent")))
    print(outcome(lambda: hurried.read_blocks(["silent"])))
    first.close()
    with blockyard.open_store(f"{url}&no_progress=0.5&max_attempts=1") as impatient:
        print(outcome(lambda: impatient.read_block("silent")))
    print(second.read_blocks(["k"]) == [BLOCK])
    second.close()


if __name__ == "__main__":
    main(sys.argv[1])
