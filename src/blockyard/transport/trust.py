"""TLS contexts: whom to trust, what to show of oneself, and what to say when that is refused.

Certificates and host names are always verified; TLS is 1.2 at least and offers only HTTP/1.1
(ALPN). Files of certificates are replaced while a process runs, as cert-manager and
update-ca-certificates do: they are looked at again after a failure.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockyard.errors import ConfigError
from blockyard.managing import contextmanager
from blockyard.user_code import pass_on_foreign

if TYPE_CHECKING:
    from blockyard.config import HttpConfig

_CERTIFICATE_ALERTS = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)
"""OpenSSL's names for the alerts about a certificate: RFC 8446, section 6.2."""
_NO_ISSUER = frozenset({2, 18, 19, 20, 21})
"""X509_V_ERR_*: the certificate's issuer is not known, or it is its own. verify(1ssl)."""
_OTHER_HOST = frozenset({62, 64})
"""X509_V_ERR_*: the certificate is for another host name, or for another address."""
_PLAIN_HTTP = (
    "an endpoint without TLS needs http:// before its name, since a bare host:port means https"
)


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    files: tuple[object, ...]


class Trust:
    """The TLS context of one store, made when first needed: it loads all trusted certificates.

    Shared by threads without a lock: two that load it at once come to the same.
    """

    def __init__(self, http: HttpConfig) -> None:
        self._http = http
        self._loaded: _Loaded | None = None

    @property
    def context(self) -> ssl.SSLContext:
        """The context for a new connection. Raises `ConfigError`."""
        loaded = self._loaded
        return self._load().context if loaded is None else loaded.context

    def renew(self, failed: ssl.SSLContext) -> bool:
        """After a failure under the context `failed`: whether there is a new one to retry with.

        The files are read again only when one of them was replaced. Raises `ConfigError`.
        """
        loaded = self._loaded
        if loaded is not None and loaded.context is failed:
            if loaded.files == _identities(self._files()):
                return False
            _ = self._load()
        return True

    def explain(self, cause: ssl.SSLError) -> str:
        """What OpenSSL says, and what may help against it."""
        if not isinstance(cause, ssl.SSLCertVerificationError):
            plain = cause.reason == "WRONG_VERSION_NUMBER"
            return f"{cause}; {_PLAIN_HTTP}" if plain else str(cause)
        advice = ""
        if cause.verify_code in _NO_ISSUER:
            advice = (
                "; http.ca_bundle (AWS_CA_BUNDLE) may name a file with its issuer's certificate"
            )
            if not self._http.ca_bundle and not _system_has_authorities(self.context):
                advice = "; this system has no trusted certificates (ca-certificates)" + advice
            told = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
            if told and not self._http.ca_bundle:
                advice += f"; where the system's are is said by {' and '.join(told)}"
        return f"{cause}{advice}"

    def _load(self) -> _Loaded:
        http = self._http
        files = _identities(self._files())  # before they are read: what comes later is newer
        with _named("http.ca_bundle", http.ca_bundle, "a PEM file of trusted certificates"):
            if os.path.isdir(http.ca_bundle):
                context = ssl.create_default_context(capath=http.ca_bundle)
            else:
                context = ssl.create_default_context(cafile=http.ca_bundle or None)
        if http.client_cert:
            key = http.client_key
            setting = "http.client_cert and client_key" if key else "http.client_cert"
            pem = f"{http.client_cert} and {key}" if key else http.client_cert
            with _named(setting, pem, "a certificate and its key, in PEM"):
                context.load_cert_chain(http.client_cert, key or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # Set since Python 3.13, and not by botocore: private authorities whose certificates lack
        # a key identifier (RFC 5280, section 4.2.1.1) are many.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._loaded = loaded = _Loaded(context, files)
        return loaded

    def _files(self) -> list[str]:
        http = self._http
        given = [http.ca_bundle, http.client_cert, http.client_key]
        if not http.ca_bundle:
            system = ssl.get_default_verify_paths()
            given += [system.cafile or "", system.capath or ""]
        return [path for path in given if path]


def names_another_host(cause: ssl.SSLError) -> bool:
    """Whether the certificate is right but for the name, or address, of the host."""
    return isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _OTHER_HOST


@contextmanager
def _named(setting: str, files: str, expected: str) -> Generator[None]:
    """Raise what OpenSSL has against the files of a setting as a `ConfigError` that names them."""
    try:
        yield
    except OSError as error:
        pass_on_foreign(error)
        if error.filename is not None and error.filename == os.environ.get("SSLKEYLOGFILE"):
            raise ConfigError(f"SSLKEYLOGFILE: expected a file to write to: {error}") from None
        where = files or "those of the system"
        raise ConfigError(f"{setting} ({where}): expected {expected}: {error}") from None


def refused_certificate(cause: ssl.SSLError) -> bool:
    """Whether the other side did not accept the client's certificate."""
    return cause.reason in _CERTIFICATE_ALERTS


def _identities(paths: list[str]) -> tuple[object, ...]:
    """What changes when one of the files is replaced or written to."""
    return tuple(_identity(path) for path in paths)


def _identity(path: str) -> object:
    try:
        found = os.stat(path)
    except OSError as error:
        pass_on_foreign(error)
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _system_has_authorities(context: ssl.SSLContext) -> bool:
    """Whether the system has trusted certificates. A folder of them is read only when needed."""
    folder = ssl.get_default_verify_paths().capath
    if context.cert_store_stats()["x509_ca"]:
        return True
    try:
        return bool(folder and os.listdir(folder))
    except OSError as error:
        pass_on_foreign(error)
        return False
