"""
Tests of smtpsvc.server.receiving: what is taken of DATA, and what becomes of the delivery.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from twisted.internet.defer import fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import PermanentError, Reply, SMTPError, TemporaryError
from smtpsvc.settings import BareNewline
from smtpsvc.testing import Message, ScriptedBackend
from tests.hooks import MAIL, RCPT, Late, connect, in_data, lines
from tests.support import FALSE_ENDS, cuts

#: What a smuggler puts behind a false end.
SMUGGLED = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<victim@y.example>\r\nDATA\r\nevil"


def delivered(content: bytes, **settings: Any) -> tuple[Reply, Message]:
    """Send *content* and the end of the message; give the reply and what the backend got."""
    backend = ScriptedBackend()
    wire = in_data(backend, add_received=False, **settings).receive(content)
    return wire.last_reply, backend.messages[0]


def given(answer: Any, later: bool, *args: Any) -> Any:
    """Give an answer, or raise it; *later* as a fired Deferred."""
    if isinstance(answer, Exception):
        if not later:
            raise answer
        return fail(answer)
    return succeed(answer) if later else answer


class ContentTests(SynchronousTestCase):
    def test_content(self) -> None:
        """The delivery gets the message with its dots undone, and nothing of its end."""
        cases = [
            (b"text\r\n.\r\n", b"text\r\n"),
            (b".\r\n", b""),
            (b"\r\n.\r\n", b"\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b".a\r\n..b\r\n...\r\n.\r\n", b"a\r\n.b\r\n..\r\n"),
            (b"\xff\xfe\r\n.\r\n", b"\xff\xfe\r\n"),
            (b"QUIT\r\nRSET\r\n.\r\n", b"QUIT\r\nRSET\r\n"),
        ]
        for sent, kept in cases:
            with self.subTest(sent=sent):
                reply, message = delivered(sent)
                self.assertEqual((reply.code, message.content, message.finished), (250, kept, True))

    def test_cuts(self) -> None:
        """Content, replies and the commands behind are the same however the octets come."""
        data = lines(MAIL, RCPT, "DATA") + b".x\r\n..\r\n.\r\n" + lines(MAIL, RCPT, "DATA") + b".\r\nQUIT\r\n"
        for packets in cuts(data):
            backend = ScriptedBackend()
            wire = connect(backend, add_received=False)
            for packet in packets:
                wire.receive(packet)
            self.assertEqual(wire.codes, [250, 250, 354, 250] * 2 + [221], packets)
            self.assertEqual([message.content for message in backend.messages], [b"x\r\n.\r\n", b""], packets)

    def test_bulk(self) -> None:
        """What comes in one read is written in one call."""
        backend = ScriptedBackend()
        in_data(backend, add_received=False).receive(b"a\r\n" * 1000 + b".\r\n")
        self.assertEqual(backend.called("write"), [(b"a\r\n" * 1000,)])

    def test_empty_pieces(self) -> None:
        """write() is never called with nothing."""
        backend = ScriptedBackend()
        wire = in_data(backend, add_received=False)
        for octet in b"\r\n\r\n..\r\n.a\r\n.\r\n":
            wire.receive(bytes([octet]))
        self.assertEqual(wire.codes, [250])
        self.assertNotIn((b"",), backend.called("write"))

    def test_queue_id(self) -> None:
        """The usual 250 names the transaction."""
        reply, message = delivered(b"a\r\n.\r\n")
        self.assertEqual(reply, replies.taken(message.envelope.id))

    def test_next_transaction(self) -> None:
        """A message ends its transaction, taken or not: RCPT needs a MAIL again."""
        for answer in (None, Reply(550, "No")):
            with self.subTest(answer=answer):
                wire = in_data(ScriptedBackend(finish=answer)).receive(b".\r\n").forget()
                self.assertEqual(wire.say(RCPT, "DATA", MAIL, RCPT, "DATA").codes, [503, 503, 250, 250, 354])

    def test_two_messages_in_a_packet(self) -> None:
        """Two messages may come in one packet (RFC 2920)."""
        backend = ScriptedBackend()
        wire = connect(backend, add_received=False)
        wire.receive((lines(MAIL, RCPT, "DATA") + b"a\r\n.\r\n") * 2)
        self.assertEqual(wire.codes, [250, 250, 354, 250] * 2)
        self.assertEqual(wire.write_count, 1)


class SizeTests(SynchronousTestCase):
    def test_exactly_the_limit(self) -> None:
        """A message of exactly the limit is taken, dots undone; an octet more is 552 5.3.4."""
        for sent, size in ((b"12345678\r\n", 10), (b"..345678\r\n", 9), (b"1\r\n..\r\n", 6), (b"\r\n", 2)):
            with self.subTest(sent=sent):
                reply, message = delivered(sent + b".\r\n", message_size=size)
                self.assertEqual((reply.code, len(message.content)), (250, size))
                self.assertEqual(delivered(sent + b".\r\n", message_size=size - 1)[0], replies.TOO_BIG)

    def test_without_trace(self) -> None:
        """The header that the server adds does not count."""
        backend = ScriptedBackend()
        self.assertEqual(in_data(backend, message_size=3).receive(b"a\r\n.\r\n").codes, [250])

    def test_no_limit(self) -> None:
        """A limit of 0 is none."""
        self.assertEqual(delivered(b"x" * 100_000 + b"\r\n.\r\n", message_size=0)[0].code, 250)

    def test_declared(self) -> None:
        """A declared size beyond the limit is 552 5.3.4 at MAIL, and opens nothing; the limit itself is taken."""
        backend = ScriptedBackend()
        wire = connect(backend, message_size=1000)
        self.assertEqual(wire.say(f"{MAIL} SIZE=1001").last_reply, replies.TOO_BIG)
        self.assertEqual(wire.say(RCPT).last_reply, replies.SAY_MAIL)
        self.assertEqual(backend.called("mail"), [])
        self.assertEqual(wire.say(f"{MAIL} SIZE=1000").last_reply, replies.SENDER_OK)

    def test_declared_too_small(self) -> None:
        """A declared size is a promise and no limit: what really comes is measured."""
        wire = connect(ScriptedBackend(), message_size=10)
        wire.say(f"{MAIL} SIZE=1", RCPT, "DATA").forget()
        self.assertEqual(wire.receive(b"12345678\r\n.\r\n").codes, [250])

    def test_backend_limit(self) -> None:
        """A backend's own limit holds where it is smaller than the setting, and is announced."""
        backend = ScriptedBackend()
        backend.max_message_size = 100
        wire = connect(backend, message_size=1000)
        self.assertIn("SIZE 100", wire.say("EHLO x").last_reply.text.splitlines())
        self.assertEqual(wire.say(f"{MAIL} SIZE=101").last_reply, replies.TOO_BIG)

    def test_aborted_at_once(self) -> None:
        """Over the limit the delivery is aborted at once, gets nothing more, and the client hears at the end."""
        backend = ScriptedBackend()
        wire = in_data(backend, message_size=10, add_received=False).receive(b"1234567")
        wire.receive(b"\r\n89")
        message = backend.messages[0]
        self.assertEqual((wire.codes, message.content), ([], b"1234567"))
        assert message.aborted is not None
        self.assertEqual(message.aborted.value.reply, replies.TOO_BIG)
        wire.receive(b"QUIT\r\n" * 100 + b".\r\n")
        self.assertEqual((wire.replies, message.content), ([replies.TOO_BIG], b"1234567"))
        self.assertEqual(wire.say("NOOP").codes, [552, 250])

    def test_cuts(self) -> None:
        """A message that is too large is 552 however its octets come, and what follows is a command."""
        for packets in cuts(b"12345678\r\n9\r\n.\r\nNOOP\r\n"):
            wire = in_data(ScriptedBackend(), message_size=10)
            for packet in packets:
                wire.receive(packet)
            self.assertEqual(wire.codes, [552, 250], packets)


