"""One S3 call: build, sign, exchange, check, and try again when that may help.

This is the only loop around requests. What an error response tells (`recovery.py`) is kept for
later calls. Each retry is logged, to the logger `blockyard.s3`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from typing import TypeVar

from blockyard import __version__
from blockyard.config import S3Config
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    AccessDeniedError,
    BlockStoreError,
    DeadlineExceededError,
    NotS3Error,
    S3Error,
    ThrottledError,
    TransportConnectionError,
    TransportError,
    UnsupportedError,
)
from blockyard.model import PresignedRequest, StoreStats
from blockyard.s3.call import Attempts, Call, FunctionCall
from blockyard.s3.credentials import CredentialSource
from blockyard.s3.endpoints import is_aws_host
from blockyard.s3.error_responses import (
    error_from,
    has_request_id,
    is_anyones,
    of_another,
    retry_after,
)
from blockyard.s3.listing import PageRequest, list_keys
from blockyard.s3.object_headers import ObjectHeaders
from blockyard.s3.recovery import Capabilities, Recovery, Site
from blockyard.s3.requests import list_objects, object_path
from blockyard.s3.responses import check_done
from blockyard.s3.retry import (
    Hedging,
    RateLimiter,
    RetryPolicy,
    delay_before_next,
    may_have_taken_effect,
)
from blockyard.s3.signing import without_signature
from blockyard.stores.base import PresignRequest

Result = TypeVar("Result")

USER_AGENT = f"blockyard/{__version__} Python/{sys.version_info[0]}.{sys.version_info[1]}"
_DOUBTS = 3
"""Replies without a request id in one call, a listing having come through after each, that show
that the service sends such ones; or calls that end with one, as where only one attempt is made."""
_log = logging.getLogger("blockyard.s3")
_BUCKET_IN_HOST = (
    "the bucket stands in the host name: where the service has no such name, set "
    "force_path_style: true"
)


class Caller:
    """Makes the calls of one store. Shared by threads and loops; its state is advice only."""

    def __init__(self, config: S3Config, credentials: CredentialSource) -> None:
        self._config = config
        self._credentials = credentials
        self._policy = RetryPolicy(
            attempts=config.max_attempts,
            cap_before_contact=2 * config.timeouts.connect,  # so a wrong address is told of soon
        )
        self.hedging = Hedging() if config.hedge_reads else None
        self._limiter = RateLimiter()
        self.succeeded = self.error_responses = self.throttled = self.lost = self.retries = 0
        self._ended_in_doubt = 0
        self.capabilities = Capabilities() if config.endpoint else Capabilities.of_aws()
        self.headers = ObjectHeaders(config)
        self._recovery = Recovery(config, credentials, self.capabilities)

    def stats(self, page_size: int) -> StoreStats:
        """See `Store.stats`; ranged reads are widened to `page_size` bytes."""
        return StoreStats(
            succeeded=self.succeeded,
            error_responses=self.error_responses,
            throttled=self.throttled,
            lost=self.lost,
            retries=self.retries,
            hedges=self.hedging.sent if self.hedging else 0,
            hedges_won=self.hedging.won if self.hedging else 0,
            concurrency_limit=self._limiter.limit,
            retry_tokens=self._limiter.tokens,
            region=self._recovery.site.region,
            clock_offset=self._recovery.clock_offset,
            page_size=page_size,
            capabilities=asdict(self.capabilities),
        )

    @property
    def site(self) -> Site:
        """Where the bucket is, as far as is known."""
        return self._recovery.site

    async def call(self, ctx: Context, call: Call, check: Callable[[Response], Result]) -> Result:
        """`check(reply)` of the first attempt that succeeds; its errors are tried again too."""
        while True:
            try:
                return await self.attempt(ctx, call, check)
            except call.handled:
                raise
            except BlockStoreError as error:
                failure = error
            pausing = self.pause_or_raise(ctx, call, failure)
            del failure  # which its traceback refers to, by way of this frame
            await pausing

    async def done(self, ctx: Context, call: Call) -> None:
        """Make a call whose reply says nothing but that it is done."""
        await self.call(ctx, call, lambda reply: check_done(reply, call.operation, call.key))

    async def attempt(  # noqa: PLR0912 - one branch for each outcome of a try
        self, ctx: Context, call: Call, check: Callable[[Response], Result]
    ) -> Result:
        """`check(reply)` of one attempt.

        What an error response tells is recovered from, and the request sent again at once. Every
        other failure is raised: it counts, and may be tried again, once `pause_or_raise` was told.
        """
        limiter, recovery = self._limiter, self._recovery
        while True:
            permit = response = request = None
            try:
                if limiter.limit is not None:
                    permit = await limiter.acquire(ctx)
                site, credentials = recovery.site, await self._credentials.current(ctx)
                request = call.request(site.address)
                request.headers["user-agent"] = USER_AGENT
                if call.object_headers:
                    request.headers |= call.object_headers
                if self.headers.every:
                    request.headers |= self.headers.every
                request.once = ctx.once and call.changes
                if credentials is not None:
                    signed = call.payload_hash or sha256(request.body).hexdigest()
                    site.signer.sign(request, credentials, recovery.now(ctx), signed)
                if call.hedged and self.hedging is not None:
                    response = await self._hedged(ctx, call, request, self.hedging)
                else:
                    response = await ctx.runtime.exchange(
                        request, into=call.into, limit=call.limit, deadline=ctx.deadline
                    )
                ctx.reply_headers = response.headers
                if response.status < 300:
                    result = check(without_signature(response, request))
                    self._succeeded(call, response)
                    return result
                response = await recovery.explained(ctx, request, response, site, credentials)
                if self.capabilities.request_ids and is_anyones(response):
                    raise of_another(response)
                if await recovery.recovered(ctx, call, response, site, credentials):
                    continue
                raise self._error_of(ctx, call, request, response)
            except BlockStoreError as error:
                failure = error
                self._count_failed(error)
            finally:
                if permit is not None:
                    limiter.release(permit)
                if request is not None and request.resent:
                    _count_unknown(ctx, call)
            try:
                if request is not None and may_have_taken_effect(failure):
                    _count_unknown(ctx, call)
                if response is not None:
                    await self._look_around(ctx, call, failure, response)
                raise failure
            finally:
                del failure  # which its traceback refers to, by way of this frame

    def _succeeded(self, call: Call, response: Response) -> None:
        """Count a success. Raises `NotS3Error` for one that may not be the service's."""
        learnt = self.capabilities
        anyones = not response.size and is_anyones(response)
        if anyones and learnt.request_ids:
            raise of_another(response)
        if not learnt.bucket_found:
            learnt.answered = True
            learnt.bucket_found = not anyones or self._config.write_proof == "head"
        if learnt.request_ids is None and not anyones:
            learnt.request_ids = has_request_id(response.headers)
        self.succeeded += 1
        self._limiter.succeeded(call.attempts.paid if call.attempts else 0)

    def _count_failed(self, error: BlockStoreError) -> None:
        if isinstance(error, ThrottledError):
            self.throttled += 1
        elif isinstance(error, TransportError):
            self.lost += 1
        else:
            self.error_responses += 1

    async def _hedged(
        self, ctx: Context, call: Call, request: Request, hedging: Hedging
    ) -> Response:
        response = await ctx.runtime.exchange(
            request, limit=call.limit, deadline=ctx.deadline, hedge=hedging.hedge
        )
        hedging.answered(response.waited)
        return response

    async def pause_or_raise(self, ctx: Context, call: Call, error: BlockStoreError) -> None:
        """Return when the call should be tried again, having waited; else raise `error`.

        Throttling has a budget of its own, as large: it says nothing of what else may fail.
        """
        attempts = call.history()
        if isinstance(error, ThrottledError):
            self._limiter.throttled(ctx)
            attempts.throttled += 1
            failed = attempts.throttled
        else:
            attempts.failed += 1
            failed = attempts.failed
        if ctx.once and call.changes and attempts.unknown:
            raise self._final(ctx, error, call, attempts)
        delay = delay_before_next(
            self._policy,
            failed,
            error,
            contacted=self.capabilities.answered,
            jitter=ctx.runtime.jitter(),
        )
        try:
            if delay is None:
                raise self._final(ctx, error, call, attempts)
            try:
                attempts.paid = await self._limiter.take_tokens(ctx, error)
                if attempts.paid:
                    self.retries += 1
                    _note(call, attempts, delay, error)
                    await ctx.sleep(delay)
            except DeadlineExceededError as past:
                raise self._final(ctx, past, call, attempts) from error
            if not attempts.paid:
                raise self._final(ctx, error, call, attempts)
        finally:
            del error  # which its traceback refers to

    async def presigned(
        self, ctx: Context, wanted: PresignRequest, full_key: str
    ) -> PresignedRequest:
        """See `Store.presign`."""
        site, credentials = self.site, await self._credentials.current(ctx)
        if credentials is None:
            raise UnsupportedError(f"presign {wanted.key!r}: the store's requests are unsigned")
        address = site.address
        target = object_path(address, full_key)
        signed = Request(address.origin, wanted.method, target, dict(self.headers.every))
        if wanted.method == "PUT":
            signed.headers |= self.headers.write("presign", wanted.key, wanted.options)
            where = f"presign {wanted.key!r}"
            self.headers.check_metadata(where, wanted.options, signed.headers)
        if wanted.method != "DELETE":
            signed.headers |= self.headers.read
        signed.headers["host"] = address.host
        query = site.signer.presign(signed, credentials, self._recovery.now(ctx), wanted.expires)
        url = f"{address.origin.scheme}://{address.host}{target}?{query}"
        del signed.headers["host"]
        return PresignedRequest(wanted.method, url, signed.headers)

    def on_last_attempt(self, call: Call) -> bool:
        """Whether one more failure ends the call."""
        return call.history().failed + 1 >= self._policy.attempts

    def count(self, call: Call, error: BlockStoreError) -> None:
        """Count a failure after which another try comes without a pause."""
        attempts = call.history()
        attempts.failed += 1
        self.retries += 1
        _note(call, attempts, 0.0, error)

    def last_failure(self, ctx: Context, call: Call, error: BlockStoreError) -> BlockStoreError:
        """`error`, that ends `call`, with the attempts that came before it in its notes."""
        attempts = call.history()
        attempts.failed += 1
        return self._final(ctx, error, call, attempts)

    def made_progress(self, attempts: Attempts, failed: int) -> None:
        """A reply broke off, but brought enough: only `failed` attempts count up to now."""
        attempts.failed = failed
        self._limiter.succeeded(attempts.paid)

    def _error_of(
        self, ctx: Context, call: Call, request: Request, response: Response
    ) -> BlockStoreError:
        error = error_from(
            response,
            call.operation,
            call.key,
            bucket=self._config.bucket,
            on_bucket=call.on_bucket or call.key is None,
            ranged="range" in request.headers,
            absent=_may_find_no_block(request),
            reads=call.key is not None and not call.on_bucket and _reads_block(request),
        )
        learnt = self.capabilities
        learnt.answered = learnt.answered or not isinstance(error, NotS3Error)
        if isinstance(error, S3Error):
            error.retry_after = retry_after(response, self._recovery.now(ctx))
        return error

    def _final(
        self, ctx: Context, error: BlockStoreError, call: Call, attempts: Attempts
    ) -> BlockStoreError:
        """`error` as the store's caller gets it: it names the operation and lists the attempts."""
        if isinstance(error, TransportError):
            where = call.operation if call.key is None else f"{call.operation} {call.key!r}"
            error.args = (f"{where}: {error}{self._advice(error)}", *error.args[1:])
        if isinstance(error, NotS3Error) and attempts.doubted:
            self._ended_in_doubt += 1
            if self._ended_in_doubt >= _DOUBTS:
                self.capabilities.request_ids = False
        if isinstance(error, S3Error):
            error.attempts = max(attempts.made, 1)
        if attempts.unknown and not ctx.probing:
            may_have = f"{attempts.unknown} of the attempts may have taken effect, or may still"
            attempts.notes.append(call.leaves or may_have)
            if call.changes:
                error.unknown_attempts = attempts.unknown
        for note in attempts.notes:
            error.add_note(note)
        return error

    def _advice(self, error: TransportError) -> str:
        """What else may be wrong where the host's name is: the bucket before the endpoint's."""
        if not isinstance(error, TransportConnectionError) or not error.of_name:
            return ""
        address = self.site.address
        if address.root or is_aws_host(address.origin.host):
            return ""
        return f"; {_BUCKET_IN_HOST}"

    async def _look_around(
        self, ctx: Context, call: Call, failure: BlockStoreError, response: Response
    ) -> None:
        """Find out by a listing what a reply is worth that says no more than its status.

        A listing tells a bucket from a web server. Raises the error that says so when the bucket is
        missing, after a 404; once a store. Where the service's replies have a request id, and this
        one has none, the call is tried again when a listing has come through; a service that has
        left it out as often is one that does.
        """
        learnt = self.capabilities
        if call.on_bucket:
            return
        foreign = isinstance(failure, NotS3Error)
        on_block = call.key is not None or call.changes
        unexplained = on_block and response.status == 404 and not response.size and not foreign
        anyones = is_anyones(response)
        if not (unexplained and not learnt.bucket_found) and not (anyones and learnt.request_ids):
            return
        await self._list(ctx, call)
        if not anyones or not learnt.request_ids:
            return
        attempts = call.history()
        attempts.doubted += 1
        listed_with_id = ctx.reply_headers is not None and has_request_id(ctx.reply_headers)
        if not listed_with_id or attempts.doubted >= _DOUBTS:
            learnt.request_ids = False
        elif not foreign:  # since only now it is known of request ids
            raise of_another(response)

    async def _list(self, ctx: Context, call: Call) -> None:
        """A listing for the sake of `call`. Raises its error, but for a bucket that is there."""
        prefix = self._config.key_prefix
        listing = FunctionCall(
            call.operation,
            call.key,
            lambda address: list_objects(address, prefix, token=None, max_keys=1),
            on_bucket=True,
        )
        learnt = self.capabilities
        try:
            _ = await self.attempt(
                ctx, listing, lambda reply: list_keys(reply, PageRequest(prefix))
            )
        except AccessDeniedError as error:
            if not error.code:
                raise
            learnt.bucket_found = True  # since S3 says that it may not be listed


def _may_find_no_block(request: Request) -> bool | None:
    """Whether a 404 can mean that a block is missing; None: only where the reply says so.

    What writes needs none, but for its condition: a service that compares ETags names the reason.
    """
    if request.method not in {"PUT", "POST"} or "x-amz-copy-source" in request.headers:
        return True
    return None if "if-match" in request.headers else False


def _reads_block(request: Request) -> bool:
    """Whether what is asked for is a block that is there, as a copy's source is."""
    return request.method in {"GET", "HEAD"} or "x-amz-copy-source" in request.headers


def _count_unknown(ctx: Context, call: Call) -> None:
    """An attempt failed, and if it was to change something, that may have come about."""
    if call.changes or call.leaves:
        call.history().unknown += 1
    if call.changes:
        ctx.unknown_attempts += 1


def _note(call: Call, attempts: Attempts, delay: float, error: BlockStoreError) -> None:
    """Note a failure, after which the next attempt comes in `delay` seconds, and log it."""
    attempts.notes.append(f"attempt {attempts.made}: {error}")
    _log.info(
        "%s %r: attempt %d failed (%s), the next in %.2f s",
        call.operation,
        call.key,
        attempts.made,
        type(error).__name__,
        delay,
    )
