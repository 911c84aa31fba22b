"""
Tests of TLS over real sockets: from the first byte, behind STARTTLS, and behind a proxy's header.
"""

from __future__ import annotations

import os
import smtplib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXServerEndpoint, serverFromString, wrapServerTLS
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import ISecured
from smtpsvc.listeners import parse_listener
from smtpsvc.service import MailService
from smtpsvc.settings import KIB, Role, parse_trusted
from smtpsvc.testing import ScriptedBackend
from smtpsvc.tlstesting import TLSWire, client_context
from smtpsvc.transport import DirectServerEndpoint
from tests.certificates import AUTHORITY, TLSTestCase, factory, store
from tests.hooks import Late
from tests.live import PATIENCE, until
from tests.support import HOST, settings_with


def trusting() -> ssl.SSLContext:
    """Make a client's context that believes our authority alone."""
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    context.check_hostname = True
    return context


class Client:
    """
    A client that blocks, for a thread of its own.

    :param where: a port of 127.0.0.1, or the path of a unix socket.
    """

    def __init__(self, where: int | str) -> None:
        self.socket: Any
        if isinstance(where, int):
            self.socket = socket.create_connection(("127.0.0.1", where), timeout=PATIENCE)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE)
            self.socket.connect(where)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def secure(self) -> Client:
        """Begin TLS."""
        self.socket = trusting().wrap_socket(self.socket, server_hostname="localhost")
        return self

    def say(self, *lines: str) -> list[bytes]:
        """Send lines one after another, and give the last line of each reply."""
        return [self._answer(line.encode() + b"\r\n") for line in lines]

    def _answer(self, data: bytes) -> bytes:
        self.socket.sendall(data)
        return self.reply()

    def reply(self) -> bytes:
        """Read one reply, and give its last line."""
        while True:
            line = b""
            while not line.endswith(b"\r\n"):
                octet = self.socket.recv(1)
                if not octet:
                    return line
                line += octet
            if line[3:4] == b" ":
                return line

    def rest(self) -> bytes:
        """Read all that still comes."""
        found = []
        try:
            while data := self.socket.recv(1 << 16):
                found.append(data)
        except (ConnectionError, ssl.SSLError):
            pass
        return b"".join(found)


class SocketTestCase(TestCase):
    """Runs a service on a free port, and clients in threads."""

    timeout = PATIENCE * 2

    def setUp(self) -> None:
        """Watch the log."""
        self.events: list[Any] = []
        watch: Callable[[Any], None] = self.events.append
        globalLogPublisher.addObserver(watch)
        self.addCleanup(globalLogPublisher.removeObserver, watch)

    def serve(self, backend: Any = None, text: str = "tcp:0:interface=127.0.0.1", **options: Any) -> Any:
        """Start a service with one listener, and give its port or path."""
        listener = parse_listener(text, reactor)
        return self.open(listener, backend, implicit_tls=listener.implicit_tls, **options)

    def open(self, endpoint: Any, backend: Any = None, *, implicit_tls: bool = False, **options: Any) -> Any:
        """Start a service on an endpoint, and give its port or path."""
        self.backend = backend or ScriptedBackend()
        self.service = MailService(self.backend, settings_with(**options), tls=store())
        self.service.listen(endpoint, implicit_tls=implicit_tls)
        self.service.startService()
        self.addCleanup(self.service.stopService)
        address: Any = self.service.ports[0].getHost()
        return address.name if hasattr(address, "name") else address.port

    def client(self, port: int | str, act: Callable[[Client], Any]) -> Deferred[Any]:
        """Let a client act in a thread, and give what it found."""

        def run() -> Any:
            with Client(port) as client:
                return act(client)

        return deferToThread(run)

    def logged(self, words: str) -> list[str]:
        """Give the lines of our log that have *words*."""
        lines = [formatEvent(event) for event in self.events if str(event.get("log_namespace")).startswith("smtpsvc")]
        return [line for line in lines if words in line]


