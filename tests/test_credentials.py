"""Credentials: who gives them, when they are renewed and by how many, and what is shown of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from blockyard.config import S3Config
from blockyard.context import Context, Runtime
from blockyard.errors import ConfigError
from blockyard.s3 import credentials as module
from blockyard.s3.credentials import (
    ChainCredentials,
    Credentials,
    StaticCredentials,
    credential_source,
    find_in_chain,
)
from blockyard.transport.blocking import run_to_end

HOUR = 3600.0


class Clock:
    """A runtime that only tells the time, and runs blocking calls at once or on threads."""

    def __init__(self, *, threads: bool = False) -> None:
        self.time = 1_000_000.0
        self.threads = threads
        self.hops = 0

    def wall_time(self) -> float:
        return self.time

    async def blocking(self, call: Callable[[], Any]) -> Any:
        self.hops += 1
        return await asyncio.to_thread(call) if self.threads else call()

    @property
    def context(self) -> Context:
        return Context(cast("Runtime", self))


class Chain:
    """A chain whose keys are numbered and last `lifetime` seconds of the clock."""

    def __init__(self, clock: Clock, lifetime: float | None = HOUR) -> None:
        self.clock = clock
        self.lifetime = lifetime
        self.runs = 0
        self.failing = False
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self) -> Credentials:
        self.entered.set()
        assert self.go_on.wait(30)
        if self.failing:
            raise ConfigError("the chain failed")
        self.runs += 1
        expires = None if self.lifetime is None else self.clock.time + self.lifetime
        return Credentials(f"KEY{self.runs}", "hunter2", "hunter2", expires)


def current(source: ChainCredentials, clock: Clock) -> str:
    return run_to_end(source.current(clock.context)).access_key


def test_nothing_secret_is_shown() -> None:
    shown = repr(Credentials("AKIA", "hunter2", "hunter2", 1.0))
    assert "AKIA" in shown
    assert "hunter2" not in shown


# Which source


def source(environ: Mapping[str, str], **settings: Any) -> Any:
    return credential_source(S3Config(**{"bucket": "my-data", **settings}), environ)


def static(found: Any) -> Credentials | None:
    assert isinstance(found, StaticCredentials)
    return run_to_end(found.current(Clock().context))


AWS = {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_SESSION_TOKEN": "token"}


def test_configured_keys_come_first() -> None:
    found = source(AWS, access_key="AKIA", secret_key="s", session_token="t")
    assert static(found) == Credentials("AKIA", "s", "t", None)


def test_the_environment_needs_no_chain() -> None:
    assert static(source(AWS)) == Credentials("ENV", "hunter2", "token", None)


def test_anonymous_signs_nothing() -> None:
    assert static(source(AWS, anonymous=True)) is None


def test_everything_else_is_left_to_the_chain() -> None:
    assert isinstance(source({}), ChainCredentials)
    assert isinstance(
        source({**AWS, "AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z"}), ChainCredentials
    )


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_a_pair_in_the_environment_is_an_error(missing: str) -> None:
    environ = {name: value for name, value in AWS.items() if name != missing}
    with pytest.raises(ConfigError, match="go together, and one is not set") as caught:
        _ = source(environ)
    assert "hunter2" not in str(caught.value)


def test_static_credentials_can_not_be_renewed() -> None:
    given = Credentials("AKIA", "s")
    assert not run_to_end(StaticCredentials(given).renew(Clock().context, given))


# Renewal


def test_the_chain_runs_once_and_then_answers_at_once() -> None:
    clock = Clock()
    chain = Chain(clock)
    held = ChainCredentials(chain)
    first = run_to_end(held.current(clock.context))
    assert run_to_end(held.current(clock.context)) is first
    assert (chain.runs, clock.hops) == (1, 1)


def test_lasting_keys_are_never_renewed() -> None:
    clock = Clock()
    held = ChainCredentials(Chain(clock, lifetime=None))
    assert current(held, clock) == "KEY1"
    clock.time += 1000 * HOUR
    assert current(held, clock) == "KEY1"


def test_keys_are_renewed_before_they_expire() -> None:
    clock = Clock()
    held = ChainCredentials(Chain(clock))
    assert current(held, clock) == "KEY1"
    clock.time += 44 * 60
    assert current(held, clock) == "KEY1"
    clock.time += 2 * 60
    assert current(held, clock) == "KEY2"


def test_short_lived_keys_are_used_for_half_their_life() -> None:
    clock = Clock()
    chain = Chain(clock, lifetime=60)
    held = ChainCredentials(chain)
    for _ in range(10):
        assert current(held, clock) == "KEY1"
        clock.time += 2.9
    clock.time += 2
    assert current(held, clock) == "KEY2"


def test_a_renewal_that_fails_leaves_the_valid_keys_in_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    chain = Chain(clock)
    held = ChainCredentials(chain)
    assert current(held, clock) == "KEY1"
    chain.failing = True
    clock.time += 50 * 60
    hops = clock.hops
    assert [current(held, clock) for _ in range(3)] == ["KEY1"] * 3
    assert clock.hops == hops + 1, "the next try comes halfway to the expiry"
    assert "could not be renewed yet: the chain failed" in caplog.text
    clock.time += 10 * 60
    with pytest.raises(ConfigError, match="the chain failed"):
        _ = current(held, clock)
    chain.failing = False
    assert current(held, clock) == "KEY2"


def test_renewal_after_the_service_called_them_expired() -> None:
    clock = Clock()
    chain = Chain(clock)
    held = ChainCredentials(chain)
    stale = run_to_end(held.current(clock.context))
    assert run_to_end(held.renew(clock.context, stale))
    assert current(held, clock) == "KEY2"
    assert run_to_end(held.renew(clock.context, stale)), "another caller has renewed them"
    assert chain.runs == 2


def test_renewal_that_finds_the_same_keys_says_so() -> None:
    clock = Clock()
    keys = Credentials("AKIA", "s")
    held = ChainCredentials(lambda: Credentials("AKIA", "s"))
    assert run_to_end(held.current(clock.context)) == keys
    assert not run_to_end(held.renew(clock.context, keys))


def in_threads(count: int, chain: Chain, call: Callable[[], object]) -> None:
    """Run `call` on so many threads at once, the chain going on when all have begun."""
    chain.entered.clear()
    chain.go_on.clear()
    begun = threading.Barrier(count + 1)

    def run() -> None:
        _ = begun.wait(30)
        _ = call()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    _ = begun.wait(30)
    assert chain.entered.wait(30)
    chain.go_on.set()
    for thread in threads:
        thread.join()


def test_many_threads_start_one_chain() -> None:
    clock = Clock()
    chain = Chain(clock)
    held = ChainCredentials(chain)
    found: list[str] = []
    in_threads(16, chain, lambda: found.append(current(held, clock)))
    assert found == ["KEY1"] * 16
    assert chain.runs == 1


def test_many_threads_renew_expired_keys_once() -> None:
    clock = Clock()
    chain = Chain(clock)
    held = ChainCredentials(chain)
    stale = run_to_end(held.current(clock.context))
    found: list[bool] = []
    in_threads(16, chain, lambda: found.append(run_to_end(held.renew(clock.context, stale))))
    assert found == [True] * 16
    assert chain.runs == 2


def test_others_go_on_while_one_renews() -> None:
    async def run() -> None:
        clock = Clock(threads=True)
        chain = Chain(clock)
        held = ChainCredentials(chain)
        _ = await held.current(clock.context)
        clock.time += 50 * 60
        chain.entered.clear()
        chain.go_on.clear()
        renewing = asyncio.create_task(held.current(clock.context))
        assert await asyncio.to_thread(chain.entered.wait, 30)
        hops = clock.hops
        others = [await held.current(clock.context) for _ in range(50)]
        assert {other.access_key for other in others} == {"KEY1"}
        assert clock.hops == hops, "at once, without a thread"
        chain.go_on.set()
        assert (await renewing).access_key == "KEY2"
        assert chain.runs == 2

    asyncio.run(run())


def test_many_tasks_wait_for_one_chain() -> None:
    async def run() -> None:
        clock = Clock(threads=True)
        chain = Chain(clock)
        held = ChainCredentials(chain)
        found = await asyncio.gather(*(held.current(clock.context) for _ in range(50)))
        assert {each.access_key for each in found} == {"KEY1"}
        assert chain.runs == 1

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that is the point
def test_a_fork_during_a_renewal_does_not_lock_out_the_child() -> None:
    clock = Clock()
    chain = Chain(clock)
    chain.go_on.clear()
    held = ChainCredentials(chain)
    renewing = threading.Thread(target=current, args=(held, clock))
    renewing.start()
    assert chain.entered.wait(30)
    child = os.fork()
    if child == 0:
        _ = signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _ = signal.alarm(20)  # a child that is locked out must not stay
        chain.go_on = threading.Event()
        chain.go_on.set()
        os._exit(0 if current(held, clock) == "KEY1" else 1)
    _, status = os.waitpid(child, 0)
    chain.go_on.set()
    renewing.join()
    assert status == 0


# botocore's chain, run for real on a home of its own


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    return tmp_path


def write_credentials(home: Path, text: str) -> None:
    _ = (home / ".aws" / "credentials").write_text(text)


def test_keys_in_the_shared_file(home: Path) -> None:
    write_credentials(
        home, "[default]\naws_access_key_id = FILE\naws_secret_access_key = hunter2\n"
    )
    assert find_in_chain() == Credentials("FILE", "hunter2", "", None)


def test_rotated_keys_are_seen_on_renewal(home: Path) -> None:
    template = "[default]\naws_access_key_id = {}\naws_secret_access_key = hunter2\n"
    write_credentials(home, template.format("OLD"))
    clock = Clock()
    held = ChainCredentials()
    stale = run_to_end(held.current(clock.context))
    write_credentials(home, template.format("NEW"))
    assert run_to_end(held.renew(clock.context, stale))
    assert current(held, clock) == "NEW"


def test_a_named_profile_and_its_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = {
        "Version": 1,
        "AccessKeyId": "PROGRAM",
        "SecretAccessKey": "hunter2",
        "SessionToken": "token",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    _ = (home / "reply.json").write_text(json.dumps(reply))
    command = f"cat {home / 'reply.json'}"
    _ = (home / ".aws" / "config").write_text(f"[profile other]\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert find_in_chain() == Credentials("PROGRAM", "hunter2", "token", 4070908800.0)


def test_a_profile_does_not_hide_keys_in_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_credentials(home, "[other]\naws_access_key_id = FILE\naws_secret_access_key = hunter2\n")
    monkeypatch.setenv("AWS_PROFILE", "other")
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    assert find_in_chain() == static(source(os.environ)), "as the shortcut past the chain has it"


def test_none_found(home: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _ = find_in_chain()
    for place in ("access_key", "AWS_ACCESS_KEY_ID", "shared files", "role", "anonymous=true"):
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("[profile other]\ncredential_process = false\n", "CredentialRetrievalError"),
        ("[profile other]\ncredential_process = /no/such/program\n", "FileNotFoundError"),
        ("[profile other]\ncredential_process = echo hunter2\n", "JSONDecodeError"),
        ("[profile another]\n", "ProfileNotFound"),
        ("no section\n", "ConfigParseError"),
        ("[profile other]\nrole_arn = arn:x\nsource_profile = other2\n", "InvalidConfigError"),
    ],
)
def test_a_chain_that_fails(
    home: Path, monkeypatch: pytest.MonkeyPatch, config: str, reason: str
) -> None:
    _ = (home / ".aws" / "config").write_text(config)
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(ConfigError, match=f"AWS's default chain failed: {reason}") as caught:
        _ = find_in_chain()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_without_botocore(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'blockyard\[aws\]'"):
        _ = find_in_chain()


def test_importing_credentials_does_not_import_botocore() -> None:
    check = "import sys, blockyard.s3.credentials; sys.exit('botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
