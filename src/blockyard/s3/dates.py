"""The forms in which S3 writes an instant: HTTP's in headers, ISO 8601 in XML."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)}
_OLD_FORMS = (
    re.compile(  # RFC 850, with the name of the day in full and a year of two digits
        r"[A-Z][a-z]{5,8}, (?P<day>\d\d)-(?P<month>[A-Z][a-z]{2})-(?P<year>\d\d) "
        r"(?P<time>[\d:]{8}) GMT",
        re.ASCII,
    ),
    re.compile(  # C's asctime
        r"[A-Z][a-z]{2} (?P<month>[A-Z][a-z]{2}) (?P<day>[ \d]\d) "
        r"(?P<time>[\d:]{8}) (?P<year>\d{4})",
        re.ASCII,
    ),
)
_CENTURY_BEGINS = 70
"""Years of two digits from here on are those of the last century, as in POSIX."""


def http_date(text: str) -> datetime | None:
    """The instant in a header such as `Last-Modified`, None when it is in no form of HTTP's.

    The form is IMF-fixdate, `Sun, 06 Nov 1994 08:49:37 GMT`, which senders must use; the two
    that are obsolete have to be understood too.
    https://www.rfc-editor.org/rfc/rfc9110#name-date-time-formats
    """
    month = _MONTH_NUMBERS.get(text[8:11])
    if month is None or len(text) != 29 or not text.endswith(" GMT"):
        return _old_date(text)
    return iso_date(f"{text[12:16]}-{month:02}-{text[5:7]}T{text[17:25]}Z")


def _old_date(text: str) -> datetime | None:
    for form in _OLD_FORMS:
        match = form.fullmatch(text)
        month = _MONTH_NUMBERS.get(match["month"]) if match else None
        if match is None or month is None:
            continue
        year = int(match["year"])
        if year < 100:
            year += 1900 if year >= _CENTURY_BEGINS else 2000
        return iso_date(f"{year:04}-{month:02}-{int(match['day']):02}T{match['time']}Z")
    return None


def iso_date(text: str) -> datetime | None:
    """The instant in an XML field such as `LastModified`, in UTC; None when it is no date.

    The form is ISO 8601; a date without a zone is taken as UTC, as S3 means it.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is UTC:
            return moment
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
