"""
Tests of smtpsvc.grammar.trace.
"""

from __future__ import annotations

import email
import email.policy
import email.utils
import re

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import NULL, Address
from smtpsvc.grammar.trace import Received, date_time, delivered_to, return_path, with_protocol

DATE = b"Fri, 20 Nov 2026 08:00:00 +0000"
RECIPIENT = Address("r", "x.example")

texts = st.one_of(
    st.text(max_size=300),
    st.text(st.sampled_from('()\\ \r\n\t\0a[].;<>"é\udc80\U0001f4a9'), max_size=300),
    st.text(st.sampled_from("a ()"), max_size=300),
    st.sampled_from(["", "mx.example.org", "192.0.2.1", "2001:db8::1", "[192.0.2.1]", "[IPv6:2001:db8::1]"]),
)
# backslashreplace makes the most of a text of these.
LONG = "\U0010ffff" * 300


def received(
    helo: str = "client.example",
    host: str = "192.0.2.1",
    by: str = "mx.example",
    protocol: str = "ESMTP",
    tls: str = "",
) -> Received:
    """
    Received of a usual connection, but for what is given.
    """
    return Received(helo=helo, host=host, by=by, protocol=protocol, tls=tls)


def unfolded(field: bytes) -> str:
    return field.decode().replace("\r\n\t", " ").removesuffix("\r\n")


def without_comments(text: str) -> str:
    """
    Take comments out from the inside, and with them the spaces before.
    """
    text = re.sub(r"\\.", "", text)
    while "(" in text:
        text, count = re.subn(r" ?\([^()]*\)", "", text)
        if not count:
            raise ValueError(f"parentheses do not match: {text}")
    return text


class ReceivedTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """The field says from whom, by whom, with what, which message, for whom and when, folded."""
        self.assertEqual(
            received().line("4f2a", RECIPIENT, DATE),
            b"Received: from client.example ([192.0.2.1])\r\n"
            b"\tby mx.example with ESMTP id 4f2a\r\n"
            b"\tfor <r@x.example>; Fri, 20 Nov 2026 08:00:00 +0000\r\n",
        )

    def test_several_recipients(self) -> None:
        """Without a recipient the date follows the id."""
        self.assertEqual(
            received().line("4f2a", None, DATE),
            b"Received: from client.example ([192.0.2.1])\r\n"
            b"\tby mx.example with ESMTP id 4f2a;\r\n"
            b"\tFri, 20 Nov 2026 08:00:00 +0000\r\n",
        )

    def test_tls(self) -> None:
        """What protects the connection stands in a comment on a line of its own."""
        field = received(protocol="ESMTPS", tls="TLSv1.3 TLS_AES_256_GCM_SHA384").line("1", None, DATE)
        self.assertIn(b"\r\n\t(using TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n\tby mx.example with ESMTPS id 1;", field)

    def test_from(self) -> None:
        """The client's address is always shown; its name stands as it is only if it is a domain or literal."""
        cases = [
            ("a.example", "192.0.2.1", "a.example ([192.0.2.1])"),
            ("a.example", "2001:db8::1", "a.example ([IPv6:2001:db8::1])"),
            ("a.example", "2001:DB8:0:0::1", "a.example ([IPv6:2001:db8::1])"),
            ("a.example", "fe80::1%eth0", "a.example ([IPv6:fe80::1])"),
            ("a.example", "::ffff:192.0.2.1", "a.example ([192.0.2.1])"),
            ("a.example", "", "a.example (local)"),
            ("a.example", "/run/smtp.sock", "a.example (local)"),
            ("[192.0.2.9]", "192.0.2.1", "[192.0.2.9] ([192.0.2.1])"),
            ("[IPv6:2001:db8::9]", "192.0.2.1", "[IPv6:2001:db8::9] ([192.0.2.1])"),
            ("[192.0.2.9]", "", "unknown (local) (HELO [192.0.2.9])"),
            ("my_host", "192.0.2.1", "[192.0.2.1] ([192.0.2.1]) (HELO my_host)"),
            ("a (b", "192.0.2.1", "[192.0.2.1] ([192.0.2.1]) (HELO a \\(b)"),
            ("a) by evil (", "192.0.2.1", "[192.0.2.1] ([192.0.2.1]) (HELO a\\) by evil \\()"),
            ("a\\", "192.0.2.1", "[192.0.2.1] ([192.0.2.1]) (HELO a\\\\)"),
            ("bücher.example", "192.0.2.1", "[192.0.2.1] ([192.0.2.1]) (HELO b\\\\xfccher.example)"),
            ("a\r\nX: y", "192.0.2.1", "[192.0.2.1] ([192.0.2.1]) (HELO a\\\\x0d\\\\x0aX: y)"),
            ("odd one", "", "unknown (local) (HELO odd one)"),
            ("", "192.0.2.1", "[192.0.2.1] ([192.0.2.1])"),
        ]
        for helo, host, expected in cases:
            with self.subTest(helo=helo, host=host):
                field = received(helo, host).line("1", None, DATE)
                self.assertTrue(unfolded(field).startswith(f"Received: from {expected} by mx.example"), field)

    def test_by(self) -> None:
        """A host name of ours that is no domain is shown in a comment."""
        for by, expected in (("[192.0.2.3]", "[192.0.2.3] ([192.0.2.3])"), ("my_host", "unknown (my_host)")):
            with self.subTest(by=by):
                self.assertIn(f" by {expected} with ", unfolded(received(by=by).line("1", None, DATE)))

    def test_utf8_recipient(self) -> None:
        """A recipient beyond ASCII is named only where the protocol lets the message have UTF-8."""
        recipient = Address("jürgen", "bücher.example")
        self.assertNotIn(b"for", received().line("1", recipient, DATE))
        self.assertIn(
            "\r\n\tfor <jürgen@bücher.example>; ".encode(), received(protocol="UTF8SMTPS").line("1", recipient, DATE)
        )

    def test_unfit_recipient(self) -> None:
        """A recipient that cannot stand in a field is not named."""
        for local in ("", "a\r\nX: y", "a\x85", "a\0", "\udc80", "a" * 2000):
            with self.subTest(local=local):
                self.assertNotIn(b"for <", received(protocol="UTF8SMTP").line("1", Address(local), DATE))

    def test_recipient_with_joiner(self) -> None:
        """A recipient with an invisible character that some scripts need is named."""
        field = received(protocol="UTF8SMTP").line("1", Address("a\u200db", "x.example"), DATE)
        self.assertIn("for <a\u200db@x.example>;".encode(), field)

    def test_long_recipient(self) -> None:
        """A date that finds no room behind the recipient goes to a line of its own."""
        for length in range(20, 62):
            field = received().line("1", Address("r" * length, "example"), DATE)
            self.assertLessEqual(max(map(len, field.split(b"\r\n"))), 78)
            self.assertEqual(b"; " in field, length + len("@example") <= 38, length)

    def test_id(self) -> None:
        """An id is given as an atom."""
        for id, expected in (("A-b_1", "A-b_1"), ("a;b\r\nc", "a-b--c"), ("é", "-"), ("", "-")):
            with self.subTest(id=id):
                self.assertIn(f" id {expected};", unfolded(received().line(id, None, DATE)))

    def test_long_names(self) -> None:
        """Lines fold where the words let them."""
        long = ".".join(["a" * 60] * 4)
        field = received(helo=long, by=long).line("1", RECIPIENT, DATE)
        for line in field.split(b"\r\n"):
            self.assertTrue(len(line) <= 78 or long.encode() == line.strip(), line)

    @given(
        st.tuples(texts, texts, texts, texts, texts),
        texts,
        st.none() | st.builds(Address, texts, texts),
        st.sampled_from(["", "UTF8"]),
    )
    @example((LONG, LONG, LONG, LONG, LONG), LONG, Address(LONG, LONG), "")
    @example(("a" * 2000, "a" * 2000, "a" * 2000, "a" * 2000, "a" * 2000), "a" * 2000, Address("a" * 2000), "")
    @example(("(" * 300, "", "(" * 300, "(" * 300, "(" * 300), "(" * 300, Address("\r\n", "\r\n"), "UTF8")
    def test_any_text(
        self, words: tuple[str, str, str, str, str], id: str, recipient: Address | None, prefix: str
    ) -> None:
        """Whatever goes in, one field comes out, with lines within the limits and no control characters."""
        helo, host, by, protocol, tls = words
        field = received(helo, host, by, prefix + protocol, tls).line(id, recipient, DATE)
        if not protocol.startswith("UTF8") and not prefix:
            self.assertTrue(field.isascii())
        lines = field.decode().split("\r\n")
        self.assertEqual(lines.pop(), "")
        self.assertFalse(re.search("[\x00-\x08\n-\x1f\x7f-\x9f]", "".join(lines)))
        for number, line in enumerate(lines):
            self.assertLessEqual(len(line.encode()), 998)
            self.assertRegex(line, r"\A\t[^ \t]" if number else r"\AReceived: from [^ ]")
        message = email.message_from_bytes(field + b"\r\n", policy=email.policy.SMTP)
        self.assertEqual((message.keys(), message.defects, message.get_payload()), (["Received"], [], ""))

    @given(st.tuples(texts, texts, texts, texts), texts)
    def test_clauses(self, words: tuple[str, str, str, str], id: str) -> None:
        """Whatever goes in, it adds no clause, and the date stands behind the only semicolon."""
        helo, host, by, tls = words
        field = unfolded(received(helo, host, by, "ESMTP", tls).line(id, None, DATE))
        self.assertRegex(
            without_comments(field),
            r"\AReceived: from [\w.:\[\]-]+ by [\w.:\[\]-]+ with ESMTP id [^ ;()]+; [\w,:+ ]{31}\Z",
        )


