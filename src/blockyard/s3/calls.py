"""One S3 call: build, sign, exchange, check, and try again when that may help.

This is the only loop around requests. What a reply teaches is kept for later calls: the
bucket's region, the service's clock, fresh credentials; each heals a call once. Each retry and
each of these recoveries is logged, to the logger `blockyard.s3`.
"""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

from blockyard import __version__
from blockyard.config import S3Config
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    NotS3Error,
    S3Error,
    ThrottledError,
    TransportError,
)
from blockyard.s3.capabilities import HEADER_REFUSED, Capabilities
from blockyard.s3.credentials import Credentials, CredentialSource
from blockyard.s3.hedging import Hedging
from blockyard.s3.listing import PageAsked, list_keys
from blockyard.s3.pacing import Pace
from blockyard.s3.refusals import (
    MAX_ERROR_BODY,
    error_from,
    region_hint,
    retry_after,
    server_time,
)
from blockyard.s3.requests import Address, bucket_address, list_objects, with_a_body
from blockyard.s3.retry import (
    RetryPolicy,
    delay_before_next,
    may_have_taken_effect,
)
from blockyard.s3.signing import EMPTY_SHA256, Signer
from blockyard.s3.xml import MAX_REPLY

Result = TypeVar("Result")

USER_AGENT = f"blockyard/{__version__} Python/{sys.version_info[0]}.{sys.version_info[1]}"
_log = logging.getLogger("blockyard.s3")
_LARGEST_SKEW = 300.0
"""Seconds between two clocks that a service, which allows fifteen minutes, does not mind."""
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
    """What one call has been through so far.

    `paid` are the tokens of its last retry; `unknown` counts the attempts that failed and may
    have taken effect, or may still.
    """

    failed: int = 0
    throttled: int = 0
    unknown: int = 0
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
    no `into`. `changes` is for a request that changes what is stored; `on_bucket` for one that is
    about the bucket, whatever `key` is; `checksum_mode` asks for the checksum that the service
    keeps. `attempts` is what the call has been through, once there is something to tell.
    """

    operation: str
    key: str | None
    limit: int = field(default=MAX_REPLY, kw_only=True)
    into: memoryview | None = field(default=None, kw_only=True)
    payload_hash: str | None = field(default=EMPTY_SHA256, kw_only=True)
    handled: tuple[type[BlockStoreError], ...] = field(default=(), kw_only=True)
    hedged: bool = field(default=False, kw_only=True)
    changes: bool = field(default=False, kw_only=True)
    on_bucket: bool = field(default=False, kw_only=True)
    checksum_mode: bool = field(default=False, kw_only=True)
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
        self._policy = RetryPolicy(
            attempts=max(1, config.max_retries),
            cap_before_contact=2 * config.timeouts.connect,  # so a wrong address is told of soon
        )
        self.hedging = Hedging() if config.hedge_reads else None
        self._pace = Pace()
        self._clock_offset = 0.0
        self.capabilities = Capabilities() if config.endpoint else Capabilities.of_aws()
        self.site = self._site(config.region)

    async def call(self, ctx: Context, call: Call, check: Callable[[Response], Result]) -> Result:
        """`check(reply)` of the first attempt that succeeds; its errors are tried again too."""
        pace, learnt = self._pace, self.capabilities
        while True:
            ticket = response = request = None
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
                if response.status < 300:
                    result = check(response)
                    learnt.answered = learnt.bucket_found = True
                    pace.succeeded(call.attempts.paid if call.attempts else 0)
                    return result
                response = await self._explained(ctx, request, response, site, credentials)
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
                if request is not None and request.resent:
                    _count_unknown(ctx, call)
            if request is not None and may_have_taken_effect(failure):
                _count_unknown(ctx, call)
            await self._check_bucket(ctx, call, failure, response)
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
            self._policy,
            failed,
            error,
            contacted=self.capabilities.answered,
            jitter=ctx.runtime.jitter(),
        )
        if delay is None:
            raise _final(error, operation, key, attempts)
        try:
            attempts.paid = await self._pace.pay(ctx, error)
            if attempts.paid:
                attempts.notes.append(f"attempt {attempts.made}: {error}")
                self._log_retry(operation, key, attempts, delay, error)
                await ctx.sleep(delay)
        except DeadlineExceededError as past:
            raise _final(past, operation, key, attempts) from error
        if not attempts.paid:
            raise _final(error, operation, key, attempts)

    def count_mismatch(
        self, operation: str, key: str | None, attempts: Attempts, error: BlockStoreError
    ) -> None:
        """Bytes did not match their checksum: return when they should be read again, else raise."""
        attempts.failed += 1
        if attempts.failed >= self._policy.attempts:
            raise _final(error, operation, key, attempts)
        attempts.notes.append(f"attempt {attempts.made}: {error}")
        self._log_retry(operation, key, attempts, 0.0, error)

    def last_failure(self, call: Call, error: BlockStoreError) -> BlockStoreError:
        """`error`, that ends `call`, with the attempts that came before it in its notes."""
        call.history().failed += 1
        return _final(error, call.operation, call.key, call.history())

    def made_progress(self, attempts: Attempts, failed: int) -> None:
        """A reply broke off, but brought enough: only `failed` attempts count up to now."""
        attempts.failed = failed
        self._pace.succeeded(attempts.paid)

    def _signed(
        self, ctx: Context, call: Call, site: Site, credentials: Credentials | None
    ) -> Request:
        request = call.request(site.address)
        request.headers["user-agent"] = USER_AGENT
        if credentials is not None:
            payload_hash = call.payload_hash or sha256(request.body).hexdigest()
            site.signer.sign(request, credentials, self._now(ctx), payload_hash)
        return request

    async def _explained(
        self,
        ctx: Context,
        request: Request,
        refused: Response,
        site: Site,
        credentials: Credentials | None,
    ) -> Response:
        """The refusal with its reason: that of a HEAD has none, so it is asked for by a GET.

        Not where the clock is seen to be wrong, which is all the reason it needs.
        """
        if request.method != "HEAD" or refused.status not in {400, 403} or credentials is None:
            return refused
        if region_hint(refused) or self._skew(ctx, refused) is not None:
            return refused
        question = with_a_body(request)
        site.signer.sign(question, credentials, self._now(ctx), EMPTY_SHA256)
        try:
            told = await ctx.runtime.exchange(question, limit=MAX_ERROR_BODY, deadline=ctx.deadline)
        except TransportError:
            return refused
        return told if told.status in {400, 403} else refused

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
            self._log_recovery(call, f"{code}: credentials are renewed")
            return await self._credentials.renew(ctx, credentials)
        skew = self._skew(ctx, response)
        if (code in _SKEWED or (not code and skew is not None)) and attempts.heal("clock"):
            return self._learn_clock(ctx, call, response)
        elsewhere = code in _OTHER_REGION or response.status in {301, 307, 400}
        if region and elsewhere and region != site.region and attempts.heal("region"):
            if region != self.site.region:
                self._log_recovery(call, f"the bucket is in {region}")
                self.site = self._site(region)
            return True
        return self._without_checksum_mode(call, error)

    def _without_checksum_mode(self, call: Call, error: BlockStoreError) -> bool:
        """Whether the call goes on without the header, which not every service takes."""
        if not call.checksum_mode or self.capabilities.checksum_mode is not None:
            return False
        if not isinstance(error, S3Error) or error.code not in HEADER_REFUSED:
            return False
        self._log_recovery(call, "asked again without x-amz-checksum-mode")
        call.checksum_mode = False
        return True

    def _skew(self, ctx: Context, response: Response) -> float | None:
        """Seconds that the service's clock is ahead of the one requests are signed by.

        None for less than it would mind, and for a reply other than a refusal of that kind.
        """
        theirs = server_time(response) if response.status in {400, 403} else None
        skew = 0.0 if theirs is None else theirs - self._now(ctx)
        return skew if abs(skew) > _LARGEST_SKEW else None

    def _learn_clock(self, ctx: Context, call: Call, response: Response) -> bool:
        theirs = server_time(response)
        if theirs is None:
            return False
        self._clock_offset = theirs - ctx.runtime.wall_time()
        self._log_recovery(call, f"the clock of the service is {self._clock_offset:+.0f} s off")
        return True

    def _refusal(self, ctx: Context, call: Call, response: Response) -> BlockStoreError:
        error = error_from(
            response,
            call.operation,
            call.key,
            bucket=self._config.bucket,
            on_bucket=call.on_bucket or call.key is None,
        )
        learnt = self.capabilities
        learnt.answered = learnt.answered or not isinstance(error, NotS3Error)
        if isinstance(error, S3Error):
            error.retry_after = retry_after(response, self._now(ctx))
        return error

    async def _check_bucket(
        self, ctx: Context, call: Call, failure: BlockStoreError, response: Response | None
    ) -> None:
        """Raise the error that says so when the bucket is missing, after a 404 without a body.

        Found out by a listing, whose reply tells a bucket from a web server; once a store.
        """
        unexplained = isinstance(failure, BlockNotFoundError) and response and not response.size
        if not unexplained or self.capabilities.bucket_found:
            return
        prefix = self._config.key_prefix
        listing = PlainCall(
            call.operation,
            call.key,
            lambda address: list_objects(address, prefix, token=None, max_keys=1),
            on_bucket=True,
        )
        try:
            _ = await self.call(ctx, listing, lambda reply: list_keys(reply, PageAsked(prefix)))
        except AccessDeniedError as error:
            if not error.code:
                raise
            self.capabilities.bucket_found = True  # since S3 says that it may not be listed

    def _log_retry(
        self,
        operation: str,
        key: str | None,
        attempts: Attempts,
        delay: float,
        error: BlockStoreError,
    ) -> None:
        _log.info(
            "%s %r: attempt %d failed (%s), the next in %.2f s",
            operation,
            key,
            attempts.made,
            type(error).__name__,
            delay,
        )

    def _log_recovery(self, call: Call, what: str) -> None:
        _log.info("%s %r: %s", call.operation, call.key, what)

    def _site(self, region: str) -> Site:
        config = self._config
        address = bucket_address(
            config.endpoint,
            region,
            config.bucket,
            path_style=config.force_path_style,
            fips=config.use_fips_endpoint,
            dualstack=config.use_dualstack_endpoint,
        )
        return Site(address, Signer(region), region)

    def _now(self, ctx: Context) -> float:
        return ctx.runtime.wall_time() + self._clock_offset


def _count_unknown(ctx: Context, call: Call) -> None:
    """An attempt failed, and if it was to change something, that may have come about."""
    if call.changes:
        call.history().unknown += 1
        ctx.unknown_attempts += 1


def _final(
    error: BlockStoreError, operation: str, key: str | None, attempts: Attempts
) -> BlockStoreError:
    """`error` as the caller of the store gets it: it names the operation and lists the attempts."""
    if isinstance(error, TransportError):
        where = operation if key is None else f"{operation} {key!r}"
        error.args = (f"{where}: {error}", *error.args[1:])
    if isinstance(error, S3Error):
        error.attempts = max(attempts.made, 1)
    if attempts.unknown:
        error.unknown_attempts = attempts.unknown
        attempts.notes.append(
            f"{attempts.unknown} of the attempts may have taken effect, or may still"
        )
    for note in attempts.notes:
        error.add_note(note)
    return error
