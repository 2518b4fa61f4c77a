"""Endpoints for the tests, each started once, on first use, with its buckets ready.

A test that asks for LocalStack or Ceph gets the `servers` mark by asking. Where one of them can't
be started its tests are skipped, except in CI, where that is a failure.
"""

from __future__ import annotations

import gc
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import hypothesis
import pytest

from servers import ceph, localstack, ministack, moto, rclone
from servers.endpoint import Endpoint, create_bucket
from servers.process import ServerError
from tests.secrets_watch import SecretsWatch

_SHARED_BUCKET = "blockyard-tests"
_CLEARED_BUCKET = "blockyard-conformance"
_EXTERNAL = {"localstack_endpoint", "ministack_endpoint", "rclone_endpoint", "ceph_endpoint"}


# How long an example takes depends on who else uses the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts `make test &` with SIGINT ignored, which what the tests start would inherit.
    _ = signal.signal(signal.SIGINT, signal.default_int_handler)
    _ = config.pluginmanager.register(SecretsWatch(), "secrets-watch")


@pytest.hookimpl(tryfirst=True)  # before marks select the tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _EXTERNAL.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("servers")


def pytest_collection_finish() -> None:
    """Have the garbage collector look at what tests make alone, and not at ten thousand tests.

    Some tests call it hundreds of times, and each look took 0.3 s.
    """
    _ = gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def bucket() -> str:
    """A bucket that every endpoint has; a test keeps to its `key_prefix` in it."""
    return _SHARED_BUCKET


@pytest.fixture(scope="session")
def cleared_bucket() -> str:
    """A bucket that every endpoint has, and that a test leaves as it found it: empty."""
    return _CLEARED_BUCKET


@pytest.fixture
def key_prefix() -> str:
    """A prefix in the bucket that no other test uses."""
    return f"{uuid.uuid4()}/"


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[Endpoint]:
    """moto, which takes any keys."""
    with _started(moto.serve) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def signed_moto_endpoint() -> Iterator[Endpoint]:
    """moto, refusing what is not signed with the endpoint's keys."""
    with _started(partial(moto.serve, check_signatures=True)) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def localstack_endpoint() -> Iterator[Endpoint]:
    """LocalStack, which verifies checksums and conditions."""
    with _started_or_skipped(localstack.serve) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ministack_endpoint() -> Iterator[Endpoint]:
    """MiniStack, which verifies conditions."""
    with _started_or_skipped(ministack.serve) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone_endpoint() -> Iterator[Endpoint]:
    """rclone over a folder, which lacks much: `servers/capabilities.py`."""
    with _started_or_skipped(rclone.serve) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ceph_endpoint() -> Iterator[Endpoint]:
    """A real Ceph object gateway, which verifies signatures."""
    with _started_or_skipped(ceph.serve) as endpoint:
        yield endpoint


@contextmanager
def _started(serve: Callable[[], AbstractContextManager[Endpoint]]) -> Iterator[Endpoint]:
    with serve() as endpoint:
        for name in (_SHARED_BUCKET, _CLEARED_BUCKET):
            create_bucket(endpoint, name)
        yield endpoint


@contextmanager
def _started_or_skipped(
    serve: Callable[[], AbstractContextManager[Endpoint]],
) -> Iterator[Endpoint]:
    with ExitStack() as running:
        try:
            endpoint = running.enter_context(_started(serve))
        except ServerError as error:
            if os.environ.get("CI") or os.environ.get("BLOCKYARD_REQUIRE_SERVERS"):
                raise
            pytest.skip(str(error))
        yield endpoint
