"""
Tests of smtpsvc.events: what happens, as events with fields.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.events import EVENTS, NAMED, QUIET, EventMonitor
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IMonitor, IRoleMonitor
from smtpsvc.jsonlines import encode_event
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account, Peer
from tests.hooks import MAIL, RCPT
from tests.support import settings_with


class EventTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.clock = Clock()
        logger = Logger(namespace="smtpsvc", observer=self.events.append)  # type: ignore[arg-type]
        self.monitor = EventMonitor(logger, self.clock.seconds)

    def wire(self, backend: ScriptedBackend | None = None, role: Role = Role.SMTP, **settings: Any) -> Wire:
        """Connect to a server that is watched."""
        factory, _ = clocked_factory(
            backend or ScriptedBackend(), settings_with(**settings), role=role, monitors=[self.monitor]
        )
        return Wire(factory)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The fields of the events of a kind."""
        return [
            {name: value for name, value in event.items() if not name.startswith("log_")}
            for event in self.events
            if event["event"] == kind
        ]

    def test_interface(self) -> None:
        """It is a monitor, and so is what it gives for a role."""
        verifyObject(IRoleMonitor, self.monitor)
        verifyObject(IMonitor, self.monitor.serving(Role.SMTP))

    def test_message(self) -> None:
        """A message has its id, its result, its reply, its client and its envelope."""
        self.wire(role=Role.LMTP).say("LHLO c.example", MAIL, RCPT, RCPT, "DATA", "text", ".")
        [found] = self.of("message")
        expected = {
            "result": "taken",
            "code": 250,
            "reply": f"250 2.0.0 OK, taken as {found['id']}",
            "host": "192.0.2.1",
            "port": 50000,
            "helo": "c.example",
            "role": "lmtp",
            "tls": None,
            "account": None,
            "size": 6,
            "recipient_count": 2,
        }
        self.assertEqual({name: found[name] for name in expected}, expected)
        self.assertEqual(len(found["recipients"]), 2)

    def test_results(self) -> None:
        """The result says what the client was told, and the reply is the worst."""
        backend = ScriptedBackend(finish=[Reply(451, "x"), Reply(550, "x"), [None, Reply(450, "y")]])
        wire = self.wire(backend, Role.LMTP).say("LHLO x", MAIL, RCPT, "DATA", ".", MAIL, RCPT, "DATA", ".")
        wire.say(MAIL, RCPT, RCPT, "DATA", ".")
        self.assertEqual([event["result"] for event in self.of("message")], ["deferred", "refused", "partly"])
        self.assertEqual([event["code"] for event in self.of("message")], [451, 550, 450])

    def test_many_recipients(self) -> None:
        """Of many recipients the first are named, and all are counted."""
        self.wire(recipients=1000).say("EHLO x", MAIL, *[RCPT] * (NAMED + 5), "DATA", ".")
        [found] = self.of("message")
        self.assertEqual((len(found["recipients"]), found["recipient_count"]), (NAMED, NAMED + 5))

    def test_session(self) -> None:
        """A session says how long it was, how many messages came, and how it ended."""
        wire = self.wire().say("EHLO c.example", MAIL, RCPT, "DATA", ".")
        self.clock.advance(5)
        wire.say("QUIT")
        [found] = self.of("session")
        self.assertEqual((found["seconds"], found["messages"], found["reason"]), (5.0, 1, "ConnectionDone"))

    def test_login(self) -> None:
        """A login says who has logged in, or that nobody has; never with what."""
        monitor = self.monitor.serving(Role.SUBMISSION)
        peer = Peer(None, "p-1")
        monitor.login(peer, "PLAIN", False)
        peer.account = Account("joe")
        monitor.login(peer, "PLAIN", True)
        found = [(event["mechanism"], event["result"], event["account"]) for event in self.of("login")]
        self.assertEqual(found, [("PLAIN", "bad", None), ("PLAIN", "good", "joe")])

    def test_limits(self) -> None:
        """A limit is told once in a while, with how many events were left out."""
        monitor = self.monitor.serving(Role.SMTP)
        peer = Peer(None, "p-1")
        for _ in range(100):
            monitor.limited(peer, "max-errors")
        monitor.limited(peer, "timeout")
        self.clock.advance(QUIET)
        monitor.limited(peer, "max-errors")
        found = [(event["limit"], event["others"]) for event in self.of("limit")]
        self.assertEqual(found, [("max-errors", 0), ("timeout", 0), ("max-errors", 99)])

    def test_documented(self) -> None:
        """Each event has the fields that are documented, and no others."""
        backend = ScriptedBackend()
        wire = self.wire(backend, message_size=3).say("EHLO x", MAIL, RCPT, "DATA", "text", ".")
        self.monitor.serving(Role.SMTP).login(wire.protocol.conversation.peer, "PLAIN", True)
        wire.say("QUIT")
        self.assertEqual({event["event"] for event in self.events}, EVENTS.keys())
        for kind, fields in EVENTS.items():
            self.assertEqual(self.of(kind)[0].keys() - {"event"}, fields.keys(), kind)

    def test_hostile(self) -> None:
        """What a client makes up cannot forge a line, or a field."""
        self.wire().say('EHLO x"}\x1b\u2028{"event":"login', MAIL, RCPT, "DATA", ".")
        for event in self.events:
            found = json.loads(encode_event(event))
            self.assertEqual(found["event"], "message")
            self.assertTrue(formatEvent(event).isprintable())

    def test_nothing_kept(self) -> None:
        """Of a client that has gone nothing is kept."""
        monitor: Any = self.monitor.serving(Role.SMTP)
        factory, _ = clocked_factory(ScriptedBackend(), monitors=[monitor])
        Wire(factory).say("QUIT")
        self.assertEqual(monitor._clients, {})
