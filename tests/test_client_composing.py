"""Tests of smtpsvc.client.composing: envelopes out of headers, and what is left out of what is sent."""

from __future__ import annotations

import email
import email.policy
import io
from email.message import EmailMessage
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.client.body import Source
from smtpsvc.client.composing import MEMORY, Outgoing, compose, gather, once
from smtpsvc.grammar.addresses import parse_mailbox
from smtpsvc.message.fields import LONGEST_HEADER
from smtpsvc.values import Recipient


def sent(outgoing: Outgoing) -> bytes:
    """Give the octets that go out."""
    return b"".join(Source(outgoing.body()).pieces())  # type: ignore[arg-type]


class EnvelopeTests(SynchronousTestCase):
    """From whom and to whom a message is."""

    def test_header(self) -> None:
        """The header says it where the caller does not."""
        cases = [
            ("From: A <a@x.example>\r\nTo: b@y.example", "a", "b"),
            ("From: a@x.example, c@x.example\r\nSender: s@x.example\r\nTo: b@y.example", "s", "b"),
            ("From: a@x.example\r\nTo: b@y.example,\r\n C <c@y.example>\r\nCC: d@y.example", "a", "bcd"),
            ("From: a@x.example\r\nTo: b@y.example\r\nBcc: c@y.example, b@y.example", "a", "bc"),
            ("From: a@x.example\r\nTo: friends: b@y.example, c@y.example;", "a", "bc"),
            ("From: a@x.example\r\nTo: undisclosed-recipients:;\r\nBcc: b@y.example", "a", "b"),
        ]
        for header, sender, names in cases:
            with self.subTest(header=header):
                outgoing = compose(f"{header}\r\n\r\nx\r\n".encode(), None, None)
                self.assertEqual(outgoing.sender, f"{sender}@x.example")
                self.assertEqual(outgoing.names, [f"{name}@y.example" for name in names])

    def test_resent(self) -> None:
        """A message that was sent on goes to those of the last time only, and theirs alone are its blind copies."""
        header = (
            b"Resent-From: c@x.example\r\nResent-To: d@y.example\r\nResent-Bcc: e@y.example\r\n"
            b"Resent-From: before@x.example\r\nResent-To: before@y.example\r\n"
            b"From: a@x.example\r\nTo: b@y.example\r\nBcc: secret@y.example\r\n\r\n"
        )
        outgoing = compose(header, None, None)
        self.assertEqual((outgoing.sender, outgoing.names), ("c@x.example", ["d@y.example", "e@y.example"]))
        self.assertNotIn(b"cc:", sent(outgoing))

    def test_given(self) -> None:
        """What the caller says counts; who is named twice is one, and parameters stay."""
        bob = Recipient(parse_mailbox("bob@y.example"), {"NOTIFY": "NEVER"})
        outgoing = compose(b"To: x\r\n\r\n", "", [bob, "ann@y.example", "bob@y.example"])
        self.assertEqual((outgoing.sender, outgoing.recipients), ("", [bob, "ann@y.example"]))
        self.assertEqual(compose(b"\r\n", "", "ann@y.example").names, ["ann@y.example"])

    def test_refused(self) -> None:
        """What is no envelope is refused with a sentence, before anything is sent."""
        cases: list[tuple[bytes, Any, Any, str]] = [
            (b"To: b@y.example\r\n\r\n", None, None, "no field From"),
            (b"From: a@x.example\r\n\r\n", None, None, "no recipients"),
            (b"From: a@x.example\r\nTo: b@y.example, nonsense\r\n\r\n", None, None, "To has 'nonsense'"),
            (b"From: nonsense\r\nTo: b@y.example\r\n\r\n", None, None, "From has 'nonsense'"),
            (b"\r\n", "a@x.example", [], "no recipients"),
            (b"\r\n", "a@x.example", "b@y.example\r\nDATA", ""),
            (b"\r\n", "a b", "b@y.example", ""),
            (b"From: a@x.example\r\nTo: \xff\xfe<b@y.example>, ;\r\n\r\n", None, None, "cannot be read as a whole"),
        ]
        for message, sender, recipients, text in cases:
            with self.subTest(message=message), self.assertRaisesRegex(ValueError, text):
                compose(message, sender, recipients)


