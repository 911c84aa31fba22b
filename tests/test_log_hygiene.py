"""
What clients and networks do to the log: nothing of theirs in it unescaped, no passwords, and no traceback.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import fail
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import formatEventAsClassicLogText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions.auth import LoginBroken
from smtpsvc.logs import LogMonitor, SummaryLog
from smtpsvc.proxied import ProxiedFactory
from smtpsvc.settings import parse_trusted
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.tlstesting import TLSWire
from tests.certificates import factory as tls_factory
from tests.certificates import pair
from tests.hooks import MAIL, RCPT
from tests.live import PATIENCE, Server
from tests.logins import AnswerChecker, CountingRealm, b64, plain
from tests.proxies import INET, PROXY, block, tls_tlv, tlv
from tests.support import settings_with

#: What breaks lines and screens: controls of C0 and C1, separators, marks of direction; with a line to forge.
EVIL = (
    b"\r\nFORGED", b"\nFORGED", b"\rFORGED", b"\x1b]0;FORGED\x07", b"\0FORGED", b"\x7fFORGED", b"\x0bFORGED",
    b"\xff\xfe",
    "\u202eFORGED".encode(), "\u2028FORGED".encode(), "\u2066FORGED".encode(), "\u0085FORGED".encode(),
    "\u009bFORGED".encode(), "\ufeffFORGED".encode(), b"'FORGED\\'",
)  # fmt: skip

MESSAGE = (MAIL, RCPT, "DATA", "Subject: x", "", "text", ".")


class LogTestCase(SynchronousTestCase):
    """Sees the log as it is written to a file."""

    def setUp(self) -> None:
        """Watch the log."""
        self.events: list[Any] = []
        watch = self.events.append
        globalLogPublisher.addObserver(watch)
        self.addCleanup(globalLogPublisher.removeObserver, watch)
        self.clock = Clock()
        self.summary = SummaryLog(self.clock)
        self.monitors = (self.summary, LogMonitor())

    def lines(self) -> list[str]:
        """The lines of the log so far."""
        self.summary.flush()
        texts = [formatEventAsClassicLogText(event, formatTime=lambda _: "TIME") or "" for event in self.events]
        self.events.clear()
        return "".join(texts).split("\n")[:-1]

    def check_lines(self) -> list[str]:
        """Each line is printable, and begins as ours do; they are given."""
        lines = self.lines()
        for line in lines:
            self.assertTrue(line.isprintable(), ascii(line))
            self.assertTrue(line.startswith("TIME ["), ascii(line))
        return lines


class EscapeTests(LogTestCase):
    def connect(self, backend: Any = None, **options: Any) -> Wire:
        """Connect a client that is trusted to speak for others."""
        settings = settings_with(trusted_proxies=parse_trusted("203.0.113.0/24,192.0.2.0/24"), xclient_login=True)
        factory, _ = clocked_factory(backend or ScriptedBackend(), settings, monitors=self.monitors, **options)
        return Wire(factory)

    def test_names(self) -> None:
        """The name of EHLO and HELO is escaped in each line that has it."""
        for evil in EVIL:
            for verb in (b"EHLO ", b"HELO "):
                with self.subTest(evil=evil, verb=verb):
                    self.connect().say(verb + b"client" + evil, "EHLO client.example", *MESSAGE).hang_up()
                    self.assertEqual(len(self.check_lines()), 2)

    def test_name_is_taken(self) -> None:
        """A name that is odd and taken is shown as a literal."""
        self.connect().say("EHLO a\u202eb", *MESSAGE)
        for line in self.check_lines():
            self.assertIn(r"('a\u202eb')", line)

    def test_addresses(self) -> None:
        """Sender and recipient are escaped."""
        for evil in EVIL:
            for form in (b"x%bx@x.example", b'"x%bx"@x.example', b"x@x%bx.example"):
                with self.subTest(evil=evil, form=form):
                    address = form % evil
                    wire = self.connect().say("EHLO client.example")
                    wire.say(b"MAIL FROM:<%b> SMTPUTF8" % address, "MAIL FROM:<> SMTPUTF8")
                    wire.say(b"RCPT TO:<%b>" % address, RCPT, *MESSAGE[2:]).hang_up()
                    self.assertEqual(len(self.check_lines()), 2)

    def test_broken_off(self) -> None:
        """A connection that ends in the middle of a transaction is one line, which says how far it came and why."""
        for evil in EVIL:
            for lines, end, words in (
                (("DATA", b"a" * 90), lambda wire: wire.hang_up(), "after 9[0-9] bytes: the connection was lost"),
                (("DATA", b"a" * 90), lambda wire: wire.hang_up(ConnectionDone()), "it closed the connection"),
                ((), lambda wire: wire.hang_up(), "to 1 recipients: the connection was lost"),
                ((), lambda wire: wire.factory.shut_down(), "it was told 421 4.3.2"),
            ):
                with self.subTest(evil=evil, words=words):
                    wire = self.connect().say("EHLO a\u202eb", b"MAIL FROM:<x%bx@x.example> SMTPUTF8" % evil)
                    if wire.codes[-1] != 250:
                        wire.say("MAIL FROM:<a@x.example>")
                    wire.say(RCPT, *lines)
                    end(wire)
                    wire.hang_up()
                    (line,) = self.check_lines()
                    self.assertRegex(line, rf"192\.0\.2\.1 \('a\\u202eb'\) broke off \w+ from '.*{words}")

    def test_orderly_end(self) -> None:
        """One that ends between transactions, or by QUIT, is none."""
        for lines in ((), (MAIL, "QUIT"), (MAIL, RCPT, "RSET"), (MAIL, RCPT, "EHLO x")):
            self.connect().say("EHLO x", *lines).hang_up()
        self.assertEqual(self.check_lines(), [])

    def test_refused_login(self) -> None:
        """A login that is refused is a line, with nothing of what the client sent for it."""
        for evil in EVIL:
            portal = Portal(CountingRealm(), [InMemoryUsernamePasswordDatabaseDontUse(joe=b"open sesame")])
            wire = TLSWire(tls_factory(portal=portal, monitors=self.monitors)[0])
            wire.greeted().say("STARTTLS")
            wire.secure().say(b"EHLO client.example")
            wire.say(b"AUTH PLAIN " + base64.b64encode(b"\0joe" + evil.replace(b"\0", b"") + b"\0sesame"))
            lines = self.check_lines()
            # By each of the two monitors; a name that cannot be is none to be judged.
            self.assertEqual(len(lines), 2 if wire.codes[-1] == 535 else 0)
            for line in lines:
                self.assertTrue(line.endswith(": a login of 192.0.2.1 ('client.example') by PLAIN was refused"), line)

    def test_late(self) -> None:
        """A message whose client has gone is logged in one line."""
        for evil in EVIL:
            backend = ScriptedBackend(finish=lambda: fail(ConnectionResetError()))
            self.connect(backend).say(b"EHLO " + evil, *MESSAGE).hang_up()
            self.flushLoggedErrors(ConnectionResetError)
            self.events = [event for event in self.events if "log_failure" not in event]
            self.check_lines()

    def test_xclient(self) -> None:
        """What XCLIENT and XFORWARD say is refused or escaped, the login among it."""
        for evil in EVIL:
            value = "".join(f"+{octet:02X}" for octet in evil)
            for words in (f"XCLIENT NAME=a{value}", f"XCLIENT LOGIN=a{value}", f"XCLIENT HELO=a{value}",
                          f"XFORWARD HELO=a{value} NAME=b{value} IDENT=c{value}"):  # fmt: skip
                with self.subTest(words):
                    wire = self.connect().say("EHLO client.example", words, "EHLO client.example", *MESSAGE)
                    self.assertEqual(wire.codes[-1], 250)
                    wire.hang_up()
                    self.assertEqual(len(self.check_lines()), 2)

    def test_login(self) -> None:
        """The name of who has logged in is escaped."""
        for evil in EVIL:
            with self.subTest(evil):
                checker = AnswerChecker(lambda credentials: credentials.username)
                portal = Portal(CountingRealm(), [checker])
                factory, _ = tls_factory(portal=portal, monitors=self.monitors)
                wire = TLSWire(factory)
                wire.greeted().say("STARTTLS")
                wire.secure().say("EHLO client.example")
                wire.say(b"AUTH PLAIN " + base64.b64encode(b"\0joe" + evil.replace(b"\0", b"") + b"\0x"), *MESSAGE)
                self.assertEqual(wire.codes[-1], 250)
                lines = self.check_lines()
                self.assertEqual(len(lines), 2)
                for line in lines:
                    self.assertIn("TLSv1.3", line)

    def test_proxy(self) -> None:
        """What a PROXY header says is escaped, and a wrong one is one line."""
        settings = settings_with(trusted_proxies=parse_trusted("203.0.113.0/24"), trust_proxy_tls=True)
        for evil in EVIL:
            version = tls_tlv(1, 0, tlv(0x21, b"TLS" + evil) + tlv(0x22, evil) + tlv(0x23, evil))
            for header in (block(INET + tlv(2, evil) + tlv(1, evil) + version), b"PROXY TCP4 " + evil + b"\r\n",
                           evil + b"x" * 20, block(INET + evil)):  # fmt: skip
                with self.subTest(header):
                    backend = ScriptedBackend()
                    factory, _ = clocked_factory(backend, settings, monitors=self.monitors)
                    wire = Wire(ProxiedFactory(factory), PROXY).receive(header)
                    if not wire.closed:
                        wire.say("EHLO client.example", *MESSAGE)
                    wire.hang_up()
                    self.assertIn(len(self.check_lines()), (1, 2))
                    for message in backend.messages:
                        head = message.content.partition(b"Subject:")[0]
                        self.assertNotRegex(head, rb"[^\t\r\n -~]|\r\nFORGED")

    def test_sni(self) -> None:
        """The name that a client asks for in its handshake (SNI) is escaped."""
        for evil in EVIL:
            if b"\0" in evil:
                continue  # OpenSSL's client cannot send it.
            with self.subTest(evil):
                backend = ScriptedBackend()
                wire = TLSWire(tls_factory(backend, monitors=self.monitors)[0])
                wire.greeted().say("STARTTLS")
                wire.secure(sni="mx" + evil.decode("utf-8", "replace"))
                wire.say("EHLO client.example", *MESSAGE)
                self.assertEqual(wire.codes[-1], 250)
                self.assertTrue(backend.sessions[0].peer.tls.sni.isprintable())
                self.check_lines()

    def test_reprs(self) -> None:
        """Peers and envelopes show themselves in one printable line."""
        backend = ScriptedBackend()
        wire = self.connect(backend).say("EHLO a\u202eb", "MAIL FROM:<x\u2028\u202ey@x.example> SMTPUTF8")
        self.assertEqual(wire.codes[-1], 250)
        envelope = backend.called("mail")[0][0]
        for thing in (envelope, envelope.peer):
            self.assertTrue(repr(thing).isprintable(), ascii(repr(thing)))


class SummaryTests(LogTestCase):
    def test_tls_and_account(self) -> None:
        """The line has the version of TLS and the account, where there are any."""
        portal = Portal(CountingRealm(), [InMemoryUsernamePasswordDatabaseDontUse(joe=b"open sesame")])
        wire = TLSWire(tls_factory(portal=portal, monitors=self.monitors)[0])
        wire.greeted().say("STARTTLS")
        wire.secure().say("EHLO client.example", *MESSAGE)
        for line in self.check_lines():
            self.assertTrue(line.endswith(" bytes, TLSv1.3, 0.000 s"), line)
        wire.say(f"AUTH PLAIN {plain()}", *MESSAGE)
        for line in self.check_lines():
            self.assertTrue(line.endswith(" bytes, TLSv1.3, as 'joe', 0.000 s"), line)


class AuthTests(LogTestCase):
    PASSWORD = "s3cret p\u00e4ss, word"

    def failing(self, error: Any, secret: str) -> str:
        """Log in with a checker that breaks; give all that was logged of it."""
        checker = AnswerChecker(lambda credentials: error(credentials) if callable(error) else error)
        factory, _ = tls_factory(portal=Portal(CountingRealm(), [checker]), monitors=self.monitors)
        wire = TLSWire(factory)
        wire.greeted().say("STARTTLS")
        wire.secure().say("EHLO client.example").say(f"AUTH PLAIN {plain('joe', secret)}")
        self.assertEqual(wire.codes[-1], 454)
        wire.say("AUTH LOGIN", b64("joe"), b64(secret))
        self.assertEqual(wire.codes[-1], 454)
        return "\n".join(self.lines())

    def test_words(self) -> None:
        """An exception whose words have the password is logged without them, with its class and traceback."""
        for make in (
            lambda credentials: ValueError(f"no: {credentials.password!r}"),
            lambda credentials: KeyError(credentials.password),
            lambda credentials: OSError(5, credentials.password.decode()),
            lambda credentials: ValueError(f"no: {credentials.password.decode()}"),
        ):
            text = self.failing(make, self.PASSWORD)
            self.assertEqual(len(self.flushLoggedErrors(LoginBroken)), 2)
            for form in (self.PASSWORD, repr(self.PASSWORD.encode())[2:-1], b64(self.PASSWORD), "s3cret"):
                self.assertNotIn(form, text)
            self.assertRegex(text, r"LoginBroken: builtins\.(ValueError|KeyError|OSError), with words that are not")
            self.assertIn("requestAvatarId", text)

    def test_other_words(self) -> None:
        """Other words of an exception stay: they say what is to be done."""
        text = self.failing(ValueError("the directory does not answer"), self.PASSWORD)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.assertIn("the directory does not answer", text)

    def test_nowhere(self) -> None:
        """What a client sends in AUTH, good, bad or broken, is nowhere in the log."""
        secret = "xyzzy-plugh"
        portal = Portal(CountingRealm(), [InMemoryUsernamePasswordDatabaseDontUse(joe=secret.encode())])
        wire = TLSWire(tls_factory(portal=portal, monitors=self.monitors)[0])
        wire.greeted().say("STARTTLS")
        wire.secure().say("EHLO client.example")
        encoded = plain("joe", secret)
        for line in (f"AUTH PLAIN {encoded}x", f"AUTH PLAIN {encoded[:-4]}", f"AUTH PLAIN\0{encoded}",
                     f"AUTH {encoded}", encoded, f"AUTH PLAIN {encoded}"):  # fmt: skip
            wire.say(line)
        wire.say(*MESSAGE).hang_up()
        self.summary.flush()
        whole = repr(self.events) + "\n".join(self.lines())
        self.assertNotIn(secret, whole)
        self.assertNotIn(encoded[8:-4], whole)


class NetworkTests(SynchronousTestCase):
    """The real service, and connections that end in any way."""

    DIALOGUE = (
        b"EHLO client.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\ntext\r\n.\r\n"
        b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 6 LAST\r\ntext\r\nAUTH PLAIN\r\n*\r\nSTARTTLS\r\n"
    )
    HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)
    HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 50123 25\r\n"

    def setUp(self) -> None:
        """Start it with a listener of each kind."""
        certificate = Path(self.mktemp())
        certificate.write_bytes(b"".join(pair()))
        self.server = Server(
            "--smtps", "tcp:0:interface=127.0.0.1", "--port", "haproxy:tcp:0:interface=127.0.0.1",
            "--tls-certificate", str(certificate.resolve()), "--trusted-proxies", "127.0.0.1",
            "--auth", "memory:joe:open sesame", "--backend", "null:", "--max-line-length", "600",
        )  # fmt: skip
        self.addCleanup(self.server.close)
        text = self.server.log.read_text()
        self.started = text.count("\n")
        self.ports = {"smtp": self.server.port}
        for name, words in {"smtps": "with implicit TLS", "haproxy": "behind a proxy"}.items():
            found = re.search(rf"127\.0\.0\.1:(\d+) {words}", text)
            assert found is not None, text
            self.ports[name] = int(found[1])

    def connect(self, kind: str = "smtp") -> socket.socket:
        """Connect."""
        client = socket.create_connection(("127.0.0.1", self.ports[kind]), PATIENCE)
        self.addCleanup(client.close)
        return client

    def finish(self) -> list[str]:
        """Send a mail to see that all goes on, stop the service, and give what it has logged of connections."""
        with self.connect() as client:
            client.sendall(self.DIALOGUE.partition(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT")[0])
            client.sendall(b"QUIT\r\n")
            said = b"".join(iter(lambda: client.recv(65536), b""))
        self.assertIn(b"221 ", said)
        self.server.stop()
        text = self.server.log.read_text()
        for word in ("Traceback", "Unhandled", "Error"):
            self.assertNotIn(word, text)
        lines = text.splitlines()[self.started :]
        ours = [line for line in lines if "[smtpsvc" in line and "stopping" not in line]
        return [line for line in ours if " from 127.0.0.1 (" not in line]

    def streams(self) -> Iterator[tuple[str, bytes]]:
        """Everything to be cut off: by the kind of listener."""
        for place in range(0, len(self.DIALOGUE) + 1, 3):
            yield "smtp", self.DIALOGUE[:place]
        for place in range(0, len(self.HELLO) + 1, 5):
            yield "smtps", self.HELLO[:place]
            yield "smtp", b"EHLO x\r\nSTARTTLS\r\n" + self.HELLO[:place]
        for place in range(0, len(self.HEADER) + 1, 3):
            yield "haproxy", self.HEADER[:place]

    def end(self, client: socket.socket, how: str) -> None:
        """End a connection."""
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "half":
            client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        client.close()

    def check(self, how: str, wait: bool) -> None:
        """Cut every stream off in one way."""
        count = 0
        for kind, stream in self.streams():
            client = self.connect(kind)
            client.sendall(stream)
            if wait and kind == "smtp":
                client.recv(10)
            self.end(client, how)
            count += 1
        self.assertLessEqual(len(self.finish()), count)

    def test_reset(self) -> None:
        """Connections that are reset at any moment leave no traceback, and a line each at most."""
        self.check("reset", wait=False)

    def test_reset_with_replies(self) -> None:
        """So do those whose replies were not all read."""
        self.check("reset", wait=True)

    def test_half_closed(self) -> None:
        """So do those whose client shuts its side down and waits."""
        self.check("half", wait=False)

    def test_garbage(self) -> None:
        """TLS that is none, or breaks off, is a line each."""
        garbage = (b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28",
                   b"\x16\x03\x01\xff\xff" + b"x" * 500, b"EHLO x\r\n", bytes(range(256)),
                   b"\x80\x2e\x01\x00\x02")  # fmt: skip
        for octets in garbage:
            client = self.connect("smtps")
            client.sendall(octets)
            self.end(client, "half")
        # In the middle of what was TLS already.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for octets in garbage:
            raw = self.connect("smtps")
            secured = context.wrap_socket(raw)
            secured.recv(100)
            inner = socket.socket(fileno=secured.detach())
            inner.sendall(octets)
            inner.shutdown(socket.SHUT_WR)
            inner.settimeout(PATIENCE)
            try:
                while inner.recv(65536):
                    pass
            except ConnectionResetError:
                pass
            inner.close()
        lines = self.finish()
        self.assertEqual(len([line for line in lines if "TLS handshake with 127.0.0.1 failed" in line]), len(garbage))
        self.assertLessEqual(len(lines), 2 * len(garbage))
