"""Tests of smtpsvc.client against our own server, in memory: every extension, both ways of sending content."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from io import BytesIO
from ipaddress import ip_network
from typing import Any

from twisted.internet.defer import Deferred

from smtpsvc.client import ContentRefused, LimitReached, Refused, TimedOut, Unsupported
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import NO_SUCH_USER, OK, Reply
from smtpsvc.parameters import ByMode, DeliverBy, Notify, OriginalRecipient, Ret, ValidSince
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend
from smtpsvc.values import Body, Forwarded, Recipient
from tests.meetings import BARE, CHUNKING, EHLO, MESSAGE, ClientTestCase, Meeting, Talk
from tests.meetings import OK as TAKEN

SENDER, JOE, ANN = "a@x.example", "joe@y.example", "ann@y.example"
FULL = Reply(452, "No more", "4.5.3")


def content(meeting: Meeting, number: int = -1) -> bytes:
    """Give what the backend got, without our Received field."""
    whole: bytes = meeting.backend.messages[number].content
    return whole[whole.index(b"+0000\r\n") + 7 :]


class ContentTests(ClientTestCase):
    def test_each_way(self) -> None:
        """By DATA and by BDAT the same arrives, whether it is octets, a file or pieces."""

        async def pieces() -> AsyncIterator[bytes]:
            for place in range(len(MESSAGE)):
                yield MESSAGE[place : place + 1]

        for chunking in (True, False):
            for make in (
                lambda: MESSAGE, lambda: bytearray(MESSAGE), lambda: BytesIO(MESSAGE),
                lambda: [MESSAGE[:9], MESSAGE[9:]], pieces,
            ):  # fmt: skip
                meeting = Meeting(chunking=chunking, chunk_size=7)
                result = self.sent(meeting, SENDER, [JOE], make())
                self.assertEqual((result.taken, content(meeting)), ((JOE,), MESSAGE))

    def test_large(self) -> None:
        """Much content arrives as it was, by DATA and in many chunks, with dots in all places."""
        large = b".a\r\n..\r\n.\r\n" * 100_000
        for options in ({"chunking": False}, {"chunk_size": 30_000}, {}):
            for given in (large, BytesIO(large)):
                meeting = Meeting(settings={"message_size": 10_000_000}, **options)
                self.sent(meeting, SENDER, [JOE], given)
                self.assertEqual(content(meeting), large, options)

    def test_last_line(self) -> None:
        """A last line without an end gets one, by DATA as by BDAT."""
        for chunking in (True, False):
            for given in (b"a: b\r\n\r\nx", [b"a: b\r\n\r\n", b"x"], [b"a: b\r\n\r\nx\r", b"\n"]):
                meeting = Meeting(chunking=chunking)
                self.sent(meeting, SENDER, [JOE], given)
                self.assertEqual(content(meeting), b"a: b\r\n\r\nx\r\n")

    def test_damage(self) -> None:
        """Bare CR, bare LF and NUL never leave; what is in memory is looked at before anything is sent."""
        for damaged in (b"a\nb\r\n", b"a\rb\r\n", b"a\0\r\n", b"a\r"):
            for chunking in (True, False):
                meeting = Meeting(chunking=chunking)
                self.failure(meeting.connection.send(SENDER, [JOE], damaged), ContentRefused)
                self.assertEqual(meeting.transport.take(), b"")
                self.assertTrue(meeting.connection.usable)

    def test_damage_in_a_stream(self) -> None:
        """Damage that is found while content is sent ends the message: by RSET after BDAT, by closing after DATA."""
        for chunking in (True, False):
            meeting = Meeting(chunking=chunking, chunk_size=5)
            done = meeting.connection.send(SENDER, [JOE], [b"good\r\n", b"more\r\n", b"bad\n"])
            meeting.meet()
            self.failure(done, ContentRefused)
            self.assertEqual(
                [each.finished for each in meeting.backend.messages], [False] * len(meeting.backend.messages)
            )
            self.assertEqual(meeting.connection.usable, chunking)

    def test_normalize(self) -> None:
        """On request bare line ends become CRLF."""
        for given in (b"a: b\n\nx\ry\r\n", BytesIO(b"a: b\n\nx\ry\r\n"), [b"a: b\n\nx\r", b"y\r", b"\n"]):
            meeting = Meeting()
            self.sent(meeting, SENDER, [JOE], given, normalize=True)
            self.assertEqual(content(meeting), b"a: b\r\n\r\nx\r\ny\r\n")

    def test_no_content(self) -> None:
        """What cannot be content is refused with a TypeError."""
        self.failureResultOf(Meeting().connection.send(SENDER, [JOE], "text"), TypeError)  # type: ignore[arg-type]

    def test_broken_source(self) -> None:
        """What the source raises, the caller gets; the message is not delivered."""

        def pieces() -> Any:
            yield b"first\r\n"
            raise OSError("disk")

        for chunking in (True, False):
            meeting = Meeting(chunking=chunking)
            done = meeting.connection.send(SENDER, [JOE], pieces())
            meeting.meet()
            self.failureResultOf(done, OSError)
            self.assertFalse(any(each.finished for each in meeting.backend.messages))

    def test_backpressure(self) -> None:
        """While the transport is full no more is asked of the source."""
        talk = Talk(chunking=False).greeted()
        asked: list[int] = []

        async def pieces() -> AsyncIterator[bytes]:
            for number in range(3):
                asked.append(number)
                yield b"x\r\n"

        talk.connection.send(SENDER, [JOE], pieces())
        talk.protocol.pauseProducing()
        talk.receive(TAKEN, TAKEN, b"354 go\r\n")
        self.assertEqual(asked, [0])
        talk.protocol.resumeProducing()
        self.assertEqual(asked, [0, 1, 2])

    def test_slow_source(self) -> None:
        """A source may wait: the rest follows when it goes on."""
        gate: Deferred[None] = Deferred()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"a: b\r\n\r\n"
            await gate
            yield b"late\r\n"

        meeting = Meeting()
        done = meeting.connection.send(SENDER, [JOE], pieces())
        meeting.meet()
        meeting.clock.advance(10_000)
        self.assertNoResult(done)
        gate.callback(None)
        meeting.meet()
        self.assertEqual((self.successResultOf(done).taken, content(meeting)), ((JOE,), b"a: b\r\n\r\nlate\r\n"))


class PipeliningTests(ClientTestCase):
    def test_one_write_by_bdat(self) -> None:
        """With CHUNKING a small message leaves in one write, and its replies end it."""
        talk = Talk().greeted(CHUNKING)
        talk.transport.writes.clear()
        done = talk.connection.send(SENDER, [JOE, ANN], MESSAGE)
        self.assertEqual(len(talk.transport.writes), 1)
        self.assertIn(b"BDAT 26 LAST\r\nSubject", talk.transport.take())
        talk.receive(TAKEN * 4)
        self.assertEqual(self.successResultOf(done).taken, (JOE, ANN))

    def test_two_writes_by_data(self) -> None:
        """With PIPELINING alone the envelope leaves in one write, DATA with it, and the content in another."""
        talk = Talk().greeted()
        talk.transport.writes.clear()
        talk.connection.send(SENDER, [JOE], MESSAGE)
        self.assertEqual(talk.transport.take().count(b"\r\n"), 3)
        self.assertEqual(talk.receive(TAKEN * 2 + b"354 go\r\n"), b"Subject: x\r\n\r\ntext\r\n..dot\r\n.\r\n")

    def test_one_by_one(self) -> None:
        """Without PIPELINING each command waits for the reply to the one before."""
        talk = Talk().greeted(BARE)
        done = talk.connection.send(SENDER, [JOE, ANN], MESSAGE)
        self.assertEqual(talk.transport.take(), b"MAIL FROM:<a@x.example>\r\n")
        self.assertEqual(talk.receive(TAKEN), b"RCPT TO:<joe@y.example>\r\n")
        self.assertEqual(talk.receive(b"550 5.1.1 no\r\n"), b"RCPT TO:<ann@y.example>\r\n")
        self.assertEqual(talk.receive(TAKEN), b"DATA\r\n")
        self.assertTrue(talk.receive(b"354 go\r\n").endswith(b"\r\n.\r\n"))
        talk.receive(TAKEN)
        self.assertEqual(self.successResultOf(done).refused, {JOE: Reply(550, "no", "5.1.1")})

    def test_nobody_taken_after_354(self) -> None:
        """If DATA was asked for and nobody is taken, a lone dot ends it (RFC 2920 §3.1), and RSET follows."""
        talk = Talk().greeted()
        done = talk.connection.send(SENDER, [JOE], MESSAGE)
        talk.transport.take()
        self.assertEqual(talk.receive(TAKEN, b"550 5.1.1 no\r\n", b"354 go\r\n"), b".\r\n")
        self.assertEqual(talk.receive(b"554 no valid recipients\r\n"), b"RSET\r\n")
        self.assertNoResult(done)
        talk.receive(TAKEN)
        error = self.failure(done, Refused)
        self.assertEqual((error.reply.code, error.result.refused[JOE].code), (550, 550))
        self.assertTrue(talk.connection.usable)

    def test_sender_refused(self) -> None:
        """If the sender is refused, everybody shares that refusal, whatever was said of them."""
        talk = Talk().greeted()
        done = talk.connection.send(SENDER, [JOE, ANN], MESSAGE)
        talk.receive(b"550 5.7.1 not you\r\n" + b"503 5.5.1 MAIL first\r\n" * 3)
        error = self.failure(done, Refused)
        self.assertEqual({reply.code for reply in error.result.refused.values()}, {550})
        self.assertTrue(talk.connection.usable)

    def test_chunk_refused(self) -> None:
        """A refused chunk ends the message: no more are sent, RSET follows, and its reply is everybody's."""
        talk = Talk(chunk_size=10).greeted(CHUNKING)
        done = talk.connection.send(SENDER, [JOE], [b"12345678\r\n"] * 50)
        talk.transport.take()
        sent = talk.receive(TAKEN, TAKEN)
        self.assertEqual(sent.count(b"BDAT"), 4)
        self.assertEqual(talk.receive(b"552 5.3.4 too big\r\n"), b"RSET\r\n")
        talk.receive(b"503 5.5.1 no\r\n" * 3 + TAKEN)
        self.assertEqual(self.failure(done, Refused).reply.code, 552)
        self.assertTrue(talk.connection.usable)

    def test_waits_for_recipients(self) -> None:
        """Much content is not sent before somebody was taken."""
        talk = Talk().greeted(CHUNKING)
        done = talk.connection.send(SENDER, [JOE], b"x\r\n" * 100_000)
        self.assertNotIn(b"BDAT", talk.transport.take())
        self.assertEqual(talk.receive(TAKEN, b"550 no\r\n"), b"RSET\r\n")
        talk.receive(TAKEN)
        self.failure(done, Refused)


