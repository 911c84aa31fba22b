"""
Tests of smtpsvc.policies.arguments, clients and patterns: what people type for policies.
"""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import Address, parse_mailbox
from smtpsvc.policies.arguments import Arguments, parse_duration
from smtpsvc.policies.clients import Clients, network_of
from smtpsvc.policies.patterns import Addresses, file_lines, listed_addresses
from smtpsvc.values import Account, Peer


class ArgumentsTests(SynchronousTestCase):
    def test_pieces(self) -> None:
        """Values without a name, settings and settings that come again are told apart."""
        arguments = Arguments(" a, 2001:db8::/32 ,x=1,b@c=d, x=2,,url=http://h/?q=1")
        self.assertEqual(arguments.values(), ["a", "2001:db8::/32", "b@c=d"])
        self.assertEqual(arguments.texts("x"), ["1", "2"])
        self.assertEqual(arguments.text("url"), "http://h/?q=1")
        arguments.end()

    def test_reads(self) -> None:
        """Settings are read as counts, sizes, times, words and switches, and have defaults."""
        arguments = Arguments("count=5,size=2K,time=1.5m,word=OFF,on=yes,flag")
        self.assertEqual(
            (arguments.count("count", 1), arguments.size("size", 1), arguments.seconds("time", 1)), (5, 2048, 90)
        )
        self.assertEqual(arguments.choice("word", ("on", "off"), "on"), "off")
        self.assertEqual((arguments.yes("on"), arguments.yes("flag"), arguments.yes("other")), (True, True, False))
        self.assertEqual((arguments.count("c", 7), arguments.choice("w", ("a",), "a")), (7, "a"))
        arguments.end()

    def test_mistakes(self) -> None:
        """Each mistake is a sentence that names the setting and says what to write."""
        cases = {
            "n=x": (lambda a: a.count("n", 1), "n: 'x' is no whole number; write digits only"),
            "n=1,n=2": (lambda a: a.count("n", 1), "n is given 2 times; once is enough"),
            "t=5q": (lambda a: a.seconds("t", 1), "t: '5q' is no time; write such as 5s, 10m, 2h or 1d"),
            "w=c": (lambda a: a.choice("w", ("a", "b"), "a"), "w: 'c' is not one of a, b"),
            "": (lambda a: a.value("a file"), "a file is missing"),
            "a,b": (lambda a: a.value("a file"), "there are 2 values; write a file only, and a name before the others"),
            "burts=1": (
                lambda a: (a.count("burst", 1), a.end()),
                "burts is no setting of it (did you mean burst?); there are burst",
            ),
            "z=1": (lambda a: a.end(), "z is no setting of it; there are none"),
            "a": (lambda a: a.end(), "it takes no value without a name, such as 'a'"),
        }
        for text, (read, sentence) in cases.items():
            with self.subTest(text):
                self.assertEqual(str(self.assertRaises(ValueError, read, Arguments(text))), sentence)

    def test_durations(self) -> None:
        """Times have units from milliseconds to weeks, and are seconds without one."""
        cases = {"5": 5, "5s": 5, "2m": 120, "1h": 3600, "1D": 86400, "1w": 604800, "250ms": 0.25, "1.5s": 1.5}
        self.assertEqual({text: parse_duration(text) for text in cases}, cases)
        for text in ("", "s", "-1s", "1e9", "1 s", "5y", "9" * 10, "\u0665"):
            self.assertRaises(ValueError, parse_duration, text)

    @given(st.text())
    def test_any(self, text: str) -> None:
        """Any text is taken apart, or refused with a sentence."""
        arguments = Arguments(text)
        self.assertLessEqual(sum(map(len, arguments.values())), len(text))


def peer(host: str, account: str = "") -> Peer:
    """Make a client."""
    made = Peer(IPv4Address("TCP", host, 1) if host else UNIXAddress(None), "c1")
    made.account = Account(account) if account else None
    return made