class StartTLSTests(SocketTestCase):
    """STARTTLS over TCP."""

    async def test_smtplib(self) -> None:
        """smtplib verifies the certificate and sends a message; half a megabyte comes through."""
        content = b"".join(b"%06d %s\r\n" % (number, b"x" * 60) for number in range(8000))
        port = self.serve()

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
                client._host = "localhost"  # type: ignore[attr-defined]
                client.starttls(context=trusting())
                client.sendmail("a@x.example", ["b@y.example"], b"Subject: x\r\n\r\n" + content)

        await deferToThread(send)
        (message,) = self.backend.messages
        self.assertTrue(message.content.endswith(b"Subject: x\r\n\r\n" + content))
        self.assertIn(b" with ESMTPS id ", b" ".join(message.content[:500].split()))

    async def test_stolen(self) -> None:
        """Plaintext in the packet of STARTTLS has no effect, whatever it is."""
        shapes = [
            b"NOOP\r\n",
            b"EHLO evil.example\r\nMAIL FROM:<evil@x.example>\r\n",
            b"AUTH PLAIN AGFubgBwYXNz\r\n",
            b"MAIL FR",
        ]
        path = f"{self.mktemp()}.sock"
        transports: dict[str, Any] = {
            "stock": TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
            "direct": DirectServerEndpoint(reactor, 0, interface="127.0.0.1"),
            "unix": UNIXServerEndpoint(reactor, os.path.relpath(path)),
        }
        for name, endpoint in transports.items():
            where = self.open(endpoint)
            for stolen in shapes:

                def act(client: Client, stolen: bytes = stolen) -> list[bytes]:
                    client.reply()
                    client.say("EHLO a.example")
                    client.socket.sendall(b"STARTTLS\r\n" + stolen)
                    first = client.reply()
                    return [first, *client.secure().say("MAIL FROM:<a@x.example>", "EHLO b.example", "NOOP", "QUIT")]

                found = await self.client(where, act)
                self.assertEqual([line[:3] for line in found], [b"220", b"503", b"250", b"250", b"221"], (name, stolen))
                self.assertNotIn(("evil.example",), self.backend.called("helo"))
        self.assertEqual(len(self.logged("in clear behind STARTTLS")), len(shapes) * len(transports))

    async def test_much_stolen(self) -> None:
        """70 KB of it neither: dropped or met by TLS, which then fails."""
        port = self.serve()

        def act(client: Client) -> bytes:
            client.reply()
            client.say("EHLO a.example")
            client.socket.sendall(b"STARTTLS\r\n" + b"RSET\r\nNOOP\r\n" * 6000)
            try:
                client.reply()
                return client.secure().say("EHLO b.example")[0]
            except (ssl.SSLError, OSError):
                return b""

        self.assertIn((await self.client(port, act))[:3], (b"250", b""))
        self.assertEqual(self.backend.called("reset"), [(None, True)] if self.backend.called("reset") else [])
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_not_tls(self) -> None:
        """A client that says something else instead of the handshake is dropped, with one line and no traceback."""
        port = self.serve()

        def act(client: Client) -> bytes:
            client.reply()
            client.say("EHLO a.example", "STARTTLS")
            client.socket.sendall(b"MAIL FROM:<a@x.example>\r\n")
            return client.rest()

        rest = await self.client(port, act)
        self.assertNotIn(b"250", rest)
        self.assertEqual(len(self.logged("TLS handshake with 127.0.0.1 failed: ")), 1)

    async def test_unread(self) -> None:
        """A session that is closed while the client still sends ends for both."""
        port = self.serve(ScriptedBackend(mail=Reply(421, "Enough", "4.7.0")))

        def act(client: Client) -> list[bytes]:
            client.reply()
            client.say("EHLO a.example", "STARTTLS")
            client.secure().say("EHLO b.example")
            client.socket.sendall(b"MAIL FROM:<a@x.example>\r\n" + b"NOOP\r\n" * 2000)
            return [client.reply(), client.rest()]

        reply, _ = await self.client(port, act)
        self.assertEqual(reply[:3], b"421")


