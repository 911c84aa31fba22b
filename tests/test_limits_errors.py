"""
Tests of smtpsvc.server.faults: what a client may get wrong, and for how long.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.server.faults import OVERSHOOT, is_foreign
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, RCPT, Late, lines
from tests.support import DialogueTestCase, connect, settings_with, uncounted

MESSAGE = (MAIL, RCPT, "DATA", ".")


def answers(backend: ScriptedBackend | None = None, role: Role = Role.SMTP, **limits: Any) -> Wire:
    """Connect, greeted by EHLO."""
    factory, _ = clocked_factory(backend or ScriptedBackend(), settings_with(**limits), role=role)
    return Wire(factory).say("LHLO x" if role is Role.LMTP else "EHLO x").forget()


class ErrorTests(DialogueTestCase):
    def test_too_many(self) -> None:
        """Behind the reply to the 20th command that is refused comes 421 4.7.0, and the connection is closed."""
        wire = answers().say(*["NOPE"] * 19)
        self.assertEqual((wire.codes, wire.closed), ([500] * 19, False))
        wire.say("NOPE")
        self.assertEqual((wire.codes, wire.last_reply), ([500] * 20 + [421], replies.TOO_MANY_ERRORS))
        self.assertTrue(wire.closed)

    def test_cut(self) -> None:
        """It is so however the lines come, and nothing behind the last is answered."""
        self.check_cuts(lambda: answers(errors=3), b"NOPE\r\nDATA\r\nMAIL\r\nNOOP\r\n", [500, 503, 501, 421])

    def test_kinds(self) -> None:
        """All refusals count: by syntax, by sequence, and by a hook, whether it answers at once or later."""
        late = Late()
        backend = ScriptedBackend(mail=[replies.NO_SUCH_USER, late])
        wire = answers(backend, errors=4).say("MAIL FROM", "DATA", MAIL, MAIL)
        self.assertEqual(wire.codes, [501, 503, 550])
        late.fire(replies.NO_SUCH_USER)
        self.assertEqual((wire.codes, wire.closed), ([501, 503, 550, 550, 421], True))

    def test_a_message_forgives(self) -> None:
        """With a message that is taken the count begins anew: a connection that sends mail may last."""
        wire = answers(errors=3)
        for _ in range(10):
            wire.say("NOPE", "NOPE", *MESSAGE)
        self.assertFalse(wire.closed)

    def test_a_refused_message_does_not(self) -> None:
        """One that is refused counts itself."""
        wire = answers(ScriptedBackend(finish=lambda: replies.LOCAL_ERROR), errors=3)
        wire.say("NOPE", *MESSAGE, *MESSAGE)
        self.assertEqual((wire.codes[-2:], wire.closed), ([451, 421], True))

    def test_each_recipient(self) -> None:
        """Over LMTP a message that is taken for one recipient forgives too."""
        wire = answers(ScriptedBackend(finish=lambda: [None, replies.NO_SUCH_USER]), Role.LMTP, errors=2)
        for _ in range(5):
            wire.say("NOPE", MAIL, RCPT, RCPT, "DATA", ".")
        self.assertFalse(wire.closed)

    def test_off(self) -> None:
        """With 0 there is no limit."""
        self.assertEqual(answers(errors=0).say(*["NOPE"] * 100).codes, [500] * 100)

    def test_transaction_ends(self) -> None:
        """A message that is being received in chunks is aborted with the connection."""
        backend = ScriptedBackend()
        answers(backend, errors=2).say(MAIL, RCPT).receive(b"BDAT 3\r\nabcNOPE\r\nNOPE\r\n")
        self.assertIsNotNone(backend.messages[0].aborted)

    def test_never_a_fault_on_the_good_path(self) -> None:
        """A client that does all well has nothing counted."""
        wire = answers().say(*MESSAGE, *MESSAGE)
        self.assertIsNone(wire.protocol.conversation.faults)


class RecipientTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """100 recipients may be refused; then each counts as an error."""
        wire = answers(ScriptedBackend(rcpt=lambda *_: replies.NO_SUCH_USER)).say(MAIL).forget()
        wire.receive(lines(RCPT) * 119)
        self.assertEqual((wire.codes, wire.closed), ([550] * 119, False))
        self.assertEqual(wire.say(RCPT).codes[-2:], [550, 421])

    def test_large_list(self) -> None:
        """So a list of 99 that have gone and one that has not is delivered."""
        backend = ScriptedBackend(rcpt=[*[replies.NO_SUCH_USER] * 99, None])
        wire = answers(backend).receive(lines(MAIL) + lines(RCPT) * 100 + lines("DATA", "."))
        self.assertEqual((wire.codes[-2:], len(backend.messages)), ([354, 250], 1))

    def test_mistakes(self) -> None:
        """A RCPT that is no good command is an error like others."""
        wire = answers().say(MAIL).forget().say(*["RCPT TO:<"] * 20)
        self.assertEqual(wire.codes, [501] * 20 + [421])

    def test_too_many(self) -> None:
        """1,000 recipients beyond the limit of a message are no error, and the message is taken."""
        wire = answers(recipients=10).say(MAIL).forget()
        wire.receive(lines(RCPT) * (10 + OVERSHOOT + 19))
        self.assertEqual((wire.codes[10:], wire.closed), ([452] * (OVERSHOOT + 19), False))
        self.assertEqual(wire.say("DATA", ".").codes[-2:], [354, 250])

    def test_far_too_many(self) -> None:
        """Beyond these each is an error."""
        wire = answers(recipients=10).say(MAIL).forget()
        wire.receive(lines(RCPT) * (10 + OVERSHOOT + 30))
        self.assertEqual((len(wire.codes), wire.codes[-1]), (10 + OVERSHOOT + 20 + 1, 421))

    def test_off(self) -> None:
        """With 0 there is no limit to those that are refused."""
        backend = ScriptedBackend(rcpt=lambda *_: replies.NO_SUCH_USER)
        wire = answers(backend, refused_recipients=0).say(MAIL).forget().receive(lines(RCPT) * 500)
        self.assertEqual(wire.codes, [550] * 500)


class JunkTests(SynchronousTestCase):
    def test_too_much(self) -> None:
        """100 commands that send no mail are let pass; then each counts as an error, and is answered all the same."""
        wire = answers().receive(b"NOOP\r\nRSET\r\nVRFY x\r\nHELP\r\n" * 29 + b"EHLO x\r\n" * 3)
        self.assertEqual((len(wire.codes), wire.closed), (119, False))
        self.assertEqual((wire.say("NOOP").codes[-2:], wire.closed), ([250, 421], True))

    def test_first_hello(self) -> None:
        """The EHLO that begins a dialogue is none."""
        self.assertIsNone(answers().protocol.conversation.faults)

    def test_a_message_forgives(self) -> None:
        """With a message that is taken the count begins anew."""
        wire = answers(junk=3, errors=1)
        for _ in range(10):
            wire.say("RSET", "NOOP", "NOOP", *MESSAGE)
        self.assertFalse(wire.closed)

    def test_off(self) -> None:
        """With 0 there is no limit."""
        self.assertEqual(answers(junk=0).receive(b"NOOP\r\n" * 1000).codes, [250] * 1000)

    def test_hook_answers_later(self) -> None:
        """The farewell waits for the answer to the command."""
        late = Late()
        wire = answers(ScriptedBackend(reset=[late]), junk=1, errors=1).say("NOOP").forget().say("RSET")
        self.assertEqual(wire.codes, [])
        late.fire()
        self.assertEqual((wire.codes, wire.closed), ([250, 421], True))


class ForeignTests(DialogueTestCase):
    def test_http(self) -> None:
        """A line of HTTP is answered 554 5.5.1 and the connection closed: what follows is no command."""
        data = b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\nMAIL FROM:<a@x.example>\r\n"
        self.check_cuts(lambda: connect(settings=uncounted()), data, [554], lambda wire: wire.closed, True)

    def test_client_hello(self) -> None:
        """So is the beginning of TLS where none was asked for."""
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)) + b"\r\nQUIT\r\n"
        self.check_cuts(lambda: connect(settings=uncounted()), hello, [554], lambda wire: wire.closed, True)

    def test_any_time(self) -> None:
        """It is so after EHLO and within a transaction too."""
        for said in ((), ("EHLO x",), ("EHLO x", MAIL, RCPT)):
            for line in ("GET / HTTP/1.0", "connect x:25 HTTP/1.1", "PRI * HTTP/2.0"):
                with self.subTest(said=said, line=line):
                    wire = connect().say(*said).forget().say(line, "NOOP")
                    self.assertEqual((wire.codes, wire.closed), ([554], True))

    def test_mail_is_not(self) -> None:
        """Commands of mail are not taken for it, and neither is content."""
        self.assertFalse(any(map(is_foreign, (b"MAIL FROM:<>", b"GETTING", b"\x16", b"", b"PUTS x"))))
        wire = answers().say(MAIL, RCPT, "DATA", "GET / HTTP/1.1", ".", "NOOP")
        self.assertEqual(wire.codes, [250, 250, 354, 250, 250])
