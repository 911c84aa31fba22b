"""
Tests of smtpsvc.proxied: listening behind a proxy.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from smtpsvc.server.watch import Monitor
from smtpsvc.testing import ScriptedBackend, Wire
from smtpsvc.values import Peer
from tests.proxies import CLIENT, GREETING, INET, INET6, PROXY, TCP4, ProxiedTestCase, block, tlv

SERVER = IPv4Address("TCP", "198.51.100.1", 25)


class HeaderTests(ProxiedTestCase):
    """What happens before, and what comes of it."""

    def test_silence(self) -> None:
        """Nothing is sent and no hook asked until the header is whole, however it is cut."""
        for header in (TCP4, block(INET), block(command=0x20, family=0), b"PROXY UNKNOWN\r\n"):
            wire = self.connect()
            self.backend.calls.clear()
            for place in range(len(header) - 1):
                wire.receive(header[place : place + 1])
                self.assertEqual((wire.output, self.backend.calls), (b"", []))
            wire.receive(header[-1:])
            self.assertEqual((wire.output, self.backend.hooks), (GREETING, ["open_session"]))

    def test_cuts(self) -> None:
        """Commands may follow the header in the same packet, and are answered after the greeting."""
        self.check_cuts(self.connect, TCP4 + b"NOOP\r\nQUIT\r\n", [220, 250, 221])

    def test_client(self) -> None:
        """The backend sees the client that the header names, and who brought it."""
        cases = {
            TCP4: CLIENT,
            b"PROXY TCP6 2001:db8::7 2001:db8::1 50123 25\r\n": IPv6Address("TCP", "2001:db8::7", 50123),
            block(INET): CLIENT,
            block(INET6, family=0x21): IPv6Address("TCP", "2001:db8::7", 50123),
        }
        for header, address in cases.items():
            with self.subTest(header):
                self.connect().receive(header)
                peer = self.peer
                self.assertEqual((peer.address, peer.host, peer.port), (address, address.host, 50123))
                self.assertEqual(peer.proxied_by, PROXY)

    def test_destination(self) -> None:
        """Where the client connected to is known."""
        self.connect().receive(TCP4)
        self.assertEqual(self.peer.destination, SERVER)

    def test_transport(self) -> None:
        """The transport tells the addresses that the client sees."""
        wire = self.connect().receive(TCP4)
        self.assertEqual((wire.transport.getPeer(), wire.transport.getHost()), (CLIENT, SERVER))

    def test_socket_address(self) -> None:
        """Where the header names nobody the socket's address stays."""
        for header in (b"PROXY UNKNOWN\r\n", block(family=0), block(bytes(216), family=0x31), block(INET, family=0x12)):
            with self.subTest(header):
                wire = self.connect().receive(header)
                self.assertEqual((self.peer.address, self.peer.proxied_by), (PROXY, PROXY))
                self.assertEqual(wire.transport.getPeer(), PROXY)

    def test_local(self) -> None:
        """The proxy's own connection is its own."""
        self.connect().receive(block(INET, command=0x20))
        peer = self.peer
        self.assertEqual((peer.address, peer.proxied_by, peer.destination), (PROXY, None, None))
        assert peer.proxy_header is not None
        self.assertTrue(peer.proxy_header.local)

    def test_header(self) -> None:
        """All that the header says is there for hooks."""
        self.connect().receive(block(INET + tlv(5, b"id-1") + tlv(0xEA, b"\1")))
        header = self.peer.proxy_header
        assert header is not None
        self.assertEqual((header.unique_id, header.tlvs), (b"id-1", ((5, b"id-1"), (0xEA, b"\1"))))

    def test_unix(self) -> None:
        """A proxy may come by a unix socket, if unix is trusted."""
        self.make("unix")
        wire = Wire(self.factory, UNIXAddress(None)).receive(TCP4)
        self.assertEqual(wire.output, GREETING)
        self.assertEqual((self.peer.host, self.peer.proxied_by), ("192.0.2.7", UNIXAddress(None)))

    def test_received(self) -> None:
        """Received shows the client."""
        wire = self.connect().receive(TCP4).say("EHLO c.example", "MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA", ".")
        self.assertEqual(wire.codes[-1], 250)
        self.assertIn(b"from c.example ([192.0.2.7])", self.backend.messages[0].content)

    def test_refused_by_backend(self) -> None:
        """The backend's check of the connection meets the client."""
        self.make(backend=ScriptedBackend(open_session=lambda peer, _: None if peer.host == "x" else OSError("no")))
        wire = self.connect().receive(TCP4 + b"NOOP\r\n")
        self.assertEqual((wire.codes, wire.closed), ([421], True))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_once(self) -> None:
        """A second header is no command that anyone knows."""
        wire = self.connect().receive(TCP4).forget().receive(TCP4)
        self.assertEqual(wire.codes, [500])
        self.assertEqual(self.peer.address, CLIENT)


