"""Tests of smtpsvc.server.protocol: lines, their ends and lengths, and how replies leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions import Extension
from smtpsvc.grammar import replies
from smtpsvc.grammar.commands import parse_optional_text
from smtpsvc.grammar.replies import PermanentError, Reply
from smtpsvc.grammar.states import ANY
from smtpsvc.server.verbs import Verb
from smtpsvc.settings import AUTH_LINE
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory, parse_replies
from tests.support import (
    MESSAGE,
    DialogueTestCase,
    basics,
    connect,
    given,
    settings_with,
    st,
    transcripts,
    uncounted,
    without_ids,
)

BARE = (b"\n", b"\0", b"\rx", b"\r\r\r", b"\n\n", b"\rQUIT\n")


class Auth(Extension):
    """Brings a verb AUTH that takes any text."""

    keyword = "AUTH"
    verbs = {"AUTH": Verb(ANY, parse_optional_text, lambda conversation, text: Reply(235, f"{len(text)}", "2.7.0"))}


def line_of(length: int, verb: bytes = b"NOOP ") -> bytes:
    """Make a line of *length* octets with its CRLF."""
    return verb.ljust(length - 2, b"x") + b"\r\n"


class TranscriptTests(DialogueTestCase):
    def test_transcripts(self) -> None:
        """Every transcript runs the same whole, octet by octet, and cut at each place."""
        found = transcripts()
        self.assertTrue(found)
        for transcript in found:
            with self.subTest(transcript=transcript.name):
                self.check_cuts(self.ungreeted, transcript.client, transcript.server)

    def ungreeted(self) -> Wire:
        """Connect; the greeting is part of the output."""
        factory, _ = clocked_factory(ScriptedBackend(), settings_with(), extensions=basics())
        return Wire(factory)


class BareOctetTests(DialogueTestCase):
    def test_answered_at_once(self) -> None:
        """A bare CR, LF or NUL is answered before a CRLF comes, so that nobody waits for ever."""
        for bare in BARE:
            for line in (b"", b"NOOP", b"EHLO x", b"\xff"):
                with self.subTest(line=line, bare=bare):
                    self.assertEqual(connect().greeted().receive(line + bare).replies, [replies.BAD_LINE_END])

    def test_sentence(self) -> None:
        """The reply is 500 5.5.2 and says what to do."""
        self.assertEqual((replies.BAD_LINE_END.code, replies.BAD_LINE_END.enhanced), (500, "5.5.2"))
        self.assertIn("lines must end in CRLF", replies.BAD_LINE_END.text)

    def test_trailing_cr(self) -> None:
        """A CR that comes last is not yet bare: its LF may be about to come."""
        wire = connect().receive(b"NOOP\r")
        self.assertEqual(wire.codes, [])
        self.assertEqual(wire.receive(b"\nNOOP\r").codes, [250])
        self.assertEqual(wire.receive(b"\r").codes, [250, 500])

    def test_netcat(self) -> None:
        """A client whose lines end in LF is told so once, and nothing of what it says is done."""
        backend = ScriptedBackend()
        wire = connect(backend).say("EHLO x").forget()
        wire.receive(b"MAIL FROM:<a@x.example>\n").receive(b"RCPT TO:<b@y.example>\n").receive(b"QUIT\n")
        self.assertEqual(wire.codes, [500])
        self.assertFalse(wire.closed)
        self.assertNotIn("mail", backend.hooks)

    def test_every_place(self) -> None:
        """Wherever in a line it stands and however it is cut, it is answered once and nothing is done."""
        line = b"RSET TO:<b@y.example>"
        for bare in BARE:
            for place in (0, 1, 4, 5, 12, len(line)):
                data = line[:place] + bare + line[place:] + b"\r\nNOOP\r\n"
                with self.subTest(data=data):
                    self.check_cuts(lambda: connect().greeted(), data, [500, 250])

    def test_nothing_is_executed(self) -> None:
        """Commands between a bare octet and the next CRLF are never executed."""
        for bare in BARE:
            data = b"NOOP" + bare + b"MAIL FROM:<a@x.example>" + bare + b"QUIT\n\r\nRCPT TO:<b@y.example>\r\n"
            with self.subTest(bare=bare):
                self.check_cuts(
                    lambda: connect(ScriptedBackend()).greeted(),
                    data,
                    [500, 503],
                    after=lambda wire: wire.factory.backend.hooks,
                    same=["open_session", "helo"],
                )

    def test_each_line(self) -> None:
        """Each damaged line has its own 500, and the good ones between them their replies."""
        data = b"NOOP\n\r\nNOOP\r\nA\0B\r\n\n\r\nNOOP\r\n\rNOOP\r\n"
        self.check_cuts(lambda: connect().greeted(), data, [500, 250, 500, 500, 250, 500])

    def test_in_a_transaction(self) -> None:
        """A damaged line leaves the transaction as it was."""
        wire = connect().greeted().say("MAIL FROM:<>", "RCPT TO:<b@y.example>").receive(b"RSET\n\r\nDATA\r\n")
        self.assertEqual(wire.codes, [250, 250, 500, 354])

    def test_after_a_message(self) -> None:
        """The rule holds for the first line behind a message as well."""
        data = MESSAGE + b"NOOP\nQUIT\r\nNOOP\r\n"
        self.check_cuts(lambda: connect().greeted(), data, [250, 250, 354, 250, 500, 250])


class LengthTests(DialogueTestCase):
    def answer(self, data: bytes, **options: Any) -> list[Reply]:
        """Send octets to a greeted connection."""
        return connect(**options).greeted().receive(data).replies

    def test_limit(self) -> None:
        """A line of exactly the limit with its CRLF is taken, one octet more is 500 5.5.2."""
        for limit in (512, 2000, 5000):
            with self.subTest(limit=limit):
                settings = settings_with(line_length=limit)
                self.assertEqual(self.answer(line_of(limit), settings=settings), [replies.OK])
                self.assertEqual(self.answer(line_of(limit + 1), settings=settings), [replies.LINE_TOO_LONG])
        self.assertEqual((replies.LINE_TOO_LONG.code, replies.LINE_TOO_LONG.enhanced), (500, "5.5.2"))

    def test_default(self) -> None:
        """Without a setting a line may have 2000 octets."""
        self.assertEqual(self.answer(line_of(2000) + line_of(2001)), [replies.OK, replies.LINE_TOO_LONG])

    def test_cuts(self) -> None:
        """Limits are kept to the octet however the line is cut."""
        settings = settings_with(line_length=512)
        for length, code in ((511, 250), (512, 250), (513, 500), (514, 500), (1030, 500)):
            with self.subTest(length=length):
                self.check_cuts(lambda: connect(settings=settings), line_of(length) + b"NOOP\r\n", [code, 250])

    def test_at_once(self) -> None:
        """A line too long is answered before its end comes, once, whatever else belongs to it."""
        wire = connect().greeted().receive(b"x" * 2000)
        self.assertEqual(wire.replies, [replies.LINE_TOO_LONG])
        for _ in range(100):
            wire.receive(b"QUIT\n" * 2000 + b"\0\r")
        self.assertEqual(wire.codes, [500])
        self.assertEqual(wire.receive(b"\nNOOP\r\n").codes, [500, 250])

    def test_nothing_kept(self) -> None:
        """What belongs to a refused line is not kept."""
        for start in (b"x" * 2000, b"NOOP\n"):
            with self.subTest(start=start[:8]):
                wire = connect().receive(start)
                for _ in range(100):
                    wire.receive(b"x" * 1000)
                self.assertEqual(wire.protocol.take_unread(), b"")

    def test_bare_octet_or_length(self) -> None:
        """Whether length or a bare octet is complained about does not hang on the cuts."""
        settings = settings_with(line_length=512)
        for place, wrong in ((509, "Bare"), (510, "Bare"), (511, "Line too long"), (600, "Line too long")):
            for bare in (b"\n", b"\0", b"\r\r"):
                data = b"N" * place + bare + b"N" * 200 + b"\r\n"
                with self.subTest(place=place, bare=bare):
                    self.check_cuts(
                        lambda: connect(settings=settings),
                        data,
                        [500],
                        after=lambda wire, wrong=wrong: wire.last_reply.text.startswith(wrong),  # type: ignore[misc]
                        same=True,
                    )

    def test_auth(self) -> None:
        """An AUTH line may have 12,288 octets whatever the limit is (RFC 4954 §4)."""
        extensions = [*basics(), Auth()]
        for limit in (512, 2000):
            for verb in (b"AUTH ", b"auth ", b"Auth "):
                settings = settings_with(line_length=limit)
                with self.subTest(limit=limit, verb=verb):
                    taken = self.answer(line_of(AUTH_LINE, verb), settings=settings, extensions=extensions)
                    self.assertEqual(taken, [Reply(235, str(AUTH_LINE - 7), "2.7.0")])
                    refused = self.answer(line_of(AUTH_LINE + 1, verb), settings=settings, extensions=extensions)
                    self.assertEqual(refused, [replies.LINE_TOO_LONG])

    def test_auth_with_larger_limit(self) -> None:
        """A limit beyond 12,288 holds for AUTH too."""
        options = {"settings": settings_with(line_length=20000), "extensions": [*basics(), Auth()]}
        self.assertEqual(self.answer(line_of(20000, b"AUTH "), **options)[0].code, 235)
        self.assertEqual(self.answer(line_of(20001, b"AUTH "), **options), [replies.LINE_TOO_LONG])

    def test_auth_in_pieces(self) -> None:
        """A long AUTH line is taken in pieces of any size."""
        for size in (1, 7, 511, 1999, 2000, 2001, 12287):
            with self.subTest(size=size):
                wire = connect(extensions=[*basics(), Auth()]).greeted()
                line = line_of(AUTH_LINE, b"AUTH ")
                for start in range(0, len(line), size):
                    wire.receive(line[start : start + size])
                self.assertEqual(wire.codes, [235])

    def test_not_auth(self) -> None:
        """Only AUTH has that room: not AUTHX, and no line that has AUTH further on."""
        for verb in (b"AUTHX ", b" AUTH ", b"NOOP AUTH ", b"AUTH\t"):
            with self.subTest(verb=verb):
                self.assertEqual(self.answer(line_of(2001, verb)), [replies.LINE_TOO_LONG])

    def test_long_reads(self) -> None:
        """A read may be far longer than a line."""
        self.assertEqual({reply.code for reply in self.answer(b"NOOP\r\n" * 20000, settings=uncounted())}, {250})


class WriteTests(SynchronousTestCase):
    def test_pipeline(self) -> None:
        """All replies to what comes in one read leave in one write (RFC 2920 §3.2)."""
        wire = connect().greeted().receive(MESSAGE * 3 + b"NOOP\r\nFOO\r\nRSET\r\nQUIT\r\n")
        self.assertEqual(wire.codes, [250, 250, 354, 250] * 3 + [250, 500, 250, 221])
        self.assertEqual(wire.write_count, 1)

    def test_hello(self) -> None:
        """The reply to EHLO leaves in one write, and so does the greeting."""
        wire = connect()
        self.assertEqual(len(wire.transport.writes), 1)
        self.assertEqual(wire.say("EHLO x").write_count, 1)

    def test_refusals(self) -> None:
        """Refused lines are answered in the same write as the others."""
        wire = connect().greeted().receive(b"NOOP\r\nNOOP\nx\r\n" + line_of(3000) + b"NOOP\r\nRSET\n")
        self.assertEqual(wire.codes, [250, 500, 500, 250, 500])
        self.assertEqual(wire.write_count, 1)

    def test_nothing(self) -> None:
        """Where there is nothing to say, nothing is written."""
        wire = connect().receive(b"NOO")
        self.assertEqual(wire.write_count, 0)
        self.assertEqual(wire.say("P").write_count, 1)

    def test_much(self) -> None:
        """A client that pipelines without end cannot make the server owe it more than a bounded amount."""
        wire = connect(settings=uncounted()).greeted().receive(b"HELP\r\n" * 10000)
        self.assertEqual(wire.codes, [214] * 10000)
        self.assertLess(max(map(len, wire.transport.writes)), 3 * 64 * 1024)

    def test_behind_the_end(self) -> None:
        """Nothing behind a reply that closes is answered or done."""
        for answers, last in (({}, b"QUIT\r\n"), ({"mail": PermanentError("Go", code=521)}, b"MAIL FROM:<>\r\n")):
            with self.subTest(last=last):
                backend = ScriptedBackend(answers)
                wire = connect(backend).greeted().receive(last + MESSAGE * 2 + b"NOOP\n")
                wire.receive(b"NOOP\r\n")
                self.assertEqual(len(wire.replies), 1)
                self.assertTrue(wire.closed)
                self.assertEqual(backend.messages, [])

    def test_producer(self) -> None:
        """The protocol is its transport's streaming producer, until it closes."""
        wire = connect()
        self.assertIs(wire.transport.producer, wire.protocol)
        self.assertTrue(wire.transport.streaming)
        wire.say("QUIT")
        self.assertIsNone(wire.transport.producer)


