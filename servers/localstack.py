"""LocalStack, its S3 alone, as an ordinary process: no Docker and no token.

It lives in a virtual environment of its own (`make localstack-env`). A LocalStack that already
runs is used instead when the environment variable LOCALSTACK_ENDPOINT holds its URL.
https://docs.localstack.cloud/references/configuration/
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from servers.endpoint import Endpoint
from servers.process import Process, ServerError, temporary_folder
from servers.sockets import answers_http, free_port

_PYTHON = Path(__file__).resolve().parent.parent / ".venv-localstack" / "bin" / "python"

# Its Twisted server listens on every interface, whatever GATEWAY_LISTEN names, and its blocks
# go to one folder of the machine's, whatever FILESYSTEM_ROOT names.
_LAUNCHER = """\
from functools import partial
from localstack.runtime.main import main
from localstack.services.s3 import provider
from twisted.internet import endpoints
endpoints.TCP4ServerEndpoint = partial(endpoints.TCP4ServerEndpoint, interface="127.0.0.1")
provider.DEFAULT_S3_TMP_DIR = None
main()
"""


@contextmanager
def serve() -> Generator[Endpoint]:
    """LocalStack on loopback. It takes any keys, and verifies checksums."""
    url = os.environ.get("LOCALSTACK_ENDPOINT")
    if url:
        yield _endpoint(url)
        return
    if not _PYTHON.exists():
        raise ServerError("LocalStack is not installed (`make localstack-env` installs it)")
    port = free_port()
    with temporary_folder("localstack") as folder, _process(folder, port) as process:
        yield _endpoint(f"http://127.0.0.1:{port}", process)


def _endpoint(url: str, *processes: Process) -> Endpoint:
    return Endpoint(
        kind="localstack",
        url=url,
        access_key="test",
        secret_key=secrets.token_hex(20),  # any will do
        processes={process.name: process for process in processes},
    )


def _process(folder: Path, port: int) -> Process:
    environment = {
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "SERVICES": "s3",
        "EAGER_SERVICE_LOADING": "1",
        "FILESYSTEM_ROOT": str(folder),
        "OVERRIDE_IN_DOCKER": "0",
        # Nothing that would listen or call elsewhere.
        "DNS_ADDRESS": "0",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
    }
    return Process(
        "localstack",
        [str(_PYTHON), "-c", _LAUNCHER],
        folder,
        lambda: answers_http(port),
        environment=environment,
        timeout=60,
    )