class ImplicitTests(SocketTestCase):
    """TLS from the first byte (RFC 8314)."""

    IMPLICIT = "implicit-tls:tcp:0:interface=127.0.0.1"

    async def test_smtplib(self) -> None:
        """smtplib's SMTP_SSL verifies the certificate and sends a message."""
        port = self.serve(text=self.IMPLICIT)

        def send() -> None:
            with smtplib.SMTP_SSL("localhost", port, context=trusting(), timeout=PATIENCE) as client:
                client.sendmail("a@x.example", ["b@y.example"], b"Subject: x\r\n\r\ntext\r\n")

        await deferToThread(send)
        self.assertEqual(len(self.backend.messages), 1)
        self.assertIn(b" with ESMTPS id ", b" ".join(self.backend.messages[0].content.split()))

    async def test_waits(self) -> None:
        """Before the handshake nothing is said and no session opened; then peer.tls is filled."""
        seen = []
        backend = ScriptedBackend()
        backend.answers["open_session"] = lambda peer, connection: seen.append(peer.tls)  # usual() follows
        port = self.serve(backend, text=self.IMPLICIT)

        def act(client: Client) -> tuple[bytes, bytes]:
            client.socket.settimeout(0.2)
            try:
                early = client.socket.recv(10)
            except TimeoutError:
                early = b""
            client.socket.settimeout(PATIENCE)
            before = len(seen)
            return early + b"!" * before, client.secure().reply()

        early, greeting = await self.client(port, act)
        self.assertEqual((early, greeting[:4]), (b"", b"220 "))
        self.assertEqual([tls.version for tls in seen], ["TLSv1.3"])

    async def test_plain_client(self) -> None:
        """A client that speaks in clear is dropped, and opens no session."""
        port = self.serve(text=self.IMPLICIT)

        def act(client: Client) -> bytes:
            client.socket.sendall(b"EHLO a.example\r\n")
            return client.rest()

        self.assertNotIn(b"220", await self.client(port, act))
        self.assertEqual(self.backend.hooks, [])
        self.assertEqual(len(self.logged("TLS handshake with 127.0.0.1 failed: ")), 1)

    async def test_no_starttls(self) -> None:
        """STARTTLS is not shown there, and 503."""
        port = self.serve(text=self.IMPLICIT)

        def act(client: Client) -> list[bytes]:
            client.secure().reply()
            return client.say("EHLO a.example", "STARTTLS", "QUIT")

        self.assertEqual([line[:3] for line in await self.client(port, act)], [b"250", b"503", b"221"])

    async def test_pressure(self) -> None:
        """A delivery that is not ready pauses its client under TLS too."""
        late = Late()
        port = self.serve(ScriptedBackend(write=late), text=self.IMPLICIT, message_size=0, add_received=False)
        size = 24 * 1024 * KIB
        line = b"x" * 998 + b"\r\n"

        def act(client: Client) -> bytes:
            client.secure().reply()
            client.say("EHLO a.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA")
            client.socket.settimeout(0.5)
            sent = 0
            try:
                while sent < size:
                    sent += client.socket.send(line * 64)
            except TimeoutError:
                pass
            self.assertLess(sent, size)
            self.assertEqual(len(late.waiting), 1)
            client.socket.settimeout(PATIENCE)
            self.backend.answers["write"] = None
            IReactorThreads(reactor).callFromThread(late.fire_all)
            # Where it was cut nobody knows: the rest of a line, then the end.
            client.socket.sendall(b"\r\n.\r\n")
            return client.reply()

        reply = await self.client(port, act)
        self.assertIn(reply[:3], (b"250", b"550"))

    async def test_large(self) -> None:
        """A message of 8 MiB comes through octet by octet."""
        content = b"".join(b"%07d %s\r\n" % (number, b"y" * 500) for number in range(16_000))
        port = self.serve(text=self.IMPLICIT, add_received=False)

        def send() -> None:
            with smtplib.SMTP_SSL("localhost", port, context=trusting(), timeout=PATIENCE) as client:
                client.sendmail("a@x.example", ["b@y.example"], content)

        await deferToThread(send)
        self.assertEqual(self.backend.messages[0].content, content)

    async def test_close_notify(self) -> None:
        """A client that ends TLS behind its commands gets the replies to them."""
        port = self.serve(text=self.IMPLICIT)

        def act(client: Client) -> bytes:
            client.secure().reply()
            client.socket.sendall(b"EHLO a.example\r\nNOOP\r\nRSET\r\n")
            replies = [client.reply(), client.reply(), client.reply()]
            client.socket.unwrap()
            return b"".join(replies)

        self.assertEqual((await self.client(port, act)).count(b"250"), 3)

    async def test_reset(self) -> None:
        """A connection that is reset under TLS closes its session once, and logs nothing."""
        late = Late()
        backend = ScriptedBackend(mail=late)
        closed: Deferred[Any] = Deferred()
        backend.answers["close"] = lambda reason: closed.callback(None)
        port = self.serve(backend, text=self.IMPLICIT)

        def act(client: Client) -> None:
            client.secure().reply()
            client.say("EHLO a.example")
            client.socket.sendall(b"MAIL FROM:<a@x.example>\r\n")
            until(lambda: late.waiting, "MAIL is asked about")
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        await self.client(port, act)
        await closed
        self.assertEqual((len(backend.called("close")), late.cancelled), (1, 1))

    async def test_stop(self) -> None:
        """A service that stops tells its clients under TLS."""
        port = self.serve(text=self.IMPLICIT)

        def act(client: Client) -> bytes:
            client.secure().reply()
            client.say("EHLO a.example")
            IReactorThreads(reactor).callFromThread(self.service.stopService)
            return client.reply()

        self.assertEqual((await self.client(port, act))[:3], b"421")

    async def test_stop_in_handshake(self) -> None:
        """A service that stops does not wait for a handshake."""
        port = self.serve(text=self.IMPLICIT)

        def act(client: Client) -> bytes:
            until(lambda: self.service.factory(implicit_tls=True).connections, "the connection is there")
            IReactorThreads(reactor).callFromThread(self.service.stopService)
            return client.rest()

        self.assertEqual(await self.client(port, act), b"")


