"""Blocks and objects when one request fails, each in turn that an operation of a new client makes.

What is stored is what was there or what was to be there, the error says whether that may have
changed, nothing is left that nobody is told of, and nothing is learnt that is not so.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import md5

import pytest

from blockyard import BlockInfo, BlockStore, PutOptions, arguments, large_copies
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    InvalidRangeError,
    PartialDeleteError,
    PreconditionFailedError,
    UnsupportedError,
)
from blockyard.keys import PROBE_PREFIX
from blockyard.model import CopyResult, DeleteResult
from blockyard.s3 import part_copies
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard_faults import Fault, FlipBit, GarbageHead, LoseReply, Status, Truncate, WebPage
from tests.s3.swept import LARGEST_COPY, Lacking, Service, service

PART, READ_PART = 1_000, 250
OLD, NEW, LARGE = b"old" * 200, b"new" * 700, b"large" * 600
OPTIONS = PutOptions(metadata={"who": "me"}, tags={"t": "1"})
MANY = {f"d/{number}": b"%d" % number for number in range(4)}
FAULTS: dict[str, Fault] = {
    "refused": Status(403, "AccessDenied"),
    "page": WebPage(),
    "error in a 200": Status(200, "InternalError"),
    "lost": LoseReply(),
    "garbage": GarbageHead(),
}
REFUSED = (BlockExistsError, PreconditionFailedError)


def etag(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()


def pieces() -> Iterator[bytes]:
    yield from (NEW[at : at + 300] for at in range(0, len(NEW), 300))


@dataclass(frozen=True, slots=True)
class Operation:
    """A call, what it finds, and what it leaves; `refused` are the errors of one not to be done."""

    run: Callable[[BlockStore], object]
    before: Mapping[str, bytes]
    after: Mapping[str, bytes]
    refused: tuple[type[BlockStoreError], ...] = ()
    tagged: bool = False
    bulk: bool = False


OPERATIONS: dict[str, Operation] = {
    "write": Operation(lambda s: s.write_block("a", NEW), {"a": OLD}, {"a": NEW}),
    "write with options": Operation(
        lambda s: s.write_block("a", NEW, options=OPTIONS), {"a": OLD}, {"a": NEW}, tagged=True
    ),
    "write if absent": Operation(
        lambda s: s.write_block("a", NEW, if_absent=True, options=OPTIONS),
        {},
        {"a": NEW},
        tagged=True,
    ),
    "write if absent, refused": Operation(
        lambda s: s.write_block("a", NEW, if_absent=True),
        {"a": OLD},
        {"a": OLD},
        (BlockExistsError,),
    ),
    "write if match": Operation(
        lambda s: s.write_block("a", NEW, if_match=etag(OLD)), {"a": OLD}, {"a": NEW}
    ),
    "write many": Operation(
        lambda s: s.write_blocks(list(MANY.items())), {"d/0": OLD}, MANY, bulk=True
    ),
    "object of one part": Operation(
        lambda s: s.write_object("a", iter([NEW[:PART]]), part_size=PART),
        {"a": OLD},
        {"a": NEW[:PART]},
    ),
    "object": Operation(
        lambda s: s.write_object("a", pieces(), part_size=PART, options=OPTIONS),
        {"a": OLD},
        {"a": NEW},
        tagged=True,
    ),
    "object if absent": Operation(
        lambda s: s.write_object("a", pieces(), part_size=PART, if_absent=True), {}, {"a": NEW}
    ),
    "object if match": Operation(
        lambda s: s.write_object("a", pieces(), part_size=PART, if_match=etag(OLD)),
        {"a": OLD},
        {"a": NEW},
    ),
    "object if match, refused": Operation(
        lambda s: s.write_object("a", pieces(), part_size=PART, if_match="other"),
        {"a": OLD},
        {"a": OLD},
        (PreconditionFailedError,),
    ),
    "copy": Operation(lambda s: s.copy_block("b", "a"), {"a": OLD, "b": NEW}, {"a": NEW, "b": NEW}),
    "copy in parts": Operation(
        lambda s: s.copy_block("b", "a"), {"a": OLD, "b": LARGE}, {"a": LARGE, "b": LARGE}
    ),
    "delete": Operation(lambda s: s.delete_block("a"), {"a": OLD, "b": NEW}, {"b": NEW}),
    "delete if match": Operation(
        lambda s: s.delete_block("a", if_match=etag(OLD)), {"a": OLD, "b": NEW}, {"b": NEW}
    ),
    "delete if match, refused": Operation(
        lambda s: s.delete_block("a", if_match="other"),
        {"a": OLD},
        {"a": OLD},
        (PreconditionFailedError,),
    ),
    "delete many": Operation(lambda s: s.delete_blocks(list(MANY)), {**MANY, "b": NEW}, {"b": NEW}),
    "delete by prefix": Operation(
        lambda s: s.delete_by_prefix("d"), {**MANY, "d": OLD, "d0": NEW}, {"d0": NEW}
    ),
}
LACKING: dict[Lacking, list[str]] = {
    "etags": ["write if absent", "object if absent"],
    "batches": ["delete many", "delete by prefix"],
    "copies": ["copy"],
    "tags": ["object"],
    "conditions": ["write if absent", "object if match", "delete if match, refused"],
}
"""Of services that lack something, the operations that show it."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "MIN_PART_SIZE", PART)
    monkeypatch.setattr(arguments, "MIN_READ_PART", READ_PART)
    monkeypatch.setattr(part_copies, "LARGEST_COPY", LARGEST_COPY)
    monkeypatch.setattr(large_copies, "COPIED_PART", PART)


