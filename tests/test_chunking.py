"""
Tests of smtpsvc.extensions.chunking: what is taken by BDAT, in which order, and what its octets are.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions.chunking import BAD_SIZE, parse_chunk
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.grammar.states import State
from smtpsvc.server.watch import Monitor
from smtpsvc.settings import BareNewline
from smtpsvc.testing import Message, ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Abandoned, Peer
from tests.chunks import chunk, in_rcpt
from tests.hooks import MAIL, RCPT, connect, lines
from tests.support import DialogueTestCase, given, settings_with, st

BINARY = f"{MAIL} BODY=BINARYMIME"
NO = Reply(550, "Never", "5.7.1")
LATER = Reply(452, "Full", "4.3.1")


def sent(*chunks: bytes, mail: str = MAIL, **settings: Any) -> tuple[list[Reply], Message]:
    """Send chunks, the last of them as the last; give the replies and what the backend got."""
    backend = ScriptedBackend()
    wire = in_rcpt(backend, mail, **settings)
    for place, content in enumerate(chunks, 1):
        wire.receive(chunk(content, last=place == len(chunks)))
    return wire.replies, backend.messages[0]


class ParseTests(SynchronousTestCase):
    def test_good(self) -> None:
        """A size is 1 to 20 digits; LAST is of either case (RFC 3030 §2)."""
        cases = {
            b"0": (0, False),
            b"0 LAST": (0, True),
            b"100": (100, False),
            b"007 last": (7, True),
            b"1 lAsT": (1, True),
            b"9" * 20: (int("9" * 20), False),
        }
        for argument, value in cases.items():
            with self.subTest(argument=argument):
                self.assertEqual(parse_chunk(argument), value)

    def test_bad(self) -> None:
        """Anything else is 501 5.5.4, after which the connection is closed."""
        bad = [b"", b" ", b"LAST", b"-1", b"+1", b"1.0", b"0x10", b"1e3", b"1 ", b"1 LAST LAST", b"1 LAS", b"1  LAST"]
        bad += [
            b"1\tLAST",
            b"1LAST",
            b"LAST 1",
            b"1 2",
            b" 1",
            b"9" * 21,
            b"9" * 30,
            b"1" * 1990,
            "١".encode(),
            b"\xb2",
        ]
        for argument in bad:
            with self.subTest(argument=argument):
                error = self.assertRaises(SMTPError, parse_chunk, argument)
                self.assertEqual((error.reply, error.reply.closes), (BAD_SIZE, True))

    @given(st.binary(max_size=30))
    def test_any(self, argument: bytes) -> None:
        """Whatever stands there, it is a size or 501."""
        try:
            size, last = parse_chunk(argument)
        except SMTPError as error:
            self.assertEqual(error.reply.code, 501)
            return
        self.assertEqual(argument.split()[0].lstrip(b"0") or b"0", b"%d" % size)
        self.assertEqual(last, b" " in argument)


class DialogueTests(DialogueTestCase):
    def check(self, data: bytes, codes: list[int], contents: list[bytes], **settings: Any) -> None:
        """Send *data* behind EHLO in every way."""
        backends: list[ScriptedBackend] = []

        def fresh() -> Wire:
            backends.append(ScriptedBackend())
            return connect(backends[-1], add_received=False, **settings)

        def kept(wire: Wire) -> list[bytes]:
            return [message.content for message in backends[-1].messages if message.finished]

        self.check_cuts(fresh, data, codes, kept, contents)

    def test_one_chunk(self) -> None:
        """A message may come in one chunk, and another in the same packet."""
        message = lines(MAIL, RCPT) + chunk(b"a\r\n.\r\nb", last=True)
        self.check(message * 2 + b"QUIT\r\n", [250] * 6 + [221], [b"a\r\n.\r\nb"] * 2)

    def test_chunks(self) -> None:
        """A message may come in many chunks, each answered; dots and commands in them are content."""
        chunks = [b"QUIT\r\n", b"", b"..\r", b"\n.\r\n", b"MAIL FROM:<evil@x.example>\r\n"]
        data = lines(MAIL, RCPT) + b"".join(map(chunk, chunks)) + b"BDAT 0 LAST\r\nNOOP\r\n"
        self.check(data, [250] * 9, [b"".join(chunks)])

    def test_binary(self) -> None:
        """With BODY=BINARYMIME any octets pass as they are."""
        octets = b"\r\n.\r\n\0\n\r\r.\nRSET\r\n\n.\n" + bytes(range(10))
        self.check(lines(BINARY, RCPT) + chunk(octets[:9]) + chunk(octets[9:], last=True), [250] * 4, [octets])

    def test_refused(self) -> None:
        """The octets of a chunk that is refused are not executed, with a transaction or without."""
        evil = lines("RSET", MAIL, RCPT) + chunk(b"evil", last=True)
        self.check(chunk(evil) + b"NOOP\r\n", [503, 250], [])
        self.check(chunk(evil, last=True) + b"NOOP\r\n", [503, 250], [])
        self.check(lines(MAIL) + chunk(evil, last=True) + b"NOOP\r\n", [250, 503, 250], [])

    def test_too_big(self) -> None:
        """A message that is too large is 552 at the chunk that makes it so; what comes behind is dropped."""
        data = lines(MAIL, RCPT) + chunk(b"12345678") + chunk(b"NOOP\r\n") + chunk(b"NOOP\r\n", last=True) + b"NOOP\r\n"
        self.check(data, [250, 250, 250, 552, 503, 250], [], message_size=10)

    def test_damaged(self) -> None:
        """A damaged message is 550 at its LAST, however its octets come."""
        for first, second in ((b"a\nb", b"c"), (b"a\r", b"b"), (b"a", b"\n"), (b"\0", b""), (b"", b"\r")):
            data = lines(MAIL, RCPT) + chunk(first) + chunk(second, last=True) + b"NOOP\r\n"
            self.check(data, [250, 250, 250, 550, 250], [])

    def test_damage_and_size(self) -> None:
        """A chunk that is too large and damaged has the same reply however its octets come."""
        for octets in (b"123456789\n", b"\n123456789"):
            self.check(lines(MAIL, RCPT) + chunk(octets, last=True), [250, 250, 550], [], message_size=8)
            self.check(lines(MAIL, RCPT) + chunk(octets) + b"BDAT 0 LAST\r\n", [250] * 3 + [550], [], message_size=8)

    def test_reset(self) -> None:
        """RSET between two chunks drops the message; the next one is whole (RFC 3030 §2)."""
        data = lines(MAIL, RCPT) + chunk(b"bad") + b"RSET\r\n" + lines(MAIL, RCPT) + chunk(b"good", last=True)
        self.check(data, [250] * 7, [b"good"])


class ContentTests(SynchronousTestCase):
    def test_delivery(self) -> None:
        """The delivery is asked for at the first chunk; each chunk is written, and LAST finishes."""
        backend = ScriptedBackend()
        wire = in_rcpt(backend)
        hooks = len(backend.hooks)
        wire.receive(chunk(b"one\r\n")).receive(chunk(b"two\r\n", last=True))
        self.assertEqual(backend.hooks[hooks:], ["data", "write", "write", "finish", "reset"])
        self.assertEqual(backend.called("write"), [(b"one\r\n",), (b"two\r\n",)])

    def test_queue_id(self) -> None:
        """The reply to LAST is that of DATA, and the others are plain."""
        found, message = sent(b"one", b"two")
        self.assertEqual(found, [replies.OK, replies.taken(message.envelope.id)])

    def test_trace(self) -> None:
        """Received stands in front of the first chunk only, and of an empty message."""
        for chunks in ((b"one", b"two"), (b"onetwo",), (b"", b"onetwo", b""), (b"",)):
            with self.subTest(chunks=chunks):
                _, message = sent(*chunks, add_received=True)
                self.assertEqual(message.content.count(b"Received: from client.example"), 1)
                self.assertTrue(message.content.endswith(b"+0000\r\n" + b"".join(chunks)))

    def test_streamed(self) -> None:
        """A chunk is written as it comes, not kept until it is whole."""
        backend = ScriptedBackend()
        wire = in_rcpt(backend).receive(b"BDAT 10000000000 LAST\r\n")
        for _ in range(5):
            wire.receive(b"a" * 1000)
        self.assertEqual(backend.called("write"), [(b"a" * 1000,)] * 5)

    def test_no_last(self) -> None:
        """LAST may have no octets, as may any chunk."""
        found, message = sent(b"", b"text", b"", b"")
        self.assertEqual(([reply.code for reply in found], message.content), ([250] * 4, b"text"))

    def test_worded(self) -> None:
        """What finish() gives is the reply to LAST."""
        for outcome in (Reply(250, "Queued as 1", "2.0.0"), NO, LATER):
            backend = ScriptedBackend(finish=outcome)
            self.assertEqual(in_rcpt(backend).receive(chunk(b"", last=True)).replies, [outcome])

    def test_one_write(self) -> None:
        """Whole transactions may come in one packet; their replies leave in one write."""
        backend = ScriptedBackend()
        wire = connect(backend).receive((lines(MAIL, RCPT) + chunk(b"a", last=True)) * 32)
        self.assertEqual((wire.codes, wire.write_count, len(backend.messages)), ([250] * 96, 1, 32))

    def test_exactly_the_limit(self) -> None:
        """All chunks together may have the limit, and no octet more."""
        self.assertEqual(sent(b"12345", b"67890", message_size=10)[0][1].code, 250)
        self.assertEqual(sent(b"12345", b"678901", message_size=10)[0], [replies.OK, replies.TOO_BIG])

    def test_monitors(self) -> None:
        """A reply to BDAT is told as such."""
        seen: list[tuple[str, int]] = []

        class Watcher(Monitor):
            def replied(self, peer: Peer, verb: str, reply: Reply) -> None:
                seen.append((verb, reply.code))

        factory, _ = clocked_factory(ScriptedBackend(), settings_with(), monitors=[Watcher()])
        Wire(factory).greeted().receive(lines(MAIL, RCPT) + chunk(b"a") + chunk(b"b", last=True) + chunk(b"c"))
        self.assertEqual(seen[-3:], [("BDAT", 250), ("BDAT", 250), ("BDAT", 503)])


class DamageTests(SynchronousTestCase):
    def test_sentences(self) -> None:
        """The refusal names what was wrong, as for DATA: 550 5.5.2."""
        sentences = {
            b"a\rb": "bare CR in message; lines must end in CRLF",
            b"a\nb": "bare LF in message; lines must end in CRLF",
            b"a\0b": "NUL in message",
        }
        for octets, sentence in sentences.items():
            for mail in (MAIL, f"{MAIL} BODY=8BITMIME", f"{MAIL} BODY=7BIT"):
                with self.subTest(octets=octets, mail=mail):
                    self.assertEqual(sent(octets, mail=mail)[0], [Reply(550, sentence, "5.5.2")])

    def test_aborted_at_once(self) -> None:
        """The delivery is aborted where the damage is, and gets nothing more; the client hears at LAST."""
        backend = ScriptedBackend()
        wire = in_rcpt(backend).receive(chunk(b"good")).receive(chunk(b"b\nd"))
        self.assertEqual((wire.codes, backend.hooks[-1]), ([250, 250], "abort"))
        wire.receive(chunk(b"more")).receive(chunk(b"", last=True))
        self.assertEqual((wire.codes, backend.messages[0].content), ([250, 250, 250, 550], b"good"))
        self.assertEqual(backend.hooks[-2:], ["abort", "reset"])

    def test_not_normalized(self) -> None:
        """bare_newline=normalize mends lines of DATA; octets that were counted are not changed."""
        found, _ = sent(b"a\nb", bare_newline=BareNewline.NORMALIZE)
        self.assertEqual([reply.code for reply in found], [550])


class SequenceTests(SynchronousTestCase):
    def test_between_chunks(self) -> None:
        """Between two chunks MAIL, RCPT, DATA and the like are 503 5.5.1, and the message goes on."""
        backend = ScriptedBackend()
        wire = in_rcpt(backend).receive(chunk(b"one")).forget()
        wire.say(MAIL, RCPT, "DATA")
        self.assertEqual(wire.replies, [replies.IN_CHUNKS] * 3)
        self.assertEqual(wire.say("NOOP", "VRFY x", "HELP").codes[3:], [250, 252, 214])
        self.assertEqual(wire.receive(chunk(b"two", last=True)).codes[6:], [250])
        self.assertEqual(backend.messages[0].content, b"onetwo")

    def test_state(self) -> None:
        """A chunk leads to CHUNKS, and LAST back to the beginning, taken or refused."""
        for finish in (None, NO):
            wire = in_rcpt(ScriptedBackend(finish=finish)).receive(chunk(b"a"))
            self.assertIs(wire.protocol.conversation.state, State.CHUNKS)
            wire.receive(chunk(b"a", last=True))
            self.assertIs(wire.protocol.conversation.state, State.GREETED)
            self.assertEqual(wire.forget().say(RCPT, MAIL, RCPT).codes, [503, 250, 250])

    def test_data_for_binary(self) -> None:
        """DATA for BINARYMIME is 503 5.5.1, and BDAT may follow (RFC 3030 §3)."""
        wire = in_rcpt(ScriptedBackend(), BINARY).say("DATA")
        self.assertEqual(wire.replies, [replies.BINARY_NEEDS_BDAT])
        self.assertEqual(wire.receive(chunk(b"a\nb", last=True)).codes, [503, 250])

    def test_begun_anew(self) -> None:
        """RSET and EHLO between two chunks abort the message, for a reason of its own, and reset follows."""
        for line in ("RSET", "EHLO again.example", "HELO again.example"):
            with self.subTest(line=line):
                backend = ScriptedBackend()
                wire = in_rcpt(backend).receive(chunk(b"a")).say(line)
                aborted = backend.messages[0].aborted
                assert aborted is not None
                self.assertIsInstance(aborted.value, Abandoned)
                self.assertEqual((wire.codes[-1], backend.hooks[-2:]), (250, ["abort", "reset"]))
                self.assertIs(wire.protocol.conversation.state, State.GREETED)
                wire.hang_up()
                self.assertEqual(backend.hooks.count("abort"), 1)

    def test_no_transaction(self) -> None:
        """Without a transaction BDAT is 503 5.5.1 behind its octets, and opens none."""
        for greeting in ([], ["EHLO client.example"]):
            backend = ScriptedBackend()
            wire = Wire(clocked_factory(backend, settings_with())[0]).say(*greeting).forget()
            state = wire.protocol.conversation.state
            self.assertEqual(wire.receive(b"BDAT 6\r\nQUIT").codes, [])
            self.assertEqual(wire.receive(b"\r\nNOOP\r\n").codes, [503, 250])
            self.assertEqual(wire.say("BDAT 0", "BDAT 0 LAST").codes[2:], [503, 503])
            self.assertIs(wire.protocol.conversation.state, state)
            self.assertEqual(backend.called("data"), [])

    def test_no_recipient(self) -> None:
        """Where all recipients were refused, BDAT is 503; its LAST ends the transaction, so that none is mixed up."""
        backend = ScriptedBackend(rcpt=[NO])
        wire = connect(backend).receive(lines(MAIL, RCPT) + chunk(b"a") + chunk(b"b", last=True))
        self.assertEqual(wire.codes, [250, 550, 503, 503])
        self.assertEqual(backend.hooks[-2:], ["rcpt", "reset"])
        self.assertEqual(wire.say(RCPT).last_reply, replies.SAY_MAIL)

    def test_bad_size(self) -> None:
        """A size that cannot be read is 501 and closes: what follows is never read as commands."""
        bad = (b"BDAT x", b"BDAT", b"BDAT -5", b"BDAT 5 FIRST", b"BDAT " + b"1" * 30)
        for line in (*bad, b"BDAT\t5", b"BDAT 5\0", b"BDAT 5\n", b"bdat 5\r5", b"BDAT " + b"5" * 3000):
            for state in ([], [MAIL], [MAIL, RCPT], [MAIL, RCPT, "BDAT 0"]):
                with self.subTest(line=line[:20], state=state):
                    backend = ScriptedBackend()
                    wire = connect(backend).say(*state).forget().receive(line + b"\r\nRSET\r\nNOOP\r\n")
                    self.assertEqual((len(wire.codes), wire.closed), (1, True))
                    self.assertEqual(wire.codes[0], 501 if line in bad else 500)
                    self.assertNotIn("reset", backend.hooks)

    def test_not_offered(self) -> None:
        """Without CHUNKING, BDAT is unknown, and BINARYMIME is neither shown nor taken."""
        wire = connect(ScriptedBackend(), disable=frozenset({"CHUNKING"}))
        self.assertEqual(wire.say("BDAT 0 LAST", BINARY).replies, [replies.UNKNOWN_COMMAND, replies.UNKNOWN_PARAMETER])
        shown = wire.say("EHLO x").last_reply.text.splitlines()
        self.assertFalse({"CHUNKING", "BINARYMIME"} & set(shown))

    def test_offered(self) -> None:
        """EHLO shows both keywords."""
        shown = connect(ScriptedBackend()).say("EHLO x").last_reply.text.splitlines()
        self.assertLessEqual({"CHUNKING", "BINARYMIME"}, set(shown))

    def test_no_body(self) -> None:
        """Without 8BITMIME there is no BODY, so BINARYMIME is not shown; BDAT is."""
        shown = connect(ScriptedBackend(), disable=frozenset({"8BITMIME"})).say("EHLO x").last_reply.text.splitlines()
        self.assertEqual({"CHUNKING", "BINARYMIME"} & set(shown), {"CHUNKING"})