class ForeignTests(SocketTestCase):
    """An endpoint that brings TLS of its own."""

    async def test_wrapped(self) -> None:
        """Greeting and session wait for its handshake, and peer.tls is filled."""
        self.backend = ScriptedBackend()
        service = MailService(self.backend, settings_with())
        endpoint = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        service.listen(wrapServerTLS(store(), endpoint))
        service.startService()
        self.addCleanup(service.stopService)

        def act(client: Client) -> list[bytes]:
            return [client.secure().reply(), *client.say("EHLO a.example", "QUIT")]

        port = service.ports[0].getHost().port  # type: ignore[attr-defined]
        self.assertEqual([line[:3] for line in await self.client(port, act)], [b"220", b"250", b"221"])
        tls = self.backend.sessions[0].peer.tls
        assert tls is not None
        self.assertEqual(tls.sni, "localhost")


class ProxiedTests(SocketTestCase):
    """Behind a proxy the header comes in clear, and TLS after it."""

    HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 465\r\n"

    async def test_header_then_tls(self) -> None:
        """The session opens when both are there, with the client's address and its TLS."""
        trusted = parse_trusted("127.0.0.1")
        port = self.serve(text="haproxy:implicit-tls:tcp:0:interface=127.0.0.1", trusted_proxies=trusted)

        def act(client: Client) -> list[bytes]:
            client.socket.sendall(self.HEADER)
            return [client.secure().reply(), *client.say("EHLO a.example", "QUIT")]

        self.assertEqual([line[:3] for line in await self.client(port, act)], [b"220", b"250", b"221"])
        peer = self.backend.sessions[0].peer
        assert peer.tls is not None
        self.assertEqual((peer.host, peer.tls.version), ("192.0.2.7", "TLSv1.3"))

    async def test_one_packet(self) -> None:
        """Header and ClientHello may come in one packet, cut anywhere."""
        trusted = parse_trusted("127.0.0.1")
        port = self.serve(text="haproxy:implicit-tls:tcp:0:interface=127.0.0.1", trusted_proxies=trusted)

        def act(client: Client) -> bytes:
            tls = SSL.Connection(client_context(), None)
            tls.set_connect_state()
            data = self.HEADER
            while True:
                try:
                    tls.do_handshake()
                except SSL.WantReadError:
                    pass
                else:
                    break
                client.socket.sendall(data + tls.bio_read(1 << 16))
                data = b""
                tls.bio_write(client.socket.recv(1 << 16))
            client.socket.sendall(tls.bio_read(1 << 16))
            while True:
                try:
                    return tls.recv(1 << 16)
                except SSL.WantReadError:
                    tls.bio_write(client.socket.recv(1 << 16))

        self.assertEqual((await self.client(port, act))[:4], b"220 ")


