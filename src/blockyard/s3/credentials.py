"""Who signs the requests: given keys, AWS's default chain, or nobody.

`current` is asked before every request, so it answers at once from what it holds. The chain is
botocore's own, which is imported when it is first needed and not before; it reads files, starts
programs and talks to services, so it runs where it blocks no one.

The lock here is held only inside such a blocking call, never across an await.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from blockyard.config import S3Config
from blockyard.context import Context
from blockyard.errors import ConfigError

_log = logging.getLogger(__name__)

_RENEW_BEFORE = 15 * 60.0
"""Seconds before their expiry at which credentials are due for renewal, as AWS's SDKs do it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request is signed with. `expires_at` is in seconds since the epoch, None for never."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    expires_at: float | None = None


class CredentialSource(Protocol):
    """Where the credentials of one store come from. Shared by threads and event loops."""

    async def current(self, ctx: Context) -> Credentials | None:
        """The credentials to sign with now, None for unsigned; the same object while they hold.

        Raises `ConfigError` when there are none.
        """
        ...

    async def renew(self, ctx: Context, stale: Credentials | None) -> bool:
        """Replace the credentials that the service called expired; whether there are others now."""
        ...


class StaticCredentials:
    """Credentials that were given and stay; None leaves requests unsigned."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials

    async def current(self, ctx: Context) -> Credentials | None:
        return self._credentials

    async def renew(self, ctx: Context, stale: Credentials | None) -> bool:
        return False


class ChainCredentials:
    """What AWS's default chain finds, renewed by one caller before it expires.

    While the credentials held are still valid, the others go on with them. `find` runs the
    chain.
    """

    def __init__(self, find: Callable[[], Credentials] | None = None) -> None:
        self._find = find or find_in_chain
        self._held: _Held | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()

    async def current(self, ctx: Context) -> Credentials:
        held = self._held
        now = ctx.runtime.wall_time()
        if held is not None and now < held.renew_at:
            return held.credentials
        if held is None or now >= held.expires_at:
            return await ctx.runtime.blocking(partial(self._replace, held, now))
        if self._own_lock().locked():
            return held.credentials
        return await ctx.runtime.blocking(partial(self._renew_early, held, now))

    async def renew(self, ctx: Context, stale: Credentials | None) -> bool:
        held = self._held
        if held is None or held.credentials == stale:
            now = ctx.runtime.wall_time()
            return stale != await ctx.runtime.blocking(partial(self._replace, held, now))
        return True

    def _replace(self, stale: _Held | None, now: float) -> Credentials:
        """Run the chain, unless another caller did so since `stale` was seen."""
        with self._own_lock():
            held = self._held
            if held is None or held is stale:
                held = self._held = _Held.of(self._find(), now)
            return held.credentials

    def _renew_early(self, held: _Held, now: float) -> Credentials:
        """Run the chain unless another caller is at it; should it fail, `held` is good for now."""
        lock = self._own_lock()
        if not lock.acquire(blocking=False):
            return held.credentials
        try:
            if self._held is held:
                self._held = _Held.of(self._find(), now)
        except ConfigError as error:
            _log.warning("credentials could not be renewed yet: %s", error)
            self._held = _Held.of(held.credentials, now)
        finally:
            lock.release()
        return (self._held or held).credentials

    def _own_lock(self) -> threading.Lock:
        """This process's lock: a copy made by a fork may be held by a thread that is not here."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._lock = threading.Lock()
        return self._lock


class _Held(NamedTuple):
    """Credentials with the times (seconds since the epoch) that matter; swapped whole."""

    credentials: Credentials
    renew_at: float
    expires_at: float

    @classmethod
    def of(cls, credentials: Credentials, now: float) -> _Held:
        """Due for renewal in the last minutes, or halfway when not much is left."""
        if credentials.expires_at is None:
            return cls(credentials, math.inf, math.inf)
        left = credentials.expires_at - now
        return cls(
            credentials,
            credentials.expires_at - min(_RENEW_BEFORE, left / 2),
            credentials.expires_at,
        )


def credential_source(config: S3Config, environ: Mapping[str, str]) -> CredentialSource:
    """The source that `config` asks for: unsigned, its own keys, or what AWS's chain finds.

    Keys in AWS's environment variables come first in that chain, so they are taken from there
    without it. Raises `ConfigError` when only one of the two is set.
    """
    if config.anonymous:
        return StaticCredentials(None)
    if config.access_key:
        return StaticCredentials(
            Credentials(
                config.access_key,
                config.secret_key.get_secret_value(),
                config.session_token.get_secret_value(),
            )
        )
    access_key = environ.get("AWS_ACCESS_KEY_ID", "")
    secret_key = environ.get("AWS_SECRET_ACCESS_KEY", "")
    if bool(access_key) != bool(secret_key):
        raise ConfigError(
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together, and one is not set"
        )
    if access_key and "AWS_CREDENTIAL_EXPIRATION" not in environ:
        return StaticCredentials(
            Credentials(access_key, secret_key, environ.get("AWS_SESSION_TOKEN", ""))
        )
    return ChainCredentials()


def find_in_chain() -> Credentials:
    """Run botocore's default chain from its start. Blocks; raises `ConfigError`.

    Each run starts afresh, so keys that were rotated in a file are seen.
    https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
    """
    try:  # by name, as Any: botocore is optional, slow to import, and has no types
        exceptions: Any = import_module("botocore.exceptions")
        session: Any = import_module("botocore.session").get_session()
    except ImportError:
        raise ConfigError(
            "credentials: access_key and secret_key are not set, and AWS's default chain needs "
            "botocore: pip install 'blockyard[aws]'"
        ) from None
    refused = (exceptions.BotoCoreError, exceptions.ClientError, OSError, RuntimeError, ValueError)
    try:
        found = session.get_credentials()
        keys = found and found.get_frozen_credentials()
    except refused as error:
        raise ConfigError(
            f"credentials: AWS's default chain failed: {type(error).__name__}: {error}"
        ) from error
    if keys is None:
        raise ConfigError(
            "credentials: none found in access_key and secret_key, the environment "
            "(BLOCKYARD_S3_ACCESS_KEY and _SECRET_KEY, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY), AWS's shared files and the container or instance role; "
            "set them in one of these, or anonymous=true for a public bucket"
        )
    # botocore has no public name for the expiry; it is None, or missing, for lasting keys.
    expiry = getattr(found, "_expiry_time", None)
    return Credentials(
        keys.access_key, keys.secret_key, keys.token or "", expiry and expiry.timestamp()
    )
