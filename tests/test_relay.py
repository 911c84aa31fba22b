"""Tests of smtpsvc.backends.relay: what the next server says is what the client hears."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.backends.null import NullBackend
from smtpsvc.backends.route import Route
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import PermanentError, Reply, TemporaryError
from smtpsvc.interfaces import IBackend, IDelivery, IReady, ISession
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, clocked_factory
from smtpsvc.values import Peer, Recipient
from tests.meetings import BARE, CHUNKING, EHLO, GO, OK
from tests.relays import MAIL, RCPT, TEXT, Relayed, meeting, refused, talk
from tests.support import settings_with

MESSAGE = (MAIL, RCPT, "DATA", TEXT)


class PassedOnTests(SynchronousTestCase):
    def test_interfaces(self) -> None:
        """It provides what backends, sessions and deliveries do."""
        relayed = Relayed(meeting())
        verifyObject(IBackend, relayed.backend)
        verifyObject(IReady, relayed.backend)
        verifyObject(ISession, relayed.backend.open_session(Peer(None, "1"), None))  # type: ignore[arg-type]
        relayed.say(MAIL, RCPT, "DATA")
        verifyObject(IDelivery, relayed.wire.protocol.conversation.receiver.delivery)

    def test_message(self) -> None:
        """A message goes on octet by octet, by DATA and by BDAT, over SMTP and LMTP."""
        for role in (Role.SMTP, Role.LMTP):
            for chunking in (True, False):
                for front in (Role.SMTP, Role.LMTP):
                    with self.subTest(role=role, chunking=chunking, front=front):
                        backend = ScriptedBackend()
                        make = meeting(backend, role=role, chunking=chunking, settings={"add_received": False})
                        relayed = Relayed(make, role=front, lmtp=role is Role.LMTP)
                        self.assertEqual(relayed.say(*MESSAGE).codes, [250, 250, 354, 250])
                        (message,) = backend.messages
                        self.assertEqual(message.content, b"Subject: x\r\n\r\ntext\r\n.dot\r\n")
                        self.assertEqual(str(message.sender), "a@x.example")

    def test_words(self) -> None:
        """The 250 has our name for the message, and what the next server said; that is bounded, and one line."""
        reply = Reply(250, "queued as\n" + "7" * 400, "2.6.0")
        relayed = Relayed(meeting(ScriptedBackend(finish=reply))).say(*MESSAGE)
        last = relayed.wire.replies[-1]
        self.assertRegex(last.text, r"\AOK, taken as [0-9A-Za-z-]+; the next server says: 2.6.0 queued as 7{190}\Z")

    def test_refusals(self) -> None:
        """Refusals of MAIL, RCPT, DATA and the message are handed on, with enhanced codes and text."""
        for hook, place in (("mail", 0), ("rcpt", 1), ("data", 2), ("finish", 3)):
            for error in (PermanentError("not here", "5.7.1", 554), TemporaryError("later", "4.2.0", 450)):
                with self.subTest(hook=hook, error=error):
                    relayed = Relayed(meeting(ScriptedBackend({hook: error}), chunking=False))
                    relayed.say(*MESSAGE[: place + 1])
                    self.assertEqual(str(relayed.wire.replies[-1]), str(error.reply))

    def test_each_recipient(self) -> None:
        """A recipient that is refused does not keep the message from the others."""
        backend = ScriptedBackend(rcpt=[None, PermanentError("no such user", "5.1.1"), None])
        relayed = Relayed(meeting(backend)).say(MAIL, RCPT, RCPT.replace("b@", "c@"), RCPT.replace("b@", "d@"))
        self.assertEqual(relayed.say("DATA", TEXT).codes, [250, 250, 550, 250, 354, 250])
        self.assertEqual([str(each) for each in backend.messages[0].recipients], ["b@y.example", "d@y.example"])

    def test_not_for_clients(self) -> None:
        """421 does not close the client's connection, and a wrong setup of ours lets no mail bounce."""
        for said, heard in (
            (b"421 4.7.0 too much\r\n", "451 4.7.0 too much"),
            (b"521 5.3.2 no mail here\r\n", "554 5.3.2 no mail here"),
            (b"530 5.7.0 log in first\r\n", "451 4.3.5"),
            (b"503 what\r\n", "451 4.3.5"),
            (b"251 2.1.5 forwarded\r\n", "251 2.1.5 forwarded"),
        ):
            relayed = Relayed(talk(EHLO)).say(MAIL)
            relayed.hops[0].made[0].receive(OK)
            relayed.say(RCPT)
            relayed.hops[0].made[0].receive(said)
            relayed.settle()
            self.assertTrue(str(relayed.wire.replies[-1]).startswith(heard), relayed.wire.replies[-1])
            self.assertFalse(relayed.wire.closed)

    def test_long_refusal(self) -> None:
        """A refusal without measure is cut."""
        relayed = Relayed(talk(EHLO)).say(MAIL)
        relayed.hops[0].made[0].receive(
            b"".join(b"550-5.7.1 %b\r\n" % (b"x" * 400) for _ in range(50)) + b"550 5.7.1 y\r\n"
        )
        self.assertLess(len(relayed.wire.output), 1300)
        self.assertEqual(relayed.codes, [550])

    def test_escaped(self) -> None:
        """A refusal cannot forge a line, nor steer a terminal."""
        relayed = Relayed(talk(EHLO)).say(MAIL)
        relayed.hops[0].made[0].receive(b"550 5.7.1 a\x1b[31m\rb\xff\r\n")
        self.assertEqual(relayed.wire.output, b"550 5.7.1 a\\x1b[31m\\rb\\xff\r\n")


