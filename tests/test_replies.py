"""Tests of smtpsvc.grammar.replies: whatever the text, nothing in it forges a line."""

from __future__ import annotations

import pickle
import re

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import CLOSING, MAX_REPLY_LINE, PermanentError, Reply, SMTPError, TemporaryError, taken
from smtpsvc.testing import ScriptedBackend, parse_replies
from tests.support import connect, example, given, st

CODES = st.integers(200, 599)
ENHANCED = st.tuples(st.integers(0, 999), st.integers(0, 999)).map("{0[0]}.{0[1]}".format) | st.just("")
LINE_BREAKS = "\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
TEXTS = st.text() | st.text(alphabet="a -.25\\" + LINE_BREAKS, max_size=2000) | st.integers(0, 3000).map("x".__mul__)
STOCK = {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}


@st.composite
def any_reply(draw: st.DrawFn) -> Reply:
    """Make a reply of any code, text and enhanced code."""
    code = draw(CODES)
    rest = draw(ENHANCED) if code // 100 in (2, 4, 5) else ""
    return Reply(code, draw(TEXTS), rest and f"{code // 100}.{rest}")


def bodies(reply: Reply, extended: bool) -> list[str]:
    """Give the text of each line on the wire: what stands behind code and mark."""
    return [line[4:].decode("ascii") for line in reply.wire(extended).split(b"\r\n")[:-1]]


class WireTests(SynchronousTestCase):
    def test_form(self) -> None:
        """A line is the code, a space, the enhanced code where it is owed, and the text (RFC 5321 §4.2)."""
        reply = Reply(250, "OK", "2.1.5")
        self.assertEqual(reply.wire(False), b"250 OK\r\n")
        self.assertEqual(reply.wire(True), b"250 2.1.5 OK\r\n")

    def test_lines(self) -> None:
        """Lines of the text are lines of the reply: all but the last have a hyphen (RFC 5321 §4.2.1)."""
        reply = Reply(550, "One\nTwo\n", "5.7.1")
        self.assertEqual(reply.wire(False), b"550-One\r\n550-Two\r\n550 \r\n")
        self.assertEqual(reply.wire(True), b"550-5.7.1 One\r\n550-5.7.1 Two\r\n550 5.7.1 \r\n")

    def test_default_enhanced(self) -> None:
        """Without an enhanced code of its own a 2xx, 4xx or 5xx reply has X.0.0, and a 3xx none (RFC 2034 §4)."""
        for code, line in ((250, b"250 2.0.0 x"), (450, b"450 4.0.0 x"), (550, b"550 5.0.0 x"), (354, b"354 x")):
            with self.subTest(code=code):
                self.assertEqual(Reply(code, "x").wire(True), line + b"\r\n")

    def test_kept(self) -> None:
        """A wire form is made once."""
        reply = Reply(250, "OK")
        for extended in (False, True):
            self.assertIs(reply.wire(extended), reply.wire(extended))

    def test_line_breaks(self) -> None:
        """Only a line feed makes a line; any other control character becomes a space."""
        for character in LINE_BREAKS.replace("\n", "") + "\0\t\x1b\x7f\x9b":
            with self.subTest(character=character):
                self.assertEqual(Reply(550, f"a{character}250 b").wire(False), b"550 a 250 b\r\n")
        self.assertEqual(Reply(550, "a\r\n250 b").wire(False), b"550-a \r\n550 250 b\r\n")

    def test_not_ascii(self) -> None:
        """What is not ASCII is escaped, lone surrogates too."""
        self.assertEqual(Reply(550, "ä€\U0001f600\udc80").wire(False), b"550 \\xe4\\u20ac\\U0001f600\\udc80\r\n")

    def test_long(self) -> None:
        """A line that would be too long goes on in the next, cut at a space where there is one."""
        (first, second) = bodies(Reply(550, "word " * 120, "5.7.1"), True)
        self.assertEqual(f"{first} {second[6:]}".replace("5.7.1 ", ""), "word " * 119 + "word ")
        self.assertLessEqual(len(first), 506)

    def test_exact(self) -> None:
        """A line of exactly 512 octets is one line, of 513 two (RFC 5321 §4.5.3.1.5)."""
        for extended, room in ((False, 506), (True, 500)):
            with self.subTest(extended=extended):
                self.assertEqual(len(bodies(Reply(550, "x" * room, "5.7.1"), extended)), 1)
                self.assertEqual(len(Reply(550, "x" * room, "5.7.1").wire(extended)), MAX_REPLY_LINE)
                self.assertEqual(len(bodies(Reply(550, "x" * (room + 1), "5.7.1"), extended)), 2)

    @given(any_reply(), st.booleans())
    @example(Reply(250, "x" * 3000, "2.999.999"), True)
    @example(Reply(550, "\r\n250 OK\r\n.\r\n"), False)
    @example(Reply(354, "ä" * 600), True)
    def test_any_text(self, reply: Reply, extended: bool) -> None:
        """Whatever the text: whole lines of at most 512 octets of printable ASCII, of this one code."""
        wire = reply.wire(extended)
        *lines, end = wire.split(b"\r\n")
        self.assertEqual(end, b"")
        for number, line in enumerate(lines, 1):
            self.assertLessEqual(len(line) + 2, MAX_REPLY_LINE)
            mark = b" " if number == len(lines) else b"-"
            self.assertRegex(line, re.compile(rb"%d%b[ -~]*\Z" % (reply.code, mark)))

    @given(any_reply())
    def test_enhanced_on_each_line(self, reply: Reply) -> None:
        """Each line of a reply has the enhanced code (RFC 2034 §4), and none has it where it is not owed."""
        code = reply.enhanced or f"{reply.code // 100}.0.0"
        if reply.code // 100 != 3:
            for body in bodies(reply, True):
                self.assertTrue(body.startswith(code + " "))
        plain = Reply(reply.code, reply.text)
        self.assertEqual(reply.wire(False), plain.wire(False))

    @given(st.text(alphabet="ab ", max_size=3000))
    def test_nothing_lost(self, text: str) -> None:
        """Cutting loses nothing but spaces."""
        self.assertEqual("".join(bodies(Reply(250, text), False)).replace(" ", ""), text.replace(" ", ""))

    @given(any_reply())
    def test_parsed(self, reply: Reply) -> None:
        """A client that parses the wire form finds one reply, with the code and the enhanced code."""
        (parsed,) = parse_replies(reply.wire(True))
        default = f"{reply.code // 100}.0.0" if reply.code // 100 != 3 else parsed.enhanced
        self.assertEqual((parsed.code, parsed.enhanced), (reply.code, reply.enhanced or default))


