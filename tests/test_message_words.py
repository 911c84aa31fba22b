from __future__ import annotations

import sys
from encodings import _cache  # type: ignore[attr-defined]

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.message.words import decode_charset, decode_words, known_charset, parameters
from tests.support import given, st

_PIECES = [b"=?", b"utf-8", b"?q?", b"?b?", b"?=", b" ", b"\xff", b"=C3", b"w7w", b"\r\n"]


class CharsetTests(SynchronousTestCase):
    def test_known(self) -> None:
        """Charsets of mail are known by the names that mail has for them."""
        for name, octets, text in (
            ("utf-8", b"\xc3\xbc", "\u00fc"),
            ("ISO-8859-1", b"\xfc", "\u00fc"),
            ("windows-1252", b"\x80", "\u20ac"),
            ("iso-8859-8-i", b"\xe0", "\u05d0"),
            ("GB2312", "\u4e2d".encode("gb18030"), "\u4e2d"),
            ("ks_c_5601-1987", "\ud55c".encode("cp949"), "\ud55c"),
            ("iso-2022-jp", "\u65e5".encode("iso-2022-jp"), "\u65e5"),
            ("koi8-u", b"\xc1", "\u0430"),
            ("us-ascii", "\u00fc".encode(), "\u00fc"),
            ("", b"\xfc", "\u00fc"),
        ):
            with self.subTest(name=name):
                self.assertEqual(decode_charset(octets, name)[0], text)

    def test_refused(self) -> None:
        """Codecs that are no charsets, or take quadratic time, are not used."""
        for name in (
            "idna",
            "punycode",
            "unicode_escape",
            "raw-unicode-escape",
            "rot13",
            "base64",
            "zip",
            "hex",
            "",
            "x",
        ):
            with self.subTest(name=name):
                self.assertEqual(known_charset(name), "")

    def test_nothing_remembered(self) -> None:
        """A charset that nobody knows is not looked for, and not remembered."""
        before, modules = len(_cache), len(sys.modules)
        for number in range(100):
            decode_charset(b"x", f"no-such-{number}")
        self.assertEqual((len(_cache), len(sys.modules)), (before, modules))

    @given(st.binary(max_size=40), st.sampled_from(["utf-7", "utf-16", "utf-8", "big5", "iso-2022-kr", "x"]))
    def test_whatever(self, octets: bytes, charset: str) -> None:
        """Any octets in any charset give text that can be encoded: no lone surrogate is in it."""
        decode_charset(octets, charset)[0].encode()


class WordTests(SynchronousTestCase):
    def test_decoded(self) -> None:
        """Encoded words are decoded, blanks between two of them are dropped, and a cut character is put together."""
        for octets, text in (
            (b"=?utf-8?q?gr=C3=BCn?= and =?ISO-8859-1?B?/A==?=", "gr\u00fcn and \u00fc"),
            (b"=?utf-8?q?a_b?= =?utf-8?q?c?=", "a bc"),
            (b"=?utf-8?q?=C3?=\r\n =?UTF-8?q?=BC?=", "\u00fc"),
            (b"=?iso-8859-1?q?=FC?= =?utf-8?q?=C3=BC?=", "\u00fc\u00fc"),
            (b"=?utf-8*en?q?x?=", "x"),
            (b"=?utf-8?b?w7w?=", "\u00fc"),
            (b"a =?utf-8?q?x", "a =?utf-8?q?x"),
            ("raw \u00fc".encode(), "raw \u00fc"),
            (b"=?utf-8?q?a=0D=0ABcc:_b?=", "a  Bcc: b"),
            (b"plain", "plain"),
        ):
            with self.subTest(octets=octets):
                self.assertEqual(decode_words(octets), (text, True))

    def test_damaged(self) -> None:
        """What cannot be decoded is told."""
        for octets in (b"=?utf-8?q?=FF?=", b"=?no-such?q?x?=", b"=?utf-8?b?A?=", b"\xff"):
            with self.subTest(octets=octets):
                self.assertIs(decode_words(octets)[1], False)

    @given(
        st.lists(st.sampled_from([b"=?", b"utf-8", b"?q?", b"?b?", b"?=", b" ", b"\xff", b"=C3", b"w7w", b"\r\n"])).map(
            b"".join
        )
    )
    def test_whatever(self, octets: bytes) -> None:
        """Any octets give one line of text without control characters."""
        text, _ = decode_words(octets)
        text.encode()
        self.assertNotRegex(text, "[\x00-\x1f\x7f-\x9f]")


class ParameterTests(SynchronousTestCase):
    def test_read(self) -> None:
        """Values are read as RFC 2045 and RFC 2231 have them, and as mail has them."""
        for octets, expected in (
            (b"text/plain; charset=utf-8", ("text/plain", {"charset": "utf-8"})),
            (b'TEXT/Plain;CHARSET="utf-8";', ("text/plain", {"charset": "utf-8"})),
            (b"a; filename*=utf-8'en'%C3%BC%20x", ("a", {"filename": "\u00fc x"})),
            (b"a; name*0*=utf-8''%C3; name*1*=%BC; name*2=\" z\"", ("a", {"name": "\u00fc z"})),
            (b'a; filename="=?utf-8?q?=C3=BC?="', ("a", {"filename": "\u00fc"})),
            (b'a; boundary="=?utf-8?q?x?="', ("a", {"boundary": "=?utf-8?q?x?="})),
            (b'a; x="b;c\\"d"; y=1', ("a", {"x": 'b;c"d', "y": "1"})),
            (b"a; x=1; x=2", ("a", {"x": "1"})),
            (b'a; x="no end', ("a", {"x": "no end"})),
            (b'junk "q;z"; ;; b = 2 ; c', ('junk "q;z"', {"b": "2"})),
            (b"", ("", {})),
        ):
            with self.subTest(octets=octets):
                self.assertEqual(parameters(octets)[:2], expected)

    @given(st.text(st.sampled_from(";=\"'\\ *%a0\u00fc\x00\n"), max_size=60))
    def test_whatever(self, text: str) -> None:
        """Any value is read, and gives text without control characters."""
        head, found, _ = parameters(text.encode())
        self.assertNotRegex(head + "".join(found.values()), "[\x00-\x1f\x7f-\x9f]")

    def test_bounded(self) -> None:
        """Of a value with very many parameters a hundred are read."""
        _, found, good = parameters(b"a" + b"".join(b"; x%d=1" % number for number in range(1000)))
        self.assertEqual((len(found), good), (100, False))
