"""Over an emulated network path: that it is what it says, and what a store does on a bad one.

They need root and Linux, and are skipped elsewhere. What they wait for is real time: a path that
forgets, or says nothing, does so for seconds.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path as FilePath

import pytest

from bench.path import network
from bench.path.check import check
from bench.path.network import Path, PathUnavailableError
from bench.path.service import at_the_far_end
from blockyard.config import HttpConfig, S3Config, StoreConfig, TimeoutConfig
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from servers.endpoint import Endpoint

MANY = 200
DATA = b"data" * 1000
SLOW = ((1, 20), (10, 20))
"""Links that a busy machine can fill as well."""


@pytest.fixture
def path() -> Iterator[Path]:
    """A path of 10 ms and 1 Gbit/s."""
    with ExitStack() as running:
        try:
            path = running.enter_context(Path(rtt=10, rate=1000))
        except PathUnavailableError as reason:
            pytest.skip(str(reason))
        yield path


@pytest.fixture
def endpoint(path: Path) -> Iterator[Endpoint]:
    """A service at its far end."""
    with at_the_far_end(path) as endpoint:
        yield endpoint


def over(
    path: Path,
    endpoint: Endpoint,
    client: ClientName,
    timeouts: TimeoutConfig,
    work: Callable[[BlockStore], float],
) -> float:
    """Do `work` with a store on the client's side."""

    def there() -> float:
        settings = endpoint.s3_settings("bucket")
        http = HttpConfig(keep_alive=600)
        config = S3Config(**settings, timeouts=timeouts, http=http)
        with open_client(client, StoreConfig(s3=config)) as opened:
            return work(opened.store)

    return path.call("client", there)


def seconds_of(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    _ = call()
    return time.monotonic() - begun


@pytest.mark.servers
def test_the_path_is_what_it_says(path: Path) -> None:
    findings = check(path, SLOW)
    wrong = {finding.what for finding in findings if not finding.right}
    if wrong:  # what is wrong of a path is so each time, unlike what is late on a busy machine
        findings = check(path, SLOW)
        wrong &= {finding.what for finding in findings if not finding.right}
    assert not wrong, findings


@pytest.mark.servers
def test_nothing_of_a_path_outlives_its_owner(path: Path) -> None:
    owner = (
        "import time; from bench.path.network import Path\n"
        "with Path() as path: print(path.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", owner],
        cwd=FilePath(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        emulator = FilePath(f"/proc/{running.stdout.readline().strip()}")
        assert emulator.exists()
        running.kill()
    while emulator.exists():
        time.sleep(0.01)  # the test's own timeout ends a wait in vain


@pytest.mark.servers
def test_a_path_that_fails_to_start_leaves_nothing(path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError), Path(congestion="no-such"):
        pass


def test_a_path_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.os, "geteuid", lambda: 1000)
    with pytest.raises(PathUnavailableError, match="needs root"), Path():
        pass


@pytest.mark.servers
@pytest.mark.parametrize("client", CLIENTS)
def test_a_flow_idle_for_long_is_not_forgotten(
    client: ClientName, path: Path, endpoint: Endpoint
) -> None:
    path.change(idle=13)

    def work(store: BlockStore) -> float:
        _ = store.write_block("key", DATA)
        time.sleep(16)
        return seconds_of(lambda: store.read_block("key"))

    timeouts = TimeoutConfig(no_progress=10)
    assert over(path, endpoint, client, timeouts, work) < 8


@pytest.mark.servers
@pytest.mark.parametrize("client", CLIENTS)
def test_forgotten_flows_cost_one_timeout_together(
    client: ClientName, path: Path, endpoint: Endpoint
) -> None:
    path.change(idle=2)

    def work(store: BlockStore) -> float:
        _ = store.write_block("key", DATA)
        _ = store.with_options(concurrency=8).read_blocks(["key"] * 8)
        time.sleep(3)
        return seconds_of(lambda: store.with_options(concurrency=8).read_blocks(["key"]))

    timeouts = TimeoutConfig(no_progress=2)
    assert over(path, endpoint, client, timeouts, work) < 6


@pytest.mark.servers
@pytest.mark.parametrize("client", CLIENTS)
def test_a_flow_forgotten_soon_costs_the_time_for_unacknowledged_bytes(
    client: ClientName, path: Path, endpoint: Endpoint
) -> None:
    path.change(idle=2)

    def work(store: BlockStore) -> float:
        _ = store.write_block("key", DATA)
        time.sleep(3)
        return seconds_of(lambda: store.read_block("key"))

    timeouts = TimeoutConfig(no_progress=30, unacknowledged=3)
    assert over(path, endpoint, client, timeouts, work) < 15


@pytest.mark.servers
@pytest.mark.parametrize("client", CLIENTS)
def test_many_calls_outlast_a_silence(client: ClientName, path: Path, endpoint: Endpoint) -> None:
    def work(store: BlockStore) -> float:
        many = store.with_options(concurrency=MANY)
        _ = many.write_blocks([(f"key-{n}", DATA) for n in range(MANY)])
        path.silence(12)
        keys = [f"key-{n}" for n in range(MANY)]
        return seconds_of(lambda: many.read_blocks(keys))

    timeouts = TimeoutConfig(no_progress=2, connect=2)
    assert over(path, endpoint, client, timeouts, work) > 10


@pytest.mark.servers
@pytest.mark.parametrize("client", CLIENTS)
def test_a_first_connection_outlasts_a_silence(
    client: ClientName, path: Path, endpoint: Endpoint
) -> None:
    def work(store: BlockStore) -> float:
        path.silence(12)
        return seconds_of(lambda: store.write_block("key", DATA))

    timeouts = TimeoutConfig(no_progress=2, connect=1)
    assert over(path, endpoint, client, timeouts, work) > 10
