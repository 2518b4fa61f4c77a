"""Times as datetimes in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

# a day within what a datetime can hold, so that any time zone can show them
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)


def utc(seconds: float) -> datetime:
    """The datetime of `seconds` since the epoch, clamped to `EARLIEST` and `LATEST`.

    File systems may hold times outside of the years 1 to 9999.
    """
    if seconds < _FIRST:
        return EARLIEST
    return datetime.fromtimestamp(seconds, UTC) if seconds <= _LAST else LATEST


_FIRST = datetime(1, 1, 1, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
