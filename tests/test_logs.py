"""
Tests of smtpsvc.logs: what of a message reaches the log.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import NULL, Address
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IMonitor
from smtpsvc.logs import LogMonitor, SummaryLog
from smtpsvc.values import Envelope, Peer, Recipient

CLIENT = IPv4Address("TCP", "192.0.2.1", 50000)


def logged(envelope: Envelope, *given: Reply) -> dict[str, Any]:
    """Give the event that a message makes."""
    events: list[dict[str, Any]] = []
    LogMonitor(Logger(observer=events.append)).message(envelope, 1234, 0.5, given)  # type: ignore[arg-type]
    (event,) = events
    return event


def envelope_of(*recipients: str, sender: Address = NULL, helo: str = "client.example") -> Envelope:
    """Make the envelope of a message to some local parts at x.example."""
    peer = Peer(CLIENT, "p-1")
    peer.helo = helo
    envelope = Envelope("m-1", peer, sender)
    envelope.recipients.extend(Recipient(Address(local, "x.example")) for local in recipients)
    return envelope


class LogMonitorTests(SynchronousTestCase):
    """One line for each message."""

    def test_interface(self) -> None:
        """It is a monitor."""
        self.assertTrue(verifyObject(IMonitor, LogMonitor()))

    def test_line(self) -> None:
        """The line says what came from whom, to whom, and what the client was told."""
        event = logged(envelope_of("a", sender=Address("s", "y.example")), replies.OK)
        self.assertEqual(
            formatEvent(event),
            "m-1 250 from 192.0.2.1 ('client.example'): 's@y.example' to 'a@x.example', 1234 bytes, 0.500 s",
        )

    def test_fields(self) -> None:
        """The same is in fields."""
        event = logged(envelope_of("a", "b"), replies.OK, replies.OK)
        fields = {"id": "m-1", "peer_id": "p-1", "host": "192.0.2.1", "code": 250, "recipients": 2, "size": 1234}
        self.assertEqual({name: event[name] for name in fields}, fields)

    def test_several_recipients(self) -> None:
        """The first recipient is named, the others are counted."""
        self.assertIn("'' to 'a@x.example' and 2 more,", formatEvent(logged(envelope_of("a", "b", "c"), replies.OK)))

    def test_worst_reply(self) -> None:
        """Of several replies the worst is told."""
        event = logged(envelope_of("a", "b"), replies.OK, replies.NO_SUCH_USER)
        self.assertEqual(event["code"], 550)

    def test_unix(self) -> None:
        """A client on a unix socket is local."""
        envelope = Envelope("m-1", Peer(UNIXAddress(b""), "p-1"), NULL)
        self.assertIn("from local (", formatEvent(logged(envelope, replies.OK)))

    @given(st.text(), st.text())
    def test_hostile_text(self, helo: str, local: str) -> None:
        """No control character of a client's reaches the log."""
        text = formatEvent(logged(envelope_of(local, sender=Address(local, "x"), helo=helo), replies.OK))
        self.assertTrue(text.isprintable(), text)


class SummaryLogTests(SynchronousTestCase):
    """Many messages, one event."""

    def setUp(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.clock = Clock()
        self.monitor = SummaryLog(self.clock, Logger(observer=self.events.append))  # type: ignore[arg-type]

    def texts(self) -> list[str]:
        """The texts of the events."""
        return [formatEvent(event) for event in self.events]

    def test_interface(self) -> None:
        """It is a monitor."""
        self.assertTrue(verifyObject(IMonitor, self.monitor))

    def test_same_line(self) -> None:
        """A line says what the event of a LogMonitor says."""
        envelope = envelope_of("a", "b", sender=Address("s", "y.example"), helo="\x1b[31m\r\nforged")
        self.monitor.message(envelope, 1234, 0.5, (replies.OK, replies.OK))
        self.monitor.flush()
        self.assertEqual(self.texts(), [formatEvent(logged(envelope, replies.OK, replies.OK))])

    def test_turn(self) -> None:
        """What comes in one turn of the reactor is one event, when the turn is over."""
        for _ in range(3):
            self.monitor.message(envelope_of("a"), 1, 0.0, (replies.OK,))
        self.assertEqual(self.events, [])
        self.clock.advance(0)
        self.assertEqual([text.count("\n") for text in self.texts()], [2])

    def test_gathers(self) -> None:
        """What comes within a tenth of a second of an event is the next event, when that is over."""
        for _ in range(10):
            self.monitor.message(envelope_of("a"), 1, 0.0, (replies.OK,))
            self.clock.advance(0.008)
        self.assertEqual([text.count("\n") for text in self.texts()], [0])
        self.clock.advance(0.03)
        self.assertEqual([text.count("\n") for text in self.texts()], [0, 8])
        self.clock.advance(0.2)
        self.monitor.message(envelope_of("a"), 1, 0.0, (replies.OK,))
        self.clock.advance(0)
        self.assertEqual(len(self.events), 3)

    def test_login(self) -> None:
        """A login that was refused is a line, and one that was not is none."""
        peer = envelope_of("a", helo="\x1b\r\nforged").peer
        for monitor in (self.monitor, LogMonitor(Logger(observer=self.events.append))):  # type: ignore[arg-type]
            monitor.login(peer, "PLAIN", True)
            monitor.login(peer, "PLAIN", False)
        self.monitor.flush()
        line = r"p-1: a login of 192.0.2.1 ('\x1b\r\nforged') by PLAIN was refused"
        self.assertEqual(self.texts(), [line, line])

    def test_bounded(self) -> None:
        """However many come at once, no more than a thousand lines wait."""
        for _ in range(1000):
            self.monitor.message(envelope_of("a"), 1, 0.0, (replies.OK,))
        self.assertEqual(len(self.events), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_flush(self) -> None:
        """At the end nothing waits, and no call is left."""
        self.monitor.message(envelope_of("a"), 1, 0.0, (replies.OK,))
        self.monitor.flush()
        self.monitor.flush()
        self.assertEqual(len(self.events), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