class RefusalTests(ProxiedTestCase):
    """Who is closed, and what the log says."""

    def test_untrusted(self) -> None:
        """A connection from elsewhere is closed at once, with one line."""
        addresses = {
            IPv4Address("TCP", "192.0.2.9", 1): "192.0.2.9:1",
            IPv6Address("TCP", "::1", 2): "[::1]:2",
            UNIXAddress(None): "a client of a unix socket",
            None: "a client of a unix socket",
        }
        for address, shown in addresses.items():
            with self.subTest(shown):
                self.events.clear()
                self.assertIsNone(self.factory.buildProtocol(address))
                self.assertEqual(self.logged, [f"{shown} was closed: it is none of --trusted-proxies"])

    def test_mapped(self) -> None:
        """An IPv4 proxy that comes to a socket for both is known by its IPv4 network."""
        self.assertIsNotNone(self.factory.buildProtocol(IPv6Address("TCP", "::ffff:203.0.113.5", 1)))
        self.assertIsNone(self.factory.buildProtocol(IPv6Address("TCP", "::ffff:192.0.2.9", 1)))

    def test_malformed(self) -> None:
        """A connection without a good header is closed at its first wrong octet, with one line."""
        for data in (b"EHLO x\r\n", b"PROXY TCP4 x y 1 2\r\n", block(INET[:-1]), b"\x16\x03\x01", TCP4[:-2] + b"\n"):
            with self.subTest(data):
                self.events.clear()
                self.backend.calls.clear()
                wire = self.connect().receive(data).receive(TCP4)
                self.assertEqual((wire.output, wire.closed, self.backend.calls), (b"", True, []))
                self.assertEqual(len(self.logged), 1)
                self.assertIn("203.0.113.5:40000 was closed: ", self.logged[0])
                self.assertEqual(self.core.connections, set())

    def test_deadline(self) -> None:
        """A header that is not whole in time closes the connection, with one line; octets are no progress."""
        wire = self.connect()
        for octet in range(29):
            self.clock.advance(1)
            wire.receive(TCP4[octet : octet + 1])
        self.assertFalse(wire.closed)
        for _ in range(3):
            self.clock.advance(1)
        wire.receive(b"")
        self.assertEqual((wire.output, wire.closed), (b"", True))
        self.assertEqual(self.logged, ["203.0.113.5:40000 was closed: no whole PROXY header came within 30 s"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_own_deadline(self) -> None:
        """The wait is a setting."""
        self.make(proxy_timeout=2)
        wire = self.connect()
        for _ in range(8):
            self.clock.advance(0.5)
        self.assertTrue(wire.closed)

    def test_deadline_of_commands(self) -> None:
        """Behind the header the usual deadlines hold."""
        wire = self.connect().receive(TCP4).forget()
        for _ in range(299):
            self.clock.advance(1)
        self.assertEqual(wire.output, b"")
        for _ in range(4):
            self.clock.advance(1)
        self.assertEqual(wire.codes, [421])


class QuietTests(ProxiedTestCase):
    """HAProxy's health checks."""

    def test_connect_only(self) -> None:
        """A check that connects and goes is not logged and asks no hook."""
        self.connect().hang_up()
        self.connect().hang_up(ConnectionDone())
        self.connect().receive(TCP4[:10]).hang_up()
        self.assertEqual((self.logged, self.backend.calls, self.core.connections), ([], [], set()))

    def test_half_closed(self) -> None:
        """One that shuts down its side before the header is closed."""
        wire = self.connect().shut_down_sending()
        self.assertEqual((wire.output, wire.closed, self.logged), (b"", True, []))

    def test_local(self) -> None:
        """A check with LOCAL is served like any client, and not logged."""
        local = block(command=0x20, family=0)
        self.connect().receive(local).hang_up()
        wire = self.connect().receive(local).say("HELO haproxy", "QUIT")
        self.assertEqual((wire.codes, wire.closed), ([220, 250, 221], True))
        self.assertEqual((self.logged, self.core.connections), ([], set()))


class HandOverTests(ProxiedTestCase):
    """After the header nothing of the wrapper is left."""

    def test_handed_over(self) -> None:
        """The transport calls the protocol behind, and nobody keeps the one of the header."""
        wire = self.connect()
        reader = weakref.ref(wire.protocol)
        wire.receive(TCP4)
        self.assertIs(wire.transport.protocol, wire.protocol.successor)
        self.assertIs(wire.transport.producer, wire.protocol.successor)
        wire.protocol = wire.transport.protocol
        gc.collect()
        self.assertIsNone(reader())

    def test_connections(self) -> None:
        """The factory knows of each connection, before and after its header, until it is gone."""
        wire = self.connect()
        self.assertEqual(self.core.connections, {wire.protocol})
        wire.receive(TCP4)
        self.assertEqual(self.core.connections, {wire.protocol.successor})
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        wire.hang_up()
        self.assertEqual((self.core.connections, self.clock.getDelayedCalls()), (set(), []))

    def test_monitors(self) -> None:
        """Monitors hear of clients, not of proxies."""
        seen: list[Any] = []

        class Watching(Monitor):
            def connected(self, peer: Peer) -> None:
                seen.append(peer.address)

            def disconnected(self, peer: Peer, reason: Failure) -> None:
                seen.append(peer.address)

        self.make(monitors=[Watching()])
        self.connect().hang_up()
        self.connect().receive(TCP4).hang_up()
        self.assertEqual(seen, [CLIENT, CLIENT])

    def test_passed_on(self) -> None:
        """A transport that keeps calling the header's protocol is served all the same."""
        protocol = self.factory.buildProtocol(PROXY)
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(TCP4)
        protocol.dataReceived(b"NOOP\r\n")
        self.assertEqual(transport.value(), GREETING + b"250 OK\r\n")
        protocol.readConnectionLost()
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.backend.hooks, ["open_session", "close"])

    def test_half_close(self) -> None:
        """Behind the header a client that has shut down its side still gets its replies."""
        wire = self.connect().receive(TCP4 + b"NOOP\r\n").shut_down_sending()
        self.assertEqual((wire.codes, wire.closed), ([220, 250], True))

    def test_shut_down(self) -> None:
        """When the service ends, a proxy that has sent no header is closed without a word, a client is told."""
        waiting, served = self.connect(), self.connect().receive(TCP4).forget()
        self.core.shut_down()
        self.assertEqual((waiting.output, waiting.closed), (b"", True))
        self.assertEqual((served.codes, served.closed), ([421], True))

    def test_nobody_built(self) -> None:
        """A factory behind that makes no protocol for a client closes its connection."""
        self.core.protocol = lambda *_: None
        wire = self.connect().receive(TCP4)
        self.assertEqual((wire.output, wire.closed), (b"", True))
        self.assertEqual(self.core.connections, set())
