"""Tests of smtpsvc.client under TLS, over real sockets of this machine: who is believed, and what is bound to it."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates
from twisted.trial.unittest import TestCase

from smtpsvc.client import ConnectFailed, Login, LoginFailed, TLSFailed, Unsupported, connect
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.testing import ScriptedBackend
from smtpsvc.tlstesting import Authority
from tests.certificates import AUTHORITY, pair, store
from tests.logins import PASSWORD, CountingRealm, joes
from tests.meetings import MESSAGE
from tests.support import settings_with

TRUST = trustRootFromCertificates([Certificate.loadPEM(AUTHORITY.pem)])
STRANGERS = trustRootFromCertificates([Certificate.loadPEM(Authority("Strangers").pem)])


class TLSTests(TestCase):
    async def serve(self, factory: Any = None, **options: Any) -> int:
        """Serve on a free port, and give it."""
        self.backend = ScriptedBackend()
        settings = settings_with(enable=frozenset(options.pop("enable", ())))
        factory = factory or SMTPFactory(self.backend, settings, tls=store(options.pop("client_ca", b"")), **options)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def meet(self, port: int, **options: Any) -> Any:
        """Connect, and close at the end."""
        options = {"trust": TRUST, "hostname": "client.example", "server_name": "mx.example", **options}
        connection = await connect(("127.0.0.1", port), **options)
        self.addCleanup(connection.quit)
        return connection

    async def refused(self, port: int, kind: type[Exception] = TLSFailed, **options: Any) -> Any:
        """Give the error with which connecting fails."""
        try:
            await self.meet(port, **options)
        except kind as error:
            return error
        raise AssertionError("the connection was made")

    async def test_each_way(self) -> None:
        """By STARTTLS and from the beginning, mail goes through verified TLS."""
        for mode, implicit in (("required", False), ("opportunistic", False), ("implicit", True)):
            connection = await self.meet(await self.serve(implicit_tls=implicit), tls=mode)
            result = await connection.send("a@x.example", ["b@y.example"], MESSAGE)
            self.assertEqual(result.taken, ("b@y.example",))
            self.assertEqual(connection.tls.version, "TLSv1.3")
            self.assertIsNotNone(self.backend.messages[0].envelope.peer.tls)

    async def test_large(self) -> None:
        """Much content goes through TLS whole, by DATA and BDAT."""
        large = b".a line of text\r\n" * 200_000
        for chunking in (True, False):
            connection = await self.meet(await self.serve(), chunking=chunking)
            await connection.send("a@x.example", ["b@y.example"], large)
            self.assertTrue(self.backend.messages[0].content.endswith(large))

    async def test_requiretls(self) -> None:
        """REQUIRETLS is said under TLS."""
        connection = await self.meet(await self.serve(enable=["REQUIRETLS"]))
        await connection.send("a@x.example", ["b@y.example"], MESSAGE, params={"REQUIRETLS": True})
        self.assertIn("REQUIRETLS", self.backend.messages[0].envelope.mail_params)

    async def test_requiretls_unverified(self) -> None:
        """REQUIRETLS is for servers whose certificate was verified (RFC 8689 §4.2.1)."""
        for options in ({"verify": False}, {"tls": "opportunistic"}):
            connection = await self.meet(await self.serve(enable=["REQUIRETLS"]), **options)
            sending = connection.send("a@x.example", ["b@y.example"], MESSAGE, params={"REQUIRETLS": True})
            self.assertIsInstance(await sending.addErrback(lambda failure: failure.value), Unsupported)

    async def test_wrong_name(self) -> None:
        """A certificate for another name is refused, and nothing is said after the handshake."""
        for mode, implicit in (("required", False), ("implicit", True)):
            port = await self.serve(implicit_tls=implicit)
            error = await self.refused(port, server_name="other.example", tls=mode, login=Login("joe", PASSWORD))
            self.assertIn("certificate", str(error))
            self.assertEqual(self.backend.called("helo"), [] if implicit else [("client.example",)])

    async def test_address(self) -> None:
        """Without another name, the certificate must be for the address that was connected to."""
        connection = await self.meet(await self.serve(), server_name="")
        self.assertIsNotNone(connection.tls)

    async def test_unknown_authority(self) -> None:
        """A certificate of an authority that we do not trust is refused; the error tells why."""
        for mode, implicit in (("required", False), ("implicit", True)):
            error = await self.refused(await self.serve(implicit_tls=implicit), trust=STRANGERS, tls=mode)
            self.assertIn("certificate verify failed", str(error))

    async def test_unverified(self) -> None:
        """Any certificate is taken where that was said, and for opportunistic TLS."""
        for options in ({"verify": False}, {"tls": "opportunistic"}):
            connection = await self.meet(await self.serve(), trust=STRANGERS, server_name="other.example", **options)
            self.assertIsNotNone(connection.tls)

    async def test_login_needs_verified(self) -> None:
        """A password is not shown to whom the certificate does not vouch for."""
        login = Login("joe", PASSWORD, mechanisms=["PLAIN"])
        portal = Portal(CountingRealm(), [joes()])
        for options in ({"verify": False}, {"tls": "opportunistic"}):
            await self.refused(await self.serve(portal=portal), LoginFailed, login=login, **options)
        connection = await self.meet(await self.serve(portal=portal), login=login)
        self.assertEqual(connection.mechanism, "PLAIN")

    async def test_bound(self) -> None:
        """SCRAM is bound to the connection where both can."""
        portal = Portal(CountingRealm(), [joes()])
        connection = await self.meet(await self.serve(portal=portal), login=Login("joe", PASSWORD))
        self.assertEqual(connection.mechanism, "SCRAM-SHA-256-PLUS")

    async def test_certificate(self) -> None:
        """Our certificate is shown to a server that asks."""
        certificate = PrivateCertificate.loadPEM(b"".join(AUTHORITY.issue("client.example")))
        connection = await self.meet(await self.serve(client_ca=AUTHORITY.pem), certificate=certificate)
        await connection.send("a@x.example", ["b@y.example"], MESSAGE)
        shown = self.backend.messages[0].envelope.peer.tls.certificate
        self.assertEqual(shown.subject.rfc4514_string(), "CN=client.example")

    async def test_old_tls(self) -> None:
        """A server with nothing newer than TLS 1.1 is refused."""

        class Old:
            def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
                context = SSL.Context(SSL.TLS_SERVER_METHOD)
                context.set_max_proto_version(SSL.TLS1_1_VERSION)
                context.set_cipher_list(b"ALL:@SECLEVEL=0")
                made = PrivateCertificate.loadPEM(b"".join(pair()))
                context.use_certificate(made.original)
                context.use_privatekey(made.privateKey.original)
                return SSL.Connection(context, None)

        from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
        from zope.interface import directlyProvides

        old = Old()
        directlyProvides(old, IOpenSSLServerConnectionCreator)
        factory = SMTPFactory(ScriptedBackend(), settings_with(), tls=old)
        error = await self.refused(await self.serve(factory))
        self.assertIn("TLS could not begin", str(error))

    async def test_no_tls_there(self) -> None:
        """A server that speaks in clear where TLS is expected is left."""
        await self.refused(await self.serve(), tls="implicit")

    async def test_closed(self) -> None:
        """A server that closes instead of a handshake is an error of TLS."""
        factory = Factory.forProtocol(_Closing)
        self.assertIn("closed", str(await self.refused(await self.serve(factory))))

    async def test_nobody(self) -> None:
        """Where nobody listens, the error says so."""
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
        number = port.getHost().port
        await port.stopListening()
        error = await self.refused(number, ConnectFailed)
        self.assertIn("127.0.0.1", str(error))

    async def test_context_manager(self) -> None:
        """A connection closes itself at the end of its block."""
        port = await self.serve()
        async with await connect(("127.0.0.1", port), trust=TRUST, server_name="mx.example") as connection:
            pass
        self.assertIsNotNone(connection.error)

    def test_wrong_options(self) -> None:
        """Options that make no sense are refused before anything is tried."""
        self.assertRaises(ValueError, connect, ("127.0.0.1", 1), tls="maybe")
        self.assertRaises(ValueError, connect, 25)

    async def test_cancelled(self) -> None:
        """To cancel connecting gives up."""
        port = await self.serve(Factory.forProtocol(Protocol))
        connecting: Deferred[Any] = connect(("127.0.0.1", port), hostname="client.example")
        waiting: Deferred[None] = Deferred()
        reactor.callLater(0.05, waiting.callback, None)  # type: ignore[attr-defined]
        await waiting
        connecting.cancel()
        self.assertIsInstance(await connecting.addErrback(lambda failure: failure.value), CancelledError)
        closed: Deferred[None] = Deferred()
        reactor.callLater(0.05, closed.callback, None)  # type: ignore[attr-defined]
        await closed


class _Closing(Protocol):
    """Offers TLS, and closes when it should begin."""

    said = b""

    def connectionMade(self) -> None:
        self.transport.write(b"220 mx.example\r\n")

    def dataReceived(self, data: bytes) -> None:
        if data.startswith(b"EHLO"):
            self.transport.write(b"250-mx.example\r\n250 STARTTLS\r\n")
        elif data.startswith(b"STARTTLS"):
            self.transport.write(b"220 go\r\n")
            self.transport.loseConnection()
