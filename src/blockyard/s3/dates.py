"""The two forms in which S3 writes an instant: in headers, and in XML."""

from __future__ import annotations

from datetime import UTC, datetime

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)}


def http_date(text: str) -> datetime | None:
    """The instant in a header such as `Last-Modified`, None when it is in no current form.

    The form is IMF-fixdate, `Sun, 06 Nov 1994 08:49:37 GMT`: the one that senders must use.
    https://www.rfc-editor.org/rfc/rfc9110#name-date-time-formats
    """
    month = _MONTH_NUMBERS.get(text[8:11])
    if month is None or len(text) != 29 or not text.endswith(" GMT"):
        return None
    return iso_date(f"{text[12:16]}-{month:02}-{text[5:7]}T{text[17:25]}Z")


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
