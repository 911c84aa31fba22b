"""
Tests of smtpsvc.policies.dmarc, author and arc: mail that is its domain's own, or that a sealer is believed of.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dkim
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.message.fields import Header
from smtpsvc.policies.arc import ARC, passes_of
from smtpsvc.policies.authentication import Authentication
from smtpsvc.policies.author import author_domain
from smtpsvc.policies.dmarc import DMARC
from smtpsvc.values import Quarantine
from tests.mailauth import ID, PLAIN, Server, key, make_dkim, make_spf, signed, zone
from tests.support import given, settings, st

REJECT = {"_dmarc.x.example": ["TXT v=DMARC1; p=reject"]}
OWN = signed()
FALSE = OWN.replace(b"morning", b"evening")


def make_dmarc(resolver: Any, dkim_options: Any = None, **options: Any) -> DMARC:
    """Make the policy."""
    return DMARC(resolver, spf=make_spf(resolver), dkim=make_dkim(resolver, **(dkim_options or {})), id=ID, **options)


def server(names: Any = None, **options: Any) -> Server:
    """Make a server that does as domains ask."""
    return Server(lambda resolver: make_dmarc(resolver, **options), zone(names))


class AuthorTests(SynchronousTestCase):
    def test_domain(self) -> None:
        """The author's domain is found however From: is written."""
        for value in (
            "a@x.example", "<a@X.Example>", "Ann <a@x.example>", '"Ann, (B" <a@x.example>', "a@x.example (a@z.example)",
            '"a@z.example" <a@x.example>', "a@x.example, b@x.example", "a@x.example <a@x.example>", "a @ x.example.",
            '"a b"@x.example', "=?utf-8?q?a@z.example?= <a@x.example>", "Ann :( <a@x.example>", "Group: a@x.example;",
        ):  # fmt: skip
            with self.subTest(value):
                self.assertEqual(author_domain(Header(f"from : {value}\r\n\r\n".encode())), "x.example")
        self.assertEqual(author_domain(Header("From: a@b\u00fccher.example\r\n".encode())), "xn--bcher-kva.example")

    def test_none(self) -> None:
        """Where readers could see different domains, or none, there is no author."""
        for header in (
            "To: a@x.example\r\n", "From: a@x.example\r\nFROM: a@z.example\r\n", "From:\r\n", "From: Ann\r\n",
            "From: a@x.example, b@z.example\r\n", "From: a@z.example <a@x.example>\r\n", "From: a@[192.0.2.1]\r\n",
            'From: "a@z.example <a@x.example>\r\n', "From: <@z.example:a@x.example>\r\n", "From: a@x..example\r\n",
            "From: Group:;\r\n", "From: a@\r\n", f"From: {'a' * 70000}@x.example\r\n",
        ):  # fmt: skip
            with self.subTest(header[:60]):
                self.assertRaises(ValueError, author_domain, Header(header.encode()))

    @settings(max_examples=100, deadline=None)
    @given(st.text(st.sampled_from('a@x.\\"()<>,:; =?'), max_size=40))
    def test_any(self, text: str) -> None:
        """Whatever stands there, the outcome is a domain or a reason."""
        try:
            self.assertTrue(author_domain(Header(f"From: {text}\r\n".encode())))
        except ValueError as error:
            self.assertTrue(str(error))


