"""Credentials: who gives them, when they are renewed and by how many, and what is shown of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from blockyard.config import HttpConfig, S3Config, TimeoutConfig
from blockyard.context import Context, Runtime
from blockyard.errors import ConfigError
from blockyard.s3.credentials import (
    ChainCredentials,
    Credentials,
    StaticCredentials,
    credential_source,
)
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections

HOUR = 3600.0


class Told:
    """Clocks that stand still unless they are moved, and a count of the threads asked for.

    `time` moves both; `step` sets the wall clock alone.
    """

    def __init__(self) -> None:
        super().__init__(Connections(HttpConfig(), TimeoutConfig()))  # pyright: ignore[reportCallIssue]
        self.time = 1_000_000.0
        self.stepped = 0.0
        self.hops = 0

    def wall_time(self) -> float:
        return self.time

    def now(self) -> float:
        return self.time - self.stepped

    def step(self, seconds: float) -> None:
        self.time += seconds
        self.stepped += seconds

    def start(self, call: Callable[[], Any]) -> Any:
        self.hops += 1
        return super().start(call)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def context(self) -> Context:
        return Context(cast("Runtime", self))


class Clock(Told, BlockingRuntime):  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    """The blocking runtime under a clock of its own."""


class LoopClock(Told, AsyncioRuntime):  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    """The asyncio runtime under a clock of its own."""


class Chain:
    """A chain whose keys are numbered and last `lifetime` seconds of the clock."""

    def __init__(self, clock: Told, lifetime: float | None = HOUR) -> None:
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


def settle(source: ChainCredentials) -> None:
    """Wait until the latest search has ended."""
    latest = source._searches.here().latest
    assert latest is not None
    _ = latest.exception(30)


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIA\nhunter2"),
        ("AWS_ACCESS_KEY_ID", "AKIA/hunter2"),
        ("AWS_ACCESS_KEY_ID", " hunter2"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2\n"),
        ("AWS_SECRET_ACCESS_KEY", "****************"),
        ("AWS_SESSION_TOKEN", "hunter2\r\nx-amz-acl: public-read"),
        ("AWS_SESSION_TOKEN", "hunter2\u00e4"),
    ],
)
def test_a_variable_that_can_not_sign_a_request(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: ") as caught:
        _ = source({**AWS, name: value})
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


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
    assert current(held, clock) in {"KEY1", "KEY2"}, "nobody waits while the keys are valid"
    settle(held)
    assert current(held, clock) == "KEY2"


def test_short_lived_keys_are_used_for_half_their_life() -> None:
    clock = Clock()
    chain = Chain(clock, lifetime=60)
    held = ChainCredentials(chain)
    for _ in range(10):
        assert current(held, clock) == "KEY1"
        clock.time += 2.9
    clock.time += 2
    _ = current(held, clock)
    settle(held)
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
    assert current(held, clock) == "KEY1"
    settle(held)
    assert [current(held, clock) for _ in range(3)] == ["KEY1"] * 3
    assert clock.hops == hops + 1, "the next try comes halfway to the expiry"
    assert "could not be renewed yet: the chain failed" in caplog.text
    clock.time += 10 * 60
    with pytest.raises(ConfigError, match="the chain failed"):
        _ = current(held, clock)
    chain.failing = False
    assert current(held, clock) == "KEY2"


@pytest.mark.parametrize("hours", [0.8, 12])
def test_a_wall_clock_that_is_set_forward_does_not_end_valid_keys(hours: float) -> None:
    """botocore takes new ones for expired, too, as long as the clock is wrong."""
    clock = Clock()
    chain = Chain(clock)
    held = ChainCredentials(chain)
    assert current(held, clock) == "KEY1"
    clock.step(hours * HOUR)
    chain.failing = True
    assert current(held, clock) == "KEY1"
    settle(held)
    hops = clock.hops
    assert [current(held, clock) for _ in range(3)] == ["KEY1"] * 3
    assert clock.hops == hops, "the next try comes halfway to the expiry"
    clock.step(-hours * HOUR)
    clock.time += 31 * 60
    assert current(held, clock) == "KEY1"
    clock.time += 30 * 60
    with pytest.raises(ConfigError, match="the chain failed"):
        _ = current(held, clock)


def test_after_a_step_forward_keys_are_searched_for_first() -> None:
    """It may have been right: a virtual machine was paused, and its other clock stood still."""
    clock = Clock()
    held = ChainCredentials(Chain(clock))
    assert current(held, clock) == "KEY1"
    clock.step(12 * HOUR)
    assert current(held, clock) == "KEY2"


def test_a_wall_clock_that_is_set_back_does_not_keep_expired_keys() -> None:
    clock = Clock()
    held = ChainCredentials(Chain(clock))
    assert current(held, clock) == "KEY1"
    clock.step(-12 * HOUR)
    assert current(held, clock) == "KEY1"
    clock.time += HOUR
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
        clock = LoopClock()
        chain = Chain(clock)
        held = ChainCredentials(chain)
        _ = await held.current(clock.context)
        clock.time += 50 * 60
        chain.entered.clear()
        chain.go_on.clear()
        hops = clock.hops
        found = [await held.current(clock.context) for _ in range(50)]
        assert {each.access_key for each in found} == {"KEY1"}
        assert clock.hops == hops + 1, "one search, and nobody waits for it"
        chain.go_on.set()
        settle(held)
        assert (await held.current(clock.context)).access_key == "KEY2"
        assert chain.runs == 2

    asyncio.run(run())


def test_many_tasks_wait_for_one_chain() -> None:
    async def run() -> None:
        clock = LoopClock()
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


def test_importing_credentials_does_not_import_botocore() -> None:
    check = "import sys, blockyard.s3.credentials; sys.exit('botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
