"""
Tests of the ``Received:`` that smtpsvc.server.receiving puts in front of a message (RFC 5321 §4.4).
"""

from __future__ import annotations

import re

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, RCPT, Late, connect, in_data, lines
from tests.support import HOST, settings_with


def received(
    *dialogue: str, hello: str = "EHLO client.example", address: IAddress | None = None, hostname: str = HOST
) -> str:
    """Send a message after *dialogue*; give the content's first field, unfolded, with its id as ``ID``."""
    backend = ScriptedBackend()
    factory, clock = clocked_factory(backend, settings_with(hostname=hostname))
    clock.advance(1_000_000_000)
    wire = Wire(factory, address).say(hello, *(dialogue or (MAIL, RCPT)), "DATA", "text", ".")
    if wire.last_reply.code != 250:
        raise AssertionError(wire.replies)
    message = backend.messages[0]
    header, _, body = message.content.partition(b"\r\ntext\r\n")
    if body or not header:
        raise AssertionError(message.content)
    return re.sub(r"\r\n[ \t]", " ", header.decode()).replace(f" id {message.envelope.id}", " id ID")


class FieldTests(SynchronousTestCase):
    def test_field(self) -> None:
        """The field names client, address, server, protocol, id, the one recipient and the time."""
        self.assertEqual(
            received(),
            "Received: from client.example ([192.0.2.1]) by mx.example with ESMTP id ID for <b@y.example>; "
            "Sun, 9 Sep 2001 01:46:40 +0000",
        )

    def test_protocols(self) -> None:
        """``with`` tells SMTP from ESMTP, and UTF8SMTP where it was declared (RFC 3848, RFC 6531 §4.3)."""
        self.assertIn(" with SMTP id ", received(hello="HELO client.example"))
        self.assertIn(" with ESMTP id ", received())
        self.assertIn(" with UTF8SMTP id ", received(f"{MAIL} SMTPUTF8", RCPT))

    def test_protocol_of_each(self) -> None:
        """The protocol is that of the message and of the last greeting, not of the ones before."""
        backend = ScriptedBackend()
        wire = connect(backend)
        for dialogue in ([f"{MAIL} SMTPUTF8"], [MAIL], ["HELO other.example", MAIL], ["EHLO third.example", MAIL]):
            wire.say(*dialogue, RCPT, "DATA", ".")
        heads = [message.content.replace(b"\r\n\t", b" ").split(b" id ")[0] for message in backend.messages]
        self.assertEqual([head.split()[-1] for head in heads], [b"UTF8SMTP", b"ESMTP", b"SMTP", b"ESMTP"])
        names = [b"client.example", b"client.example", b"other.example", b"third.example"]
        self.assertEqual([head.split()[2] for head in heads], names)

    def test_addresses(self) -> None:
        """The client's address stands in brackets, of IPv6 with its tag; a unix socket has none."""
        cases: list[tuple[IAddress, str]] = [
            (IPv4Address("TCP", "203.0.113.9", 1), "([203.0.113.9])"),
            (IPv6Address("TCP", "2001:db8::1", 1), "([IPv6:2001:db8::1])"),
            (IPv6Address("TCP", "fe80::1%eth0", 1), "([IPv6:fe80::1])"),
            (IPv6Address("TCP", "::ffff:192.0.2.7", 1), "([192.0.2.7])"),
            (UNIXAddress(b"/run/smtp"), "(local)"),
        ]
        for address, shown in cases:
            with self.subTest(address=address):
                self.assertIn(f"from client.example {shown} by", received(address=address))

    def test_odd_names(self) -> None:
        """A HELO name that is no domain or literal is put, quoted, in a comment."""
        cases = {
            "[192.0.2.1]": "from [192.0.2.1] ([192.0.2.1]) by",
            "WIN_PC": "from [192.0.2.1] ([192.0.2.1]) (HELO WIN_PC) by",
            "a b": "from [192.0.2.1] ([192.0.2.1]) (HELO a b) by",
            "x) by y (": "from [192.0.2.1] ([192.0.2.1]) (HELO x\\) by y \\() by",
            "mañana": "from [192.0.2.1] ([192.0.2.1]) (HELO ma\\\\xf1ana) by",
        }
        for name, shown in cases.items():
            with self.subTest(name=name):
                self.assertIn(f"{shown} mx.example", received(hello=f"EHLO {name}"))

    def test_recipients(self) -> None:
        """``for`` is there with one recipient only: others are not told of each other."""
        self.assertNotIn(" for ", received(MAIL, RCPT, "RCPT TO:<c@y.example>"))
        self.assertNotIn(" for ", received(MAIL, RCPT, RCPT))
        self.assertIn(" for <Postmaster>;", received(MAIL, "RCPT TO:<Postmaster>"))
        self.assertIn(' for <"a b"@y.example>;', received(MAIL, 'RCPT TO:<"a b"@y.example>'))

    def test_refused_recipients(self) -> None:
        """Refused recipients do not count for ``for``."""
        backend = ScriptedBackend(rcpt=[KeyError("x"), None])
        wire = connect(backend).say(MAIL, "RCPT TO:<c@y.example>", RCPT, "DATA", ".")
        self.assertEqual(wire.codes, [250, 451, 250, 354, 250])
        self.assertIn(b"for <b@y.example>;", backend.messages[0].content)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_literal_host(self) -> None:
        """A server that is named by an address literal says so."""
        self.assertIn("by [192.0.2.9] ([192.0.2.9]) with", received(hostname="[192.0.2.9]"))

    def test_folded(self) -> None:
        """Lines are folded at 78 columns where they can be, and end in CRLF."""
        backend = ScriptedBackend()
        in_data(backend).say("text", ".")
        header = backend.messages[0].content.removesuffix(b"text\r\n")
        self.assertTrue(header.endswith(b"\r\n"))
        for line in header.splitlines():
            self.assertLessEqual(len(line), 78)


