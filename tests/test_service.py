"""
Tests of smtpsvc.service: listeners and a backend that start and stop together.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from smtpsvc.backends.null import NullBackend
from smtpsvc.listeners import ListenError
from smtpsvc.service import FAREWELL, MailService
from smtpsvc.settings import Role
from smtpsvc.testing import Wire

BUSY = CannotListenError("127.0.0.1", 25, OSError(98, "Address already in use"))


class FakePort:
    """An open port; closing it takes until :attr:`closing` fires."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name
        self.closing: Deferred[None] | None = None

    def stopListening(self) -> Deferred[None] | None:
        """Close."""
        self.log.append(f"{self.name} closed")
        return self.closing


class FakeEndpoint:
    """
    An endpoint without a socket.

    :param log: what happens is told there.
    :param result: what ``listen`` returns, if not a port.
    """

    def __init__(self, log: list[str], name: str = "port", result: Deferred[Any] | None = None) -> None:
        self.log = log
        self.name = name
        self.result = result
        self.port = FakePort(log, name)
        self.factory: Any = None

    def listen(self, factory: Any) -> Deferred[Any]:
        """Open the port."""
        self.factory = factory
        if self.result is not None:
            return self.result
        self.log.append(f"{self.name} open")
        return succeed(self.port)


@implementer(IService)
class ServiceBackend(NullBackend, Service):
    """A backend that is a service."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.error: Exception | None = None
        self.stopping: Deferred[None] | None = None

    def startService(self) -> None:
        """Start, or fail."""
        if self.error is not None:
            raise self.error
        super().startService()
        self.log.append("backend started")

    def stopService(self) -> Deferred[None] | None:
        """Stop."""
        super().stopService()
        self.log.append("backend stopped")
        return self.stopping


class MailServiceTestCase(SynchronousTestCase):
    """A service with a backend that is a service, and a Clock."""

    def setUp(self) -> None:
        """Make them."""
        self.events: list[str] = []
        self.clock = Clock()
        self.backend = ServiceBackend(self.events)
        self.mail = MailService(self.backend, clock=self.clock)

    def endpoint(self, name: str = "port", result: Deferred[Any] | None = None) -> FakeEndpoint:
        """Make an endpoint that is not listening yet."""
        return FakeEndpoint(self.events, name, result)


class StartTests(MailServiceTestCase):
    """How it starts."""

    def test_interface(self) -> None:
        """It is a service."""
        self.assertTrue(verifyObject(IService, self.mail))

    def test_nothing_before(self) -> None:
        """Nothing is opened before it starts."""
        self.mail.listen(self.endpoint())
        self.assertEqual(self.events, [])

    def test_ports_first(self) -> None:
        """Ports open with the privileges, the backend starts after that."""
        self.mail.listen(self.endpoint())
        self.mail.privilegedStartService()
        self.assertEqual(self.events, ["port open"])
        self.mail.startService()
        self.assertEqual(self.events, ["port open", "backend started"])

    def test_start_alone(self) -> None:
        """Where nobody calls ``privilegedStartService`` (twist), ``startService`` opens the ports."""
        self.mail.listen(self.endpoint())
        self.mail.startService()
        self.assertEqual(self.events, ["port open", "backend started"])

    def test_in_application(self) -> None:
        """In a running application it starts at once."""
        application = MultiService()
        application.startService()
        self.mail.listen(self.endpoint())
        self.mail.setServiceParent(application)
        self.assertEqual(self.events, ["port open", "backend started"])

    def test_added_later(self) -> None:
        """A listener that is added while it runs opens at once."""
        self.mail.startService()
        endpoint = self.endpoint()
        self.mail.listen(endpoint)
        self.assertEqual(self.events, ["backend started", "port open"])
        self.assertEqual(self.mail.ports, [endpoint.port])

    def test_roles(self) -> None:
        """Listeners of one role share a factory."""
        one, two, lmtp = self.endpoint(), self.endpoint(), self.endpoint()
        self.mail.listen(one)
        self.mail.listen(two)
        self.mail.listen(lmtp, role=Role.LMTP)
        self.mail.startService()
        self.assertIs(one.factory, two.factory)
        self.assertIs(lmtp.factory.role, Role.LMTP)

    def test_backend_with_parent(self) -> None:
        """A backend that belongs to another service is left to that."""
        backend = ServiceBackend(self.events)
        backend.setServiceParent(MultiService())
        MailService(backend, clock=self.clock).startService()
        self.assertEqual(self.events, [])

    def test_plain_backend(self) -> None:
        """A backend that is no service needs no start."""
        mail = MailService(NullBackend(), clock=self.clock)
        mail.listen(self.endpoint())
        mail.startService()
        self.assertEqual(self.events, ["port open"])

    def test_again(self) -> None:
        """After a stop it can be started again."""
        self.mail.listen(self.endpoint())
        for _ in range(2):
            self.mail.startService()
            self.successResultOf(self.mail.stopService())
        self.assertEqual(self.events, 2 * ["port open", "backend started", "port closed", "backend stopped"])


class FailureTests(MailServiceTestCase):
    """What keeps it from starting leaves nothing behind."""

    def test_all_or_none(self) -> None:
        """If one port cannot be opened, the others are closed, and the backend does not start."""
        self.mail.listen(self.endpoint("first"))
        busy = self.endpoint("second")
        self.mail.listen(busy)
        self.mail.listen(self.endpoint("third"))
        for start in (self.mail.privilegedStartService, self.mail.startService):
            with self.subTest(start.__name__):
                busy.result = fail(BUSY)
                self.events.clear()
                error = self.assertRaises(ListenError, start)
                self.assertEqual(str(error)[:36], "127.0.0.1:25 is in use by another pr")
                self.assertEqual(self.events, ["first open", "first closed"])
                self.assertEqual(self.mail.ports, [])

    def test_own_sentence(self) -> None:
        """A ListenError of the endpoint's is passed on as it is."""
        error = ListenError("--port 25: no")
        self.mail.listen(self.endpoint(result=fail(error)))
        self.assertIs(self.assertRaises(ListenError, self.mail.startService), error)

    def test_listen_raises(self) -> None:
        """An endpoint whose ``listen`` raises is the same as one that fails."""
        endpoint = self.endpoint()
        endpoint.listen = lambda factory: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        self.mail.listen(endpoint)
        error = self.assertRaises(ListenError, self.mail.startService)
        self.assertEqual(str(error), "cannot listen there: ZeroDivisionError: division by zero")

    def test_added_later(self) -> None:
        """A listener that cannot be added to a running service is not added."""
        self.mail.startService()
        self.assertRaises(ListenError, self.mail.listen, self.endpoint(result=fail(BUSY)))
        self.assertEqual(self.mail.bindings, [])

    def test_pending(self) -> None:
        """Where one fails at once, another that is still to come is given up."""
        cancelled: list[object] = []
        self.mail.listen(self.endpoint("slow", Deferred(cancelled.append)))
        self.mail.listen(self.endpoint("busy", fail(BUSY)))
        self.assertRaises(ListenError, self.mail.startService)
        self.assertEqual(len(cancelled), 1)

    def test_late(self) -> None:
        """A port that fails after the start is logged in a sentence; the others stay open."""
        slow: Deferred[Any] = Deferred()
        self.mail.listen(self.endpoint("slow", slow))
        self.mail.listen(self.endpoint("quick"))
        events: list[Any] = []
        self.patch(MailService, "log", _Log(events))
        self.mail.startService()
        slow.errback(BUSY)
        (event,) = events
        self.assertEqual(event["problem"][:35], "127.0.0.1:25 is in use by another p")
        self.assertEqual(len(self.mail.ports), 1)

    def test_backend(self) -> None:
        """If the backend does not start, the ports are closed and its error is passed on."""
        self.backend.error = OSError("no")
        self.mail.listen(self.endpoint())
        sister = ServiceBackend(self.events)
        self.mail.services.insert(0, sister)
        self.assertIs(self.assertRaises(OSError, self.mail.startService), self.backend.error)
        self.assertEqual(self.events, ["port open", "backend started", "port closed", "backend stopped"])
        self.assertFalse(self.mail.running)


