"""Endpoints for the tests, each started once, on first use, with a bucket ready.

A test that asks for LocalStack or Ceph gets the `servers` mark by asking. Where one of them can't
be started its tests are skipped, except in CI, where that is a failure.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from servers import ceph, localstack, moto
from servers.endpoint import Endpoint, create_bucket
from servers.process import ServerError

BUCKET = "blockyard-tests"
_EXTERNAL = {"localstack_endpoint", "ceph_endpoint"}


@pytest.hookimpl(tryfirst=True)  # before marks select the tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _EXTERNAL.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("servers")


@pytest.fixture(scope="session")
def bucket() -> str:
    """The bucket that every endpoint has."""
    return BUCKET


@pytest.fixture
def key_prefix() -> str:
    """A prefix in the bucket that no other test uses."""
    return f"{uuid.uuid4()}/"


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[Endpoint]:
    """moto, which takes any keys."""
    with moto.serve() as endpoint:
        create_bucket(endpoint, BUCKET)
        yield endpoint


@pytest.fixture(scope="session")
def signed_moto_endpoint() -> Iterator[Endpoint]:
    """moto, refusing what is not signed with the endpoint's keys."""
    with moto.serve(check_signatures=True) as endpoint:
        create_bucket(endpoint, BUCKET)
        yield endpoint


@pytest.fixture(scope="session")
def localstack_endpoint() -> Iterator[Endpoint]:
    """LocalStack, which verifies checksums and conditions."""
    yield from _external(localstack.serve)


@pytest.fixture(scope="session")
def ceph_endpoint() -> Iterator[Endpoint]:
    """A real Ceph object gateway, which verifies signatures."""
    yield from _external(ceph.serve)


def _external(serve: Callable[[], AbstractContextManager[Endpoint]]) -> Iterator[Endpoint]:
    with ExitStack() as running:
        try:
            endpoint = running.enter_context(serve())
        except ServerError as error:
            if os.environ.get("CI") or os.environ.get("BLOCKYARD_REQUIRE_SERVERS"):
                raise
            pytest.skip(str(error))
        create_bucket(endpoint, BUCKET)
        yield endpoint
