"""Tests of smtpsvc.client against servers that lie, fall silent or go away, at each step."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from smtpsvc.client import ClientError, Disconnected, Refused, ServerMisbehaved, Stage, TimedOut, TLSFailed
from smtpsvc.client.replies import MAX_LINE, MAX_LINES
from smtpsvc.grammar.replies import Reply
from tests.meetings import BARE, CHUNKING, EHLO, GO, GREETING, MESSAGE, OK, ClientTestCase, Talk

SENDER, JOE = "a@x.example", "joe@y.example"

#: What no server may say, whatever was asked.
NONSENSE = (
    b"hello\r\n",
    b"150 before its time\r\n",
    b"999 x\r\n",
    b"250-a\r\n550 b\r\n",
    b"2\r\n",
    b"250 " + b"x" * MAX_LINE + b"\r\n",
    b"x" * 10_000,
    b"250-again\r\n" * (MAX_LINES + 1),
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x16\x03\x01\x02\x00\r\n",
)
#: The steps of a message, the replies that lead there, and what is wrong as the next.
BY_DATA = (
    (Stage.MAIL, (), (GO, b"334 x\r\n")),
    (Stage.RCPT, (OK,), (GO, b"334 x\r\n")),
    (Stage.DATA, (OK, OK), (OK, b"334 x\r\n", b"353 x\r\n")),
    (Stage.END, (OK, OK, GO), (GO, b"353 x\r\n")),
)
BY_BDAT = (
    (Stage.MAIL, (), (GO,)),
    (Stage.RCPT, (OK,), (GO,)),
    (Stage.END, (OK, OK), (GO, b"353 x\r\n")),
)


def steps(ehlo: bytes) -> Any:
    """Give the table for what is offered."""
    return BY_BDAT if ehlo is CHUNKING else BY_DATA


class LyingTests(ClientTestCase):
    def begun(self, ehlo: bytes, *replies: bytes) -> tuple[Talk, Deferred[Any]]:
        """Begin to send, and let the server answer so far."""
        talk = Talk().greeted(ehlo)
        done = talk.connection.send(SENDER, [JOE], MESSAGE)
        talk.receive(*replies)
        return talk, done

    def test_nonsense(self) -> None:
        """What is no reply, or one without an end, is found out at each step, and the connection closed."""
        for ehlo in (EHLO, CHUNKING, BARE):
            for stage, before, _ in steps(ehlo):
                for said in NONSENSE:
                    talk, done = self.begun(ehlo, *before)
                    talk.receive(said)
                    error = self.failure(done, ServerMisbehaved)
                    self.assertEqual((error.stage, talk.transport.gone), (stage, True), said[:20])

    def test_wrong_place(self) -> None:
        """A reply that cannot stand at its place is found out: 354 too early, 250 instead of 354, 354 twice."""
        for ehlo in (EHLO, CHUNKING, BARE):
            for stage, before, wrong in steps(ehlo):
                for said in wrong:
                    talk, done = self.begun(ehlo, *before)
                    talk.receive(said)
                    error = self.failure(done, ServerMisbehaved)
                    self.assertEqual((error.stage, error.reply.code), (stage, int(said[:3])))
                    self.assertTrue(talk.transport.gone)

    def test_too_many(self) -> None:
        """A reply that nobody has asked for ends the connection, and what was done stays done."""
        talk, done = self.begun(EHLO, OK, OK, GO, OK + OK)
        self.assertEqual(self.successResultOf(done).taken, (JOE,))
        self.assertIsInstance(talk.connection.error, ServerMisbehaved)

    def test_before_the_content(self) -> None:
        """A server that takes a message before it can have it is not believed; a refusal is one at any time."""
        for ehlo in (EHLO, BARE):
            talk, done = self.begun(ehlo, OK, OK, GO + OK)
            self.assertEqual(self.failure(done, ServerMisbehaved).stage, Stage.END)
            self.assertTrue(talk.transport.gone)
            talk, done = self.begun(ehlo, OK, OK, GO + b"550 5.7.1 no\r\n", OK)
            self.failure(done, Refused)

    def test_before_the_content_by_steps(self) -> None:
        """The same where a transaction is taken step by step."""
        talk = Talk(chunking=False).greeted()
        transaction = talk.connection.transaction()
        for begun, reply in (
            (transaction.mail(SENDER), OK),
            (transaction.rcpt(JOE), OK),
            (transaction.data(), GO + OK),
        ):
            talk.receive(reply)
            self.successResultOf(begun)
        self.assertRaises(ServerMisbehaved, transaction.write, b"x\r\n")

    def test_disconnected(self) -> None:
        """A loss is told at each step; the message may have been delivered once its end was sent, and only then."""
        for ehlo in (EHLO, CHUNKING, BARE):
            for stage, before, _ in steps(ehlo):
                talk, done = self.begun(ehlo, *before)
                talk.hang_up()
                error = self.failure(done, Disconnected)
                self.assertEqual(error.stage, stage)
                # By BDAT the content has left with its envelope.
                self.assertEqual(error.maybe_delivered, stage is Stage.END or ehlo is CHUNKING, (ehlo, stage))
                self.assertTrue(error.temporary)
                self.assertEqual(talk.clock.getDelayedCalls(), [])

    def test_refused_is_not_delivered(self) -> None:
        """Whoever refused the sender or all recipients has not delivered, whatever else was sent."""
        for replies in ((b"550 no\r\n",), (OK, b"550 no\r\n")):
            talk, done = self.begun(CHUNKING, *replies)
            talk.hang_up()
            self.assertFalse(self.failure(done, Disconnected).maybe_delivered)

    def test_silence(self) -> None:
        """Silence is noticed at each step, in the time that RFC 5321 §4.5.3.2 gives and little more."""
        times = {Stage.MAIL: 300, Stage.RCPT: 300, Stage.DATA: 120, Stage.END: 600}
        for ehlo in (EHLO, CHUNKING, BARE):
            for stage, before, _ in steps(ehlo):
                talk, done = self.begun(ehlo, *before)
                talk.clock.pump([5] * (times[stage] // 5 - 1))
                self.assertNoResult(done)
                talk.clock.pump([5] * 4)
                error = self.failure(done, TimedOut)
                self.assertEqual((error.stage, error.maybe_delivered), (stage, stage is Stage.END or ehlo is CHUNKING))
                self.assertTrue(talk.transport.gone)

    def test_farewell(self) -> None:
        """A 421 is told to whoever is concerned, with the loss that follows."""
        for stage, before, _ in BY_DATA:
            talk, done = self.begun(EHLO, *before)
            talk.receive(b"421 4.3.2 going down\r\n")
            talk.hang_up()
            error = self.failure(done)
            self.assertEqual(error.reply, Reply(421, "going down", "4.3.2"), stage)
            self.assertFalse(error.maybe_delivered and isinstance(error, Refused))

    def test_idle_farewell(self) -> None:
        """A 421 to an idle connection makes it unusable."""
        talk = Talk().greeted()
        talk.receive(b"421 4.4.2 idle\r\n")
        self.assertFalse(talk.connection.usable)

    def test_broken_off(self) -> None:
        """A refusal in the middle of DATA ends the message; nothing was delivered."""
        talk = Talk(chunking=False).greeted()
        done = talk.connection.send(SENDER, [JOE], self.endless())
        talk.protocol.pauseProducing()
        talk.receive(OK, OK, GO, b"552 5.3.4 too much\r\n")
        error = self.failure(done, Refused)
        self.assertEqual((error.reply.code, error.maybe_delivered, talk.transport.gone), (552, False, True))

    def endless(self) -> Any:
        """Give lines without an end."""
        while True:
            yield b"x\r\n"

    def test_stuck(self) -> None:
        """A server that takes no more content is left after three minutes."""
        talk = Talk(chunking=False).greeted()
        done = talk.connection.send(SENDER, [JOE], self.endless())
        talk.protocol.pauseProducing()
        talk.receive(OK, OK, GO)
        talk.clock.pump([5] * 35)
        self.assertNoResult(done)
        talk.clock.pump([5] * 4)
        error = self.failure(done, TimedOut)
        self.assertEqual((error.stage, error.maybe_delivered), (Stage.CONTENT, False))

    def test_known_replies(self) -> None:
        """If the connection is lost amid the replies of LMTP, those that came are in the error's result."""
        talk = Talk(lmtp=True).greeted(BARE)
        done = talk.connection.send(SENDER, [JOE, "ann@y.example"], MESSAGE)
        talk.receive(OK, OK, OK, GO, OK)
        talk.hang_up()
        error = self.failure(done, Disconnected)
        self.assertEqual((error.result.taken, error.maybe_delivered), ((JOE,), True))

    def test_reset_refused(self) -> None:
        """A connection whose RSET is refused carries no more mail; the result comes all the same."""
        talk, done = self.begun(CHUNKING, OK, b"550 no\r\n", b"503 no\r\n", b"500 what\r\n")
        self.failure(done, Refused)
        self.assertFalse(talk.connection.usable)

    def test_lost_at_reset(self) -> None:
        """A connection that is lost at RSET takes nothing from the result."""
        talk, done = self.begun(CHUNKING, OK, b"550 no\r\n", b"503 no\r\n")
        talk.hang_up()
        self.failure(done, Refused)


