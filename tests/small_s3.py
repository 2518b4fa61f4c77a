"""A small S3 service in a process of its own: `python -m tests.small_s3`, or `small_s3()`.

What forks or runs out of memory in a test is not to take the server with it, and C code that
forks leaves a child whose interpreter waits for any thread that was about to run. Requests for
keys that hold `silent` are never answered.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import unescape

REPOSITORY = Path(__file__).resolve().parent.parent


class SmallS3(NamedTuple):
    """Where a server listens."""

    url: str

    def store_url(self, bucket: str = "bucket", **settings: object) -> str:
        """A store URL for it."""
        named = "".join(f"&{name}={value}" for name, value in settings.items())
        return (
            f"s3://{bucket}/?endpoint={self.url}&force_path_style=true"
            f"&anonymous=true&region=us-east-1{named}"
        )


@contextmanager
def small_s3(certificate: Path | None = None, key: Path | None = None) -> Generator[SmallS3]:
    """A server in a process of its own, with TLS when it is given a certificate."""
    files = [str(file) for file in (certificate, key) if file is not None]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.small_s3", *files],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield SmallS3(process.stdout.readline().strip())
        finally:
            process.kill()


class _Object(NamedTuple):
    body: bytes
    etag: str
    headers: dict[str, str]


class _Service(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, _Object] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Service

    def do_GET(self) -> None:
        path, query = self._asked()
        if "uploads" in query:
            self._answer(501, b"<Error><Code>NotImplemented</Code></Error>")
        elif query.get("list-type") == "2":
            self._list(query)
        elif path.strip("/").count("/") == 0:
            self._answer(200, b"")  # a bucket: every one there may be
        elif (found := self.server.objects.get(path)) is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._object(found)

    do_HEAD = do_GET  # noqa: N815 - what http.server calls

    def do_PUT(self) -> None:
        path, _ = self._asked()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        source = self.headers.get("x-amz-copy-source")
        if source is not None:
            copied = self.server.objects["/" + unquote(source).removeprefix("/")]
            self.server.objects[path] = copied
            etag = f'<CopyObjectResult><ETag>"{copied.etag}"</ETag></CopyObjectResult>'
            self._answer(200, etag.encode())
            return
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        kept = {
            name: value
            for name, value in self.headers.items()
            if name.lower().startswith("x-amz-meta-")
        }
        if self.headers.get("If-None-Match") == "*" and path in self.server.objects:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.server.objects[path] = _Object(body, etag, kept)
        self._answer(200, b"", {"ETag": f'"{etag}"'})

    def do_DELETE(self) -> None:
        path, _ = self._asked()
        found, expected = self.server.objects.get(path), self.headers.get("If-Match")
        if expected is not None and found is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        if expected is not None and found is not None and expected != f'"{found.etag}"':
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        _ = self.server.objects.pop(path, None)
        self._answer(204, b"")

    def do_POST(self) -> None:
        bucket = self._asked()[0].rstrip("/") + "/"
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        keys = re.findall("<Key>(.*?)</Key>", asked)
        for key in keys:
            _ = self.server.objects.pop(bucket + unescape(key), None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    def _asked(self) -> tuple[str, dict[str, str]]:
        target = urlsplit(self.path)
        if "silent" in target.path:
            threading.Event().wait()
        query = parse_qs(target.query, keep_blank_values=True)
        return unquote(target.path), {name: values[0] for name, values in query.items()}

    def _object(self, found: _Object) -> None:
        headers = {
            "ETag": f'"{found.etag}"',
            "Last-Modified": formatdate(0, usegmt=True),
            **found.headers,
        }
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(200, found.body, headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1 if last else len(found.body)
        if start >= len(found.body):
            self._answer(416, b"<Error><Code>InvalidRange</Code></Error>")
            return
        part = found.body[start:stop]
        where = f"bytes {start}-{start + len(part) - 1}/{len(found.body)}"
        self._answer(206, part, headers | {"Content-Range": where})

    def _list(self, query: dict[str, str]) -> None:
        prefix = query.get("prefix", "")
        bucket = urlsplit(self.path).path.rstrip("/") + "/"
        after = query.get("continuation-token", "") or query.get("start-after", "")
        keys = sorted(
            key.removeprefix(bucket) for key in list(self.server.objects) if key.startswith(bucket)
        )
        keys = [key for key in keys if key.startswith(prefix) and key > after]
        size = int(query.get("max-keys", "1000"))
        rows = "".join(_row(key, self.server.objects[bucket + key]) for key in keys[:size])
        more = len(keys) > size
        last = quote(keys[:size][-1]) if more else ""
        token = f"<NextContinuationToken>{last}</NextContinuationToken>"
        reply = (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>bucket</Name><EncodingType>url</EncodingType><EncodingType>url</EncodingType><Prefix>{quote(prefix)}</Prefix>"
            f"<KeyCount>{len(keys[:size])}</KeyCount><MaxKeys>{size}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token if more else ''}{rows}"
            "</ListBucketResult>"
        )
        self._answer(200, reply.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            _ = self.wfile.write(body)
        self.wfile.flush()


def _row(key: str, found: _Object) -> str:
    return (
        f"<Contents><Key>{quote(key)}</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"{found.etag}"</ETag><Size>{len(found.body)}</Size></Contents>'
    )


def main(files: list[str]) -> None:
    """Serve until killed; the first line of the output is the URL."""
    service = _Service()
    if files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*files)
        service.socket = context.wrap_socket(service.socket, server_side=True)
    scheme, (host, port) = "https" if files else "http", service.server_address[:2]
    sys.stdout.write(f"{scheme}://{host}:{port}\n")
    sys.stdout.flush()
    service.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
