"""
Tests of smtpsvc.server.conversation: the state machine, driven by calls and without any transport.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.extensions import Extension, defaults
from smtpsvc.grammar import replies
from smtpsvc.grammar.commands import parse_optional_text
from smtpsvc.grammar.replies import PermanentError, Reply, SMTPError
from smtpsvc.grammar.states import ALLOWED, ANY, NOT_SERVED, State
from smtpsvc.interfaces import IConnection, IConversation
from smtpsvc.server.channel import BY_SESSION, CLOSED, CONTENT, LINES, WAITING
from smtpsvc.server.conversation import Conversation
from smtpsvc.server.verbs import Verb
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory, parse_replies
from smtpsvc.values import Peer
from tests.hooks import MAIL, RCPT, Late, lines
from tests.support import settings_with


class RecordingChannel:
    """A channel without a protocol: it keeps what is sent, and notes what it is told."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.told: list[Any] = []
        self.since = 0.0
        self.paused = 0
        self.unread = False

    def wake(self) -> None:
        """Note it."""
        self.told.append("wake")

    def hold(self, why: int) -> None:
        """Note it."""
        self.told.append(("hold", why))

    def release(self, why: int) -> None:
        """Note it."""
        self.told.append(("release", why))

    def codes(self) -> list[int]:
        """Give the codes of the replies so far."""
        return [reply.code for reply in parse_replies(b"".join(self.out))]


def conversation(backend: ScriptedBackend | None = None, **options: Any) -> tuple[Conversation, RecordingChannel]:
    """Make a conversation of a factory with a clock; it is not open yet."""
    factory, _ = clocked_factory(backend or ScriptedBackend(), settings_with(), **options)
    channel = RecordingChannel()
    return Conversation(channel, factory, Peer(None, "c1")), channel  # type: ignore[arg-type]


def spoken(backend: ScriptedBackend | None = None, *said: str, **options: Any) -> tuple[Conversation, RecordingChannel]:
    """Open a conversation and take lines."""
    made, channel = conversation(backend, **options)
    made.open()
    for line in said:
        made.line_received(line.encode())
    return made, channel


