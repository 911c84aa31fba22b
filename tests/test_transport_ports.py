"""
Tests of smtpsvc.transport: ports, where they come from, and what they do when there are no descriptors left.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.address import IPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.utils import getProcessOutputAndValue
from zope.interface.verify import verifyObject

from smtpsvc.transport import DirectPort, DirectServerEndpoint
from tests.transports import (
    LOOPBACK,
    Client,
    Direct,
    Served,
    Stock,
    TransportTestCase,
    answer,
    counted,
    nests,
    reactor,
    turns,
    until,
)

#: Makes connections, and closes them when each has had an answer; prints how many there were.
CROWD = """
import resource, socket, struct, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
address, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
crowd = [socket.create_connection(address) for _ in range(count)]
for one in crowd:
    one.sendall(b"go")
answers = sum(one.recv(10) == b"you" for one in crowd)
for one in crowd:
    # With an RST, so that no port stays in TIME_WAIT.
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
print(answers)
"""


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no file."""
    # A socket that nobody holds would be closed meanwhile, and its descriptor taken by the next client.
    gc.collect()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    try:
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)


def ended(one: socket.socket) -> bool:
    """Whether a socket that does not block has come to its end."""
    try:
        return not one.recv(10)
    except BlockingIOError:
        return False


class PortTests:
    """A port."""

    async def test_burst(self: Any) -> None:
        """Many who connect at the same time are all served."""
        port = self.open(data=answer)
        clients = [self.dial(port) for _ in range(40)]
        for client in clients:
            client.say(b"go")
        for client in clients:
            self.assertEqual(await client.receive(3), b"you")
        self.assertEqual(len(self.served), 40)

    async def test_ipv6(self: Any) -> None:
        """It listens on IPv6 too, and its connections know both addresses."""
        served, client = await self.meet(self.open(listen=lambda factory: self.listen(factory, interface="::1")))
        host, peer = served.transport.getHost(), served.transport.getPeer()
        self.assertEqual((type(host), host.host, host.port), (IPv6Address, *client.socket.getpeername()[:2]))
        self.assertEqual((type(peer), peer.host, peer.port), (IPv6Address, *client.socket.getsockname()[:2]))

    async def test_busy(self: Any) -> None:
        """A port that is in use is an error that names it."""
        taken = self.open().getHost().port
        error = self.assertRaises(CannotListenError, self.listen, Factory(), port=taken)
        self.assertEqual((error.interface, error.port), (LOOPBACK, taken))

    async def test_interface(self: Any) -> None:
        """It provides what Twisted's does."""
        verifyObject(IListeningPort, self.open())

    async def test_refused(self: Any) -> None:
        """A client for whom the factory makes no protocol sees the end."""

        class Refusing(Factory):
            noisy = False

            def buildProtocol(self, address: Any) -> None:
                return None

        self.ports.append(self.listen(Refusing()))
        self.assertEqual(await self.dial(self.ports[0]).rest(), b"")

    async def test_stopped(self: Any) -> None:
        """When it is closed, its connections go on, and nobody else is taken."""
        port = self.open(data=answer)
        _, client = await self.meet(port)
        address = port.getHost()
        await port.stopListening()
        client.say(b"go")
        self.assertEqual(await client.receive(3), b"you")
        self.assertRaises(ConnectionRefusedError, Client, address)

    async def test_no_descriptors(self: Any) -> None:
        """Without a descriptor for them new clients are turned away; others are served, and nothing spins."""
        port = self.open(data=answer)
        _, client = await self.meet(port)
        late = [socket.socket() for _ in range(3)]
        for one in late:
            self.addCleanup(one.close)
        calls = counted(self, port)
        with no_descriptors():
            for one in late:
                one.connect((LOOPBACK, port.getHost().port))
                one.setblocking(False)
            await until(lambda: all(map(ended, late)), "all are turned away")
            await turns(50)
            client.say(b"go")
            self.assertEqual(await client.receive(3), b"you")
        self.assertLess(calls[0], 10)
        _, client = await self.meet(port)
        client.say(b"go")
        self.assertEqual(await client.receive(3), b"you")


