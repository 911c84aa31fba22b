"""Tests of smtpsvc.client.Transaction: a message step by step, as a relay sends it."""

from __future__ import annotations

from smtpsvc.client import ContentRefused, Disconnected, ServerMisbehaved, Unsupported
from smtpsvc.grammar.replies import NO_SUCH_USER
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend
from tests.meetings import BARE, CHUNKING, EHLO, GO, MESSAGE, OK, ClientTestCase, Meeting, Talk

SENDER, JOE, ANN = "a@x.example", "joe@y.example", "ann@y.example"


class StepTests(ClientTestCase):
    def test_whole(self) -> None:
        """MAIL, RCPTs, content and its end each give what the server says."""
        for role in (Role.SMTP, Role.LMTP):
            for chunking in (True, False):
                meeting = Meeting(ScriptedBackend(rcpt=[None, NO_SUCH_USER]), role=role, chunking=chunking)
                transaction = meeting.connection.transaction()
                said = [transaction.mail(SENDER), transaction.rcpt(JOE), transaction.rcpt(ANN)]
                meeting.meet()
                self.assertEqual([self.successResultOf(each).code for each in said], [250, 250, 550])
                opened = transaction.data()
                meeting.meet()
                self.assertIsNone(self.successResultOf(opened))
                for place in range(0, len(MESSAGE), 5):
                    self.assertIsNone(transaction.write(MESSAGE[place : place + 5]))
                done = transaction.finish()
                meeting.meet()
                result = self.successResultOf(done)
                self.assertEqual((result.taken, list(result.refused)), ((JOE,), [ANN]))
                self.assertTrue(meeting.backend.messages[0].content.endswith(MESSAGE))
                self.assertTrue(meeting.connection.usable)

    def test_refused(self) -> None:
        """Refusals are given as replies: of DATA by data(), of the message by finish()."""
        talk = Talk().greeted()
        transaction = talk.connection.transaction()
        transaction.mail(SENDER)
        transaction.rcpt(JOE)
        opened = transaction.data()
        talk.receive(OK, OK, b"451 4.3.0 not now\r\n")
        self.assertEqual(self.successResultOf(opened).code, 451)
        transaction.abort()
        self.assertTrue(talk.transport.take().endswith(b"RSET\r\n"))
        talk.receive(OK)
        self.assertTrue(talk.connection.usable)

    def test_refused_at_the_end(self) -> None:
        """A refusal of the message is in the result; nothing is raised."""
        talk = Talk(chunking=False).greeted()
        transaction = talk.connection.transaction()
        for step in (transaction.mail(SENDER), transaction.rcpt(JOE), transaction.data()):
            del step
        talk.receive(OK, OK, GO)
        transaction.write(MESSAGE)
        done = transaction.finish()
        talk.receive(b"554 5.7.1 spam\r\n", OK)
        self.assertEqual(self.successResultOf(done).refused[JOE].code, 554)

    def test_chunk_refused(self) -> None:
        """After a refused chunk writes do nothing, and finish() gives its reply after RSET."""
        talk = Talk(chunk_size=4).greeted(CHUNKING)
        transaction = talk.connection.transaction()
        transaction.mail(SENDER)
        transaction.rcpt(JOE)
        transaction.data()
        talk.receive(OK, OK)
        transaction.write(b"abc\r\n")
        transaction.write(b"def\r\n")
        talk.receive(b"552 5.3.4 too big\r\n")
        self.assertIsNone(transaction.write(b"ghi\r\n"))
        done = transaction.finish()
        self.assertEqual(talk.transport.take(), b"RSET\r\n")
        talk.receive(OK)
        self.assertEqual(self.successResultOf(done).refused[JOE].code, 552)

    def test_backpressure(self) -> None:
        """A write that fills the transport gives a Deferred that fires when there is room."""
        talk = Talk(chunking=False).greeted()
        transaction = talk.connection.transaction()
        transaction.mail(SENDER)
        transaction.rcpt(JOE)
        transaction.data()
        talk.receive(OK, OK, GO)
        talk.protocol.pauseProducing()
        room = transaction.write(MESSAGE)
        assert room is not None
        self.assertNoResult(room)
        talk.protocol.resumeProducing()
        self.successResultOf(room)

    def test_window(self) -> None:
        """Without PIPELINING one chunk waits for the reply to the one before."""
        talk = Talk(chunk_size=4).greeted(b"250-mx\r\n250 CHUNKING\r\n")
        transaction = talk.connection.transaction()
        transaction.mail(SENDER)
        talk.receive(OK)
        transaction.rcpt(JOE)
        talk.receive(OK)
        transaction.data()
        transaction.write(b"abc\r\n")
        room = transaction.write(b"def\r\n")
        assert room is not None
        self.assertNoResult(room)
        talk.receive(OK)
        self.successResultOf(room)

    def test_abort(self) -> None:
        """To give up closes the connection in the middle of DATA, and resets it everywhere else."""
        for ehlo, gone in ((EHLO, True), (CHUNKING, False)):
            talk = Talk().greeted(ehlo)
            transaction = talk.connection.transaction()
            transaction.mail(SENDER)
            transaction.rcpt(JOE)
            transaction.data()
            talk.receive(OK, OK, *([GO] if gone else []))
            transaction.write(b"abc\r\n")
            transaction.abort()
            self.assertEqual(talk.transport.gone, gone)
            self.assertEqual(talk.transport.take().endswith(b"RSET\r\n"), not gone)

    def test_lost(self) -> None:
        """A loss fails the step that is being taken, and those after it."""
        talk = Talk().greeted(BARE)
        transaction = talk.connection.transaction()
        said = transaction.mail(SENDER)
        talk.hang_up()
        self.failure(said, Disconnected)
        self.failure(transaction.rcpt(JOE), Disconnected)
        self.failure(transaction.data(), Disconnected)
        self.assertRaises(Disconnected, transaction.write, b"x")
        self.failure(transaction.finish(), Disconnected)

    def test_lost_at_the_end(self) -> None:
        """A loss behind the end may have delivered the message."""
        talk = Talk().greeted(BARE)
        transaction = talk.connection.transaction()
        for step, reply in (
            (lambda: transaction.mail(SENDER), OK),
            (lambda: transaction.rcpt(JOE), OK),
            (transaction.data, GO),
        ):
            step()
            talk.receive(reply)
        transaction.write(MESSAGE)
        done = transaction.finish()
        talk.hang_up()
        self.assertTrue(self.failure(done, Disconnected).maybe_delivered)

    def test_lies(self) -> None:
        """What cannot stand at its place fails the step, and closes."""
        for replies in ((GO,), (OK, GO), (OK, OK, OK)):
            talk = Talk().greeted()
            transaction = talk.connection.transaction()
            said = [transaction.mail(SENDER), transaction.rcpt(JOE), transaction.data()]
            talk.receive(*replies)
            for each in said[: len(replies) - 1]:
                self.successResultOf(each)
            for each in said[len(replies) - 1 :]:
                self.failure(each, ServerMisbehaved)
            self.assertTrue(talk.transport.gone)

    def test_cannot_be_said(self) -> None:
        """What the server cannot take fails before it is said, and the connection stays."""
        talk = Talk().greeted(BARE)
        transaction = talk.connection.transaction()
        self.failure(transaction.mail(SENDER, {"REQUIRETLS": True}), Unsupported)
        self.failureResultOf(transaction.mail("a b"), ValueError)
        self.assertEqual(talk.transport.take(), b"")
        transaction.abort()

    def test_damage(self) -> None:
        """Content that is no text is not sent."""
        talk = Talk(chunking=False).greeted()
        transaction = talk.connection.transaction()
        transaction.mail(SENDER)
        transaction.rcpt(JOE)
        transaction.data()
        talk.receive(OK, OK, GO)
        self.assertRaises(ContentRefused, transaction.write, b"a\nb")
        self.assertEqual(talk.transport.take(), b"")

    def test_out_of_turn(self) -> None:
        """Content before data() is an error of the program."""
        transaction = Talk().greeted().connection.transaction()
        self.assertRaises(RuntimeError, transaction.write, b"x")
