"""xarray over Zarr, with a cache: the second pass over a dataset sends no request for its chunks.

python examples/xarray_zarr.py s3://my-data/arrays/
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import xarray
import zarr
from zarr.core import codec_pipeline

import blockyard
from blockyard.zarr import BlockyardStore

DAYS = 24

# Chunks are never written twice here, so what the cache has need not be asked for again.
CACHE = {"memory": "256MiB", "revalidate": "never"}

if hasattr(codec_pipeline, "FusedCodecPipeline"):  # of Zarr 3.4: reads by fewer steps a chunk
    zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"})


def main(url: str) -> dict[str, list[int]]:
    """Write a dataset and read it twice, by each store; returns the requests of each pass."""
    temperature = np.random.default_rng(1).normal(12, 5, (DAYS, 90, 180)).astype("f4")
    written = xarray.Dataset({"temperature": (("day", "lat", "lon"), temperature)})
    encoding = {"temperature": {"chunks": (1, 90, 180)}}
    with blockyard.open_store(url) as store:
        written.to_zarr(BlockyardStore(store), mode="w", encoding=encoding, consolidated=False)
    means = temperature.mean((1, 2))
    return {
        "no cache": two_passes(means, blockyard.open_store(url), "no cache"),
        "cache": two_passes(means, blockyard.open_store(url, cache=CACHE), "cache"),
    }


def two_passes(expected: Any, store: blockyard.BlockStore, name: str) -> list[int]:
    """Average the days of a dataset twice; returns the requests for its chunks."""
    requests: list[int] = []
    with store:
        for _ in range(2):
            # A dataset keeps what it has loaded, and copies share it: one that is opened anew asks.
            dataset = xarray.open_zarr(BlockyardStore(store), consolidated=False, chunks=None)
            before = store.stats().succeeded
            means = dataset.temperature.mean(("lat", "lon")).values
            assert np.allclose(means, expected, atol=1e-4)
            requests.append(store.stats().succeeded - before)
            print(f"{name}: {DAYS} days averaged with {requests[-1]} requests")
    return requests


if __name__ == "__main__":
    main(*sys.argv[1:])
