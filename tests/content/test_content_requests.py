"""Contents over S3 when one request fails, each that a new client makes: the old one or the new.

What a service says for certain of one request says nothing of those before it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from blockyard import BlockNotFoundError, BlockStore, BlockStoreError, open_store
from blockyard_faults import Fault, FaultProxy, LoseReply, SeenRequest, Status, WebPage
from blockyard_faults.campaign.bucket import DictBucket

BLOCK = 16_384
OLD = b"old" * 30_000
NEW = b"new" * 40_000

Operation = Callable[[BlockStore], object]
OPERATIONS: dict[str, tuple[Operation, bool, set[bytes | None]]] = {
    "write": (
        lambda store: store.write_content("film", NEW, block_size=BLOCK),
        False,
        {None, NEW},
    ),
    "write again": (
        lambda store: store.write_content("film", NEW, block_size=BLOCK),
        True,
        {OLD, NEW},
    ),
    "write if absent": (
        lambda store: store.write_content("film", NEW, block_size=BLOCK, if_absent=True),
        False,
        {None, NEW},
    ),
    "copy": (lambda store: store.copy_content("other", "film"), True, {OLD, NEW}),
    "delete": (lambda store: store.delete_content("film"), True, {OLD, None}),
}
FAULTS: dict[str, Fault] = {
    "refused": Status(403, "AccessDenied"),
    "page": WebPage(),
    "lost": LoseReply(),
}


def opened(url: str) -> BlockStore:
    return open_store(
        bucket="bucket", endpoint=url, force_path_style=True, access_key="some", secret_key="thing"
    )


def now(url: str) -> bytes | None:
    with opened(url) as store, suppress(BlockNotFoundError):
        return store.read_content("film")
    return None


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name, marks=() if name == "refused" else pytest.mark.thorough)
        for name, fault in FAULTS.items()
    ],
)
@pytest.mark.parametrize(
    ("operation", "replaces", "allowed"), OPERATIONS.values(), ids=OPERATIONS.keys()
)
def test_one_request_fails(
    operation: Operation, replaces: bool, allowed: set[bytes | None], fault: Fault
) -> None:
    broken = requests = 0
    while requests >= broken:  # else that one was not made
        broken += 1
        with DictBucket() as bucket:
            with opened(bucket.url) as store:
                _ = store.write_content("other", NEW, block_size=BLOCK)
                if replaces:
                    _ = store.write_content("film", OLD, block_size=BLOCK)

            def plan(request: SeenRequest, nth: int = broken) -> Fault | None:
                return fault if request.number == nth else None

            succeeded = False
            with FaultProxy(bucket.url, plan) as proxy, opened(proxy.url) as store:
                with suppress(BlockStoreError):
                    _ = operation(store)
                    succeeded = True
                requests = len(proxy.requests)
            found = now(bucket.url)
        assert found in allowed
        if succeeded:
            assert found != (OLD if replaces else None)
    assert broken >= 6