class OpeningTests(ClientTestCase):
    def test_helo(self) -> None:
        """A server that knows no EHLO is told HELO; it has no extensions, and no parameters are sent."""
        talk = Talk()
        self.assertEqual(talk.receive(GREETING), b"EHLO client.example\r\n")
        self.assertEqual(talk.receive(b"502 5.5.1 what\r\n"), b"HELO client.example\r\n")
        talk.receive(b"250 old.example\r\n")
        connection = self.successResultOf(talk.opened)
        self.assertEqual((connection.capabilities.extended, connection.capabilities.name), (False, "old.example"))
        connection.send(SENDER, [JOE], MESSAGE)
        self.assertEqual(talk.transport.take(), b"MAIL FROM:<a@x.example>\r\n")

    def test_lhlo(self) -> None:
        """LMTP begins with LHLO, and has no HELO to fall back to."""
        talk = Talk(lmtp=True)
        self.assertEqual(talk.receive(GREETING), b"LHLO client.example\r\n")
        talk.receive(b"500 what\r\n")
        self.failure(talk.opened, Refused)

    def test_refused(self) -> None:
        """A server that refuses at the beginning is left, with its reply."""
        for replies in ((b"554 no mail here\r\n",), (GREETING, b"550 no\r\n"), (GREETING, b"500 a\r\n", b"501 b\r\n")):
            talk = Talk()
            talk.receive(*replies)
            error = self.failure(talk.opened, Refused)
            self.assertEqual(error.reply.code, int(replies[-1][:3]))
            self.assertTrue(talk.transport.gone)

    def test_lies(self) -> None:
        """Nonsense, silence and losses are found out before the first message too."""
        for before in ((), (GREETING,), (GREETING, b"500 what\r\n")):
            for said in (*NONSENSE, GO):
                talk = Talk()
                talk.receive(*before, said)
                error = self.failure(talk.opened)
                self.assertIsInstance(error, (ServerMisbehaved, Refused))
                self.assertTrue(talk.transport.gone)
            talk = Talk()
            talk.receive(*before)
            talk.hang_up()
            self.failure(talk.opened, Disconnected)
            talk = Talk()
            talk.receive(*before)
            talk.clock.pump([5] * 63)
            self.failure(talk.opened, TimedOut)
            self.assertTrue(talk.transport.gone)

    def test_cancel(self) -> None:
        """To cancel the opening closes the connection, and is no error of the server's."""
        talk = Talk()
        talk.opened.cancel()
        self.failureResultOf(talk.opened, CancelledError)
        self.assertTrue(talk.transport.gone)