class StateTests(SynchronousTestCase):
    def test_provides(self) -> None:
        """It is an IConversation, and the session's IConnection."""
        made, _ = conversation()
        verifyObject(IConversation, made)
        verifyObject(IConnection, made)

    def test_opened(self) -> None:
        """It waits until it is opened, then greets and takes lines."""
        made, channel = conversation()
        self.assertEqual((made.mode, made.state, channel.out), (WAITING, State.CONNECTED, []))
        made.open()
        self.assertEqual((made.mode, made.state, channel.codes()), (LINES, State.CONNECTED, [220]))

    def test_way(self) -> None:
        """Each command that is taken leads on; the transaction is open from MAIL to the message's end."""
        made, channel = spoken()
        way = [
            ("EHLO x", State.GREETED, False),
            (MAIL, State.MAIL, True),
            (RCPT, State.RCPT, True),
            ("RSET", State.GREETED, False),
            ("MAIL FROM:<>", State.MAIL, True),
            (RCPT, State.RCPT, True),
            ("EHLO y", State.GREETED, False),
            (MAIL, State.MAIL, True),
            (RCPT, State.RCPT, True),
            ("DATA", State.RCPT, True),
        ]
        for line, state, is_open in way:
            made.line_received(line.encode())
            self.assertEqual((made.state, made.envelope is not None), (state, is_open), line)
        self.assertIs(made.mode, CONTENT)
        self.assertEqual(made.receiver.feed(b"xxtext\r\n.\r\nNOOP\r\n", 2), len(b"xxtext\r\n.\r\n"))
        self.assertEqual((made.state, made.envelope, made.mode), (State.GREETED, None, LINES))
        self.assertEqual(channel.codes()[-2:], [354, 250])

    def test_refused_keeps_state(self) -> None:
        """A command that is refused, by the table, by its syntax or by a hook, leaves the state as it was."""
        for refused in ("EHLO", "HELO \0", "MAIL FROM:<", RCPT, "DATA", "RCPT TO:<", "RSET x", "NONSENSE", "TURN", ""):
            with self.subTest(refused=refused):
                made, channel = spoken(None, "EHLO x", MAIL, RCPT)
                envelope = made.envelope
                if refused in (RCPT, "DATA"):
                    made.session.backend.answers.update(rcpt=[Reply(550, "No")], data=[Reply(450, "No")])
                made.line_received(refused.encode())
                self.assertGreaterEqual(channel.codes()[-1], 400)
                self.assertEqual((made.state, made.envelope), (State.RCPT, envelope))

    def test_refused_greeting(self) -> None:
        """An EHLO that the session refuses leaves name and transaction as they were (RFC 5321 §4.1.4)."""
        backend = ScriptedBackend(helo=[None, PermanentError("No")])
        made, channel = spoken(backend, "EHLO x", MAIL, "HELO other")
        self.assertEqual((channel.codes()[-1], made.state, made.peer.helo), (550, State.MAIL, "x"))
        self.assertTrue(made.extended)
        self.assertEqual(backend.called("reset"), [])

    def test_null_sender(self) -> None:
        """A transaction is open with the null sender too: a second MAIL is 503."""
        _, channel = spoken(None, "EHLO x", "MAIL FROM:<>", MAIL)
        self.assertEqual(channel.codes(), [220, 250, 250, 503])

    def test_table(self) -> None:
        """Every verb is served in the states of its row, and 503 in the others."""
        ways = {
            State.CONNECTED: [],
            State.GREETED: ["EHLO x"],
            State.MAIL: ["EHLO x", MAIL],
            State.RCPT: ["EHLO x", MAIL, RCPT],
        }
        arguments = {"EHLO": " x", "HELO": " x", "MAIL": MAIL[4:], "RCPT": RCPT[4:], "VRFY": " x", "EXPN": " x"}
        for name, allowed in {**ALLOWED, **dict.fromkeys(NOT_SERVED, ANY)}.items():
            for state, way in ways.items():
                with self.subTest(verb=name, state=state):
                    _, channel = spoken(None, *way, name + arguments.get(name, ""))
                    self.assertEqual(channel.codes()[-1] != 503, bool(state & allowed))

    def test_enhanced(self) -> None:
        """Enhanced codes come after EHLO, and not after HELO, whatever was before."""
        _, channel = spoken(None, "NOOP", "EHLO x", "NOOP", "HELO x", "NOOP")
        noops = [out for out in channel.out if b"OK" in out]
        self.assertEqual([out.startswith(b"250 2.0.0 ") for out in noops], [False, True, False])

    def test_reset_told(self) -> None:
        """The session is told of each end of a transaction, and of each new beginning, with what has ended."""
        backend = ScriptedBackend()
        made, _ = spoken(backend, "EHLO x")
        self.assertEqual(backend.called("reset"), [])
        made.line_received(MAIL.encode())
        envelope = made.envelope
        for line in ("RSET", "EHLO y", "HELO z"):
            made.line_received(line.encode())
        self.assertEqual(backend.called("reset"), [(envelope, False), (None, False), (None, False)])

    def test_white_space_at_the_end(self) -> None:
        """White space at the end of a line is let pass (RFC 5321 §4.1.1)."""
        _, channel = spoken(None, "EHLO x \t", f"{MAIL} ", f"{RCPT}\t ", "DATA  ")
        self.assertEqual(channel.codes(), [220, 250, 250, 250, 354])


class HandleTests(SynchronousTestCase):
    def test_pause(self) -> None:
        """pause and resume are the channel's."""
        made, channel = spoken()
        made.pause()
        made.resume()
        self.assertEqual(channel.told[-2:], [("hold", BY_SESSION), ("release", BY_SESSION)])

    def test_close(self) -> None:
        """close sends the reply, and wakes the channel to take it."""
        made, channel = spoken()
        made.close(replies.SHUTTING_DOWN)
        self.assertEqual((channel.codes(), made.mode, channel.told[-1]), ([220, 421], CLOSED, "wake"))

    def test_closed(self) -> None:
        """Behind the last reply none is sent, whoever asks for one."""
        made, channel = spoken()
        made.close(replies.SHUTTING_DOWN)
        made.reply(replies.OK)
        made.close(replies.SHUTTING_DOWN)
        self.assertEqual(channel.codes(), [220, 421])

    def test_lost(self) -> None:
        """lost() aborts and closes once each, in this order, with the reason."""
        backend = ScriptedBackend()
        made, _ = spoken(backend, "EHLO x", MAIL, RCPT, "DATA")
        reason = Failure(ConnectionLost())
        made.lost(reason)
        self.assertEqual(backend.calls[-2:], [("abort", reason), ("close", reason)])
        self.assertEqual((made.mode, made.session), (CLOSED, None))

    def test_expire(self) -> None:
        """expire() answers in the place of the hook that is waited for; without one it does nothing."""
        late = Late()
        made, channel = spoken(ScriptedBackend(mail=late), "EHLO x", "NOOP")
        made.expire()
        made.line_received(MAIL.encode())
        self.assertIs(made.mode, WAITING)
        made.expire()
        made.expire()
        self.assertEqual((channel.codes(), made.mode, late.cancelled), ([220, 250, 250, 451], LINES, 1))