class MemoryTests(TLSTestCase):
    """What needs no socket."""

    def test_refusal(self) -> None:
        """A session that does not like its client's TLS says so in place of the greeting, and closes."""
        backend = ScriptedBackend(secured=Reply(554, "Refused due to lack of security", "5.7.0"), provides=[ISecured])
        wire = TLSWire(factory(backend, implicit_tls=True)[0]).secure()
        self.assertEqual((wire.codes, wire.closed), ([554], True))

    def test_secured_waits(self) -> None:
        """The greeting waits for the session's word on TLS."""
        late = Late()
        backend = ScriptedBackend(secured=late, provides=[ISecured])
        wire = TLSWire(factory(backend, implicit_tls=True)[0]).secure()
        self.assertEqual((wire.codes, backend.hooks), ([], ["open_session", "secured"]))
        late.fire()
        self.assertEqual(wire.codes, [220])

    def test_session_refused(self) -> None:
        """A refusal of open_session is the greeting, under TLS."""
        backend = ScriptedBackend(open_session=Reply(550, "Go away", "5.7.1"))
        wire = TLSWire(factory(backend, implicit_tls=True)[0]).secure()
        self.assertEqual((wire.codes, wire.closed), ([550], True))

    def test_early_commands(self) -> None:
        """Commands that come with the end of the handshake are served after the greeting, in order."""
        late = Late()
        backend = ScriptedBackend(secured=late, provides=[ISecured])
        wire = TLSWire(factory(backend, implicit_tls=True)[0]).secure()
        wire.say("EHLO a.example", "NOOP")
        late.fire()
        self.assertEqual(wire.codes, [220, 250, 250])

    def test_deadline(self) -> None:
        """Who does not begin TLS is dropped after the handshake's limit."""
        server, clock = factory(implicit_tls=True, handshake_timeout=10)
        wire = TLSWire(server)
        clock.pump([1.0] * 13)
        self.assertTrue(wire.closed)
        self.assertEqual(len(self.logged("not complete after 10 s")), 1)

    def test_no_certificate(self) -> None:
        """A factory cannot begin with TLS that it does not have."""
        from smtpsvc.server.factory import SMTPFactory

        error = self.assertRaises(ValueError, SMTPFactory, ScriptedBackend(), settings_with(), implicit_tls=True)
        self.assertIn("CertificateStore", str(error))

    def test_roles(self) -> None:
        """Any role may begin with TLS."""
        for role in Role:
            with self.subTest(role):
                wire = TLSWire(factory(role=role, implicit_tls=True)[0]).secure()
                self.assertEqual(wire.output[: 4 + len(HOST)], f"220 {HOST}".encode())
