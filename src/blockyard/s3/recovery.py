"""Recovery from error responses: expired credentials, clock skew, another region, capabilities.

Each kind is recovered once a call, and what was learnt is kept for later calls of the store.
Threads and event loops share it without a lock: values are replaced whole, and a race costs no more
than learning twice. Logged to `blockyard.s3`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockyard.config import S3Config
from blockyard.context import Context, Request, Response
from blockyard.errors import BlockStoreError, S3Error, TransportError
from blockyard.s3.credentials import Credentials, CredentialSource
from blockyard.s3.endpoints import Address, bucket_address
from blockyard.s3.error_responses import (
    MAX_ERROR_BODY,
    OTHER_REGION,
    error_from,
    region_hint,
    server_time,
)
from blockyard.s3.requests import with_a_body
from blockyard.s3.signing import EMPTY_SHA256, Signer, without_signature

if TYPE_CHECKING:
    from blockyard.s3.caller import Call

_log = logging.getLogger("blockyard.s3")
_HEADER_REFUSED = frozenset({"InvalidArgument", "InvalidRequest", "NotImplemented"})
_LACKING = frozenset({"NotImplemented", "MethodNotAllowed"})


@dataclass(slots=True, eq=False)
class Capabilities:
    """What the service of one store supports. None: not known yet.

    answered: the endpoint has sent a reply before
    bucket_found: a reply proved that the bucket exists
    request_ids: replies have a request id, so that one without may be an intermediary's
    upload_checksum, checksum_mode: it accepts `x-amz-checksum-crc32c` with a write,
        `x-amz-checksum-mode` with a read
    delete_objects, copies, uploads: it has DeleteObjects, CopyObject, multipart uploads
    conditional_writes, matching_writes: it enforces `If-None-Match: *`, `If-Match` of a PutObject,
        and does not just accept the header
    conditional_uploads, matching_uploads: the same of a CompleteMultipartUpload
    matching_deletes: it enforces `If-Match` of a delete
    part_checksums: it verifies the CRC32C of a part
    upload_etags: its reply to CompleteMultipartUpload has the ETag of the object
    upload_tags: it keeps the tags of a CreateMultipartUpload
    bare_etags: `If-Match` of a write has to be unquoted, as for Ceph up to 19
    """

    answered: bool = False
    bucket_found: bool = False
    request_ids: bool | None = None
    upload_checksum: bool = True
    checksum_mode: bool | None = None
    delete_objects: bool | None = None
    copies: bool | None = None
    conditional_writes: bool | None = None
    matching_writes: bool | None = None
    matching_deletes: bool | None = None
    uploads: bool | None = None
    part_checksums: bool | None = None
    upload_etags: bool | None = None
    upload_tags: bool | None = None
    conditional_uploads: bool | None = None
    matching_uploads: bool | None = None
    bare_etags: bool = False

    def __setattr__(self, name: str, value: bool | None) -> None:
        before = getattr(self, name, value)
        object.__setattr__(self, name, value)
        matters = name != "request_ids" or before is True
        if before != value and value is (name == "bare_etags") and matters:  # unlike AWS
            _log.info("learnt of the service: %s is %s", name, value)

    @classmethod
    def of_aws(cls) -> Capabilities:
        """The capabilities that AWS documents."""
        return cls(
            request_ids=True,
            checksum_mode=True,
            delete_objects=True,
            copies=True,
            conditional_writes=True,
            matching_writes=True,
            matching_deletes=True,
            uploads=True,
            part_checksums=True,
            upload_etags=True,
            upload_tags=True,
            conditional_uploads=True,
            matching_uploads=True,
        )


def lacking(error: S3Error) -> bool:
    """Whether the service refused the request because it does not have the operation."""
    return error.status in {405, 501} or error.code in _LACKING


def refuses_a_header(error: S3Error) -> bool:
    """Whether the service may have refused the request for a header that it does not know."""
    return error.status == 501 or error.code in _HEADER_REFUSED


_LARGEST_SKEW = 300.0
"""Seconds of clock skew that are ignored. Services allow fifteen minutes."""
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})


@dataclass(frozen=True, slots=True)
class Site:
    """Address, region and signer of the bucket, replaced whole when another region is learnt."""

    address: Address
    signer: Signer
    region: str


class Recovery:
    """The region and the clock of the service, corrected by its error responses.

    Shared by threads and event loops; its values are replaced whole.
    """

    def __init__(
        self, config: S3Config, credentials: CredentialSource, capabilities: Capabilities
    ) -> None:
        self._config = config
        self._credentials = credentials
        self._capabilities = capabilities
        self.clock_offset = 0.0
        self.site = self._site(config.region)

    def now(self, ctx: Context) -> float:
        """The time of the service, in seconds since the epoch."""
        return ctx.runtime.wall_time() + self.clock_offset

    async def explained(
        self,
        ctx: Context,
        request: Request,
        refused: Response,
        site: Site,
        credentials: Credentials | None,
    ) -> Response:
        """The error response, with a body: that of a HEAD has none, so a GET is sent to get it.

        No GET is needed where the headers already show the region or the clock skew. What signed
        the request is left out of the response.
        """
        refused = without_signature(refused, request)
        if request.method != "HEAD" or refused.status not in {400, 403} or credentials is None:
            return refused
        if region_hint(refused) or self._skew(ctx, refused) is not None:
            return refused
        with_body = with_a_body(request)
        site.signer.sign(with_body, credentials, self.now(ctx), EMPTY_SHA256)
        try:
            explained = await ctx.runtime.exchange(
                with_body, limit=MAX_ERROR_BODY, deadline=ctx.deadline
            )
        except TransportError:
            return refused
        if explained.status not in {400, 403}:
            return refused
        return without_signature(explained, with_body)

    async def recovered(
        self,
        ctx: Context,
        call: Call,
        response: Response,
        site: Site,
        credentials: Credentials | None,
    ) -> bool:
        """Learn from an error response; return whether to send the request again because of it.

        `site` and `credentials` are those of the refused request: another call may have replaced
        them meanwhile.
        """
        attempts = call.history()
        error = error_from(response, call.operation, call.key)
        code = error.code if isinstance(error, S3Error) else ""
        region = region_hint(response)
        if code in _EXPIRED and attempts.may_recover("credentials"):
            _log_recovery(call, f"{code}: credentials are renewed")
            return await self._credentials.renew(ctx, credentials)
        skew = self._skew(ctx, response)
        if (code in _SKEWED or (not code and skew is not None)) and attempts.may_recover("clock"):
            return self._learn_clock(ctx, call, response)
        elsewhere = code in OTHER_REGION or response.status in {301, 307, 400}
        if region and elsewhere and region != site.region and attempts.may_recover("region"):
            if region != self.site.region:
                _log_recovery(call, f"the bucket is in {region}")
                self.site = self._site(region)
            return True
        return self._without_checksum_mode(call, error)

    def _without_checksum_mode(self, call: Call, error: BlockStoreError) -> bool:
        """Drop `x-amz-checksum-mode` from the call, if the service may have refused that header."""
        if not call.checksum_mode or self._capabilities.checksum_mode is not None:
            return False
        if not isinstance(error, S3Error) or not refuses_a_header(error):
            return False
        _log_recovery(call, "retried without x-amz-checksum-mode")
        call.checksum_mode = False
        return True

    def _skew(self, ctx: Context, response: Response) -> float | None:
        """Seconds by which the service's clock is ahead of the signing clock.

        None below `_LARGEST_SKEW`, and for other replies than a 400 or 403.
        """
        theirs = server_time(response) if response.status in {400, 403} else None
        skew = 0.0 if theirs is None else theirs - self.now(ctx)
        return skew if abs(skew) > _LARGEST_SKEW else None

    def _learn_clock(self, ctx: Context, call: Call, response: Response) -> bool:
        theirs = server_time(response)
        if theirs is None:
            return False
        self.clock_offset = theirs - ctx.runtime.wall_time()
        _log_recovery(call, f"the clock of the service is {self.clock_offset:+.0f} s off")
        return True

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


def _log_recovery(call: Call, what: str) -> None:
    _log.info("%s %r: %s", call.operation, call.key, what)
