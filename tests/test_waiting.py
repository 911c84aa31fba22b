"""
Tests of smtpsvc.server.hooks: whatever way a hook answers, and whenever, the dialogue is the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import AlreadyCalledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import PermanentError, Reply, SMTPError, TemporaryError
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import (
    CODES,
    DIALOGUE,
    FORMS,
    HOOKS,
    MAIL,
    PLACES,
    RCPT,
    REFUSAL,
    Late,
    connect,
    coroutine,
    in_data,
    lines,
    usual,
)
from tests.support import settings_with, without_ids

#: The hooks whose reply is the backend's, or 451: all but open_session, reset and close.
ANSWERED = ("helo", "mail", "rcpt", "data", "write", "finish")


def fresh(backend: ScriptedBackend, **settings: Any) -> Wire:
    """Connect to a factory with a clock."""
    return Wire(clocked_factory(backend, settings_with(**settings))[0])


def up_to(hook: str) -> tuple[bytes, bytes]:
    """Give the part of :data:`DIALOGUE` that calls a hook last, and the rest."""
    words = {"open_session": b"", "helo": b"client.example\r\n", "mail": b"a@x.example>\r\n", "data": b"DATA\r\n"}
    words |= {"rcpt": b"b@y.example>\r\n", "write": b"text\r\n.\r\n", "finish": b"text\r\n.\r\n", "reset": b"\n.\r\n"}
    end = DIALOGUE.index(words[hook]) + len(words[hook])
    return DIALOGUE[:end], DIALOGUE[end:]


class FormTests(SynchronousTestCase):
    def check(self, hook: str, form: Callable[[Any], Any]) -> None:
        """Run the dialogue with a hook in one form; it must be as with plain hooks."""
        plain = ScriptedBackend()
        expected = fresh(plain).receive(DIALOGUE)
        self.assertEqual(expected.codes, CODES)
        backend = ScriptedBackend()
        backend.answers[hook] = lambda *args: form(usual(backend, hook, *args))
        wire = fresh(backend).receive(DIALOGUE)
        self.assertEqual(without_ids(wire.output), without_ids(expected.output))
        self.assertEqual(backend.hooks, plain.hooks)

    def test_at_once(self) -> None:
        """Each hook may be plain, a fired Deferred or a coroutine: the octets sent are the same."""
        for hook in HOOKS:
            for name, form in FORMS.items():
                with self.subTest(hook=hook, form=name):
                    self.check(hook, form)

    def test_pending(self) -> None:
        """Each hook may be pending: until it comes its reply and all behind it wait, then they come in order."""
        expected = without_ids(fresh(ScriptedBackend()).receive(DIALOGUE).output)
        for hook in HOOKS:
            with self.subTest(hook=hook):
                backend = ScriptedBackend()
                late = backend.answers[hook] = Late(partial(usual, backend, hook))
                wire = fresh(backend).receive(DIALOGUE)
                self.assertEqual(wire.codes, CODES[: PLACES[hook]])
                self.assertEqual(len(late.waiting), 1)
                late.fire_all()
                self.assertEqual(without_ids(wire.output), expected)
                self.assertEqual(backend.messages[0].content.rpartition(b"\r\n\t")[2][-6:], b"text\r\n")
                self.assertTrue(wire.transport.disconnecting)

    def test_pending_coroutine(self) -> None:
        """Each hook may be a coroutine that waits."""
        for hook in HOOKS:
            with self.subTest(hook=hook):
                backend = ScriptedBackend()
                gates: list[Deferred[None]] = []

                async def wait(*args: Any, gates: Any = gates, hook: str = hook, backend: Any = backend) -> Any:
                    gates.append(Deferred())
                    await gates[-1]
                    return usual(backend, hook, *args)

                backend.answers[hook] = wait
                wire = fresh(backend).receive(DIALOGUE)
                while gates:
                    gates.pop().callback(None)
                self.assertEqual(wire.codes, CODES)

    def test_all_pending(self) -> None:
        """All hooks may be pending, the dialogue in one packet or line by line: order and replies are the same."""
        expected = without_ids(fresh(ScriptedBackend()).receive(DIALOGUE).output)
        for packets in ([DIALOGUE], DIALOGUE.splitlines(keepends=True)):
            backend = ScriptedBackend()
            lates = {hook: Late(partial(usual, backend, hook)) for hook in HOOKS}
            backend.answers.update(lates)
            wire = fresh(backend)
            for packet in packets:
                wire.receive(packet)
            while pending := [late for late in lates.values() if late.waiting]:
                self.assertEqual(len(pending), 1, "hooks of a session never overlap")
                pending[0].fire()
            self.assertEqual(without_ids(wire.output), expected)

    def test_close(self) -> None:
        """close() may be pending or fail: it goes on in the background, and failures are logged."""
        late = Late()
        backend = ScriptedBackend(close=[late, KeyError("a"), lambda _: fail(KeyError("b")), coroutine(KeyError("c"))])
        for _ in range(4):
            fresh(backend).hang_up()
        late.fail(KeyError("d"))
        self.assertEqual(len(backend.called("close")), 4)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 4)


class AnswerTests(SynchronousTestCase):
    def answers(self, hook: str, answer: Any) -> list[Reply]:
        """Give the replies to the command of *hook* and to the one behind it, for each form of an answer."""
        forms = [lambda *args: answer, lambda *args: succeed(answer), lambda *args: coroutine(answer)]
        if isinstance(answer, Exception):
            forms = [lambda *args: _raise(answer), lambda *args: fail(answer), lambda *args: coroutine(answer)]
        found = []
        first, _ = up_to(hook)
        for form in [*forms, None]:
            late = Late()
            wire = fresh(ScriptedBackend({hook: form or late})).receive(first + b"NOOP\r\n")
            if form is None and isinstance(answer, Exception):
                late.fail(answer)
            elif form is None:
                late.fire(answer)
            found.append(wire.replies[PLACES[hook] :])
        self.assertEqual(found, [found[0]] * len(found))
        return found[0]

    def test_refusals(self) -> None:
        """A refusal returned or raised, at once or late, is the answer, and the client goes on."""
        no = Reply(554, "Go away", "5.7.1")
        for hook in ANSWERED:
            for refusal in (REFUSAL, SMTPError(REFUSAL), no, PermanentError("Go away", "5.7.1", 554)):
                with self.subTest(hook=hook, refusal=refusal):
                    expected = refusal if isinstance(refusal, Reply) else refusal.reply
                    if hook == "helo":
                        expected = Reply(expected.code, expected.text)
                    found, behind = self.answers(hook, refusal)
                    self.assertEqual((found, behind.code), (expected, 250))

    def test_worded(self) -> None:
        """A 2xx Reply of mail, rcpt and finish words the 250."""
        for hook in ("mail", "rcpt", "finish"):
            for worded in (Reply(250, "Queued as 7", "2.0.0"), Reply(251, "Will forward", "2.1.5")):
                with self.subTest(hook=hook, worded=worded):
                    self.assertEqual(self.answers(hook, worded)[0], worded)

    def test_helo_is_ours(self) -> None:
        """A 2xx Reply of helo is taken as consent: the reply to EHLO is the server's."""
        found = self.answers("helo", Reply(250, "Hello dear"))
        self.assertIn("PIPELINING", found[0].text)

    def test_failures(self) -> None:
        """Any other exception is 451 4.3.0 with exactly one logged traceback, its text never sent."""
        for hook in ANSWERED:
            for error in (KeyError("secret"), ValueError("secret"), UnicodeError("secret"), TypeError("secret")):
                with self.subTest(hook=hook, error=error):
                    found, behind = self.answers(hook, error)
                    self.assertEqual((found.code, behind.code, "secret" in str(found)), (451, 250, False))
                    self.assertEqual(len(self.flushLoggedErrors(type(error))), 4)

    def test_nonsense(self) -> None:
        """Any other value is 451 4.3.0 with one logged TypeError."""
        for hook in ("helo", "mail", "rcpt", "write", "finish"):
            for nonsense in (7, True, "250 OK", b"250 OK", Reply(354, "Go"), {}, object()):
                with self.subTest(hook=hook, nonsense=nonsense):
                    self.assertEqual(self.answers(hook, nonsense)[0].code, 451)
                    self.assertEqual(len(self.flushLoggedErrors(TypeError)), 4)

    def test_closing(self) -> None:
        """A 421 or 521 closes behind it: nothing more is read or sent."""
        for hook, code, late in itertools.product(ANSWERED, (421, 521), (None, Late())):
            with self.subTest(hook=hook, code=code, late=late):
                enough = Reply(code, "Enough")
                backend = ScriptedBackend({hook: late or [enough]})
                wire = fresh(backend).receive(up_to(hook)[0] + b"NOOP\r\nQUIT\r\n")
                if late is not None:
                    late.fire(enough)
                self.assertEqual((wire.codes, wire.closed), ([*CODES[: PLACES[hook]], code], True))
                self.assertNotIn("finish" if hook == "write" else "abort", backend.hooks)

    def test_reset(self) -> None:
        """What goes wrong in reset is logged and changes no reply."""
        for answer in (KeyError("x"), lambda *_: fail(KeyError("x")), lambda *_: coroutine(KeyError("x"))):
            with self.subTest(answer=answer):
                wire = connect(ScriptedBackend(reset=answer)).say("RSET", MAIL, RCPT, "DATA", ".", "NOOP")
                self.assertEqual(wire.codes, [250, 250, 250, 354, 250, 250])
                self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)


