"""
Tests of smtpsvc.extensions.xclient: a trusted proxy says who the client is.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.xtext import encode_xtext
from smtpsvc.proxied import ProxiedFactory
from smtpsvc.testing import Wire
from smtpsvc.values import Account, TLSInfo
from tests.proxies import CLIENT, INET, PROXY, STRANGER, XClientTestCase, block

TLS = TLSInfo("TLSv1.3", "TLS_AES_128_GCM_SHA256")


class PermissionTests(XClientTestCase):
    """Who may give XCLIENT, and who sees it."""

    def shown(self, wire: Wire) -> list[str]:
        """What EHLO shows of it."""
        text = wire.say("EHLO x").last_reply.text
        return [line for line in text.split("\n") if line.startswith("XCLIENT")]

    def test_trusted(self) -> None:
        """A trusted proxy sees the attributes."""
        self.assertEqual(self.shown(self.connect()), ["XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT"])

    def test_login_shown(self) -> None:
        """LOGIN is shown where it is taken."""
        self.make(xclient_login=True)
        self.assertEqual(self.shown(self.connect()), ["XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT LOGIN"])

    def test_strangers(self) -> None:
        """Others do not see it, and get 550 5.7.0 whatever they write and whenever."""
        for trusted in ("", "203.0.113.0/24", "unix"):
            self.make(trusted=trusted)
            for command in ("XCLIENT ADDR=192.0.2.7", "XCLIENT", "xclient =", "XCLIENT LOGIN=root"):
                with self.subTest(trusted=trusted, command=command):
                    wire = self.connect(STRANGER)
                    self.assertEqual(self.shown(wire), [])
                    wire.say(command)
                    self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (550, "5.7.0"))
                    wire.say("MAIL FROM:<>").say(command)
                    self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (550, "5.7.0"))
                    self.assertEqual(len(self.backend.called("open_session")), len(self.backend.sessions))
                    self.assertEqual(self.peer.address, STRANGER)

    def test_unix(self) -> None:
        """A client of a unix socket may where the word unix is given."""
        for trusted, shown in (("unix", 1), ("0.0.0.0/0", 0)):
            self.make(trusted=trusted)
            self.assertEqual(len(self.shown(self.connect(UNIXAddress(None)))), shown)

    def test_help(self) -> None:
        """HELP does not name it."""
        self.assertNotIn("XCLIENT", self.connect().say("HELP").last_reply.text)

    def test_behind_a_header(self) -> None:
        """Behind a PROXY header the client decides, and not the proxy that carries its words."""
        address = "203.0.113.5"
        cases = {
            b"PROXY TCP4 192.0.2.9 198.51.100.1 1 25\r\n": 0,
            b"PROXY TCP4 203.0.113.9 198.51.100.1 1 25\r\n": 1,
            b"PROXY UNKNOWN\r\n": 0,
            block(family=0): 0,
            block(bytes(216), family=0x31): 0,
            block(INET, family=0x12): 0,
            block(command=0x20, family=0): 1,
        }
        for header, shown in cases.items():
            with self.subTest(header):
                wire = Wire(ProxiedFactory(self.factory), IPv4Address("TCP", address, 1)).receive(header)
                self.assertEqual(len(self.shown(wire)), shown)
                wire.say("XCLIENT ADDR=192.0.2.7")
                self.assertEqual(wire.last_reply.code, 220 if shown else 550)

    def test_again(self) -> None:
        """The proxy may speak for another client later, whoever the last one was."""
        wire = self.connect().say("XCLIENT ADDR=192.0.2.7", "EHLO c.example").forget()
        self.assertEqual(len(self.shown(wire)), 1)
        wire.say("XCLIENT ADDR=192.0.2.8")
        self.assertEqual((wire.last_reply.code, self.peer.host, self.peer.proxied_by), (220, "192.0.2.8", PROXY))


class AttributeTests(XClientTestCase):
    """What each attribute does."""

    def test_address(self) -> None:
        """ADDR and PORT take the place of the proxy's; who gave them is known."""
        cases: dict[tuple[str, ...], Any] = {
            ("ADDR=192.0.2.7", "PORT=50123"): CLIENT,
            ("ADDR=192.0.2.7",): IPv4Address("TCP", "192.0.2.7", 0),
            ("PORT=50123",): IPv4Address("TCP", "203.0.113.5", 50123),
            ("ADDR=IPV6:2001:db8::7", "PORT=50123"): IPv6Address("TCP", "2001:db8::7", 50123),
            ("addr=ipv6:2001:DB8:0::7", "port=0"): IPv6Address("TCP", "2001:db8::7", 0),
            ("ADDR=IPV6:::ffff:192.0.2.7", "PORT=[UNAVAILABLE]"): IPv4Address("TCP", "192.0.2.7", 0),
            ("ADDR=[UNAVAILABLE]", "PORT=50123"): None,
            ("ADDR=[tempunavail]",): None,
            ("NAME=x",): PROXY,
        }
        for attributes, address in cases.items():
            with self.subTest(attributes):
                peer = self.said(*attributes)
                self.assertEqual((peer.address, peer.proxied_by), (address, PROXY))
                self.assertEqual((peer.host, peer.port), (getattr(address, "host", ""), getattr(address, "port", 0)))

    def test_unix(self) -> None:
        """A proxy on a unix socket has no address that a port could be added to."""
        self.make(trusted="unix")
        unix = UNIXAddress(None)
        self.connect(unix).say("XCLIENT PORT=50123")
        self.assertEqual(self.peer.address, unix)
        self.connect(unix).say("XCLIENT ADDR=192.0.2.7 PORT=50123")
        self.assertEqual((self.peer.address, self.peer.proxied_by), (CLIENT, unix))

    def test_destination(self) -> None:
        """DESTADDR and DESTPORT say where the client connected to."""
        cases: dict[tuple[str, ...], Any] = {
            ("DESTADDR=198.51.100.1", "DESTPORT=25"): IPv4Address("TCP", "198.51.100.1", 25),
            ("DESTADDR=IPV6:2001:db8::1",): IPv6Address("TCP", "2001:db8::1", 0),
            ("DESTPORT=25",): None,
            ("DESTADDR=[UNAVAILABLE]", "DESTPORT=25"): None,
        }
        for attributes, address in cases.items():
            with self.subTest(attributes):
                self.assertEqual(self.said(*attributes).destination, address)

    def test_name(self) -> None:
        """NAME is the host name that the proxy has found, if it has."""
        cases = {"c.example": "c.example", "a+2Bb+3Dc": "a+b=c", "[UNAVAILABLE]": "", "[tempUnavail]": ""}
        for value, name in cases.items():
            with self.subTest(value):
                self.assertEqual(self.said(f"NAME={value}").name, name)

    def test_helo(self) -> None:
        """HELO is the client's name until EHLO gives another."""
        wire = self.connect().say("XCLIENT HELO=[192.0.2.7]")
        self.assertEqual(self.peer.helo, "[192.0.2.7]")
        wire.say("EHLO c.example")
        self.assertEqual(self.peer.helo, "c.example")
        self.assertEqual(self.said("HELO=[UNAVAILABLE]").helo, "")
        self.assertEqual(self.said("HELO=my+20computer").helo, "my computer")

    def test_protocol(self) -> None:
        """PROTO says whether the client greeted with EHLO; it must greet again all the same."""
        for value, extended in (("SMTP", False), ("ESMTP", True), ("esmtp", True), ("LMTP", True)):
            with self.subTest(value):
                self.assertIs(self.said(f"PROTO={value}").extended, extended)

    def test_login(self) -> None:
        """LOGIN sets the account where the settings let it."""
        self.make(xclient_login=True)
        self.assertEqual(self.said("LOGIN=ann+40x.example").account, Account("ann@x.example"))
        self.assertIsNone(self.said("LOGIN=[UNAVAILABLE]").account)
        wire = self.connect().say("XCLIENT LOGIN=ann", "EHLO x", "XCLIENT NAME=y")
        self.assertEqual(wire.last_reply.code, 220)
        self.assertIsNone(self.peer.account)

    def test_no_login(self) -> None:
        """Elsewhere LOGIN is 501, and nothing changes."""
        wire = self.connect().say("XCLIENT ADDR=192.0.2.7 LOGIN=ann")
        self.assertEqual(wire.replies, [Reply(501, "LOGIN is not offered here", "5.5.4")])
        self.assertEqual(self.peer.address, PROXY)

    def test_kept(self) -> None:
        """What one XCLIENT says of the connection stays for the next; of HELO and PROTO nothing does."""
        wire = self.connect().say(
            "XCLIENT NAME=c.example ADDR=192.0.2.7 PORT=50123 DESTADDR=198.51.100.1 HELO=x PROTO=ESMTP"
        )
        wire.say("XCLIENT PROTO=SMTP")
        peer = self.peer
        self.assertEqual((peer.name, peer.address, peer.helo, peer.extended), ("c.example", CLIENT, "", False))
        self.assertEqual(peer.destination, IPv4Address("TCP", "198.51.100.1", 0))

    def test_tls_stays(self) -> None:
        """TLS stays: it cannot be ended."""
        wire = self.connect()
        self.peer.tls = TLS
        wire.say("XCLIENT ADDR=192.0.2.7")
        self.assertEqual((self.peer.host, self.peer.tls), ("192.0.2.7", TLS))

    def test_id(self) -> None:
        """The connection keeps its id."""
        wire = self.connect()
        before = self.peer
        wire.say("XCLIENT ADDR=192.0.2.7")
        self.assertIsNot(self.peer, before)
        self.assertEqual(self.peer.id, before.id)

    def test_received(self) -> None:
        """Received shows the client."""
        wire = self.connect().say("XCLIENT ADDR=192.0.2.7", "EHLO c.example")
        wire.say("MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA", ".")
        self.assertEqual(wire.codes[-1], 250)
        self.assertIn(b"from c.example ([192.0.2.7])", self.backend.messages[0].content)