class PolicyTests(SynchronousTestCase):
    def check(
        self, content: bytes, names: Any, expected: Any, told: str = "", sender: str = "e@e.example", **options: Any
    ) -> Server:
        """Send a message to a server."""
        asked = server(names, **options)
        reply = asked.send(content, sender).last_reply
        self.assertEqual((reply.code, reply.enhanced), expected)
        if told:
            self.assertIn(told, asked.told())
        return asked

    def test_verdicts(self) -> None:
        """Mail that is not its domain's own is done with as the domain asks."""
        taken, refused = (250, "2.0.0"), (550, "5.7.26")
        for record, expected, quarantined in (
            ("p=reject", refused, False),
            ("p=quarantine", taken, True),
            ("p=none", taken, False),
            ("p=reject; pct=0", taken, True),
            ("p=reject; t=y", taken, True),
            ("p=quarantine; t=y", taken, False),
            ("p=reject; sp=none", refused, False),
            ("sp=reject", taken, False),
            ("p=reject; adkim=s; unknown=x", refused, False),
        ):
            with self.subTest(record):
                asked = self.check(FALSE, {"_dmarc.x.example": [f"TXT v=DMARC1; {record}"]}, expected)
                if expected is taken:
                    results = asked.backend.messages[-1].envelope.results
                    self.assertEqual(results.get(Quarantine) is not None, quarantined)

    def test_proofs(self) -> None:
        """A good signature of the domain, or a pass of its SPF, is proof."""
        spf = {**REJECT, "x.example": ["TXT v=spf1 ip4:192.0.2.1 -all"]}
        self.check(OWN, REJECT, (250, "2.0.0"), "dmarc=pass header.from=x.example")
        self.check(PLAIN, spf, (250, "2.0.0"), "dmarc=pass", "ann@x.example")
        self.check(PLAIN, spf, (550, "5.7.26"))
        helo = {**REJECT, "mail.x.example": ["TXT v=spf1 ip4:192.0.2.1 -all"]}
        self.check(PLAIN, helo, (250, "2.0.0"), "dmarc=pass", "")
        other = {**REJECT, "s._domainkey.z.example": [f"TXT {key()[1]}"]}
        self.check(signed(domain="z.example"), other, (550, "5.7.26"))

    def test_alignment(self) -> None:
        """Subdomains are one with their domain unless it asks for more; neighbours below a public suffix are not."""
        names = {f"s._domainkey.{name}": [f"TXT {key()[1]}"] for name in ("m.x.example", "x.co.uk", "z.co.uk", "co.uk")}
        below = signed(domain="m.x.example")
        self.check(below, {**names, **REJECT}, (250, "2.0.0"), "dmarc=pass")
        self.check(below, {**names, "_dmarc.x.example": ["TXT v=DMARC1; p=reject; adkim=s"]}, (550, "5.7.26"))
        for author, signer, expected in (
            ("x.co.uk", "x.co.uk", 250),
            ("m.x.co.uk", "x.co.uk", 250),
            ("x.co.uk", "z.co.uk", 550),
            ("x.co.uk", "co.uk", 550),
            ("co.uk", "z.co.uk", 550),
        ):
            with self.subTest(author=author, signer=signer):
                content = signed(PLAIN.replace(b"x.example", author.encode()), signer)
                records = {f"_dmarc.{name}": ["TXT v=DMARC1; p=reject"] for name in ("x.co.uk", "co.uk")}
                self.assertEqual(server({**names, **records}).send(content).last_reply.code, expected)

    def test_record(self) -> None:
        """The record of the domain counts, or that of the one above, which may ask otherwise for those below."""
        below = PLAIN.replace(b"@x.example", b"@m.x.example")
        self.check(below, REJECT, (550, "5.7.26"))
        self.check(below, {"_dmarc.x.example": ["TXT v=DMARC1; p=reject; sp=none"]}, (250, "2.0.0"), "asks for none")
        self.check(below, {**REJECT, "_dmarc.m.x.example": ["TXT v=DMARC1; p=none"]}, (250, "2.0.0"))
        two = {"_dmarc.x.example": ["TXT v=DMARC1; p=reject", "TXT v=DMARC1; p=reject"]}
        for names in (two, {}, {"_dmarc.x.example": ["TXT other"]}):
            self.check(PLAIN, names, (250, "2.0.0"), "dmarc=none header.from=x.example")
        self.check(PLAIN, {"_dmarc.x.example": ["TXT v=DMARC1; nonsense"]}, (250, "2.0.0"), "dmarc=permerror")

    def test_shown(self) -> None:
        """What the page of these policies shows is told so."""
        spf = ["TXT v=spf1 ip4:192.0.2.1 -all"]
        names = {**REJECT, "x.example": spf, "mail.x.example": spf, "2026._domainkey.x.example": [f"TXT {key()[1]}"]}
        asked = self.check(signed(selector="2026"), names, (250, "2.0.0"), sender="ann@x.example")
        field = asked.content.replace(b"\r\n", b"\n").decode().partition("DKIM-Signature")[0]
        shown = field.replace("mx.example", "mx.example.org")
        shown = re.sub(r'header\.b="?[A-Za-z0-9+/]{8}"?;', "header.b=dRfq7bXA;", shown)
        page = (Path(__file__).parent.parent / "docs" / "mailauth.rst").read_text(encoding="utf-8")
        self.assertIn(" ".join(shown.split()), " ".join(page.split()))

    def test_unknown(self) -> None:
        """What cannot be known for now is answered so, unless it does not matter or is to be taken."""
        late, key_name = (451, "4.4.3"), "s._domainkey.x.example"
        self.check(PLAIN, {"_dmarc.x.example": ["SERVFAIL"]}, late)
        self.check(PLAIN, {"_dmarc.x.example": ["SERVFAIL"]}, (250, "2.0.0"), "dmarc=temperror", on_failure=None)
        self.check(OWN, {**REJECT, key_name: ["SERVFAIL"]}, late)
        self.check(OWN, {"_dmarc.x.example": ["TXT v=DMARC1; p=none"], key_name: ["SERVFAIL"]}, (250, "2.0.0"))
        self.check(PLAIN, {**REJECT, "x.example": ["SERVFAIL"]}, late, sender="ann@x.example")

    def test_no_author(self) -> None:
        """A message without one author is refused, unless all is recorded only."""
        twice = b"From: a@z.example\r\n" + OWN
        self.check(twice, REJECT, (550, "5.7.26"))
        told = 'dmarc=permerror reason="From: there are 2 fields"'
        self.check(twice, REJECT, (250, "2.0.0"), told, enforce=False)

    def test_settings(self) -> None:
        """Refusals can be marks only, or nothing; of a message that is too large nobody can tell."""
        for options, quarantined in (
            ({"refuse": False}, True),
            ({"enforce": False}, False),
            ({"dkim_options": {"largest": 100}}, True),
        ):
            with self.subTest(options):
                asked = self.check(FALSE, REJECT, (250, "2.0.0"), "dmarc=fail", **options)
                results = asked.backend.messages[-1].envelope.results
                self.assertEqual(results.get(Quarantine) is not None, quarantined)

    def test_before(self) -> None:
        """What spf and dkim have found before is not looked for again."""
        names = zone({**REJECT, "x.example": ["TXT v=spf1 -all"]})
        asked = Server(lambda r: [make_spf(r, enforce=False), make_dkim(r), make_dmarc(r)], names)
        self.assertEqual(asked.send(OWN).last_reply.code, 250)
        results = asked.backend.messages[-1].envelope.results.get(Authentication)
        self.assertEqual([(e.method, e.result) for e in results.findings], [
            ("spf", "none"), ("spf", "fail"), ("dkim", "pass"), ("dmarc", "pass"),
        ])  # fmt: skip


