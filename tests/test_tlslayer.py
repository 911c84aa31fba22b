"""
Tests of smtpsvc.tlslayer: what is read under TLS is bounded, and delivered in large pieces.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from smtpsvc.server.factory import SMTPFactory
from smtpsvc.testing import ScriptedBackend
from smtpsvc.tlslayer import READ_ALL, READ_LEAST, READ_MOST, TLSLayer
from tests.support import settings_with
from tests.test_transport_tls import OPTIONS, PLENTY, TLSClient, begin
from tests.transports import Direct, Served, TransportTestCase, turns, until

KIB = 1024


class LayerTestCase(Direct, TransportTestCase):
    """For connections under TLS whose server keeps what it gets."""

    async def secure(self, data: Any = lambda served: None) -> tuple[Any, TLSClient]:
        """Connect and begin TLS; *data* is called with the connection for each piece."""

        def take(served: Served) -> None:
            if served.received == b"STARTTLS":
                begin(served)
                served.reads = 0
            else:
                data(served)

        served, client = await self.connect(data=take)
        client.say(b"STARTTLS")
        await client.receive(3)
        return served, await TLSClient(client).begin()

    def fill(self, client: TLSClient, data: bytes) -> Deferred[None]:
        """Begin to send *data*."""
        return Deferred.fromCoroutine(client.send(data))


@implementer(IOpenSSLServerConnectionCreator)
class Broken:
    """Gives no connection."""

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        """Break."""
        raise LookupError("no connection")


def pause(served: Served) -> None:
    """Take no more than this piece."""
    served.do("pauseProducing")


class PausedTests(LayerTestCase):
    """The protocol wants no data."""

    async def test_nothing_follows(self) -> None:
        """Paused within dataReceived, nothing more is delivered, though it was read with what is there."""
        served, client = await self.secure(pause)
        sending = self.fill(client, PLENTY)
        await until(lambda: served.reads, "data is delivered")
        await turns(20)
        self.assertEqual(served.reads, 1)
        self.assertLessEqual(len(served.received), 80 * KIB)
        while len(served.received) < len(PLENTY):
            served.do("resumeProducing")
            await turns(1)
        await sending
        self.assertEqual(served.received, PLENTY)

    async def test_little_is_kept(self) -> None:
        """What was read before a pause is bounded, however many pauses there are."""
        kept = []
        served, client = await self.secure(pause)
        sending = self.fill(client, PLENTY)
        layer = served.transport.protocol
        while len(served.received) < len(PLENTY):
            await turns(1)
            kept.append(layer._left)
            served.do("resumeProducing")
        await sending
        self.assertLessEqual(max(kept), 128 * KIB)

    async def test_resumed_inside(self) -> None:
        """Paused and resumed within dataReceived, all is delivered."""

        def both(served: Served) -> None:
            served.do("pauseProducing")
            served.do("resumeProducing")

        served, client = await self.secure(both)
        await self.fill(client, PLENTY)
        await until(lambda: len(served.received) == len(PLENTY), "all is delivered")
        self.assertEqual(served.received, PLENTY)

    async def test_paused_again(self) -> None:
        """Resumed and paused again before it is its turn, nothing is delivered."""
        served, client = await self.secure(pause)
        sending = self.fill(client, PLENTY)
        await until(lambda: served.reads, "data is delivered")
        for _ in range(3):
            served.do("resumeProducing")
            served.do("pauseProducing")
            await turns(5)
        self.assertEqual(served.reads, 1)
        sending.addErrback(lambda failure: failure.trap(OSError))
        client.client.reset()

    async def test_close(self) -> None:
        """Closed while it is paused, the client's farewell is seen, and what comes before it is dropped."""
        served, client = await self.secure(pause)
        await client.send(b"x" * 100)
        await until(lambda: served.reads, "data is delivered")
        served.write(b"bye")
        served.close()
        self.assertEqual(await client.rest(), b"bye")
        await client.part()
        self.assertIsInstance(await self.lost(served), ConnectionDone)
        self.assertEqual(served.reads, 1)

    async def test_close_with_more(self) -> None:
        """So it is with more left than was delivered."""
        served, client = await self.secure(pause)
        await client.send(PLENTY[: 300 * KIB])
        await until(lambda: served.reads, "data is delivered")
        served.close()
        await client.part()
        self.assertIsInstance(await self.lost(served), ConnectionDone)
        self.assertEqual(served.reads, 1)

    async def test_gone(self) -> None:
        """A client that goes meanwhile is noticed when reading goes on, and leaves no timed call behind."""
        served, client = await self.secure(pause)
        await client.send(PLENTY[: 300 * KIB])
        await until(lambda: served.reads, "data is delivered")
        client.client.reset()
        while not served.lost:
            served.do("resumeProducing")
            await turns(1)
        self.assertIsInstance(served.reasons[0].value, ConnectionLost)

    async def test_aborted(self) -> None:
        """Aborted with something left, nothing more is delivered."""
        served, client = await self.secure(pause)
        sending = self.fill(client, PLENTY)
        await until(lambda: served.reads, "data is delivered")
        served.do("resumeProducing")
        served.do("abortConnection")
        await self.lost(served)
        await turns(5)
        self.assertEqual(served.reads, 1)
        sending.addErrback(lambda failure: failure.trap(OSError, AssertionError))
        client.client.close()

    async def test_broken_protocol(self) -> None:
        """An exception while the rest is delivered ends the connection, and that alone."""

        def fail(served: Served) -> None:
            if served.reads > 1:
                raise ZeroDivisionError
            served.do("pauseProducing")

        served, client = await self.secure(fail)
        await client.send(PLENTY[: 300 * KIB])
        await until(lambda: served.reads, "data is delivered")
        served.do("resumeProducing")
        self.assertIsInstance(await self.lost(served), ZeroDivisionError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class PieceTests(LayerTestCase):
    """Records are put together."""

    async def test_large(self) -> None:
        """Much data comes in pieces of several records, each of them bounded."""
        sizes: list[int] = []
        served, client = await self.secure(lambda served: sizes.append(len(served.received)))
        await self.fill(client, PLENTY)
        await until(lambda: len(served.received) == len(PLENTY), "all is delivered")
        self.assertLess(served.reads, len(PLENTY) / (16 * KIB) / 2)
        pieces = [after - before for before, after in zip([0, *sizes], sizes, strict=False)]
        self.assertLess(max(pieces), 80 * KIB)

    async def test_small(self) -> None:
        """A small record does not wait for another."""
        served, client = await self.secure()
        for number in range(5):
            await client.send(b"%d" % number)
            await until(lambda number=number: served.reads == number + 1, "it is delivered")  # type: ignore[misc]

    async def test_written_together(self) -> None:
        """What is written in pieces while data is delivered is one record."""

        def answer(served: Served) -> None:
            for _ in range(50):
                served.write(b"x")

        _, client = await self.secure(answer)
        await client.send(b"?")
        self.assertEqual(await client.receive(50), b"x" * 50)
        await client.send(b"?")
        # The head of a record, the content, its type and the tag (RFC 8446 §5.2).
        self.assertEqual(len(await client.client.some(1 << 16)), 5 + 50 + 1 + 16)

    async def test_first_packet(self) -> None:
        """What is written when the handshake is complete leaves in one packet with the session tickets."""
        port = self.listen(SMTPFactory(ScriptedBackend(), settings_with(), tls=OPTIONS, implicit_tls=True))
        self.ports.append(port)
        client = self.dial(port)
        tls = TLSClient(client)
        await tls.begin()
        packet = await client.some(1 << 16)
        self.assertGreater(packet.count(b"\x17\x03\x03"), 2)


class ShareTests(LayerTestCase):
    """How much is read at once."""

    async def test_grows(self) -> None:
        """A client that sends without a pause is read in larger and larger pieces, up to the most."""
        served, client = await self.secure()
        self.assertEqual(served.transport._read_size, READ_LEAST)
        await self.fill(client, PLENTY)
        await until(lambda: len(served.received) == len(PLENTY), "all is delivered")
        self.assertGreater(served.transport._read_size, READ_LEAST)
        self.assertLessEqual(served.transport._read_size, READ_MOST)

    async def test_shared(self) -> None:
        """With many connections each is read in smaller pieces."""
        served, client = await self.secure()
        self.patch(TLSLayer, "open", 1000)
        await self.fill(client, PLENTY)
        await until(lambda: len(served.received) == len(PLENTY), "all is delivered")
        self.assertLessEqual(served.transport._read_size, max(READ_LEAST, READ_ALL // 1000))
        TLSLayer.open = 1

    async def test_counted(self) -> None:
        """Connections are counted from the beginning of TLS to their end."""
        before = TLSLayer.open
        served, client = await self.secure()
        self.assertEqual(TLSLayer.open, before + 1)
        client.client.close()
        await self.lost(served)
        self.assertEqual(TLSLayer.open, before)

    async def test_counted_broken(self) -> None:
        """One whose TLS cannot even begin is counted no longer either, when it is lost."""
        before = TLSLayer.open

        def start(served: Served) -> None:
            try:
                served.transport.startTLS(Broken())
            except LookupError:
                served.transport.abortConnection()

        served, client = await self.connect(data=start)
        client.say(b"STARTTLS")
        await self.lost(served)
        self.assertEqual(TLSLayer.open, before)


class BudgetTests(LayerTestCase):
    """Mail to a backend that takes its time."""

    async def test_budget(self) -> None:
        """What is left in the layer counts as bytes in memory, and no more when it has been taken."""
        waiting: list[Deferred[None]] = []

        def write(content: bytes) -> Deferred[None]:
            waiting.append(Deferred())
            return waiting[-1]

        backend = ScriptedBackend(write=write)
        factory = SMTPFactory(backend, settings_with(read_ahead=4 * KIB), tls=OPTIONS, implicit_tls=True)
        port = self.listen(factory)
        self.ports.append(port)
        client = await TLSClient(self.dial(port)).begin()
        await self.say(client, b"", b"220 ")
        for line in (b"EHLO x", b"MAIL FROM:<a@x.example>", b"RCPT TO:<b@y.example>"):
            await self.say(client, line + b"\r\n", b"250 ")
        await self.say(client, b"DATA\r\n", b"354 ")
        message = (b"x" * 70 + b"\r\n") * 10_000
        sending = self.fill(client, message + b".\r\n")
        await until(lambda: waiting, "content is delivered")
        await turns(20)
        (protocol,) = factory.connections
        layer = protocol.transport.protocol  # type: ignore[attr-defined]
        self.assertGreater(layer._left, 0)
        self.assertGreaterEqual(factory.budget.used, layer._left)
        self.assertLess(factory.budget.used, 256 * KIB)
        while not backend.messages[0].finished:
            for written in waiting:
                if not written.called:
                    written.callback(None)
            await turns(1)
        await sending
        await self.say(client, b"", b"250 ")
        self.assertTrue(backend.messages[0].content.endswith(message))
        self.assertEqual(factory.budget.used, 0)

    async def say(self, client: TLSClient, line: bytes, expected: bytes) -> None:
        """Send a line, and read a reply that begins so."""
        await client.send(line)
        got = b""
        while not got.endswith(b"\r\n") or got.splitlines()[-1][3:4] != b" ":
            got += await client.receive(1)
        self.assertTrue(got.splitlines()[-1].startswith(expected), got)


