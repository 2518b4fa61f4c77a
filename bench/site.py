"""Where a client finds its bucket. Imported by every peer, so it imports nothing itself."""

from __future__ import annotations

CONNECTIONS = 32
"""As many as the most requests in flight: no client waits for a connection of its pool."""


class Site:
    """An endpoint and a bucket, for a client to open.

    `sign_payload` asks for a SHA-256 of every body that is written, where the client can be
    told; `variant` is "default", or a name that the peer's module knows.
    """

    def __init__(
        self,
        url: str,
        bucket: str,
        *,
        ca_bundle: str = "",
        sign_payload: bool = True,
        variant: str = "default",
    ) -> None:
        self.url = url
        self.bucket = bucket
        self.ca_bundle = ca_bundle
        self.sign_payload = sign_payload
        self.variant = variant
        self.region = "us-east-1"
        self.access_key = "testing"
        self.secret_key = "testing"

    @property
    def tls(self) -> bool:
        return self.url.startswith("https:")

    @property
    def authority(self) -> str:
        """HOST:PORT."""
        return self.url.partition("://")[2]
