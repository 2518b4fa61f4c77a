"""Who signs the requests: given keys, AWS's default chain, or nobody.

`current` is called before every request, so it answers at once from what it holds. The chain reads
files, starts programs and talks to services, so it runs where it blocks no one. It is botocore's
own, run once from its start. What comes back is written by others: whatever is wrong with it is one
`ConfigError`, which names the provider and never quotes a document.
https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from blockyard.config import S3Config, values
from blockyard.context import Context, Runtime
from blockyard.errors import ConfigError, DeadlineExceededError, TransportError
from blockyard.process import PerProcess

_log = logging.getLogger(__name__)

_A_MOMENT = 0.5
"""Seconds to wait for a lock that its holder may not get to give back: a signal handler that uses
the store may have interrupted it. Then two searches run, which does no harm."""

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
    """What AWS's default chain finds: one search for all who wait, renewed before it expires.

    A search runs on a thread of its own and belongs to nobody: each call waits for it up to its own
    deadline, and gets its outcome, be it an error. While the credentials held are still valid, no
    call waits.
    """

    def __init__(self, find: Callable[[], Credentials] | None = None) -> None:
        self._find = find or find_in_chain
        self._held: _Held | None = None
        self._searches = PerProcess(_Searches)

    async def current(self, ctx: Context) -> Credentials:
        held, runtime = self._held, ctx.runtime
        if held is None:
            return await self._found(ctx, None)
        if not held.is_due(runtime):
            return held.credentials
        if not held.has_expired(runtime):
            with suppress(TransportError):  # no thread to be had
                _ = self._search(runtime, held)
            return (self._held or held).credentials
        try:
            return await self._found(ctx, held)
        except ConfigError:
            kept = self._held or held
            if kept.left(runtime) <= 0:
                raise
            return kept.credentials

    async def renew(self, ctx: Context, stale: Credentials | None) -> bool:
        held = self._held
        if held is None or held.credentials == stale:
            return stale != await self._found(ctx, held)
        return True

    async def _found(self, ctx: Context, stale: _Held | None) -> Credentials:
        """The outcome of the search under way, or of a new one."""
        search = self._search(ctx.runtime, stale)
        if isinstance(search, Credentials):
            return search
        try:
            return await ctx.runtime.wait(search, ctx.deadline)
        except DeadlineExceededError:
            raise DeadlineExceededError(
                "the deadline of this call has passed while credentials were searched for"
            ) from None
        except ConfigError as error:  # shared: each call adds its own notes to it
            raise ConfigError(str(error)) from None

    def _search(self, runtime: Runtime, stale: _Held | None) -> Future[Credentials] | Credentials:
        """The search under way, or a new one, or what has replaced `stale` since it was seen."""
        searches = self._searches.here()
        alone = searches.lock.acquire(timeout=_A_MOMENT)
        try:
            held = self._held
            if held is not None and held is not stale:
                return held.credentials
            if searches.latest is None or searches.latest.done():
                searches.latest = runtime.start(partial(self._replace, runtime, stale))
            return searches.latest
        finally:
            if alone:
                searches.lock.release()

    def _replace(self, runtime: Runtime, stale: _Held | None) -> Credentials:
        """Run the chain. Should it fail, what is held goes on for as long as it may be valid."""
        try:
            found = self._find()
        except Exception as error:
            if stale is not None and (left := stale.left(runtime)) > 0:
                _log.warning("credentials could not be renewed yet: %s", error)
                again = runtime.now() + min(_RENEW_BEFORE, left / 2)
                self._held = stale._replace(next_try=again)
            raise
        self._held = _Held.of(found, runtime)
        return found


class _Searches:
    """The latest search of one process. The lock is held while one is begun, and for no longer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.latest: Future[Credentials] | None = None


class _Held(NamedTuple):
    """Credentials with the times that matter; swapped whole.

    `renew_at` and `expires_at` are in seconds since the epoch; `good_until`, the expiry, and
    `next_try`, before which they are not renewed again, are by `Runtime.now()`: the wall clock may
    be set forward or back meanwhile, and the other one stand still in a virtual machine that is
    paused. What is due by one of them is renewed; where that fails, what is good by one of them
    goes on.
    """

    credentials: Credentials
    renew_at: float
    expires_at: float
    good_until: float
    next_try: float = -math.inf

    @classmethod
    def of(cls, credentials: Credentials, runtime: Runtime) -> _Held:
        """Due for renewal in the last minutes, or halfway when not much is left."""
        expires_at = credentials.expires_at
        if expires_at is None:
            return cls(credentials, math.inf, math.inf, math.inf)
        left = expires_at - runtime.wall_time()
        renew_at = expires_at - min(_RENEW_BEFORE, left / 2)
        return cls(credentials, renew_at, expires_at, runtime.now() + left)

    def is_due(self, runtime: Runtime) -> bool:
        """Whether they are to be renewed now."""
        now = runtime.now()
        due = runtime.wall_time() >= self.renew_at or now >= self.good_until
        return due and now >= self.next_try

    def has_expired(self, runtime: Runtime) -> bool:
        """Whether they have expired by one of the clocks."""
        return runtime.wall_time() >= self.expires_at or runtime.now() >= self.good_until

    def left(self, runtime: Runtime) -> float:
        """Seconds until they have expired by both of the clocks."""
        return max(self.expires_at - runtime.wall_time(), self.good_until - runtime.now())


