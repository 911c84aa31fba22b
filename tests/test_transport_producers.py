"""
Tests of smtpsvc.transport: transports as consumers of producers, and as producers that are paused.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from tests.transports import MUCH, Direct, Served, Stock, TransportTestCase, turns, until

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
        _, client = await self.connect(
            room=SMALL, data=lambda served: (served.do("registerProducer", producer, True), served.write(MUCH))
        )
        client.say(b"go")
        await until(lambda: producer.told, "the producer is told")
        await turns(5)
        self.assertEqual(producer.told, ["pause"])
        await client.receive(len(MUCH))
        await until(lambda: len(producer.told) > 1, "the producer is told")
        self.assertEqual(producer.told, ["pause", "resume"])

    async def test_resumed_at_once(self: Any) -> None:
        """Paused while data is delivered, it is resumed also if all could be sent with the end of that."""
        producer = Push()
        _, client = await self.connect(
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
                await turns(10)
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
        await turns(10)
        self.assertEqual(served.received, b"")
        served.do("resumeProducing")
        await until(lambda: served.received == b"one two", "it is delivered")

    async def test_inside(self: Any) -> None:
        """Paused within dataReceived, nothing more is delivered until it is resumed."""
        served, client = await self.connect(data=lambda served: served.do("pauseProducing"))
        await client.send(b"one")
        await until(lambda: served.reads, "data is delivered")
        await client.send(b"two")
        await turns(10)
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
                    await turns(10)
                served.close()
                self.assertEqual(await client.rest(), MUCH)

    async def test_not_after_closing(self: Any) -> None:
        """Once it is closing, nothing is delivered; to resume it changes nothing."""
        served, client = await self.connect()
        served.write(MUCH)
        served.close()
        served.do("resumeProducing")
        client.say(b"too late")
        await turns(10)
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
            await turns(1)
            while resumes:
                resumes.pop().do("resumeProducing")
        await sending
        self.assertEqual(served.received, MUCH)


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
        await turns(20)
        self.assertEqual(sum(served.reads for served in self.served), 1)
        for served in calm:
            served.script = {}
            served.do("resumeProducing")
        await until(lambda: all(served.reads for served in self.served), "the rest is delivered")


class StockPausingTests(PausingTests, Stock, TransportTestCase):
    pass