class ValueTests(SynchronousTestCase):
    def test_codes(self) -> None:
        """A code below 200 or above 599 is none."""
        for code in (0, 100, 199, 600, 999, 2500, -250):
            with self.subTest(code=code):
                self.assertRaises(ValueError, Reply, code, "x")

    def test_enhanced_codes(self) -> None:
        """An enhanced code must be one of RFC 3463, and of the reply's class."""
        wrong = ("5", "5.1", "5.1.1.1", "5.1.1234", "5.x.1", "5.1.1 ", "5.1.1\n", "3.0.0", "4.1.1", "2.1.1", "٥.1.1")
        for enhanced in wrong:
            with self.subTest(enhanced=enhanced):
                self.assertRaises(ValueError, Reply, 550, "x", enhanced)
        self.assertRaises(ValueError, Reply, 354, "x", "3.0.0")

    def test_text(self) -> None:
        """A text that is no str is refused where the reply is made, and not when it is sent."""
        for text in (b"bytes", None, 7):
            with self.subTest(text=text):
                self.assertRaises(TypeError, Reply, 550, text)

    def test_immutable(self) -> None:
        """A reply does not change."""
        with self.assertRaises(AttributeError):
            replies.OK.code = 550
        with self.assertRaises(AttributeError):
            del replies.OK.text
        with self.assertRaises(AttributeError):
            replies.OK.new = 1  # type: ignore[attr-defined]

    @given(any_reply(), any_reply())
    def test_equal(self, one: Reply, other: Reply) -> None:
        """Replies of equal code, text and enhanced code are equal, and no others."""
        same = Reply(one.code, one.text, one.enhanced)
        self.assertEqual((one, hash(one)), (same, hash(same)))
        parts = [(reply.code, reply.text, reply.enhanced) for reply in (one, other)]
        self.assertEqual(one == other, parts[0] == parts[1])
        self.assertNotEqual(one, str(one))

    @given(any_reply())
    def test_round_trips(self, reply: Reply) -> None:
        """A reply can be pickled, also after it was sent, and its repr makes it again."""
        reply.wire(True)
        self.assertEqual(pickle.loads(pickle.dumps(reply)), reply)
        self.assertEqual(eval(repr(reply)), reply)

    def test_str(self) -> None:
        """A reply shows itself as a client would see it."""
        self.assertEqual(str(Reply(550, "No", "5.7.1")), "550 5.7.1 No")
        self.assertEqual(str(Reply(354, "Go")), "354 Go")

    @given(CODES)
    def test_properties(self, code: int) -> None:
        """2xx and 3xx are positive; 221, 421 and 521 close."""
        reply = Reply(code, "x")
        self.assertEqual(reply.positive, code < 400)
        self.assertEqual(reply.closes, code in CLOSING)
        self.assertEqual(CLOSING, {221, 421, 521})


