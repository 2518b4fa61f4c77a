"""nginx with WebDAV: no S3, but PUT, GET, ranges and DELETE of plain files at wire speed.

It looks at no signature and knows no bucket: the first part of a path is a folder like any
other. What a client does against it costs the client's own time and hardly any of the server's.
https://nginx.org/en/docs/http/ngx_http_dav_module.html
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from servers.certificates import ServerCertificate, issue_certificate
from servers.endpoint import Endpoint
from servers.process import Process, require_programs, temporary_folder
from servers.sockets import answers_http, free_port

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a private folder is made in it

_CONFIGURATION = """\
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests 1000000;
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
        location / {{
            if ($request_method = PUT) {{ add_header ETag '"x"' always; }}
        }}
    }}
}}
"""

_TLS = """ ssl;
        ssl_certificate {files.certificate};
        ssl_certificate_key {files.key};
        ssl_protocols TLSv1.2 TLSv1.3"""


@contextmanager
def serve(*, tls: bool = False) -> Generator[Endpoint]:
    """nginx with one worker and its files in memory, over plain HTTP or TLS."""
    require_programs("nginx")
    port = free_port()
    memory = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    with temporary_folder("nginx", parent=memory) as folder:
        certificate = issue_certificate(folder) if tls else None
        (folder / "files").mkdir()
        configuration = folder / "nginx.conf"
        _ = configuration.write_text(_configuration(folder, port, certificate))
        command = ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(configuration)]
        with Process("nginx", command, folder, lambda: answers_http(port)) as process:
            yield Endpoint(
                kind="nginx",
                url=f"{'https' if tls else 'http'}://127.0.0.1:{port}",
                access_key="testing",
                secret_key=secrets.token_hex(20),  # any will do
                processes={"nginx": process},
                ca_bundle=str(certificate.authority) if certificate else "",
            )


def _configuration(folder: Path, port: int, certificate: ServerCertificate | None) -> str:
    return _CONFIGURATION.format(
        folder=folder,
        port=port,
        # Its worker would become `nobody`, which can't enter the folder.
        user="user root;" if os.geteuid() == 0 else "",
        tls=_TLS.format(files=certificate) if certificate else "",
    )
