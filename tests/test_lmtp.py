"""
Tests of LMTP (RFC 2033): LHLO, and a reply for each recipient at the end of a message.
"""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import LastReply, PermanentError, Reply
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account, TLSInfo
from tests.chunks import chunk
from tests.hooks import MAIL, Late, coroutine, lines
from tests.support import DialogueTestCase, settings_with

TAKEN = Reply(250, "Queued as 1", "2.0.0")
FULL = Reply(452, "Full", "4.2.2")
NO = Reply(550, "Never", "5.7.1")
GONE = Reply(551, "Gone", "5.1.6")
BYE = Reply(421, "Enough", "4.3.2")


def lmtp(backend: Any = None, **settings: Any) -> tuple[Wire, Clock]:
    """Connect to an LMTP listener; give the wire and the clock."""
    factory, clock = clocked_factory(backend or ScriptedBackend(), settings_with(**settings), role=Role.LMTP)
    return Wire(factory).forget(), clock


def open_for(backend: ScriptedBackend, recipients: int = 3, **settings: Any) -> tuple[Wire, Clock]:
    """Go on until the 354, with so many recipients; replies start afresh."""
    wire, clock = lmtp(backend, **settings)
    wire.say("LHLO client.example", MAIL, *(f"RCPT TO:<{place}@y.example>" for place in range(recipients)), "DATA")
    assert wire.codes[-1] == 354, wire.codes
    return wire.forget(), clock


def answers(outcome: Any, recipients: int = 3) -> list[Reply]:
    """Give the replies to a message whose finish() gives *outcome*."""
    wire, _ = open_for(ScriptedBackend(finish=lambda: outcome), recipients)
    return wire.say("text", ".").replies


