"""Makes S3 calls: build the request, sign it, exchange it, check the reply, retry.

This is the only retry loop. What an error response teaches (`recovery.py`) is kept for later calls.
Each retry is logged to the logger `blockyard.s3`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

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
    can_miss_block,
    error_from,
    has_request_id,
    intermediary_error,
    may_be_from_intermediary,
    reads_block,
    retry_after,
)
from blockyard.s3.listing import PageRequest, list_keys
from blockyard.s3.object_headers import ObjectHeaders
from blockyard.s3.recovery import Capabilities, Recovery, Site
from blockyard.s3.requests import list_objects, object_path
from blockyard.s3.responses import check_done
from blockyard.s3.retry import (
    RateLimiter,
    RetryPolicy,
    delay_before_next,
    may_have_taken_effect,
)
from blockyard.s3.signing import without_signature
from blockyard.stores.base import PresignRequest

if TYPE_CHECKING:
    from blockyard.s3.hedging import Hedging

Result = TypeVar("Result")

USER_AGENT = f"blockyard/{__version__} Python/{sys.version_info[0]}.{sys.version_info[1]}"
_UNIDENTIFIED_REPLIES = 3
"""So many replies without a request id show that the service itself leaves it out: within one call,
each followed by a listing that worked; or as the last reply of as many calls, as where only one
attempt is made."""
_log = logging.getLogger("blockyard.s3")
_BUCKET_IN_HOST = (
    "the bucket stands in the host name: where the service has no such name, set "
    "force_path_style: true"
)


class Caller:
    """Makes the calls of one store.

    Shared by threads and event loops without a lock: its counters and what it has learnt are
    estimates, and a lost update does no harm.
    """

    def __init__(self, config: S3Config, credentials: CredentialSource) -> None:
        self._config = config
        self._credentials = credentials
        self._policy = RetryPolicy(
            attempts=config.max_attempts,
            cap_before_contact=2 * config.timeouts.connect,  # so a wrong address is told of soon
        )
        self.hedging = _hedging() if config.hedge_reads else None
        self._limiter = RateLimiter()
        self.succeeded = self.error_responses = self.throttled = self.lost = self.retries = 0
        self._ended_unidentified = 0
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
        """Address, region and signer of the bucket, as known so far."""
        return self._recovery.site

    async def call(self, ctx: Context, call: Call, check: Callable[[Response], Result]) -> Result:
        """Make the call, with retries, and return `check(reply)`.

        What `check` raises is retried like any other failure of an attempt.
        """
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

    async def call_without_result(self, ctx: Context, call: Call) -> None:
        """Make a call whose successful reply has an empty body, such as a delete."""
        await self.call(ctx, call, lambda reply: check_done(reply, call.operation, call.key))

    async def attempt(  # noqa: PLR0912 - one branch for each outcome of a try
        self, ctx: Context, call: Call, check: Callable[[Response], Result]
    ) -> Result:
        """Make one attempt and return `check(reply)`.

        An error response that `recovery.py` can act on (expired credentials, clock skew, region) is
        followed at once by another request, within the same attempt. Any other failure is raised;
        the caller hands it to `pause_or_raise`, which counts it and decides about a retry.
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
                    result = check(
                        response
                        if request.method == "GET"  # all else may hold an error
                        else without_signature(response, request)
                    )
                    self._succeeded(call, response)
                    return result
                response = await recovery.explained(ctx, request, response, site, credentials)
                if self.capabilities.request_ids and may_be_from_intermediary(response):
                    raise intermediary_error(response)
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
                    await self._check_by_listing(ctx, call, failure, response)
                raise failure
            finally:
                del failure  # which its traceback refers to, by way of this frame

    def _succeeded(self, call: Call, response: Response) -> None:
        """Count a success. Raises `NotS3Error` when an intermediary may have sent the reply."""
        learnt = self.capabilities
        unattributed = not response.size and may_be_from_intermediary(response)
        if unattributed and learnt.request_ids:
            raise intermediary_error(response)
        if not learnt.bucket_found:
            learnt.answered = True
            learnt.bucket_found = not unattributed or self._config.write_proof == "head"
        if learnt.request_ids is None and not unattributed:
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
        """Count the failure, then sleep the backoff and return, or raise `error` to give up.

        Throttled attempts have a budget of their own, of the same size as that of other failures.
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
            raise self._final_error(ctx, error, call, attempts)
        delay = delay_before_next(
            self._policy,
            failed,
            error,
            contacted=self.capabilities.answered,
            jitter=ctx.runtime.jitter(),
        )
        try:
            if delay is None:
                raise self._final_error(ctx, error, call, attempts)
            try:
                attempts.paid = await self._limiter.take_tokens(ctx, error)
                if attempts.paid:
                    self.retries += 1
                    _record_failure(call, attempts, delay, error)
                    await ctx.sleep(delay)
            except DeadlineExceededError as past:
                raise self._final_error(ctx, past, call, attempts) from error
            if not attempts.paid:
                raise self._final_error(ctx, error, call, attempts)
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
            self.headers.check_metadata("presign", wanted.key, wanted.options, signed.headers)
        if wanted.method != "DELETE":
            signed.headers |= self.headers.read
        signed.headers["host"] = address.host
        query = site.signer.presign(signed, credentials, self._recovery.now(ctx), wanted.expires)
        url = f"{address.origin.scheme}://{address.host}{target}?{query}"
        del signed.headers["host"]
        return PresignedRequest(wanted.method, url, signed.headers)

    def on_last_attempt(self, call: Call) -> bool:
        """Whether one more failure exhausts the attempts of the call."""
        return call.history().failed + 1 >= self._policy.attempts

    def count_failure(self, call: Call, error: BlockStoreError) -> None:
        """Count a failure that is retried at once, without a backoff."""
        attempts = call.history()
        attempts.failed += 1
        self.retries += 1
        _record_failure(call, attempts, 0.0, error)

    def last_failure(self, ctx: Context, call: Call, error: BlockStoreError) -> BlockStoreError:
        """Count `error` as the failure that ends `call`, and list the earlier ones in its notes."""
        attempts = call.history()
        attempts.failed += 1
        return self._final_error(ctx, error, call, attempts)

    def made_progress(self, attempts: Attempts, failed: int) -> None:
        """Reset the count of failures to `failed`, since a truncated reply brought enough bytes."""
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
            absent=can_miss_block(request),
            reads=call.key is not None and not call.on_bucket and reads_block(request),
        )
        learnt = self.capabilities
        learnt.answered = learnt.answered or not isinstance(error, NotS3Error)
        if isinstance(error, S3Error):
            error.retry_after = retry_after(response, self._recovery.now(ctx))
        return error

    def _final_error(
        self, ctx: Context, error: BlockStoreError, call: Call, attempts: Attempts
    ) -> BlockStoreError:
        """`error` as users get it: naming the operation, with the earlier attempts in its notes."""
        if isinstance(error, TransportError):
            where = call.operation if call.key is None else f"{call.operation} {call.key!r}"
            error.args = (f"{where}: {error}{self._advice(error)}", *error.args[1:])
        if isinstance(error, NotS3Error) and attempts.unidentified:
            self._ended_unidentified += 1
            if self._ended_unidentified >= _UNIDENTIFIED_REPLIES:
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
        """A hint for a host that DNS does not know: the bucket may be in it by mistake."""
        if not isinstance(error, TransportConnectionError) or not error.of_name:
            return ""
        address = self.site.address
        if address.root or is_aws_host(address.origin.host):
            return ""
        return f"; {_BUCKET_IN_HOST}"

    async def _check_by_listing(
        self, ctx: Context, call: Call, failure: BlockStoreError, response: Response
    ) -> None:
        """List the bucket where a failed reply has nothing but a status, to learn what it means.

        After a bare 404 the listing tells a missing block from a missing bucket, or from a web
        server that is no S3 service: its error is raised then. This is done once a store.
        After a reply without a request id, from a service whose replies had one, an intermediary
        may have sent it: the call is retried when the listing works. When that has happened
        `_UNIDENTIFIED_REPLIES` times, the service is taken to leave the id out.
        """
        learnt = self.capabilities
        if call.on_bucket:
            return
        foreign = isinstance(failure, NotS3Error)
        on_block = call.key is not None or call.changes
        unexplained = on_block and response.status == 404 and not response.size and not foreign
        unattributed = may_be_from_intermediary(response)
        asks_for_bucket = unexplained and not learnt.bucket_found
        if not asks_for_bucket and not (unattributed and learnt.request_ids):
            return
        await self._list_bucket(ctx, call)
        if not unattributed or not learnt.request_ids:
            return
        attempts = call.history()
        attempts.unidentified += 1
        listed_with_id = ctx.reply_headers is not None and has_request_id(ctx.reply_headers)
        if not listed_with_id or attempts.unidentified >= _UNIDENTIFIED_REPLIES:
            learnt.request_ids = False
        elif not foreign:  # since only now it is known of request ids
            raise intermediary_error(response)

    async def _list_bucket(self, ctx: Context, call: Call) -> None:
        """List the bucket on behalf of `call`. Raises unless the bucket exists, listable or not."""
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
            learnt.bucket_found = True  # S3 itself refuses to list it


def _hedging() -> Hedging:
    from blockyard.s3 import hedging  # noqa: PLC0415 - off by default

    return hedging.Hedging()


def _count_unknown(ctx: Context, call: Call) -> None:
    """Count an attempt of unknown outcome, if the call changes or leaves anything."""
    if call.changes or call.leaves:
        call.history().unknown += 1
    if call.changes:
        ctx.unknown_attempts += 1


def _record_failure(call: Call, attempts: Attempts, delay: float, error: BlockStoreError) -> None:
    """Add a failure to the notes of the call, and log it with the `delay` before the retry."""
    attempts.notes.append(f"attempt {attempts.made}: {error}")
    _log.info(
        "%s %r: attempt %d failed (%s), the next in %.2f s",
        call.operation,
        call.key,
        attempts.made,
        type(error).__name__,
        delay,
    )