class EachAnsweredTests(SynchronousTestCase):
    def test_lmtp_both_sides(self) -> None:
        """Behind LMTP and in front of it, each recipient has its own reply."""
        backend = ScriptedBackend(finish=[[None, PermanentError("full", "5.2.2").reply, Reply(452, "busy", "4.2.0")]])
        relayed = Relayed(meeting(backend, role=Role.LMTP), role=Role.LMTP, lmtp=True)
        relayed.say(MAIL, RCPT, RCPT, RCPT, "DATA", TEXT)
        self.assertEqual([str(each)[:9] for each in relayed.wire.replies[-3:]], ["250 2.0.0", "550 5.2.2", "452 4.2.0"])

    def test_lmtp_behind_smtp(self) -> None:
        """Behind SMTP, where one reply stands for all, each message has one recipient."""
        relayed = Relayed(meeting(role=Role.LMTP), lmtp=True).say(MAIL, RCPT, RCPT)
        self.assertEqual(relayed.codes, [250, 250, 452])
        self.assertEqual(relayed.wire.replies[-1].enhanced, "4.5.3")

    def test_lmtp_behind_a_route(self) -> None:
        """So it is where the relay is one of several backends."""
        relayed = Relayed(meeting(role=Role.LMTP), lmtp=True)
        relayed.factory = clocked_factory(Route([("y.example", relayed.backend)], NullBackend()), settings_with())[0]
        wire = relayed.connect()
        relayed.say(MAIL, RCPT, RCPT, wire=wire)
        self.assertEqual(wire.codes, [250, 250, 452])

    def test_smtp_behind_lmtp(self) -> None:
        """One reply of an SMTP server is that of each recipient."""
        relayed = Relayed(meeting(ScriptedBackend(finish=PermanentError("spam", "5.7.1"))), role=Role.LMTP)
        self.assertEqual(relayed.say(MAIL, RCPT, RCPT, "DATA", TEXT).codes, [250, 250, 250, 354, 550, 550])

    def test_lost_between(self) -> None:
        """If the connection is lost between the replies to recipients, those that came count; the others are 451."""
        relayed = Relayed(talk(EHLO, lmtp=True), role=Role.LMTP, lmtp=True)
        for line, reply in ((MAIL, OK), (RCPT, OK), (RCPT, OK), ("DATA", GO), (TEXT, OK)):
            relayed.say(line)
            relayed.hops[0].made[0].receive(reply)
        relayed.hops[0].made[0].hang_up()
        self.assertEqual(relayed.codes, [250, 250, 250, 354, 250, 451])

    def test_prdr(self) -> None:
        """PRDR goes on, and each recipient has its own reply."""
        backend = ScriptedBackend(finish=[[None, PermanentError("full", "5.2.2").reply]])
        relayed = Relayed(meeting(backend, enable={"PRDR"}), settings={"enable": frozenset({"PRDR"})})
        relayed.say(f"{MAIL} PRDR", RCPT, RCPT, "DATA", TEXT)
        self.assertEqual(relayed.codes, [250, 250, 250, 354, 353, 250, 550, 250])


