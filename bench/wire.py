"""nginx as an endpoint at wire speed, with blocks to read in two buckets.

`plain` holds objects as anyone stores them. `kept` holds the same bytes as blockyard stores
them: with the page checksums in their metadata, which blockyard verifies what it reads against.
So each client reads what it would have written itself. What is written goes anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bench import data
from blockyard.s3.integrity import upload_headers
from servers.certificates import issue_certificate
from servers.endpoint import Endpoint
from servers.process import Process, require_programs, temporary_folder
from servers.sockets import answers_http, free_port

_CONFIGURATION = """\
{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    client_max_body_size 0;
    client_body_temp_path {folder}/uploads;
    proxy_temp_path {folder}/unused;
    fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused;
    scgi_temp_path {folder}/unused;
    server {{
        listen 127.0.0.1:{port}{tls};
        root {folder}/files;
        dav_methods PUT DELETE;
        create_full_put_path on;
        location / {{ {etag} }}
        location /{plain}/read/ {{ {cached} }}
        location /{plain}/arrays/ {{ {cached} }}
{kept}
    }}
}}
"""

# S3 answers a PUT with an ETag, and clients insist on it.
_ETAG = """if ($request_method = PUT) { add_header ETag '"x"' always; }"""

# What is only read stays open, so that the server opens no file for a request. Each location keeps
# its own files: all of them, and those of two sizes in `plain`, are fewer than it may open.
_CACHED = "open_file_cache max=2048 inactive=600s; open_file_cache_valid 600s;"

_TLS = """ ssl;
        ssl_certificate {files.certificate};
        ssl_certificate_key {files.key};
        ssl_protocols TLSv1.3"""


@contextmanager
def serve(*, tls: bool = False, workers: int = 1) -> Generator[Endpoint]:
    """nginx on loopback, its files in memory where the machine has a /dev/shm."""
    require_programs("nginx")
    port = free_port()
    memory = Path("/dev/shm")
    with temporary_folder("bench", parent=memory if memory.is_dir() else None) as folder:
        certificate = issue_certificate(folder) if tls else None
        data.seed_files(folder / "files")
        configuration = folder / "nginx.conf"
        _ = configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                port=port,
                workers=workers,
                # Its worker would become `nobody`, which can't enter the folder.
                user="user root;" if os.geteuid() == 0 else "",
                tls=_TLS.format(files=certificate) if certificate else "",
                plain=data.PLAIN,
                etag=_ETAG,
                cached=_CACHED,
                kept="\n".join(_kept_location(*place) for place in data.distinct_blocks()),
            )
        )
        command = ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(configuration)]
        with Process("nginx", command, folder, lambda: answers_http(port)) as process:
            yield Endpoint(
                kind="nginx",
                url=f"{'https' if tls else 'http'}://127.0.0.1:{port}",
                access_key="testing",
                secret_key="testing",
                processes={"nginx": process},
                ca_bundle=str(certificate.authority) if certificate else "",
            )


def _kept_location(folder: str, content: bytes) -> str:
    """The headers of the blocks in one folder of the bucket `kept`, which all hold `content`."""
    headers = "".join(
        f'add_header {name} "{value}"; '
        for name, value in upload_headers(content).items()
        if name.startswith("x-amz-meta-")
    )
    return f"        location /{data.KEPT}/{folder}/ {{ {_CACHED} {headers} {_ETAG} }}"