def sealed(content: bytes, domain: str = "list.example", changed: bytes = b"") -> bytes:
    """Have a forwarder seal a message, which has its findings in a field, and changes its body before."""
    fields = dkim.arc_sign(content + changed, b"s", domain.encode(), key()[0], domain.encode())
    return b"".join(fields) + content + changed


SEEN = b"Authentication-Results: list.example; dmarc=pass header.from=x.example\r\n"
SEALER = {f"s._domainkey.{name}": [f"TXT {key()[1]}"] for name in ("list.example", "next.example")}


class ChainTests(SynchronousTestCase):
    def told(self, content: bytes, *trusted: str, names: Any = None, most: int = 10, **options: Any) -> tuple[int, str]:
        """Send a message to a server that believes some; give the code, and what is told if the message is taken."""

        def make(resolver: Any) -> Any:
            arc = ARC(resolver, id=ID, run=maybeDeferred, trusted=trusted, most=most, **options)
            return [arc, make_dmarc(resolver)]

        asked = Server(make, zone({**REJECT, **SEALER, **(names or {})}))
        code = asked.send(content).last_reply.code
        return code, asked.told() if code == 250 else ""

    def test_believed(self) -> None:
        """What a sealer that is believed has seen pass is taken, though it was changed."""
        content = sealed(SEEN + OWN, changed=b"-- \r\nThe list\r\n")
        code, told = self.told(content, "list.example")
        self.assertEqual(code, 250)
        self.assertTrue(told.startswith('arc=pass reason="sealed by list.example"; '), told)
        self.assertIn('dmarc=fail reason="a sealer that is believed has seen it pass"', told)

    def test_not_believed(self) -> None:
        """Other sealers, those of another message, and chains that are broken, are not believed."""
        changed = b"-- \r\nThe list\r\n"
        content = sealed(SEEN + OWN, changed=changed)
        for other, trusted in (
            (content, "z.example"),
            (content + b"More\r\n", "list.example"),
            (content.replace(b"dmarc=pass", b"dmarc=none", 1), "list.example"),
            (sealed(SEEN.replace(b"x.example", b"z.example") + OWN, changed=changed), "list.example"),
            (sealed(content, "next.example", b"More\r\n"), "list.example"),
        ):
            with self.subTest(other[:40], trusted=trusted):
                self.assertEqual(self.told(other, trusted)[0], 550)
        self.assertEqual(self.told(content, "list.example", names={"s._domainkey.list.example": ["SERVFAIL"]})[0], 550)

    def test_two(self) -> None:
        """Of two sealers, both must be believed for what the first has seen."""
        content = sealed(sealed(SEEN + OWN, changed=b"1\r\n"), "next.example", b"2\r\n")
        # The next one has no field of its own to tell from.
        self.assertEqual(self.told(content, "next.example")[0], 550)

    def test_told(self) -> None:
        """A message without a chain is said to have none, and a chain that is too long or hostile fails."""
        self.assertEqual(self.told(OWN)[1].partition(";")[0], "arc=none")
        content = sealed(SEEN + OWN)
        for other, options in (
            (content, {"most": 0}),
            (content, {"largest": 50}),
            (content.replace(b"ARC-Seal: ", b"ARC-Seal: " + b" " * 50), {}),
            (b"ARC-Seal: i=1; a=rsa-sha256\r\n" + OWN, {}),
            (b"ARC-Authentication-Results: i=1; x\r\n" + OWN, {}),
            (content.replace(b"ARC-Message-Signature: i=1;", b"ARC-Message-Signature: i = 1;"), {}),
        ):
            with self.subTest(other[:60], **options):
                code, told = self.told(other, **options)
                self.assertEqual((code, told[:9]), (250, "arc=fail "))

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=60))
    def test_any_claim(self, text: str) -> None:
        """Whatever a sealer claims is read to its end."""
        self.assertIsInstance(passes_of(f"x.example; {text}"), frozenset)
