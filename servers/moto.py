"""moto, the embedded S3: in memory, nothing to install but the development tools.

It runs under gunicorn because moto's own server closes the connection after every reply.
http://docs.getmoto.org/en/latest/docs/server_mode.html
"""

from __future__ import annotations

import http.client
import json
import secrets
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from servers.endpoint import Endpoint, boto3_client
from servers.process import Process, ServerError, temporary_folder
from servers.sockets import answers_http, free_port

_REPOSITORY = Path(__file__).resolve().parent.parent
_ALL_OF_S3 = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}


@contextmanager
def serve(*, check_signatures: bool = False) -> Generator[Endpoint]:
    """moto on loopback. It takes any keys unless it is asked to check signatures."""
    port = free_port()
    with (
        temporary_folder("moto") as folder,
        Process("moto", _command(port), folder, lambda: answers_http(port)) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        endpoint = Endpoint(
            kind="moto",
            url=url,
            access_key="testing",
            secret_key=secrets.token_hex(20),  # any will do
            processes={"moto": process},
        )
        yield _with_signatures_checked(endpoint) if check_signatures else endpoint


def _command(port: int) -> list[str]:
    options = {
        "--bind": f"127.0.0.1:{port}",
        "--pythonpath": str(_REPOSITORY),
        "--worker-class": "gthread",
        "--workers": "1",  # moto keeps its buckets in the memory of one process
        "--threads": "16",
        "--keep-alive": "60",
        "--graceful-timeout": "1",
        "--log-level": "warning",
    }
    words = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "gunicorn", *words, "servers.moto_application:application"]


def _with_signatures_checked(endpoint: Endpoint) -> Endpoint:
    """The endpoint, from now on for the keys of a user made here and for no others."""
    iam = boto3_client(endpoint, "iam")
    try:
        iam.create_user(UserName="tester")
        iam.put_user_policy(
            UserName="tester", PolicyName="s3", PolicyDocument=json.dumps(_ALL_OF_S3)
        )
        keys = iam.create_access_key(UserName="tester")["AccessKey"]
    finally:
        iam.close()
    _reset_auth(endpoint.url)
    return Endpoint(
        endpoint.kind,
        endpoint.url,
        keys["AccessKeyId"],
        keys["SecretAccessKey"],
        processes=endpoint.processes,
    )


def _reset_auth(url: str) -> None:
    """http://docs.getmoto.org/en/latest/docs/iam.html"""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("POST", "/moto-api/reset-auth", body=b"0")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != 200:
        raise ServerError(f"moto answered {status} when it was asked to check signatures")