class OrderTests(SynchronousTestCase):
    def test_first_in_first_write(self) -> None:
        """The field stands at the beginning of the first write, and in no other."""
        backend = ScriptedBackend()
        in_data(backend).receive(b"one\r\nx").receive(b"two\r\nx").say("", ".")
        writes = [content for (content,) in backend.called("write")]
        self.assertTrue(writes[0].startswith(b"Received: ") and writes[0].endswith(b"\r\none\r\nx"), writes)
        self.assertEqual(b"".join(writes).count(b"Received: "), 1)

    def test_empty_message(self) -> None:
        """A message without content has its field all the same, in a write before finish."""
        backend = ScriptedBackend()
        in_data(backend).say(".")
        self.assertEqual(backend.hooks[-3:], ["write", "finish", "reset"])
        self.assertTrue(backend.messages[0].content.startswith(b"Received: "))
        self.assertTrue(backend.messages[0].content.endswith(b"\r\n"))

    def test_continuation(self) -> None:
        """A message that begins with white space does not continue the field: it has no header, and an empty line."""
        for blank in (" ", "\t"):
            backend = ScriptedBackend()
            wire = connect(backend).say(MAIL, RCPT, "DATA", f"{blank}by evil.example", "text", ".")
            self.assertEqual(wire.last_reply.code, 250)
            fields, _, rest = backend.messages[0].content.partition(b"\r\n\r\n")
            self.assertEqual(rest, f"{blank}by evil.example\r\ntext\r\n".encode())
            self.assertTrue(fields.startswith(b"Received: "))
            self.assertNotIn(b"evil", fields)

    def test_off(self) -> None:
        """Without add_received the content is the client's alone, and an empty message is never written."""
        backend = ScriptedBackend()
        in_data(backend, add_received=False).say(".")
        self.assertEqual(backend.hooks[-2:], ["finish", "reset"])

    def test_refused_before_content(self) -> None:
        """A message that is refused before its first write is not written at all, not even its header."""
        for content in (b"a\nb\r\n", b"a" * 100):
            with self.subTest(content=content):
                backend = ScriptedBackend()
                in_data(backend, message_size=50).receive(content).receive(b"\r\n.\r\n")
                self.assertEqual(backend.hooks[-3:], ["data", "abort", "reset"])

    def test_each_message(self) -> None:
        """Each message has its own id in the field, that of its envelope and its 250."""
        backend = ScriptedBackend()
        wire = connect(backend)
        wire.receive(lines(MAIL, RCPT, "DATA", ".") * 2)
        ids = [message.envelope.id for message in backend.messages]
        self.assertEqual(len(set(ids)), 2)
        for message, reply in zip(backend.messages, wire.replies[3::4], strict=True):
            self.assertIn(f" id {message.envelope.id}".encode(), message.content)
            self.assertIn(message.envelope.id, reply.text)

    def test_time_of_the_content(self) -> None:
        """The time is that of the first content, not of the connection."""
        late = Late()
        backend = ScriptedBackend(rcpt=late)
        factory, clock = clocked_factory(backend, settings_with())
        wire = Wire(factory).greeted().say(MAIL, RCPT)
        clock.advance(100)
        late.fire()
        wire.say("DATA", ".")
        self.assertIn(b"1 Jan 1970 00:01:40 +0000\r\n", backend.messages[0].content)