class DamageTests(SynchronousTestCase):
    def test_sentences(self) -> None:
        """A bare CR or LF, or NUL, anywhere in the message is 550 5.5.2 with a sentence that names it."""
        sentences = {
            b"\r": "bare CR in message; lines must end in CRLF",
            b"\n": "bare LF in message; lines must end in CRLF",
            b"\0": "NUL in message",
        }
        message = b"ab\r\n..c\r\nd\r\n"
        for octet, sentence in sentences.items():
            for place in range(len(message)):
                damaged = message[:place] + octet + message[place:]
                if octet == b"\0" and message[place - 1 : place + 1] == b"\r\n":
                    continue  # between CR and LF it makes a bare CR first
                with self.subTest(damaged=damaged):
                    reply, _ = delivered(damaged + b"\r\n.\r\n")
                    self.assertEqual(reply, Reply(550, sentence, "5.5.2"))

    def test_delivery(self) -> None:
        """A damaged message is aborted with its reason, once, and nothing is written after that."""
        backend = ScriptedBackend()
        wire = in_data(backend, add_received=False).receive(b"good").receive(b"bad\nworse\n")
        message = backend.messages[0]
        assert message.aborted is not None
        self.assertEqual(message.aborted.value.reply.enhanced, "5.5.2")
        wire.receive(b"more\r\n.\r\n")
        self.assertEqual(backend.hooks[-3:], ["write", "abort", "reset"])
        self.assertEqual((message.content, message.finished), (b"good", False))

    def test_dropped_to_the_real_end(self) -> None:
        """The reply comes at the real end, and not before."""
        wire = in_data(ScriptedBackend()).receive(b"a\nb\r\n").receive(b"c\r\n")
        self.assertEqual(wire.codes, [])
        self.assertEqual(wire.receive(b".\r\nNOOP\r\n").codes, [550, 250])

    def test_smuggling(self) -> None:
        """Behind a false end nothing is executed, however the octets come (one message, one 550)."""
        for false_end in FALSE_ENDS:
            for packets in cuts(b"a" + false_end + SMUGGLED + b"\r\n.\r\nNOOP\r\n"):
                backend = ScriptedBackend()
                wire = in_data(backend)
                for packet in packets:
                    wire.receive(packet)
                self.assertEqual(wire.codes, [550, 250], (false_end, packets))
                self.assertEqual(len(backend.called("mail")), 1, (false_end, packets))

    def test_smuggling_at_the_beginning(self) -> None:
        """A false end right behind DATA ends nothing either."""
        for false_end in (b".\n", b".\r", b".\r\r\n", b"\n.\r\n", b".\0\r\n"):
            for packets in cuts(false_end + SMUGGLED + b"\r\n.\r\nNOOP\r\n"):
                backend = ScriptedBackend()
                wire = in_data(backend)
                for packet in packets:
                    wire.receive(packet)
                self.assertEqual((wire.codes, len(backend.called("mail"))), ([550, 250], 1), (false_end, packets))

    def test_damage_and_size(self) -> None:
        """A message that is too large and damaged has the same reply however its octets come."""
        for data in (b"123456789\r\na\nb\r\n.\r\n", b"1\n23456789\r\nab\r\n.\r\n"):
            found = set()
            for packets in cuts(data):
                wire = in_data(ScriptedBackend(), message_size=8)
                for packet in packets:
                    wire.receive(packet)
                found.add(tuple(wire.replies))
            self.assertEqual(len(found), 1, data)