class HelloTests(SynchronousTestCase):
    def test_lhlo(self) -> None:
        """LHLO is answered as EHLO is, with PIPELINING, ENHANCEDSTATUSCODES and the rest (RFC 2033 §5)."""
        wire, _ = lmtp()
        shown = wire.say("LHLO client.example").last_reply.text.splitlines()
        self.assertEqual(shown[0], "mx.example")
        self.assertLessEqual({"PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "CHUNKING", "DSN"}, set(shown))
        peer = wire.protocol.conversation.peer
        self.assertEqual((peer.helo, peer.extended), ("client.example", True))

    def test_not_smtp(self) -> None:
        """EHLO and HELO are 500 5.5.1 on an LMTP listener, and LHLO on all others (RFC 2033 §4.1)."""
        for role, verbs in (
            (Role.LMTP, ("EHLO", "HELO")),
            (Role.SMTP, ("LHLO",)),
            (Role.SUBMISSION, ("LHLO",)),
        ):
            for verb in verbs:
                with self.subTest(role=role, verb=verb):
                    wire = Wire(clocked_factory(ScriptedBackend(), settings_with(), role=role)[0]).forget()
                    self.assertEqual(wire.say(f"{verb} client.example").replies[0].code, 500)
                    self.assertEqual(wire.replies[0].text, replies.UNKNOWN_COMMAND.text)

    def test_first(self) -> None:
        """Before LHLO the 503 names LHLO."""
        wire, _ = lmtp()
        self.assertEqual([reply.text for reply in wire.say(MAIL, "DATA").replies], [replies.SAY_LHLO.text] * 2)

    def test_help(self) -> None:
        """HELP names LHLO, and neither EHLO nor HELO."""
        words = lmtp()[0].say("HELP").last_reply.text.split()
        self.assertIn("LHLO", words)
        self.assertFalse({"EHLO", "HELO"} & set(words))

    def test_greeting(self) -> None:
        """The usual greeting says LMTP; one that was set is as it was set."""
        for settings, greeting in (({}, "mx.example LMTP smtpsvc"), ({"banner": "hello"}, "mx.example hello")):
            factory, _ = clocked_factory(ScriptedBackend(), settings_with(**settings), role=Role.LMTP)
            self.assertEqual(Wire(factory).last_reply, Reply(220, greeting))

    def test_again(self) -> None:
        """A further LHLO begins anew, as EHLO does."""
        wire, _ = lmtp()
        wire.say("LHLO a.example", MAIL, "LHLO b.example", "RCPT TO:<b@y.example>")
        self.assertEqual(wire.codes, [250, 250, 250, 503])

    def test_received(self) -> None:
        """Received says LMTP, LMTPS, LMTPA or LMTPSA (RFC 3848)."""
        for tls, account, name in itertools.product((None, TLSInfo("TLSv1.3", "x")), (None, Account("me")), [""]):
            name = f"LMTP{'S' if tls else ''}{'A' if account else ''}"
            with self.subTest(name=name):
                backend = ScriptedBackend()
                wire, _ = lmtp(backend)
                peer = wire.protocol.conversation.peer
                peer.tls, peer.account = tls, account
                wire.say("LHLO c.example", MAIL, "RCPT TO:<b@y.example>", "DATA", ".")
                self.assertIn(f" with {name} id ".encode(), backend.messages[0].content)

    def test_wire(self) -> None:
        """A Wire greets an LMTP listener by its verb."""
        wire, _ = lmtp()
        self.assertEqual(wire.greeted().say(MAIL).codes, [250])

    def test_role(self) -> None:
        """The envelope knows the role, and that each recipient is answered."""
        backend = ScriptedBackend()
        open_for(backend)
        envelope = backend.messages[0].envelope
        self.assertEqual((envelope.role, envelope.each_answered), (Role.LMTP, True))


class DialogueTests(DialogueTestCase):
    def check(self, data: bytes, codes: list[int], **answers: Any) -> None:
        """Send *data* behind LHLO in every way."""
        self.check_cuts(lambda: lmtp(ScriptedBackend(answers))[0].say("LHLO x").forget(), data, codes)

    def test_data(self) -> None:
        """After DATA there is one reply for each RCPT that was accepted, in order (RFC 2033 §4.2)."""
        data = lines(MAIL, *("RCPT TO:<b@y.example>" for _ in range(4)), "DATA", "text", ".", "NOOP")
        answers: dict[str, Any] = {"rcpt": lambda e, r: NO if len(e.recipients) == 1 and not self.seen(e) else None}
        self.refused: set[str] = set()
        self.check(
            data, [250, 250, 550, 250, 250, 354, 452, 250, 551, 250], finish=lambda: [FULL, None, GONE], **answers
        )

    def seen(self, envelope: Any) -> bool:
        """True from the second time on."""
        seen = envelope.id in self.refused
        self.refused.add(envelope.id)
        return seen

    def test_bdat(self) -> None:
        """After BDAT LAST too, and one reply to every other BDAT (RFC 2033 §4.3)."""
        data = lines(MAIL, "RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>") + chunk(b"te") + chunk(b"xt", last=True)
        self.check(data + b"NOOP\r\n", [250, 250, 250, 250, 250, 550, 250], finish=lambda: [None, NO])

    def test_too_big(self) -> None:
        """A message that is too large or damaged is refused for each recipient."""
        data = lines(MAIL, "RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>")
        self.check(data + b"DATA\r\na\nb\r\n.\r\nNOOP\r\n", [250, 250, 250, 354, 550, 550, 250])
        self.check(data + chunk(b"a\n", last=True) + b"NOOP\r\n", [250, 250, 250, 550, 550, 250])

    def test_nobody(self) -> None:
        """Without an accepted recipient DATA is 503, and BDAT LAST has no reply at all (RFC 2033 §4.2, §4.3)."""
        data = lines(MAIL, "RCPT TO:<b@y.example>")
        self.check(data + lines("DATA", "NOOP"), [250, 550, 503, 250], rcpt=NO)
        self.check(data + chunk(b"RSET\r\n", last=True) + lines("NOOP", MAIL), [250, 550, 250, 250], rcpt=NO)
        self.check(data + chunk(b"RSET\r\n") + b"BDAT 0 LAST\r\nNOOP\r\n", [250, 550, 503, 250], rcpt=NO)
        self.check(chunk(b"RSET\r\n", last=True) + b"BDAT 0 LAST\r\nNOOP\r\n", [250])
        self.check(chunk(b"RSET\r\n") + b"NOOP\r\n", [503, 250])


class OutcomeTests(SynchronousTestCase):
    def test_one_for_all(self) -> None:
        """A single outcome is everybody's."""
        for outcome in (TAKEN, NO, FULL, succeed(NO), coroutine(TAKEN)):
            expected = outcome if isinstance(outcome, Reply) else None
            with self.subTest(outcome=outcome):
                found = answers(outcome)
                self.assertEqual(len(found), 3)
                self.assertEqual(set(found), {expected or found[0]})
        self.assertEqual([reply.code for reply in answers(None)], [250] * 3)

    def test_failure(self) -> None:
        """A mistake is 451 4.3.0 for everybody, logged once."""
        wire, _ = open_for(ScriptedBackend(finish=KeyError("x")))
        self.assertEqual(wire.say(".").replies, [replies.LOCAL_ERROR] * 3)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_each(self) -> None:
        """A list has an outcome for each, in whatever form."""
        never = PermanentError("Never", "5.7.1")
        found = answers([succeed(FULL), None, coroutine(never)])
        self.assertEqual((found[0], found[1].code, found[2]), (FULL, 250, NO))
        self.assertEqual(answers(succeed((NO, TAKEN, succeed(GONE)))), [NO, TAKEN, GONE])

    def test_one_recipient(self) -> None:
        """A list of one is a list too."""
        self.assertEqual(answers([NO], 1), [NO])

    def test_duplicates(self) -> None:
        """A recipient that was named twice has two replies."""
        wire, _ = lmtp(ScriptedBackend(finish=lambda: [None, NO]))
        wire.say("LHLO x", MAIL, "RCPT TO:<b@y.example>", "RCPT TO:<b@y.example>", "DATA").forget()
        self.assertEqual(wire.say(".").codes, [250, 550])

    def test_nonsense(self) -> None:
        """Nonsense for one recipient is 451 for that one."""
        self.assertEqual(answers([NO, 7, GONE]), [NO, replies.LOCAL_ERROR, GONE])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_wrong_length(self) -> None:
        """Too few or too many outcomes are 451 for everybody, with one sentence in the log."""
        for outcomes in ([], [None], [None, NO], [None] * 4, [None, Deferred(), Deferred(), NO]):
            with self.subTest(outcomes=outcomes):
                self.assertEqual(answers(outcomes), [replies.LOCAL_ERROR] * 3)
                (logged,) = self.flushLoggedErrors(ValueError)
                self.assertIn(f"{len(outcomes)} outcomes for 3 recipients", str(logged.value))

    def test_refused_at_data(self) -> None:
        """What data() refuses has one reply, in place of the 354."""
        wire, _ = lmtp(ScriptedBackend(data=[NO]))
        wire.say("LHLO x", MAIL, "RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>").forget()
        self.assertEqual(wire.say("DATA", "NOOP").codes, [550, 250])

    def test_refused_at_bdat(self) -> None:
        """What data() refuses at a BDAT LAST has a reply for each recipient, since that has no other."""
        wire, _ = lmtp(ScriptedBackend(data=[NO]))
        wire.say("LHLO x", MAIL, "RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>").forget()
        self.assertEqual(wire.receive(chunk(b"a", last=True)).replies, [NO, NO])

    def test_closing(self) -> None:
        """A reply that closes does so behind the last one: all recipients hear what became of them."""
        last = LastReply(550, "Go", "5.7.1")
        for outcome, codes in (
            ([BYE, None, NO], [421, 250, 550]),
            ([NO, last, BYE], [550, 550, 421]),
            (BYE, [421] * 3),
        ):
            with self.subTest(outcome=outcome):
                wire, _ = open_for(ScriptedBackend(finish=lambda outcome=outcome: outcome))
                self.assertEqual((wire.say(".", "NOOP").codes, wire.closed), (codes, True))

    def test_monitors(self) -> None:
        """The monitors hear what each recipient was answered."""
        seen: list[Any] = []
        wire, _ = lmtp(ScriptedBackend(finish=iter([[NO, TAKEN], FULL]).__next__))
        wire.factory.watch.message = lambda *args: seen.append(args[3])
        for _ in range(2):
            wire.say("LHLO x", MAIL, "RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>", "DATA", ".")
        self.assertEqual(seen, [[NO, TAKEN], [FULL, FULL]])

    def test_per_recipient(self) -> None:
        """A backend that cannot undo gets all recipients: each has its own reply."""
        backend = ScriptedBackend(finish=lambda: [None, NO, None])
        backend.per_recipient = True
        wire, _ = open_for(backend)
        self.assertEqual(wire.say(".").codes, [250, 550, 250])


class OrderTests(SynchronousTestCase):
    def test_as_they_come(self) -> None:
        """Each reply is sent as soon as its outcome and those before it have come, in whatever order they do."""
        given = [FULL, NO, TAKEN, GONE]
        for order in itertools.permutations(range(4)):
            items: list[Deferred[Any]] = [Deferred() for _ in given]
            wire, _ = open_for(ScriptedBackend(finish=lambda items=items: items), 4)
            wire.say(".", "NOOP")
            come: set[int] = set()
            for place in order:
                items[place].callback(given[place])
                come.add(place)
                known = next((n for n in range(4) if n not in come), 4)
                self.assertEqual(wire.replies[:known], given[:known], order)
                self.assertEqual(len(wire.replies), known + (known == 4))

    def test_known_first(self) -> None:
        """What is known at once is not held up by what comes behind it."""
        late = Late()
        wire, _ = open_for(ScriptedBackend(finish=lambda: [TAKEN, late(), NO]))
        self.assertEqual(wire.say(".").replies, [TAKEN])
        late.fire(FULL)
        self.assertEqual(wire.replies, [TAKEN, FULL, NO])

    def test_one_write(self) -> None:
        """Replies that are known together leave together."""
        wire, _ = open_for(ScriptedBackend(finish=lambda: [TAKEN, None, NO]))
        self.assertEqual((wire.say(".").codes, wire.write_count), ([250, 250, 550], 1))

    def test_next_waits(self) -> None:
        """The next command waits for the last outcome, and for reset()."""
        late, reset = Late(), Late()
        backend = ScriptedBackend(finish=lambda: [None, late()])
        wire, _ = open_for(backend, 2)
        backend.answers["reset"] = reset
        wire.receive(lines(".", "NOOP"))
        self.assertEqual(wire.codes, [250])
        late.fire()
        self.assertEqual(wire.codes, [250, 250])
        reset.fire()
        self.assertEqual(wire.codes, [250, 250, 250])

    def test_farewell(self) -> None:
        """A service that ends waits for the outcomes; then it says so."""
        late = Late()
        wire, _ = open_for(ScriptedBackend(finish=lambda: [NO, late()]), 2)
        wire.say(".").factory.shut_down()
        self.assertEqual((wire.codes, wire.closed), ([550], False))
        late.fire()
        self.assertEqual((wire.codes, wire.closed), ([550, 250, 421], True))

    def test_half_closed(self) -> None:
        """A client that has shut down its side still hears of each recipient."""
        late = Late()
        wire, _ = open_for(ScriptedBackend(finish=lambda: [NO, late()]), 2)
        wire.say(".").shut_down_sending()
        self.assertFalse(wire.closed)
        late.fire()
        self.assertEqual((wire.codes, wire.closed), ([550, 250], True))