class RecipientTests(ClientTestCase):
    def test_some_refused(self) -> None:
        """Each recipient has its own reply; the message goes to those who were taken."""
        for chunking in (True, False):
            meeting = Meeting(ScriptedBackend(rcpt=[None, NO_SUCH_USER]), chunking=chunking)
            result = self.sent(meeting, SENDER, [JOE, ANN], MESSAGE)
            self.assertEqual((result.taken, result.refused), ((JOE,), {ANN: NO_SUCH_USER}))
            self.assertEqual(len(meeting.backend.messages[0].recipients), 1)

    def test_lmtp(self) -> None:
        """Over LMTP each recipient has a reply after the content too."""
        for chunking in (True, False):
            backend = ScriptedBackend(rcpt=[None, NO_SUCH_USER, None], finish=[[None, FULL]])
            meeting = Meeting(backend, role=Role.LMTP, chunking=chunking)
            result = self.sent(meeting, SENDER, [JOE, "x@y.example", ANN], MESSAGE)
            self.assertEqual((result.taken, list(result.refused)), ((JOE,), ["x@y.example", ANN]))
            self.assertTrue(meeting.connection.usable)

    def test_prdr(self) -> None:
        """With PRDR each recipient has its own reply over SMTP too."""
        meeting = Meeting(ScriptedBackend(finish=[[None, NO_SUCH_USER]]), enable=["PRDR"])
        result = self.sent(meeting, SENDER, [JOE, ANN], MESSAGE, params={"PRDR": True})
        self.assertEqual((result.taken, result.refused), ((JOE,), {ANN: NO_SUCH_USER}))

    def test_rcptmax(self) -> None:
        """More recipients than the server takes at once get the message in several transactions (RFC 9422)."""
        meeting = Meeting(settings={"recipients": 2})
        result = self.sent(meeting, SENDER, [f"u{n}@y.example" for n in range(5)], MESSAGE)
        self.assertEqual(result.taken, tuple(f"u{n}@y.example" for n in range(5)))
        self.assertEqual([len(each.recipients) for each in meeting.backend.messages], [2, 2, 1])

    def test_rcptmax_of_a_stream(self) -> None:
        """What can be sent once only cannot be split."""
        meeting = Meeting(settings={"recipients": 2})
        self.failure(meeting.connection.send(SENDER, [JOE, ANN, SENDER], iter([MESSAGE])), LimitReached)

    def test_no_room(self) -> None:
        """Recipients for whom there is no room (452) get the message in the next transaction."""
        meeting = Meeting(ScriptedBackend(rcpt=[None, FULL, FULL, None, FULL, None]))
        result = self.sent(meeting, SENDER, [JOE, ANN, "c@y.example"], MESSAGE)
        self.assertEqual((result.taken, result.refused), ((JOE, ANN, "c@y.example"), {}))
        self.assertEqual([len(each.recipients) for each in meeting.backend.messages], [1, 1, 1])

    def test_no_room_at_all(self) -> None:
        """If nobody more is taken, it is not tried again."""
        meeting = Meeting(ScriptedBackend(rcpt=[None, FULL, FULL, FULL]))
        result = self.sent(meeting, SENDER, [JOE, ANN], MESSAGE)
        self.assertEqual((result.taken, result.refused), ((JOE,), {ANN: FULL}))

    def test_mailmax(self) -> None:
        """After as many messages as the server takes on a connection it is not used further."""
        meeting = Meeting(settings={"messages": 1})
        self.sent(meeting, SENDER, [JOE], MESSAGE)
        self.assertFalse(meeting.connection.usable)
        self.failure(meeting.connection.send(SENDER, [JOE], MESSAGE), LimitReached)

    def test_nobody(self) -> None:
        """A message needs a recipient."""
        self.failureResultOf(Meeting().connection.send(SENDER, [], MESSAGE), ValueError)