def _raise(error: Exception) -> None:
    raise error


class OpenTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """A 4xx or 5xx Reply or SMTPError is the greeting, and the connection is closed."""
        for reply in (Reply(554, "No service", "5.3.2"), Reply(421, "Busy"), Reply(450, "x")):
            for answer in (lambda *_, r=reply: r, SMTPError(reply), lambda *_, r=reply: succeed(r)):
                wire = fresh(ScriptedBackend(open_session=answer)).say("EHLO x")
                self.assertEqual((wire.codes, wire.closed), ([reply.code], True))
                self.assertEqual(wire.last_reply.text.split()[-1], reply.text.split()[-1])

    def test_failed(self) -> None:
        """Anything else that is no session is 421 4.3.0 without its text, a closed connection and one traceback."""
        for answer in (KeyError("x"), lambda *_: fail(KeyError("x")), 7, "session", Reply(250, "x"), object):
            with self.subTest(answer=answer):
                wire = fresh(ScriptedBackend(open_session=lambda *_, a=answer: a() if callable(a) else a))
                if isinstance(answer, Exception):
                    wire = fresh(ScriptedBackend(open_session=answer))
                self.assertEqual((wire.codes, wire.closed), ([421], True))
                self.assertEqual(wire.last_reply.text, replies.NO_SESSION.text)
                self.assertEqual(len(self.flushLoggedErrors()) > 0, not isinstance(answer, Reply))

    def test_no_session_no_close(self) -> None:
        """Where there was no session none is closed."""
        backend = ScriptedBackend(open_session=Reply(554, "No"))
        fresh(backend).hang_up()
        self.assertEqual(backend.hooks, ["open_session"])

    def test_late_session(self) -> None:
        """A session that comes when its client has gone is closed at once; nothing is sent."""
        backend = ScriptedBackend()

        async def stubborn(*args: Any) -> Any:
            try:
                await Deferred()
            except BaseException:
                await gate
            return backend.new_session(*args)

        gate: Deferred[None] = Deferred()
        backend.answers["open_session"] = stubborn
        wire = fresh(backend).hang_up()
        self.assertEqual(backend.hooks, ["open_session"])
        gate.callback(None)
        self.assertEqual(backend.hooks, ["open_session", "close"])
        self.assertEqual(wire.output, b"")


