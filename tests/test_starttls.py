"""
Tests of smtpsvc.extensions.starttls and smtpsvc.server.secured: TLS on a connection that began without.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions
from zope.interface import implementer

from smtpsvc.grammar.replies import PermanentError, Reply
from smtpsvc.interfaces import ISecured
from smtpsvc.server.secured import handshake_problem
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire
from smtpsvc.tlstesting import Authority, TLSWire, client_context
from tests.certificates import AUTHORITY, TLSTestCase, connect, factory, pair, secured, store
from tests.hooks import MAIL, RCPT, Late
from tests.support import HOST
from tests.support import connect as connect_plain

TRANSACTION = ("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA", "Subject: x\r\n\r\ntext\r\n.")


def keywords(wire: Wire) -> set[str]:
    """Give what EHLO shows."""
    return {line.partition(" ")[0] for line in wire.forget().say("EHLO again.example").last_reply.text.split("\n")[1:]}


class OfferTests(TLSTestCase):
    """Where STARTTLS is shown and served."""

    def test_shown(self) -> None:
        """EHLO shows STARTTLS where there is a certificate and no TLS yet."""
        self.assertIn("STARTTLS", keywords(connect()))

    def test_not_shown_under_tls(self) -> None:
        """EHLO keeps silent of it under TLS (RFC 3207 §4.2)."""
        self.assertNotIn("STARTTLS", keywords(secured()))

    def test_not_offered(self) -> None:
        """Without a certificate it is neither shown nor served: 502 5.5.1."""
        wire = connect_plain(extensions=None).greeted()
        self.assertNotIn("STARTTLS", keywords(wire))
        reply = wire.forget().say("STARTTLS").last_reply
        self.assertEqual((reply.code, reply.enhanced), (502, "5.5.1"))

    def test_codes(self) -> None:
        """Where it may not stand it is refused, and the dialogue goes on in clear."""
        cases: list[tuple[tuple[str, ...], str, tuple[int, str]]] = [
            ((), "STARTTLS now", (501, "5.5.4")),
            ((MAIL,), "STARTTLS", (503, "5.5.1")),
            ((MAIL, RCPT), "STARTTLS", (503, "5.5.1")),
        ]
        for before, line, expected in cases:
            with self.subTest(line, before=before):
                wire = connect()
                wire.say(*before, line)
                self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), expected)
                self.assertEqual(wire.say("NOOP").codes[-1], 250)

    def test_before_ehlo(self) -> None:
        """Before EHLO it is 503."""
        wire = TLSWire(factory()[0])
        self.assertEqual(wire.say("STARTTLS").codes, [220, 503])

    def test_twice(self) -> None:
        """Under TLS it is 503 5.5.1."""
        wire = secured().greeted().say("STARTTLS")
        self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (503, "5.5.1"))

    def test_white_space(self) -> None:
        """White space at the end and letters of either case are let pass."""
        self.assertEqual(connect().say("sTARTtls  ").codes, [220])

    def test_transport_without(self) -> None:
        """A transport that has no TLS gives 454 4.7.0."""
        wire = Wire(factory()[0]).greeted().say("STARTTLS", "NOOP")
        self.assertEqual([(reply.code, reply.enhanced) for reply in wire.replies], [(454, "4.7.0"), (250, "2.0.0")])

    def test_help(self) -> None:
        """HELP names it where EHLO shows it: not without a certificate, and not under TLS."""
        wire = connect()
        self.assertIn("STARTTLS", wire.say("HELP").last_reply.text)
        wire.say("STARTTLS")
        wire.secure().say("EHLO client.example")
        self.assertNotIn("STARTTLS", wire.say("HELP").last_reply.text)
        self.assertNotIn("STARTTLS", connect_plain().say("HELP").last_reply.text)


class BeginTests(TLSTestCase):
    """What follows a good handshake."""

    def test_reply(self) -> None:
        """The reply is 220 2.0.0, in one write with those before it."""
        wire = connect()
        wire.receive(b"NOOP\r\nRSET\r\nSTARTTLS\r\n")
        self.assertEqual(wire.codes, [250, 250, 220])
        self.assertEqual(wire.last_reply, Reply(220, "Ready to start TLS", "2.0.0"))
        self.assertEqual(wire.write_count, 1)

    def test_silence(self) -> None:
        """After the handshake the server says nothing before the client does."""
        self.assertEqual(secured().output, b"")

    def test_ehlo_needed(self) -> None:
        """EHLO is needed again, and replies carry no enhanced codes before it (RFC 3207 §4.2)."""
        wire = secured().say("MAIL FROM:<a@x.example>")
        self.assertEqual(wire.output[:4], b"503 ")
        self.assertEqual(wire.last_reply.enhanced, "")

    def test_forgotten(self) -> None:
        """The client's name, its login and whether it is extended are forgotten."""
        wire = connect()
        conversation = wire.protocol.conversation
        peer = conversation.peer
        conversation.login(type("Account", (), {"name": "ann"})())
        wire.say("STARTTLS")
        wire.secure()
        self.assertEqual((peer.helo, peer.extended, conversation.extended, peer.account), ("", False, False, None))

    def test_session_kept(self) -> None:
        """The session stays, and is told once, with no transaction."""
        backend = ScriptedBackend()
        secured(backend)
        self.assertEqual(backend.hooks, ["open_session", "helo", "reset"])
        self.assertEqual(backend.called("reset"), [(None, True)])

    def test_reset_waits(self) -> None:
        """Commands wait until the session has forgotten."""
        late = Late()
        backend = ScriptedBackend(reset=late)
        wire = secured(backend).say("EHLO b.example")
        self.assertEqual((wire.codes, backend.hooks[-1]), ([], "reset"))
        late.fire()
        self.assertEqual((wire.codes, backend.hooks[-1]), ([250], "helo"))

    def test_peer(self) -> None:
        """peer.tls says version, cipher and the name that the client asked for."""
        backend = ScriptedBackend()
        wire = connect(backend)
        wire.say("STARTTLS")
        wire.secure(sni="mx.example")
        tls = backend.sessions[0].peer.tls
        assert tls is not None
        self.assertEqual((tls.version, tls.sni, tls.certificate), ("TLSv1.3", "mx.example", None))
        self.assertEqual(tls.cipher, wire.client.get_cipher_name())

    def test_client_certificate(self) -> None:
        """peer.tls shows a client's certificate that the authority has issued, and no other."""
        clients = Authority("Clients")
        known, stranger = clients.issue(common_name="ann"), Authority("Clients").issue(common_name="ann")
        for shown, expected in ((known, "CN=ann"), (stranger, None), (None, None)):
            with self.subTest(expected=expected):
                backend = ScriptedBackend()
                wire = connect(backend, tls=store(clients.pem))
                wire.say("STARTTLS")
                wire.secure(client_context(*shown) if shown else None).forget()
                tls = backend.sessions[0].peer.tls
                assert tls is not None
                certificate = tls.certificate
                self.assertEqual(certificate and certificate.subject.rfc4514_string(), expected)
                self.assertEqual(wire.say("EHLO b.example").codes, [250])

    def test_message(self) -> None:
        """A message comes through, and its Received says ESMTPS, version and cipher (RFC 3848)."""
        backend = ScriptedBackend()
        wire = secured(backend)
        wire.say("EHLO client.example", *TRANSACTION)
        self.assertEqual(wire.codes, [250, 250, 250, 354, 250])
        trace, _, content = backend.messages[0].content.partition(b"Subject: ")
        self.assertEqual(content, b"x\r\n\r\ntext\r\n")
        self.assertIn(b" with ESMTPS id ", b" ".join(trace.split()))
        self.assertIn(b"(using TLSv1.3 with cipher TLS_", b" ".join(trace.split()))

    def test_trace_is_made_anew(self) -> None:
        """A message before STARTTLS is ESMTP, one after it ESMTPS."""
        backend = ScriptedBackend()
        wire = connect(backend)
        wire.say(*TRANSACTION, "STARTTLS")
        wire.secure().say("EHLO client.example", *TRANSACTION)
        found = [message.content.partition(b" id ")[0].split()[-1] for message in backend.messages]
        self.assertEqual(found, [b"ESMTP", b"ESMTPS"])

    def test_quit(self) -> None:
        """QUIT is answered under TLS, and the session closed once."""
        backend = ScriptedBackend()
        wire = secured(backend).say("QUIT")
        self.assertEqual((wire.codes, wire.closed), ([221], True))
        self.assertEqual(len(backend.called("close")), 1)

    def test_lmtp(self) -> None:
        """LMTP listeners have it too."""
        self.assertIn(b"STARTTLS", factory(role=Role.LMTP)[0].tables.verbs)


