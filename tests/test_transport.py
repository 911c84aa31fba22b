"""
Tests of smtpsvc.transport: what is written arrives, whole and in order; and what is read is delivered.
"""

from __future__ import annotations

import random
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    IPushProducer,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
)
from zope.interface.verify import verifyObject

from tests.transports import MUCH, Direct, Served, Stock, TransportTestCase, until
from tests.transports import turns as some

#: A receive buffer that little data fills.
SMALL = 4096


class Push:
    """A streaming producer that notes what it is told, and whether it is paused."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.paused = False

    def pauseProducing(self) -> None:
        """Note it."""
        self.told.append("pause")
        self.paused = True

    def resumeProducing(self) -> None:
        """Note it."""
        self.told.append("resume")
        self.paused = False

    def stopProducing(self) -> None:
        """Note it."""
        self.told.append("stop")


class Numbers(Push):
    """Sends numbers whenever it may; then says that it is done, and closes."""

    def __init__(self, served: Any, last: int, streaming: bool) -> None:
        super().__init__()
        self.served = served
        self.numbers = iter(range(last))
        self.streaming = streaming
        self.all = b"".join(map(self.block, range(last)))

    @staticmethod
    def block(number: int) -> bytes:
        """One write."""
        return b"%07d\n" % number * 1000

    def resumeProducing(self) -> None:
        """Send the next, or all up to a pause."""
        super().resumeProducing()
        for number in self.numbers:
            self.served.write(self.block(number))
            if self.paused or not self.streaming:
                return
        self.served.do("unregisterProducer")
        self.served.close()


class WritingTests:
    """What the server writes."""

    async def test_slow_reader(self: Any) -> None:
        """16 MiB to a client that reads slowly arrive whole and in order."""
        served, client = await self.connect()
        served.write(MUCH)
        self.assertEqual(await client.receive(len(MUCH), 50_000), MUCH)

    async def test_in_delivery(self: Any) -> None:
        """So they do when they are written while data is delivered."""
        served, client = await self.connect(data=lambda served: served.write(MUCH))
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
            await some(choose.randrange(3))
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
        await some(5)
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
        served, other = await self.meet(port)
        other.say(b"go")
        self.assertEqual(await one.rest(), b"yours")
        self.assertEqual(await other.receive(4), b"mine")


class ProducerTests:
    """A transport as a consumer."""

    async def test_told(self: Any) -> None:
        """A streaming producer is paused when much is unsent, and resumed when all is sent."""
        served, client = await self.connect(room=SMALL)
        producer = Push()
        served.do("registerProducer", producer, True)
        served.write(MUCH)
        self.assertEqual(producer.told, ["pause"])
        await client.receive(len(MUCH))
        await until(lambda: len(producer.told) > 1, "the producer is told")
        self.assertEqual(producer.told, ["pause", "resume"])

    async def test_told_in_delivery(self: Any) -> None:
        """So it is when that is written while data is delivered."""
        producer = Push()
        served, client = await self.connect(
            room=SMALL, data=lambda served: (served.do("registerProducer", producer, True), served.write(MUCH))
        )
        client.say(b"go")
        await until(lambda: producer.told, "the producer is told")
        await some(5)
        self.assertEqual(producer.told, ["pause"])
        await client.receive(len(MUCH))
        await until(lambda: len(producer.told) > 1, "the producer is told")
        self.assertEqual(producer.told, ["pause", "resume"])

    async def test_resumed_at_once(self: Any) -> None:
        """Paused while data is delivered, it is resumed also if all could be sent with the end of that."""
        producer = Push()
        served, client = await self.connect(
            data=lambda served: (served.do("registerProducer", producer, True), served.write(bytes(100_000)))
        )
        client.say(b"go")
        await client.receive(100_000)
        await until(lambda: len(producer.told) > 1, "the producer is told")
        self.assertEqual(producer.told, ["pause", "resume"])

    async def test_produced(self: Any) -> None:
        """All that a producer sends arrives, streaming or not, registered in or out of delivery; then the end."""
        for streaming in (True, False):
            for event in ("made", "data"):
                with self.subTest(streaming=streaming, event=event):
                    made: list[Numbers] = []

                    def start(served: Served, made: list[Numbers] = made, streaming: bool = streaming) -> None:
                        made.append(Numbers(served, 500, streaming))
                        served.do("registerProducer", made[0], streaming)
                        if streaming:
                            made[0].resumeProducing()

                    served, client = await self.connect(room=SMALL, **{event: start})
                    client.say(b"go")
                    self.assertEqual(await client.rest(), made[0].all)
                    await self.lost(served)

    async def test_closes_when_unregistered(self: Any) -> None:
        """Closed while its producer is paused, a connection ends when that is unregistered; it may send until then."""
        for event in ("made", "data"):
            with self.subTest(event=event):
                producer = Push()

                def close(served: Served, producer: Push = producer) -> None:
                    served.do("registerProducer", producer, True)
                    served.write(MUCH)
                    served.close()

                served, client = await self.connect(**{event: close})
                client.say(b"go")
                await client.receive(len(MUCH))
                await until(lambda producer=producer: len(producer.told) > 1, "the producer is resumed")
                await some(10)
                self.assertFalse(served.lost)
                served.write(b"the end")
                served.do("unregisterProducer")
                self.assertEqual(await client.rest(), b"the end")
                self.assertEqual(producer.told, ["pause", "resume"])

    async def test_stopped(self: Any) -> None:
        """A producer is stopped when the connection is lost; registered later, at once."""
        served, client = await self.connect()
        first, second = Push(), Push()
        served.do("registerProducer", first, True)
        self.assertRaises(RuntimeError, served.transport.registerProducer, second, True)
        client.close()
        await self.lost(served)
        served.do("registerProducer", second, True)
        self.assertEqual((first.told, second.told), (["stop"], ["stop"]))


class PausingTests:
    """A transport as a producer."""

    async def test_paused(self: Any) -> None:
        """Paused outside, nothing is delivered until it is resumed, and then all of it."""
        served, client = await self.connect()
        served.do("pauseProducing")
        await client.send(b"one two")
        await some(10)
        self.assertEqual(served.received, b"")
        served.do("resumeProducing")
        await until(lambda: served.received == b"one two", "it is delivered")

    async def test_inside(self: Any) -> None:
        """Paused within dataReceived, nothing more is delivered until it is resumed."""
        served, client = await self.connect(data=lambda served: served.do("pauseProducing"))
        await client.send(b"one")
        await until(lambda: served.reads, "data is delivered")
        await client.send(b"two")
        await some(10)
        self.assertEqual((served.reads, served.received), (1, b"one"))
        served.do("resumeProducing")
        await until(lambda: served.reads == 2, "the rest is delivered")
        self.assertEqual(served.received, b"onetwo")

    async def test_both(self: Any) -> None:
        """Paused and resumed, or resumed for nothing, within dataReceived, all is as before."""
        for calls in (("pauseProducing", "resumeProducing"), ("resumeProducing",), ("resumeProducing",) * 2):
            with self.subTest(calls=calls):
                served, client = await self.connect(
                    data=lambda served, calls=calls: [served.do(name) for name in calls]
                )
                for count, piece in enumerate([b"one", b"two", b"three"], 1):
                    client.say(piece)
                    await until(lambda served=served, count=count: served.reads == count, "it is delivered")
                self.assertEqual(served.received, b"onetwothree")

    async def test_writes(self: Any) -> None:
        """A paused connection still sends, and closes."""
        for late in (False, True):
            with self.subTest(late=late):
                served, client = await self.connect(made=lambda served: served.do("pauseProducing"))
                served.write(MUCH)
                if late:
                    await some(10)
                served.close()
                self.assertEqual(await client.rest(), MUCH)

    async def test_not_after_closing(self: Any) -> None:
        """Once it is closing, nothing is delivered; to resume it changes nothing."""
        served, client = await self.connect()
        served.write(MUCH)
        served.close()
        served.do("resumeProducing")
        client.say(b"too late")
        await some(10)
        self.assertEqual(served.received, b"")

    async def test_much(self: Any) -> None:
        """16 MiB from a client are delivered whole and in order, with pauses in between."""
        def rest(served: Served) -> None:
            served.do("pauseProducing")
            # Resumed from a later turn, and from within the next call.
            resumes.append(served)

        resumes: list[Served] = []
        served, client = await self.connect(data=rest)
        sending = Deferred.fromCoroutine(client.send(MUCH))
        while len(served.received) < len(MUCH):
            await some(1)
            while resumes:
                resumes.pop().do("resumeProducing")
        await sending
        self.assertEqual(served.received, MUCH)


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
        served, client = await self.connect(data=lambda served: [served.write(b"reply") for _ in range(10)])
        client.say(b"go")
        before = client.segments()
        await client.receive(50)
        self.assertEqual(client.segments(), before + 1)


class StockWritingTests(WritingTests, Stock, TransportTestCase):
    pass


class DirectProducerTests(ProducerTests, Direct, TransportTestCase):
    pass


class StockProducerTests(ProducerTests, Stock, TransportTestCase):
    pass


class DirectPausingTests(PausingTests, Direct, TransportTestCase):
    async def test_by_another(self) -> None:
        """Paused while data of another is delivered, nothing is delivered, whatever events have been seen."""
        calm: list[Served] = []

        def pause_others(served: Served) -> None:
            calm.extend(other for other in self.served if other is not served)
            for other in self.served:
                if other is not served:
                    other.do("pauseProducing")

        port = self.open(data=pause_others)
        pairs = [await self.meet(port) for _ in range(5)]
        for served, client in pairs:
            if pairs.index((served, client)) % 2:
                served.write(MUCH)
        for _, client in pairs:
            client.say(b"go")
        await some(20)
        self.assertEqual(sum(served.reads for served in self.served), 1)
        for served in calm:
            served.script = {}
            served.do("resumeProducing")
        await until(lambda: all(served.reads for served in self.served), "the rest is delivered")


class StockPausingTests(PausingTests, Stock, TransportTestCase):
    pass


class DirectNameTests(NameTests, Direct, TransportTestCase):
    async def test_no_delay(self) -> None:
        """TCP_NODELAY is set from the start."""
        seen: list[bool] = []
        await self.connect(made=lambda served: seen.append(served.do("getTcpNoDelay")))
        self.assertEqual(seen, [True])


class StockNameTests(NameTests, Stock, TransportTestCase):
    pass
