"""
Dates with a time, as the parameters HOLDUNTIL and RRVS have them (RFC 3339 §5.6, ``date-time``).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

__all__ = ["format_date_time", "parse_date_time"]

_DATE_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d++))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII
)
_SECOND = timedelta(seconds=1)


def parse_date_time(text: str) -> datetime:
    """
    Read a point in time.

    :param text: like ``2026-01-31T12:00:00Z`` or ``2026-01-31T12:00:00.25+01:00``.
    :returns: the same point in UTC. Of a fraction, microseconds are kept; a leap second is the second
        that follows it.
    :raises ValueError: for anything that is no ``date-time``, and for a date that does not exist; with
        a sentence for a parser of a parameter to raise.
    """
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError("must be a time like 2026-01-31T12:00:00Z")
    *fields, second, fraction, sign, hours, minutes = match.groups()
    leap = second == "60"
    offset = timedelta(hours=int(hours), minutes=int(minutes)) if sign else timedelta()
    try:
        year, month, day, hour, minute = map(int, fields)
        local = datetime(
            year, month, day, hour, minute, 59 if leap else int(second),
            0 if leap else int((fraction or "")[:6].ljust(6, "0")),
            tzinfo=timezone(-offset if sign == "-" else offset),
        )  # fmt: skip
        time = local.astimezone(UTC)
        if not leap:
            return time
        after = time + _SECOND
    except (ValueError, OverflowError):
        raise ValueError("must be a time that exists, between the years 1 and 9999") from None
    # RFC 3339 §5.7: only the last minute of a month, in UTC, can have a second 60.
    if (after.day, after.hour, after.minute) != (1, 0, 0):
        raise ValueError("has a second 60 where there is none")
    return after


def format_date_time(seconds: float) -> str:
    """
    Write a point in time in UTC.

    :param seconds: since the epoch.
    """
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
