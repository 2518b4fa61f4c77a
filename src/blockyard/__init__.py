"""blockyard: an S3-compatible block store, fast and verified, blocking and asyncio alike.

`open_store` and `open_async_store` are where to begin. What they need is imported when one of the
names in `_LATER` is first used, not with the package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from blockyard.errors import (
    AccessDeniedError,
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    BlockTooLargeError,
    BucketNotFoundError,
    BufferTooSmallError,
    ConfigError,
    ContentChangedError,
    ContentExistsError,
    ContentReplacedError,
    DeadlineExceededError,
    ExecutorError,
    IncompleteBodyError,
    IntegrityError,
    InvalidKeyError,
    InvalidRangeError,
    LocalStorageError,
    NotModifiedError,
    NotS3Error,
    OutcomeUnknownError,
    OversizedBodyError,
    PartialDeleteError,
    PreconditionFailedError,
    ProtocolError,
    S3Error,
    ServerError,
    StageFullError,
    StoreClosedError,
    ThrottledError,
    TLSError,
    TransportConnectionError,
    TransportError,
    TransportTimeoutError,
    UnsupportedError,
)
from blockyard.model import (
    BLOCK_SIZE,
    MAX_BLOCK_SIZE,
    Block,
    BlockInfo,
    CacheStats,
    CopyResult,
    DeleteResult,
    FolderListing,
    HealthReport,
    Page,
    PresignedRequest,
    StagedBlock,
    StoreStats,
    VerifyReport,
)

if TYPE_CHECKING:
    from blockyard.aio import AsyncBlockStore, open_async_store
    from blockyard.cache.store import CacheStore
    from blockyard.config import (
        FileConfig,
        HttpConfig,
        IntegrityConfig,
        PutConfig,
        S3Config,
        StoreConfig,
        TimeoutConfig,
    )
    from blockyard.config.cache import CacheConfig
    from blockyard.content.types import CleanReport, ContentEntry, ContentInfo, Leftover, Progress
    from blockyard.context import Context
    from blockyard.opening import open_store
    from blockyard.put_options import PutOptions
    from blockyard.stores.base import ListRequest, ReadRequest, Store
    from blockyard.stores.wrapper import WrapperStore
    from blockyard.sync import BlockStore

__version__ = "0.1.0"

__all__ = [
    "BLOCK_SIZE",
    "MAX_BLOCK_SIZE",
    "AccessDeniedError",
    "AsyncBlockStore",
    "Block",
    "BlockExistsError",
    "BlockInfo",
    "BlockNotFoundError",
    "BlockStore",
    "BlockStoreError",
    "BlockTooLargeError",
    "BucketNotFoundError",
    "BufferTooSmallError",
    "CacheConfig",
    "CacheStats",
    "CacheStore",
    "CleanReport",
    "ConfigError",
    "ContentChangedError",
    "ContentEntry",
    "ContentExistsError",
    "ContentInfo",
    "ContentReplacedError",
    "Context",
    "CopyResult",
    "DeadlineExceededError",
    "DeleteResult",
    "ExecutorError",
    "FileConfig",
    "FolderListing",
    "HealthReport",
    "HttpConfig",
    "IncompleteBodyError",
    "IntegrityConfig",
    "IntegrityError",
    "InvalidKeyError",
    "InvalidRangeError",
    "Leftover",
    "ListRequest",
    "LocalStorageError",
    "NotModifiedError",
    "NotS3Error",
    "OutcomeUnknownError",
    "OversizedBodyError",
    "Page",
    "PartialDeleteError",
    "PreconditionFailedError",
    "PresignedRequest",
    "Progress",
    "ProtocolError",
    "PutConfig",
    "PutOptions",
    "ReadRequest",
    "S3Config",
    "S3Error",
    "ServerError",
    "StageFullError",
    "StagedBlock",
    "Store",
    "StoreClosedError",
    "StoreConfig",
    "StoreStats",
    "TLSError",
    "ThrottledError",
    "TimeoutConfig",
    "TransportConnectionError",
    "TransportError",
    "TransportTimeoutError",
    "UnsupportedError",
    "VerifyReport",
    "WrapperStore",
    "__version__",
    "open_async_store",
    "open_store",
]

_LATER = {
    "AsyncBlockStore": "blockyard.aio",
    "BlockStore": "blockyard.sync",
    "CleanReport": "blockyard.content.types",
    "ContentEntry": "blockyard.content.types",
    "ContentInfo": "blockyard.content.types",
    "Context": "blockyard.context",
    "CacheConfig": "blockyard.config.cache",
    "CacheStore": "blockyard.cache.store",
    "FileConfig": "blockyard.config",
    "HttpConfig": "blockyard.config",
    "IntegrityConfig": "blockyard.config",
    "Leftover": "blockyard.content.types",
    "ListRequest": "blockyard.stores.base",
    "PutConfig": "blockyard.config",
    "PutOptions": "blockyard.put_options",
    "Progress": "blockyard.content.types",
    "ReadRequest": "blockyard.stores.base",
    "S3Config": "blockyard.config",
    "Store": "blockyard.stores.base",
    "StoreConfig": "blockyard.config",
    "TimeoutConfig": "blockyard.config",
    "WrapperStore": "blockyard.stores.wrapper",
    "open_async_store": "blockyard.aio",
    "open_store": "blockyard.opening",
}
"""The public names that take time to import, and their modules."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'blockyard' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
