"""
Tests of smtpsvc.transport under TLS, and of the SMTP server over it with a real client.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ServerEndpoint, wrapServerTLS
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.threads import deferToThread

from smtpsvc.server.factory import SMTPFactory
from smtpsvc.testing import ScriptedBackend
from smtpsvc.tlstesting import certificate
from smtpsvc.transport import DirectServerEndpoint
from tests.support import settings_with
from tests.transports import LOOPBACK, MUCH, Client, Direct, Served, Stock, TransportTestCase, reactor, turns, until

#: What begins TLS at the server's side.
OPTIONS = PrivateCertificate.loadPEM(b"".join(certificate("mx.example"))).options()

#: More than the buffers between two sockets of a machine, under TLS.
PLENTY = MUCH[: 12 << 20]


def trusting() -> ssl.SSLContext:
    """Make a context for clients that believe anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TLSClient:
    """A client that speaks TLS on a :class:`Client`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trusting().wrap_bio(self._in, self._out)

    async def _until_done(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                done = call()
            except ssl.SSLWantReadError:
                await self.client.send(self._out.read())
                data = await self.client.some(1 << 16)
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
            else:
                await self.client.send(self._out.read())
                return done

    async def begin(self) -> TLSClient:
        """Do the handshake."""
        await self._until_done(self._tls.do_handshake)
        return self

    async def send(self, data: bytes) -> None:
        """Send any number of bytes."""
        for start in range(0, len(data), 1 << 16):
            await self._until_done(partial(self._tls.write, data[start : start + (1 << 16)]))

    async def receive(self, size: int) -> bytes:
        """Take exactly *size* bytes."""
        data = bytearray()
        while len(data) < size:
            piece = await self._until_done(partial(self._tls.read, size - len(data)))
            if not piece:
                raise AssertionError(f"the farewell came early, after {data[-40:]!r}")
            data += piece
        return bytes(data)

    async def rest(self) -> bytes:
        """
        Take all up to the farewell of TLS.

        :raises ssl.SSLEOFError: if the connection ends without it.
        """
        data = bytearray()
        while piece := await self._until_done(partial(self._tls.read, 1 << 16)):
            data += piece
        return bytes(data)

    async def part(self) -> None:
        """Say farewell, and wait for the server's."""
        await self._until_done(self._tls.unwrap)


def begin(served: Served) -> None:
    """Begin TLS on the first data, as STARTTLS does; what follows is echoed."""
    if served.received == b"STARTTLS":
        served.received = b""
        served.write(b"220")
        served.do("startTLS", OPTIONS)
    elif ISSLTransport.providedBy(served.transport):
        served.write(served.received)
        served.received = b""