class _Log:
    """Keeps the fields of critical events."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events

    def critical(self, form: str, **fields: Any) -> None:
        """Keep an event."""
        self.events.append(fields)


class StopTests(MailServiceTestCase):
    """How it stops: ports, clients, backend, each when the one before is done."""

    def test_order(self) -> None:
        """The backend stops when the ports are closed, and it is done when the backend is."""
        endpoint = self.endpoint()
        endpoint.port.closing = Deferred()
        self.backend.stopping = Deferred()
        self.mail.listen(endpoint)
        self.mail.startService()
        self.events.clear()
        stopped = self.mail.stopService()
        self.assertEqual(self.events, ["port closed"])
        endpoint.port.closing.callback(None)
        self.assertEqual(self.events, ["port closed", "backend stopped"])
        self.assertNoResult(stopped)
        self.backend.stopping.callback(None)
        self.successResultOf(stopped)

    def test_farewell(self) -> None:
        """Clients are told 421 4.3.2, and the backend stops after the last of them."""
        endpoint = self.endpoint()
        self.mail.listen(endpoint)
        self.mail.startService()
        one, two = Wire(endpoint.factory).greeted(), Wire(endpoint.factory).greeted()
        stopped = self.mail.stopService()
        for wire in (one, two):
            self.assertEqual(wire.codes, [421])
            self.assertEqual(wire.last_reply.enhanced, "4.3.2")
            self.assertNoResult(stopped)
            self.assertNotIn("backend stopped", self.events)
            wire.hang_up()
        self.successResultOf(stopped)
        self.assertIn("backend stopped", self.events)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deaf_client(self) -> None:
        """A client that does not take its farewell is dropped after a while."""
        endpoint = self.endpoint()
        self.mail.listen(endpoint)
        self.mail.startService()
        wire = Wire(endpoint.factory).greeted()
        stopped = self.mail.stopService()
        self.clock.advance(FAREWELL)
        self.assertTrue(wire.transport.disconnected)
        wire.hang_up()
        self.successResultOf(stopped)

    def test_no_new_ports(self) -> None:
        """A listener that is added while it stops stays closed."""
        self.backend.stopping = Deferred()
        self.mail.startService()
        self.mail.stopService()
        self.mail.listen(self.endpoint())
        self.assertNotIn("port open", self.events)

    def test_pending_port(self) -> None:
        """A port that is still to come is given up, quietly."""
        cancelled: list[object] = []
        self.mail.listen(self.endpoint("slow", Deferred(cancelled.append)))
        self.mail.startService()
        self.successResultOf(self.mail.stopService())
        self.assertEqual(len(cancelled), 1)

    def test_never_started(self) -> None:
        """A service that was never started stops at once."""
        self.mail.listen(self.endpoint())
        self.successResultOf(self.mail.stopService())