class AdoptedTests(Direct, TransportTestCase):
    """A listening socket that somebody else has opened."""

    def adopt(self, sock: socket.socket) -> Callable[[Factory], Any]:
        """Give a function that listens with a socket."""

        def listen(factory: Factory) -> Any:
            port = DirectPort._fromListeningDescriptor(reactor, sock.fileno(), sock.family, factory)
            port.startListening()
            return port

        return listen

    def bound(self, host: str) -> socket.socket:
        """Open a listening socket that blocks."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.addCleanup(sock.close)
        sock.bind((host, 0))
        sock.listen()
        return sock

    async def test_served(self) -> None:
        """Its clients are served, with TCP_NODELAY, over IPv4 and IPv6; addresses are of its family."""
        for host in (LOOPBACK, "::1"):
            with self.subTest(host=host):
                sock = self.bound(host)
                port = self.open(listen=self.adopt(sock), data=answer)
                self.assertEqual((port.getHost().host, port.getHost().port), sock.getsockname()[:2])
                served, client = await self.meet(port)
                client.say(b"go")
                self.assertEqual(await client.receive(3), b"you")
                self.assertTrue(served.do("getTcpNoDelay"))
                self.assertEqual(served.transport.getPeer().host, host)
                self.assertEqual(served.transport.getPeer().port, client.socket.getsockname()[1])
                self.assertEqual(served.transport.getHost(), port.getHost())

    async def test_any(self) -> None:
        """One on all addresses of IPv6 is of that family also if it has IPv4 clients."""
        sock = self.bound("::")
        port = self.open(listen=self.adopt(sock), data=answer)
        self.assertIsInstance(port.getHost(), IPv6Address)
        client = socket.create_connection((LOOPBACK, sock.getsockname()[1]))
        self.addCleanup(client.close)
        await until(lambda: self.served and self.served[0].events, "it is accepted")
        self.assertEqual(self.served[0].transport.getPeer().host, "::ffff:127.0.0.1")

    async def test_not_blocking(self) -> None:
        """Two that have it do not wait for each other, whoever is first to accept."""
        sock = self.bound(LOOPBACK)
        ports = [self.open(listen=self.adopt(sock), data=answer) for _ in range(2)]
        self.assertFalse(os.get_blocking(sock.fileno()))
        for _ in range(20):
            _, client = await self.meet(ports[0])
            client.say(b"go")
            self.assertEqual(await client.receive(3), b"you")
        self.assertEqual(len(self.served), 20)

    async def test_survives(self) -> None:
        """When the port is closed, the socket still listens for others."""
        sock = self.bound(LOOPBACK)
        await self.open(listen=self.adopt(sock)).stopListening()
        port = self.open(listen=self.adopt(sock), data=answer)
        _, client = await self.meet(port)
        client.say(b"go")
        self.assertEqual(await client.receive(3), b"you")


class DirectPortTests(PortTests, Direct, TransportTestCase):
    async def test_busy_is_clean(self) -> None:
        """Where it could not listen, nothing is left in the reactor."""
        with socket.socket() as taken:
            taken.bind((LOOPBACK, 0))
            taken.listen()
            number = taken.getsockname()[1]
            self.assertRaises(CannotListenError, self.listen, Factory(), port=number)
            endpoint = DirectServerEndpoint(reactor, number, interface=LOOPBACK)
            await self.assertFailure(endpoint.listen(Factory()), CannotListenError)
        self.assertEqual(nests(), [])

    async def test_endpoint(self) -> None:
        """The endpoint listens with it."""
        endpoint = DirectServerEndpoint(reactor, 0, interface=LOOPBACK)
        verifyObject(IStreamServerEndpoint, endpoint)
        served, client = await self.meet(
            self.open(listen=lambda factory: self.successResultOf(endpoint.listen(factory)), data=answer)
        )
        client.say(b"go")
        self.assertEqual(await client.receive(3), b"you")
        self.assertIsInstance(self.ports[0], DirectPort)
        self.assertTrue(served.do("getTcpNoDelay"))

    async def test_again(self) -> None:
        """Closed, it can listen again."""
        port = self.open(data=answer)
        await port.stopListening()
        port.startListening()
        _, client = await self.meet(port)
        client.say(b"go")
        self.assertEqual(await client.receive(3), b"you")

    async def test_crowd(self) -> None:
        """10,000 connections are open at the same time and served, and none is left behind."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        count = min(10_000, hard - 200)
        before = len(os.listdir("/proc/self/fd"))
        open_ones, peak = [0], [0]

        def made(served: Served) -> None:
            open_ones[0] += 1
            peak[0] = max(peak[0], open_ones[0])

        def lost(served: Served) -> None:
            open_ones[0] -= 1

        port = self.open(made=made, data=answer, lost=lost)
        arguments = ["-c", CROWD, LOOPBACK, str(port.getHost().port), str(count)]
        output, errors, status = await getProcessOutputAndValue(sys.executable, arguments)
        self.assertEqual((output, errors, status), (b"%d\n" % count, b"", 0), f"hard limit of descriptors: {hard}")
        await until(lambda: not open_ones[0], "all are lost")
        self.assertEqual(peak[0], count)
        # One more than before: the nest's and the port's are two, and /proc's listing was one itself.
        self.assertLess(len(os.listdir("/proc/self/fd")), before + 5)


class StockPortTests(PortTests, Stock, TransportTestCase):
    pass
