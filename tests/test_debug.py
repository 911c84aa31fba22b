"""
Tests of smtpsvc.backends.debug: what a terminal gets to see.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.backends import debug
from smtpsvc.backends.debug import DebugBackend, make, printable
from smtpsvc.interfaces import IBackend, IDelivery, ISession
from tests.disk import envelope
from tests.test_function import PoolReactor


class DebugTestCase(SynchronousTestCase):
    """A backend that prints to :attr:`output`."""

    def setUp(self) -> None:
        self.output = io.StringIO()
        self.reactor = PoolReactor()
        self.backend = DebugBackend(self.output, self.reactor)

    def deliver(self, *pieces: bytes, id: str = "m1") -> None:
        made = envelope(id, "b@y.example", "c@y.example")
        made.peer.helo = "client.example"
        delivery = self.backend.open_session(made.peer, None).data(made)
        for piece in pieces:
            delivery.write(piece)
            self.reactor.pool.run()
        outcome: Any = delivery.finish()
        self.reactor.pool.run()
        self.assertIsNone(outcome if outcome is None else self.successResultOf(outcome))

    def body(self) -> str:
        """Give what was printed of the content."""
        text = self.output.getvalue()
        return text[text.index("\n\n") + 2 : text.rindex("---------- end of")]


class PrintTests(DebugTestCase):
    """What is printed."""

    def test_message(self) -> None:
        """The envelope comes first, then the content with plain line ends, between markers."""
        self.deliver(b"Subject: x\r\n", b"\r\ntext\r\n")
        self.assertEqual(
            self.output.getvalue(),
            "---------- message m1 ----------\n"
            "Client: 192.0.2.1, client.example\n"
            "Sender: <a@x.example>\n"
            "Recipient: <b@y.example>\n"
            "Recipient: <c@y.example>\n"
            "Size: 20\n"
            "\n"
            "Subject: x\n"
            "\n"
            "text\n"
            "---------- end of m1 ----------\n",
        )

    def test_escapes(self) -> None:
        """What could play tricks on a terminal is shown as an escape."""
        table = {
            b"\x1b[2J": "\\x1b[2J",
            b"a\rb\x08\x07\x00\x7f": "a\\x0db\\x08\\x07\\x00\\x7f",
            b"tab\tstays": "tab\tstays",
            "grüße ☃".encode(): "grüße ☃",
            b"\xff\xc3": "\\xff\\xc3",
            "\x9b31m\xad".encode(): "\\x9b31m\\xad",
            "\u202e\u2028\ufeff".encode(): "\\u202e\\u2028\\ufeff",
            "\U000e0001".encode(): "\\U000e0001",
            b"\r": "\\x0d",
        }
        for content, shown in table.items():
            with self.subTest(content=content):
                self.setUp()
                self.deliver(content)
                self.assertEqual(self.body(), shown + "\n")

    def test_ascii_terminal(self) -> None:
        """A terminal that knows ASCII only gets escapes for the rest."""
        raw = io.BytesIO()
        self.backend = DebugBackend(io.TextIOWrapper(raw, "ascii"), self.reactor)
        self.deliver("grüße\r\n".encode())
        self.assertIn(b"\ngr\\xfc\\xdfe\n", raw.getvalue())

    def test_large(self) -> None:
        """A large message is printed whole, wherever it is cut."""
        content = "é☃ \r\n".encode() * 300_000
        self.deliver(content[: 1024 * 1024 + 1], content[1024 * 1024 + 1 :])
        self.assertEqual(self.body(), content.decode().replace("\r\n", "\n"))

    @given(st.binary(max_size=40), st.integers(1, 5))
    def test_any_piece(self, content: bytes, size: int) -> None:
        """Wherever reading cuts the content, the same is printed, and nothing but text."""
        self.setUp()
        self.deliver(content)
        whole = self.body()
        self.patch(debug, "_PIECE", size)
        self.setUp()
        self.deliver(content)
        self.assertEqual(self.body(), whole)
        self.assertTrue(all(character.isprintable() or character in "\n\t" for character in whole))

    def test_concurrent(self) -> None:
        """Messages that come at the same time are printed one after the other."""
        made = [envelope("m1"), envelope("m2")]
        deliveries = [self.backend.open_session(one.peer, None).data(one) for one in made]
        for delivery, content in zip(deliveries, (b"a" * 700_000, b"b" * 700_000), strict=True):
            delivery.write(content)
        for delivery, content in zip(deliveries, (b"a" * 700_000, b"b" * 700_000), strict=True):
            delivery.write(content)
        for delivery in deliveries:
            delivery.finish()
        self.reactor.pool.run()
        markers = [line for line in self.output.getvalue().splitlines() if line.startswith("-----")]
        self.assertEqual([line.strip("- ") for line in markers], ["message m1", "end of m1", "message m2", "end of m2"])

    def test_printable(self) -> None:
        """Text that is printable stays as it is."""
        self.assertEqual(printable("a b\n\tü"), "a b\n\tü")


class BackendTests(DebugTestCase):
    """The backend itself."""

    def test_interfaces(self) -> None:
        """Backend, session and delivery provide their interfaces."""
        made = envelope()
        session = self.backend.open_session(made.peer, None)
        verifyObject(IBackend, self.backend)
        verifyObject(ISession, session)
        verifyObject(IDelivery, session.data(made))

    def test_make(self) -> None:
        """An argument is refused with a sentence."""
        self.assertIsInstance(make("", self.reactor), DebugBackend)
        self.assertIn("takes no argument", str(self.assertRaises(ValueError, make, "x", self.reactor)))

    def test_standard_output(self) -> None:
        """Messages go to the real standard output, or to the log if that leads nowhere."""
        log = io.StringIO()
        path = self.mktemp()
        closed = io.StringIO()
        closed.close()
        with open(path, "w") as real, open(os.devnull, "w") as nowhere:
            for output, shown in ((real, False), (nowhere, True), (None, True), (closed, True)):
                with self.subTest(output=output):
                    self.backend = DebugBackend(None, self.reactor)
                    log.seek(log.truncate(0))
                    self.patch(sys, "stdout", log)
                    self.patch(sys, "__stdout__", output)
                    self.deliver(b"text")
                    self.assertEqual("text" in log.getvalue(), shown)
        with open(path) as file:
            self.assertIn("text", file.read())
