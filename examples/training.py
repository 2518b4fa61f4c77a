"""A training job's loader: four forked workers read shuffled samples through one cache folder.

    python examples/training.py s3://my-data/samples/ /var/cache/samples

Each epoch deals the samples to the workers anew, so that a worker needs what others have read: they
share one cache in a folder, and from the second epoch on nothing is asked of the service.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection

import blockyard
from blockyard import BlockStore

WORKERS = 4
SAMPLES = 200
SAMPLE_SIZE = 64 * 1024
BATCH = 8


def main(url: str, cache_folder: str, epochs: str = "3") -> list[int]:
    """Run some epochs; returns how many requests the workers made in each."""
    # Samples are never written twice, so nobody asks whether they have changed.
    cache = {"disk": {"path": cache_folder, "size": "1GiB"}, "revalidate": "never"}
    with blockyard.open_store(url, cache=cache) as store:
        store.write_blocks((key(number), sample(number)) for number in range(SAMPLES))
        requests: list[int] = []
        for epoch in range(int(epochs)):
            seen, sent = run_epoch(store, epoch)
            assert seen == SAMPLES
            requests.append(sent)
            print(f"epoch {epoch}: {seen} samples with {sent} requests")
        return requests


def run_epoch(store: BlockStore, epoch: int) -> tuple[int, int]:
    """All samples once, in a new order: how many there were, and the requests for them."""
    order = list(range(SAMPLES))
    random.Random(epoch).shuffle(order)
    fork = multiprocessing.get_context("fork")
    seen = sent = 0
    pipes: list[Connection] = []
    for worker in range(WORKERS):
        ours, theirs = fork.Pipe(duplex=False)
        share = order[worker::WORKERS]
        fork.Process(target=work, args=(store, share, theirs), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        for batch in iter(pipe.recv, None):
            seen += len(batch)  # the step of a model would be here
        sent += pipe.recv()
    return seen, sent


def work(store: BlockStore, numbers: list[int], pipe: Connection) -> None:
    """A worker: the store that was opened before the fork is used as it is."""
    before = store.stats().succeeded
    for batch in batches(numbers):
        found = store.read_blocks([key(number) for number in batch])
        assert found == [sample(number) for number in batch]
        pipe.send([data[:16] for data in found])
    store.close()  # which waits for what is still to be kept in the folder
    pipe.send(None)
    pipe.send(store.stats().succeeded - before)


def batches(numbers: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(numbers), BATCH):
        yield numbers[start : start + BATCH]


def key(number: int) -> str:
    return f"train/{number:06}"


def sample(number: int) -> bytes:
    return number.to_bytes(4, "big") * (SAMPLE_SIZE // 4)


if __name__ == "__main__":
    main(*sys.argv[1:])
