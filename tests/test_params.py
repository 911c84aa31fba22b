"""Tests of smtpsvc.grammar.params."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.addresses import SyntaxProblem
from smtpsvc.grammar.params import Parser, UnknownParameter, choice, no_value, number, parse_params

LONG = 100_000
KEYWORD = "ABCabc019"
VALUE = [chr(n) for n in range(33, 127) if n != 61]


class Body(Enum):
    SEVEN = "7BIT"
    EIGHT = "8BITMIME"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


def keep(value: str | None) -> str | None:
    """Parse nothing."""
    return value


KNOWN: Mapping[str, Parser] = {"A": keep, "B": keep, "A-B": keep, "1": keep}
UTF8: Mapping[str, Parser] = {**KNOWN, "SMTPUTF8": no_value}


class Everything(dict[str, Parser]):
    """Parsers that know any name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Parser:
        return keep


class SyntaxTests(SynchronousTestCase):
    def problem(self, data: bytes, parsers: Mapping[str, Parser] = KNOWN) -> SyntaxProblem:
        """Parse what must fail."""
        return self.assertRaises(SyntaxProblem, parse_params, data, 0, parsers)

    def test_good(self) -> None:
        """Names come back in upper case with the parsers' results, None for a name alone."""
        cases: dict[bytes, dict[str, str | None]] = {
            b"": {},
            b" A": {"A": None},
            b"A": {"A": None},
            b" a=x": {"A": "x"},
            b" A=1 b": {"A": "1", "B": None},
            b" a-b=<>": {"A-B": "<>"},
            b" 1=!~": {"1": "!~"},
            b" A-B A B": {"A-B": None, "A": None, "B": None},
        }
        for data, result in cases.items():
            with self.subTest(data=data):
                self.assertEqual(parse_params(data, 0, KNOWN), result)

    def test_start(self) -> None:
        """What stands before the start is not looked at."""
        self.assertEqual(parse_params(b"FROM:<\xff\t> A=x", 9, KNOWN), {"A": "x"})
        self.assertEqual(parse_params(b"FROM:<>", 7, KNOWN), {})

    def test_order(self) -> None:
        """The client's order is kept."""
        self.assertEqual(list(parse_params(b" B A", 0, KNOWN)), ["B", "A"])

    def test_spaces(self) -> None:
        """More than one space, and spaces at the end, are let pass."""
        for data in (b"  A=x   B ", b" A=x B   ", b"A=x B"):
            with self.subTest(data=data):
                self.assertEqual(parse_params(data, 0, KNOWN), {"A": "x", "B": None})
        self.assertEqual(parse_params(b"   ", 0, KNOWN), {})

    def test_malformed(self) -> None:
        """What is not esmtp-param is malformed, which is not the same as unknown."""
        cases = (
            *(b" A=", b" A= B", b" =x", b" =", b" -A", b" -", b" A=b=c", b" A=x=", b" A==", b" A_B", b" A,B"),
            *(b"\tA", b" A\tB", b" A\t", b" A=x\ty", b" A=\x7f", b" A=\0", b" \r\n", b" A\n", b" A=x\r", b" <a@b>"),
        )
        for data in cases:
            with self.subTest(data=data):
                self.assertNotIsInstance(self.problem(data), UnknownParameter)

    def test_every_octet(self) -> None:
        """Of US-ASCII, a value takes 33 to 60 and 62 to 126, and a name letters, digits and inner hyphens."""
        for octet in (bytes([n]) for n in range(0x80) if n != 0x20):
            with self.subTest(octet=octet):
                value = b" A=x" + octet + b"x"
                if 33 <= ord(octet) <= 126 and octet != b"=":
                    self.assertEqual(parse_params(value, 0, KNOWN), {"A": value[3:].decode()})
                else:
                    self.problem(value)
                name = b" A" + octet + b"B"
                if octet.isalnum() or octet == b"-":
                    self.assertEqual(parse_params(name, 0, Everything()), {name[1:].decode().upper(): None})
                elif octet != b"=":
                    self.problem(name, Everything())

    def test_duplicates(self) -> None:
        """A name given twice is malformed, in any case and with any values."""
        for data in (b" A A", b" A=1 a=1", b" a=1 B A=2"):
            with self.subTest(data=data):
                self.assertIn("twice", str(self.problem(data)))

    def test_unknown(self) -> None:
        """A name without a parser is unknown."""
        for data in (b" FOO", b" A FOO=1", b" A-", b" AB"):
            with self.subTest(data=data):
                self.assertIsInstance(self.problem(data), UnknownParameter)

    def test_malformed_before_unknown(self) -> None:
        """Malformed and repeated parameters are found before unknown ones, wherever they stand."""
        for data in (b" FOO=1 FOO=2", b" FOO A=", b" FOO A a", b" FOO \t", b" FOO A=\xc3\xa9"):
            with self.subTest(data=data):
                self.assertNotIsInstance(self.problem(data), UnknownParameter)

    def test_unknown_before_values(self) -> None:
        """An unknown name is found before a wrong value."""
        self.assertIsInstance(self.problem(b" SIZE=x FOO", {"SIZE": number(20)}), UnknownParameter)

    def test_sentences(self) -> None:
        """Each kind of mistake has its own sentence, without a byte of the client's."""
        cases = {
            b" QQQ=": "no value behind its =",
            b" QQQ\tB": "not tabs",
            b" QQQ\x01": "control character",
            b" QQQ=QQQ=": "like NAME or NAME=value",
            b" QQQ qqq": "given twice",
            b" QQQ": "not known",
            b" QQQ=\xff": "not valid UTF-8",
            b" A=QQQ\xc3\xa9": "only with SMTPUTF8",
        }
        for data, words in cases.items():
            with self.subTest(data=data):
                sentence = str(self.problem(data))
                self.assertIn(words, sentence)
                self.assertNotIn("QQQ", sentence)

    @given(
        st.dictionaries(
            st.from_regex(r"\A[A-Z0-9][A-Z0-9-]{0,9}\Z"),
            st.none() | st.text(st.sampled_from([*VALUE, "\xe9", "\u4f8b", "\U0001f4e7"]), min_size=1),
        )
    )
    def test_round_trip(self, params: dict[str, str | None]) -> None:
        """All that the grammar can write is read back."""
        text = "".join(f" {name}" if value is None else f" {name}={value}" for name, value in params.items())
        self.assertEqual(parse_params(text.encode(), 0, Everything(), utf8=True), params)

    @given(st.text(alphabet="Aa1-= \t<\x7f\xe9\x85").map(str.encode) | st.binary())
    def test_random(self, data: bytes) -> None:
        """Random input gives names and values of the grammar, or a SyntaxProblem."""
        try:
            found = parse_params(data, 0, Everything(), utf8=True)
        except SyntaxProblem:
            return
        again = " ".join(name if value is None else f"{name}={value}" for name, value in found.items())
        self.assertEqual(parse_params(again.encode(), 0, Everything(), utf8=True), found)
        self.assertTrue(again.isprintable() or not again.isascii())

    def test_long(self) -> None:
        """A hundred thousand octets of any shape are read to the end."""
        for piece in (b"A", b" ", b" A", b"=", b" A=", b"A=", b"-", b" A=x", b"\t", b"A-", b"\xc3\xa9", b"\xff", b"\0"):
            for head in (b"", b" A=", b" A"):
                for tail in (b"", b"=", b"\t", b" "):
                    data = head + piece * (LONG // len(piece)) + tail
                    with self.subTest(head=head, piece=piece, tail=tail):
                        try:
                            parse_params(data, 0, UTF8, utf8=True)
                        except SyntaxProblem:
                            pass

    def test_many(self) -> None:
        """Twenty thousand different parameters are read to the end, each once."""
        names = [f"P{n}" for n in range(20_000)]
        self.assertEqual(list(parse_params(" ".join(names).encode(), 0, Everything())), names)


class UTF8Tests(SynchronousTestCase):
    VALUE = " A=j\xf6rg".encode()

    def test_flag(self) -> None:
        """With utf8, values go beyond US-ASCII."""
        self.assertEqual(parse_params(self.VALUE, 0, KNOWN, utf8=True), {"A": "j\xf6rg"})

    def test_parameter(self) -> None:
        """SMTPUTF8 lets values of its own command do so, before it and behind it."""
        for data in (self.VALUE + b" SMTPUTF8", b" smtputf8" + self.VALUE):
            with self.subTest(data=data):
                self.assertEqual(parse_params(data, 0, UTF8), {"A": "j\xf6rg", "SMTPUTF8": True})

    def test_without(self) -> None:
        """Without SMTPUTF8, or where it is not known, they are malformed."""
        for data, parsers in ((self.VALUE, UTF8), (self.VALUE + b" SMTPUTF8", KNOWN)):
            with self.subTest(data=data):
                problem = self.assertRaises(SyntaxProblem, parse_params, data, 0, parsers)
                self.assertNotIsInstance(problem, UnknownParameter)

    def test_names(self) -> None:
        """Names stay within US-ASCII."""
        for name in ("\xe4", "A\xe4", "\u0131", "\uff21", "\u0661"):
            with self.subTest(name=name):
                self.assertRaises(SyntaxProblem, parse_params, f" {name}=1".encode(), 0, Everything(), utf8=True)

    def test_invalid(self) -> None:
        """Octets that are no UTF-8 (overlong, surrogate, cut short) and C1 controls are refused."""
        for octets in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xc3", b"\xf4\x90\x80\x80", b"\xc2\x85", b"\xc2\x9f"):
            with self.subTest(octets=octets):
                self.assertRaises(SyntaxProblem, parse_params, b" A=x" + octets, 0, KNOWN, utf8=True)


class ParserTests(SynchronousTestCase):
    def refusal(self, parser: Parser, value: bytes) -> str:
        """Give the sentence with which the parser refuses a value."""
        return str(self.assertRaises(SyntaxProblem, parse_params, b" X" + value, 0, {"X": parser}, utf8=True))

    def test_no_value(self) -> None:
        """A name alone gives True, a value is refused."""
        self.assertEqual(parse_params(b" X", 0, {"X": no_value}), {"X": True})
        self.assertEqual(self.refusal(no_value, b"=1"), "X: takes no value")

    def test_number(self) -> None:
        """Digits up to the limit make a number, leading zeros included."""
        for value, result in ((b"0", 0), (b"007", 7), (b"9" * 20, 10**20 - 1)):
            with self.subTest(value=value):
                self.assertEqual(parse_params(b" SIZE=" + value, 0, {"SIZE": number(20)}), {"SIZE": result})

    def test_no_number(self) -> None:
        """Signs, underscores, digits of other scripts, too many digits and no value are refused."""
        for value in ("", "=+1", "=-1", "=1_0", "=x", "=1.0", "=\u0661", "=\xb2", "=" + "9" * 21):
            with self.subTest(value=value):
                self.assertEqual(self.refusal(number(20), value.encode()), "X: must be a number of 1 to 20 digits")

    def test_choice(self) -> None:
        """A word of the enumeration gives its member, in any case."""
        for value, member in ((b"7BIT", Body.SEVEN), (b"8bitMime", Body.EIGHT)):
            with self.subTest(value=value):
                self.assertIs(parse_params(b" X=" + value, 0, {"X": choice(Body)})["X"], member)

    def test_choice_by_name(self) -> None:
        """Members whose values are no words go by their names."""
        self.assertIs(parse_params(b" X=high", 0, {"X": choice(Level)})["X"], Level.HIGH)

    def test_no_choice(self) -> None:
        """Other words, Python's name for a word, look-alikes and no value are refused."""
        for value in (b"", b"=9BIT", b"=SEVEN", "=7B\u0131T".encode()):
            with self.subTest(value=value):
                self.assertEqual(self.refusal(choice(Body), value), "X: must be one of 7BIT, 8BITMIME")

    def test_choice_clash(self) -> None:
        """Members that differ in nothing but case are a mistake of the programmer."""
        error = self.assertRaises(ValueError, choice, Enum("Clash", {"A": "x", "B": "X"}))
        self.assertEqual(str(error), "Clash: two members are called X")

    def test_codec_errors(self) -> None:
        """The text of a codec's error, which has the value in it, is not repeated."""

        def parse(value: str | None) -> bytes:
            return (value or "").encode("ascii")

        self.assertEqual(self.refusal(parse, "=\xe9".encode()), "X: the value is not valid")

    def test_own_problem(self) -> None:
        """A parser's own SyntaxProblem is passed on, so that it may call its value unknown."""

        def parse(value: str | None) -> None:
            raise UnknownParameter("not in this country")

        problem = self.assertRaises(UnknownParameter, parse_params, b" X=1", 0, {"X": parse})
        self.assertEqual(str(problem), "not in this country")

    def test_other_errors(self) -> None:
        """Any other exception is a fault of the parser and is not hidden."""

        def parse(value: str | None) -> None:
            raise KeyError(value)

        self.assertRaises(KeyError, parse_params, b" X=1", 0, {"X": parse})
