"""
Tests of smtpsvc.handover: sockets that one process opens and another accepts on; here both are this process.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from smtpsvc.handover import HandedPorts, HeldPorts
from smtpsvc.listeners import LoopbackEndpoint, places_of
from smtpsvc.transport import DirectPort


class Greeter(Protocol):
    """Says which factory it is of, and closes."""

    factory: Any

    def connectionMade(self) -> None:
        """Speak."""
        transport: Any = self.transport
        transport.write(self.factory.name)
        transport.loseConnection()


def greeter(name: bytes) -> Any:
    """Make a factory whose clients hear *name*."""
    factory: Any = Factory.forProtocol(Greeter)
    factory.name = name
    factory.noisy = False
    return factory


class HandoverTestCase(TestCase):
    def setUp(self) -> None:
        """Hold ports, in a directory that is removed."""
        self.home = Path(tempfile.mkdtemp(prefix="smtpsvc-test-"))
        self.addCleanup(os.rmdir, self.home)
        self.held = HeldPorts(reactor)
        self.opened: list[Any] = []
        self.addCleanup(self.close)

    def close(self) -> Deferred[Any]:
        """Close what was opened."""
        closing = [result for port in self.opened if isinstance(result := port.stopListening(), Deferred)]
        return gatherResults(closing)

    def hold(self, description: str) -> Any:
        """Open a port in the parent."""
        return self.keep(self.successResultOf(serverFromString(self.held, description).listen(greeter(b"parent"))))

    def keep(self, port: Any) -> Any:
        """Have a port closed at the end."""
        self.opened.append(port)
        return port

    def hand(self) -> HandedPorts:
        """Hand over to a child what is open: duplicates, as a process would have."""
        ports = HandedPorts(reactor, [(list(key), os.dup(number)) for key, number in self.held.sockets()])
        self.addCleanup(ports.close)
        return ports

    def accept(self, ports: HandedPorts, description: str, name: bytes) -> Any:
        """Accept in a child."""
        return self.keep(self.successResultOf(serverFromString(ports, description).listen(greeter(name))))

    def greeting(self, family: int, address: Any) -> Deferred[bytes]:
        """Connect, and read what is said until the end."""
        from twisted.internet.threads import deferToThread

        def read() -> bytes:
            with socket.socket(family) as client:
                client.settimeout(20)
                client.connect(address)
                return client.recv(100)

        return deferToThread(read)

    def later(self) -> Deferred[None]:
        """Let the reactor turn a few times."""
        return deferLater(reactor, 0.01, lambda: None)


class TCPTests(HandoverTestCase):
    @inlineCallbacks
    def test_child_serves(self) -> Any:
        """The parent accepts nothing; a client that came before any child is served by the child."""
        port = self.hold("tcp:0:interface=127.0.0.1")
        early = self.greeting(socket.AF_INET, ("127.0.0.1", port.getHost().port))
        yield self.later()
        self.assertNoResult(early)
        child = self.accept(self.hand(), "tcp:0:interface=127.0.0.1", b"child")
        self.assertIsInstance(child, DirectPort)
        self.assertEqual(child.getHost(), port.getHost())
        self.assertEqual((yield early), b"child")

    @inlineCallbacks
    def test_one_ends(self) -> Any:
        """Where one of two children ends, the other serves on; a third joins in."""
        for transport in ("direct", "stock"):
            number = self.hold("tcp:0:interface=127.0.0.1").getHost().port
            handed = [self.hand(), self.hand()]
            for ports in handed:
                ports.transport = transport
            description = "tcp:0:interface=127.0.0.1"
            one, two = (self.accept(ports, description, name) for ports, name in zip(handed, (b"1", b"2"), strict=True))
            yield one.stopListening()
            handed[0].close()
            self.assertEqual((yield self.greeting(socket.AF_INET, ("127.0.0.1", number))), b"2")
            three = self.accept(self.hand(), description, b"3")
            yield two.stopListening()
            self.assertEqual((yield self.greeting(socket.AF_INET, ("127.0.0.1", number))), b"3")
            yield three.stopListening()
            yield self.opened[0].stopListening()
            del self.opened[0]

    def test_again(self) -> None:
        """A child that has closed its port opens it again."""
        number = self.hold("tcp:0:interface=127.0.0.1").getHost().port
        ports = self.hand()
        for _ in range(2):
            child = self.accept(ports, "tcp:0:interface=127.0.0.1", b"child")
            self.assertEqual(child.getHost().port, number)

    def test_two_alike(self) -> None:
        """Two listeners that ask for the same have a socket each."""
        numbers = {self.hold("tcp:0:interface=127.0.0.1").getHost().port for _ in range(2)}
        ports = self.hand()
        children = [self.accept(ports, "tcp:0:interface=127.0.0.1", b"x") for _ in range(2)]
        self.assertEqual({child.getHost().port for child in children}, numbers)

    def test_loopback(self) -> None:
        """Both addresses of this machine are handed over, or the one that it has."""
        parent = self.keep(self.successResultOf(LoopbackEndpoint(self.held, 0).listen(greeter(b""))))
        child = self.keep(self.successResultOf(LoopbackEndpoint(self.hand(), 0).listen(greeter(b""))))
        self.assertEqual(places_of(child), places_of(parent))
        sockets = [(list(key), os.dup(number)) for key, number in self.held.sockets()[:1]]
        only = HandedPorts(reactor, sockets)
        self.addCleanup(only.close)
        child = self.keep(self.successResultOf(LoopbackEndpoint(only, 0).listen(greeter(b""))))
        self.assertEqual(places_of(child), places_of(parent)[:1])

    def test_unknown(self) -> None:
        """What the parent has not opened cannot be listened on."""
        self.failureResultOf(serverFromString(self.hand(), "tcp:1").listen(greeter(b"")), CannotListenError)
        self.failureResultOf(serverFromString(self.hand(), "unix:x").listen(greeter(b"")), CannotListenError)

    @inlineCallbacks
    def test_closed(self) -> Any:
        """A port that the parent has closed is handed to nobody."""
        port = self.hold("tcp:0:interface=127.0.0.1")
        yield port.stopListening()
        self.assertEqual(self.held.sockets(), [])


class UNIXTests(HandoverTestCase):
    def path(self) -> Path:
        """Where the socket is."""
        return self.home / "socket"

    @inlineCallbacks
    def test_one_ends(self) -> Any:
        """A child that ends leaves the socket's path, mode and the other child alone; the parent removes the path."""
        description = f"unix:{self.path()}:mode=600"
        parent = self.hold(description)
        mode = stat.S_IMODE(self.path().stat().st_mode)
        one, two = (self.accept(self.hand(), description, name) for name in (b"1", b"2"))
        self.assertEqual(stat.S_IMODE(self.path().stat().st_mode), mode)
        self.assertEqual(mode, 0o600)
        yield one.stopListening()
        self.assertTrue(self.path().is_socket())
        self.assertEqual((yield self.greeting(socket.AF_UNIX, str(self.path()))), b"2")
        three = self.accept(self.hand(), description, b"3")
        yield two.stopListening()
        self.assertEqual((yield self.greeting(socket.AF_UNIX, str(self.path()))), b"3")
        yield three.stopListening()
        yield parent.stopListening()
        self.assertFalse(self.path().exists())

    @inlineCallbacks
    def test_inherited(self) -> Any:
        """Sockets that the parent was given are handed on, and their paths are left."""
        path = str(self.path())
        self.addCleanup(self.path().unlink)
        for family, address in ((socket.AF_UNIX, path), (socket.AF_INET, ("127.0.0.1", 0))):
            with socket.socket(family) as given:
                given.bind(address)
                given.listen()
                address = given.getsockname()
                number = os.dup(given.fileno())
            endpoint = AdoptedStreamServerEndpoint(self.held, number, family)
            parent = self.successResultOf(endpoint.listen(greeter(b"parent")))
            # The endpoint closes the descriptor that it thinks it has.
            spare = os.open(os.devnull, os.O_RDONLY)
            os.dup2(spare, number)
            os.close(spare) if spare != number else None
            child = self.successResultOf(
                AdoptedStreamServerEndpoint(self.hand(), number, family).listen(greeter(b"child"))
            )
            self.assertEqual((yield self.greeting(family, address)), b"child")
            yield child.stopListening()
            yield parent.stopListening()
        self.assertTrue(os.path.exists(path))