class ClientsTests(SynchronousTestCase):
    def test_has(self) -> None:
        """Clients are found by address and network, mapped addresses as those of IPv4."""
        clients = Clients(["192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "::1"])
        inside = ["192.0.2.1", "10.255.0.1", "::ffff:10.1.2.3", "2001:db8:5::1", "::1", "2001:db8::1%eth0"]
        outside = ["192.0.2.2", "11.0.0.1", "2001:db9::1", "::2", "", "nonsense"]
        self.assertEqual([clients.has(peer(host)) for host in inside + outside], [True] * 6 + [False] * 6)

    def test_words(self) -> None:
        """The words stand for unix sockets, and for who has logged in."""
        self.assertTrue(Clients(["UNIX"]).has(peer("")))
        self.assertFalse(Clients(["unix"]).has(peer("192.0.2.1", "joe")))
        self.assertTrue(Clients(["auth"]).has(peer("192.0.2.1", "joe")))
        self.assertFalse(Clients(["auth"]).has(peer("192.0.2.1")))

    def test_everybody(self) -> None:
        """The network of length 0 has all clients of its family."""
        self.assertEqual([Clients(["0.0.0.0/0"]).has(peer(host)) for host in ("1.2.3.4", "::1")], [True, False])

    def test_mistakes(self) -> None:
        """What is none is refused, and bits beyond the length with what may be meant."""
        self.assertIn("no address or network", str(self.assertRaises(ValueError, Clients, ["x"])))
        self.assertIn("write 10.0.0.0/8", str(self.assertRaises(ValueError, Clients, ["10.0.0.1/8"])))

    @given(st.lists(st.ip_addresses(v=4).map(str), max_size=5), st.ip_addresses(v=4).map(str))
    def test_exact(self, listed: list[str], host: str) -> None:
        """Of addresses exactly those that are listed are found."""
        self.assertEqual(Clients(listed).has(peer(host)), host in listed)

    def test_network(self) -> None:
        """The key of a client is its address of IPv4, or its network of 64 bits of IPv6."""
        self.assertEqual(network_of("192.0.2.9"), "192.0.2.9/32")
        self.assertEqual(network_of("2001:db8:1:2:3::4"), "2001:db8:1:2::/64")
        self.assertEqual(network_of("::ffff:192.0.2.9", 24), "192.0.2.0/24")
        self.assertEqual(network_of(""), "")


class AddressesTests(SynchronousTestCase):
    def check(self, patterns: list[str], inside: list[str], outside: list[str]) -> None:
        addresses = Addresses(patterns)
        for text in inside + outside:
            with self.subTest(patterns=patterns, address=text):
                self.assertEqual(addresses.has(parse_mailbox(text) if text else Address("")), text in inside)

    def test_address(self) -> None:
        """An address is itself, in any case."""
        self.check(["Joe@X.example"], ["joe@x.example", "JOE@x.EXAMPLE"], ["joe@sub.x.example", "jo@x.example", ""])

    def test_domain(self) -> None:
        """A domain is all in it, however it is written, and none of its subdomains."""
        for pattern in ("x.example", "@x.example", "*@x.example"):
            self.check([pattern], ["a@x.example", "a@X.example"], ["a@s.x.example", "a@xx.example", ""])

    def test_subdomains(self) -> None:
        """A dot before a domain is all in its subdomains, and not in the domain."""
        for pattern in (".x.example", "*.x.example", "@*.x.example"):
            self.check(
                [pattern], ["a@s.x.example", "a@t.s.x.example"], ["a@x.example", "a@yx.example", "a@example", ""]
            )

    def test_local(self) -> None:
        """A user without a domain is that user anywhere."""
        for pattern in ("root@", "root@*"):
            self.check([pattern], ["root@x.example", "ROOT@y.example"], ["toor@x.example", ""])

    def test_quoted(self) -> None:
        """Nobody gets past a pattern by quotes that change nothing (RFC 5321 §4.1.2)."""
        for pattern in ("joe@x.example", '"joe"@x.example', "joe@"):
            self.check([pattern], ['"joe"@x.example', '"J\\oe"@x.example'], ['"joe "@x.example'])

    def test_null(self) -> None:
        """The null sender is only itself, and one of all."""
        self.check(["<>"], [""], ["a@x.example"])
        self.check(["*"], ["", "a@x.example"], [])

    def test_internationalized(self) -> None:
        """A U-label is the same as its A-label; a literal is a domain too."""
        self.check(["b\u00fccher.example"], ["a@xn--bcher-kva.example", "a@B\u00dcCHER.example"], ["a@buecher.example"])
        self.check(["[192.0.2.1]"], ["a@[192.0.2.1]"], ["a@[192.0.2.2]"])

    def test_mistakes(self) -> None:
        """What is no pattern is refused with a sentence."""
        for pattern in ("", "@", "a..b", "joe@.x.example", "a@b@c", "x y"):
            with self.subTest(pattern):
                self.assertRaises(ValueError, Addresses, [pattern])

    @given(st.text(max_size=20))
    def test_any(self, text: str) -> None:
        """Any text is a pattern, or refused with a sentence."""
        try:
            addresses = Addresses([text])
        except ValueError:
            return
        addresses.has(Address("a", "x.example"))


class FileTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """Comments and empty lines of a file do not count; a # inside a word does."""
        data = b"# all\n\na@x.example # him\r\n  b#c@x.example\n"
        self.assertEqual(file_lines(data), ["a@x.example", "b#c@x.example"])

    def test_changes(self) -> None:
        """A file adds to what is typed, and is read again when it changes; nonsense leaves what there was."""
        path = os.path.abspath(self.mktemp())
        with open(path, "w") as file:
            file.write("x.example\n")
        listed = listed_addresses(["y.example", path])
        address = Address("a", "z.example")
        self.assertTrue(listed.has(Address("a", "x.example")) and listed.has(Address("a", "y.example")))
        self.assertFalse(listed.has(address))
        for text, found in (("z.example\n", True), ("a..b\n", True), ("\n", False)):
            with open(path, "w") as file:
                file.write(text)
            self.assertEqual(listed.has(address), found)

    def test_mistakes(self) -> None:
        """A file that is not there, is not UTF-8 or makes no sense is refused with a sentence."""
        path = os.path.abspath(self.mktemp())
        self.assertIn("No such file", str(self.assertRaises(ValueError, listed_addresses, [path])))
        for data in (b"\xff", b"a..b"):
            with open(path, "wb") as file:
                file.write(data)
            self.assertRaises(ValueError, listed_addresses, [path])