class LossTests(SynchronousTestCase):
    def test_cancelled(self) -> None:
        """A loss cancels the hook that is waited for, once, and closes the session; nothing is logged or sent."""
        for hook in HOOKS:
            with self.subTest(hook=hook):
                late = Late()
                backend = ScriptedBackend({hook: late})
                wire = fresh(backend).receive(DIALOGUE)
                sent = wire.output
                wire.hang_up(ConnectionLost())
                self.assertEqual((late.cancelled, wire.output), (1, sent))
                self.assertEqual(backend.hooks.count("close"), 0 if hook == "open_session" else 1)
                self.assertEqual(backend.hooks.count("abort"), 1 if hook == "write" else 0)
                self.assertEqual(self.flushLoggedErrors(), [])

    def test_fired_after_loss(self) -> None:
        """A hook that answers behind the loss is heard by nobody: no reply, no call, nothing logged."""
        for hook in HOOKS:
            with self.subTest(hook=hook):
                given: list[Deferred[Any]] = []

                def wait(*args: Any, given: list[Deferred[Any]] = given) -> Deferred[Any]:
                    given.append(Deferred())
                    return given[-1]

                backend = ScriptedBackend({hook: wait})
                wire = fresh(backend).receive(DIALOGUE)
                sent = wire.output
                wire.hang_up()
                hooks = list(backend.hooks)
                given[0].callback(None)
                self.assertEqual((wire.output, backend.hooks), (sent, hooks))
                self.assertEqual(self.flushLoggedErrors(), [])

    def test_fired_twice(self) -> None:
        """A Deferred that is fired twice is the firer's error; the client has one reply."""
        late = Late()
        wire = connect(ScriptedBackend(mail=late)).say(MAIL)
        deferred = late.waiting[0]
        late.fire()
        self.assertRaises(AlreadyCalledError, deferred.callback, None)
        self.assertEqual(wire.codes, [250])

    def test_late_consent(self) -> None:
        """A transaction that is open stays as it was where a refused RCPT consents too late."""
        late = Late()
        backend = ScriptedBackend(rcpt=[None, late])
        factory, clock = clocked_factory(backend, settings_with(hook_timeout=10))
        wire = Wire(factory).greeted().say(MAIL, RCPT, "RCPT TO:<c@y.example>")
        clock.pump([1] * 15)
        self.assertEqual(wire.replies[-1], replies.HOOK_TIMED_OUT)
        self.assertEqual(len(wire.protocol.conversation.envelope.recipients), 1)

    def test_lost_in_a_hook(self) -> None:
        """A connection that is lost within a hook is over, whatever the hook gives then: nothing is sent or pending."""
        for answer in (None, REFUSAL, Late(), KeyError("x")):
            with self.subTest(answer=answer):
                backend = ScriptedBackend()
                wire = connect(backend)

                def lose(*args: Any, wire: Wire = wire, answer: Any = answer) -> Any:
                    wire.hang_up()
                    return _raise(answer) if isinstance(answer, Exception) else answer() if callable(answer) else answer

                backend.answers["mail"] = lose
                wire.receive(lines(MAIL, RCPT))
                self.assertEqual((wire.codes, backend.hooks[-2:]), ([], ["mail", "close"]))
                self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1 if isinstance(answer, KeyError) else 0)
                if isinstance(answer, Late):
                    self.assertEqual(answer.cancelled, 1)


