"""Application servers that fork workers once the application has used its store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers.sockets import answers_http, free_port
from tests.small_s3 import REPOSITORY, SmallS3, small_s3

pytestmark = [pytest.mark.hosts, pytest.mark.thorough]

WORKERS = 3
REQUESTS = 60
APPLICATION = "tests.hosts.wsgi_application:application"
GUNICORN = [
    *(sys.executable, "-m", "gunicorn", APPLICATION, "--workers", str(WORKERS)),
    *("--graceful-timeout", "1", "--log-level", "warning"),
]
UWSGI = [
    *(sys.executable, "-c", "import pyuwsgi; pyuwsgi.run()"),
    *("--module", APPLICATION, "--processes", str(WORKERS)),
    *("--master", "--need-app", "--die-on-term", "--disable-logging", "--listen", "64"),
]
HOOKS = [
    "--py-call-uwsgi-fork-hooks",
    # With this one its workers die on Python 3.13: https://github.com/unbit/uwsgi/issues/2710
    *(["--py-call-osafterfork"] if sys.version_info < (3, 13) else []),
]
SERVERS = {
    "uWSGI": [*UWSGI, "--http-socket"],
    "uWSGI with threads": [*UWSGI, "--enable-threads", "--threads", "2", "--http-socket"],
    **{f"uWSGI with {hook}": [*UWSGI, hook, "--http-socket"] for hook in HOOKS},
    "gunicorn": [*GUNICORN, "--preload", "--bind"],
    "gunicorn with threads": [*GUNICORN, "--preload", "--threads", "4", "--bind"],
    "gunicorn with gevent": [*GUNICORN, "--worker-class", "gevent", "--bind"],
}


@pytest.fixture(scope="module")
def s3() -> Generator[SmallS3]:
    with small_s3() as server:
        yield server


@contextmanager
def running(command: Sequence[str], store: str, log: Path) -> Generator[str]:
    """The server, listening; ended by its own process id."""
    port = free_port()
    environment = {**os.environ, "BLOCKYARD_TEST_STORE": store, "PYTHONPATH": str(REPOSITORY)}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*command, f"127.0.0.1:{port}"],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            ends = time.monotonic() + 60
            while not answers_http(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < ends, log.read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
            assert process.poll() is None, log.read_text()
        finally:
            process.terminate()


@pytest.mark.parametrize("server", SERVERS)
def test_each_worker_reads_its_own_blocks(server: str, s3: SmallS3, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def ask(number: int) -> dict[str, int]:
        with urllib.request.urlopen(f"{url}/key-{number % 8}", timeout=60) as reply:
            return json.loads(reply.read())

    store = s3.store_url(deadline=30, max_connections=20, max_idle=20)
    with running(SERVERS[server], store, log) as url:
        with ThreadPoolExecutor(8) as threads:
            told = list(threads.map(ask, range(REQUESTS)))
        assert sum(each["wrong"] for each in told) == 0
        by_worker: defaultdict[int, list[int]] = defaultdict(list)
        for each in told:
            by_worker[each["pid"]].append(each["open"])
        assert len(by_worker) > 1
        for opened in by_worker.values():
            assert max(opened) < 120  # two pools of 20 connections, and what the server has
    assert "Traceback" not in log.read_text()
