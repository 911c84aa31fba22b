"""
Tests of smtpsvc.policies.dkim and signatures: signatures of messages.
"""

from __future__ import annotations

import io
import itertools
import re
import smtplib
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.message.fields import Field, Header
from smtpsvc.policies.authentication import Authentication, Finding
from smtpsvc.policies.signatures import fetch_keys, read_signature, relaxed_body, simple_body, verify_dkim
from smtpsvc.settings import Role
from tests.filters import OpenDKIM
from tests.live import Server as LiveServer
from tests.logins import PASSWORD
from tests.mailauth import PLAIN, RFC_6376, RFC_8463, Server, key, make_dkim, signed, zone
from tests.nameserver import fake_resolver
from tests.support import given, settings, st


def server(names: Any = None, role: Role = Role.SMTP, **options: Any) -> Server:
    """Make a server that verifies."""
    return Server(lambda resolver: make_dkim(resolver, **options), names, role=role)


class VerifyTestCase(SynchronousTestCase):
    def verify(self, content: bytes, names: Any = None) -> list[Finding]:
        """Verify a message."""
        signatures = [read_signature(each) for each in Header(content).find_all("DKIM-Signature")]
        resolver = fake_resolver(zone(names))
        keys = self.successResultOf(Deferred.fromCoroutine(fetch_keys(resolver, signatures)))
        return verify_dkim(io.BytesIO(content), signatures, keys)

    def check(self, content: bytes, result: str, names: Any = None) -> Finding:
        """Verify a message with one signature."""
        (found,) = self.verify(content, names)
        self.assertEqual(found.result, result, found)
        return found


class SignatureTests(VerifyTestCase):
    def test_examples(self) -> None:
        """The examples of RFC 6376 and RFC 8463 verify, and do not if an octet is another."""
        for content in (RFC_8463, RFC_6376):
            with self.subTest(content[:60]):
                self.check(content, "pass")
                self.check(content.replace(b"hungry", b"Hungry"), "fail")
                self.check(content.replace(b"dinner", b"lunch"), "fail")

    def test_canonical_forms(self) -> None:
        """Signatures verify in each form of header and body."""
        for form in itertools.product((b"simple", b"relaxed"), repeat=2):
            for body in (b"", b"\r\n", b" \r\n\r\n", b"a \t b \r\n", b"a\r\n\r\n\r\n"):
                with self.subTest(form=form, body=body):
                    self.check(signed(b"From: ann@x.example\r\nSubject: x\r\n\r\n" + body, canonicalize=form), "pass")

    def test_told(self) -> None:
        """A signature is told by its domain, its selector and its first letters."""
        found = self.check(signed(), "pass")
        self.assertEqual((found.of("header.d"), found.of("header.s")), ("x.example", "s"))
        self.assertRegex(found.of("header.b"), r"^[A-Za-z0-9+/]{8}$")

    def test_part_of_body(self) -> None:
        """A signature that leaves some of the body to others is not good enough."""
        content = signed(PLAIN, length=True)
        self.check(content, "pass")
        self.check(content + b"Buy now\r\n", "policy")

    def test_without_from(self) -> None:
        """A signature that does not cover From: is none."""
        content = signed().replace(b"DKIM-Signature: ", b"DKIM-Signature: ").replace(b"h=from : ", b"h=")
        found = self.check(re.sub(rb"\bfrom\b", b"to", content.partition(b"From:")[0]) + PLAIN, "permerror")
        self.assertEqual(found.reason, "it does not cover From:")

    def test_second_from(self) -> None:
        """A second From: breaks a signature."""
        self.check(b"From: eve@z.example\r\n" + signed(), "fail")

    def test_keys(self) -> None:
        """Keys that are not there, make no sense, or are too large or small are told apart from a bad signature."""
        name = "s._domainkey.x.example"
        huge = f"v=DKIM1; p={'A' * 5000}"
        for records, result, reason in (
            (["TXT v=DKIM1; p="], "permerror", "the key is revoked"),
            (["TXT v=DKIM1; p=AAAA"], "permerror", "the key makes no sense"),
            (["TXT nonsense"], "permerror", "the key makes no sense"),
            ([f"TXT {huge}"], "permerror", "the key is too large"),
            (["SERVFAIL"], "temperror", "the key cannot be had for now"),
            (["A 192.0.2.1"], "permerror", "there is no such key"),
            (["NXDOMAIN"], "permerror", "there is no such key"),
            ([f"TXT {key(2048)[1]}"], "fail", "the signature does not match"),
        ):
            with self.subTest(reason):
                self.assertEqual(self.check(signed(), result, {name: records}).reason, reason)

    def test_strict_key(self) -> None:
        """A key that says so is for its own domain only."""
        below = signed(identity=b"ann@m.x.example")
        for flags, content, result in (
            ("t=y:s; ", below, "permerror"), ("t=s; ", signed(), "pass"), ("t=y; ", below, "pass"),
        ):  # fmt: skip
            self.check(content, result, {"s._domainkey.x.example": [f"TXT {key()[1].replace('k=rsa; ', flags)}"]})

    def test_hostile(self) -> None:
        """Fields that would cost much, and those that make no sense, are not verified."""
        good = signed()
        for change in (
            (b"v=1;", b"v=1;" + b" " * 40),
            (b"v=1;", b"v=1; z=" + b"a" * 7000 + b";"),
            (b"v=1;", b"v=2;"),
            (b"v=1;", b"v=1; v=1;"),
            (b"a=rsa-sha256", b"a=rsa-sha1"),
            (b"a=rsa-sha256", b"a=none"),
            (b"d=x.example;", b""),
            (b"v=1;", b"v=1; t=" + b"9" * 5000 + b";"),
            (b"v=1;", b"v=1; x=1;"),
            (b"v=1;", b"v=1; l=x;"),
            (b" h=from", b" h=" + b"a:" * 300 + b"from"),
        ):
            with self.subTest(change):
                content = good.replace(*change, 1)
                self.assertNotEqual(content, good)
                self.check(content, "permerror")

    def test_many_fields(self) -> None:
        """A message with thousands of fields is not verified."""
        self.check(b"X: y\r\n" * 3000 + signed(), "permerror")

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=200))
    def test_any_octets(self, octets: bytes) -> None:
        """Whatever stands in the field, verifying it ends with a result that is no pass."""
        raw = b"DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=s; " + octets.replace(b"\n", b"").replace(b"\r", b"")
        for found in self.verify(raw + b"\r\n" + PLAIN):
            self.assertIn(found.result, ("permerror", "fail", "temperror"))

    @settings(max_examples=60, deadline=None)
    @given(st.text("a \t\r\n").map(lambda text: re.sub("\r\n?|\n", "\r\n", f"{text}\n").encode()))
    def test_bodies(self, body: bytes) -> None:
        """Bodies are prepared as the library would, but in linear time."""
        from dkim.canonicalization import Relaxed, Simple

        self.assertEqual(Simple.canonicalize_body(simple_body(body)), Simple.canonicalize_body(body))
        self.assertEqual(Relaxed.canonicalize_body(relaxed_body(body)), Relaxed.canonicalize_body(body))

    def test_long_fields(self) -> None:
        """A field that is too long is told without its words."""
        found = read_signature(Field(b"DKIM-Signature: d=x;" + b"a" * 9000 + b"\r\n", "DKIM-Signature"))
        self.assertEqual((found.problem, found.properties), ("the field is too long", ()))


