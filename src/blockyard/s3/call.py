"""One S3 call: what is requested, and what it has been through. `calls.py` makes them."""

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
    """What one call has been through so far.

    `paid` are the tokens of its last retry; `unknown` counts the attempts that failed and may
    have taken effect, or may still; `doubted` the replies that something in between may have sent.
    """

    failed: int = 0
    throttled: int = 0
    unknown: int = 0
    doubted: int = 0
    paid: int = 0
    notes: list[str] = field(default_factory=list[str])
    recovered: set[str] = field(default_factory=set[str])

    @property
    def made(self) -> int:
        """How many requests have failed, for whatever reason."""
        return self.failed + self.throttled

    def may_recover(self, what: str) -> bool:
        """Whether `what` may be recovered in this call: once each."""
        if what in self.recovered:
            return False
        self.recovered.add(what)
        return True


@dataclass(slots=True, eq=False)
class Call(ABC):
    """What is requested: how the request is built, what its reply must be, and whom to name.

    `key` is the key as users know it; `limit` and `into` are `Runtime.exchange`'s; `payload_hash`
    is None for a body to hash when it is built. Errors of the `handled` kinds are not tried again
    here: the operation deals with them. `hedged` is for a read that may be sent twice, and has
    no `into`. `changes` is for a request that changes what is stored; `leaves` for one that does
    not, and says what attempts of unknown outcome may leave all the same; `on_bucket` for one that
    is about the bucket, whatever `key` is; `checksum_mode` asks for the checksum that the service
    keeps. `object_headers` are those of `ObjectHeaders` for its kind. `attempts` is what the call
    has been through, once there is something to tell.
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
        """The request, to be signed."""

    def history(self) -> Attempts:
        """`attempts`, from now on to be told of."""
        if self.attempts is None:
            self.attempts = Attempts()
        return self.attempts


@dataclass(slots=True, eq=False)
class FunctionCall(Call):
    """A call whose request is built by a function, and whose reply needs nothing of the call."""

    build: Callable[[Address], Request]

    def request(self, address: Address) -> Request:
        return self.build(address)
