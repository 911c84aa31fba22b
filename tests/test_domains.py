from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address, parse_path
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IPolicy
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.domains import Domains
from smtpsvc.settings import Role
from smtpsvc.values import Account, Envelope, Peer, Recipient

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True).filter(lambda label: label[2:4] != "--")


def ask(domains: Domains, path: str) -> object:
    """Ask the policy about the recipient *path*."""
    peer = Peer(IPv4Address("TCP", "192.0.2.1", 50000), "c1")
    envelope = Envelope("t1", peer, Address("sender", "client.example"))
    return domains.rcpt(envelope, Recipient(parse_path(path.encode(), postmaster=True)))


class RcptTests(SynchronousTestCase):
    def check(self, listed: Iterable[str], paths: Iterable[str], expected: Reply | None) -> None:
        domains = Domains(listed)
        for path in paths:
            with self.subTest(listed=listed, path=path):
                self.assertEqual(ask(domains, path), expected)

    def test_listed(self) -> None:
        """A recipient in a listed domain is taken, whatever the case of either."""
        listed = ["example.com", "Example.NET", "localhost"]
        paths = ["<a@example.com>", "<a@EXAMPLE.com>", "<b@example.net>", '<"c d"@localhost>']
        self.check(listed, paths, None)

    def test_source_route(self) -> None:
        """The domain is that of the mailbox, whatever the source route says."""
        self.check(["example.com"], ["<@relay.example:a@example.com>"], None)
        self.check(["example.com"], ["<@example.com:a@relay.example>"], replies.RELAYING_DENIED)

    def test_elsewhere(self) -> None:
        """A recipient elsewhere is refused with 550 5.7.1, in a subdomain or a parent domain as well."""
        elsewhere = ["example.org", "mail.example.com", "com", "example.com.evil.example", "xexample.com"]
        paths = [f"<a@{domain}>" for domain in elsewhere]
        self.check(["example.com"], paths, replies.RELAYING_DENIED)

    def test_logged_in(self) -> None:
        """Whoever is logged in may write to any domain, but for LMTP, where mail is delivered."""
        for role, expected in ((Role.SMTP, None), (Role.SUBMISSION, None), (Role.LMTP, replies.RELAYING_DENIED)):
            with self.subTest(role=role):
                peer = Peer(IPv4Address("TCP", "192.0.2.1", 50000), "c1")
                peer.account = Account("user")
                envelope = Envelope("t1", peer, Address("user", "example.com"), role=role)
                recipient = Recipient(Address("a", "example.org"))
                self.assertEqual(Domains(["example.com"]).rcpt(envelope, recipient), expected)

    def test_reply(self) -> None:
        """The refusal has the code 550 and the enhanced code 5.7.1."""
        self.assertEqual((replies.RELAYING_DENIED.code, replies.RELAYING_DENIED.enhanced), (550, "5.7.1"))

    def test_listed_domain_in_local_part(self) -> None:
        """A listed domain inside the local part lets nothing through."""
        paths = ["<a%example.com@example.org>", '<"a@example.com"@example.org>', "<example.com!a@example.org>"]
        self.check(["example.com"], paths, replies.RELAYING_DENIED)

    def test_bare_postmaster(self) -> None:
        """<postmaster> without a domain is always taken, in any case (RFC 5321 §4.5.1)."""
        self.check(["example.com"], ["<postmaster>", "<Postmaster>", "<POSTMASTER>"], None)

    def test_postmaster_of_listed(self) -> None:
        """The postmaster of a listed domain is taken."""
        self.check(["example.com"], ["<postmaster@example.com>"], None)

    def test_postmaster_elsewhere(self) -> None:
        """The postmaster of another domain is refused like anyone there."""
        self.check(["example.com"], ["<postmaster@example.org>"], replies.RELAYING_DENIED)

    def test_null(self) -> None:
        """The null path, which no grammar lets through as a recipient, is refused."""
        peer = Peer(IPv4Address("TCP", "192.0.2.1", 50000), "c1")
        envelope = Envelope("t1", peer, Address("sender", "client.example"))
        outcome = Domains(["example.com"]).rcpt(envelope, Recipient(Address("")))
        self.assertEqual(outcome, replies.RELAYING_DENIED)

    def test_internationalized(self) -> None:
        """The U-label and the A-label form of a domain are the same domain, on either side."""
        paths = ["<a@bücher.example>", "<a@BÜCHER.example>", "<a@xn--bcher-kva.example>", "<a@XN--BCHER-KVA.example>"]
        self.check(["bücher.example"], paths, None)
        self.check(["xn--bcher-kva.example"], paths, None)

    def test_literal_not_listed(self) -> None:
        """An address literal that is not listed is refused."""
        paths = ["<a@[192.0.2.1]>", "<a@[IPv6:2001:db8::1]>"]
        self.check(["example.com", "[192.0.2.2]"], paths, replies.RELAYING_DENIED)

    def test_literal_listed(self) -> None:
        """A listed address literal is taken in any way of writing the address."""
        paths = [
            "<a@[192.0.2.1]>",
            "<a@[IPv6:2001:db8::1]>",
            "<a@[ipv6:2001:DB8::1]>",
            "<a@[IPv6:2001:db8:0:0:0:0:0:1]>",
        ]
        self.check(["[192.0.2.1]", "[IPv6:2001:db8:0::1]"], paths, None)

    @given(st.sets(LABELS, min_size=1, max_size=5), LABELS)
    def test_exactly_the_listed(self, listed: set[str], other: str) -> None:
        """Of any domains exactly the listed are taken."""
        domains = Domains(f"{label}.example" for label in listed)
        for label in {*listed, other}:
            expected = None if label in listed else replies.RELAYING_DENIED
            self.assertEqual(ask(domains, f"<a@{label.upper()}.example>"), expected)