class NormalizeTests(SynchronousTestCase):
    def test_stored_as_crlf(self) -> None:
        """With bare_newline=normalize a bare CR or LF is stored as CRLF."""
        reply, message = delivered(b"a\nb\rc\r\n.\r\n", bare_newline=BareNewline.NORMALIZE)
        self.assertEqual((reply.code, message.content), (250, b"a\r\nb\r\nc\r\n"))

    def test_nul(self) -> None:
        """NUL is refused all the same."""
        reply, _ = delivered(b"a\0\r\n.\r\n", bare_newline=BareNewline.NORMALIZE)
        self.assertEqual(reply, Reply(550, "NUL in message", "5.5.2"))

    def test_smuggling(self) -> None:
        """A false end still ends nothing, however the octets come; what is behind it is content."""
        for false_end in FALSE_ENDS:
            for packets in cuts(b"a" + false_end + SMUGGLED + b"\r\n.\r\nNOOP\r\n"):
                backend = ScriptedBackend()
                wire = in_data(backend, bare_newline=BareNewline.NORMALIZE, add_received=False)
                for packet in packets:
                    wire.receive(packet)
                code = 550 if b"\0" in false_end else 250
                self.assertEqual(wire.codes, [code, 250], (false_end, packets))
                self.assertEqual(len(backend.called("mail")), 1, (false_end, packets))
                if code == 250:
                    self.assertTrue(backend.messages[0].content.endswith(SMUGGLED + b"\r\n"), (false_end, packets))


