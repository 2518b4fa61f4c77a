"""How long one exchange may wait: the idle timeout, the deadline, and the errors they end in."""

from __future__ import annotations

from dataclasses import dataclass

from blockyard.errors import DeadlineExceededError, TransportTimeoutError
from blockyard.transport.clock import monotonic

_SUSPICIOUS = 1.0
"""Seconds of silence; a service that takes its time is often slower, and loses little by it."""


@dataclass(slots=True, eq=False)
class Timeouts:
    """The idle timeout in seconds, and the deadline on the monotonic clock."""

    idle: float
    deadline: float | None

    def check(self) -> None:
        """Raise `DeadlineExceededError` once the deadline has passed."""
        if self.deadline is not None:
            _ = self.wait()

    def wait(self) -> float:
        """Seconds that the next wait may last. Raises once the deadline has passed."""
        if self.deadline is None:
            return self.idle
        remaining = self.deadline - monotonic()
        if remaining <= 0:
            raise DeadlineExceededError("the deadline of this call has passed")
        return min(self.idle, remaining)

    def remaining(self) -> float | None:
        """Seconds until the deadline, 0 once it has passed; None without one."""
        if self.deadline is None:
            return None
        return max(self.deadline - monotonic(), 0.0)

    def looks_dead(self, sent: float) -> bool:
        """Whether a connection on which nothing has come since `sent` may not be alive."""
        return monotonic() - sent >= min(self.idle, _SUSPICIOUS)

    def expired(
        self, what: str, seconds: float, *, established: bool = True
    ) -> TransportTimeoutError:
        """The error for a wait that ended with nothing to show."""
        if self.deadline is not None and monotonic() >= self.deadline - 0.001:
            message = f"the deadline of this call passed while {what}"
            return DeadlineExceededError(message, established=established)
        return TransportTimeoutError(f"{what} for {seconds:g} s", established=established)