class ConstructorTests(SynchronousTestCase):
    def test_provides(self) -> None:
        """It is a policy."""
        verifyObject(IPolicy, Domains(["example.com"]))

    def test_only_rcpt(self) -> None:
        """It overrides the check of recipients only, so that nothing else costs anything."""
        own = {name for name in IPolicy.names() if getattr(Domains, name) is not getattr(Policy, name)}
        self.assertEqual(own, {"rcpt"})

    def test_bad(self) -> None:
        """What is neither domain nor address literal is refused with a sentence that repeats it."""
        cases = {
            "": "'' is no domain: domain is missing",
            "example.com.": "'example.com.' is no domain: domain begins or ends with a dot or has two in a row",
            "-a.example": "'-a.example' is no domain: a label of the domain begins or ends with a hyphen",
            "a@example.com": "'a@example.com' is no domain: domain may have only letters, digits, hyphens and dots",
            "*.example": "'*.example' is no domain: domain may have only letters, digits, hyphens and dots",
            "[192.0.2]": ("'[192.0.2]' is no address literal: it must be like [192.0.2.1] or [IPv6:2001:db8::1]"),
            "[example.com]": (
                "'[example.com]' is no address literal: it must be like [192.0.2.1] or [IPv6:2001:db8::1]"
            ),
        }
        for text, sentence in cases.items():
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, Domains, ["example.com", text])
                self.assertEqual(str(error), sentence)

    def test_none(self) -> None:
        """An empty list is refused, since it would take no mail."""
        error = self.assertRaises(ValueError, Domains, [])
        self.assertEqual(str(error), "no domain is listed, so no mail would be taken")

    def test_one_str(self) -> None:
        """One str is refused: its letters would be domains."""
        error = self.assertRaises(TypeError, Domains, "localhost")
        self.assertEqual(str(error), "domains must be a list of str: ['localhost']")

    def test_repr(self) -> None:
        """Its repr names the domains in the form that is compared."""
        self.assertEqual(repr(Domains(["B.example", "a.example"])), "Domains(['a.example', 'b.example'])")
