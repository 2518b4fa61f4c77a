"""`Call`: one S3 call, its request and its attempts so far. `caller.py` makes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from blockyard.context import Request
from blockyard.errors import BlockStoreError
from blockyard.s3.endpoints import Address
from blockyard.s3.signing import EMPTY_SHA256
from blockyard.s3.xml import MAX_REPLY


@dataclass(slots=True, eq=False)
class Attempts:
    """The failed attempts of one call.

    `failed` and `throttled` count them by kind. `paid` is the price of the last retry in tokens.
    `unknown` counts those whose outcome is unknown: they may have taken effect, or may still.
    `unidentified` counts replies without a request id, which an intermediary may have sent.
    `recovered` names what was recovered from an error response (`recovery.py`).
    """

    failed: int = 0
    throttled: int = 0
    unknown: int = 0
    unidentified: int = 0
    paid: int = 0
    notes: list[str] = field(default_factory=list[str])
    recovered: set[str] = field(default_factory=set[str])

    @property
    def made(self) -> int:
        """How many attempts have failed, throttled ones included."""
        return self.failed + self.throttled

    def may_recover(self, what: str) -> bool:
        """Whether to recover `what` now: each kind is recovered once a call."""
        if what in self.recovered:
            return False
        self.recovered.add(what)
        return True


@dataclass(slots=True, eq=False)
class Call(ABC):
    """One S3 call: how its request is built, how its reply is received, how errors name it.

    operation, key: what errors name; the key without the store's prefix, None for no single key
    limit, into: as of `Runtime.exchange`
    payload_hash: SHA-256 to sign; None to compute it from the body once that is built
    handled: errors that `Caller.call` raises without a retry, for the operation to deal with
    hedged: a read that may be sent twice; it has no `into`
    changes: the request changes what is stored
    leaves: what an attempt of unknown outcome may leave behind, of a request that changes no block
    on_bucket: the request is about the bucket, whatever `key` is
    checksum_mode: ask for the checksum that the service keeps
    object_headers: those of `ObjectHeaders` for this kind of request
    attempts: None until an attempt has failed
    """

    operation: str
    key: str | None
    limit: int = field(default=MAX_REPLY, kw_only=True)
    into: memoryview | None = field(default=None, kw_only=True)
    payload_hash: str | None = field(default=EMPTY_SHA256, kw_only=True)
    handled: tuple[type[BlockStoreError], ...] = field(default=(), kw_only=True)
    hedged: bool = field(default=False, kw_only=True)
    changes: bool = field(default=False, kw_only=True)
    leaves: str = field(default="", kw_only=True)
    on_bucket: bool = field(default=False, kw_only=True)
    checksum_mode: bool = field(default=False, kw_only=True)
    object_headers: Mapping[str, str] | None = field(default=None, kw_only=True, repr=False)
    attempts: Attempts | None = field(default=None, kw_only=True)

    @abstractmethod
    def request(self, address: Address) -> Request:
        """Build the request, unsigned, for one attempt."""

    def history(self) -> Attempts:
        """`attempts`, made when first needed."""
        if self.attempts is None:
            self.attempts = Attempts()
        return self.attempts


@dataclass(slots=True, eq=False)
class FunctionCall(Call):
    """A call whose request is built by a function."""

    build: Callable[[Address], Request]

    def request(self, address: Address) -> Request:
        return self.build(address)
