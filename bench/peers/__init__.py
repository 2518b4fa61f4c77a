"""One module a client, each written as that client's own documentation recommends.

A module has up to three classes, each opened with a `Site`:

- `Client`, blocking: `write(key, data)`, `read(key)`, `read_range(key, offset, length)`, and
  where the client has them `list_keys()`, `delete(keys)`, `copy(source, target)`. The harness
  also calls it from many threads.
- `AsyncClient`: the same as coroutines, after `await open()`.
- `ManyClient`: the client's own bulk calls: `write_many(blocks)`, `read_many(keys)`,
  `read_ranges(ranges)`, with as many in flight as `in_flight` says.

Reads return anything with a length; the harness checks it every time, and the content once.
Timeouts, retries and integrity checks are as each client has them by default.
"""

NAMES = ("blockyard", "obstore", "awscrt", "minio", "boto3", "aiobotocore", "s3fs")