class PolicyTests(SynchronousTestCase):
    def test_recorded(self) -> None:
        """What came of each signature is told at the top of the message, and to the backend."""
        verifying = server()
        wire = verifying.send(signed(signed()).replace(b"morning", b"evening"))
        self.assertEqual(wire.last_reply.code, 250)
        self.assertRegex(
            verifying.told(),
            r'^dkim=fail reason="the body was altered" header\.d=x\.example header\.s=s header\.b=\S+; dkim=fail ',
        )
        results = verifying.backend.messages[-1].envelope.results.get(Authentication)
        self.assertEqual([each.result for each in results.of("dkim")], ["fail", "fail"])

    def test_unsigned(self) -> None:
        """A message without a signature is taken, and said to have none."""
        verifying = server()
        self.assertEqual(verifying.send().last_reply.code, 250)
        self.assertEqual(verifying.told(), "dkim=none")
        self.assertTrue(verifying.content.endswith(PLAIN))

    def test_required(self) -> None:
        """A message that needs a good signature is refused without one, and for now if a key cannot be had."""
        for content, names, expected in (
            (signed(), None, (250, "2.0.0")),
            (PLAIN, None, (550, "5.7.20")),
            (signed().replace(b"morning", b"evening"), None, (550, "5.7.20")),
            (signed(), {"s._domainkey.x.example": ["SERVFAIL"]}, (451, "4.4.3")),
        ):
            with self.subTest(expected):
                reply = server(names, require=True).send(content).last_reply
                self.assertEqual((reply.code, reply.enhanced), expected)

    def test_caps(self) -> None:
        """No more signatures than the cap are looked at, and none of a message that is too large."""
        few = server(most=2)
        few.send(signed(signed(signed())))
        self.assertEqual(few.told().count("dkim="), 2)
        small = server(largest=100)
        small.send(signed())
        self.assertIn('dkim=neutral reason="the message is too large"', small.told())

    def test_own_clients(self) -> None:
        """Clients of our own have nothing to prove."""
        for role, address in ((Role.SUBMISSION, None), (Role.LMTP, None), (Role.SMTP, "127.0.0.1")):
            own = server(role=role, require=True)
            wire = own.send(address=IPv4Address("TCP", address or "192.0.2.1", 5))
            self.assertEqual((wire.last_reply.code, own.content), (250, PLAIN))


class LiveTests(VerifyTestCase):
    def test_opendkim(self) -> None:
        """A message that OpenDKIM has signed verifies, and does not when it was altered."""
        signer = OpenDKIM()
        self.addCleanup(signer.close)
        login = ("--auth", f"memory:joe:{PASSWORD}", "--allow-insecure-auth")
        service = LiveServer("--policy", f"milter:inet:127.0.0.1:{signer.port},name=mx.example", *login)
        self.addCleanup(service.close)
        with smtplib.SMTP("127.0.0.1", service.port, local_hostname="client.example", timeout=60) as client:
            client.login("joe", PASSWORD)
            client.sendmail("ann@x.example", ["b@y.example"], PLAIN)
        (mail,) = service.mails()
        made = mail[mail.index(b"DKIM-Signature:") :]
        name, _, record = (signer.directory / "public").read_text().strip().partition(" ")
        self.check(made, "pass", {name: [f"TXT {record}"]})
        self.check(made.replace(b"morning", b"evening"), "fail", {name: [f"TXT {record}"]})
