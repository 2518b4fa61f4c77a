"""Times as datetimes in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

# a day within what a datetime can hold, so that any time zone can show them
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)


def utc(seconds: float) -> datetime:
    """The time so many seconds after the epoch.

    File systems hold times of other years than 1 to 9999, too: these are `EARLIEST` or `LATEST`.
    """
    if seconds < _FIRST:
        return EARLIEST
    return datetime.fromtimestamp(seconds, UTC) if seconds <= _LAST else LATEST


_FIRST = datetime(1, 1, 1, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
