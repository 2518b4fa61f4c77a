"""xarray over Zarr, with a cache: the second pass over a dataset sends no request.

python examples/xarray_zarr.py s3://my-data/arrays/
"""

from __future__ import annotations

import sys

import numpy as np
import xarray

import blockyard
from blockyard.zarr import BlockyardStore

DAYS = 24


def main(url: str) -> list[int]:
    """Write a dataset and read it twice; returns the requests of each pass."""
    # Chunks are never written twice here, so what the cache has need not be asked for again.
    cache = {"memory": "256MiB", "revalidate": "never"}
    with blockyard.open_store(url, cache=cache) as store:
        arrays = BlockyardStore(store)
        temperature = np.random.default_rng(1).normal(12, 5, (DAYS, 90, 180)).astype("f4")
        written = xarray.Dataset({"temperature": (("day", "lat", "lon"), temperature)})
        encoding = {"temperature": {"chunks": (1, 90, 180)}}
        written.to_zarr(arrays, mode="w", encoding=encoding, consolidated=False)

        dataset = xarray.open_zarr(arrays, consolidated=False, chunks=None)
        requests: list[int] = []
        for _ in range(2):
            before = store.stats().succeeded
            means = dataset.temperature.mean(("lat", "lon")).values
            assert np.allclose(means, temperature.mean((1, 2)), atol=1e-4)
            requests.append(store.stats().succeeded - before)
            dataset = dataset.copy()  # xarray keeps nothing of the pass before
            print(f"{DAYS} days averaged with {requests[-1]} requests")
        return requests


if __name__ == "__main__":
    main(*sys.argv[1:])
