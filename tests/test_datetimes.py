"""
Tests of smtpsvc.grammar.datetimes: points in time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.datetimes import format_date_time, parse_date_time
from tests.support import given, st


class ParseTests(SynchronousTestCase):
    """RFC 3339 §5.6, and nothing beside it."""

    def test_good(self) -> None:
        """A date-time is read and given in UTC."""
        cases: dict[str, datetime] = {
            "2026-01-31T12:00:00Z": datetime(2026, 1, 31, 12, tzinfo=UTC),
            "2026-01-31t12:00:00z": datetime(2026, 1, 31, 12, tzinfo=UTC),
            "2026-01-31T12:00:00+01:30": datetime(2026, 1, 31, 10, 30, tzinfo=UTC),
            "2026-01-31T23:30:00-01:00": datetime(2026, 2, 1, 0, 30, tzinfo=UTC),
            "2026-01-31T12:00:00-00:00": datetime(2026, 1, 31, 12, tzinfo=UTC),
            "2026-01-31T12:00:00.5Z": datetime(2026, 1, 31, 12, 0, 0, 500000, tzinfo=UTC),
            "2026-01-31T12:00:00.123456789Z": datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
            "2024-02-29T00:00:00Z": datetime(2024, 2, 29, tzinfo=UTC),
            "0001-01-01T00:00:00Z": datetime(1, 1, 1, tzinfo=UTC),
            "9999-12-31T23:59:59Z": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        }
        for text, time in cases.items():
            with self.subTest(text):
                found = parse_date_time(text)
                self.assertEqual(found, time)
                self.assertIs(found.tzinfo, UTC)

    def test_leap_second(self) -> None:
        """A second 60 is the one after it, where there can be one: at a month's end in UTC (RFC 3339 §5.7)."""
        cases = ("2016-12-31T23:59:60Z", "2017-01-01T00:59:60+01:00", "2016-12-31T15:59:60.75-08:00")
        for text in cases:
            with self.subTest(text):
                self.assertEqual(parse_date_time(text), datetime(2017, 1, 1, tzinfo=UTC))

    def test_bad(self) -> None:
        """Everything else is refused with a sentence that has none of it."""
        cases = (
            "", "now", "2026-01-31", "2026-01-31 12:00:00Z", "2026-01-31T12:00:00", "2026-01-31T12:00Z",
            "26-01-31T12:00:00Z", "2026-1-31T12:00:00Z", "2026-02-30T12:00:00Z", "2025-02-29T00:00:00Z",
            "2026-13-01T12:00:00Z", "2026-00-01T12:00:00Z", "2026-01-00T12:00:00Z", "2026-01-31T24:00:00Z",
            "2026-01-31T12:60:00Z", "2026-01-31T12:00:61Z", "2026-01-31T12:00:60Z", "2016-12-30T23:59:60Z",
            "2026-01-31T12:00:00.Z", "2026-01-31T12:00:00,5Z", "2026-01-31T12:00:00+24:00", "2026-01-31T12:00:00+01:60",
            "2026-01-31T12:00:00+0100", "2026-01-31T12:00:00+01", "2026-01-31T12:00:00ZZ", "-2026-01-31T12:00:00Z",
            "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:60Z", "9999-12-31T23:59:59-01:00",
            "2026-01-31T12:00:00Z\n", "２０２６-01-31T12:00:00Z",
        )  # fmt: skip
        for text in cases:
            with self.subTest(text):
                sentence = str(self.assertRaises(ValueError, parse_date_time, text))
                self.assertRegex(sentence, "^(must be a time|has a second 60)")

    @given(st.datetimes(timezones=st.just(UTC)), st.integers(-23 * 60 - 59, 23 * 60 + 59))
    def test_offsets(self, time: datetime, minutes: int) -> None:
        """What Python writes in any zone is read as the same point in time."""
        try:
            text = time.astimezone(timezone(timedelta(minutes=minutes))).isoformat()
        except OverflowError:
            return
        self.assertEqual(parse_date_time(text), time)

    @given(st.one_of(st.text(), st.text("0123456789-+:.TZtz ", max_size=40)))
    def test_anything(self, text: str) -> None:
        """Any text is a time in UTC or a ValueError."""
        try:
            self.assertIs(parse_date_time(text).tzinfo, UTC)
        except ValueError:
            pass


class FormatTests(SynchronousTestCase):
    """What is announced."""

    def test_format(self) -> None:
        """Seconds since the epoch are written in UTC, without a fraction."""
        self.assertEqual(format_date_time(0), "1970-01-01T00:00:00Z")
        self.assertEqual(format_date_time(1_769_860_800.9), "2026-01-31T12:00:00Z")

    @given(st.integers(0, 4_102_444_800))
    def test_back(self, seconds: int) -> None:
        """What is written is read as the same."""
        self.assertEqual(parse_date_time(format_date_time(seconds)).timestamp(), seconds)
