"""Tests of smtpsvc.grammar.addresses."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import (
    NULL,
    Address,
    SyntaxProblem,
    is_address_literal,
    is_domain,
    parse_domain,
    parse_mailbox,
    parse_path,
    read_path,
)

LONG = 100_000
ATEXT = "abcXYZ019!#$%&'*+-/=?^_`{|}~"
LABEL63 = "a" * 63
DOMAIN255 = ".".join([LABEL63] * 4)
OVERLONG = "".join(map(chr, range(0xAC00, 0xAC00 + 60)))  # 180 octets as UTF-8, over 63 as an A-label
INVALID_UTF8 = (b"\xff", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xc3", b"\xf4\x90\x80\x80", b"\xe2\x82")

# The grammar of RFC 5321 §4.1.2 once more, as it is printed there: fit for short input only.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_SUB_DOMAIN = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"{_SUB_DOMAIN}(?:\.{_SUB_DOMAIN})*"
_SNUM = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
RFC_5321 = re.compile(
    rf'<(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?({_ATOM}(?:\.{_ATOM})*|"(?:[ !#-\[\]-~]|\\[ -~])*")'
    rf"@({_DOMAIN}|\[{_SNUM}(?:\.{_SNUM}){{3}}\])>",
)


class ProblemTestCase(SynchronousTestCase):
    """Helpers of the classes below."""

    def problem(self, data: bytes, *, lenient: bool = False, null: bool = False, postmaster: bool = False) -> str:
        """Give the sentence for a path that must be refused."""
        error = self.assertRaises(SyntaxProblem, parse_path, data, lenient=lenient, null=null, postmaster=postmaster)
        return str(error)

    def each_refused(self, *paths: str | bytes, lenient: bool = False, words: str = "") -> None:
        """Claim that each path is refused, in a sentence with these words."""
        for path in paths:
            data = path.encode() if isinstance(path, str) else path
            with self.subTest(data=data):
                self.assertIn(words, self.problem(data, lenient=lenient))


class AddressTests(SynchronousTestCase):
    def test_text(self) -> None:
        """An address is written as on the wire, without brackets."""
        cases = {
            Address("user", "Example.com"): "user@Example.com",
            Address('"a b"', "[192.0.2.1]"): '"a b"@[192.0.2.1]',
            Address("Postmaster"): "Postmaster",
            NULL: "",
        }
        for address, text in cases.items():
            with self.subTest(text=text):
                self.assertEqual(str(address), text)

    def test_is_null(self) -> None:
        """Only <> is the null path; a postmaster without a domain is not."""
        self.assertTrue(NULL.is_null)
        self.assertFalse(Address("postmaster").is_null)
        self.assertFalse(Address('""', "example.com").is_null)

    def test_is_ascii(self) -> None:
        """One character beyond US-ASCII, on either side, makes an address need SMTPUTF8."""
        self.assertTrue(Address("a", "b").is_ascii)
        self.assertFalse(Address("\xe4", "b").is_ascii)
        self.assertFalse(Address("a", "\xe4").is_ascii)

    def test_is_literal(self) -> None:
        """A domain in brackets is an address literal."""
        self.assertTrue(Address("a", "[192.0.2.1]").is_literal)
        self.assertFalse(Address("a", "b").is_literal)
        self.assertFalse(NULL.is_literal)

    def test_ascii_domain(self) -> None:
        """Domains compare as A-labels in lower case; literals and no domain stay as they are."""
        cases = {
            "Example.COM": "example.com",
            "XN--BCHER-KVA.example": "xn--bcher-kva.example",
            "b\xfccher.Example": "xn--bcher-kva.example",
            "B\xdcCHER.example": "xn--bcher-kva.example",
            "bu\u0308cher.example": "xn--bcher-kva.example",
            "[IPv6:2001:DB8::1]": "[IPv6:2001:DB8::1]",
            "": "",
        }
        for domain, result in cases.items():
            with self.subTest(domain=domain):
                self.assertEqual(Address("a", domain).ascii_domain, result)

    def test_value(self) -> None:
        """Addresses are values: equal by content, usable as keys, not changeable."""
        self.assertEqual({parse_mailbox("a@b"), Address("a", "b")}, {Address("a", "b")})
        self.assertRaises(AttributeError, setattr, NULL, "local", "a")


class MailboxTests(ProblemTestCase):
    def test_good(self) -> None:
        """Dot-strings, quoted strings, single labels, digits and hyphens are taken as they stand."""
        cases = {
            "<user@example.com>": ("user", "example.com"),
            "<First.Last@EXAMPLE.com>": ("First.Last", "EXAMPLE.com"),
            "<a@b>": ("a", "b"),
            f"<{ATEXT}@b>": (ATEXT, "b"),
            "<a@1.2--3.4-5>": ("a", "1.2--3.4-5"),
            "<a@xn--bcher-kva.example>": ("a", "xn--bcher-kva.example"),
            '<"a b"@c>': ('"a b"', "c"),
            '<""@c>': ('""', "c"),
            r'<"\"\\\ a@>,"@c>': (r'"\"\\\ a@>,"', "c"),
            "<postmaster@c>": ("postmaster", "c"),
            "<a@[192.0.2.1]>": ("a", "[192.0.2.1]"),
        }
        for path, (local, domain) in cases.items():
            with self.subTest(path=path):
                self.assertEqual(parse_path(path.encode()), Address(local, domain))

    def test_every_octet_of_an_atom(self) -> None:
        """Of US-ASCII, an unquoted local part takes atext and inner dots, and nothing else."""
        for character in map(chr, range(0x80)):
            with self.subTest(character=character):
                path = f"<a{character}b@c>".encode()
                if character in ATEXT or character.isalnum() or character == ".":
                    self.assertEqual(parse_path(path).local, f"a{character}b")
                elif character != "@":
                    self.problem(path)

    def test_every_octet_of_a_quoted_string(self) -> None:
        """Between quotes stand 32 to 126, with a backslash before a quote and a backslash."""
        for character in map(chr, range(0x80)):
            with self.subTest(character=character):
                plain, paired = f'<"a{character}b"@c>'.encode(), f'<"\\{character}"@c>'.encode()
                if " " <= character <= "~":
                    self.assertEqual(parse_path(paired).local, f'"\\{character}"')
                else:
                    self.assertIn("control character", self.problem(paired))
                if " " <= character <= "~" and character not in '"\\':
                    self.assertEqual(parse_path(plain).local, f'"a{character}b"')
                elif character != "\\":
                    self.problem(plain)

    def test_every_octet_of_a_label(self) -> None:
        """Of US-ASCII, a label takes letters, digits and inner hyphens."""
        for character in map(chr, range(0x80)):
            with self.subTest(character=character):
                if character.isalnum() or character in ".-":
                    self.assertEqual(parse_path(f"<a@b{character}c>".encode()).domain, f"b{character}c")
                else:
                    self.problem(f"<a@b{character}c>".encode())

    def test_local_length(self) -> None:
        """A local part has at most 64 octets on the wire, quotes and backslashes counted (RFC 5321 §4.5.3.1.1)."""
        for local in ("a" * 64, '"' + "a" * 62 + '"', '"' + r"\a" * 31 + '"', "\xe4" * 32):
            with self.subTest(local=local):
                self.assertEqual(parse_path(f"<{local}@b>".encode()).local, local)
        for local in ("a" * 65, '"' + "a" * 63 + '"', '"' + r"\a" * 31 + 'a"', "\xe4" * 32 + "a"):
            with self.subTest(local=local):
                self.assertEqual(self.problem(f"<{local}@b>".encode()), "local part is longer than 64 octets")

    def test_domain_length(self) -> None:
        """A domain has at most 255 octets, a label 63 (RFC 5321 §4.5.3.1.2)."""
        self.assertEqual(len(DOMAIN255), 255)
        self.assertEqual(parse_path(f"<a@{DOMAIN255}>".encode()).domain, DOMAIN255)
        self.assertEqual(self.problem(f"<a@{DOMAIN255}.b>".encode()), "domain is longer than 255 octets")
        for domain in (LABEL63 + "a", f"b.{LABEL63}a.c"):
            with self.subTest(domain=domain):
                self.assertEqual(
                    self.problem(f"<a@{domain}>".encode()), "a label of the domain is longer than 63 octets"
                )

    def test_dots_in_local_part(self) -> None:
        """Dots stand between atoms only."""
        self.each_refused("<.a@b>", "<a.@b>", "<a..b@c>", words="local part begins or ends with a dot")
        self.each_refused("<.@b>", "<@b>", "<..@b>")

    def test_dots_in_domain(self) -> None:
        """Dots stand between labels only, not at the end."""
        self.each_refused("<a@b.>", "<a@.b>", "<a@b..c>", "<a@.>", words="domain begins or ends with a dot")

    def test_hyphens_in_domain(self) -> None:
        """Labels begin and end with a letter or digit."""
        self.each_refused("<a@-b>", "<a@b->", "<a@b-.c>", "<a@b.-c>", "<a@->", words="begins or ends with a hyphen")

    def test_domain_characters(self) -> None:
        """Underscores, second @ and the like are not in a domain."""
        self.each_refused("<a@b_c>", "<a@b@c>", "<a@b!c>", '<a@"b">', "<a@b[c]>", words="only letters, digits, hyphens")

    def test_no_domain(self) -> None:
        """An address has a domain."""
        self.each_refused("<a>", "<a", "<postmaster>", words="address has no domain")
        self.each_refused("<a@>", "<a@ >", words="domain is missing")

    def test_specials(self) -> None:
        """Characters that need quotes, and text behind a quoted string, are refused."""
        self.each_refused("<a b@c>", words="no space may stand")
        self.each_refused("<a(b)@c>", '<a"b"@c>', "<a<b>@c>", r"<a\@b@c>", '<"a"b@c>', '<"a"."b"@c>', words="in quotes")
        self.each_refused("<(a)@b>", "< a@b>", "<<a@b>>", words="begins with a character that must stand in quotes")

    def test_open_quotes(self) -> None:
        """A quoted string ends in a quote that has no backslash before it."""
        self.each_refused('<"a@b>', r'<"a\"@b>', '<"', '<"\\', words="no closing quote")

    def test_brackets(self) -> None:
        """A path stands in angle brackets, with a space or nothing behind it."""
        self.each_refused("", "a@b", "a@b>", " <a@b>", "[a@b]", words="path must be in angle brackets: <user@domain>")
        self.each_refused("<a@b", "<a@b SIZE=1>", "<a@b,c@d>", "<a@[192.0.2.1]", words="lacks its closing")
        self.each_refused("<a@b>x", "<a@b>>", "<a@b>,<c@d>", "<@a:b@c>x", words="a space must follow")
        self.each_refused("<a@b> x", "<a@b> ", words="something stands behind the path")

    def test_control_characters(self) -> None:
        """Control characters, DEL and NUL pass nowhere, and the sentence says so."""
        shapes = ("<{}a@b>", "<a{}@b>", "<a@{}b>", "<a@b{}>", '<"a{}"@b>', '<"\\{}"@b>', "<a@b>{}", "<@a{}:b@c>")
        for control in (*map(chr, range(32)), "\x7f"):
            for shape in shapes:
                for lenient in (False, True):
                    with self.subTest(control=control, shape=shape, lenient=lenient):
                        sentence = self.problem(shape.format(control).encode(), lenient=lenient)
                        self.assertEqual(sentence, "address has a control character in it")

    def test_nothing_repeated(self) -> None:
        """No sentence repeats what the client sent."""
        marker = "QXQX"
        shapes = (
            *("{}", "<{}", "<{}>", "<{}@", "<{}@b_c>", "<a@{}_>", "<a@{}.>", "<a@-{}>", "<{}\xe4\x85@b>", "<a@[{}]>"),
            *("<a@[{}>", '<"{}', "<.{}@b>", "<{} @b>", "<a@b>{}", "<@{}>", "<@{},b@c>", "<a@\xe4\u2028{}>", "<{}\t@b>"),
        )
        for shape in shapes:
            with self.subTest(shape=shape):
                self.assertNotIn(marker, self.problem(shape.format(marker).encode()))


class PositionTests(SynchronousTestCase):
    def test_end(self) -> None:
        """The offset behind the path is given, before the space."""
        cases = {
            b"FROM:<user@example.com>": 23,
            b"FROM:<user@example.com> SIZE=1": 23,
            b'FROM:<"a> b"@c> SIZE=1': 15,
            b"FROM:<@a:b@c> ": 13,
            b"FROM:<>": 7,
            b"FROM:<> BODY=8BITMIME": 7,
            b"FROM:<Postmaster> X": 17,
            "FROM:<\xe4@b> SMTPUTF8".encode(): 11,
        }
        for data, end in cases.items():
            with self.subTest(data=data):
                self.assertEqual(read_path(data, 5, null=True, postmaster=True)[1], end)

    def test_lenient_end(self) -> None:
        """A path without brackets ends before a space too."""
        self.assertEqual(read_path(b"TO:a@b X=<y>", 3, lenient=True), (Address("a", "b"), 6))
        self.assertEqual(read_path(b'TO:"a b"@c X', 3, lenient=True), (Address('"a b"', "c"), 10))

    def test_start_beyond(self) -> None:
        """Where no data is left there is no path."""
        self.assertRaises(SyntaxProblem, read_path, b"FROM:", 5)
        self.assertRaises(SyntaxProblem, read_path, b"FROM:", 5, lenient=True, null=True, postmaster=True)


class NullTests(ProblemTestCase):
    def test_sender(self) -> None:
        """<> is taken where the caller says so."""
        self.assertIs(parse_path(b"<>", null=True), NULL)

    def test_elsewhere(self) -> None:
        """<> is no recipient, however lenient."""
        self.assertEqual(self.problem(b"<>"), "<> is a sender only")
        self.assertEqual(self.problem(b"<>", lenient=True, postmaster=True), "<> is a sender only")

    def test_look_alikes(self) -> None:
        """Nothing else is the null path."""
        for data in (b"", b"< >", b"<", b"<@>", b'<"">', b"<>>", b"<@a:>", b"<\t>"):
            for lenient in (False, True):
                with self.subTest(data=data, lenient=lenient):
                    self.problem(data, lenient=lenient, null=True)


class PostmasterTests(ProblemTestCase):
    def test_recipient(self) -> None:
        """<postmaster> is taken in any case where the caller says so, and kept as written."""
        for local in ("postmaster", "Postmaster", "POSTMASTER"):
            with self.subTest(local=local):
                self.assertEqual(parse_path(f"<{local}>".encode(), postmaster=True), Address(local))

    def test_others(self) -> None:
        """No other local part goes without a domain, and none goes with an empty one."""
        for data in (b"<postmaster2>", b'<"postmaster">', b"<root>", b"<postmaster@>", b"postmaster"):
            with self.subTest(data=data):
                self.problem(data, postmaster=True)

    def test_look_alike(self) -> None:
        """A look-alike whose upper case is POSTMASTER is not the postmaster."""
        self.problem("<po\u017ftma\u017fter>".encode(), postmaster=True)


class LiteralTests(ProblemTestCase):
    GOOD = (
        *("[192.0.2.1]", "[0.0.0.0]", "[255.255.255.255]", "[IPv6:::1]", "[IPv6:::]", "[ipv6:2001:db8::1]"),
        *("[IPv6:2001:DB8:0:0:0:0:0:1]", "[IPV6:::ffff:192.0.2.1]"),
    )
    BAD = (
        *("[]", "[192.0.2]", "[192.0.2.256]", "[192.0.2.01]", "[192.0.2.1.1]", "[1]", "[0x7f.1]", "[2001:db8::1]"),
        *("[IPv6:]", "[IPv6:1]", "[IPv6:1::2::3]", "[IPv6:12345::]", "[IPv6:fe80::1%eth0]", "[IPv6:192.0.2.1]"),
        *("[IPv6: ::1]", "[IPv6:::1/128]", "[X400:abc]", "[example.com]", "[[192.0.2.1]]", "[192.0.2.1", "192.0.2.1]"),
        *("[192.0.2.1].com", r"[192.0.2\.1]", "[192.0.2.\u0661]", "[192.0.2.1 ]", "[192.0.2.1\n]", "[192.0.2.1\0]"),
    )

    def test_good(self) -> None:
        """IPv4 and, behind its tag in any case, IPv6 are address literals (RFC 5321 §4.1.3)."""
        for literal in self.GOOD:
            with self.subTest(literal=literal):
                self.assertEqual(parse_path(f"<a@{literal}>".encode()), Address("a", literal))
                self.assertTrue(is_address_literal(literal))

    def test_bad(self) -> None:
        """Wrong numbers, leading zeros, zones, other tags and open brackets are not."""
        for literal in self.BAD:
            with self.subTest(literal=literal):
                self.problem(f"<a@{literal}>".encode())
                self.assertFalse(is_address_literal(literal))

    def test_is_address_literal(self) -> None:
        """A literal is the whole text, and a domain is none."""
        for text in ("", "example.com", "192.0.2.1", " [192.0.2.1]", "[192.0.2.1]\n"):
            with self.subTest(text=text):
                self.assertFalse(is_address_literal(text))


class RouteTests(ProblemTestCase):
    def test_dropped(self) -> None:
        """A source route is read and dropped (RFC 5321 appendix C)."""
        cases = ("<@a:user@c>", "<@a,@b:user@c>", "<@a.example,@b-2.example,@c:user@c>", "<@b\xfccher.example:user@c>")
        for path in cases:
            with self.subTest(path=path):
                self.assertEqual(parse_path(path.encode()), Address("user", "c"))

    def test_malformed(self) -> None:
        """Routes without a colon or comma, with empty items or without a mailbox are refused."""
        self.each_refused("<@a>", "<@a,b:u@c>", "<@a@b:u@c>", "<@a,:u@c>", "<@a,@:u@c>", "<@:u@c>", "<@a:>", "<@a,@b>")
        self.each_refused("<@a::u@c>", "<@a: u@c>", "<@a :u@c>", "<@a:@b:u@c>", "<a:u@c>", "<,@a:u@c>", "@a:u@c")

    def test_domains(self) -> None:
        """The domains of a route follow the rules for domains, and are no literals."""
        self.each_refused("<@a_b:u@c>", "<@a.:u@c>", "<@-a:u@c>", "<@[192.0.2.1]:u@c>", b"<@\xff:u@c>")

    def test_null(self) -> None:
        """A route leads to a mailbox, not to nobody."""
        self.problem(b"<@a:>", null=True)

    def test_length(self) -> None:
        """A route is at most 256 octets long (RFC 5321 §4.5.3.1.3)."""
        route = "@a," * 84 + "@bcd:"
        self.assertEqual(len(route), 257)
        self.assertEqual(parse_path(f"<{route}u@c>".encode()), Address("u", "c"))
        self.each_refused(f"<@a,{route}u@c>", words="source route is longer than 256 octets")


class LenientTests(ProblemTestCase):
    def test_dots(self) -> None:
        """Odd dots are let pass in a local part, not in a domain."""
        for local in (".a", "a.", "a..b", "..a..", "a...b"):
            with self.subTest(local=local):
                self.assertEqual(parse_path(f"<{local}@b>".encode(), lenient=True), Address(local, "b"))
        self.each_refused("<a@b.>", "<a@.b>", "<a@b..c>", lenient=True, words="domain begins or ends with a dot")
        self.each_refused("<.@b>", "<...@b>", lenient=True, words="local part is missing")

    def test_brackets(self) -> None:
        """Both brackets may be missing, not one of them."""
        for data in (b"a@b", b"a..b@c", b'"a b"@c', b"a@[192.0.2.1]"):
            with self.subTest(data=data):
                self.assertEqual(str(parse_path(data, lenient=True)), data.decode())
        self.each_refused("<a@b", "a@b>", "a>b@c", "a@b,c@d", "@a:b@c", "", " a@b", "a b@c", "a", "a@b x", lenient=True)

    def test_postmaster(self) -> None:
        """The postmaster may go without brackets too."""
        self.assertEqual(parse_path(b"Postmaster", lenient=True, postmaster=True), Address("Postmaster"))

    def test_strict_without(self) -> None:
        """None of it passes unasked."""
        self.each_refused("<.a@b>", "a@b", "<a..b@c>")

    @given(st.text(alphabet='<>@.a-b",:\\ [1]\xe4\t', max_size=20).map(str.encode))
    def test_same_otherwise(self, data: bytes) -> None:
        """A path that is good strictly is read the same leniently."""
        try:
            strict = read_path(data, null=True, postmaster=True)
        except SyntaxProblem:
            return
        self.assertEqual(read_path(data, lenient=True, null=True, postmaster=True), strict)


class SMTPUTF8Tests(ProblemTestCase):
    def test_good(self) -> None:
        """Local parts of UTF-8, quoted or not, and domains of U-labels are understood (RFC 6531 §3.3)."""
        cases = {
            "<j\xf6rg@example.com>": ("j\xf6rg", "example.com"),
            '<"j\xf6rg m"@example.com>': ('"j\xf6rg m"', "example.com"),
            "<\u7528.\U0001f4e7@\u4f8b\u5b50.\u5e7f\u544a>": ("\u7528.\U0001f4e7", "\u4f8b\u5b50.\u5e7f\u544a"),
            "<a@b\xfccher.Example>": ("a", "b\xfccher.Example"),
            "<\xa0@b>": ("\xa0", "b"),
        }
        for path, (local, domain) in cases.items():
            with self.subTest(path=path):
                address = parse_path(path.encode())
                self.assertEqual(address, Address(local, domain))
                self.assertFalse(address.is_ascii)
                self.assertTrue(address.ascii_domain.isascii())

    def test_invalid_utf8(self) -> None:
        """Octets that are no UTF-8 (overlong, surrogate, cut short) are refused everywhere."""
        for octets in INVALID_UTF8:
            for shape in (b"<a%b@c>", b'<"%b"@c>', b"<a@b%b>"):
                with self.subTest(octets=octets, shape=shape):
                    self.assertEqual(self.problem(shape % octets), "address is not valid UTF-8")

    def test_c1_controls(self) -> None:
        """The controls U+0080 to U+009F are controls too."""
        for control in map(chr, range(0x80, 0xA0)):
            with self.subTest(control=control):
                self.assertIn("control character", self.problem(f"<a{control}@b>".encode()))
                self.assertIn("control character", self.problem(f'<"{control}"@b>'.encode(), lenient=True))
                self.problem(f"<a@b{control}>".encode())

    def test_quoted_pair(self) -> None:
        """A backslash stands before US-ASCII only."""
        self.each_refused('<"\\\xf6"@b>')

    def test_bad_labels(self) -> None:
        """Labels that IDNA does not take, or that hide a dot, are refused, and so are bad ASCII ones beside them."""
        domains = (
            *("\u2665.example", "\u0308a.example", "\xe4-.example", "-\xe4.example", "\xe4_b.example", "\xad.example"),
            *("a\u3002b", "\xe4\uff0eb", "\u2100.example", "a\u05d0b.example", "\xe4..b", "\xe4.", ".\xe4", "\xe4.b_c"),
            *("\xe4.-b", OVERLONG + ".example", "\xe4." + LABEL63 + "a", "\u2028", "\xe4 ", "a\u200db.example"),
        )
        for domain in domains:
            with self.subTest(domain=domain):
                self.problem(f"<a@{domain}>".encode())

    def test_length_on_the_wire(self) -> None:
        """A domain of U-labels has at most 255 octets as UTF-8."""
        label = "\u0561" * 40
        self.assertEqual(self.problem(f"<a@{'.'.join([label] * 4)}>".encode()), "domain is longer than 255 octets")

    def test_length_in_ascii(self) -> None:
        """It has at most 255 octets in its ASCII form too."""
        domain = ".".join(["\xe4"] * 80)
        self.assertLess(len(domain.encode()), 255)
        self.assertEqual(self.problem(f"<a@{domain}>".encode()), "domain is longer than 255 octets in its ASCII form")


class HelperTests(ProblemTestCase):
    def test_parse_mailbox(self) -> None:
        """A mailbox without brackets follows the strict rules."""
        for text in ("user@example.com", '"a b"@c', "a@[192.0.2.1]", "j\xf6rg@b\xfccher.example"):
            with self.subTest(text=text):
                self.assertEqual(str(parse_mailbox(text)), text)

    def test_no_mailbox(self) -> None:
        """Brackets, odd dots, spaces, the null path and a bare name are no mailbox."""
        bad = ("", "<a@b>", "a", "postmaster", "a@", "@b", "a..b@c", "a@b ", " a@b", "a@b c", "a@b>", "a@b\n")
        for text in (*bad, "\ud800@b"):
            with self.subTest(text=text):
                self.assertRaises(SyntaxProblem, parse_mailbox, text)

    def test_parse_domain(self) -> None:
        """A domain is given in the form to compare."""
        cases = {"Example.COM": "example.com", "B\xdcCHER.example": "xn--bcher-kva.example", "x": "x"}
        for text, result in cases.items():
            with self.subTest(text=text):
                self.assertEqual(parse_domain(text), result)

    def test_no_domain(self) -> None:
        """Literals, empty labels, wrong characters and surrogates are no domain."""
        for text in ("", ".", "a.", "a b", "a_b", "[192.0.2.1]", "-a", "a\n", "a>", "a,b", "a:1", "\u2665", "\ud800"):
            with self.subTest(text=text):
                self.assertRaises(SyntaxProblem, parse_domain, text)
                self.assertFalse(is_domain(text))

    def test_is_domain(self) -> None:
        """Domains of US-ASCII are told from U-labels and from what is too long."""
        for text in ("a", "Example.com", "1.2.3.4", "xn--bcher-kva", LABEL63, DOMAIN255):
            with self.subTest(text=text):
                self.assertTrue(is_domain(text))
        for text in ("b\xfccher.example", LABEL63 + "a", DOMAIN255 + ".b", "192.0.2.1]"):
            with self.subTest(text=text):
                self.assertFalse(is_domain(text))


class RandomTests(SynchronousTestCase):
    @given(st.text(alphabet='<>@..aaZ0--_",:\\ [1]255\t\x7f', max_size=24).map(lambda text: f"<{text}>"))
    @example("<@a,@b:user@c>")
    @example('<"\\""@a>')
    @example("<a@[1.25.0.255]>")
    def test_grammar(self, path: str) -> None:
        """Short paths of US-ASCII are good exactly where the grammar of RFC 5321, written down again, takes them."""
        match = RFC_5321.fullmatch(path)
        try:
            address = parse_path(path.encode())
        except SyntaxProblem as problem:
            self.assertIsNone(match, str(problem))
        else:
            self.assertIsNotNone(match)
            assert match is not None
            self.assertEqual(address, Address(match[1], match[2]))

    @given(st.from_regex(RFC_5321, fullmatch=True))
    def test_good(self, path: str) -> None:
        """Paths made by the grammar are good, unless too long."""
        match = RFC_5321.fullmatch(path)
        assert match is not None
        try:
            self.assertEqual(parse_path(path.encode()), Address(match[1], match[2]))
        except SyntaxProblem as problem:
            self.assertIn("longer than", str(problem))

    @given(
        st.binary(max_size=60) | st.text(alphabet='<>@.a",\\ \xe4\u3002\u05d0\u0308\x85[', max_size=20).map(str.encode),
        st.booleans(),
        st.booleans(),
    )
    def test_anything(self, data: bytes, bracket: bool, lenient: bool) -> None:
        """Any octets give an address that reads back as itself, or a SyntaxProblem."""
        if bracket:
            data = b"<" + data + b"@b>"
        try:
            address, end = read_path(data, lenient=lenient, null=True, postmaster=True)
        except SyntaxProblem:
            return
        self.assertTrue(end == len(data) or data[end : end + 1] == b" ")
        self.assertTrue(data[:end].rstrip(b">").endswith(str(address).encode()) or address.is_null)
        self.assertEqual(parse_path(f"<{address}>".encode(), lenient=lenient, null=True, postmaster=True), address)
        self.assertNotRegex(str(address), "[\x00-\x1f\x7f-\x9f]")

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
    def test_any_label(self, label: str) -> None:
        """Any text as a domain gives an ASCII form of letters, digits, hyphens and dots, or a SyntaxProblem."""
        try:
            domain = parse_domain(f"{label}.example")
        except SyntaxProblem:
            return
        self.assertTrue(is_domain(domain))
        self.assertEqual(parse_domain(domain), domain)
        self.assertEqual(domain.count("."), label.count(".") + 1)

    def test_long(self) -> None:
        """A hundred thousand octets of any shape are read to the end."""
        heads = (b"", b"<", b"<a@", b'<"', b"<@", b"<a@[", b"<a@[IPv6:", b"<@a:", "<\xe4@".encode())
        pieces = (
            *(b"a", b".", b"a.", b"-", b"a-", b"@", b"a@", b"@a,", b'"', b"\\", b"\\a", b'\\"', b" ", b"<", b">", b"["),
            *(b":", b"1.", b"1:", b"::", b"\0", b"_", b"xn--", b"\xff"),
            *("\xe4".encode(), "\xe4.".encode(), "@\xe4,".encode(), "\u3002".encode()),
        )
        for head in heads:
            for piece in pieces:
                for tail in (b"", b"@b>", b'"@b>', b">"):
                    data = head + piece * (LONG // len(piece)) + tail
                    for lenient in (False, True):
                        with self.subTest(head=head, piece=piece, tail=tail, lenient=lenient):
                            self.assertRaises(SyntaxProblem, parse_path, data, lenient=lenient)
