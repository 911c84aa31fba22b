"""
Tests of smtpsvc.transport: how connections end, whoever ends them, and when.

That each is lost once, and from inside no other call, is asserted behind every test.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone

from tests.transports import MUCH, Direct, Served, Stock, TransportTestCase, turns, until

EVENTS = ("made", "data")


class Oops(Exception):
    """A mistake in a protocol."""


def raise_oops(served: Served) -> None:
    """Make a mistake."""
    raise Oops


class ClosingTests:
    """loseConnection."""

    async def test_idle(self: Any) -> None:
        """Closed outside of all calls, the client sees the end, and the loss is orderly."""
        served, client = await self.connect()
        served.close()
        self.assertFalse(served.lost)
        self.assertEqual(await client.rest(), b"")
        self.assertIsInstance(await self.lost(served), ConnectionDone)

    async def test_inside(self: Any) -> None:
        """Closed from inside a callback, what was written before and after it arrives; then the end."""

        def close(served: Served) -> None:
            served.write(b"one ")
            served.close()
            served.write(b"two")

        for event in EVENTS:
            with self.subTest(event=event):
                served, client = await self.connect(**{event: close})
                if event == "data":
                    client.say(b"go")
                self.assertEqual(await client.rest(), b"one two")
                self.assertIsInstance(await self.lost(served), ConnectionDone)

    async def test_buffered(self: Any) -> None:
        """Closed with much unsent, all of it arrives; then the end."""

        def close(served: Served) -> None:
            served.write(MUCH)
            served.close()

        for event in (*EVENTS, ""):
            with self.subTest(event=event):
                served, client = await self.connect(**{event: close})
                if event == "data":
                    client.say(b"go")
                elif not event:
                    close(served)
                self.assertEqual(await client.rest(), MUCH)
                self.assertIsInstance(await self.lost(served), ConnectionDone)

    async def test_later(self: Any) -> None:
        """So it does if data was delivered while it waited, and it is closed only then."""
        served, client = await self.connect(data=lambda served: served.close())
        served.write(MUCH)
        client.say(b"go")
        self.assertEqual(await client.rest(), MUCH)
        self.assertIsInstance(await self.lost(served), ConnectionDone)

    async def test_nothing_written(self: Any) -> None:
        """Closed from inside dataReceived with nothing written, the end comes too."""
        served, client = await self.connect(data=lambda served: served.close())
        client.say(b"go")
        self.assertEqual(await client.rest(), b"")
        self.assertIsInstance(await self.lost(served), ConnectionDone)

    async def test_twice(self: Any) -> None:
        """To close again, there or later, or in connectionLost, changes nothing."""

        def close(served: Served) -> None:
            served.write(b"bye")
            served.close()
            served.close()

        served, client = await self.connect(data=close, lost=close)
        client.say(b"go")
        self.assertEqual(await client.rest(), b"bye")
        await self.lost(served)
        close(served)

    async def test_unread(self: Any) -> None:
        """What was written arrives also if the client has sent more than was read."""
        pieces: list[bytes] = []

        def close(served: Served) -> None:
            client.say(b"more")
            served.write(b"bye")
            served.close()

        served, client = await self.connect(data=close)
        client.say(b"go")
        await self.lost(served)
        pieces.append(client.socket.recv(100))
        self.assertEqual(pieces, [b"bye"])

    async def test_after_loss(self: Any) -> None:
        """When it is lost, no call does anything, nor touches whoever has its descriptor now."""
        port = self.open()
        served, client = await self.meet(port)
        client.close()
        await self.lost(served)
        heir, other = await self.meet(port)
        heir.do("pauseProducing")
        served.write(b"x")
        for name in ("loseConnection", "abortConnection", "pauseProducing", "resumeProducing", "stopProducing"):
            served.do(name)
        served.do("unregisterProducer")
        other.say(b"go")
        await turns(10)
        self.assertEqual(heir.received, b"")
        heir.do("resumeProducing")
        await until(lambda: heir.received, "data is delivered")


class AbortingTests:
    """abortConnection."""

    async def test_anywhere(self: Any) -> None:
        """Aborted anywhere, what is unsent is dropped, and the client sees an RST."""

        def abort(served: Served) -> None:
            served.write(MUCH)
            served.do("abortConnection")
            served.write(b"too late")

        for event in (*EVENTS, ""):
            with self.subTest(event=event):
                served, client = await self.connect(**{event: abort})
                if event == "data":
                    client.say(b"go")
                elif not event:
                    abort(served)
                await self.assertReset(client.rest())
                self.assertIsInstance(await self.lost(served), ConnectionAborted)

    async def test_nothing_follows(self: Any) -> None:
        """Aborted, it sends nothing and delivers nothing."""

        def abort(served: Served) -> None:
            served.do("abortConnection")
            served.write(b"too late")
            client.say(b"too late")

        for late in (False, True):
            with self.subTest(late=late):
                served, client = await self.connect(data=abort)
                if late:
                    abort(served)
                else:
                    client.say(b"go")
                await self.lost(served)
                self.assertEqual(served.received, b"" if late else b"go")
                self.assertRaises(ConnectionResetError, client.socket.recv, 100)

    async def test_mixed(self: Any) -> None:
        """Aborted before or behind loseConnection, or twice, it is aborted."""
        for event in EVENTS:
            for calls in (
                ("loseConnection", "abortConnection"),
                ("abortConnection", "loseConnection"),
                ("abortConnection", "abortConnection"),
                ("abortConnection", "loseWriteConnection"),
                ("abortConnection", "resumeProducing"),
            ):
                with self.subTest(event=event, calls=calls):
                    served, client = await self.connect(
                        **{event: lambda served, calls=calls: [served.do(name) for name in calls]}
                    )
                    if event == "data":
                        client.say(b"go")
                    self.assertIsInstance(await self.lost(served), ConnectionAborted)
                    await self.assertReset(client.rest())

    async def test_closing(self: Any) -> None:
        """One that waits to be closed for a client that does not read can be aborted."""
        served, client = await self.connect()
        served.write(MUCH)
        served.close()
        await turns(5)
        served.do("abortConnection")
        self.assertIsInstance(await self.lost(served), ConnectionAborted)
        await self.assertReset(client.rest())

    async def test_in_connection_lost(self: Any) -> None:
        """To abort it in connectionLost changes nothing."""
        served, client = await self.connect(lost=lambda served: served.do("abortConnection"))
        client.close()
        self.assertIsInstance(await self.lost(served), ConnectionDone)
        await turns(3)


class MistakeTests:
    """Exceptions in a protocol."""

    async def check_data_received(self: Any, mistake: type[BaseException]) -> None:
        """Find that one connection is lost for a mistake, and another lives."""

        def fail(served: Served) -> None:
            served.write(b"x")
            if served is self.served[-1]:
                raise mistake

        port = self.open(data=fail)
        calm, other = await self.meet(port)
        served, client = await self.meet(port)
        client.say(b"go")
        self.assertIsInstance(await self.lost(served), mistake)
        self.assertEqual(len(self.flushLoggedErrors(mistake)), 1)
        other.say(b"go")
        self.assertEqual(await other.receive(1), b"x")
        self.assertFalse(calm.lost)

    async def test_data_received(self: Any) -> None:
        """One from dataReceived is logged, and the connection lost for it; others do not notice."""
        await self.check_data_received(Oops)

    async def test_after_closing(self: Any) -> None:
        """So it is behind loseConnection and abortConnection, and still lost once."""
        for name in ("loseConnection", "abortConnection", "pauseProducing", "loseWriteConnection"):
            with self.subTest(name=name):

                def fail(served: Served, name: str = name) -> None:
                    served.do(name)
                    raise Oops

                served, client = await self.connect(data=fail)
                client.say(b"go")
                self.assertIsInstance(await self.lost(served), Oops)
                self.assertEqual(len(self.flushLoggedErrors(Oops)), 1)
                await turns(3)

    async def test_connection_made(self: Any) -> None:
        """One from connectionMade is logged; that client and the next are served all the same."""
        port = self.open(made=raise_oops, data=lambda served: served.write(b"you"))
        for number in range(3):
            _, client = await self.meet(port)
            self.assertEqual(len(self.flushLoggedErrors(Oops)), 1)
            client.say(b"go")
            self.assertEqual(await client.receive(3), b"you", number)

    async def test_connection_lost(self: Any) -> None:
        """One from connectionLost is logged, and no more."""
        port = self.open(lost=raise_oops, data=lambda served: served.write(b"you"))
        _, other = await self.meet(port)
        for end in ("close", "reset"):
            served, client = await self.meet(port)
            getattr(client, end)()
            await self.lost(served)
            self.assertEqual(len(self.flushLoggedErrors(Oops)), 1)
        other.say(b"go")
        self.assertEqual(await other.receive(3), b"you")
        other.close()
        await turns(10)
        self.assertEqual(len(self.flushLoggedErrors(Oops)), 1)

    async def test_halves(self: Any) -> None:
        """One when half of it has ended is logged, and the connection lost for it."""
        served, client = await self.connect(half=True, read_lost=raise_oops)
        client.end()
        self.assertIsInstance(await self.lost(served), Oops)
        served, client = await self.connect(half=True, write_lost=raise_oops)
        served.do("loseWriteConnection")
        self.assertIsInstance(await self.lost(served), Oops)
        self.assertEqual(len(self.flushLoggedErrors(Oops)), 2)


class DirectClosingTests(ClosingTests, Direct, TransportTestCase):
    async def test_together(self) -> None:
        """A last reply and the end leave in one segment, before the reactor turns."""

        def close(served: Served) -> None:
            served.write(b"221 bye\r\n")
            served.close()

        served, client = await self.connect(data=close)
        client.say(b"QUIT\r\n")
        before = client.segments()
        await until(lambda: served.lost, "the connection is lost")
        self.assertEqual(client.segments(), before + 1)
        self.assertEqual([client.socket.recv(100), client.socket.recv(100)], [b"221 bye\r\n", b""])

    async def test_half_after_loss(self) -> None:
        """To end its side when it is lost does nothing, also if its descriptor is another's."""
        port = self.open()
        served, client = await self.meet(port)
        client.close()
        await self.lost(served)
        heir, other = await self.meet(port)
        heir.do("pauseProducing")
        for name in ("loseWriteConnection", "startReading", "startWriting"):
            served.do(name)
            await turns(3)
        self.assertFalse(heir.lost)
        heir.do("resumeProducing")
        other.say(b"go")
        await until(lambda: heir.received, "data is delivered")


class StockClosingTests(ClosingTests, Stock, TransportTestCase):
    pass


class DirectAbortingTests(AbortingTests, Direct, TransportTestCase):
    pass


class StockAbortingTests(AbortingTests, Stock, TransportTestCase):
    pass


class DirectMistakeTests(MistakeTests, Direct, TransportTestCase):
    async def test_no_exceptions(self) -> None:
        """What is no Exception, such as SystemExit, takes no other connection along either."""
        for mistake in (SystemExit, GeneratorExit, KeyboardInterrupt):
            with self.subTest(mistake=mistake.__name__):
                await self.check_data_received(mistake)


class StockMistakeTests(MistakeTests, Stock, TransportTestCase):
    pass
