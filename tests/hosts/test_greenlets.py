"""gevent, whose greenlets take the place of threads, and eventlet, which is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator

import pytest

from tests.small_s3 import REPOSITORY, SmallS3, small_s3

pytestmark = [pytest.mark.hosts, pytest.mark.thorough]


@pytest.fixture(scope="module")
def s3() -> Generator[SmallS3]:
    with small_s3() as server:
        yield server


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def test_limits_fire_and_nothing_hangs_under_gevent(s3: SmallS3) -> None:
    """Bulk calls need a loop, and all greenlets share one thread: a second one is refused."""
    done = run("-m", "tests.hosts.greenlets", s3.store_url())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("True", "True", "True", "TransportError", "True"),
        *("DeadlineExceededError", "DeadlineExceededError", "TransportTimeoutError", "True"),
    ]


OPENINGS = [
    "blockyard.open_store('memory://')",
    "asyncio.run(blockyard.open_async_store('memory://'))",
]


@pytest.mark.parametrize("opening", OPENINGS)
def test_eventlet_is_refused_when_a_store_is_opened(opening: str) -> None:
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import eventlet; eventlet.monkey_patch()\n"
        "import asyncio, blockyard\n"
        "try:\n"
        f"    {opening}\n"
        "except blockyard.ConfigError as error:\n"
        "    print(error)\n"
    )
    done = run("-c", script)
    assert done.returncode == 0, done.stderr
    assert "eventlet" in done.stdout
