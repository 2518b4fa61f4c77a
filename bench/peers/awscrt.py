"""awscrt's S3Client: the AWS Common Runtime, in C, with its retries and its signatures.

Its HTTP client alone would be quicker, but retries nothing and signs nothing by itself. Each
request is one plain GetObject or PutObject; the splitting into parts that S3Client does for
large files would only add requests to blocks of this size.
"""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path
from typing import Any

from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientTlsContext, TlsContextOptions
from awscrt.s3 import S3Client, S3RequestTlsMode, S3RequestType, create_default_s3_signing_config

from bench.site import Site

ONE_PART = 16 * 1024 * 1024


class Client:
    def __init__(self, site: Site) -> None:
        keys = AwsCredentialsProvider.new_static(site.access_key, site.secret_key)
        signing = create_default_s3_signing_config(region=site.region, credential_provider=keys)
        self.signing = signing
        self.sign_payload = site.sign_payload
        self.client = S3Client(
            region=site.region,
            signing_config=signing,
            part_size=ONE_PART,
            **_tls(site),
        )
        self.host = site.authority
        self.root = f"/{site.bucket}/"

    def write(self, key: str, data: bytes) -> None:
        headers = self._headers(("Content-Length", str(len(data))))
        request = HttpRequest("PUT", self.root + key, headers, io.BytesIO(data))
        signing = None
        if self.sign_payload:  # left to itself it sends bodies unsigned
            signing = self.signing.replace(signed_body_value=sha256(data).hexdigest())
        self._finish(S3RequestType.PUT_OBJECT, "PutObject", request, signing_config=signing)

    def read(self, key: str) -> bytearray:
        return self._get(key, self._headers())

    def read_range(self, key: str, offset: int, length: int) -> bytearray:
        return self._get(key, self._headers(("Range", f"bytes={offset}-{offset + length - 1}")))

    def close(self) -> None:
        shutdown = self.client.shutdown_event
        del self.client
        shutdown.wait(5)

    def _get(self, key: str, headers: HttpHeaders) -> bytearray:
        body = bytearray()
        request = HttpRequest("GET", self.root + key, headers)

        def receive(chunk: bytes, **_: Any) -> None:
            body.extend(chunk)

        self._finish(S3RequestType.DEFAULT, "GetObject", request, on_body=receive)
        return body

    def _finish(self, kind: S3RequestType, name: str, request: HttpRequest, **more: Any) -> None:
        sent = self.client.make_request(type=kind, operation_name=name, request=request, **more)
        sent.finished_future.result(60)

    def _headers(self, *more: tuple[str, str]) -> HttpHeaders:
        return HttpHeaders([("Host", self.host), *more])


def _tls(site: Site) -> dict[str, Any]:
    if not site.tls:
        return {"tls_mode": S3RequestTlsMode.DISABLED}
    options = TlsContextOptions()
    options.override_default_trust_store(Path(site.ca_bundle).read_bytes())
    connection = ClientTlsContext(options).new_connection_options()
    return {"tls_mode": S3RequestTlsMode.ENABLED, "tls_connection_options": connection}