class StartTLSTests(ClientTestCase):
    TLS_EHLO = b"250-mx.example\r\n250 STARTTLS\r\n"

    def test_not_offered(self) -> None:
        """Where TLS is required, a server without it is left before anything is said."""
        talk = Talk(tls="required").greeted()
        self.failure(talk.opened, TLSFailed)
        self.assertEqual(talk.transport.take(), b"")

    def test_opportunistic(self) -> None:
        """Where TLS is wanted only, a server without it is used, and one that refuses it too."""
        self.successResultOf(Talk(tls="opportunistic").greeted().opened)
        talk = Talk(tls="opportunistic").greeted(self.TLS_EHLO)
        talk.receive(b"454 4.7.0 not now\r\n")
        self.successResultOf(talk.opened)

    def test_refused(self) -> None:
        """Where TLS is required, a server that refuses it is left with its reply."""
        talk = Talk(tls="required").greeted(self.TLS_EHLO)
        talk.receive(b"454 4.7.0 not now\r\n")
        self.assertEqual(self.failure(talk.opened, TLSFailed).reply.code, 454)

    def test_injected(self) -> None:
        """What stands behind the 220 came in clear: it is refused, whole or cut."""
        for mode in ("required", "opportunistic"):
            for behind in (b"250 injected\r\n", b"2", b"250-mx\r\n"):
                talk = Talk(tls=mode).greeted(self.TLS_EHLO)
                talk.receive(b"220 go\r\n" + behind)
                error = self.failure(talk.opened, TLSFailed)
                self.assertIn("before TLS", str(error))
                self.assertTrue(talk.transport.gone)

    def test_wrong_reply(self) -> None:
        """354 is no reply to STARTTLS."""
        talk = Talk(tls="required").greeted(self.TLS_EHLO)
        talk.receive(GO)
        self.failure(talk.opened, ServerMisbehaved)

    def test_no_tls_there(self) -> None:
        """A connection that cannot have TLS is left."""
        talk = Talk(tls="required", server_name="mx.example").greeted(self.TLS_EHLO)
        talk.receive(b"220 go\r\n")
        self.failure(talk.opened, TLSFailed)

    def test_implicit(self) -> None:
        """With implicit TLS not an octet is said or believed before it."""
        talk = Talk(tls="implicit", server_name="mx.example")
        self.failure(talk.opened, TLSFailed)
        self.assertEqual(talk.transport.take(), b"")


class ErrorTests(ClientTestCase):
    def test_words(self) -> None:
        """An error says what went wrong, when, what the server said, and whether it may have been delivered."""
        error = Disconnected("the connection was lost", Stage.END, Reply(421, "bye", "4.3.2"), maybe_delivered=True)
        self.assertEqual(
            str(error),
            "the connection was lost (while waiting for the reply to the message): 421 4.3.2 bye; "
            "the message may have been delivered",
        )

    def test_temporary(self) -> None:
        """The reply decides whether it may succeed later; without one, the kind of error."""
        self.assertTrue(Refused("no", Stage.RCPT, Reply(450, "x")).temporary)
        self.assertFalse(Refused("no", Stage.RCPT, Reply(550, "x")).temporary)
        self.assertTrue(ClientError("x", Stage.MAIL).temporary)