class UnreadTests(SynchronousTestCase):
    def test_clear_between_commands(self) -> None:
        """take_unread gives back a line that has begun, and the next one begins afresh."""
        wire = connect().greeted().receive(b"NOOP\r\nQUI")
        self.assertEqual(wire.protocol.take_unread(), b"QUI")
        self.assertEqual(wire.say("NOOP").codes, [250, 250])


PIECES = (
    *(b"\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b"\0", b".", b" ", b"x", b"\xff", b"NOOP", b"EHLO x\r\n", b"HELO x\r\n"),
    *(b"MAIL FROM:<a@x.example>\r\n", b"RCPT TO:<b@y.example>\r\n", b"DATA\r\n", b".\r\n", b"\r\n.\r\n", b"RSET\r\n"),
    *(b"text", b"QUIT\r\n", b"x" * 500, b"AUTH ", b"VRFY a\r\n", MESSAGE, b"EHLO x\r\n" + MESSAGE),
)


class RandomTests(SynchronousTestCase):
    @given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join), st.lists(st.integers(0, 3000), max_size=8))
    def test_cuts(self, data: bytes, places: Sequence[int]) -> None:
        """Any octets are answered with whole replies, the same however they are cut."""
        settings = settings_with(line_length=512)
        whole = connect(settings=settings).receive(data)
        parse_replies(whole.output)
        wire = connect(settings=settings)
        start = 0
        for place in [*sorted(places), len(data)]:
            wire.receive(data[start:place])
            start = max(start, place)
        self.assertEqual(without_ids(wire.output), without_ids(whole.output))
        self.assertEqual(wire.closed, whole.closed)
        contents = [[message.content for message in end.factory.backend.messages] for end in (wire, whole)]
        self.assertEqual(*map(without_ids, map(b"|".join, contents)))

    @given(st.binary())
    def test_any_octets(self, data: bytes) -> None:
        """Any octets at all are answered with whole replies."""
        for wire in (connect(), connect().greeted()):
            parse_replies(wire.receive(data).output)
