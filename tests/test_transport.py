"""
Tests of smtpsvc.transport: what is written arrives, whole and in order; and what it says of itself.
"""

from __future__ import annotations

import random
import socket
from typing import Any

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    IPushProducer,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
)
from zope.interface.verify import verifyObject

from tests.transports import MUCH, Direct, Served, Stock, TransportTestCase, turns, until

#: A receive buffer that little data fills.
SMALL = 4096


class WritingTests:
    """What the server writes."""

    async def test_slow_reader(self: Any) -> None:
        """16 MiB to a client that reads slowly arrive whole and in order."""
        served, client = await self.connect()
        served.write(MUCH)
        self.assertEqual(await client.receive(len(MUCH), 50_000), MUCH)

    async def test_in_delivery(self: Any) -> None:
        """So they do when they are written while data is delivered."""
        _, client = await self.connect(data=lambda served: served.write(MUCH))
        client.say(b"go")
        self.assertEqual(await client.receive(len(MUCH), 50_000), MUCH)

    async def test_order(self: Any) -> None:
        """Octets leave in the order of the writes: in and out of delivery, before and after a partial send."""
        choose = random.Random(1)
        written = bytearray()

        def write(served: Served) -> None:
            for _ in range(choose.randrange(1, 4)):
                piece = b"%09d;" % len(written) * choose.choice([1, 1, 10, 100, 20_000])
                written.extend(piece)
                if choose.randrange(2):
                    served.write(piece)
                else:
                    served.do("writeSequence", [piece[:1], b"", piece[1:]])

        served, client = await self.connect(room=SMALL, made=write, data=write)
        served.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        arrived = b""
        for _ in range(300):
            if choose.randrange(2):
                client.say(b"go")
            else:
                write(served)
            await turns(choose.randrange(3))
            if choose.randrange(2):
                size = min(len(written) - len(arrived), choose.randrange(400_000))
                arrived += await client.receive(size)
        reads = served.reads
        client.say(b"go")
        await until(lambda: served.reads > reads, "all is delivered")
        served.close()
        arrived += await client.rest()
        self.assertTrue(arrived == written, "not what was written")

    async def test_full(self: Any) -> None:
        """What is written while nothing can be sent waits, and comes behind what waits already."""
        served, client = await self.connect(room=SMALL)
        handle = served.transport.getHandle()
        filled = 0
        with self.assertRaises(BlockingIOError):
            while True:
                filled += handle.send(MUCH)
        served.write(b"the")
        served.write(b" end")
        await turns(5)
        self.assertEqual((await client.receive(filled + 7))[filled:], b"the end")

    async def test_nothing(self: Any) -> None:
        """To write nothing does nothing."""
        served, client = await self.connect(data=lambda served: served.write(b""))
        served.write(b"")
        served.do("writeSequence", [])
        client.say(b"go")
        await until(lambda: served.reads, "data is delivered")
        served.write(b"end")
        self.assertEqual(await client.receive(3), b"end")

    async def test_types(self: Any) -> None:
        """Only bytes can be written; the rest is a TypeError and sends nothing."""
        served, client = await self.connect()
        for wrong in ("text", bytearray(b"array"), memoryview(b"view"), 1, None, ""):
            with self.subTest(wrong=wrong):
                self.assertRaises(TypeError, served.transport.write, wrong)
        self.assertRaises(TypeError, served.transport.writeSequence, [b"x", "text"])
        served.close()
        self.assertEqual(await client.rest(), b"")

    async def test_from_elsewhere(self: Any) -> None:
        """A connection may be written to, and closed, while data of another is delivered."""
        port = self.open(data=lambda served: (served.write(b"mine"), first.write(b"yours"), first.close()))
        first, one = await self.meet(port)
        _, other = await self.meet(port)
        other.say(b"go")
        self.assertEqual(await one.rest(), b"yours")
        self.assertEqual(await other.receive(4), b"mine")


class NameTests:
    """What a transport says of itself."""

    async def test_interfaces(self: Any) -> None:
        """It provides what Twisted's does."""
        served, _ = await self.connect()
        wanted = (ITCPTransport, ITLSTransport, IHalfCloseableDescriptor, IPushProducer, IConsumer, ISystemHandle)
        for interface in wanted:
            with self.subTest(interface=interface.__name__):
                self.assertTrue(interface.providedBy(served.transport))
                verifyObject(interface, served.transport)

    async def test_addresses(self: Any) -> None:
        """getHost and getPeer are the addresses of both sides."""
        served, client = await self.connect()
        host, peer = served.transport.getHost(), served.transport.getPeer()
        self.assertEqual((host.host, host.port), client.socket.getpeername())
        self.assertEqual((peer.host, peer.port), client.socket.getsockname())
        self.assertEqual((host.type, peer.type), ("TCP", "TCP"))

    async def test_options(self: Any) -> None:
        """The options of its socket can be set."""
        served, _ = await self.connect()
        for name in ("TcpNoDelay", "TcpKeepAlive"):
            for value in (False, True):
                with self.subTest(name=name, value=value):
                    served.do("set" + name, value)
                    self.assertIs(served.do("get" + name), value)

    async def test_logged(self: Any) -> None:
        """Its prefix in the log names protocol, number and client; also when the connection is lost."""
        served, client = await self.connect()
        prefix = served.transport.logPrefix()
        self.assertEqual(prefix, "Served,0,127.0.0.1")
        self.assertIn("Served #0", repr(served.transport))
        client.close()
        await self.lost(served)
        self.assertIn(",0,127.0.0.1", served.transport.logPrefix())
        self.assertIn("#0", repr(served.transport))


class DirectWritingTests(WritingTests, Direct, TransportTestCase):
    async def test_at_once(self) -> None:
        """What is written outside of delivery has left when write returns; the reactor need not turn."""
        served, client = await self.connect()
        served.write(b"one")
        served.do("writeSequence", [b"two", b"three"])
        self.assertEqual(client.socket.recv(100), b"onetwothree")

    async def test_together(self) -> None:
        """What is written while data is delivered leaves in one segment."""
        _, client = await self.connect(data=lambda served: [served.write(b"reply") for _ in range(10)])
        client.say(b"go")
        before = client.segments()
        await client.receive(50)
        self.assertEqual(client.segments(), before + 1)


class StockWritingTests(WritingTests, Stock, TransportTestCase):
    pass


class DirectNameTests(NameTests, Direct, TransportTestCase):
    async def test_no_delay(self) -> None:
        """TCP_NODELAY is set from the start."""
        seen: list[bool] = []
        await self.connect(made=lambda served: seen.append(served.do("getTcpNoDelay")))
        self.assertEqual(seen, [True])


class StockNameTests(NameTests, Stock, TransportTestCase):
    pass