class StolenTests(TLSTestCase):
    """Plaintext that somebody put behind STARTTLS has no effect (CVE-2011-0411)."""

    SHAPES = {
        "a command": b"NOOP\r\n",
        "a greeting": b"EHLO evil.example\r\n",
        "AUTH": b"AUTH PLAIN AGFubgBwYXNz\r\n",
        "half a command": b"MAIL FROM:<ev",
        "a lone CR": b"\r",
        "a damaged line": b"NO\nOP\r\n",
        "a transaction": b"RSET\r\nEHLO x\r\nMAIL FROM:<e@x.example>\r\nRCPT TO:<v@y.example>\r\nDATA\r\nevil\r\n.\r\n",
        "70 KB": b"NOOP\r\n" * 12_000,
        "one long line": b"x" * 70_000,
        "STARTTLS again": b"STARTTLS\r\n",
        "QUIT": b"QUIT\r\n",
    }

    def check_clean(self, wire: TLSWire, backend: ScriptedBackend, size: int) -> None:
        """Begin TLS, and see that the dialogue begins as if nothing had come in clear."""
        self.assertEqual(wire.codes, [220])
        wire.secure().forget()
        self.assertEqual(wire.output, b"")
        # A message's first command is not glued to anything.
        self.assertEqual(wire.say("EHLO good.example", *TRANSACTION).codes, [250, 250, 250, 354, 250])
        self.assertEqual(backend.called("helo"), [("client.example",), ("good.example",)])
        (message,) = backend.messages
        self.assertEqual(str(message.sender), "a@x.example")
        self.assertNotIn(b"evil", message.content)
        (line,) = self.logged("in clear")
        self.assertIn(f"dropped {size} bytes that 192.0.2.1 sent", line)
        self.events.clear()

    def test_same_packet(self) -> None:
        """In the packet of STARTTLS."""
        for name, stolen in self.SHAPES.items():
            with self.subTest(name):
                backend = ScriptedBackend()
                wire = connect(backend)
                wire.receive(b"STARTTLS\r\n" + stolen)
                self.check_clean(wire, backend, len(stolen))

    def test_while_a_hook_waits(self) -> None:
        """In the same and later packets, while the session still chooses the context."""
        for name, stolen in self.SHAPES.items():
            with self.subTest(name):
                late = Late()
                backend = ScriptedBackend(tls_context=late, provides=[ISecured])
                wire = connect(backend)
                wire.receive(b"STARTTLS\r\n" + stolen[:3])
                for start in range(3, len(stolen), 16_384):
                    wire.receive(stolen[start : start + 16_384])
                self.assertEqual(wire.codes, [])
                late.fire()
                self.check_clean(wire, backend, len(stolen))

    def test_not_read_yet(self) -> None:
        """In packets that a paused transport delivers later: TLS fails, and the connection ends."""
        late = Late()
        backend = ScriptedBackend(tls_context=late, provides=[ISecured])
        wire = connect(backend)
        wire.say("STARTTLS").receive(b"NOOP\r\n" * 12_000)
        self.assertFalse(wire.reading)
        wire.receive(b"MAIL FROM:<evil@x.example>\r\n")
        late.fire()
        self.assertEqual((wire.codes, wire.closed), ([220], True))
        self.assertEqual(backend.hooks, ["open_session", "helo", "tls_context", "close"])

    def test_after_the_reply(self) -> None:
        """In a later packet, before the handshake: TLS fails, and the connection ends."""
        for name, stolen in self.SHAPES.items():
            if len(stolen) < 5:
                # Too short for TLS to see what it is.
                continue
            with self.subTest(name):
                backend = ScriptedBackend()
                wire = connect(backend)
                wire.say("STARTTLS").receive(stolen)
                self.assertEqual((wire.codes, wire.closed), ([220], True))
                self.assertEqual(backend.hooks, ["open_session", "helo", "close"])
                self.assertEqual(len(self.logged("TLS handshake with 192.0.2.1 failed")), 1)
                self.events.clear()

    def test_refused(self) -> None:
        """Where STARTTLS was refused nothing is dropped: there is no TLS for it to be taken for."""
        wire = connect_plain(extensions=None).greeted()
        self.assertEqual(wire.receive(b"STARTTLS\r\nNOOP\r\n").codes, [502, 250])


