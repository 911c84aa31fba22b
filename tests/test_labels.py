"""
Tests of smtpsvc.grammar.labels: domains as people read them.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import NULL, SyntaxProblem, parse_mailbox
from smtpsvc.grammar.labels import u_labels
from tests.support import given, st


class LabelTests(SynchronousTestCase):
    def test_labels(self) -> None:
        """A-labels become U-labels; all others stay as they are."""
        cases = {
            "example.com": "example.com",
            "xn--bcher-kva.example": "bücher.example",
            "mail.xn--fiqs8s": "mail.中国",
            "xn--fa-hia.example": "faß.example",
            "xn--a.example": "xn--a.example",
            "xn--zzzzzz999.example": "xn--zzzzzz999.example",
            "xn--.example": "xn--.example",
            "": "",
        }
        for domain, shown in cases.items():
            with self.subTest(domain):
                self.assertEqual(u_labels(domain), shown)

    @given(st.text("xn-abcdefghijklmnopqrstuvwxyz0123456789.", max_size=80))
    def test_anything(self, domain: str) -> None:
        """Any ASCII text gives as many labels as it has."""
        self.assertEqual(u_labels(domain).count("."), domain.count("."))
        self.assertTrue(u_labels(f"xn--{domain}"))


class AddressTests(SynchronousTestCase):
    def test_both_forms(self) -> None:
        """However a domain is written, there is one form to compare and one to show (RFC 5890 §2.3.2.1)."""
        for written in ("bücher.example", "BÜCHER.Example", "xn--bcher-kva.example", "XN--BCHER-KVA.example"):
            with self.subTest(written):
                address = parse_mailbox(f"a@{written}")
                self.assertEqual(address.domain, written)
                self.assertEqual(address.ascii_domain, "xn--bcher-kva.example")
                self.assertEqual(address.unicode_domain, "bücher.example")

    def test_others(self) -> None:
        """An address literal and no domain are given as they are."""
        self.assertEqual(parse_mailbox("a@[192.0.2.1]").unicode_domain, "[192.0.2.1]")
        self.assertEqual(NULL.unicode_domain, "")

    @given(st.text(st.characters(categories=["Ll", "Lo", "Nd"]), min_size=1, max_size=10))
    def test_stable(self, label: str) -> None:
        """Both forms name the same domain."""
        try:
            address = parse_mailbox(f"a@{label}.example")
        except SyntaxProblem:
            return
        self.assertEqual(parse_mailbox(f"a@{address.unicode_domain}").ascii_domain, address.ascii_domain)
