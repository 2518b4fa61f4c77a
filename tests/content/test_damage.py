"""Contents whose manifest is damaged: what still works on them, and what goes on beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from blockyard import (
    BlockNotFoundError,
    ContentExistsError,
    IntegrityError,
    OutcomeUnknownError,
    UnsupportedError,
)
from blockyard.content.manifest import MOST_REPLACED, decode
from blockyard.context import Context
from blockyard.errors import BlockStoreError
from blockyard.model import BlockInfo
from blockyard.stores.base import WriteRequest
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, open_client
from blockyard.testing.samples import content
from tests.content.test_content_faults import Contents
from tests.hooked_store import HookedStore, nothing

DATA = content(100_000)
LATER = b"blockyard-content 2 " + bytes(30)


def flipped(manifest: bytes) -> bytes:
    return manifest[:100] + bytes([manifest[100] ^ 1]) + manifest[101:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": flipped,
    "cut off": lambda manifest: manifest[:200],
    "of something else": lambda _: b"hi",
    "empty": lambda _: b"",
}


@pytest.fixture(params=["memory", "folder"])
def hooked(request: pytest.FixtureRequest, tmp_path: Path) -> HookedStore:
    return HookedStore(MemoryStore() if request.param == "memory" else FilesystemStore(tmp_path))


@pytest.fixture(params=CLIENTS)
def store(request: pytest.FixtureRequest, hooked: HookedStore) -> Iterator[BlockStore]:
    with open_client(request.param, hooked) as client:
        yield client.store


@pytest.fixture(params=DAMAGES)
def damaged(request: pytest.FixtureRequest, store: BlockStore) -> list[str]:
    """The keys of the blocks of the content "c", whose manifest is damaged."""
    store.write_content("c", DATA)
    manifest = store.read_block("c.blockyard")
    store.write_block("c.blockyard", DAMAGES[request.param](manifest))
    with pytest.raises(IntegrityError):
        store.read_content("c")
    return store.list_by_prefix("c/")


def test_it_is_written_again(store: BlockStore, damaged: list[str]) -> None:
    store.write_content("c", b"new")
    assert store.read_content("c") == b"new"
    assert store.list_by_prefix("c/") == damaged, "nobody knows whether they may go"
    history = decode("", store.read_block("c.blockyard")).history
    assert len(history) == MOST_REPLACED, "else an older writer took it for its successor"
    report = store.clean_contents(dry_run=False, no_writers=True)
    assert [(each.what, each.blocks) for each in report.removed] == [("orphan", len(damaged))]
    assert store.list_by_prefix("c/") == []


def test_it_is_copied_onto(store: BlockStore, damaged: list[str]) -> None:
    store.write_content("source", DATA[::-1])
    store.copy_content("source", "c")
    assert store.read_content("c") == DATA[::-1]


def test_it_is_deleted(store: BlockStore, damaged: list[str]) -> None:
    store.delete_content("c")
    assert not store.content_exists("c")
    with pytest.raises(BlockNotFoundError):
        store.read_content("c")
    assert store.list_by_prefix("c/") == damaged
    store.delete_content("c")
    store.write_content("c", b"new", if_absent=True)
    assert store.read_content("c") == b"new"


def test_something_is_there(store: BlockStore, damaged: list[str]) -> None:
    version = damaged[0].split("/")[1] if damaged else "20260101T000000Z-0123456789abcdef"
    for source in (b"new", DATA):
        with pytest.raises(ContentExistsError):
            store.write_content("c", source, if_absent=True)
        with pytest.raises(IntegrityError, match="damaged"):
            store.write_content("c", source, if_match=version)
    for call in (store.stat_content, store.adopt_content):
        with pytest.raises(IntegrityError, match="damaged"):
            call("c")
    with pytest.raises(IntegrityError, match="damaged"):
        store.copy_content("c", "elsewhere")
    assert store.list_by_prefix("c/") == damaged


def test_others_are_cleaned(store: BlockStore, damaged: list[str]) -> None:
    place = "{}/20200101T000000Z-0123456789abcdef/chunk-000000/block-0000"
    for content_id in ("a", "b", "z"):
        store.write_block(place.format(content_id), b"orphan")
    store.write_block("zz.blockyard", b"hi")
    for dry_run in (True, False):
        report = store.clean_contents(dry_run=dry_run, no_writers=True)
        assert [each.content_id for each in report.removed] == ["a", "b", "z"]
        assert list(report.damaged) == ["c", "zz"]
        assert all(isinstance(each, IntegrityError) for each in report.damaged.values())
    assert store.list_by_prefix() == ["c.blockyard", *damaged, "zz.blockyard"]


def test_one_whose_bytes_do_not_match_what_is_stored_with_them(
    store: BlockStore, hooked: HookedStore
) -> None:
    """As on S3, where each object has checksums of its own: not even its ETag is given."""

    async def hook(operation: str, key: str) -> None:
        if key == "c.blockyard" and operation not in {"write_block", "stat_block"}:
            raise IntegrityError("bytes 0 to 1023 do not match")

    store.write_content("c", DATA)
    hooked.hook = hook
    with pytest.raises(ContentExistsError):
        store.write_content("c", b"new", if_absent=True)
    store.write_content("c", b"new")
    store.delete_content("c")
    hooked.hook = nothing
    assert not store.content_exists("c")
    store.write_content("c", b"new")
    assert store.read_content("c") == b"new"


def test_one_of_a_later_format_is_left_alone(store: BlockStore) -> None:
    store.write_block("c.blockyard", LATER)
    for call in (
        lambda: store.read_content("c"),
        lambda: store.write_content("c", b"new"),
        lambda: store.write_content("c", DATA),
        lambda: store.delete_content("c"),
    ):
        with pytest.raises(UnsupportedError, match="later format"):
            call()
    report = store.clean_contents(dry_run=False, no_writers=True)
    assert [type(each) for each in report.damaged.values()] == [UnsupportedError]
    assert store.read_block("c.blockyard") == LATER


class Losing(HookedStore):
    """Loses the reply to the first write of a manifest, which a disk then damages."""

    lost = False

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        info = await self.inner.write(ctx, request)
        if self.lost or request.key != "c.blockyard":
            return info
        self.lost = True
        await self.inner.write(ctx, WriteRequest(request.key, flipped(bytes(request.data))))
        ctx.unknown_attempts += 1
        raise BlockStoreError("the reply was lost")


@pytest.mark.parametrize(
    "change", [lambda contents: contents.write("c", b"new"), lambda contents: contents.delete("c")]
)
def test_what_is_damaged_after_an_attempt_of_unknown_outcome_shows_nothing(
    change: Callable[[Contents], Awaitable[object]],
) -> None:
    """It may be this very write, or delete, and another one may have come after it."""

    async def main() -> None:
        inner = MemoryStore()
        await Contents(inner).write("c", DATA)
        with pytest.raises(OutcomeUnknownError, match="what is there now is damaged"):
            await change(Contents(Losing(inner)))

    asyncio.run(main())


def test_verifying_holds_manifests_to_their_own_checksum(store: BlockStore) -> None:
    for content_id in "abc":
        store.write_content(content_id, b"short")
    store.write_block("b.blockyard", flipped(store.read_block("b.blockyard")))
    store.write_block("c.blockyard", LATER)
    store.write_block("other.blockyard", b"hi")
    store.write_block("other", b"hi")
    report = store.verify_by_prefix("")
    assert report.verified == {"manifest": 1}
    assert list(report.damaged) == ["b.blockyard"]
    assert list(report.unreadable) == ["c.blockyard"]
    assert report.unverifiable == 2