class LossTests(SynchronousTestCase):
    """What the client hears when the next server goes away."""

    def lost_after(self, *replies: bytes) -> Relayed:
        """Lose the connection when the next server has said so much."""
        relayed = Relayed(talk(EHLO))
        for line, reply in zip(MESSAGE, (*replies, None), strict=False):
            relayed.say(line)
            if reply is None:
                break
            relayed.hops[0].made[-1].receive(reply)
        return relayed

    def test_each_step(self) -> None:
        """It is 451 wherever that is, and never a 250; the client's connection stays."""
        for count in range(1, 4):
            relayed = self.lost_after(*[OK, OK, GO][:count])
            relayed.hops[0].made[0].hang_up(ConnectionLost())
            relayed.settle()
            self.assertEqual((relayed.codes[-1], relayed.wire.closed), (451, False))
            self.assertNotEqual(relayed.codes[count:], [250])

    def test_after_the_dot(self) -> None:
        """Behind the dot it is 451 4.4.2: nobody knows, and the client tries again (RFC 1047)."""
        relayed = self.lost_after(OK, OK, GO)
        relayed.hops[0].made[0].hang_up(ConnectionDone())
        self.assertEqual((relayed.codes[-1], relayed.wire.replies[-1].enhanced), (451, "4.4.2"))

    def test_lie(self) -> None:
        """A server that makes no sense is left, and the client hears 451."""
        relayed = self.lost_after(OK, OK, GO)
        relayed.hops[0].made[0].receive(b"hello\r\n")
        self.assertEqual(relayed.codes[-1], 451)

    def test_client_lost(self) -> None:
        """A client that goes away in the middle of DATA: the next server gets no final dot."""
        relayed = Relayed(talk(EHLO)).say(MAIL)
        hop = relayed.hops[0].made[0]
        hop.receive(OK)
        relayed.say(RCPT)
        hop.receive(OK)
        relayed.say("DATA")
        hop.receive(GO)
        relayed.say("Subject: x")
        self.assertEqual(hop.transport.take(), b"Subject: x")
        relayed.wire.hang_up()
        self.assertEqual(hop.transport.take(), b"")
        self.assertTrue(hop.transport.gone)

    def test_client_lost_between_chunks(self) -> None:
        """By BDAT that takes RSET only, and the connection is used again."""
        relayed = Relayed(talk(CHUNKING)).say(MAIL)
        hop = relayed.hops[0].made[0]
        hop.receive(OK)
        relayed.say(RCPT)
        hop.receive(OK)
        relayed.say("DATA", "Subject: x")
        relayed.wire.hang_up()
        self.assertEqual(hop.transport.take(), b"RSET\r\n")
        hop.receive(OK)
        relayed.say(MAIL, wire=relayed.connect())
        self.assertIn(b"MAIL", hop.transport.take())

    def test_client_lost_in_a_step(self) -> None:
        """A client that goes away while the next server thinks does not keep its connection."""
        for ehlo in (EHLO, BARE):
            relayed = Relayed(talk(ehlo)).say(MAIL)
            relayed.wire.hang_up()
            self.assertTrue(relayed.hops[0].made[0].transport.gone)

    def test_client_lost_at_the_end(self) -> None:
        """What the next server says of a message whose client has gone is waited for: the connection stays."""
        relayed = self.lost_after(OK, OK, GO)
        relayed.wire.hang_up()
        hop = relayed.hops[0].made[0]
        self.assertFalse(hop.transport.gone)
        hop.receive(OK)
        self.assertTrue(hop.connection.usable)


