"""
Tests of TLS and the PROXY header: TLS at the proxy, and TLS with us behind a header.
"""

from __future__ import annotations

from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import PrivateCertificate
from zope.interface import implementer

from smtpsvc.proxied import ProxiedFactory
from smtpsvc.settings import parse_trusted
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.tlstesting import TLSWire, certificate
from smtpsvc.values import TLSInfo
from tests.proxies import GREETING, INET, PROXY, TCP4, ProxiedTestCase, block, tls_tlv, tlv
from tests.support import HOST, settings_with


class TLSTests(ProxiedTestCase):
    """TLS at the proxy, and TLS with us behind a header."""

    tls = tls_tlv(0x03, 0, tlv(0x21, b"TLSv1.3") + tlv(0x22, b"Ann") + tlv(0x23, b"TLS_AES_128_GCM_SHA256"))

    def test_at_the_proxy(self) -> None:
        """The SSL TLV fills the peer's TLS."""
        self.connect().receive(block(INET + tlv(1, b"smtp") + tlv(2, b"mx.example") + self.tls))
        self.assertEqual(
            self.peer.tls,
            TLSInfo(
                "TLSv1.3", "TLS_AES_128_GCM_SHA256", "mx.example",
                alpn="smtp", common_name="Ann", verified=True, proxied=True,
            ),
        )  # fmt: skip

    def test_none_at_the_proxy(self) -> None:
        """Without an SSL TLV, or with one of a plain connection, there is no TLS."""
        for header in (TCP4, block(INET), block(INET + tls_tlv(0))):
            with self.subTest(header):
                self.connect().receive(header)
                self.assertIsNone(self.peer.tls)

    def test_counts(self) -> None:
        """TLS that ended at the proxy counts as TLS only where the settings say so."""
        for trusted in (False, True):
            with self.subTest(trusted=trusted):
                self.make(trust_proxy_tls=trusted)
                wire = self.connect().receive(block(INET + self.tls))
                self.assertIs(wire.protocol.successor.conversation.secure, trusted)
        wire = self.connect().receive(TCP4)
        self.assertFalse(wire.protocol.successor.conversation.secure)

    def test_below(self) -> None:
        """The header comes in clear, and our own TLS begins behind it."""
        backend = ScriptedBackend()
        settings = settings_with(trusted_proxies=parse_trusted("203.0.113.5"))
        own = PrivateCertificate.loadPEM(b"".join(certificate(HOST))).options()
        core, _ = clocked_factory(backend, settings, tls=own, implicit_tls=True)
        wire = TLSWire(ProxiedFactory(core), PROXY)
        wire.receive(TCP4)
        self.assertEqual((wire.output, backend.calls), (b"", []))
        wire.secure()
        self.assertEqual(wire.output, GREETING)
        peer = backend.sessions[0].peer
        assert peer.tls is not None
        self.assertEqual((peer.host, peer.tls.proxied), ("192.0.2.7", False))

    def test_around(self) -> None:
        """Where TLS is around the header, the successor learns that its handshake is complete."""
        order: list[str] = []

        @implementer(IHandshakeListener)
        class Listener(Protocol):
            def connectionMade(self) -> None:
                order.append("made")

            def handshakeCompleted(self) -> None:
                order.append("completed")

        self.core.protocol = lambda *_: Listener()
        wire = self.connect()
        wire.protocol.handshakeCompleted()
        wire.receive(TCP4)
        self.assertEqual(order, ["made", "completed"])
        wire.protocol.handshakeCompleted()
        self.assertEqual(order, ["made", "completed", "completed"])


class CountingTests(ProxiedTestCase):
    """What needs TLS is served by TLS at the proxy only where that counts."""

    def secured(self, *, required: bool = False, trusted: bool = False) -> Wire:
        """Connect with TLS at the proxy, and greet."""
        self.make(require_tls=required, trust_proxy_tls=trusted)
        header = block(INET + tls_tlv(subs=tlv(0x21, b"TLSv1.3") + tlv(0x23, b"AES")))
        return self.connect().receive(header).say("EHLO c.example").forget()

    def test_required(self) -> None:
        """Where TLS is required, MAIL is 530 unless it counts."""
        for trusted, code in ((False, 530), (True, 250)):
            with self.subTest(trusted=trusted):
                wire = self.secured(required=True, trusted=trusted).say("MAIL FROM:<>")
                self.assertEqual(wire.codes, [code])

    def test_requiretls(self) -> None:
        """REQUIRETLS is offered where it counts; the reply to EHLO is that of each client's kind."""
        for trusted in (False, True):
            with self.subTest(trusted=trusted):
                self.make(trust_proxy_tls=trusted, enable={"REQUIRETLS"})
                for header, shown in ((TCP4, False), (block(INET + tls_tlv()), trusted), (TCP4, False)):
                    wire = self.connect().receive(header).say("EHLO c.example")
                    self.assertIs("REQUIRETLS" in wire.last_reply.text, shown)

    def test_both_kinds(self) -> None:
        """Where TLS at the proxy does not count, TLS of our own does, with the same listener."""
        self.make(enable={"REQUIRETLS"})
        for tls, shown in ((TLSInfo("TLSv1.3", "AES", proxied=True), False), (TLSInfo("TLSv1.3", "AES"), True)):
            wire = self.connect().receive(TCP4)
            self.peer.tls = tls
            self.assertIs("REQUIRETLS" in wire.say("EHLO c.example").last_reply.text, shown)

    def test_received(self) -> None:
        """Received says ESMTPS, and how, where it counts."""
        for trusted in (False, True):
            with self.subTest(trusted=trusted):
                wire = self.secured(trusted=trusted)
                wire.say("MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA", ".")
                content = self.backend.messages[0].content
                self.assertIs(b"with ESMTPS " in content, trusted)
                self.assertIs(b"TLSv1.3 with cipher AES" in content, trusted)