def credential_source(config: S3Config, environ: Mapping[str, str]) -> CredentialSource:
    """The source that `config` asks for: unsigned, its own keys, or what AWS's chain finds.

    Keys in AWS's environment variables come first in that chain, so they are taken from there
    without it; one that is told a profile does not look at them. Raises `ConfigError` when only
    one of the two is set, or one can't be used.
    """
    if config.anonymous:
        return StaticCredentials(None)
    if config.access_key:
        return StaticCredentials(
            Credentials(
                config.access_key,
                config.secret_key.reveal(),
                config.session_token.reveal(),
            )
        )
    if config.profile:
        return ChainCredentials(partial(find_in_chain, config.profile))
    access_key = _variable(environ, "AWS_ACCESS_KEY_ID", values.access_key)
    secret_key = _variable(environ, "AWS_SECRET_ACCESS_KEY", values.secret_key)
    if bool(access_key) != bool(secret_key):
        raise ConfigError(
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together, and one is not set"
        )
    if access_key and "AWS_CREDENTIAL_EXPIRATION" not in environ:
        session_token = _variable(environ, "AWS_SESSION_TOKEN", values.token)
        return StaticCredentials(Credentials(access_key, secret_key, session_token))
    return ChainCredentials()


def _variable(environ: Mapping[str, str], name: str, check: Callable[[str], str]) -> str:
    """A variable, "" where it is not set. Raises `ConfigError` for what can't sign a request."""
    try:
        return check(environ.get(name, ""))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


_LONGEST_REASON = 300
"""Characters of a provider's own words that are quoted."""

_LIKE_A_SECRET = re.compile(r"(?<![\w/+=])(?!/)[\w/+=-]{32,}")
"""A secret key has 40 characters, a token more: a program that failed may have printed one."""


def find_in_chain(profile: str = "") -> Credentials:
    """What AWS's default chain finds now, in `profile` if one is named. Raises `ConfigError`.

    Blocks. Each run starts afresh, so keys that were rotated in a file are seen.
    """
    try:  # optional, slow to import, and without types
        import botocore.exceptions  # noqa: PLC0415
        import botocore.session  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            "credentials: access_key and secret_key are not set, and AWS's default chain needs "
            "botocore: pip install 'blockyard[aws]'"
        ) from None
    # Errors with words for the user; others may quote the document that they could not read.
    with_words = (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        OSError,
        RuntimeError,
    )
    name = ""
    try:
        session = cast("Any", botocore.session).get_session()
        if profile:
            session.set_config_variable("profile", profile)
        for provider in session.get_component("credential_provider").providers:
            name = f" in {provider.METHOD}"
            credentials = provider.load()
            if credentials is None:
                continue
            return _checked(credentials, credentials.get_frozen_credentials())
    except _UnusableDocumentError as unusable:
        reason = str(unusable)
    except with_words as error:
        reason = f"{type(error).__name__}: {_quoted(str(error))}"
    except Exception as error:  # noqa: BLE001 - what others wrote makes botocore raise anything
        reason = f"{type(error).__name__}: its document is not of the form that is due"
    else:
        raise ConfigError(
            "credentials: none found in access_key and secret_key, the environment "
            "(BLOCKYARD_S3_ACCESS_KEY and _SECRET_KEY, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY), AWS's shared files and the container or instance role; "
            "set them in one of these, or anonymous=true for a public bucket"
        )
    # Outside the handlers: the errors hold, or come from frames that hold, what may be secret.
    raise ConfigError(f"credentials: AWS's default chain failed{name}: {reason}")


class _UnusableDocumentError(Exception):
    """Credentials that can't sign a request; the text says why, without them."""


def _checked(credentials: Any, keys: Any) -> Credentials:
    """`keys` with the expiry of `credentials`, checked to fit into a signed request."""
    # botocore has no public name for the expiry; it is None, or missing, for lasting keys.
    expiry = getattr(credentials, "_expiry_time", None)
    token = "" if keys.token is None else keys.token
    return Credentials(
        _text("the access key", keys.access_key, values.access_key),
        _text("the secret key", keys.secret_key, values.secret_key),
        "" if token == "" else _text("the session token", token, values.token),
        None if expiry is None else expiry.timestamp(),
    )


def _text(what: str, value: object, check: Callable[[str], str]) -> str:
    if not isinstance(value, str):
        raise _UnusableDocumentError(f"{what}: expected text, got {type(value).__name__}")
    if not value:
        raise _UnusableDocumentError(f"{what}: expected text, got nothing")
    try:
        return check(value)
    except ValueError as error:
        raise _UnusableDocumentError(f"{what}: {error}") from None


def _quoted(text: str) -> str:
    """`text` on one line, short, and without what looks like a secret."""
    return _LIKE_A_SECRET.sub("...", " ".join(text.split()))[:_LONGEST_REASON]
