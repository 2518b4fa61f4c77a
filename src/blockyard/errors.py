"""Every error blockyard raises, in one tree.

::

    BlockStoreError
    ├── BlockNotFoundError            (LookupError)     no block under that key
    ├── BlockExistsError                                if_absent was given and a block is there
    ├── PreconditionFailedError                         the block has another ETag than if_match
    ├── NotModifiedError                                the block still has that of if_none_match
    ├── StoreClosedError                                the store was closed, before or meanwhile
    ├── InvalidKeyError               (ValueError)      a key or prefix that no store can hold
    ├── InvalidRangeError             (ValueError)      a range at or past the end, or negative
    ├── BufferTooSmallError           (ValueError)      the caller's buffer can't hold the block
    ├── BlockTooLargeError            (ValueError)      a block or object over the stated limit
    ├── IntegrityError                                  bytes that do not match their checksum
    │   └── ContentReplacedError                        a content that was replaced or deleted
    │                                                   while it was read
    ├── ContentExistsError                              if_absent was given and a content is there
    ├── ContentChangedError                             the content is not of the version if_match
    ├── OutcomeUnknownError                             whether it was changed is not known
    ├── PartialDeleteError                              some keys of a delete are still there
    ├── ConfigError                   (ValueError)      a setting, URL or file that can't be used
    ├── LocalStorageError                               the local disk refused (read-only, full)
    │   └── StageFullError                              too much waits in a cache to be uploaded
    ├── UnsupportedError                                the service lacks what the operation needs
    ├── ExecutorError                                   an executor did not bring a task to its end
    ├── TransportError                                  no usable reply came
    │   ├── TransportConnectionError  (ConnectionError) refused, reset, not resolved
    │   │   └── TLSError                                the handshake or the certificate failed
    │   ├── TransportTimeoutError     (TimeoutError)    connecting, or waiting with no progress
    │   │   └── DeadlineExceededError                   the caller's deadline passed
    │   └── ProtocolError                               a reply that is not valid HTTP or not S3
    │       ├── IncompleteBodyError                     the body broke off before its end
    │       ├── NotS3Error                              a reply that no S3 service would send
    │       └── OversizedBodyError                      the body is larger than was requested
    └── S3Error                                         the service answered with an error
        ├── AccessDeniedError                           401, 403: credentials or policy
        ├── BucketNotFoundError                         NoSuchBucket
        ├── ThrottledError                              429, 503 SlowDown and the like
        └── ServerError                                 any other 5xx, InternalError

Messages name the operation and the key. Attempts that came before the last one are listed
in the error's notes (PEP 678), so a traceback shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockyard.model import DeleteResult


class BlockStoreError(Exception):
    """The root: `except BlockStoreError` catches everything that blockyard raises on purpose.

    But for wrong arguments: a `TypeError` or a `ValueError`.

    `unknown_attempts` counts the requests of a write, copy or delete that failed whose outcome
    is not known: the reply was lost, or said that a server in between gave up. Any of them may
    have taken effect, or may still.
    """

    unknown_attempts = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # As exceptions pickle themselves, without calling __init__, which may want keywords:
        # a worker process hands its errors back with all they say.
        return _restored, (type(self), self.args), self.__dict__


class BlockNotFoundError(BlockStoreError, LookupError):
    """There is no block under the key."""


class BlockExistsError(BlockStoreError):
    """A block was already there although `if_absent` was given."""


class PreconditionFailedError(BlockStoreError):
    """The block has another ETag than `if_match` requires: it was replaced."""


class NotModifiedError(BlockStoreError):
    """The block has the ETag that `if_none_match` names."""


class StoreClosedError(BlockStoreError):
    """The store was closed before the call, or while it was under way."""


class InvalidKeyError(BlockStoreError, ValueError):
    """The key or prefix can't be used; the message says what was expected."""


class InvalidRangeError(BlockStoreError, ValueError):
    """The range is negative, or starts at or past the end of the block."""


class BufferTooSmallError(BlockStoreError, ValueError):
    """The buffer given to `read_block_into` is smaller than the block."""


class BlockTooLargeError(BlockStoreError, ValueError):
    """It is larger than what it is to be read, written or copied by can hold."""


class IntegrityError(BlockStoreError):
    """The bytes do not match the checksum they were stored under."""


class ContentReplacedError(IntegrityError):
    """The content was written again or deleted while it was read: open it anew."""


class ContentExistsError(BlockStoreError):
    """A content was already there although `if_absent` was given."""


class ContentChangedError(BlockStoreError):
    """The content has another version than `if_match` requires, or is not there."""


