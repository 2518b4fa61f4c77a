"""One Parquet file, by four programs that read through fsspec: pandas, pyarrow, DuckDB and Dask.

python examples/tables.py my-data/tables
"""

from __future__ import annotations

import sys

import dask.dataframe
import duckdb
import fsspec
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset

ROWS = 300_000


def main(folder: str) -> list[float]:
    """Write the file, and return the same mean as each program has it."""
    path = f"{folder}/trips.parquet"
    url = f"blockyard://{path}"
    random = np.random.default_rng(1)
    trips = pd.DataFrame(
        {
            "city": random.choice(["Bern", "Lima", "Oslo"], ROWS),
            "metres": random.integers(100, 20_000, ROWS),
            "paid": random.normal(12, 3, ROWS),
        }
    )
    trips.to_parquet(url, row_group_size=ROWS // 10)

    # Each reads the file's end, and the columns that it needs of the row groups that it needs.
    frame = pd.read_parquet(url, columns=["city", "metres"])
    by_pandas = frame[frame.city == "Lima"].metres.mean()

    files = fsspec.filesystem("blockyard")
    dataset = pyarrow.dataset.dataset(path, filesystem=files)
    lima = dataset.to_table(columns=["metres"], filter=pc.field("city") == "Lima")
    by_pyarrow = pc.mean(lima["metres"]).as_py()

    with duckdb.connect() as database:
        database.register_filesystem(files)
        query = f"select avg(metres) from '{url}' where city = 'Lima'"  # noqa: S608 - our own
        (by_duckdb,) = database.execute(query).fetchone()

    lazy = dask.dataframe.read_parquet(url, columns=["city", "metres"])
    by_dask = lazy[lazy.city == "Lima"].metres.mean().compute()

    means = [float(mean) for mean in (by_pandas, by_pyarrow, by_duckdb, by_dask)]
    print("metres in Lima, on the mean:", means)
    return means


if __name__ == "__main__":
    main(*sys.argv[1:])