def capabilities(lacking: Lacking) -> dict[str, bool]:
    """Those of such a service, whatever has failed."""
    conditions = ("conditional_writes", "matching_writes", "matching_deletes")
    conditions += ("conditional_uploads", "matching_uploads")
    known = dict.fromkeys((*conditions, "uploads", "upload_checksum"), True)
    known |= {"delete_objects": True, "copies": True, "upload_tags": True, "bare_etags": False}
    if lacking == "conditions":
        known |= dict.fromkeys(conditions, False)
    lost: dict[Lacking, str] = {
        "batches": "delete_objects",
        "copies": "copies",
        "tags": "upload_tags",
    }
    return known | ({lost[lacking]: False} if lacking in lost else {})


class Run:
    """One run of an operation, one of whose requests is broken, and all that has to hold of it."""

    def __init__(self, swept: Service, operation: Operation, log: pytest.LogCaptureFixture) -> None:
        self.swept = swept
        self.operation = operation
        self.log = log
        self.result: object = None
        self.error: BlockStoreError | None = None

    def run(self, client: ClientName, fault: Fault, broken: int, *, writes: bool = False) -> int:
        """How many requests were made; with `writes` it counts only if one of those was broken."""
        swept, bucket = self.swept, self.swept.bucket
        bucket.empty()
        self.log.clear()
        with open_client(client, swept.config(bucket.url)) as opened:
            for key, data in self.operation.before.items():
                _ = opened.store.write_block(key, data)
        with open_client(client, swept.config(swept.url)) as opened:
            swept.begin(fault, broken)
            try:
                self.result = self.operation.run(opened.store)
            except BlockStoreError as error:
                self.error = error
            made = len(swept.requests)
            if not writes or swept.broken_method in {"PUT", "POST"}:
                self.check()
            learnt = opened.store.stats().capabilities
            for name, value in capabilities(bucket.lacking).items():
                assert learnt[name] in {None, value}, name
            swept.begin(None)
            self.check_next(opened.store)
        return made

    def check(self) -> None:
        bucket, operation, error = self.swept.bucket, self.operation, self.error
        told = [*getattr(error, "__notes__", []), *self.log.messages]
        for left in [*bucket.uploads, *(key for key in bucket.blocks if PROBE_PREFIX in key)]:
            assert any(f"{left!r}" in each and "may be left" in each for each in told)
        now = {key: data for key, data in bucket.blocks.items() if PROBE_PREFIX not in key}
        if error is None:
            assert not operation.refused
            assert now == operation.after
            self.check_result()
            return
        for key in {*operation.before, *operation.after, *now}:
            assert now.get(key) in {operation.before.get(key), operation.after.get(key)}
        if isinstance(error, PartialDeleteError):
            self.check_deleted(error.result, now)
        else:
            assert error.unknown_attempts or operation.bulk or now == operation.before
        assert isinstance(error, operation.refused) or not isinstance(error, REFUSED)
        assert not isinstance(error, BlockNotFoundError)
        if bucket.lacking not in {"conditions", "copies"}:
            assert not isinstance(error, UnsupportedError)

    def check_deleted(self, result: DeleteResult, now: Mapping[str, bytes]) -> None:
        """Each key is gone, or has an error, which says whether it may be gone."""
        assert not now.keys() & {*result.deleted}
        gone = self.operation.before.keys() - now.keys() - {*result.deleted}
        assert all(result.failed[key].unknown_attempts for key in gone)

    def check_result(self) -> None:
        objects = self.swept.bucket.objects
        match self.result:
            case BlockInfo() as info:
                stored = objects[info.key]
                assert (info.etag, info.size) == (stored.etag, len(stored.data))
            case CopyResult() as copy:
                assert copy.etag == objects[copy.key].etag
            case DeleteResult() as result:
                assert {*result.deleted} == self.operation.before.keys() - objects.keys()
            case _:
                pass
        if self.operation.tagged:
            assert self.swept.bucket.tags["a"] == "t=1"
            assert objects["a"].metadata["x-amz-meta-who"] == "me"

    def check_next(self, store: BlockStore) -> None:
        """What comes next of the same client is as ever."""
        if self.swept.bucket.lacking == "conditions":
            with pytest.raises(UnsupportedError):
                _ = store.write_block("n", NEW, if_absent=True)
            return
        info = store.write_block("n", NEW, if_absent=True)
        assert store.read_block("n") == NEW
        store.delete_block("n", if_match=info.etag)
        assert "n" not in store.list_by_prefix("n")


