"""
Tests of smtpsvc.extensions.prdr: a reply for each recipient over SMTP, where the client has asked for it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.chunks import chunk
from tests.hooks import MAIL, Late, lines
from tests.support import DialogueTestCase, settings_with

PRDR = f"{MAIL} PRDR"
TAKEN = Reply(250, "Queued as 1", "2.0.0")
FULL = Reply(452, "Full", "4.2.2")
NO = Reply(550, "Never", "5.7.1")
GONE = Reply(551, "Gone", "5.1.6")
BYE = Reply(421, "Enough", "4.3.2")


def connect(backend: ScriptedBackend, *, role: Role = Role.SMTP, enabled: bool = True, **settings: Any) -> Wire:
    """Connect, and say EHLO or LHLO."""
    enable = frozenset({"PRDR"} if enabled else ())
    factory, _ = clocked_factory(backend, settings_with(enable=enable, **settings), role=role)
    return Wire(factory).say("LHLO x" if role is Role.LMTP else "EHLO x").forget()


def answers(outcome: Any, recipients: int = 3, mail: str = PRDR) -> list[Reply]:
    """Give the replies to a message whose finish() gives *outcome*."""
    wire = connect(ScriptedBackend(finish=lambda: outcome))
    wire.say(mail, *(f"RCPT TO:<{place}@y.example>" for place in range(recipients)), "DATA").forget()
    return wire.say("text", ".").replies


class OfferTests(SynchronousTestCase):
    def shown(self, *, supports: bool = False, **options: Any) -> bool:
        """Say whether EHLO shows it."""
        backend = ScriptedBackend()
        backend.supports = frozenset({"PRDR"} if supports else ())  # type: ignore[misc]
        role = options.get("role", Role.SMTP)
        hello = "LHLO y" if role is Role.LMTP else "EHLO y"
        return "PRDR" in connect(backend, **options).say(hello).last_reply.text.splitlines()

    def test_on_request(self) -> None:
        """It is shown where the backend promises it or --enable asks for it, and not otherwise."""
        self.assertFalse(self.shown(enabled=False))
        self.assertTrue(self.shown(enabled=False, supports=True))
        self.assertTrue(self.shown())
        self.assertTrue(self.shown(role=Role.SUBMISSION))

    def test_not_lmtp(self) -> None:
        """LMTP needs none of it."""
        self.assertFalse(self.shown(role=Role.LMTP))

    def test_parameter(self) -> None:
        """The parameter has no value; it is 555 5.5.4 where it is not offered."""
        wire = connect(ScriptedBackend())
        self.assertEqual(wire.say(f"{PRDR}=1", PRDR).codes, [501, 250])
        wire = connect(ScriptedBackend(), enabled=False)
        self.assertEqual(wire.say(PRDR).replies, [replies.UNKNOWN_PARAMETER])

    def test_envelope(self) -> None:
        """The envelope says that each recipient is answered, and only then."""
        for mail, each in ((PRDR, True), (MAIL, False)):
            backend = ScriptedBackend()
            connect(backend).say(mail)
            [(envelope,)] = backend.called("mail")
            self.assertIs(envelope.each_answered, each)


class ReplyTests(SynchronousTestCase):
    def test_some(self) -> None:
        """First 353, then a reply for each recipient, then one for the message that says how many took it."""
        found = answers([NO, TAKEN, FULL])
        self.assertEqual(found[:4], [replies.EACH_FOLLOWS, NO, TAKEN, FULL])
        self.assertEqual((found[4].code, found[4].enhanced), (250, "2.0.0"))
        self.assertIn("taken for 1 of 3 recipients", found[4].text)

    def test_all(self) -> None:
        """Where all took it, the last reply is the usual one."""
        found = answers([None, TAKEN, None])
        self.assertEqual([reply.code for reply in found], [353, 250, 250, 250, 250])
        self.assertEqual(found[4], found[1])

    def test_none(self) -> None:
        """Where nobody took it, the last reply is the first 4xx, so that it may be tried again, else the first 5xx."""
        self.assertEqual(answers([NO, FULL, GONE]), [replies.EACH_FOLLOWS, NO, FULL, GONE, FULL])
        self.assertEqual(answers([GONE, NO, NO]), [replies.EACH_FOLLOWS, GONE, NO, NO, GONE])

    def test_one_outcome(self) -> None:
        """One outcome for all is one reply, without a 353."""
        for outcome in (TAKEN, NO, FULL):
            self.assertEqual(answers(outcome), [outcome])

    def test_one_recipient(self) -> None:
        """One recipient has one reply, which is that of the message."""
        self.assertEqual(answers([NO], 1), [NO])

    def test_not_asked(self) -> None:
        """A client that has not asked gets one reply for all."""
        self.assertEqual(answers([NO, TAKEN, FULL], mail=MAIL), [FULL])

    def test_damaged(self) -> None:
        """A message that is refused as such has one reply."""
        wire = connect(ScriptedBackend()).say(PRDR, "RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>", "DATA").forget()
        self.assertEqual(wire.say("a\nb", ".").codes, [550])

    def test_wrong_length(self) -> None:
        """Too few outcomes are one 451."""
        self.assertEqual(answers([None, None]), [replies.LOCAL_ERROR])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_as_they_come(self) -> None:
        """Each reply is sent when it and those before it are known; the last when reset() has come true."""
        late, reset = Late(), Late()
        backend = ScriptedBackend(finish=lambda: [None, late(), NO])
        wire = connect(backend).say(PRDR, *["RCPT TO:<b@y.example>"] * 3, "DATA").forget()
        backend.answers["reset"] = reset
        wire.say(".", "NOOP")
        self.assertEqual(wire.codes, [353, 250])
        late.fire(FULL)
        self.assertEqual(wire.codes, [353, 250, 452, 550])
        reset.fire()
        self.assertEqual(wire.codes, [353, 250, 452, 550, 250, 250])

    def test_deadline(self) -> None:
        """A late recipient is 420 4.4.7, and the message is taken for the others."""
        backend = ScriptedBackend(finish=lambda: [Deferred(), None])
        wire = connect(backend, hook_timeout=10).say(PRDR, *["RCPT TO:<b@y.example>"] * 2, "DATA").forget()
        wire.say(".").factory.clock.pump([1] * 15)
        self.assertEqual(wire.codes, [353, 420, 250, 250])

    def test_closing(self) -> None:
        """A reply that closes does so behind the last."""
        for outcomes, codes in (([BYE, None], [353, 421, 250, 250]), ([NO, BYE], [353, 550, 421, 421])):
            backend = ScriptedBackend(finish=lambda outcomes=outcomes: outcomes)
            wire = connect(backend).say(PRDR, *["RCPT TO:<b@y.example>"] * 2, "DATA").forget()
            self.assertEqual((wire.say(".", "NOOP").codes, wire.closed), (codes, True))

    def test_monitors(self) -> None:
        """The monitors hear what each recipient was answered."""
        seen: list[Any] = []
        wire = connect(ScriptedBackend(finish=lambda: [NO, TAKEN]))
        wire.factory.watch.message = lambda *args: seen.append(args[3])
        wire.say(PRDR, *["RCPT TO:<b@y.example>"] * 2, "DATA", ".")
        self.assertEqual(seen, [[NO, TAKEN]])


class PerRecipientTests(SynchronousTestCase):
    def test_all_at_once(self) -> None:
        """A backend that cannot undo gets all recipients of such a message, up to the usual limit."""
        backend = ScriptedBackend(finish=lambda: [None, NO, None])
        backend.per_recipient = True
        wire = connect(backend, recipients=3)
        wire.say(PRDR, *["RCPT TO:<b@y.example>"] * 4, "DATA", ".")
        self.assertEqual(wire.codes, [250, 250, 250, 250, 452, 354, 353, 250, 550, 250, 250])
        self.assertEqual(wire.replies[4], replies.TOO_MANY_RECIPIENTS)

    def test_not_asked(self) -> None:
        """Of others it gets one recipient a message, as ever."""
        backend = ScriptedBackend()
        backend.per_recipient = True
        wire = connect(backend).say(MAIL, *["RCPT TO:<b@y.example>"] * 2)
        self.assertEqual(wire.replies[2], replies.ONE_RECIPIENT_EACH)


class DialogueTests(DialogueTestCase):
    def test_cuts(self) -> None:
        """The replies are the same however the octets come, by DATA and by BDAT."""
        begin = lines(PRDR, "RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>")
        for content, code in ((lines("DATA", "text", "."), [354]), (chunk(b"te") + chunk(b"xt", last=True), [250])):
            self.check_cuts(
                lambda: connect(ScriptedBackend(finish=lambda: [None, NO])),
                begin + content + b"NOOP\r\n",
                [250, 250, 250, *code, 353, 250, 550, 250, 250],
            )
