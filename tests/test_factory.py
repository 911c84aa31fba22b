"""
Tests of smtpsvc.server.factory.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory, IPushProducer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Invalid, implementer
from zope.interface.verify import verifyObject

from smtpsvc.extensions import Extension, defaults
from smtpsvc.grammar import replies
from smtpsvc.interfaces import IDelivery, ISession
from smtpsvc.server.deadlines import MonotonicClock
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.server.protocol import SMTPProtocol
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.settings import Limits, Role, Settings
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, RCPT, Late, lines
from tests.support import HOST, settings_with


class Tarpit(Extension):
    """A third party's extension."""

    keyword = "XTARPIT"


class MakingTests(SynchronousTestCase):
    def test_provides(self) -> None:
        """It is a protocol factory; its protocols take half-closed connections and are push producers."""
        factory, _ = clocked_factory(ScriptedBackend())
        verifyObject(IProtocolFactory, factory)
        protocol = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        verifyObject(IHalfCloseableProtocol, protocol)
        verifyObject(IPushProducer, protocol)

    def test_defaults(self) -> None:
        """With a backend alone it has the default settings, role and extensions, and the system's monotonic clock."""
        factory = SMTPFactory(ScriptedBackend())
        self.assertEqual((factory.settings.limits, factory.role), (Limits(), Role.SMTP))
        first = {"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"}
        self.assertLessEqual(first, factory.tables.keywords)
        self.assertLessEqual(factory.tables.keywords, {extension.keyword for extension in defaults()})
        self.assertIsInstance(factory.clock, MonotonicClock)

    def test_opens_nothing(self) -> None:
        """To make it, or a protocol, starts nothing: the sweep begins with the first connection."""
        calls = list(reactor.getDelayedCalls())  # type: ignore[attr-defined]
        SMTPFactory(ScriptedBackend()).buildProtocol(None)
        self.assertEqual(reactor.getDelayedCalls(), calls)  # type: ignore[attr-defined]
        backend = ScriptedBackend()
        factory, clock = clocked_factory(backend)
        factory.buildProtocol(None)
        self.assertEqual((clock.getDelayedCalls(), factory.connections, backend.calls), ([], set(), []))

    def test_no_backend(self) -> None:
        """What is no IBackend, or lacks a part of one, is refused at once and not by the first client."""
        for wrong in (None, object(), Backend, _Partial()):
            with self.subTest(wrong=wrong):
                self.assertRaises(Invalid, SMTPFactory, wrong, clock=Clock())

    def test_no_extension(self) -> None:
        """So is what is no IExtension, and what is no IMonitor."""
        self.assertRaises(Invalid, SMTPFactory, ScriptedBackend(), extensions=[object()], clock=Clock())
        self.assertRaises(Invalid, SMTPFactory, ScriptedBackend(), monitors=[object()], clock=Clock())

    def test_clash(self) -> None:
        """Two extensions of the same keyword are a ValueError with a sentence."""
        error = self.assertRaises(ValueError, SMTPFactory, ScriptedBackend(), extensions=[Tarpit(), Tarpit()])
        self.assertIn("XTARPIT", str(error))

    def test_backend_limit(self) -> None:
        """The smaller of the backend's and the settings' limits holds; 0 is no limit."""
        for own, setting, limit in ((None, 50, 50), (10, 50, 10), (50, 10, 10), (10, 0, 10), (None, 0, 0)):
            with self.subTest(own=own, setting=setting):
                backend = ScriptedBackend()
                backend.max_message_size = own
                factory, _ = clocked_factory(backend, settings_with(message_size=setting))
                self.assertEqual(factory.settings.limits.message_size, limit)

    def test_settings_are_kept(self) -> None:
        """A backend's limit changes no settings but the factory's own."""
        settings = Settings(hostname=HOST)
        backend = ScriptedBackend()
        backend.max_message_size = 10
        factory, _ = clocked_factory(backend, settings)
        self.assertEqual((settings.limits, factory.settings.hostname), (Limits(), HOST))


class _Partial(Backend):
    """A backend whose open_session is no method."""

    open_session = None  # type: ignore[assignment]


class IdTests(SynchronousTestCase):
    def test_unique(self) -> None:
        """Ids of connections and transactions are all different, of factories made at the same time too."""
        found: set[str] = set()
        for _ in range(100):
            factory, _ = clocked_factory(ScriptedBackend())
            found.update(factory.new_id() for _ in range(100))
        self.assertEqual(len(found), 10_000)

    def test_form(self) -> None:
        """An id is of letters, digits and hyphens: it may stand in replies, headers and file names."""
        factory, _ = clocked_factory(ScriptedBackend())
        for _ in range(100):
            self.assertTrue(re.fullmatch(r"[0-9a-z-]{10,64}", factory.new_id()))

    def test_peer(self) -> None:
        """Each connection's peer has an id of its own."""
        backend = ScriptedBackend()
        factory, _ = clocked_factory(backend)
        for _ in range(3):
            Wire(factory)
        self.assertEqual(len({session.peer.id for session in backend.sessions}), 3)

    def test_each_transaction(self) -> None:
        """Each MAIL has an id of its own, refused ones too."""
        backend = ScriptedBackend(mail=[replies.LOCAL_ERROR])
        Wire(clocked_factory(backend)[0]).greeted().say(MAIL, MAIL, "RSET", MAIL)
        self.assertEqual(len({envelope.id for (envelope,) in backend.called("mail")}), 3)