class StockTests(SynchronousTestCase):
    def test_enhanced(self) -> None:
        """Every stock reply but the 353 and 354 has an enhanced code of its own."""
        self.assertEqual([name for name, reply in STOCK.items() if not reply.enhanced], ["EACH_FOLLOWS", "START_MAIL"])

    def test_one_line(self) -> None:
        """Every stock reply is one line of printable ASCII that ends in no full stop."""
        for name, reply in STOCK.items():
            with self.subTest(name=name):
                self.assertEqual(bodies(reply, True)[0].removeprefix(reply.enhanced).lstrip(), reply.text)
                self.assertFalse(reply.text.endswith("."))

    def test_taken(self) -> None:
        """The reply to a message that was taken is like any other."""
        made, usual = taken("6a-1f"), Reply(250, "OK, taken as 6a-1f", "2.0.0")
        self.assertEqual(made, usual)
        for extended in (True, False):
            self.assertEqual(made.wire(extended), usual.wire(extended))
        self.assertEqual(made.closes, usual.closes)


class ErrorTests(SynchronousTestCase):
    def test_permanent(self) -> None:
        """A PermanentError is 550 5.0.0 unless it says otherwise."""
        self.assertEqual(PermanentError("No").reply, Reply(550, "No", "5.0.0"))
        self.assertEqual(PermanentError("Full", "5.2.2", 552).reply, Reply(552, "Full", "5.2.2"))

    def test_temporary(self) -> None:
        """A TemporaryError is 451 4.0.0 unless it says otherwise."""
        self.assertEqual(TemporaryError("Later").reply, Reply(451, "Later", "4.0.0"))
        self.assertEqual(TemporaryError("Full", "4.2.2", 452).reply, Reply(452, "Full", "4.2.2"))

    def test_classes_agree(self) -> None:
        """A code of the other class is refused, where the enhanced code was not given to match."""
        self.assertRaises(ValueError, PermanentError, "x", code=450)
        self.assertRaises(ValueError, TemporaryError, "x", code=550)

    def test_refusals_only(self) -> None:
        """An SMTPError needs a refusal."""
        for code in (250, 354):
            self.assertRaises(ValueError, SMTPError, Reply(code, "x"))

    def test_str(self) -> None:
        """An error's text is its reply's."""
        self.assertEqual(str(PermanentError("No", "5.1.1")), "550 5.1.1 No")


class HookTextTests(SynchronousTestCase):
    def test_on_the_wire(self) -> None:
        """A hook's text with line breaks, 3,000 characters or non-ASCII arrives as one well-formed reply."""
        for text in ("No\r\n250 OK", "x" * 3000, "Grüße, 北京", "a\0b", "\r\n.\r\n", "", "\n" * 50):
            with self.subTest(text=text):
                wire = connect(ScriptedBackend(mail=PermanentError(text, "5.7.1"))).greeted().say("MAIL FROM:<>")
                self.assertEqual(wire.codes, [550])
                self.assertEqual({line[4:9] for line in wire.output.splitlines()}, {b"5.7.1"})
