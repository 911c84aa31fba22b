from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import NULL, Address, parse_mailbox
from smtpsvc.message import Canonical, quoted, split_address, split_tag, unquoted
from tests.support import given, st


class SplitTests(SynchronousTestCase):
    def test_last_at(self) -> None:
        """An address is split at its last @."""
        self.assertEqual(split_address("a@b.example"), ("a", "b.example"))
        self.assertEqual(split_address('"a@b"@c.example'), ('"a@b"', "c.example"))
        self.assertEqual(split_address(Address("a", "b.example")), ("a", "b.example"))

    def test_none(self) -> None:
        """What has no @ with something on both sides is no address."""
        for text in ("", "a", "a@", "@b.example", NULL):
            with self.subTest(text=text):
                self.assertRaises(ValueError, split_address, text)

    def test_tags(self) -> None:
        """A tag begins at the first separator that does not begin the local part."""
        for local, separators, expected in (
            ("info", "+", ("info", None)),
            ("info+news", "+", ("info", "news")),
            ("info+", "+", ("info", "")),
            ("info+a+b", "+", ("info", "a+b")),
            ("+info", "+", ("+info", None)),
            ("++info", "+", ("+", "info")),
            ("a-b+c", "+-", ("a", "b+c")),
            ("a-b+c", "", ("a-b+c", None)),
            ('"in fo+x"', "+", ("in fo", "x")),
        ):
            with self.subTest(local=local, separators=separators):
                self.assertEqual(split_tag(local, separators), expected)

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30))
    def test_quotes(self, text: str) -> None:
        """Any printable text can be a local part, and comes back as it was."""
        self.assertEqual(unquoted(quoted(text)), text)
        self.assertEqual(unquoted(parse_mailbox(f"{quoted(text)}@x.example").local), text)


class CanonicalTests(SynchronousTestCase):
    def check(self, canonical: Canonical, cases: dict[str, str]) -> None:
        for written, expected in cases.items():
            with self.subTest(written=written):
                self.assertEqual(str(canonical(parse_mailbox(written))), expected)

    def test_usual(self) -> None:
        """Case, tags, needless quotes and the kind of labels make no other mailbox."""
        self.check(
            Canonical(),
            {
                "Info+News@Example.COM": "info@example.com",
                '"info"@example.com': "info@example.com",
                '"in fo+x"@example.com': '"in fo"@example.com',
                "info@B\u00fccher.example": "info@xn--bcher-kva.example",
                "u\u0308@example.com": "\u00fc@example.com",
                "a.b@example.com": "a.b@example.com",
            },
        )

    def test_rules(self) -> None:
        """Each rule can be turned."""
        self.check(Canonical(separators=""), {"A+b@x.example": "a+b@x.example"})
        self.check(Canonical(separators="-"), {"A-b+c@x.example": "a@x.example"})
        self.check(Canonical(fold_case=False), {"A+b@X.example": "A@x.example"})
        self.check(Canonical(ignore_dots=True), {"a.b.c+d@x.example": "abc@x.example"})

    def test_domains(self) -> None:
        """Elsewhere than in the named domains a local part stays, but for needless quotes."""
        canonical = Canonical(domains=frozenset({"Own.example"}))
        self.check(canonical, {"A+b@own.example": "a@own.example", '"A+b"@X.example': "A+b@x.example"})
        self.assertIsNone(canonical.tag(parse_mailbox("a+b@x.example")))
        self.assertEqual(canonical.tag(parse_mailbox("a+b@own.example")), "b")

    def test_wrong_domain(self) -> None:
        """A domain that is none is a mistake that is told."""
        error = self.assertRaises(ValueError, Canonical, domains=frozenset({"a b"}))
        self.assertIn("'a b' is no domain", str(error))

    def test_null(self) -> None:
        """The null sender stays."""
        self.assertIs(Canonical()(NULL), NULL)

    def test_same(self) -> None:
        """Addresses are compared by their canonical forms."""
        canonical = Canonical()
        self.assertTrue(canonical.same(map(parse_mailbox, ["a+1@x.example", "A@X.EXAMPLE"])))
        self.assertFalse(canonical.same(map(parse_mailbox, ["a@x.example", "b@x.example"])))

    @given(st.from_regex(r"[a-zA-Z0-9+.\u00e4\u0130-]{1,20}", fullmatch=True))
    def test_idempotent(self, local: str) -> None:
        """The canonical form of a canonical form is itself."""
        canonical = Canonical(ignore_dots=True)
        once = canonical(Address(quoted(local), "x.example"))
        self.assertEqual(canonical(once), once)
