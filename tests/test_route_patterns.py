from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.patterns import Patterns
from smtpsvc.grammar.addresses import Address, parse_path
from smtpsvc.settings import Role
from smtpsvc.values import Account, Peer


def choose(
    patterns: list[str], path: str = "", *, account: str | None = None, role: Role = Role.SMTP, host: Any = None
) -> int | None:
    """Choose for a recipient; "" is none."""
    peer = Peer(None, "c1")
    if account is not None:
        peer.account = Account(account)
    address: Address | None = parse_path(f"<{path}>".encode(), postmaster=True) if path else None
    return Patterns(patterns).choose(address, peer, role, host)


class RecipientTests(SynchronousTestCase):
    def check(self, pattern: str, fitting: str, others: str) -> None:
        for path in fitting.split():
            with self.subTest(pattern=pattern, path=path):
                self.assertEqual(choose([pattern], path), 0)
        for path in others.split():
            with self.subTest(pattern=pattern, path=path):
                self.assertIsNone(choose([pattern], path))

    def test_domain(self) -> None:
        """A domain is compared by its A-labels without regard to case, and is itself only."""
        self.check("Example.com", "a@example.com A+b@EXAMPLE.com", "a@x.example.com a@com a@example.co postmaster")
        self.check("*@example.com", "a@example.com", "a@x.example.com")
        self.check("b\u00fccher.example", "a@xn--bcher-kva.example a@B\u00dcCHER.example", "a@example")
        self.check("[192.0.2.1]", "a@[192.0.2.1]", "a@[192.0.2.2]")

    def test_subdomains(self) -> None:
        """With a dot before it a domain means all below it, and not itself."""
        self.check(".example.com", "a@x.example.com a@y.x.Example.com", "a@example.com a@xexample.com a@[192.0.2.1]")

    def test_mailbox(self) -> None:
        """A mailbox is meant in any case and with any tag; a pattern with a tag means that tag."""
        self.check(
            "Info@example.com", 'info@EXAMPLE.com info+x@example.com "info"@example.com', "inf@example.com info@x.y"
        )
        self.check("info+x@example.com", "INFO+X@example.com", "info@example.com info+y@example.com")

    def test_any_domain(self) -> None:
        """A mailbox is meant in every domain where a star stands for that; the bare postmaster is one."""
        self.check("postmaster@*", "Postmaster@a.example postmaster+x@b.example postmaster", "post@a.example")

    def test_all(self) -> None:
        """A star is all."""
        self.check("*", "a@b.example postmaster", "")

    def test_first(self) -> None:
        """Of those that fit the first counts, whatever its kind."""
        patterns = ["a@x.example", "role:lmtp", ".example", "x.example", "*", "b@x.example"]
        for path, role, expected in (
            ("a@x.example", Role.LMTP, 0),
            ("b@x.example", Role.LMTP, 1),
            ("b@x.example", Role.SMTP, 2),
            ("b@y.test", Role.SMTP, 4),
        ):
            with self.subTest(path=path, role=role):
                self.assertEqual(choose(patterns, path, role=role), expected)
        self.assertEqual(choose(["x.example", "X.example"], "a@x.example"), 0)

    def test_no_recipient(self) -> None:
        """Without a recipient only conditions can fit."""
        self.assertIsNone(choose(["x.example", "a@*"]))
        self.assertEqual(choose(["x.example", "account:*"], account="me"), 1)


class ConditionTests(SynchronousTestCase):
    def test_account(self) -> None:
        """An account is meant by its name, or any; a guest has none."""
        for pattern, account, expected in (
            ("account:me", "me", 0), ("account:me", "Me", None), ("account:me", None, None),
            ("account:*", "me", 0), ("account:*", "", None), ("account:*", None, None),
            ("account:a@b.example", "a@b.example", 0),
        ):  # fmt: skip
            with self.subTest(pattern=pattern, account=account):
                self.assertEqual(choose([pattern], "a@x.example", account=account), expected)

    def test_role(self) -> None:
        """A role is that of the listener."""
        self.assertEqual(choose(["role:submission"], role=Role.SUBMISSION), 0)
        self.assertIsNone(choose(["role:submission"], role=Role.SMTP))

    def test_listener(self) -> None:
        """A listener is meant by its port, its address, both, or the path of its socket."""
        four, six = IPv4Address("TCP", "192.0.2.1", 25), IPv6Address("TCP", "2001:db8::1", 587)
        mapped = IPv6Address("TCP", "::ffff:192.0.2.1", 25)
        for pattern, fitting in (
            ("25", [four, mapped]),
            ("192.0.2.1", [four, mapped]),
            ("192.0.2.1:25", [four, mapped]),
            ("192.0.2.1:26", []),
            ("[2001:DB8::1]", [six]),
            ("[2001:db8::1]:587", [six]),
            ("/run/lmtp", [UNIXAddress(b"/run/lmtp")]),
        ):
            for host in (four, six, mapped, UNIXAddress(b"/run/lmtp"), UNIXAddress(None), None):
                with self.subTest(pattern=pattern, host=host):
                    self.assertEqual(choose([f"listener:{pattern}"], host=host), 0 if host in fitting else None)


class MistakeTests(SynchronousTestCase):
    def test_sentences(self) -> None:
        """What is no pattern is told with what would be one."""
        for pattern, sentence in (
            ("a b", "a pattern is a domain, user@domain, account:NAME"),
            ("", "a pattern is a domain"),
            (".", "a pattern is a domain"),
            ("a@", "is no domain"),
            ("@x.example", "is no mailbox"),
            ("account:", "needs a name"),
            ("role:x", "there are smtp, submission, lmtp"),
            ("listener:", "is no listener"),
            ("listener:x", "is no listener"),
            ("listener:300.0.0.1", "is no IP address"),
        ):
            with self.subTest(pattern=pattern):
                error = self.assertRaises(ValueError, Patterns, [pattern])
                self.assertRegex(str(error), sentence)