class OutcomeUnknownError(BlockStoreError):
    """Whether a content, or an object in parts, was changed is not known, and may still come about.

    A reply was lost, and what is there now does not show it. What was there, or what was to be
    there, is whole: read it to see, or do the same again.
    """


class PartialDeleteError(BlockStoreError):
    """Some keys could not be deleted; `result` says which, and why."""

    def __init__(self, message: str, result: DeleteResult) -> None:
        super().__init__(message)
        self.result = result
        failures = {id(error): error for error in result.failed.values()}  # one for many keys
        self.unknown_attempts = sum(error.unknown_attempts for error in failures.values())


class ConfigError(BlockStoreError, ValueError):
    """A setting, a URL or a configuration file can't be used; the message names the field."""


class LocalStorageError(BlockStoreError):
    """The local file system refused an operation; the `OSError` is the cause."""


class StageFullError(LocalStorageError):
    """A cache in write-back mode holds as many blocks as it may that are not uploaded yet."""


class UnsupportedError(BlockStoreError):
    """The service lacks what the operation rests on; the message says what that is."""

    of_options = False
    """Whether that is how a block is to be stored, and no condition of the write."""


class ExecutorError(BlockStoreError):
    """The executor that was given did not bring a task to its end: see `blockyard.distributed`.

    A worker was killed, it was shut down, the task could not be pickled, or a worker has no
    blockyard; its own error is the cause.
    """


class TransportError(BlockStoreError):
    """No usable reply came from the endpoint."""


class TransportConnectionError(TransportError, ConnectionError):
    """The connection was refused, reset, or its host name did not resolve.

    `established` is False while no connection had come about, so nothing can have been sent.
    """

    of_name = False
    """Whether the endpoint's name was what failed: not resolved, or not the certificate's."""

    def __init__(self, message: str, *, established: bool = True) -> None:
        super().__init__(message)
        self.established = established


class TLSError(TransportConnectionError):
    """The TLS handshake failed or the certificate was not accepted. Not retried."""


class TransportTimeoutError(TransportError, TimeoutError):
    """Connecting took too long, or no byte moved for the no-progress timeout."""

    def __init__(self, message: str, *, established: bool = True) -> None:
        super().__init__(message)
        self.established = established


class DeadlineExceededError(TransportTimeoutError):
    """The deadline the caller set for the whole call has passed."""


class ProtocolError(TransportError):
    """The reply is not valid HTTP/1.1, or not what S3 says at this place."""


class NotS3Error(ProtocolError):
    """The reply is not one that an S3 service sends: a web page, no ETag, no request id.

    A proxy, a login page, a console port or a web server answered instead.
    """


class IncompleteBodyError(ProtocolError):
    """The body broke off: `received` of `expected` bytes had come, and they are in `partial`.

    `partial` is None when the bytes went into the destination that the caller gave. `cause` is
    the transport error that ended the body: a reset, an end of stream, a timeout.
    """

    def __init__(
        self,
        message: str,
        *,
        headers: Mapping[str, str],
        status: int,
        received: int,
        expected: int,
        partial: bytes | None,
        cause: TransportError,
    ) -> None:
        super().__init__(message)
        self.headers = headers
        self.status = status
        self.received = received
        self.expected = expected
        self.partial = partial
        self.cause = cause


class OversizedBodyError(ProtocolError):
    """The body of a reply with `status` is larger, `size` bytes, than what was requested."""

    def __init__(self, message: str, *, status: int, size: int) -> None:
        super().__init__(message)
        self.status = status
        self.size = size


class S3Error(BlockStoreError):
    """The service answered with an error.

    `status` is the HTTP status, `code` the parsed `<Code>` ("" when the reply had no body),
    `request_id` and `host_id` what the service's support asks for, `attempts` how many requests
    were made, `retry_after` the seconds that it asked to wait, if it did.
    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "",
        request_id: str = "",
        host_id: str = "",
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.host_id = host_id
        self.attempts = attempts
        self.retry_after: float | None = None


class AccessDeniedError(S3Error):
    """The credentials are missing, wrong, expired or not allowed to do this."""


class BucketNotFoundError(S3Error):
    """The bucket does not exist at this endpoint."""


class ThrottledError(S3Error):
    """The service asked to slow down, and still did when the retries were used up."""


class ServerError(S3Error):
    """The service failed, and still did when the retries were used up."""


def _restored(kind: type[BlockStoreError], args: tuple[object, ...]) -> BlockStoreError:
    error = kind.__new__(kind, *args)
    error.args = args  # which those that are an OSError too set in __init__ alone
    return error