def sweep(
    lacking: Lacking,
    name: str,
    client: ClientName,
    faults: Iterable[Fault],
    log: pytest.LogCaptureFixture,
    *,
    writes: bool = False,
) -> None:
    log.set_level(logging.INFO, "blockyard.s3")
    with service(lacking) as swept:
        for fault in faults:
            broken = requests = 0
            while requests >= broken:  # else that one was not made
                broken += 1
                run = Run(swept, OPERATIONS[name], log)
                requests = run.run(client, fault, broken, writes=writes)
            assert broken > 1


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_one_request_fails(name: str, client: ClientName, caplog: pytest.LogCaptureFixture) -> None:
    blocking = client == "blocking"
    faults = FAULTS.values() if blocking else (FAULTS["refused"], FAULTS["lost"])
    sweep("nothing", name, client, faults, caplog)


@pytest.mark.parametrize(
    ("lacking", "name"), [(lacking, name) for lacking, names in LACKING.items() for name in names]
)
def test_one_request_to_a_service_that_lacks_something_fails(
    lacking: Lacking, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    sweep(lacking, name, "blocking", FAULTS.values(), caplog)


@pytest.mark.parametrize("lacking", ["nothing", "conditions"])
@pytest.mark.parametrize(
    "name", ["write", "write if absent", "write if match", "object", "object if absent"]
)
def test_a_write_is_answered_by_a_404(
    name: str, lacking: Lacking, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no missing block to what needs none, and does not show that a condition is kept."""
    faults = Status(404, ""), Status(404, "NoSuchUpload")
    sweep(lacking, name, "blocking", faults, caplog, writes=True)


def read_into(store: BlockStore) -> bytes:
    buffer = bytearray(2 * len(OLD))
    return bytes(buffer[: store.read_block_into("a", buffer)])


def outcome(call: Callable[[], object]) -> object:
    """What a call returns, or its error."""
    try:
        return call()
    except BlockStoreError as error:
        return error


UNTRUE = (BlockNotFoundError, InvalidRangeError, *REFUSED)
"""What no error of a read may be, unless that is so."""


def read_object(store: BlockStore, key: str) -> bytes:
    stream = io.BytesIO()
    _ = store.read_object_into(key, stream, part_size=READ_PART)
    return stream.getvalue()


READS: dict[str, tuple[Callable[[BlockStore], object], object]] = {
    "read": (lambda s: s.read_block("a"), OLD),
    "read into": (read_into, OLD),
    "range": (lambda s: s.read_block_range("a", 100, 50), OLD[100:150]),
    "range of no bytes": (lambda s: s.read_block_range("a", 100, 0), b""),
    "suffix": (lambda s: s.read_block_with_info("a", suffix=7)[0], OLD[-7:]),
    "if match": (lambda s: s.read_block_with_info("a", if_match=etag(OLD))[0], OLD),
    "past the end": (lambda s: s.read_block_range("a", len(OLD), 5), InvalidRangeError),
    "object": (lambda s: read_object(s, "a"), OLD),
    "object without a byte": (lambda s: read_object(s, "empty"), b""),
    "object, part by part": (lambda s: b"".join(s.iter_object("a", part_size=READ_PART)), OLD),
    "many": (lambda s: s.read_blocks(["d/0", "a", "d/1"]), [b"0", OLD, b"1"]),
    "ranges": (
        lambda s: s.read_block_ranges([("a", 1, 2), ("d/0", 0, None), ("a", 500, 9)]),
        [OLD[1:3], b"0", OLD[500:509]],
    ),
    "stat": (lambda s: s.stat_block("a").etag, etag(OLD)),
    "exists": (lambda s: (s.block_exists("a"), s.block_exists("n")), (True, False)),
}
LISTINGS: dict[str, tuple[Callable[[BlockStore], object], object]] = {
    "keys": (lambda s: s.list_by_prefix("d/"), list(MANY)),
    "blocks": (lambda s: [(info.key, info.size) for info in s.iter_blocks("a")], [("a", len(OLD))]),
    "folder": (lambda s: s.list_folder().folders, ["d/"]),
    "health": (lambda s: s.health_check().server, ""),
}


@pytest.mark.parametrize("name", [*READS, *LISTINGS])
def test_one_request_of_a_read_fails(name: str) -> None:
    """It gives what there is, or an error that is true."""
    read, expected = (READS | LISTINGS)[name]
    faults: list[Fault] = [*FAULTS.values(), Truncate()]
    if name in READS:  # in a listing nobody could tell
        faults.append(FlipBit())
    with service("nothing") as swept:
        with open_client("blocking", swept.config(swept.bucket.url)) as opened:
            _ = opened.store.write_blocks([("a", OLD), ("empty", b""), *MANY.items()])
        for fault in faults:
            broken = requests = 0
            while requests >= broken:
                broken += 1
                with open_client(CLIENTS[broken % 2], swept.config(swept.url)) as opened:
                    swept.begin(fault, broken)
                    found = outcome(lambda store=opened.store: read(store))
                    if isinstance(found, BlockStoreError):
                        assert type(found) is expected or not isinstance(found, UNTRUE)
                    else:
                        assert found == expected
                    requests = len(swept.requests)
                    swept.begin(None)
                    assert opened.store.read_block("a") == OLD
            assert broken > 1


def test_what_could_not_be_cleaned_is_not_reported_as_removed() -> None:
    with service("nothing") as swept:
        for fault in FAULTS.values():
            broken = requests = 0
            while requests >= broken:
                broken += 1
                swept.bucket.begin_upload("x")
                with open_client("blocking", swept.config(swept.url)) as opened:
                    swept.begin(fault, broken)
                    with suppress(BlockStoreError):
                        _ = opened.store.clean_contents(dry_run=False, no_writers=True)
                        assert swept.bucket.uploads == []
                requests = len(swept.requests)