class ContentTests(SynchronousTestCase):
    """What goes out."""

    MESSAGE = b"From: a@x.example\r\nbcc : b@y.example,\r\n c@y.example\r\nTo: d@y.example\r\n\r\nBcc: in the text\r\n"

    def test_blind(self) -> None:
        """Bcc does not go out, however it is written; every other octet stays as it is."""
        expected = b"From: a@x.example\r\nTo: d@y.example\r\n\r\nBcc: in the text\r\n"
        for message in (self.MESSAGE, bytearray(self.MESSAGE), io.BytesIO(self.MESSAGE)):
            with self.subTest(kind=type(message).__name__):
                self.assertEqual(sent(compose(message, None, None)), expected)

    def test_untouched(self) -> None:
        """A message without it is the very same octets, not a copy."""
        message = b"Subject: x\r\n\r\nBcc: y\r\n"
        self.assertIs(compose(message, "", "a@x.example").content, message)

    def test_file(self) -> None:
        """A file is read from where it stands, as often as needed, by several at once."""
        file = io.BytesIO(b"before" + self.MESSAGE + b"z" * 100_000)
        file.seek(6)
        outgoing = compose(file, None, None)
        one, other = outgoing.body(), outgoing.body()
        pieces: list[list[bytes]] = [[], []]
        while True:
            read = [one.read(1000), other.read(1000)]
            if not any(read):
                break
            for kept, piece in zip(pieces, read, strict=True):
                kept.append(piece)
        self.assertEqual(b"".join(pieces[0]), b"".join(pieces[1]))
        self.assertEqual(b"".join(pieces[0])[-100_000:], b"z" * 100_000)
        self.assertEqual(Source(outgoing.body()).size, len(b"".join(pieces[0])))

    def test_long_header(self) -> None:
        """A header without an end is not read into memory."""
        file = io.BytesIO(b"X: y\r\n" * (LONGEST_HEADER // 4))
        with self.assertRaisesRegex(ValueError, "longer than"):
            compose(file, "", "a@x.example")
        self.assertLess(file.tell(), LONGEST_HEADER + 200_000)

    def test_once(self) -> None:
        """What can be read once is kept in memory while it is small, and in a file that is gone when it is closed."""

        async def pieces(size: int) -> Any:
            for _ in range(size // 1024):
                yield b"x" * 1024

        for size, rolled in ((2048, False), (MEMORY + 4096, True)):
            self.assertTrue(once(pieces(size)))
            kept = self.successResultOf(Deferred.fromCoroutine(gather(pieces(size))))
            self.assertEqual((len(kept.read()), kept._rolled), (size, rolled))
            kept.close()
        self.assertFalse(once(b""))
        self.assertRaises(TypeError, once, "text")
        self.assertRaises(TypeError, once, 5)

    @given(st.binary(max_size=200))
    @settings(max_examples=150, deadline=None)
    def test_random(self, octets: bytes) -> None:
        """No message makes it fail but by a ValueError, and none is changed where nothing is blind."""
        try:
            outgoing = compose(octets, None, None)
        except ValueError:
            return
        if b"bcc" not in octets.lower():
            self.assertEqual(outgoing.content, octets)


class LibraryTests(SynchronousTestCase):
    """Messages of the standard library."""

    def message(self, text: str = "text\n", **fields: str) -> EmailMessage:
        """Make one."""
        made = EmailMessage()
        for name, value in {"From": "a@x.example", "To": "b@y.example", **fields}.items():
            made[name] = value
        made.set_content(text)
        return made

    def test_serialized(self) -> None:
        """It goes out with whole line ends, and with the fields that a message must have."""
        octets = sent(compose(self.message("From here\n.\n"), None, None))
        self.assertEqual(octets.count(b"\n"), octets.count(b"\r\n"))
        self.assertRegex(octets, rb"Date: .*\r\nMessage-ID: <[^>]*@x\.example>\r\n")
        self.assertIn(b"\r\n\r\nFrom here\r\n.\r\n", octets)

    def test_as_it_is(self) -> None:
        """Fields that it has are left alone, and the object too."""
        message = self.message(Date="Fri, 1 Jan 2021 00:00:00 +0000")
        message["Message-ID"] = "<1@x.example>"
        message["Bcc"] = "c@y.example"
        before = message.as_bytes()
        octets = sent(compose(message, None, None))
        self.assertEqual((octets.count(b"Date:"), octets.count(b"Message-ID:"), octets.count(b"Bcc:")), (1, 1, 0))
        self.assertEqual(message.as_bytes(), before)

    def test_international(self) -> None:
        """Names become encoded words; a header goes out in UTF-8 only where an address needs it."""
        octets = sent(compose(self.message(Subject="Grüße", Cc="Jörg <c@y.example>"), None, None))
        self.assertTrue(octets.isascii())
        octets = sent(compose(self.message(Cc="jörg@y.example"), None, None))
        self.assertIn("jörg@y.example".encode(), octets)

    def test_seven_bits(self) -> None:
        """The same can be had in 7 bits."""
        message = self.message()
        message.set_content("é\n", cte="8bit")
        outgoing = compose(message, None, None)
        self.assertFalse(sent(outgoing).isascii())
        assert outgoing.seven_bit is not None
        made = email.message_from_bytes(outgoing.seven_bit(), policy=email.policy.default)
        self.assertTrue(outgoing.seven_bit().isascii())
        self.assertEqual((made.get_content(), made["To"]), ("é\n", "b@y.example"))  # type: ignore[attr-defined]

    def test_old(self) -> None:
        """Messages of the old interface are taken too."""
        message = email.message_from_string("From: a@x.example\nTo: b@y.example\nSubject: x\n\nFrom me\n")
        self.assertIn(b"\r\n\r\nFrom me\r\n", sent(compose(message, None, None)))