class NextServerTests(SynchronousTestCase):
    """Which server gets the mail, and over which connection."""

    def test_reused(self) -> None:
        """One connection carries message after message, of any client; after refusals and RSET too."""
        backend = ScriptedBackend(rcpt=[None, PermanentError("no", "5.1.1")], finish=[None, PermanentError("no")])
        relayed = Relayed(meeting(backend)).say(*MESSAGE, MAIL, RCPT, "RSET", *MESSAGE, *MESSAGE, "QUIT")
        relayed.say(*MESSAGE, wire=relayed.connect())
        self.assertEqual(len(backend.messages), 4)
        self.assertEqual(relayed.hops[0].tried, 1)

    def test_fail_over(self) -> None:
        """Of several servers the first that answers gets the mail."""
        for first in (refused, lambda _: meeting(ScriptedBackend(mail=Reply(421, "busy", "4.3.2")))({})):
            relayed = Relayed(first, meeting()).say(*MESSAGE)
            self.assertEqual(relayed.codes, [250, 250, 354, 250])
            self.assertEqual([each.tried for each in relayed.hops], [1, 1])

    def test_stale(self) -> None:
        """A connection that the server has closed meanwhile is replaced, and the client hears nothing of it."""
        relayed = Relayed(talk(EHLO)).say(MAIL)
        first = relayed.hops[0].made[0]
        first.receive(OK)
        relayed.say("RSET")
        first.receive(OK)
        relayed.say(MAIL)
        first.hang_up(ConnectionLost())
        relayed.hops[0].made[1].receive(OK)
        self.assertEqual(relayed.codes, [250, 250, 250])

    def test_down(self) -> None:
        """If none answers, MAIL is 451 4.4.1; after some failures none is asked for a while."""
        relayed = Relayed(refused).say(*[MAIL] * 5)
        self.assertEqual((relayed.codes, relayed.wire.replies[-1].enhanced), ([451] * 5, "4.4.1"))
        self.assertEqual(relayed.hops[0].tried, 3)
        self.assertIn("does not answer", relayed.backend.ready())

    def test_up_again(self) -> None:
        """When the time has come one message is the try, and its success lets all through."""
        answers: list[Any] = [refused(), refused(), refused(), refused()]
        make = meeting()
        relayed = Relayed(lambda xclient: answers.pop(0) if answers else make(xclient)).say(*[MAIL] * 4)
        relayed.clock.advance(1)
        relayed.say(MAIL, MAIL)
        self.assertEqual(relayed.hops[0].tried, 4)
        relayed.clock.advance(1)
        relayed.say(MAIL)
        self.assertEqual(relayed.hops[0].tried, 4)
        relayed.clock.advance(1)
        self.assertEqual(relayed.say(MAIL).codes[-1], 250)
        self.assertEqual(relayed.backend.ready(), "")

    def test_pool(self) -> None:
        """Past the most connections a message waits for one, and not for ever."""
        relayed = Relayed(meeting(), most=1)
        second, third = relayed.connect(), relayed.connect()
        relayed.say(MAIL).say(MAIL, wire=second)
        self.assertEqual(second.codes, [])
        relayed.say("RSET")
        self.assertEqual(second.codes, [250])
        relayed.say(MAIL, wire=third)
        relayed.clock.advance(31)
        self.assertEqual(third.codes, [451])
        self.assertEqual(relayed.hops[0].tried, 1)

    def test_waiting_client_lost(self) -> None:
        """A client that goes away while it waits leaves the queue."""
        relayed = Relayed(meeting(), most=1)
        second, third = relayed.connect(), relayed.connect()
        relayed.say(MAIL).say(MAIL, wire=second).say(MAIL, wire=third)
        second.hang_up()
        relayed.say("RSET")
        self.assertEqual(third.codes, [250])

    def test_place(self) -> None:
        """The place of a connection that ended goes to who waits."""
        relayed = Relayed(talk(EHLO), most=1)
        second = relayed.connect()
        relayed.say(MAIL).say(MAIL, wire=second)
        first = relayed.hops[0].made[0]
        first.receive(OK)
        relayed.say(RCPT)
        first.hang_up(ConnectionLost())
        self.assertEqual(relayed.hops[0].tried, 2)
        relayed.hops[0].made[1].receive(OK)
        self.assertEqual(second.codes, [250])

    def test_idle(self) -> None:
        """A connection that nobody uses is closed after a while."""
        relayed = Relayed(meeting()).say(*MESSAGE)
        relayed.clock.advance(29)
        relayed.settle()
        self.assertFalse(relayed.hops[0].made[0].lost)
        relayed.clock.advance(2)
        relayed.settle()
        self.assertTrue(relayed.hops[0].made[0].lost)
        self.assertEqual(relayed.clock.getDelayedCalls(), [])

    def test_stopped(self) -> None:
        """The end of the service closes what nobody uses at once, and what is in use behind its message."""
        relayed = Relayed(meeting()).say(*MESSAGE)
        relayed.backend.startService()
        second = relayed.connect()
        relayed.say(MAIL).say(MAIL, RCPT, wire=second).say("RSET")
        stopped = relayed.backend.stopService()
        relayed.settle()
        self.successResultOf(stopped)
        self.assertEqual([each.lost for each in relayed.hops[0].made], [True, False])
        relayed.say("DATA", TEXT, wire=second)
        self.assertEqual(second.codes, [250, 250, 354, 250])
        self.assertTrue(relayed.hops[0].made[1].lost)

    def test_cancelled(self) -> None:
        """A client that goes away while a server is being connected to gives that up; the next may try."""
        dialled: Deferred[Any] = Deferred()
        relayed = Relayed(lambda _: dialled).say(MAIL)
        relayed.wire.hang_up()
        dialled.addErrback(lambda _: None)
        self.assertTrue(dialled.called)
        self.assertEqual(relayed.hops[0].hop._count, 0)


