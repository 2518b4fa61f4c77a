"""How long one exchange may wait for the next byte, and which error ends the wait."""

from __future__ import annotations

import time
from dataclasses import dataclass

from blockyard.errors import DeadlineExceededError, TransportTimeoutError


@dataclass(slots=True)
class Patience:
    """The no-progress timeout in seconds, and the deadline on the monotonic clock."""

    no_progress: float
    deadline: float | None

    def wait(self) -> float:
        """Seconds that the next wait may last. Raises once the deadline has passed."""
        if self.deadline is None:
            return self.no_progress
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceededError("the deadline of this call has passed")
        return min(self.no_progress, remaining)

    def remaining(self) -> float | None:
        """Seconds until the deadline, 0 once it has passed; None without one."""
        if self.deadline is None:
            return None
        return max(self.deadline - time.monotonic(), 0.0)

    def ends(self) -> float:
        """When an exchange that begins now will have waited too long, if nothing moves."""
        now = time.monotonic()
        if self.deadline is None:
            return now + self.no_progress
        return now + self.wait()

    def expired(
        self, what: str, seconds: float, *, established: bool = True
    ) -> TransportTimeoutError:
        """The error for a wait that ended with nothing to show."""
        if self.deadline is not None and time.monotonic() >= self.deadline - 0.001:
            message = f"the deadline of this call passed while {what}"
            return DeadlineExceededError(message, established=established)
        return TransportTimeoutError(f"{what} for {seconds:g} s", established=established)
