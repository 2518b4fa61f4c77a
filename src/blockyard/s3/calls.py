"""One S3 call: build, sign, exchange, check, and try again when that may help.

This is the only loop around requests. What a reply teaches is kept for later calls: the
bucket's region, the service's clock, fresh credentials; each heals a call once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

from blockyard.config import S3Config
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    BlockStoreError,
    DeadlineExceededError,
    S3Error,
    ThrottledError,
    TransportError,
)
from blockyard.s3.credentials import Credentials, CredentialSource
from blockyard.s3.hedging import Hedging
from blockyard.s3.pacing import Pace
from blockyard.s3.refusals import error_from, region_hint, retry_after, server_time
from blockyard.s3.requests import Address, bucket_address
from blockyard.s3.retry import RetryPolicy, delay_before_next
from blockyard.s3.signing import EMPTY_SHA256, Signer
from blockyard.s3.xml import MAX_REPLY

Result = TypeVar("Result")

_SUCCESS = frozenset({200, 204, 206})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_OTHER_REGION = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "IncorrectEndpoint",
    }
)


@dataclass(frozen=True, slots=True)
class Site:
    """Where the bucket is and who signs for it there; swapped whole when the region is learnt."""

    address: Address
    signer: Signer
    region: str


@dataclass(slots=True)
class Attempts:
    """What one call has been through so far; `paid` are the tokens of its last retry."""

    failed: int = 0
    throttled: int = 0
    paid: int = 0
    notes: list[str] = field(default_factory=list[str])
    healed: set[str] = field(default_factory=set[str])

    @property
    def made(self) -> int:
        """How many requests have failed, for whatever reason."""
        return self.failed + self.throttled

    def heal(self, what: str) -> bool:
        """Whether `what` may be put right in this call: once."""
        if what in self.healed:
            return False
        self.healed.add(what)
        return True


@dataclass(slots=True)
class Call(ABC):
    """What is asked: how the request is built, what its reply must be, and whom to name.

    `key` is the key as users know it; `limit` and `into` are `Runtime.exchange`'s; `payload_hash`
    is None for a body to hash when it is built. Errors of the `handled` kinds are not tried again
    here: the operation deals with them. `hedged` is for a read that may be asked twice, and has
    no `into`. `attempts` is what the call has been through, once there is something to tell.
    """

    operation: str
    key: str | None
    limit: int = field(default=MAX_REPLY, kw_only=True)
    into: memoryview | None = field(default=None, kw_only=True)
    payload_hash: str | None = field(default=EMPTY_SHA256, kw_only=True)
    handled: tuple[type[BlockStoreError], ...] = field(default=(), kw_only=True)
    hedged: bool = field(default=False, kw_only=True)
    attempts: Attempts | None = field(default=None, kw_only=True)

    @abstractmethod
    def request(self, address: Address) -> Request:
        """The request, to be signed."""

    def history(self) -> Attempts:
        """`attempts`, from now on to be told of."""
        if self.attempts is None:
            self.attempts = Attempts()
        return self.attempts


@dataclass(slots=True)
class PlainCall(Call):
    """A call whose request is built by a function, and whose reply needs nothing of the call."""

    build: Callable[[Address], Request]

    def request(self, address: Address) -> Request:
        return self.build(address)


class Caller:
    """Makes the calls of one store. Shared by threads and loops; its state is advice only."""

    def __init__(self, config: S3Config, credentials: CredentialSource) -> None:
        self._config = config
        self._credentials = credentials
        self._policy = RetryPolicy(attempts=max(1, config.max_retries))
        self.hedging = Hedging() if config.hedge_reads else None
        self._pace = Pace()
        self._clock_offset = 0.0
        self._contacted = False
        self.site = self._site(config.region)

    async def call(self, ctx: Context, call: Call, check: Callable[[Response], Result]) -> Result:
        """`check(reply)` of the first attempt that succeeds; its errors are tried again too."""
        pace = self._pace
        while True:
            ticket = None
            try:
                if pace.limit is not None:
                    ticket = await pace.enter(ctx)
                site, credentials = self.site, await self._credentials.current(ctx)
                request = self._signed(ctx, call, site, credentials)
                if call.hedged and self.hedging is not None:
                    response = await self._hedged(ctx, call, request, self.hedging)
                else:
                    response = await ctx.runtime.exchange(
                        request, into=call.into, limit=call.limit, deadline=ctx.deadline
                    )
                self._contacted = True
                if response.status in _SUCCESS:
                    result = check(response)
                    pace.succeeded(call.attempts.paid if call.attempts else 0)
                    return result
                if await self._healed(ctx, call, response, site, credentials):
                    continue
                raise self._refusal(ctx, call, response)
            except call.handled:
                raise
            except BlockStoreError as error:
                failure = error
            finally:
                if ticket is not None:
                    pace.leave(ticket)
            await self.pause_or_raise(ctx, call.operation, call.key, call.history(), failure)

    async def _hedged(
        self, ctx: Context, call: Call, request: Request, hedging: Hedging
    ) -> Response:
        response = await ctx.runtime.exchange(
            request, limit=call.limit, deadline=ctx.deadline, hedge=hedging.hedge
        )
        hedging.answered(response.waited)
        return response

    async def pause_or_raise(
        self,
        ctx: Context,
        operation: str,
        key: str | None,
        attempts: Attempts,
        error: BlockStoreError,
    ) -> None:
        """Return when the call should be tried again, having waited; else raise `error`.

        Throttling has a budget of its own, as large: it says nothing of what else may fail.
        """
        if isinstance(error, ThrottledError):
            self._pace.throttled(ctx)
            attempts.throttled += 1
            failed = attempts.throttled
        else:
            attempts.failed += 1
            failed = attempts.failed
        delay = delay_before_next(
            self._policy, failed, error, contacted=self._contacted, jitter=ctx.runtime.jitter()
        )
        if delay is None:
            raise _final(error, operation, key, attempts)
        try:
            attempts.paid = await self._pace.pay(ctx, error)
            if attempts.paid:
                attempts.notes.append(f"attempt {attempts.made}: {error}")
                await ctx.sleep(delay)
        except DeadlineExceededError as past:
            raise _final(past, operation, key, attempts) from error
        if not attempts.paid:
            raise _final(error, operation, key, attempts)

    def made_progress(self, attempts: Attempts, failed: int) -> None:
        """A reply broke off, but brought enough: only `failed` attempts count up to now."""
        attempts.failed = failed
        self._pace.succeeded(attempts.paid)

    def _signed(
        self, ctx: Context, call: Call, site: Site, credentials: Credentials | None
    ) -> Request:
        request = call.request(site.address)
        if credentials is not None:
            payload_hash = call.payload_hash or sha256(request.body).hexdigest()
            site.signer.sign(request, credentials, self._now(ctx), payload_hash)
        return request

    async def _healed(
        self,
        ctx: Context,
        call: Call,
        response: Response,
        site: Site,
        credentials: Credentials | None,
    ) -> bool:
        """Learn what a refusal teaches; whether the next attempt will differ because of it.

        `site` and `credentials` are those of the refused request: meanwhile another call may
        have put right what was wrong with it.
        """
        attempts = call.history()
        error = error_from(response, call.operation, call.key)
        code = error.code if isinstance(error, S3Error) else ""
        region = region_hint(response)
        if code in _EXPIRED and attempts.heal("credentials"):
            return await self._credentials.renew(ctx, credentials)
        theirs = server_time(response)
        if code in _SKEWED and theirs is not None and attempts.heal("clock"):
            self._clock_offset = theirs - ctx.runtime.wall_time()
            return True
        elsewhere = code in _OTHER_REGION or response.status in {301, 307, 400}
        if region and elsewhere and region != site.region and attempts.heal("region"):
            if region != self.site.region:
                self.site = self._site(region)
            return True
        return False

    def _refusal(self, ctx: Context, call: Call, response: Response) -> BlockStoreError:
        error = error_from(response, call.operation, call.key)
        if isinstance(error, S3Error):
            error.retry_after = retry_after(response, self._now(ctx))
        return error

    def _site(self, region: str) -> Site:
        config = self._config
        address = bucket_address(
            config.endpoint, region, config.bucket, path_style=config.force_path_style
        )
        return Site(address, Signer(region), region)

    def _now(self, ctx: Context) -> float:
        return ctx.runtime.wall_time() + self._clock_offset


def _final(
    error: BlockStoreError, operation: str, key: str | None, attempts: Attempts
) -> BlockStoreError:
    """`error` as the caller of the store gets it: it names the operation and lists the attempts."""
    if isinstance(error, TransportError):
        where = operation if key is None else f"{operation} {key!r}"
        error.args = (f"{where}: {error}", *error.args[1:])
    if isinstance(error, S3Error):
        error.attempts = max(attempts.made, 1)
    for note in attempts.notes:
        error.add_note(note)
    return error
