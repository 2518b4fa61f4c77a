"""The servers' own promises: nothing outlives its owner, nothing listens beyond loopback."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servers import procfs
from servers.endpoint import Endpoint, boto3_client
from servers.process import Process, ServerError, require_programs
from servers.sockets import accepts_connections, free_port

_FOREVER = "import time; time.sleep(600)"
_FORKS = f"import os, pathlib; pathlib.Path(str(os.fork())).touch(); {_FOREVER}"
_DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_FOREVER}"


def python(code: str, folder: Path, **options: object) -> Process:
    return Process("server", [sys.executable, "-c", code], folder, lambda: True, **options)


def wait_for_the_end_of(session: int) -> None:
    while procfs.living_members(session):
        time.sleep(0.01)  # the test's own timeout ends a wait in vain


def test_stop_ends_what_the_process_forked(tmp_path: Path) -> None:
    process = Process(
        "server",
        [sys.executable, "-c", _FORKS],
        tmp_path,
        lambda: sum(file.name.isdigit() for file in tmp_path.iterdir()) == 2,
    )
    with process:
        session = process.pid
        assert len(procfs.living_members(session)) == 2
    assert procfs.living_members(session) == []


def test_kill_then_start_again(tmp_path: Path) -> None:
    with python(_DEAF, tmp_path) as process:
        first = process.pid
        process.kill()
        assert procfs.living_members(first) == []
        with pytest.raises(ServerError, match="server is not running"):
            _ = process.pid
        process.start()
        assert process.pid != first
        process.kill()


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    owner = (
        "import pathlib, sys, time; from servers.process import Process\n"
        f"process = Process('server', [sys.executable, '-c', {_FOREVER!r}],"
        " pathlib.Path(sys.argv[1]), lambda: True)\n"
        "process.start(); print(process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", owner, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        session = int(running.stdout.readline())
        assert procfs.living_members(session) == [session]
        running.kill()
    wait_for_the_end_of(session)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    process = Process("server", [sys.executable, "-c", "exit('no luck')"], tmp_path, lambda: False)
    with pytest.raises(ServerError, match=r"ended before it was ready\nno luck"):
        process.start()


def test_a_process_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    process = Process(
        "server", [sys.executable, "-c", _FOREVER], tmp_path, lambda: False, timeout=0.1
    )
    with pytest.raises(ServerError, match=r"was not ready after 0\.1 s"):
        process.start()
    with pytest.raises(ServerError, match="not running"):
        _ = process.pid


def test_a_missing_program_is_named() -> None:
    require_programs("sh")
    with pytest.raises(ServerError, match="not installed: no-such-program"):
        require_programs("sh", "no-such-program")


@pytest.mark.parametrize(
    ("table", "address", "exposed"),
    [
        ("tcp", "0100007F:1F90", []),
        ("tcp", "00000000:1F90", ["0.0.0.0:8080"]),
        ("tcp6", "00000000000000000000000001000000:1F90", []),
        ("tcp6", "00000000000000000000000000000000:1F90", [":::8080"]),
    ],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="the addresses are written little-endian")
def test_listeners_beyond_loopback_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, address: str, exposed: list[str]
) -> None:
    (tmp_path / "42" / "fd").mkdir(parents=True)
    (tmp_path / "42" / "stat").write_text("42 (a (strange) name) S 1 42 42 0")
    (tmp_path / "42" / "fd" / "3").symlink_to("socket:[777]")
    (tmp_path / "net").mkdir()
    header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid\n"
    entry = f"   0: {address} 0:0 0A 0:0 00:0 0 0 0 777 1 0\n"
    (tmp_path / "net" / table).write_text(header + entry)
    monkeypatch.setattr(procfs, "_PROC", tmp_path)
    assert procfs.exposed_addresses(42) == exposed
    assert procfs.exposed_addresses(43) == []


def test_a_real_listener_is_in_the_tables() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        inode = str(os.fstat(listener.fileno()).st_ino)
        assert ("127.0.0.1", port, inode) in list(procfs._listeners())
        assert accepts_connections(port)
    assert not accepts_connections(port)


def test_an_endpoint_keeps_its_secret() -> None:
    endpoint = Endpoint("moto", "http://127.0.0.1:1", "key", "do-not-show")
    assert "do-not-show" not in repr(endpoint)
    assert "do-not-show" not in endpoint.store_url("bucket")


def test_moto_checks_signatures_when_asked(signed_moto_endpoint: Endpoint, bucket: str) -> None:
    client = boto3_client(signed_moto_endpoint)
    _ = client.put_object(Bucket=bucket, Key="key", Body=b"block")
    stranger = boto3_client(
        Endpoint("moto", signed_moto_endpoint.url, signed_moto_endpoint.access_key, "wrong")
    )
    with pytest.raises(stranger.exceptions.ClientError, match="SignatureDoesNotMatch"):
        _ = stranger.put_object(Bucket=bucket, Key="key", Body=b"block")
    for each in (client, stranger):
        each.close()


@pytest.mark.parametrize(
    "name", ["localstack_endpoint", "ministack_endpoint", "rclone_endpoint", "ceph_endpoint"]
)
@pytest.mark.servers
def test_external_servers_hold_blocks(
    name: str, bucket: str, key_prefix: str, request: pytest.FixtureRequest
) -> None:
    client = boto3_client(request.getfixturevalue(name))
    _ = client.put_object(Bucket=bucket, Key=f"{key_prefix}key", Body=b"block")
    answer = client.get_object(Bucket=bucket, Key=f"{key_prefix}key", Range="bytes=1-2")
    assert answer["Body"].read() == b"lo"
    client.close()


def test_processes_with_one_seed_are_given_different_ports() -> None:
    """pytest-random-order gives all processes of a run the same."""
    state = random.getstate()
    ports: set[int] = set()
    for _ in range(5):
        random.seed(1)
        ports.add(free_port())
    random.setstate(state)
    assert len(ports) > 1
