"""Tests of smtpsvc.client.replies and capabilities: what a server says, as values; nonsense is found out."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.client.capabilities import parse_capabilities
from smtpsvc.client.replies import MAX_LINE, MAX_LINES, ReplyProblem, ReplyReader
from smtpsvc.grammar.replies import Reply
from tests.support import cuts, given, st


class ReplyReaderTests(SynchronousTestCase):
    def read(self, *pieces: bytes) -> list[Reply]:
        """Feed a reader."""
        reader = ReplyReader()
        return [reply for piece in pieces for reply in reader.feed(piece)]

    def test_cut_anywhere(self) -> None:
        """However a server's octets come, its replies are the same."""
        data = b"250-mx.example\r\n250-SIZE 10\r\n250 HELP\r\n354 go\r\n550-5.1.1 no\r\n550 5.1.1 way\r\n250\r\n"
        expected = [
            Reply(250, "mx.example\nSIZE 10\nHELP"),
            Reply(354, "go"),
            Reply(550, "no\nway", "5.1.1"),
            Reply(250, ""),
        ]
        for packets in cuts(data):
            self.assertEqual(self.read(*packets), expected, packets)

    def test_enhanced(self) -> None:
        """An enhanced code is taken off if it fits the code, and is text otherwise."""
        for line, enhanced in (
            (b"250 2.1.5 OK", "2.1.5"), (b"250 2.1.5", "2.1.5"), (b"250 5.1.5 OK", ""), (b"250 2.1.5OK", ""),
            (b"250 2.1 OK", ""), (b"354 3.0.0 x", ""),
        ):  # fmt: skip
            with self.subTest(line):
                self.assertEqual(self.read(line + b"\r\n")[0].enhanced, enhanced)

    def test_bare_line_end(self) -> None:
        """A line may end in LF alone."""
        self.assertEqual(self.read(b"250-a\n250 b\n"), [Reply(250, "a\nb")])

    def test_nonsense(self) -> None:
        """What is no reply is refused, with words that say what it was."""
        for data, words in (
            (b"hello\r\n", "'hello', which is no line"),
            (b"\r\n", "is no line"),
            (b"150 x\r\n", "is no line"),
            (b"699 x\r\n", "is no line"),
            (b"250x\r\n", "is no line"),
            (b"25\r\n", "is no line"),
            (b"250-a\r\n251 b\r\n", "begins with 250 and goes on with 251"),
            (b"250 " + b"x" * MAX_LINE + b"\r\n", "a line of more"),
            (b"x" * (MAX_LINE + 1), "a line of more"),
            (b"250-x\r\n" * (MAX_LINES + 1), "without an end"),
            (b"250-" + b"x" * 4000 + b"\r\n" + (b"250-" + b"x" * 4000 + b"\r\n") * 20, "without an end"),
        ):
            with self.subTest(data[:20]):
                error = self.assertRaises(ReplyProblem, self.read, data)
                self.assertIn(words, str(error))

    def test_controls_are_shown(self) -> None:
        """Control characters and octets that are no text come escaped."""
        self.assertEqual(self.read(b"250 a\x1b[2Jb\xff\rc\r\n")[0].text, "a\\x1b[2Jb\\xff\\rc")

    @given(st.binary())
    def test_any_octets(self, data: bytes) -> None:
        """Whatever comes gives replies or a problem, and nothing else."""
        try:
            self.read(data)
        except ReplyProblem as problem:
            self.assertTrue(str(problem).isprintable())

    def test_bounded(self) -> None:
        """Few replies are remembered, however many different ones come."""
        reader = ReplyReader()
        for number in range(1000):
            reader.feed(b"250 %d\r\n" % number)
        self.assertLessEqual(len(reader._known), 64)


class CapabilitiesTests(SynchronousTestCase):
    def test_values(self) -> None:
        """Each keyword that says more becomes a value."""
        found = parse_capabilities(
            Reply(
                250,
                "mx.example Hello\nSIZE 1000\nauth PLAIN scram-sha-256\nAUTH=LOGIN PLAIN\nLIMITS MAILMAX=5 RCPTMAX=3 "
                "RCPTDOMAINMAX=2\nDELIVERBY 240\nFUTURERELEASE 100 2030-01-01T00:00:00Z\nPIPELINING"
                "\nChunking\n8BITMIME",
            )
        )
        self.assertEqual((found.name, found.size), ("mx.example", 1000))
        self.assertEqual(found.auth, ("PLAIN", "SCRAM-SHA-256", "LOGIN"))
        self.assertEqual((found.max_messages, found.max_recipients, found.max_domains), (5, 3, 2))
        self.assertEqual((found.min_by_time, found.max_hold), (240, 100))
        self.assertEqual(found.max_hold_until, datetime(2030, 1, 1, tzinfo=UTC))
        self.assertTrue(found.pipelining and found.chunking and found.eight_bit and "pipelining" in found)

    def test_nonsense(self) -> None:
        """Values that make no sense count as not given."""
        found = parse_capabilities(Reply(250, "x\nSIZE big\nLIMITS RCPTMAX=x foo\nDELIVERBY -3\nFUTURERELEASE a b\n "))
        self.assertEqual((found.size, found.max_recipients, found.min_by_time, found.max_hold), (None,) * 4)

    def test_no_limit(self) -> None:
        """SIZE 0, and SIZE alone, tell of no limit (RFC 1870 §4)."""
        for text in ("x\nSIZE 0", "x\nSIZE"):
            self.assertIsNone(parse_capabilities(Reply(250, text)).size)

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Any reply can be read."""
        parse_capabilities(Reply(250, text))
