"""
Tests of the extensions about time: DELIVERBY, RRVS and FUTURERELEASE.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from smtpsvc import ByMode, DeliverBy, Role, RRVSAction, ValidSince
from smtpsvc.extensions.deliverby import DELIVERBY, parse_by
from smtpsvc.extensions.futurerelease import BOTH, FutureRelease, parse_hold_for
from smtpsvc.extensions.rrvs import parse_rrvs
from smtpsvc.grammar import replies
from smtpsvc.grammar.datetimes import format_date_time
from tests.extended import ParameterTestCase, extended, keywords
from tests.support import given, st

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DeliverByTests(ParameterTestCase):
    """DELIVERBY (RFC 2852): BY on MAIL."""

    enable = "DELIVERBY"

    def test_values(self) -> None:
        """BY is a time, a mode and perhaps a trace, in any case."""
        cases = {
            "BY=600;R": DeliverBy(600, ByMode.RETURN),
            "by=+600;r": DeliverBy(600, ByMode.RETURN),
            "BY=120;N": DeliverBy(120, ByMode.NOTIFY),
            "BY=-120;NT": DeliverBy(-120, ByMode.NOTIFY, True),
            "BY=0;n": DeliverBy(0, ByMode.NOTIFY),
            "BY=1;Rt": DeliverBy(1, ByMode.RETURN, True),
            "BY=999999999;R": DeliverBy(999999999, ByMode.RETURN),
            "BY=000000001;R": DeliverBy(1, ByMode.RETURN),
        }
        for text, value in cases.items():
            with self.subTest(text):
                self.assertEqual(self.mail(text), (replies.SENDER_OK, {"BY": value}))

    def test_malformed(self) -> None:
        """Everything else is 501 5.5.4."""
        values = (
            "", "600", "600;", ";R", "600;X", "600;RN", "600;T", "600;RTT", "600R", "1000000000;R", "1.5;R", "--1;N",
            "+;N", "600;R;T", "６;N",
        )  # fmt: skip
        for value in values:
            with self.subTest(value):
                self.check_malformed(self.mail(f"BY={value}")[0])
        self.check_malformed(self.mail("BY")[0])

    def test_no_time_to_return(self) -> None:
        """A time of 0 or less is refused with R: 501 5.5.4."""
        for value in ("0;R", "-1;R", "-0;RT"):
            with self.subTest(value):
                self.check_malformed(self.mail(f"BY={value}")[0])

    def test_minimum(self) -> None:
        """The minimum is announced, and less than it is 555 5.5.4 with R; with N any time is taken."""
        self.assertIn("DELIVERBY 600", keywords(extended(None, "DELIVERBY:600")))
        cases = {"BY=599;R": (555, "5.5.4"), "BY=600;R": (250, "2.1.0"), "BY=1;N": (250, "2.1.0")}
        for text, code in cases.items():
            with self.subTest(text):
                reply, _ = self.mail(text, "DELIVERBY:600")
                self.assertEqual((reply.code, reply.enhanced), code)

    def test_no_minimum(self) -> None:
        """Without a minimum the keyword stands alone."""
        self.assertIn("DELIVERBY", keywords(extended(None, "DELIVERBY")))

    def test_on_mail_only(self) -> None:
        """RCPT has no BY: 555 (RFC 2852 §4)."""
        self.assertEqual(self.rcpt("BY=600;R"), (replies.UNKNOWN_PARAMETER, {}))

    def test_argument(self) -> None:
        """A minimum is a number of at most nine digits."""
        for text in ("x", "-1", "1" * 10):
            self.assertRaises(ValueError, DELIVERBY().configured, text)

    @given(st.integers(-999999999, 999999999), st.sampled_from("NRnr"), st.sampled_from(["", "T", "t"]))
    def test_any(self, seconds: int, mode: str, trace: str) -> None:
        """What the grammar makes is read as it was meant."""
        text = f"{seconds};{mode}{trace}"
        if mode in "Rr" and seconds <= 0:
            self.assertRaises(ValueError, parse_by, text)
        else:
            self.assertEqual(parse_by(text), DeliverBy(seconds, ByMode(mode.upper()), bool(trace)))

    @given(st.text("0123456789+-;NRTnrt ", max_size=16))
    def test_anything(self, text: str) -> None:
        """Any text is a time that can be kept, or a ValueError."""
        try:
            by = parse_by(text)
        except ValueError:
            return
        self.assertTrue(by.mode is ByMode.NOTIFY or by.seconds > 0)


class RRVSTests(ParameterTestCase):
    """RRVS (RFC 7293): on RCPT."""

    enable = "RRVS"

    def test_values(self) -> None:
        """RRVS is a time, and perhaps what to do where it is not known; that is kept."""
        time = datetime(2014, 4, 3, 23, 1, tzinfo=UTC)
        cases = {
            "RRVS=2014-04-03T23:01:00Z": ValidSince(time),
            "rrvs=2014-04-03t23:01:00z;c": ValidSince(time, RRVSAction.CONTINUE),
            "RRVS=2014-04-04T00:01:00+01:00;R": ValidSince(time, RRVSAction.REJECT),
        }
        for text, value in cases.items():
            with self.subTest(text):
                self.assertEqual(self.rcpt(text), (replies.RECIPIENT_OK, {"RRVS": value}))

    def test_malformed(self) -> None:
        """Everything else is 501 5.5.4."""
        time = "2014-04-03T23:01:00Z"
        for value in ("", "2014-04-03", f"{time};", f"{time};X", f"{time};CR", f"{time};C;R", f"{time}C", ";C", "C"):
            with self.subTest(value):
                self.check_malformed(self.rcpt(f"RRVS={value}")[0])
        self.check_malformed(self.rcpt("RRVS")[0])

    def test_on_rcpt_only(self) -> None:
        """MAIL has no RRVS: 555."""
        self.assertEqual(self.mail("RRVS=2014-04-03T23:01:00Z"), (replies.UNKNOWN_PARAMETER, {}))

    def test_announced(self) -> None:
        """The keyword stands alone."""
        self.assertIn("RRVS", keywords(extended(None, "RRVS")))

    @given(st.datetimes(timezones=st.just(UTC)), st.sampled_from(list(RRVSAction)))
    def test_any(self, time: datetime, action: RRVSAction) -> None:
        """What the grammar makes is read as it was meant."""
        text = time.isoformat() + (f";{action.value}" if action.value else "")
        self.assertEqual(parse_rrvs(text), ValidSince(time, action))


class FutureReleaseTests(ParameterTestCase):
    """FUTURERELEASE (RFC 4865): HOLDFOR and HOLDUNTIL on MAIL. The time of these tests is the epoch."""

    enable = "FUTURERELEASE:3600"
    role = Role.SUBMISSION

    def test_announced(self) -> None:
        """The longest time and the latest are announced, and the latest moves on."""
        wire = extended(None, self.enable, role=Role.SUBMISSION)
        self.assertIn("FUTURERELEASE 3600 1970-01-01T01:00:00Z", keywords(wire))
        wire.factory.clock.advance(60)
        self.assertIn("FUTURERELEASE 3600 1970-01-01T01:01:00Z", keywords(wire))

    def test_default(self) -> None:
        """The limit is a week if no other is given."""
        shown = keywords(extended(None, "FUTURERELEASE", role=Role.SUBMISSION))
        self.assertIn("FUTURERELEASE 604800 1970-01-08T00:00:00Z", shown)

    def test_hold_for(self) -> None:
        """HOLDFOR is a number of seconds, up to the limit."""
        for seconds in (1, 3600):
            with self.subTest(seconds):
                self.assertEqual(self.mail(f"HOLDFOR={seconds}"), (replies.SENDER_OK, {"HOLDFOR": seconds}))

    def test_hold_until(self) -> None:
        """HOLDUNTIL is a time in UTC, up to the limit; it may have passed."""
        cases = {
            "1970-01-01T01:00:00Z": EPOCH + timedelta(hours=1),
            "1970-01-01T02:00:00+01:00": EPOCH + timedelta(hours=1),
            "1969-12-31T23:00:00Z": EPOCH - timedelta(hours=1),
        }
        for text, time in cases.items():
            with self.subTest(text):
                self.assertEqual(self.mail(f"HOLDUNTIL={text}"), (replies.SENDER_OK, {"HOLDUNTIL": time}))

    def test_beyond(self) -> None:
        """Beyond the limit either is 554 5.5.4."""
        for text in ("HOLDFOR=3601", "HOLDFOR=999999999", "HOLDUNTIL=1970-01-01T01:00:01Z"):
            with self.subTest(text):
                reply, seen = self.mail(text)
                self.assertEqual((reply.code, reply.enhanced, seen), (554, "5.5.4", {}))

    def test_both(self) -> None:
        """Both at once are 501 5.5.4, even beyond the limit."""
        for text in ("HOLDFOR=60 HOLDUNTIL=1970-01-01T00:01:00Z", "HOLDUNTIL=2026-01-01T00:00:00Z HOLDFOR=60"):
            with self.subTest(text):
                self.assertEqual(self.mail(text), (BOTH, {}))

    def test_malformed(self) -> None:
        """Everything else is 501 5.5.4."""
        for text in ("HOLDFOR", "HOLDFOR=", "HOLDFOR=0", "HOLDFOR=060", "HOLDFOR=-1", "HOLDFOR=+1", "HOLDFOR=1.5",
                     "HOLDFOR=1000000000", "HOLDFOR=1h", "HOLDUNTIL", "HOLDUNTIL=3600", "HOLDUNTIL=1970-01-01",
                     "HOLDUNTIL=1970-01-01T00:00:00", "HOLDFOR=60 HOLDFOR=60"):  # fmt: skip
            with self.subTest(text):
                self.check_malformed(self.mail(text)[0])

    def test_submission_only(self) -> None:
        """Mail from other hosts is not held: the parameters are 555, and nothing is announced."""
        for role in (Role.SMTP, Role.LMTP):
            with self.subTest(role):
                wire = extended(None, "FUTURERELEASE", role=Role.SMTP)
                self.assertFalse([line for line in keywords(wire) if line.startswith("FUTURERELEASE")])
                self.assertEqual(wire.say("MAIL FROM:<> HOLDFOR=60").last_reply, replies.UNKNOWN_PARAMETER)

    def test_limit(self) -> None:
        """A limit that cannot be announced is refused."""
        for longest in (0, -1, 10**9):
            with self.subTest(longest):
                self.assertRaises(ValueError, FutureRelease, longest)

    @given(st.integers(1, 999999999))
    def test_any(self, seconds: int) -> None:
        """Every number that the grammar makes is read."""
        self.assertEqual(parse_hold_for(str(seconds)), seconds)

    def test_text_of_limit(self) -> None:
        """What is announced as latest is taken."""
        latest = format_date_time(3600)
        self.assertEqual(self.mail(f"HOLDUNTIL={latest}")[0], replies.SENDER_OK)