class WithProtocolTests(SynchronousTestCase):
    def test_names(self) -> None:
        """The name says what the client may have used, by the registered words only."""
        cases = [
            ("", "SMTP"),
            ("tls", "SMTP"),
            ("extended", "ESMTP"),
            ("extended tls", "ESMTPS"),
            ("extended authenticated", "ESMTPA"),
            ("extended tls authenticated", "ESMTPSA"),
            ("lmtp", "LMTP"),
            ("lmtp extended tls", "LMTPS"),
            ("lmtp authenticated", "LMTPA"),
            ("lmtp tls authenticated", "LMTPSA"),
            ("extended utf8", "UTF8SMTP"),
            ("extended utf8 tls", "UTF8SMTPS"),
            ("extended utf8 authenticated", "UTF8SMTPA"),
            ("extended utf8 tls authenticated", "UTF8SMTPSA"),
            ("lmtp utf8", "UTF8LMTP"),
            ("lmtp utf8 tls authenticated", "UTF8LMTPSA"),
        ]
        for words, expected in cases:
            with self.subTest(words=words):
                self.assertEqual(with_protocol(**dict.fromkeys(words.split(), True)), expected)


class DateTimeTests(SynchronousTestCase):
    def test_form(self) -> None:
        """A date is in UTC, with English names and no part of a second."""
        cases = [
            (0, b"Thu, 1 Jan 1970 00:00:00 +0000"),
            (-0.5, b"Wed, 31 Dec 1969 23:59:59 +0000"),
            (1795161600.999, b"Fri, 20 Nov 2026 08:00:00 +0000"),
            (951827696, b"Tue, 29 Feb 2000 12:34:56 +0000"),
        ]
        for seconds, expected in cases:
            with self.subTest(seconds=seconds):
                self.assertEqual(date_time(seconds), expected)

    @given(st.integers(0, 253402300799))
    def test_read_back(self, second: int) -> None:
        """What the standard library reads in a date is the second that went in."""
        self.assertEqual(email.utils.parsedate_to_datetime(date_time(second).decode()).timestamp(), second)

    def test_once_a_second(self) -> None:
        """Within a second the date is made once."""
        self.assertIs(date_time(86400.1), date_time(86400.9))


class FinalDeliveryTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """Return-Path has brackets, for the null sender too; Delivered-To has none."""
        self.assertEqual(return_path(Address("a", "x.example")), b"Return-Path: <a@x.example>\r\n")
        self.assertEqual(return_path(NULL), b"Return-Path: <>\r\n")
        self.assertEqual(delivered_to(Address('"a b"', "x.example")), b'Delivered-To: "a b"@x.example\r\n')
        self.assertEqual(delivered_to(Address("ü", "x.example")), "Delivered-To: ü@x.example\r\n".encode())

    def test_control_characters(self) -> None:
        """An address that would end the field is refused."""
        for local in ("a\r\nX: y", "a\nb", "a\0", "a\x85", "\udc80"):
            with self.subTest(local=local):
                self.assertRaises(ValueError, return_path, Address(local, "x.example"))
                self.assertRaises(ValueError, delivered_to, Address(local, "x.example"))
