"""Tests of smtpsvc.grammar.commands: the arguments of the core verbs."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address, read_path
from smtpsvc.grammar.commands import (
    BARE,
    NO_PARAMS,
    Path,
    line_fault,
    parse_mail,
    parse_name,
    parse_nothing,
    parse_optional_text,
    parse_rcpt,
    parse_verify,
    remembering,
)
from smtpsvc.grammar.params import Parser, no_value, number
from smtpsvc.grammar.replies import Reply, SMTPError
from tests.support import assume, example, given, st

LONG = 100_000
PARSERS: dict[str, Parser] = {"SIZE": number(20), "SMTPUTF8": no_value}
CONTROLS = [*range(32), 127]

OCTETS = st.binary(max_size=300)
TEXT = st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass"))
PIECES = (
    *(b"FROM:", b"TO:", b" ", b"<", b">", b"a@x.example", b"@r:", b'"', b"\\", b"[192.0.2.1]", b"SIZE=1", b"=", b"."),
    *(b"SMTPUTF8", b"\t", b"\0", b"postmaster", b"<>", b"\xff", b"<a@x.example>", b" SMTPUTF8", b" FOO"),
    *(b"\xc3\xa4", b"\xc2\x85"),
)
NEAR = st.lists(st.sampled_from(PIECES), max_size=10).map(b"".join)
ANYTHING = OCTETS | TEXT | NEAR | NEAR.map(b"FROM:".__add__) | NEAR.map(b"TO:<a@x.example>".__add__)


def mail(argument: bytes, **options: Any) -> Path:
    """Parse the argument of MAIL where SIZE and SMTPUTF8 are offered."""
    return parse_mail(argument, PARSERS, **options)


def rcpt(argument: bytes, **options: Any) -> Path:
    """Parse the argument of RCPT where no parameter is offered."""
    return parse_rcpt(argument, {}, **options)


def has_controls(text: str) -> bool:
    """True for C0, DEL and C1."""
    return any(unicodedata.category(character) == "Cc" for character in text)


class CommandTestCase(SynchronousTestCase):
    def refused(self, parse: Callable[[bytes], object], argument: bytes) -> Reply:
        """Parse what must fail, and give the reply."""
        return self.assertRaises(SMTPError, parse, argument).reply

    def parsed(self, parse: Callable[[bytes], Any], argument: bytes) -> Any:
        """Parse anything: give the value, or None for a refusal that is well-formed and repeats nothing."""
        try:
            return parse(argument)
        except SMTPError as error:
            reply = error.reply
        self.assertIn(reply.code, (501, 555))
        self.assertTrue(reply.text.isascii() and reply.text.isprintable(), reply.text)
        return None


class PathTests(CommandTestCase):
    def test_mail(self) -> None:
        """MAIL has an address, parameters, and whether all of it is ASCII."""
        self.assertEqual(mail(b"FROM:<a@x.example>"), Path(Address("a", "x.example"), NO_PARAMS, True))
        self.assertEqual(mail(b"from:<a@x.example> size=7"), Path(Address("a", "x.example"), {"SIZE": 7}, True))
        self.assertFalse(mail("FROM:<jörg@x.example>".encode()).ascii)

    def test_ascii_means_all(self) -> None:
        """A route that is dropped, and a parameter, count too for what is ASCII."""
        self.assertFalse(mail("FROM:<@ä.example:a@x.example>".encode()).ascii)
        accept: dict[str, Parser] = {"FOO": lambda value: value}
        path = parse_rcpt("TO:<a@x.example> FOO=ä".encode(), accept)
        self.assertEqual((path.ascii, path.params), (False, {"FOO": "ä"}))

    def test_roles(self) -> None:
        """<> is a sender only, <postmaster> a recipient only."""
        self.assertTrue(mail(b"FROM:<>").address.is_null)
        self.assertEqual(self.refused(rcpt, b"TO:<>").code, 501)
        self.assertEqual(rcpt(b"TO:<PostMaster>").address, Address("PostMaster"))
        self.assertEqual(self.refused(mail, b"FROM:<postmaster>").code, 501)

    def test_codes(self) -> None:
        """Paths are 501 5.1.7 or 5.1.3, the rest 501 5.5.4, unknown parameters 555 5.5.4."""
        cases: list[tuple[Callable[[bytes], Path], bytes, int, str]] = [
            (mail, b"", 501, "5.5.4"),
            (mail, b"TO:<a@x.example>", 501, "5.5.4"),
            (mail, b"FROM:a", 501, "5.1.7"),
            (mail, b"FROM:<a@x.example>x", 501, "5.1.7"),
            (mail, b"FROM:<a@x.example> SIZE=x", 501, "5.5.4"),
            (mail, b"FROM:<a@x.example> FOO", 555, "5.5.4"),
            (rcpt, b"TO:a", 501, "5.1.3"),
            (rcpt, b"TO:<a@x.example> SIZE=1", 555, "5.5.4"),
            (rcpt, b"TO:<a@x.example> =", 501, "5.5.4"),
        ]
        for parse, argument, code, enhanced in cases:
            with self.subTest(argument=argument):
                reply = self.refused(parse, argument)
                self.assertEqual((reply.code, reply.enhanced), (code, enhanced))

    def test_syntax_sentence(self) -> None:
        """A missing FROM: or TO: is answered with the syntax."""
        self.assertEqual(self.refused(mail, b"x").text, "Syntax: MAIL FROM:<address>")
        self.assertEqual(self.refused(rcpt, b"x").text, "Syntax: RCPT TO:<address>")

    def test_sentences(self) -> None:
        """A sentence for the client begins with a capital or a sign."""
        for argument in (b"FROM:", b"FROM:<a@>", b"FROM:<> =", b"FROM:<> SIZE=x", b"FROM:<\xff@x>"):
            with self.subTest(argument=argument):
                self.assertFalse(self.refused(mail, argument).text[0].islower())

    @given(ANYTHING)
    @example(b"FROM:<> SIZE=\xff")
    def test_any_mail(self, argument: bytes) -> None:
        """Any octets behind MAIL are an address or a refusal that repeats none of them."""
        for lenient in (False, True):
            path = self.parsed(lambda argument, lenient=lenient: mail(argument, lenient=lenient), argument)
            if path is not None and not path.address.is_null:
                self.assertFalse(has_controls(str(path.address)))
                again, _ = read_path(b"<%b>" % str(path.address).encode(), lenient=lenient)
                self.assertEqual(again, path.address)

    @given(ANYTHING)
    def test_any_rcpt(self, argument: bytes) -> None:
        """Any octets behind RCPT are an address or a refusal that repeats none of them; never <>."""
        path = self.parsed(rcpt, argument)
        if path is not None:
            self.assertFalse(path.address.is_null)

    def test_long(self) -> None:
        """A hundred thousand octets of any shape are read to the end."""
        pieces = (b"a", b" ", b"<", b"@", b"a@", b".", b"a.", b'"', b"\\", b"@a,", b"[", b"\xc3\xa4", b" A", b"A=")
        for piece in pieces:
            for head in (b"", b"FROM:", b"FROM:<", b"FROM:<a@", b"FROM:<> ", b'FROM:<"', b"FROM:<@a:"):
                with self.subTest(head=head, piece=piece):
                    self.parsed(mail, head + piece * (LONG // len(piece)))


class RememberingTests(SynchronousTestCase):
    @given(ANYTHING)
    def test_the_same(self, argument: bytes) -> None:
        """A parser that remembers gives what it would have given, the second time too."""
        answers = []
        remembered = remembering(mail)
        for parse in (mail, remembered, remembered):
            try:
                answers.append(str(parse(argument)))
            except SMTPError as error:
                answers.append(str(error.reply))
        self.assertEqual(answers, answers[:1] * 3)

    def test_remembers(self) -> None:
        """An argument without parameters is parsed once; one with parameters each time."""
        asked: list[bytes] = []
        remembered = remembering(lambda argument: asked.append(argument) or mail(argument))
        for argument in (b"FROM:<a@x.example>", b"FROM:<> SIZE=1"):
            self.assertEqual(remembered(argument), remembered(argument))
        self.assertEqual(asked, [b"FROM:<a@x.example>", b"FROM:<> SIZE=1", b"FROM:<> SIZE=1"])

    def test_bounded(self) -> None:
        """What is longer than any path is not remembered, nor are refusals."""
        asked: list[bytes] = []
        remembered = remembering(lambda argument: asked.append(argument) or mail(argument))
        for argument in (b"FROM:<" + b"a" * 400 + b"@x.example>", b"FROM:<a"):
            for _ in range(2):
                self.assertRaises(SMTPError, remembered, argument)
        self.assertEqual(len(asked), 4)


class NameTests(CommandTestCase):
    @given(OCTETS | TEXT | NEAR)
    @example("a\u00a0b".encode())
    @example("\u2028".encode())
    @example(b"\xc2\x85")
    @example(b"\xff\xc2\x85")
    @example(b"\x85")
    def test_any(self, argument: bytes) -> None:
        """1 to 255 octets without control characters are taken, and no others (RFC 5321 §4.1.4)."""
        name = argument.strip(b" ")
        shown = name.decode("utf-8", "backslashreplace")
        if 1 <= len(name) <= 255 and not has_controls(shown) and not {"\u2028", "\u2029"} & set(shown):
            self.assertEqual(parse_name(argument), shown)
        else:
            self.assertEqual(self.refused(parse_name, argument), replies.NEED_NAME)

    def test_length(self) -> None:
        """Octets are counted, not characters, and not the spaces around them."""
        self.assertEqual(parse_name(b"  " + b"x" * 255), "x" * 255)
        self.assertEqual(self.refused(parse_name, b"x" * 256), replies.NEED_NAME)
        self.assertEqual(parse_name("ä".encode() * 127), "ä" * 127)
        self.assertEqual(self.refused(parse_name, "ä".encode() * 128), replies.NEED_NAME)

    def test_escaped(self) -> None:
        r"""Octets that are no UTF-8 are shown as \xNN."""
        self.assertEqual(parse_name(b"a\xffb"), "a\\xffb")
        self.assertEqual(parse_name(b"\xff" * 255), "\\xff" * 255)


class TextTests(CommandTestCase):
    def test_nothing(self) -> None:
        """Where nothing may stand, anything is refused."""
        parse_nothing(b"")
        for argument in (b"x", b" ", b"\0"):
            self.assertEqual(self.refused(parse_nothing, argument), replies.NO_ARGUMENT)

    @given(ANYTHING)
    def test_optional(self, argument: bytes) -> None:
        """Optional text is any octets but control characters, also those of UTF-8."""
        text = self.parsed(parse_optional_text, argument)
        self.assertEqual(text is None, has_controls(argument.decode("utf-8", "backslashreplace")))

    @given(ANYTHING | NEAR.map(lambda text: text + b" smtpUTF8"))
    @example(b"a\xc2\x85b")
    def test_query(self, argument: bytes) -> None:
        """A query is never empty and has neither control characters nor spaces around it."""
        parsed = self.parsed(parse_verify, argument)
        if parsed is not None:
            query = parsed.text
            self.assertTrue(query.strip(" "))
            self.assertEqual(query, query.strip(" "))
            self.assertFalse(has_controls(query), query)

    def test_smtputf8(self) -> None:
        """The parameter SMTPUTF8 behind a query is taken off, once (RFC 6531 §3.7.4.2)."""
        for argument, query in ((b"a SMTPUTF8", "a"), (b"a  smtputf8", "a"), (b"a SMTPUTF8 SMTPUTF8", "a SMTPUTF8")):
            with self.subTest(argument=argument):
                self.assertEqual(parse_verify(argument).text, query)

    def test_long(self) -> None:
        """A hundred thousand octets of any shape are read to the end."""
        for piece in (b"a", b" ", b" a", b" SMTPUTF8", b"\xff", b"SMTPUTF8 "):
            for tail in (b"", b"x", b" SMTPUTF8", b" SMTPUTF"):
                with self.subTest(piece=piece, tail=tail):
                    self.parsed(parse_verify, b"a" + piece * (LONG // len(piece)) + tail)


class LineFaultTests(SynchronousTestCase):
    @given(st.binary(max_size=30) | st.lists(st.sampled_from([b"a", *(bytes([o]) for o in BARE)])).map(b"".join))
    def test_however_it_comes(self, line: bytes) -> None:
        """A fault found in the beginning of a line is the fault of the whole."""
        assume(b"\r\n" not in line)
        whole = line_fault(line, 12)
        for place in range(len(line) + 1):
            partial = line_fault(line[:place], 12, partial=True)
            if partial is not None:
                self.assertEqual(partial, whole)

    def test_limit(self) -> None:
        """The limit counts the CRLF."""
        self.assertIsNone(line_fault(b"x" * 10, 12))
        self.assertIs(line_fault(b"x" * 11, 12), replies.LINE_TOO_LONG)

    def test_last_cr(self) -> None:
        """A CR at the end of a beginning may belong to the line's end."""
        self.assertIsNone(line_fault(b"x\r", 12, partial=True))
        self.assertIsNone(line_fault(b"x" * 10 + b"\r", 12, partial=True))
        self.assertIs(line_fault(b"x\r", 12), replies.BAD_LINE_END)