class TLSTests:
    """TLS that begins on a connection."""

    async def secure(self: Any, **script: Callable[[Any], object]) -> tuple[Any, TLSClient]:
        """Connect, and begin TLS; the server echoes."""
        served, client = await self.connect(data=begin, **script)
        client.say(b"STARTTLS")
        await client.receive(3)
        tls = await TLSClient(client).begin()
        # Now the server knows too that the handshake is complete.
        await tls.send(b"hello")
        await tls.receive(5)
        return served, tls

    async def test_behind(self: Any) -> None:
        """TLS begins behind what was written before it, sent or not, from in or out of delivery."""
        for inside in (True, False):
            for much in (b"", MUCH):
                with self.subTest(inside=inside, much=len(much)):

                    def start(served: Served, much: bytes = much) -> None:
                        served.write(much)
                        served.write(b"220")
                        served.do("startTLS", OPTIONS)
                        served.write(b"secret")

                    served, client = await self.connect(data=start if inside else lambda served: None)
                    client.say(b"go")
                    if not inside:
                        await until(lambda served=served: served.reads, "data is delivered")
                        start(served)
                    self.assertEqual(await client.receive(len(much) + 3, 100_000), much + b"220")
                    self.assertEqual(await (await TLSClient(client).begin()).receive(6), b"secret")

    async def test_echo(self: Any) -> None:
        """12 MiB each way arrive whole and in order."""
        _, client = await self.secure()
        await client.send(PLENTY)
        self.assertEqual(await client.receive(len(PLENTY)), PLENTY)

    async def test_small(self: Any) -> None:
        """So do many small pieces, with the answers in between."""
        _, client = await self.secure()
        for number in range(200):
            piece = b"%d." % number * (number + 1)
            await client.send(piece)
            self.assertEqual(await client.receive(len(piece)), piece)

    async def test_producer(self: Any) -> None:
        """A producer is paused while the client does not read; one from before TLS too."""
        for before in (True, False):
            with self.subTest(before=before):
                told: list[str] = []

                class Producer:
                    def pauseProducing(self, told: list[str] = told) -> None:
                        told.append("pause")

                    def resumeProducing(self, told: list[str] = told) -> None:
                        told.append("resume")

                    def stopProducing(self, told: list[str] = told) -> None:
                        told.append("stop")

                def register(served: Served, producer: type = Producer) -> None:
                    served.do("registerProducer", producer(), True)

                served, client = await self.secure(**{"made": register} if before else {})
                if not before:
                    register(served)
                del told[:]
                served.write(PLENTY)
                await turns(10)
                self.assertEqual(told, ["pause"])
                self.assertEqual(await client.receive(len(PLENTY)), PLENTY)
                await until(lambda told=told: told[1:], "the producer is told")
                served.do("unregisterProducer")
                self.assertEqual(told, ["pause", "resume"])

    async def test_closed(self: Any) -> None:
        """Closed with data unsent, all of it arrives, then the farewell of TLS, then the end."""
        for much in (b"", b"bye", PLENTY):
            with self.subTest(much=len(much)):
                served, client = await self.secure()
                served.write(much)
                served.close()
                self.assertEqual(await client.rest(), much)
                await client.part()
                self.assertIsInstance(await self.lost(served), ConnectionDone)
                self.assertEqual(await client.client.rest(), b"")

    async def test_closed_inside(self: Any) -> None:
        """So it is from inside dataReceived."""

        def close(served: Served) -> None:
            if served.received == b"STARTTLS":
                begin(served)
            else:
                served.write(b"bye")
                served.close()

        served, client = await self.connect(data=close)
        client.say(b"STARTTLS")
        await client.receive(3)
        tls = await TLSClient(client).begin()
        await tls.send(b"QUIT")
        self.assertEqual(await tls.rest(), b"bye")
        await tls.part()
        self.assertIsInstance(await self.lost(served), ConnectionDone)

    async def test_client_parts(self: Any) -> None:
        """When the client says farewell, the connection ends in order."""
        served, client = await self.secure()
        await client.send(b"last words")
        self.assertEqual(await client.receive(10), b"last words")
        await client.part()
        self.assertIsInstance(await self.lost(served), ConnectionDone)
        self.assertEqual(await client.client.rest(), b"")

    async def test_client_gone(self: Any) -> None:
        """When it goes without one, the connection is lost."""
        for how in ("end", "reset", "close"):
            with self.subTest(how=how):
                served, client = await self.secure()
                getattr(client.client, how)()
                self.assertIsInstance(await self.lost(served), ConnectionLost)

    async def test_gone_in_handshake(self: Any) -> None:
        """So it is during the handshake."""
        for how in ("end", "reset", "close"):
            for wait in (0, 10):
                with self.subTest(how=how, wait=wait):
                    served, client = await self.connect(data=begin)
                    client.say(b"STARTTLS")
                    await turns(wait)
                    getattr(client, how)()
                    await self.lost(served)

    async def test_garbage(self: Any) -> None:
        """A handshake that is none ends the connection with OpenSSL's error."""
        served, client = await self.connect(data=begin)
        client.say(b"STARTTLS")
        await client.receive(3)
        client.say(b"EHLO client.example\r\n")
        self.assertIsInstance(await self.lost(served), SSL.Error)

    async def test_aborted(self: Any) -> None:
        """Aborted under TLS, with data unsent, the client sees an RST."""
        served, client = await self.secure()
        served.write(PLENTY)
        served.do("abortConnection")
        await self.lost(served)
        await self.assertReset(client.client.rest())

    async def test_wrapped(self: Any) -> None:
        """An endpoint in wrapServerTLS serves TLS from the first byte."""
        endpoint = wrapServerTLS(OPTIONS, self.endpoint(reactor, 0, interface=LOOPBACK))
        port = self.open(
            listen=lambda factory: self.successResultOf(endpoint.listen(factory)),
            data=lambda served: served.write(served.received[-5:]),
        )
        served, client = await self.meet(port)
        tls = await TLSClient(client).begin()
        await tls.send(b"hello")
        self.assertEqual(await tls.receive(5), b"hello")
        served.close()
        self.assertEqual(await tls.rest(), b"")
        await tls.part()


class SMTPTests:
    """The SMTP server, and smtplib."""

    async def test_mail(self: Any) -> None:
        """Mail arrives, small and large, plain and after STARTTLS, in one session or several."""
        backend = ScriptedBackend()
        factory = SMTPFactory(backend, settings_with(), tls=OPTIONS)
        port = self.listen(factory)
        self.ports.append(port)
        small, large = b"Subject: small\r\n\r\ntext\r\n", b"Subject: large\r\n\r\n" + b"." * 70 + b"\r\n"
        large += b".twice the dot\r\n" * 200_000

        def send(secure: bool) -> tuple[int, bytes]:
            with smtplib.SMTP(LOOPBACK, port.getHost().port, timeout=60) as client:
                if secure:
                    client.starttls(context=trusting())
                for message in (small, large, small):
                    client.sendmail("a@x.example", ["b@y.example", "c@y.example"], message)
                return client.quit()

        for secure in (False, True, False):
            with self.subTest(secure=secure):
                code, _ = await deferToThread(send, secure)
                self.assertEqual(code, 221)
                kept = [message.content.partition(b"Subject:")[2] for message in backend.messages[-3:]]
                self.assertTrue(kept == [message[8:] for message in (small, large, small)], "not what was sent")
        await until(lambda: not factory.connections, "all connections are lost")

    async def test_pipelined(self: Any) -> None:
        """A long dialogue that is sent in one go is answered in full, up to the farewell and the end."""
        factory = SMTPFactory(ScriptedBackend(), settings_with(recipients=5000))
        self.ports.append(self.listen(factory))
        client = self.dial(self.ports[0])
        self.assertIn(b"220 ", await client.some(1000))
        await client.send(
            b"EHLO client.example\r\nMAIL FROM:<a@x.example>\r\n" + b"RCPT TO:<b@y.example>\r\n" * 5000 + b"QUIT\r\n"
        )
        output = await client.rest()
        self.assertEqual(output.count(b"\r\n250 2.1.5 "), 5000)
        self.assertRegex(output, rb"\r\n221 [^\r\n]+\r\n\Z")
        await until(lambda: not factory.connections, "all connections are lost")


class DirectTLSTests(TLSTests, Direct, TransportTestCase):
    endpoint = DirectServerEndpoint


class StockTLSTests(TLSTests, Stock, TransportTestCase):
    endpoint = TCP4ServerEndpoint


class DirectSMTPTests(SMTPTests, Direct, TransportTestCase):
    pass


class StockSMTPTests(SMTPTests, Stock, TransportTestCase):
    pass