class ContentTests(SynchronousTestCase):
    def test_backpressure(self) -> None:
        """While the next server takes no more, the client is not read."""
        relayed = Relayed(talk(EHLO)).say(MAIL)
        hop = relayed.hops[0].made[0]
        hop.receive(OK)
        relayed.say(RCPT)
        hop.receive(OK)
        relayed.say("DATA")
        hop.receive(GO)
        hop.protocol.pauseProducing()
        for _ in range(8):
            relayed.wire.receive(b"x" * 60 + b"\r\n" + b"y" * 30000 + b"\r\n")
        self.assertEqual(relayed.wire.transport.producerState, "paused")
        hop.protocol.resumeProducing()
        self.assertEqual(relayed.wire.transport.producerState, "producing")
        relayed.wire.receive(b".\r\n")
        hop.receive(OK)
        self.assertEqual(relayed.codes[-1], 250)

    def test_chunk_refused(self) -> None:
        """A chunk that is refused refuses the message."""
        relayed = Relayed(talk(CHUNKING, chunk_size=10)).say(MAIL)
        hop = relayed.hops[0].made[0]
        hop.receive(OK)
        relayed.say(RCPT)
        hop.receive(OK)
        relayed.say("DATA", "Subject: x", "Subject: y")
        hop.receive(b"552 5.3.4 too big\r\n")
        relayed.say(".")
        hop.receive(OK, OK)
        self.assertEqual(relayed.codes[-1], 552)

    def test_broken_off(self) -> None:
        """A server that refuses in the middle of DATA and closes is handed on."""
        relayed = Relayed(talk(EHLO)).say(MAIL)
        hop = relayed.hops[0].made[0]
        hop.receive(OK)
        relayed.say(RCPT)
        hop.receive(OK)
        relayed.say("DATA")
        hop.receive(GO)
        relayed.say("Subject: x")
        hop.receive(b"554 5.7.1 virus\r\n")
        relayed.say("", ".")
        self.assertEqual(relayed.codes[-1], 554)

    def test_changed_recipients(self) -> None:
        """If somebody in between takes a recipient away, the next server is told the others anew."""
        backend = ScriptedBackend()
        relayed = Relayed(meeting(backend)).say(MAIL, RCPT, RCPT.replace("b@", "c@"))
        relayed.wire.protocol.conversation.envelope.recipients.pop()
        relayed.say("DATA", TEXT)
        self.assertEqual(relayed.codes[-2:], [354, 250])
        self.assertEqual([str(each) for each in backend.messages[0].recipients], ["b@y.example"])

    def test_changed_sender(self) -> None:
        """So it is with another sender, and with recipients that were added."""
        for lmtp in (False, True):
            backend = ScriptedBackend()
            relayed = Relayed(meeting(backend, role=Role.LMTP if lmtp else Role.SMTP), lmtp=lmtp).say(MAIL, RCPT)
            envelope = relayed.wire.protocol.conversation.envelope
            envelope.sender = Address("other", "x.example")
            envelope.recipients.append(Recipient(Address("c", "y.example")))
            relayed.say("DATA", TEXT)
            self.assertEqual(relayed.codes[-2:], [354, 250])
            message = backend.messages[0]
            self.assertEqual(str(message.sender), "other@x.example")
            self.assertEqual([str(each) for each in message.recipients], ["b@y.example", "c@y.example"])

    def test_changed_late(self) -> None:
        """If that is behind the content, nobody gets the message, and the client hears 451."""
        backend = ScriptedBackend()
        relayed = Relayed(meeting(backend)).say(MAIL, RCPT, RCPT.replace("b@", "c@"), "DATA", "Subject: x")
        relayed.wire.protocol.conversation.envelope.recipients.pop()
        relayed.say(".")
        self.assertEqual(relayed.codes[-1], 451)
        self.assertEqual([each.finished for each in backend.messages], [])

    def test_late_answer(self) -> None:
        """If the next server answers RCPT or DATA too late, the message ends there: it must not get who was refused."""
        for count in (1, 2):
            relayed = Relayed(talk(EHLO), settings={"hook_timeout": 10.0})
            for line in (MAIL, RCPT, "DATA")[: count + 1]:
                relayed.say(line)
                hop = relayed.hops[0].made[0]
                if line != (MAIL, RCPT, "DATA")[count]:
                    hop.receive(OK)
            relayed.server_clock.pump([1] * 15)
            self.assertEqual(relayed.codes[-1], 451)
            self.assertTrue(hop.transport.gone)
            self.assertNotEqual(relayed.say("DATA").codes[-1], 354)

    def test_data_refused(self) -> None:
        """After a refusal of DATA the transaction takes no more, and the next one does."""
        relayed = Relayed(meeting(ScriptedBackend(data=[PermanentError("no")]), chunking=False))
        relayed.say(MAIL, RCPT, "DATA", "DATA", RCPT, "RSET", *MESSAGE)
        self.assertEqual(relayed.codes, [250, 250, 550, 550, 550, 250, 250, 250, 354, 250])

    def test_abort_once(self) -> None:
        """A session that is closed without a transaction has nothing to give up."""
        relayed = Relayed(meeting())
        session = relayed.backend.open_session(Peer(None, "1"), None)  # type: ignore[arg-type]
        session.close(Failure(ConnectionDone()))
        self.assertEqual(relayed.hops[0].tried, 0)