class ExtensionTests(ClientTestCase):
    def test_parameters(self) -> None:
        """What is said with each extension arrives at the hooks as the same values."""
        when = datetime(2026, 1, 31, 12, tzinfo=UTC)
        params = {
            "RET": Ret.HDRS, "ENVID": "a b+c", "BY": DeliverBy(600, ByMode.NOTIFY, True), "MT-PRIORITY": 4,
            "XOORG": "x.example",
        }  # fmt: skip
        own = {
            "NOTIFY": frozenset({Notify.SUCCESS, Notify.DELAY}), "ORCPT": OriginalRecipient("rfc822", "a+b@x.example"),
            "RRVS": ValidSince(when),
        }  # fmt: skip
        meeting = Meeting(enable=["DELIVERBY", "MT-PRIORITY", "XOORG", "RRVS"])
        result = self.sent(meeting, SENDER, [Recipient(Address("joe", "y.example"), own)], MESSAGE, params=params)
        envelope = meeting.backend.messages[0].envelope
        self.assertEqual(dict(envelope.mail_params), {"SIZE": len(MESSAGE), **params})
        self.assertEqual(dict(envelope.recipients[0].params), own)
        self.assertEqual(result.dropped, ())

    def test_chunk_size(self) -> None:
        """No chunk is larger than the options say, in however large pieces the content comes."""
        content = b"x" * 98 + b"\r\n" + b"y" * 2500 + b"\r\n"
        for source in (BytesIO(content), [content[:700], content[700:]]):
            talk = Talk(chunk_size=1000).greeted(CHUNKING)
            done = talk.connection.send(SENDER, [JOE], source)
            sent = talk.receive(TAKEN * 2)
            sizes = [int(each) for each in re.findall(rb"BDAT (\d+)", sent)]
            self.assertEqual((sum(sizes), max(sizes) <= 1000), (len(content), True))
            talk.receive(TAKEN * len(sizes))
            self.assertEqual(self.successResultOf(done).taken, (JOE,))

    def test_names_in_any_case(self) -> None:
        """The names of parameters count in any case, where something hangs on them too."""
        for params in ({"RequireTLS": True}, {"body": "BINARYMIME"}, {"smtputf8": True}):
            with self.subTest(params=params):
                talk = Talk().greeted(EHLO.replace(b"250 ", b"250-REQUIRETLS\r\n250 "))
                self.failure(talk.connection.send(SENDER, [JOE], MESSAGE, params=params), Unsupported)
                self.failure(talk.connection.transaction().mail(SENDER, params), Unsupported)
                self.assertEqual(talk.transport.take(), b"")

    def test_passed_on(self) -> None:
        """What one server has taken, the client can say to the next as it is."""
        first = Meeting()
        self.sent(first, SENDER, [JOE], MESSAGE, params={"RET": Ret.FULL}, recipient_params={"NOTIFY": {Notify.NEVER}})
        envelope = first.backend.messages[0].envelope
        second = Meeting()
        self.sent(second, envelope.sender, envelope.recipients, MESSAGE, params=envelope.mail_params)
        again = second.backend.messages[0].envelope
        self.assertEqual(again.mail_params, envelope.mail_params)
        self.assertEqual(again.recipients, envelope.recipients)

    def test_hold(self) -> None:
        """FUTURERELEASE is said to a server for submission."""
        meeting = Meeting(enable=["FUTURERELEASE"], role=Role.SUBMISSION, settings={"require_auth": False})
        self.sent(meeting, SENDER, [JOE], MESSAGE, params={"HOLDFOR": 60})
        self.assertEqual(meeting.backend.messages[0].envelope.mail_params["HOLDFOR"], 60)

    def test_binary(self) -> None:
        """Binary content arrives octet by octet (RFC 3030 §3)."""
        given = bytes(range(256)) * 1000 + b"\r"
        meeting = Meeting()
        self.sent(meeting, SENDER, [JOE], given, params={"BODY": Body.BINARY_MIME})
        self.assertTrue(meeting.backend.messages[0].content.endswith(given))

    def test_eight_bit(self) -> None:
        """Content of 8 bits is declared, and refused by a server without 8BITMIME before anything is sent."""
        given = "a: b\r\n\r\nGr\u00fc\u00dfe\r\n".encode()
        meeting = Meeting()
        self.sent(meeting, SENDER, [JOE], given)
        self.assertIs(meeting.backend.messages[0].envelope.mail_params["BODY"], Body.EIGHT_BIT_MIME)
        talk = Talk().greeted(BARE)
        self.failure(talk.connection.send(SENDER, [JOE], given), Unsupported)
        self.assertEqual(talk.transport.take(), b"")

    def test_eight_bit_in_a_stream(self) -> None:
        """What turns out to be of 8 bits only later is not sent to a server without 8BITMIME."""
        talk = Talk().greeted(BARE)
        done = talk.connection.send(SENDER, [JOE], iter([b"a: b\r\n\r\n", b"\xe4\r\n"]))
        sent = talk.receive(TAKEN, TAKEN, b"354 go\r\n")
        self.assertNotIn(b"\xe4", sent)
        self.failure(done, ContentRefused)
        self.assertTrue(talk.transport.disconnected or talk.transport.disconnecting)

    def test_international(self) -> None:
        """Addresses and headers beyond ASCII ask for SMTPUTF8, and are refused where that lacks."""
        header = "Subject: Gr\u00fc\u00dfe\r\n\r\nx\r\n".encode()
        for to, given in (("j\u00fc@y.example", MESSAGE), (JOE, header)):
            meeting = Meeting()
            self.sent(meeting, SENDER, [to], given)
            self.assertTrue(meeting.backend.messages[0].envelope.utf8)
            talk = Talk().greeted(EHLO)
            self.failure(talk.connection.send(SENDER, [to], given), Unsupported)

    def test_size(self) -> None:
        """A message that is larger than the server takes is not begun."""
        meeting = Meeting(settings={"message_size": 100})
        error = self.failure(meeting.connection.send(SENDER, [JOE], b"x" * 101), LimitReached)
        self.assertIn("100", str(error))
        self.assertEqual(meeting.backend.called("mail"), [])

    def test_xclient_xforward(self) -> None:
        """XCLIENT makes the connection another's, XFORWARD tells where a message came from."""
        meeting = Meeting(
            settings={"trusted_proxies": (ip_network("192.0.2.0/24"),)},
            xclient={"ADDR": "203.0.113.9", "HELO": "far.example"},
        )
        self.sent(meeting, SENDER, [JOE], MESSAGE, forward={"ADDR": "203.0.113.1", "HELO": None, "WHAT": 1})
        envelope = meeting.backend.messages[0].envelope
        self.assertEqual(envelope.peer.host, "203.0.113.9")
        self.assertEqual(envelope.forwarded, Forwarded(address="203.0.113.1"))

    def test_xclient_without_trust(self) -> None:
        """A server that does not trust us with XCLIENT is not used."""
        self.failure(Meeting(xclient={"ADDR": "203.0.113.9"}).opened, Unsupported)