class DeliveryTests(SynchronousTestCase):
    """After any number of write, exactly one of finish and abort."""

    def ends(self, backend: ScriptedBackend) -> list[str]:
        """The calls that end a delivery."""
        return [hook for hook in backend.hooks if hook in ("finish", "abort")]

    def test_exactly_one(self) -> None:
        """Whatever goes wrong, and whatever the client does then, finish or abort is called, and once."""
        refusals: dict[str, list[Any]] = {
            "write": [Reply(550, "x"), PermanentError("x"), KeyError("x"), 7],
            "finish": [Reply(450, "x"), TemporaryError("x"), KeyError("x"), 7],
            "nothing": [None],
        }
        contents = (b"a\r\n.\r\n", b".\r\n", b"a\n\r\n.\r\n", b"a" * 200 + b"\r\n.\r\n", b"a\r\n", b"")
        for (hook, answers), content in itertools.product(refusals.items(), contents):
            for answer, form in itertools.product(answers, ("plain", "Deferred")):
                with self.subTest(hook=hook, answer=answer, content=content, form=form):
                    backend = ScriptedBackend({hook: partial(given, answer, form == "Deferred")})
                    in_data(backend, message_size=100).receive(content).say("RSET", "QUIT").hang_up()
                    self.flushLoggedErrors(KeyError, TypeError)
                    self.assertEqual(len(self.ends(backend)), 1, backend.hooks)

    def test_write_refusals(self) -> None:
        """What write() refuses is the answer at the message's end; nothing more is written, abort follows."""
        no = Reply(554, "Virus", "5.7.1")
        for refusal in (no, SMTPError(no), lambda _: fail(SMTPError(no)), lambda _: succeed(no)):
            with self.subTest(refusal=refusal):
                backend = ScriptedBackend(write=[refusal])
                wire = in_data(backend, add_received=False).receive(b"a\r\n").receive(b"b\r\n")
                self.assertEqual(wire.codes, [])
                self.assertEqual(wire.receive(b".\r\n").replies, [no])
                self.assertEqual(backend.hooks[-4:], ["data", "write", "abort", "reset"])

    def test_empty_message_write(self) -> None:
        """The one write of an empty message is waited for, and may refuse it, as any other."""
        late = Late()
        backend = ScriptedBackend(write=late)
        wire = in_data(backend).receive(b".\r\n")
        self.assertEqual((wire.codes, self.ends(backend)), ([], []))
        late.fail(PermanentError("Full", "5.2.2", 552))
        self.assertEqual(wire.replies, [Reply(552, "Full", "5.2.2")])
        self.assertEqual(self.ends(backend), ["abort"])

    def test_lost(self) -> None:
        """A loss in the middle of the content aborts with its reason."""
        backend = ScriptedBackend()
        in_data(backend).receive(b"a\r\n").hang_up(ConnectionLost("gone"))
        aborted = backend.messages[0].aborted
        assert aborted is not None
        self.assertIsInstance(aborted.value, ConnectionLost)
        self.assertEqual(backend.hooks[-2:], ["abort", "close"])

    def test_lost_before_content(self) -> None:
        """A loss right behind the 354 aborts too."""
        backend = ScriptedBackend()
        in_data(backend).hang_up(ConnectionDone())
        self.assertEqual(backend.hooks[-2:], ["abort", "close"])

    def test_failing_abort(self) -> None:
        """An error in abort() is logged, and changes nothing for the client."""
        for error in (KeyError("x"), lambda _: fail(KeyError("x"))):
            with self.subTest(error=error):
                wire = in_data(ScriptedBackend(abort=error)).receive(b"a\n\r\n.\r\nNOOP\r\n")
                self.assertEqual(wire.codes, [550, 250])
                self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_pending_abort(self) -> None:
        """abort() goes on in the background: the reply does not wait for it."""
        late = Late()
        wire = in_data(ScriptedBackend(abort=late)).receive(b"a\n\r\n.\r\n")
        self.assertEqual((wire.codes, len(late.waiting)), ([550], 1))

    def test_refused_at_data(self) -> None:
        """What data() refuses leaves the transaction open, and what follows is read as commands."""
        backend = ScriptedBackend(data=[Reply(450, "Not yet", "4.2.1")])
        wire = connect(backend).say(MAIL, RCPT).forget()
        self.assertEqual(wire.say("DATA").replies, [Reply(450, "Not yet", "4.2.1")])
        self.assertEqual(wire.say(RCPT, "DATA").codes, [450, 250, 354])
        self.assertEqual(backend.called("reset"), [])

    def test_nonsense_for_a_delivery(self) -> None:
        """What is no IDelivery is 451 4.3.0, and logged once."""
        for nonsense in (7, Reply(250, "Fine"), Reply(354, "Go"), succeed(None), "delivery", object):
            with self.subTest(nonsense=nonsense):
                wire = connect(ScriptedBackend(data=lambda _, it=nonsense: it)).say(MAIL, RCPT).forget()
                self.assertEqual(wire.say("DATA", "NOOP").replies[0], replies.LOCAL_ERROR)
                self.assertEqual(wire.codes, [451, 250])
                self.assertEqual(len(self.flushLoggedErrors()), 1)
