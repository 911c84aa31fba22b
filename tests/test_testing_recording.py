"""Tests of smtpsvc.testing.recording: a backend that keeps messages for a test to look at."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.checkers import make_portal
from smtpsvc.interfaces import IBackend
from smtpsvc.settings import Settings
from smtpsvc.testing import RecordedMessage, RecordingBackend, Wire, clocked_factory
from smtpsvc.values import TLSInfo
from tests.logins import joes
from tests.support import settings_with

TEXT = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\nFrom: a@x.example\n\n.dots\n..\n"


def recorded(count: int = 1, settings: Settings | None = None) -> tuple[RecordingBackend, Wire]:
    """Send messages to a recording backend."""
    backend = RecordingBackend()
    wire = Wire(clocked_factory(backend, settings or settings_with(add_received=False))[0]).greeted()
    for _ in range(count):
        wire.send("a@x.example", "b@y.example", "c@y.example", content=TEXT)
    return backend, wire


class RecordingTests(SynchronousTestCase):
    def test_interface(self) -> None:
        """It is a backend."""
        self.assertTrue(verifyObject(IBackend, RecordingBackend()))

    def test_message(self) -> None:
        """A message is kept with its envelope, its content as it was sent, and its client."""
        backend, wire = recorded()
        [message] = backend.messages
        self.assertEqual((message.sender, message.recipients), ("a@x.example", ("b@y.example", "c@y.example")))
        self.assertEqual(message.content, TEXT.replace("\n", "\r\n").encode())
        self.assertEqual((message.helo, message.peer.host), ("client.example", "192.0.2.1"))
        self.assertEqual((message.account, message.tls), (None, None))
        self.assertEqual((message.subject, message.text), ("Grüße", ".dots\n..\n"))
        self.assertEqual(message.email["From"], "a@x.example")
        self.assertEqual(wire.codes, [250, 250, 250, 354, 250])

    def test_parameters(self) -> None:
        """The parameters of MAIL, and those of each RCPT, are there, parsed."""
        backend, wire = recorded(0, settings_with(enable={"DSN"}))
        wire.say("MAIL FROM:<> SIZE=3", "RCPT TO:<b@y.example> NOTIFY=NEVER", "RCPT TO:<c@y.example>", "DATA", ".")
        [message] = backend.messages
        self.assertEqual((message.sender, message.params["SIZE"]), ("", 3))
        self.assertEqual([sorted(params) for params in message.recipient_params], [["NOTIFY"], []])
        self.assertIn(b"Received: ", message.content)
        self.assertEqual((message.subject, message.text), ("", ""))

    def test_of_then(self) -> None:
        """TLS, login and name are those of when the message came."""
        backend = RecordingBackend()
        portal = make_portal([joes()])
        wire = Wire(clocked_factory(backend, settings_with(), portal=portal)[0]).greeted().pretend_tls().greeted()
        wire.log_in("joe", "open sesame").send("a@x.example", "b@y.example")
        wire.say("EHLO other.example")
        [message] = backend.messages
        self.assertEqual((message.account, message.helo), ("joe", "client.example"))
        self.assertIsInstance(message.tls, TLSInfo)
        self.assertIn("by joe to b@y.example", repr(message))

    def test_refused(self) -> None:
        """What does not come whole is not there."""
        backend, wire = recorded(0)
        wire.say("MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA", "text").hang_up()
        self.assertEqual((backend.messages, backend.sessions), ([], 1))

    def test_shown(self) -> None:
        """A failure report tells what has come."""
        backend, _ = recorded()
        line = "<RecordedMessage 'Grüße' from a@x.example to b@y.example, c@y.example, 70 bytes>"
        self.assertEqual(repr(backend), f"<RecordingBackend [{line}]>")

    def test_same(self) -> None:
        """Two messages are not equal, though their content is."""
        backend, _ = recorded(2)
        first, second = backend.messages
        self.assertNotEqual(first, second)
        self.assertIsInstance(first, RecordedMessage)
        self.assertEqual(len({first, second}), 2)


class WaitTests(SynchronousTestCase):
    def test_there(self) -> None:
        """One that waits for what is there has it at once."""
        backend, _ = recorded(2)
        self.assertEqual(self.successResultOf(backend.wait_for(1)), backend.messages)

    def test_comes(self) -> None:
        """One that waits for more has it when it has come."""
        backend, wire = recorded()
        two, three = backend.wait_for(2), backend.wait_for(3)
        self.assertNoResult(two)
        wire.send("a@x.example", "b@y.example")
        self.assertEqual(len(self.successResultOf(two)), 2)
        self.assertNoResult(three)

    def test_before_the_reply(self) -> None:
        """It is there before the client hears 250."""
        backend, wire = recorded(0)
        known: list[list[int]] = []
        backend.wait_for(1).addCallback(lambda _: known.append(wire.codes))
        wire.send("a@x.example", "b@y.example")
        self.assertEqual(known, [[250, 250, 354]])

    def test_cancelled(self) -> None:
        """One that waits no longer is forgotten."""
        backend, wire = recorded(0)
        waiting = backend.wait_for(1)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(wire.send("a@x.example", "b@y.example")[-1].code, 250)

    def test_clear(self) -> None:
        """What was cleared does not count."""
        backend, wire = recorded(2)
        backend.clear()
        one = backend.wait_for(1)
        self.assertNoResult(one)
        wire.send("a@x.example", "b@y.example")
        self.assertEqual(len(self.successResultOf(one)), 1)
        self.assertTrue(backend)
