"""
Tests of smtpsvc.policies.authentication: the header field that tells what was found, and forged ones.
"""

from __future__ import annotations

import re

import authres
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.message.fields import Header, field
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.authentication import Finding, found, names_us, read_id, record, results_field, tell
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.fcrdns import ReverseName
from smtpsvc.policies.held import HeldMessage
from smtpsvc.settings import Role, default_hostname
from smtpsvc.values import Envelope
from tests.mailauth import ID, PLAIN, Server, make_dkim, signed
from tests.support import given, settings, st

FORGED = b"Authentication-Results: mx.example; dkim=pass header.d=bank.example\r\n"
OURS = field("Authentication-Results", "mx.example; spf=none")
OTHER = b"Authentication-Results: other.example;\r\n\tspf=pass\r\n"


class Telling(Policy):
    """Has the header tell a finding."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = findings

    def examine(self, envelope: Envelope, held: HeldMessage) -> None:
        record(envelope, *self.findings)
        tell(envelope, held, ID)


def claims(value: bytes) -> bool:
    """Tell whether a field with this value claims to be ours."""
    (made,) = Header(b"Authentication-Results:" + value + b"\r\n")
    return names_us(made, ID)


class ForgedTests(SynchronousTestCase):
    def test_ours(self) -> None:
        """A field with our name is recognized, however it is written."""
        for value in (
            b" mx.example; x=pass", b"mx.example", b" MX.Example ; none", b" mx.example 1; none", b"\r\n mx.example;",
            b' "mx.example"; none', b' "mx\\.example"; none', b" (a (b) \\) c) mx.example (d); none", b" mx.example.;",
            b" mx.example/1;", b" mx. example;", b" (mx.example; none", b' "mx.example; none', b"(;) mx.example;",
        ):  # fmt: skip
            with self.subTest(value):
                self.assertTrue(claims(value))

    def test_others(self) -> None:
        """A field with another name is not, whatever else stands in it."""
        for value in (b" a.mx.example; x=pass", b" b.example; x=mx.example", b" b.example (mx.example); x", b""):
            with self.subTest(value):
                self.assertFalse(claims(value))

    def test_removed(self) -> None:
        """Forged fields with our name are gone, wherever they stood; others stay."""
        server = Server(lambda _: Telling(Finding("spf", "none")))
        server.send(b"X-A: 1\r\n" + FORGED + OTHER + FORGED.replace(b"Results: ", b"Results :") + PLAIN)
        self.assertEqual(server.content, OURS + b"X-A: 1\r\n" + OTHER + PLAIN)

    def test_ours_stay(self) -> None:
        """A field that a filter of ours puts there on the way stays."""

        class Filter(Policy):
            def examine(self, envelope: Envelope, held: HeldMessage) -> None:
                held.header.insert(b"Authentication-Results: mx.example; x=pass\r\n")

        server = Server(lambda _: [Filter(), Telling(Finding("spf", "none"))])
        server.send(FORGED + PLAIN)
        self.assertEqual(re.findall(r"mx\.example; (\w+)", server.content.decode()), ["spf", "x"])

    def test_own_clients(self) -> None:
        """What users send has no forged field left, and no field of ours; what comes by LMTP stays as it is."""
        for role, content in ((Role.SUBMISSION, PLAIN), (Role.LMTP, FORGED + PLAIN)):
            server = Server(make_dkim, role=role)
            server.send(FORGED + PLAIN)
            self.assertEqual(server.content, content)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.sampled_from([FORGED, OTHER, b"X: y\r\n", b"X:\r\n  y \t\r\n", b"nonsense\r\n", b"\xff: x\r\n"])),
        st.binary(max_size=60).map(lambda body: body.replace(b"\0", b"0")),
    )
    def test_other_octets(self, fields: list[bytes], body: bytes) -> None:
        """Every octet but those of our field and of forged ones stays as it came."""
        body = b"".join(b"\r\n" + line for line in re.split(rb"[\r\n]+", body)) + b"\r\n"
        content = b"From: a@x.example\r\n" + b"".join(fields) + body
        server = Server(lambda _: Telling(Finding("spf", "none")))
        server.send(content)
        self.assertEqual(server.content, OURS + content.replace(FORGED, b""))


class FieldTests(SynchronousTestCase):
    def test_one(self) -> None:
        """There is one field for all that was found, by whichever policy."""
        server = Server(lambda resolver: [Telling(Finding("spf", "pass")), make_dkim(resolver)])
        server.send(signed())
        self.assertEqual(server.content.count(b"Authentication-Results"), 1)
        self.assertRegex(server.told(), r"^spf=pass; dkim=pass header\.d=x\.example ")

    def test_reverse_name(self) -> None:
        """What fcrdns has found is told too."""

        class Reversing(Telling):
            def connect(self, peer: object) -> None:
                peer.results.put(ReverseName("pass", "192.0.2.1", "a.example"))  # type: ignore[attr-defined]

        server = Server(lambda _: Reversing())
        server.send()
        self.assertEqual(server.told(), "iprev=pass policy.iprev=192.0.2.1")
        envelope = server.backend.messages[-1].envelope
        self.assertEqual(found(envelope).of("iprev")[0].of("policy.iprev"), "192.0.2.1")

    def test_read_by_others(self) -> None:
        """Others read what was written."""
        findings = [
            Finding("spf", "fail", (("smtp.mailfrom", 'a"; dkim=pass (x\\@y.example'),), 'he said "no"; (so'),
            Finding("dkim", "pass", (("header.d", "x.example"), ("header.b", "a/b+c=="))),
        ]
        text = results_field(ID, findings).decode()
        read = authres.AuthenticationResultsHeader.parse(re.sub(r"\r\n(?=.)", "", text).strip())
        self.assertEqual([each.method for each in read.results], ["spf", "dkim"])
        self.assertEqual(read.results[0].reason.replace("\\", ""), 'he said "no"; (so')
        self.assertEqual(read.results[1].properties[1].value, "a/b+c==")

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=500), st.text(max_size=500))
    def test_any_words(self, words: str, reason: str) -> None:
        """Whatever strangers say, the field is one of US-ASCII and says no more than was found."""
        text = results_field(ID, [Finding("spf", "fail", (("smtp.helo", words),), reason)])
        self.assertEqual(len(Header(text + b"\r\n")), 1)
        self.assertTrue(text.isascii() and len(text) < 1100)
        read = authres.AuthenticationResultsHeader.parse(re.sub(r"\r\n(?=.)", "", text.decode()).removesuffix("\r\n"))
        self.assertEqual([(each.method, each.result) for each in read.results], [("spf", "fail")])

    def test_id(self) -> None:
        """Our name is what was given, or that of the service, or that of this host."""
        self.assertEqual(read_id(Arguments("id=a.example", hostname="b.example")), "a.example")
        self.assertEqual(read_id(Arguments("", hostname="b.example")), "b.example")
        self.assertEqual(read_id(Arguments("")), default_hostname())
        self.assertRaises(ValueError, read_id, Arguments("id=a b"))
