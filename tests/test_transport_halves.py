"""
Tests of smtpsvc.transport: connections of which one side has ended, and clients that are gone.

That each is lost once, and from inside no other call, is asserted behind every test.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost

from tests.transports import MUCH, Direct, Served, Stock, TransportTestCase, turns, until

EVENTS = ("made", "data")


class HalfClosingTests:
    """The end of one side."""

    async def test_client(self: Any) -> None:
        """A client ends its side: a protocol that knows no halves loses the connection, after all data."""
        served, client = await self.connect()
        client.say(b"last words")
        client.end()
        self.assertIsInstance(await self.lost(served), ConnectionDone)
        self.assertEqual(served.received, b"last words")
        self.assertEqual(await client.rest(), b"")

    async def test_client_half(self: Any) -> None:
        """One that knows them is told once, and still sends all that it likes."""
        served, client = await self.connect(half=True)
        client.say(b"last words")
        client.end()
        await until(lambda: "read_lost" in served.events, "the end of the client's side is told")
        await turns(10)
        self.assertEqual((served.events, served.received), (["made", "read_lost"], b"last words"))
        served.write(MUCH)
        served.write(b"bye")
        served.close()
        self.assertEqual(await client.rest(), MUCH + b"bye")
        self.assertIsInstance(await self.lost(served), ConnectionDone)

    async def test_client_half_pending(self: Any) -> None:
        """What was unsent when the client ended its side arrives."""
        served, client = await self.connect(half=True, read_lost=lambda served: served.close())
        served.write(MUCH)
        client.end()
        self.assertEqual(await client.rest(), MUCH)
        self.assertIsInstance(await self.lost(served), ConnectionDone)

    async def test_client_half_abort(self: Any) -> None:
        """It may be aborted when that is told."""
        served, client = await self.connect(half=True, read_lost=lambda served: served.do("abortConnection"))
        client.end()
        self.assertIsInstance(await self.lost(served), ConnectionAborted)
        await self.assertReset(client.rest())

    async def test_server(self: Any) -> None:
        """The server ends its side after all data, from anywhere: the client sees the end, and is still read."""

        def end(served: Served) -> None:
            if "ended" not in served.events:
                served.events.append("ended")
                served.write(MUCH)
                served.do("loseWriteConnection")

        for half in (False, True):
            for event in (*EVENTS, ""):
                with self.subTest(event=event, half=half):
                    served, client = await self.connect(half=half, **{event: end})
                    if event == "data":
                        client.say(b"go")
                        await until(lambda served=served: served.reads, "data is delivered")
                    elif not event:
                        end(served)
                    self.assertEqual(await client.rest(), MUCH)
                    for count in range(served.reads + 1, served.reads + 4):
                        client.say(b"still here")
                        await until(lambda served=served, count=count: served.reads == count, "it is read")
                        served.write(b"unheard")
                    await turns(10)
                    self.assertEqual((served.lost, served.events.count("write_lost")), (False, int(half)))
                    client.close()
                    if half:
                        await until(lambda served=served: "read_lost" in served.events, "the end is told")
                        served.do("abortConnection")
                    self.assertIsInstance(await self.lost(served), ConnectionAborted if half else ConnectionDone)

    async def test_nothing_sent(self: Any) -> None:
        """It may end its side without a word."""
        for event in EVENTS:
            with self.subTest(event=event):
                served, client = await self.connect(
                    half=True, **{event: lambda served: served.do("loseWriteConnection")}
                )
                client.say(b"go")
                self.assertEqual(await client.rest(), b"")
                await until(lambda served=served: served.events[-1] == "write_lost", "it is told")
                client.end()
                await until(lambda served=served: served.events[-1] == "read_lost", "the end is told")
                served.do("abortConnection")


class ResettingTests:
    """A client is gone without a word."""

    async def test_idle(self: Any) -> None:
        """An idle connection is lost."""
        for half in (False, True):
            with self.subTest(half=half):
                served, client = await self.connect(half=half)
                client.reset()
                self.assertIsInstance(await self.lost(served), ConnectionLost)
                self.assertNotIn("read_lost", served.events)

    async def test_before_accepted(self: Any) -> None:
        """One who is gone before it was accepted is made and lost, and the next is served."""
        port = self.open(made=lambda served: served.write(b"hello"), data=lambda served: served.write(b"you"))
        client = self.dial(port)
        client.say(b"go")
        client.reset()
        _, other = await self.meet(port)
        self.assertIn(type(await self.lost(self.served[0])), (ConnectionLost, ConnectionDone))
        self.assertEqual(await other.receive(5), b"hello")

    async def test_paused(self: Any) -> None:
        """A paused connection is lost when it is resumed, written to or closed."""
        for name, arguments in (("resumeProducing", ()), ("write", (b"x",)), ("loseConnection", ())):
            with self.subTest(name=name):
                served, client = await self.connect()
                served.do("pauseProducing")
                client.reset()
                await turns(5)
                self.assertFalse(served.lost)
                served.do(name, *arguments)
                self.assertFalse(served.lost)
                await self.lost(served)

    async def test_unsent(self: Any) -> None:
        """One with data unsent is lost; paused or closing too."""
        for name in ("", "pauseProducing", "loseConnection", "loseWriteConnection"):
            with self.subTest(name=name):
                served, client = await self.connect()
                served.write(MUCH)
                if name:
                    served.do(name)
                await turns(3)
                client.reset()
                self.assertIsInstance(await self.lost(served), ConnectionLost)

    async def test_in_delivery(self: Any) -> None:
        """Gone while its data is delivered, the connection is lost when that has returned, whatever it did."""

        def go(served: Served) -> None:
            served.write(much[:1])
            self.clients[-1].reset()
            served.write(much)
            for name in calls:
                served.do(name)
            served.write(much)

        port = self.open(data=go)
        for calls in ((), ("loseConnection",), ("pauseProducing", "resumeProducing"), ("loseWriteConnection",)):
            for much in (b"", b"x", MUCH):
                with self.subTest(calls=calls, much=len(much)):
                    served, client = await self.meet(port)
                    client.say(b"go")
                    await self.lost(served)
                    self.assertEqual(served.reads, 1)

    async def test_in_write(self: Any) -> None:
        """Gone before a write, the write returns; the connection is lost later."""
        for half in (False, True):
            with self.subTest(half=half):
                served, client = await self.connect(half=half)
                client.reset()
                served.write(b"one")
                served.write(MUCH)
                self.assertFalse(served.lost)
                self.assertIsInstance(await self.lost(served), ConnectionLost)
                self.assertEqual(served.events, ["made", "lost"])

    async def test_data_first(self: Any) -> None:
        """What a client sent before its orderly end is delivered, however much it is."""
        served, client = await self.connect(made=lambda served: served.do("pauseProducing"))
        await client.send(MUCH[:200_000])
        client.close()
        await turns(5)
        served.do("resumeProducing")
        self.assertIsInstance(await self.lost(served), ConnectionDone)
        self.assertEqual(len(served.received), 200_000)

    async def test_half_closed(self: Any) -> None:
        """Gone when either side had ended, it is lost as soon as it is written to, or at once."""
        served, client = await self.connect(half=True)
        client.end()
        await until(lambda: "read_lost" in served.events, "the end is told")
        client.reset()
        served.write(b"x")
        await self.lost(served)
        served, client = await self.connect(half=True)
        served.do("loseWriteConnection")
        await client.rest()
        client.reset()
        await self.lost(served)


class DirectHalfClosingTests(HalfClosingTests, Direct, TransportTestCase):
    async def test_after_half(self) -> None:
        """Closed when its own side has ended, it is lost later, not from inside loseConnection."""
        for event in ("data", "write_lost", ""):
            with self.subTest(event=event):
                served, client = await self.connect(half=True, **{event: lambda served: served.close()})
                served.do("loseWriteConnection")
                await until(lambda served=served: "write_lost" in served.events, "it is told")
                if event == "data":
                    client.say(b"go")
                elif not event:
                    served.close()
                    self.assertFalse(served.lost)
                self.assertIsInstance(await self.lost(served), ConnectionDone)


class StockHalfClosingTests(HalfClosingTests, Stock, TransportTestCase):
    pass


class DirectResettingTests(ResettingTests, Direct, TransportTestCase):
    pass


class StockResettingTests(ResettingTests, Stock, TransportTestCase):
    pass