def served(proceed: Callable[[Any, Any], Any], backend: ScriptedBackend | None = None) -> Wire:
    """Connect, greeted, to a factory with the verb XTRY."""

    class Try(Extension):
        keyword = "XTRY"
        verbs = {"XTRY": Verb(State.GREETED, parse_optional_text, proceed)}

    factory, _ = clocked_factory(backend or ScriptedBackend(), settings_with(), extensions=[*defaults(), Try()])
    return Wire(factory).greeted()


class VerbTests(SynchronousTestCase):
    """What a verb's proceed may give."""

    def test_outcomes(self) -> None:
        """None is 250; a Reply, of 3xx too, is the answer, plain or awaited; so is that of an SMTPError."""
        no = Reply(554, "No", "5.5.0")
        go = Reply(334, "Go on")
        cases: list[tuple[Callable[[], Any], Reply]] = [
            (lambda: None, replies.OK),
            (lambda: no, no),
            (lambda: go, go),
            (lambda: succeed(no), no),
            (lambda: succeed(None), replies.OK),
            (lambda: fail(SMTPError(no)), no),
        ]
        for answer, reply in cases:
            with self.subTest(reply=reply):
                self.assertEqual(served(lambda *_, a=answer: a()).say("XTRY").replies, [reply])

    def test_failures(self) -> None:
        """Any other exception is 451 4.3.0 with one logged traceback; its text is not sent, a ValueError's neither."""
        for error in (KeyError("secret"), ValueError("secret"), UnicodeDecodeError("utf-8", b"secret", 0, 1, "secret")):
            for form in (_raise, fail):
                with self.subTest(error=error, form=form):
                    wire = served(lambda *_, e=error, f=form: f(e)).say("XTRY", "NOOP")
                    self.assertEqual(wire.replies, [replies.LOCAL_ERROR, replies.OK])
                    self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)

    def test_failing_behind_a_hook(self) -> None:
        """What fails behind a hook, pending or not, is 451 4.3.0 at once, and logged."""
        for late in (None, Late()):
            with self.subTest(late=late):
                backend = ScriptedBackend({} if late is None else {"helo": [None, late]})
                wire = served(lambda c, _: c.ask(c.session.helo, "x", accepted=lambda _: 1 // 0), backend)
                wire.say("XTRY")
                if late is not None:
                    late.fire()
                self.assertEqual(wire.say("NOOP").replies, [replies.LOCAL_ERROR, replies.OK])
                self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_ask(self) -> None:
        """ask() runs *accepted* with the last argument when the hook consents, and then only."""
        for given, answer in ((None, Reply(250, "As told")), (Reply(252, "Mine"), Reply(252, "Mine"))):
            for form in (lambda given: given, succeed):
                with self.subTest(given=given):
                    taken: list[str] = []
                    backend = ScriptedBackend(helo=[None, lambda _, g=given, f=form: f(g)])
                    wire = served(
                        lambda c, text, taken=taken: c.ask(
                            c.session.helo, text, accepted=taken.append, reply=Reply(250, "As told")
                        ),
                        backend,
                    )
                    self.assertEqual((wire.say("XTRY a b").replies[0].text, taken), (answer.text, ["a b"]))
        refused = ScriptedBackend(helo=[None, Reply(450, "No")])
        wire = served(lambda c, text: c.ask(c.session.helo, text, accepted=self.fail), refused)
        self.assertEqual(wire.say("XTRY x").codes, [450])

    def test_what_it_sees(self) -> None:
        """A verb sees the settings, the role, the state, the session, the keywords and the peer."""
        seen: list[Any] = []
        served(lambda c, _: seen.append(c)).say("XTRY")
        made = seen[0]
        self.assertEqual((made.role, made.state, made.extended, made.trusted), (Role.SMTP, State.GREETED, True, False))
        self.assertIn("XTRY", made.keywords)
        self.assertEqual((made.peer.helo, made.envelope), ("client.example", None))

    def test_reply_in_its_turn(self) -> None:
        """reply() sends a reply before that of the verb."""
        wire = served(lambda c, _: c.reply(Reply(251, "First"))).receive(lines("XTRY", "NOOP"))
        self.assertEqual((wire.codes, wire.write_count), ([251, 250, 250], 1))

    def test_reply_while_pending(self) -> None:
        """While the verb is pending it goes out at once."""
        gate: Deferred[None] = Deferred()

        async def proceed(conversation: Any, _: str) -> None:
            await gate
            conversation.reply(Reply(251, "First"))
            await gate_two

        gate_two: Deferred[None] = Deferred()
        wire = served(proceed).receive(lines("XTRY", "NOOP"))
        gate.callback(None)
        self.assertEqual(wire.codes, [251])
        gate_two.callback(None)
        self.assertEqual(wire.codes, [251, 250, 250])


def _raise(error: Exception) -> None:
    raise error