class ConnectionTests(SynchronousTestCase):
    def test_open_connections(self) -> None:
        """It knows the open connections, and forgets them as they go."""
        factory, _ = clocked_factory(ScriptedBackend())
        wires = [Wire(factory) for _ in range(3)]
        self.assertEqual(factory.connections, {wire.protocol for wire in wires})
        wires[0].hang_up()
        wires[1].say("QUIT")
        self.assertEqual(factory.connections, {wires[2].protocol})

    def test_peer(self) -> None:
        """A session is told where its client is."""
        backend = ScriptedBackend()
        Wire(clocked_factory(backend)[0], IPv4Address("TCP", "203.0.113.9", 4321))
        peer = backend.sessions[0].peer
        self.assertEqual((peer.host, peer.port, peer.helo, peer.extended), ("203.0.113.9", 4321, "", False))

    def test_protocol(self) -> None:
        """A subclass may have a protocol of its own."""

        class Own(SMTPProtocol):
            """A subclass."""

        class OwnFactory(SMTPFactory):
            protocol = Own

        self.assertIsInstance(OwnFactory(ScriptedBackend(), clock=Clock()).buildProtocol(None), Own)

    def test_shut_down(self) -> None:
        """shut_down() tells every client 421 4.3.2, closes, and aborts what was being received."""
        backend = ScriptedBackend()
        factory, _ = clocked_factory(backend, settings_with())
        wires = [Wire(factory).greeted() for _ in range(3)]
        wires[1].say(MAIL)
        wires[2].say(MAIL, RCPT, "DATA", "text")
        factory.shut_down()
        self.assertEqual([wire.last_reply for wire in wires], [replies.SHUTTING_DOWN] * 3)
        self.assertEqual([wire.closed for wire in wires], [True] * 3)
        self.assertEqual(backend.hooks.count("abort"), 1)

    def test_failing_read(self) -> None:
        """An error of ours drops that connection, is logged, and does not touch those that wait for their turn."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with())
        first, second = Wire(factory).greeted(), Wire(factory).greeted()
        first.protocol.conversation = _Failing(first.protocol.conversation, lambda: second.receive(lines("NOOP")))
        first.receive(lines("NOOP"))
        self.assertEqual((first.transport.disconnected, second.codes), (True, [250]))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(second.say("NOOP").codes, [250, 250])


class _Failing:
    """A conversation with an error in it."""

    def __init__(self, conversation: Any, first: Any) -> None:
        self._conversation = conversation
        self._first = first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conversation, name)

    def line_received(self, line: bytes) -> None:
        """Do something, then fail."""
        self._first()
        raise ZeroDivisionError


class VerifyTests(SynchronousTestCase):
    def test_each_class_once(self) -> None:
        """What a backend gives is checked once for each class."""
        looked: list[str] = []

        class Curious(Delivery):
            def __getattribute__(self, name: str) -> Any:
                looked.append(name)
                return super().__getattribute__(name)

        factory, _ = clocked_factory(ScriptedBackend())
        factory.verify(IDelivery, Curious())
        first = len(looked)
        factory.verify(IDelivery, Curious())
        self.assertLess(len(looked) - first, first)

    def test_wrong(self) -> None:
        """What does not provide its interface is refused each time."""
        factory, _ = clocked_factory(ScriptedBackend())
        for _ in range(2):
            self.assertRaises(Invalid, factory.verify, IDelivery, object())

    def test_partial(self) -> None:
        """A class that promises an interface and lacks a method is refused, and nothing worse happens to its client."""

        @implementer(ISession)
        class Partial:
            """Has no hook at all."""

        wire = Wire(clocked_factory(ScriptedBackend(open_session=lambda *_: Partial()))[0])
        self.assertEqual((wire.codes, wire.closed), ([421], True))
        self.assertEqual(len(self.flushLoggedErrors(Invalid)), 1)

    def test_bare_session(self) -> None:
        """A session without a data() of its own takes no mail: 451, logged with a sentence."""
        wire = Wire(clocked_factory(ScriptedBackend(open_session=lambda *_: Session()), settings_with())[0])
        wire.say("EHLO x", MAIL, RCPT, "DATA")
        self.assertEqual(wire.codes, [220, 250, 250, 250, 451])
        (logged,) = self.flushLoggedErrors(TypeError)
        self.assertIn("has no data() of its own", str(logged.value))


class PreviewTests(SynchronousTestCase):
    def test_as_sent(self) -> None:
        """preview() shows what EHLO answers a stranger, without asking the backend."""
        backend = ScriptedBackend()
        factory, clock = clocked_factory(backend, settings_with(), extensions=[*defaults(), Tarpit()])
        preview = factory.preview()
        self.assertEqual((backend.calls, clock.getDelayedCalls()), ([], []))
        output = Wire(factory).forget().say("EHLO x").output
        self.assertEqual(preview, output.decode().splitlines())

    def test_late(self) -> None:
        """It may be asked at any time."""
        factory, _ = clocked_factory(ScriptedBackend(open_session=Late()), settings_with())
        Wire(factory)
        self.assertEqual(factory.preview()[0], f"250-{HOST}")
