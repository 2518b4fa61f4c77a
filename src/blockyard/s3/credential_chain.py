"""AWS's default chain of credential providers: botocore's own, run once from its start.

It reads shared files, starts programs and asks the metadata services of containers and machines.
What comes back is written by others: whatever is wrong with it is one `ConfigError`, which names
the provider and never quotes a document.
https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from blockyard.config.checks import check_access_key, check_secret, check_token
from blockyard.errors import ConfigError

_LONGEST_REASON = 300
"""Characters of a provider's own words that are quoted."""

_LIKE_A_SECRET = re.compile(r"(?<![\w/+=])(?!/)[\w/+=-]{32,}")
"""A secret key has 40 characters, a token more: a program that failed may have printed one."""


class Found(NamedTuple):
    """What the chain found. `expires_at` is in seconds since the epoch, None for never."""

    access_key: str
    secret_key: str
    session_token: str
    expires_at: float | None


def run_chain() -> Found:
    """Ask one provider after the other. Blocks; raises `ConfigError`.

    Each run starts afresh, so keys that were rotated in a file are seen.
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
        for provider in session.get_component("credential_provider").providers:
            name = f" in {provider.METHOD}"
            credentials = provider.load()
            if credentials is not None:
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


def _checked(credentials: Any, keys: Any) -> Found:
    """`keys` with the expiry of `credentials`, checked to fit into a signed request."""
    # botocore has no public name for the expiry; it is None, or missing, for lasting keys.
    expiry = getattr(credentials, "_expiry_time", None)
    token = "" if keys.token is None else keys.token
    return Found(
        _text("the access key", keys.access_key, check_access_key),
        _text("the secret key", keys.secret_key, check_secret),
        "" if token == "" else _text("the session token", token, check_token),
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