class ContextTests(TLSTestCase):
    """A session may choose what its connection's TLS begins with."""

    def start(self, answer: Any) -> tuple[TLSWire, ScriptedBackend]:
        """Say STARTTLS to a session that answers so."""
        backend = ScriptedBackend(tls_context=answer, provides=[ISecured])
        wire = connect(backend)
        wire.say("STARTTLS")
        return wire, backend

    def shown(self, wire: TLSWire) -> str:
        """Give the name of the certificate that the client sees."""
        certificate = wire.secure().client.get_peer_certificate(as_cryptography=True)
        return str(certificate.subject.rfc4514_string())

    def own(self) -> CertificateOptions:
        """Make a context as Twisted does."""
        certificate, key = pair("other.example")
        from OpenSSL.crypto import FILETYPE_PEM, load_certificate, load_privatekey

        return CertificateOptions(load_privatekey(FILETYPE_PEM, key), load_certificate(FILETYPE_PEM, certificate))

    def test_default(self) -> None:
        """None is the default, which the hook is given."""
        wire, backend = self.start(None)
        self.assertEqual(self.shown(wire), f"CN={HOST}")
        self.assertEqual(backend.called("tls_context"), [(store(),)])

    def test_own(self) -> None:
        """Its own context serves this connection, at once or later."""
        for answer in (self.own(), succeed(self.own())):
            with self.subTest(answer):
                self.assertEqual(self.shown(self.start(answer)[0]), "CN=other.example")

    def test_waits(self) -> None:
        """The 220 waits for it."""
        late: Deferred[Any] = Deferred()
        wire, _ = self.start(late)
        self.assertEqual(wire.codes, [])
        late.callback(self.own())
        self.assertEqual(wire.codes, [220])
        self.assertEqual(self.shown(wire), "CN=other.example")

    def test_refusal(self) -> None:
        """A refusal is the reply, and the dialogue goes on in clear."""
        refusal = Reply(454, "Not today", "4.7.0")
        for answer in (refusal, succeed(refusal), PermanentError("Not you", "5.7.0")):
            with self.subTest(answer):
                wire, _ = self.start(answer)
                self.assertEqual(wire.last_reply.text, getattr(answer, "reply", refusal).text)
                self.assertEqual(wire.say("NOOP").codes[-1], 250)

    def test_nonsense(self) -> None:
        """What is no context gives 454 4.7.0, and one logged failure."""
        wire, _ = self.start("a context")
        self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (454, "4.7.0"))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_failure(self) -> None:
        """An exception is a refusal, and one logged failure."""
        wire, _ = self.start(RuntimeError("no"))
        self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (451, "4.3.0"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_broken_creator(self) -> None:
        """A creator that fails is logged; the client's handshake fails, and the session is closed."""

        @implementer(IOpenSSLServerConnectionCreator)
        class Broken:
            def serverConnectionForTLS(self, protocol: object) -> Any:
                raise RuntimeError("no")

        wire, backend = self.start(Broken())
        self.assertRaises(SSL.Error, wire.secure)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(wire.closed)
        self.assertEqual(backend.hooks[-1], "close")

    def test_close_meanwhile(self) -> None:
        """A session that closes its connection while it chooses gets no TLS: 454, then its last reply."""
        late: Deferred[Any] = Deferred()
        wire, backend = self.start(late)
        backend.sessions[0].connection.close(Reply(421, "Bye", "4.3.2"))
        late.callback(None)
        self.assertEqual((wire.codes, wire.closed), ([454, 421], True))


class SecuredTests(TLSTestCase):
    """A session may judge the TLS that its client has."""

    def test_called(self) -> None:
        """It is asked once, when it has forgotten the rest, with what is in peer.tls."""
        backend = ScriptedBackend(provides=[ISecured])
        secured(backend)
        self.assertEqual(backend.hooks[-2:], ["reset", "secured"])
        self.assertEqual(backend.called("secured"), [(backend.sessions[0].peer.tls,)])

    def test_waits(self) -> None:
        """Commands wait for its answer."""
        late = Late()
        backend = ScriptedBackend(secured=late, provides=[ISecured])
        wire = secured(backend).say("EHLO b.example")
        self.assertEqual(wire.codes, [])
        late.fire()
        self.assertEqual(wire.codes, [250])

    def test_refusal(self) -> None:
        """A refusal answers every command but QUIT (RFC 3207 §4.1)."""
        refusal = Reply(554, "Refused due to lack of security", "5.7.0")
        for answer in (refusal, succeed(refusal)):
            backend = ScriptedBackend(secured=answer, provides=[ISecured])
            wire = secured(backend).say("EHLO b.example", "HELO b", MAIL, "NOOP", "STARTTLS", "RSET x", "QUIT")
            self.assertEqual(wire.codes, [554, 554, 554, 554, 554, 554, 221])
            self.assertNotIn("mail", backend.hooks)

    def test_chunk(self) -> None:
        """The octets of a chunk that is refused are no commands, and may come later."""
        for settings in ({}, {"require_tls": True}):
            with self.subTest(settings=settings):
                backend = ScriptedBackend(secured=Reply(554, "No", "5.7.0"), provides=[ISecured])
                wire = secured(backend, **settings)
                wire.receive(b"BDAT 10 LAST\r\nQUIT").receive(b"\r\nNOOPQUIT\r\n")
                self.assertEqual(wire.codes, [554, 221])

    def test_others(self) -> None:
        """A refusal is for that connection alone."""
        backend = ScriptedBackend(secured=[Reply(554, "No", "5.7.0")], provides=[ISecured])
        server = factory(backend)[0]
        codes = []
        for _ in range(2):
            wire = TLSWire(server)
            wire.greeted().say("STARTTLS")
            codes.append(wire.secure().forget().say("EHLO b.example").codes)
        self.assertEqual(codes, [[554], [250]])


class FailureTests(TLSTestCase):
    """A failed handshake ends the connection, with one line in the log and no traceback."""

    def test_reason(self) -> None:
        """The line has the peer and OpenSSL's reason."""
        wire = connect()
        wire.say("STARTTLS")
        old = client_context(lowest=SSL.TLS1_1_VERSION, highest=SSL.TLS1_1_VERSION)
        self.assertRaises(SSL.Error, wire.secure, old)
        (line,) = self.logged()
        self.assertRegex(line, r"^\w+: TLS handshake with 192\.0\.2\.1 failed: unsupported protocol$")
        self.assertTrue(wire.closed)

    def test_hang_up(self) -> None:
        """A client that goes away in the middle is one line."""
        wire = connect()
        wire.say("STARTTLS").hang_up()
        (line,) = self.logged()
        self.assertRegex(line, "failed: ")

    def test_session(self) -> None:
        """The session is closed once, and no hook is called after."""
        backend = ScriptedBackend()
        connect(backend).say("STARTTLS").receive(b"nonsense\r\n")
        self.assertEqual(backend.hooks, ["open_session", "helo", "close"])

    def test_deadline(self) -> None:
        """A handshake that takes longer than its limit ends the connection, without a reply."""
        server, clock = factory(handshake_timeout=30)
        wire = TLSWire(server)
        wire.greeted().say("STARTTLS").forget()
        clock.pump([1.0] * 29)
        self.assertFalse(wire.closed)
        clock.pump([1.0] * 4)
        self.assertTrue(wire.closed)
        self.assertEqual(wire.output, b"")
        self.assertEqual([line.partition("failed: ")[2] for line in self.logged()], ["not complete after 30 s"])

    def test_deadline_is_over(self) -> None:
        """After the handshake a client has as long as any."""
        server, clock = factory(handshake_timeout=30)
        wire = TLSWire(server)
        wire.greeted().say("STARTTLS")
        wire.secure().forget()
        clock.pump([1.0] * 100)
        self.assertEqual(wire.say("NOOP").codes, [250])

    def test_shut_down(self) -> None:
        """A service that ends in the middle of a handshake closes without a word."""
        server, _ = factory()
        wire = TLSWire(server)
        wire.greeted().say("STARTTLS").forget()
        server.shut_down()
        self.assertEqual(wire.output, b"")
        self.assertEqual(self.logged(), [])

    def test_problem(self) -> None:
        """Whatever the cause, it is told in half a sentence."""
        from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
        from twisted.python.failure import Failure

        cases = [
            (SSL.Error([("SSL routines", "", "no shared cipher")]), "no shared cipher"),
            (SSL.Error([("a", "b", "one"), ("a", "b", "two")]), "one; two"),
            (SSL.Error(), "OpenSSL gives no reason"),
            (SSL.Error([]), "OpenSSL gives no reason"),
            (ConnectionDone(), "the client closed the connection"),
            (ConnectionLost(), "the client closed the connection"),
            (ConnectionAborted(), "it was broken off"),
            (OSError("odd"), "odd"),
        ]
        for error, expected in cases:
            with self.subTest(expected):
                self.assertEqual(handshake_problem(Failure(error)), expected)


class RequireTLSTests(TLSTestCase):
    """With require_tls only what leads to TLS is served before it (RFC 3207 §4)."""

    def test_refused(self) -> None:
        """Other verbs are 530 5.7.0, wherever they stand and whatever their arguments are."""
        wire = connect(require_tls=True)
        lines = (MAIL, RCPT, "DATA", "RSET", "VRFY a", "EXPN a", "HELP", "MAIL", "rcpt x", "TURN")
        for line in lines:
            with self.subTest(line):
                wire.forget().say(line)
                self.assertEqual(wire.last_reply, Reply(530, "Must issue a STARTTLS command first", "5.7.0"))

    def test_served(self) -> None:
        """EHLO, HELO, NOOP, STARTTLS and QUIT are served."""
        wire = connect(require_tls=True)
        self.assertEqual(wire.say("EHLO a.example", "HELO a", "NOOP", "STARTTLS").codes, [250, 250, 250, 220])
        self.assertEqual(connect(require_tls=True).say("QUIT").codes, [221])

    def test_after_tls(self) -> None:
        """Under TLS all is served, with the usual checks of sequence and syntax."""
        wire = secured(require_tls=True).say("EHLO b.example", RCPT, "MAIL", *TRANSACTION)
        self.assertEqual(wire.codes, [250, 503, 501, 250, 250, 354, 250])

    def test_hooks(self) -> None:
        """No hook hears of what is refused."""
        backend = ScriptedBackend()
        connect(backend, require_tls=True).say(*TRANSACTION)
        self.assertEqual(backend.hooks, ["open_session", "helo"])

    def test_chunk(self) -> None:
        """The octets of a chunk that is refused are no commands."""
        wire = connect(require_tls=True)
        wire.receive(b"BDAT 12 LAST\r\nSTARTTLS\r\n\r\nNOOP\r\n")
        self.assertEqual(wire.codes, [530, 250])

    def test_unknown(self) -> None:
        """An unknown verb is unknown all the same."""
        self.assertEqual(connect(require_tls=True).say("FROB").codes, [500])


class BindingTests(TLSTestCase):
    """What binds an exchange to the connection's TLS."""

    def binding(self, wire: TLSWire, kind: str) -> bytes | None:
        """Ask the conversation."""
        found: bytes | None = wire.protocol.conversation.channel_binding(kind)
        return found

    def test_exporter(self) -> None:
        """tls-exporter is what the client exports too (RFC 9266)."""
        wire = secured()
        theirs = wire.client.export_keying_material(b"EXPORTER-Channel-Binding", 32, None)
        self.assertEqual(self.binding(wire, "tls-exporter"), theirs)
        self.assertEqual(len(theirs), 32)

    def test_end_point(self) -> None:
        """tls-server-end-point is the hash of the certificate that the client sees (RFC 5929 §4)."""
        wire = secured()
        certificate = x509.load_pem_x509_certificate(pair()[0])
        self.assertEqual(self.binding(wire, "tls-server-end-point"), certificate.fingerprint(hashes.SHA256()))

    def test_older(self) -> None:
        """TLS 1.2 gives tls-server-end-point only."""
        wire = connect()
        wire.say("STARTTLS")
        wire.secure(client_context(highest=SSL.TLS1_2_VERSION))
        self.assertIsNone(self.binding(wire, "tls-exporter"))
        self.assertIsNotNone(self.binding(wire, "tls-server-end-point"))

    def test_none(self) -> None:
        """There is none without TLS, none of an unknown kind, and none when the connection is gone."""
        self.assertIsNone(self.binding(connect(), "tls-exporter"))
        wire = secured()
        self.assertIsNone(self.binding(wire, "tls-unique"))
        wire.say("QUIT")
        self.assertIsNone(self.binding(wire, "tls-exporter"))


class AuthorityTests(TLSTestCase):
    """The certificates of smtpsvc.tlstesting are good ones."""

    def test_verified(self) -> None:
        """A client that knows the authority believes the server."""
        context = client_context()
        trusted = context.get_cert_store()
        assert trusted is not None
        from OpenSSL.crypto import X509

        trusted.add_cert(X509.from_cryptography(x509.load_pem_x509_certificate(AUTHORITY.pem)))
        context.set_verify(SSL.VERIFY_PEER)
        wire = connect()
        wire.say("STARTTLS")
        self.assertEqual(wire.secure(context).forget().say("NOOP").codes, [250])