class OrderTests(SynchronousTestCase):
    def test_pipelined_behind_each(self) -> None:
        """Replies keep the order of the commands where every RCPT waits, and leave as they come."""
        late = Late()
        wire = connect(ScriptedBackend(rcpt=late))
        recipients = [f"RCPT TO:<{name}@y.example>" for name in "abc"]
        wire.receive(lines("VRFY x", MAIL, *recipients, "NOOP", "DATA"))
        self.assertEqual(wire.codes, [252, 250])
        late.fire()
        self.assertEqual(wire.codes, [252, 250, 250])
        late.fire(REFUSAL)
        self.assertEqual(wire.codes, [252, 250, 250, 450])
        late.fire()
        self.assertEqual(wire.codes, [252, 250, 250, 450, 250, 250, 354])

    def test_all_recipients_refused(self) -> None:
        """Where all pipelined RCPTs fail late, DATA is 503 and what follows is read as commands (RFC 2920 §3.1)."""
        late = Late()
        wire = connect(ScriptedBackend(rcpt=late)).receive(lines(MAIL, RCPT, RCPT, "DATA", "RSET"))
        late.fire(REFUSAL)
        late.fire(REFUSAL)
        self.assertEqual(wire.codes, [250, 450, 450, 503, 250])

    def test_one_write(self) -> None:
        """What a pending hook has held up leaves in one write."""
        late = Late()
        wire = connect(ScriptedBackend(mail=late)).receive(lines(MAIL, RCPT, "DATA")).forget()
        late.fire()
        self.assertEqual((wire.codes, wire.write_count), ([250, 250, 354], 1))

    def test_content_behind(self) -> None:
        """Content that came behind a pending hook is content, and the command behind it a command."""
        late = Late()
        backend = ScriptedBackend(rcpt=late)
        wire = connect(backend, add_received=False)
        wire.receive(lines(MAIL, RCPT, "DATA", "QUIT", "..", ".", "NOOP"))
        late.fire()
        self.assertEqual(wire.codes, [250, 250, 354, 250, 250])
        self.assertEqual(backend.messages[0].content, b"QUIT\r\n.\r\n")

    def test_client_is_patient(self) -> None:
        """While write() is pending no more is written; the pieces come in order."""
        late = Late()
        backend = ScriptedBackend(write=late)
        wire = in_data(backend, add_received=False).receive(b"a").receive(b"b").receive(b"c\r\n.\r\n")
        self.assertEqual((backend.called("write"), wire.codes), ([(b"a",)], []))
        late.fire_all()
        self.assertEqual(wire.codes, [250])
        self.assertEqual(backend.messages[0].content, b"abc\r\n")

    def test_error_of_ours_is_not_theirs(self) -> None:
        """A TemporaryError with a code of its own keeps it."""
        wire = connect(ScriptedBackend(mail=TemporaryError("Wait", "4.7.1", 450))).say(MAIL)
        self.assertEqual(wire.replies, [Reply(450, "Wait", "4.7.1")])