class SyntaxTests(XClientTestCase):
    """What is no XCLIENT."""

    def test_mistakes(self) -> None:
        """Anything else is 501 5.5.4, and nothing changes."""
        cases = (
            "", "ADDR", "ADDR=", "=x", "ADDR =192.0.2.7", "ADDR= 192.0.2.7", "ADDR=192.0.2.7,NAME=x", "ADDR=1\tNAME=x",
            "ADDR=192.0.2.7 ADDR=192.0.2.8", "ADDR=192.0.2.7 addr=192.0.2.8", "ADDR=192.0.2", "ADDR=192.0.2.256",
            "ADDR=192.0.2.07", "FOO=x",
            "ADDR=[192.0.2.7]", "ADDR=2001:db8::7", "ADDR=IPV6:192.0.2.7", "ADDR=IPV6:", "ADDR=IPV6:x",
            "ADDR=IPV6:fe80::1%eth0",
            "ADDR=IPV6:[::1]", "ADDR=c.example", "PORT=65536", "PORT=-1", "PORT=x", "PORT=1+20",
            "PORT=000001", "DESTADDR=x", "DESTPORT=x", "PROTO=HTTP", "PROTO=ESMTPS", "IDENT=x", "SOURCE=LOCAL",
            "NAME=a+0Db",
            "NAME=a+0Ab", "NAME=a+00b", "NAME=a+7Fb", "NAME=a+09b", "NAME=+0D+0A250+20OK", "NAME=a+4", "NAME=+",
            "NAME=a+zz", "NAME=a+2b", "NAME=a=b", "NAME=ü", "NAME=" + "x" * 256, "HELO=" + "+20" * 256, "HELO=a+80b",
        )  # fmt: skip
        for text in cases:
            with self.subTest(text):
                wire = self.connect().say(f"XCLIENT {text}")
                self.assertEqual([(reply.code, reply.enhanced) for reply in wire.replies], [(501, "5.5.4")])
                self.assertEqual(wire.say("NOOP").last_reply.code, 250)
                self.assertEqual((self.peer.address, self.peer.helo), (PROXY, "proxy.example"))
        self.assertNotIn("close", self.backend.hooks)

    def test_bare_octets(self) -> None:
        """CR, LF and NUL as they are cut no command in two."""
        for octet in (b"\r", b"\n", b"\0"):
            wire = self.connect().receive(b"XCLIENT NAME=a" + octet + b"XCLIENT ADDR=192.0.2.7\r\n")
            self.assertEqual(wire.codes, [500])
            self.assertEqual(self.peer.address, PROXY)

    def test_longest(self) -> None:
        """A value has 255 characters once it is decoded."""
        self.assertEqual(self.said("HELO=" + "+2B" * 255).helo, "+" * 255)

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255))
    def test_any_value(self, value: str) -> None:
        """Any printable text comes through in xtext."""
        self.make()
        peer = self.said(f"NAME={encode_xtext(value)}")
        self.assertEqual(peer.name, "" if value.upper() in ("[UNAVAILABLE]", "[TEMPUNAVAIL]") else value)

    @given(st.binary(max_size=60))
    def test_any(self, argument: bytes) -> None:
        """Any argument is answered once, and forges nothing."""
        self.make()
        argument = argument.translate(None, b"\r\n\0")
        wire = self.connect().say(b"XCLIENT NAME=" + argument)
        self.assertEqual(len(wire.replies), 1)
        self.assertIn(wire.last_reply.code, (220, 501))
