"""
Tests of smtpsvc.server.inspection: limits that lie in the text of a message.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions.chunking import BinaryMIME, Chunking
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.testing import ScriptedBackend, Wire
from tests.hooks import MAIL, RCPT
from tests.support import DialogueTestCase, basics, connect, given, settings_with, st

HOP = b"Received: from a.example by b.example; Fri, 20 Nov 2026 09:30:08 +0000\r\n"


def in_data(backend: Any = None, **limits: Any) -> Wire:
    """Connect, and go on until the 354."""
    return connect(backend, settings_with(**limits)).greeted().say(MAIL, RCPT, "DATA").forget()


def answer(content: bytes, size: int = 0, **limits: Any) -> Reply:
    """Send a message, in pieces of *size* octets if that is not 0; give the reply to its end."""
    wire = in_data(**limits)
    data = content + b".\r\n"
    for start in range(0, len(data), size or len(data)):
        wire.receive(data[start : start + (size or len(data))])
    return wire.last_reply


class ReceivedTests(DialogueTestCase):
    def test_loop(self) -> None:
        """50 Received fields are taken; one more is refused with 554 5.4.6, in whatever pieces they come."""
        for size in (0, 1, 7, 100, 5000):
            with self.subTest(size=size):
                self.assertEqual(answer(HOP * 50 + b"\r\ntext\r\n", size).code, 250)
                self.assertEqual(answer(HOP * 51 + b"\r\ntext\r\n", size), replies.TOO_MANY_HOPS)

    def test_cut(self) -> None:
        """However the octets come, the answer is the same; the delivery is aborted."""
        for hops, code in ((2, 250), (3, 554)):
            data = b"received:x\r\n" * hops + b"\r\nReceived: no field\r\n.\r\n"
            self.check_cuts(lambda: in_data(received=2), data, [code])
        backend = ScriptedBackend()
        in_data(backend, received=2).receive(b"Received: x\r\n" * 3 + b"\r\n.\r\n")
        self.assertIsNotNone(backend.messages[0].aborted)

    def test_case(self) -> None:
        """The case of its letters does not matter (RFC 5322 §2.2)."""
        self.assertEqual(answer(b"RECEIVED: x\r\nreceived: x\r\n\r\n", received=1), replies.TOO_MANY_HOPS)

    def test_others(self) -> None:
        """Fields with other names do not count, and neither do lines of the body or parts of a line."""
        others = b"X-Received: x\r\nReceived-SPF: pass\r\nSubject: Received: x\r\n" * 100
        self.assertEqual(answer(others + b"\r\n" + HOP * 100, received=2).code, 250)

    def test_off(self) -> None:
        """With 0 there is no limit."""
        self.assertEqual(answer(HOP * 500 + b"\r\n", received=0).code, 250)

    def test_own(self) -> None:
        """Our own field does not count."""
        self.assertEqual(answer(HOP + b"\r\n", received=1).code, 250)

    def test_chunks(self) -> None:
        """It holds for BDAT too."""
        extensions = [*basics(), Chunking()]
        wire = connect(settings=settings_with(received=2), extensions=extensions).greeted().say(MAIL, RCPT).forget()
        content = b"Received: x\r\n" * 3
        for octet in content:
            wire.receive(b"BDAT 1\r\n" + bytes([octet]))
        self.assertIn(replies.TOO_MANY_HOPS, wire.receive(b"BDAT 2 LAST\r\n\r\n").replies)


class HeaderTests(SynchronousTestCase):
    def test_size(self) -> None:
        """A header of header_size is taken, an octet more is refused with 552 5.3.4; the body may be of any size."""
        field = b"Subject: " + b"x" * 1000 + b"\r\n"
        for size in (0, 1, 100):
            for limit, code in ((len(field), 250), (len(field) - 1, 552)):
                with self.subTest(size=size, limit=limit):
                    reply = answer(field + b"\r\n" + b"text\r\n" * 1000, size, header_size=limit)
                    self.assertEqual(reply.code, code)
                    if code == 552:
                        self.assertEqual(reply, replies.HEADER_TOO_BIG)

    def test_default(self) -> None:
        """It is 1 MiB."""
        field = b"X: " + b"x" * 995 + b"\r\n"
        self.assertEqual(answer(field * 1048 + b"\r\n").code, 250)
        self.assertEqual(answer(field * 1050 + b"\r\n"), replies.HEADER_TOO_BIG)

    def test_without_end(self) -> None:
        """A message that begins with a field and has no empty line is all header."""
        for size in (0, 1, 7):
            self.assertEqual(answer(b"X: text\r\n" * 100, size, header_size=500), replies.HEADER_TOO_BIG)

    def test_none(self) -> None:
        """One that begins with anything else has no header: it is all body, whatever its lines are."""
        for first in (b"text", b"From joe Mon", b": x", b"x y: z", b" Subject: x", b"n" * 999 + b": x", b"\xc3\xbc: x"):
            for size in (0, 1, 7):
                with self.subTest(first=first, size=size):
                    content = first + b"\r\n" + b"Received: x\r\n" * 50
                    self.assertEqual(answer(content, size, header_size=100, received=10).code, 250)

    def test_empty(self) -> None:
        """A message that begins with an empty line has no header."""
        self.assertEqual(answer(b"\r\n" + b"text\r\n" * 100 + b"\r\n", header_size=10, received=1).code, 250)

    def test_off(self) -> None:
        """With 0 there is no limit."""
        self.assertEqual(answer(b"X: text\r\n" * 400_000, header_size=0).code, 250)


class LineTests(SynchronousTestCase):
    def test_limit(self) -> None:
        """Where there is a limit, a line of so many octets is taken, and one more is refused with 554 5.6.0."""
        for size in (0, 1, 7):
            for length, code in ((100, 250), (101, 554)):
                with self.subTest(size=size, length=length):
                    reply = answer(b"\r\nshort\r\n" + b"x" * length + b"\r\nshort\r\n", size, text_line=100)
                    self.assertEqual(reply.code, code)

    def test_usual(self) -> None:
        """Usually a line may have any length: 998 octets are advice to who writes mail."""
        self.assertEqual(answer(b"\r\n" + b"x" * 1_000_000 + b"\r\n").code, 250)

    @given(st.lists(st.sampled_from([b"\r\n", b"x", b"x" * 9, b"\r\n\r\n"]), max_size=20), st.integers(1, 12))
    def test_chunks(self, pieces: list[bytes], limit: int) -> None:
        """However chunks are cut, also within a CRLF, the longest line decides."""
        content = b"".join(pieces) + b"\r\n"
        longest = max(map(len, content.split(b"\r\n")))
        settings = settings_with(text_line=limit, received=0, header_size=0)
        wire = connect(settings=settings, extensions=[*basics(), Chunking()]).greeted().say(MAIL, RCPT).forget()
        for octet in content:
            wire.receive(b"BDAT 1\r\n" + bytes([octet]))
        wire.receive(b"BDAT 0 LAST\r\n")
        self.assertEqual(replies.TEXT_LINE_TOO_LONG in wire.replies, longest > limit)

    def test_binary(self) -> None:
        """What was declared as BINARYMIME has no lines."""
        extensions = [*basics(), Chunking(), BinaryMIME()]
        wire = connect(settings=settings_with(text_line=10), extensions=extensions).greeted()
        wire.say(MAIL + " BODY=BINARYMIME", RCPT).forget().receive(b"BDAT 1000 LAST\r\n" + b"x" * 1000)
        self.assertEqual(wire.codes, [250])


class OffTests(SynchronousTestCase):
    def test_nothing(self) -> None:
        """Where all are off, content is not looked at."""
        wire = in_data(received=0, header_size=0, text_line=0)
        self.assertIsNone(wire.protocol.conversation.tables.inspect)
