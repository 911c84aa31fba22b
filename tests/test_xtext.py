"""Tests of smtpsvc.grammar.xtext."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import SyntaxProblem
from smtpsvc.grammar.xtext import (
    decode_utf8_addr_unitext,
    decode_utf8_addr_xtext,
    decode_xtext,
    encode_utf8_addr_unitext,
    encode_utf8_addr_xtext,
    encode_xtext,
)

QCHARS = {chr(n) for n in range(0x21, 0x7F)} - set("+=\\")
ESCAPABLE_ASCII = set("\x10 +=\\\x7f") | {chr(16 * a + b) for a in (0, 1) for b in range(1, 10)}
LONG = 100_000


def has_form(character: str) -> bool:
    """Tell by the ABNF of RFC 6533 §3 whether the character can be spelt at all."""
    if character.isascii():
        return character in QCHARS or character in ESCAPABLE_ASCII
    return not 0xD800 <= ord(character) <= 0xDFFF


spellable = st.text(st.characters(codec="utf-8").filter(has_form), min_size=1)


class XtextTests(SynchronousTestCase):
    def test_encode(self) -> None:
        """Encoding leaves xchars alone and writes all else as + and two large hexadecimal digits."""
        cases = {
            "": "",
            "user@example.com": "user@example.com",
            "a+b=c d": "a+2Bb+3Dc+20d",
            "\r\n\0\x7f": "+0D+0A+00+7F",
            "~!": "~!",
        }
        for text, wire in cases.items():
            with self.subTest(text=text):
                self.assertEqual(encode_xtext(text), wire)

    def test_encode_beyond_ascii(self) -> None:
        """What goes beyond US-ASCII has no xtext."""
        self.assertRaises(ValueError, encode_xtext, "j\xf6rg")

    def test_decode(self) -> None:
        """Decoding takes + and two digits for the character they number."""
        cases = {"": "", "a+2Bb": "a+b", "+3D": "=", "+41+42": "AB", "+2B41": "+41", "rfc822;a@b": "rfc822;a@b"}
        for wire, text in cases.items():
            with self.subTest(wire=wire):
                self.assertEqual(decode_xtext(wire), text)

    def test_decode_refuses(self) -> None:
        """Small or missing digits, bare = and spaces, controls and anything beyond US-ASCII are no xtext."""
        for wire in ("+2b", "+", "a+", "+2", "+G0", "+ 1", "a=b", "a b", "\t", "\x7f", "+80", "+FF", "\xe9", "a\n"):
            with self.subTest(wire=wire):
                self.assertRaises(SyntaxProblem, decode_xtext, wire)

    @given(st.text(st.characters(max_codepoint=0x7F)))
    def test_round_trip(self, text: str) -> None:
        """Any text of US-ASCII comes back."""
        self.assertEqual(decode_xtext(encode_xtext(text)), text)

    @given(st.text(alphabet="+0129ABFaf=! \x7f\xe9"))
    def test_decode_is_strict(self, wire: str) -> None:
        """What decodes is all ASCII, and the same without escapes as with the least of them."""
        try:
            text = decode_xtext(wire)
        except SyntaxProblem:
            return
        self.assertTrue(text.isascii())
        self.assertEqual(decode_xtext(encode_xtext(text)), text)

    def test_long(self) -> None:
        """A hundred thousand characters of any shape are read to the end."""
        for piece in ("a", "+", "+2", "+2B", "a+2B", "=", "+2Ba="):
            for tail in ("", "=", "+"):
                wire = piece * (LONG // len(piece)) + tail
                with self.subTest(piece=piece, tail=tail):
                    try:
                        decode_xtext(wire)
                    except SyntaxProblem:
                        pass


class EncodeUTF8AddressTests(SynchronousTestCase):
    def test_xtext_form(self) -> None:
        """The form of US-ASCII writes what QCHAR lacks as \\x{HEX}, without leading zeros past two digits."""
        cases = {
            "user@example.com": "user@example.com",
            "a+b=c\\d e": r"a\x{2B}b\x{3D}c\x{5C}d\x{20}e",
            "j\xf6rg@\u4f8b.example": r"j\x{F6}rg@\x{4F8B}.example",
            "\u0100\uffff\U00010000\U000fffff\U0010ffff": r"\x{100}\x{FFFF}\x{10000}\x{FFFFF}\x{10FFFF}",
            "\x01\x10\x7f": r"\x{01}\x{10}\x{7F}",
        }
        for text, wire in cases.items():
            with self.subTest(text=text):
                self.assertEqual(encode_utf8_addr_xtext(text), wire)

    def test_unitext_form(self) -> None:
        """The form for SMTPUTF8 escapes within US-ASCII only."""
        self.assertEqual(encode_utf8_addr_unitext("j\xf6 rg+\u4f8b"), "j\xf6\\x{20}rg\\x{2B}\u4f8b")

    def test_no_form(self) -> None:
        """An empty address, NUL, line ends and surrogates have neither form."""
        for text in ("", "a\0", "a\n", "\r", "\x0f", "\x1a", "\ud800"):
            for encode in (encode_utf8_addr_xtext, encode_utf8_addr_unitext):
                with self.subTest(text=text, encode=encode.__name__):
                    self.assertRaises(ValueError, encode, text)

    def test_every_ascii_character(self) -> None:
        """Of US-ASCII, what RFC 6533 §3 can spell comes back, and the rest is refused."""
        for text in map(chr, range(0x80)):
            with self.subTest(text=text):
                if has_form(text):
                    self.assertEqual(decode_utf8_addr_xtext(encode_utf8_addr_xtext(text)), text)
                else:
                    self.assertRaises(ValueError, encode_utf8_addr_xtext, text)

    @given(spellable)
    def test_xtext_round_trip(self, text: str) -> None:
        """What can be spelt comes back from US-ASCII, by either reader."""
        wire = encode_utf8_addr_xtext(text)
        self.assertTrue(wire.isascii())
        self.assertEqual(decode_utf8_addr_xtext(wire), text)
        self.assertEqual(decode_utf8_addr_unitext(wire), text)

    @given(spellable)
    def test_unitext_round_trip(self, text: str) -> None:
        """What can be spelt comes back from the form for SMTPUTF8."""
        self.assertEqual(decode_utf8_addr_unitext(encode_utf8_addr_unitext(text)), text)


class DecodeUTF8AddressTests(SynchronousTestCase):
    def test_accepts(self) -> None:
        """Each number of digits is read; the letters may be small (RFC 5234 §2.3)."""
        cases = {
            r"\x{09}": "\t",
            r"\x{19}": "\x19",
            r"\x{20}\x{2b}\x{3d}\x{5c}\x{7f}": " +=\\\x7f",
            r"\x{80}\x{9F}\x{a0}\x{FF}": "\x80\x9f\xa0\xff",
            r"\x{100}\x{D80}": "\u0100\u0d80",
            r"\x{D7FF}\x{d000}\x{E000}": "\ud7ff\ud000\ue000",
            r"\x{10000}\x{D8000}": "\U00010000\U000d8000",
            r"\x{10FFFF}": "\U0010ffff",
        }
        for wire, text in cases.items():
            with self.subTest(wire=wire):
                self.assertEqual(decode_utf8_addr_xtext(wire), text)

    def test_refuses(self) -> None:
        """Plain letters in disguise, leading zeros, surrogates, what is no character, and open escapes are refused."""
        bad = [
            *("", "1", "F", "00", "0A", "0D", "1F", "21", "41", "61", "7E", "2C", "3C", "5B", "G0", "4g", "08F"),
            *("0080", "00100", "000041", "D800", "DFFF", "dabc", "110000", "200000", "10FFFFF"),
        ]
        wires = [rf"\x{{{digits}}}" for digits in bad] + [
            *("", "\\", r"\x", r"\x{", r"\x{80", r"\x80", r"\X{80}", r"\x{ 80}", r"\x{+80}"),
            *("a+b", "a=b", "a b", "a\\b", "a\n", "\r", "a\x7f", "\0", "\ud800"),
        ]
        for wire in wires:
            for decode in (decode_utf8_addr_xtext, decode_utf8_addr_unitext):
                with self.subTest(wire=wire, decode=decode.__name__):
                    self.assertRaises(SyntaxProblem, decode, wire)

    def test_plain_non_ascii(self) -> None:
        """Plain characters beyond US-ASCII are good in the form for SMTPUTF8 only."""
        self.assertEqual(decode_utf8_addr_unitext("j\xf6rg\\x{2B}"), "j\xf6rg+")
        self.assertRaises(SyntaxProblem, decode_utf8_addr_xtext, "j\xf6rg")

    @given(st.text(alphabet="\\x{}0123458DFd+=a\xe9\ud800"))
    def test_random(self, wire: str) -> None:
        """Random input gives text that can be spelt, or a SyntaxProblem."""
        try:
            text = decode_utf8_addr_unitext(wire)
        except SyntaxProblem:
            return
        self.assertTrue(all(map(has_form, text)))

    def test_long(self) -> None:
        """A hundred thousand characters of any shape are read to the end."""
        for piece in ("a", "\\", r"\x{", r"\x{80}", r"\x{8", "8", r"a\x{10FFFF}", "\xe9"):
            for head, tail in (("", ""), ("", "="), (r"\x{", ""), (r"\x{", "}")):
                wire = head + piece * (LONG // len(piece)) + tail
                with self.subTest(piece=piece, head=head, tail=tail):
                    try:
                        decode_utf8_addr_unitext(wire)
                    except SyntaxProblem:
                        pass