class ReuseTests(ClientTestCase):
    def test_many(self) -> None:
        """A connection carries one message after the other, good and bad."""
        backend = ScriptedBackend(rcpt=[None, NO_SUCH_USER, None], finish=[OK, FULL])
        meeting = Meeting(backend)
        self.sent(meeting, SENDER, [JOE], MESSAGE)
        for _ in range(2):
            done = meeting.connection.send(SENDER, [JOE], MESSAGE)
            meeting.meet()
            self.failure(done, Refused)
        self.sent(meeting, SENDER, [JOE], MESSAGE)
        self.assertEqual(meeting.connection.sent, 4)

    def test_busy(self) -> None:
        """Commands and transactions while a message is on its way are an error of the program."""
        talk = Talk().greeted()
        talk.connection.send(SENDER, [JOE], MESSAGE)
        self.assertRaises(RuntimeError, talk.connection.transaction)
        self.assertRaises(RuntimeError, talk.connection.noop)
        self.assertFalse(talk.connection.usable)
        talk = Talk().greeted()
        talk.connection.transaction()
        self.assertRaises(RuntimeError, talk.connection.send, SENDER, [JOE], MESSAGE)

    def test_commands(self) -> None:
        """NOOP, RSET and any other command give their reply."""
        meeting = Meeting()
        for done in (meeting.connection.noop(), meeting.connection.reset(), meeting.connection.command("VRFY", "joe")):
            meeting.meet()
            self.assertEqual(self.successResultOf(done).code // 100, 2)

    def test_quit(self) -> None:
        """After QUIT the connection is closed, also where the server never answers."""
        talk = Talk().greeted()
        done = talk.connection.quit()
        self.assertEqual(talk.transport.take(), b"QUIT\r\n")
        self.assertNoResult(done)
        talk.receive(b"221 bye\r\n")
        self.successResultOf(done)
        talk = Talk().greeted()
        done = talk.connection.quit()
        for _ in range(60):
            talk.clock.advance(1)
            talk.settle()
        self.successResultOf(done)
        self.assertEqual(talk.clock.getDelayedCalls(), [])

    def test_quit_held(self) -> None:
        """A connection that stays open after QUIT is broken off."""
        talk = Talk().greeted()
        done = talk.connection.quit()
        talk.protocol.dataReceived(b"221 bye\r\n")
        self.assertTrue(talk.transport.disconnecting)
        self.assertNoResult(done)
        talk.clock.pump([1] * 15)
        self.assertIsInstance(talk.connection.error, TimedOut)

    def test_cancel(self) -> None:
        """To cancel a sending closes the connection: nothing is delivered later."""
        talk = Talk().greeted()
        done = talk.connection.send(SENDER, [JOE], MESSAGE)
        done.addErrback(lambda _: None)
        done.cancel()
        self.assertTrue(talk.transport.gone)
        self.assertIsNotNone(talk.connection.error)

    def test_source_is_closed(self) -> None:
        """A source that waits for something is ended with the connection, and with the sending."""
        closed: list[str] = []

        async def pieces() -> Any:
            try:
                yield b"Subject: x\r\n"
                await Deferred()
            finally:
                closed.append("closed")

        for end in (lambda talk, done: talk.hang_up(), lambda talk, done: done.cancel()):
            closed.clear()
            talk = Talk().greeted()
            done = talk.connection.send(SENDER, [JOE], pieces())
            talk.receive(TAKEN, TAKEN, b"354 go\r\n")
            self.assertEqual(closed, [])
            end(talk, done)
            self.failureResultOf(done)
            self.assertEqual(closed, ["closed"])

    def test_source_closes(self) -> None:
        """A source may close the connection itself."""

        def pieces() -> Any:
            yield b"Subject: x\r\n"
            talk.connection.abort()
            yield b"\r\n"

        talk = Talk().greeted()
        done = talk.connection.send(SENDER, [JOE], pieces())
        talk.receive(TAKEN, TAKEN, b"354 go\r\n")
        self.failureResultOf(done)
        self.assertTrue(talk.transport.gone)


class QueueTests(ClientTestCase):
    def test_follows_the_content(self) -> None:
        """The envelope of the next message leaves with the end of the one before (RFC 2920 §3.1), in one write."""
        talk = Talk().greeted()
        first, second = (talk.connection.send(SENDER, [to], MESSAGE) for to in (JOE, ANN))
        self.assertEqual(talk.transport.take().count(b"MAIL"), 1)
        talk.transport.writes.clear()
        sent = talk.receive(TAKEN * 2 + b"354 go\r\n")
        self.assertTrue(
            sent.endswith(b"\r\n.\r\nMAIL FROM:<a@x.example> SIZE=26\r\nRCPT TO:<ann@y.example>\r\nDATA\r\n")
        )
        self.assertEqual(len(talk.transport.writes), 1)
        talk.receive(b"550 5.7.1 spam\r\n" + TAKEN * 2 + b"354 go\r\n", TAKEN)
        self.failure(first, Refused)
        self.assertEqual(self.successResultOf(second).taken, (ANN,))
        self.assertTrue(talk.connection.usable)

    def test_by_bdat(self) -> None:
        """Behind a message that left whole, the next one begins with RSET: nobody may have been taken."""
        talk = Talk().greeted(CHUNKING)
        dones = [talk.connection.send(SENDER, [JOE], MESSAGE) for _ in range(3)]
        sent = talk.transport.take()
        self.assertEqual((sent.count(b"MAIL"), sent.count(b"RSET")), (2, 1))
        sent = talk.receive(TAKEN + b"550 no\r\n503 no\r\n")
        self.assertEqual((sent.count(b"MAIL"), sent.count(b"RSET")), (1, 1))
        talk.receive(TAKEN * 8)
        self.failure(dones[0], Refused)
        self.assertEqual([self.successResultOf(done).taken for done in dones[1:]], [(JOE,)] * 2)

    def test_one_after_the_other(self) -> None:
        """Without PIPELINING, and behind a message that needs a reset, the next one waits."""
        talk = Talk().greeted(BARE)
        dones = [talk.connection.send(SENDER, [JOE], MESSAGE) for _ in range(2)]
        self.assertTrue(talk.receive(TAKEN, b"550 no\r\n").endswith(b"RCPT TO:<joe@y.example>\r\nRSET\r\n"))
        self.assertEqual(talk.receive(TAKEN), b"MAIL FROM:<a@x.example>\r\n")
        talk.receive(TAKEN, TAKEN, b"354 go\r\n", TAKEN)
        self.failure(dones[0], Refused)
        self.successResultOf(dones[1])

    def test_many_to_our_server(self) -> None:
        """Our server takes many messages from one connection, by DATA and by BDAT, in order."""
        for chunking in (True, False):
            meeting = Meeting(ScriptedBackend(rcpt=[None, NO_SUCH_USER]), chunking=chunking)
            dones = [meeting.connection.send(SENDER, [f"u{n}@y.example"], MESSAGE) for n in range(20)]
            meeting.meet()
            self.failure(dones.pop(1), Refused)
            self.assertEqual([self.successResultOf(done).taken for done in dones], [
                (f"u{n}@y.example",) for n in range(20) if n != 1
            ])  # fmt: skip

    def test_lost(self) -> None:
        """If the connection is lost, each message fails; only the one whose end was sent may have been delivered."""
        talk = Talk().greeted()
        dones = [talk.connection.send(SENDER, [JOE], MESSAGE) for _ in range(2000)]
        talk.receive(TAKEN * 2 + b"354 go\r\n")
        talk.hang_up()
        errors = [self.failure(done) for done in dones]
        self.assertEqual([each.maybe_delivered for each in errors], [True] + [False] * 1999)

    def test_after_a_command(self) -> None:
        """Without PIPELINING a message waits for the reply to a command, and to the RSET of a transaction."""
        talk = Talk().greeted(BARE)
        talk.connection.noop()
        talk.connection.send(SENDER, [JOE], MESSAGE)
        self.assertEqual(talk.transport.take(), b"NOOP\r\n")
        self.assertEqual(talk.receive(TAKEN), b"MAIL FROM:<a@x.example>\r\n")
        talk = Talk().greeted(BARE)
        transaction = talk.connection.transaction()
        transaction.mail(SENDER)
        talk.receive(TAKEN)
        transaction.abort()
        talk.connection.send(SENDER, [JOE], MESSAGE)
        self.assertEqual(talk.transport.take(), b"RSET\r\n")
        self.assertEqual(talk.receive(TAKEN), b"MAIL FROM:<a@x.example>\r\n")

    def test_source_is_closed(self) -> None:
        """What gives the content is closed when it is not needed any more."""
        closed: list[bool] = []

        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x\r\n"
            finally:
                closed.append(True)

        talk = Talk(chunking=False).greeted()
        done = talk.connection.send(SENDER, [JOE], pieces())
        talk.protocol.pauseProducing()
        talk.receive(TAKEN * 2 + b"354 go\r\n")
        talk.hang_up()
        self.failure(done)
        self.assertEqual(closed, [True])

    def test_cancel_before_its_turn(self) -> None:
        """To cancel a message that was not begun takes it out, and no more."""
        talk = Talk().greeted()
        first = talk.connection.send(SENDER, [JOE], MESSAGE)
        second = talk.connection.send(SENDER, [ANN], MESSAGE)
        second.addErrback(lambda _: None)
        second.cancel()
        talk.receive(TAKEN * 2 + b"354 go\r\n", TAKEN)
        self.successResultOf(first)
        self.assertTrue(talk.connection.usable)
