"""Tests of smtpsvc.testing: the client in memory and the backend that follows a script."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc import testing
from smtpsvc.checkers import make_portal
from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import PermanentError, Reply
from smtpsvc.interfaces import IBackend, IDelivery, IGreeting, ISecured, ISession, IVerifier
from smtpsvc.settings import Limits, Role, Settings
from smtpsvc.testing import ScriptedBackend, Wire, WireTransport, clocked_factory, parse_replies
from smtpsvc.values import Envelope, Peer, TLSInfo
from tests.logins import PASSWORD, joes
from tests.support import MESSAGE, connect, given, settings_with, st, uncounted

TLS13 = TLSInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384")
CLIENT = IPv4Address("TCP", "192.0.2.1", 50000)
REPLY = st.builds(Reply, st.integers(200, 599), st.text(alphabet="ab \n", min_size=1, max_size=600))


class Echo(Protocol):
    """Notes what it is told, and sends it back."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def dataReceived(self, data: bytes) -> None:
        """Note and send back."""
        self.notes.append(data)
        assert self.transport is not None
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        """Note it."""
        self.notes.append("end")

    def connectionLost(self, reason: Any = None) -> None:
        """Note why."""
        self.notes.append(reason.type)


def echo() -> Wire:
    """Connect to something that is no SMTP server."""
    return Wire(Factory.forProtocol(Echo))


class NamesTests(SynchronousTestCase):
    def test_all(self) -> None:
        """Every public name is there and has a docstring."""
        for name in testing.__all__:
            with self.subTest(name=name):
                self.assertTrue(getattr(testing, name).__doc__)


class ParseTests(SynchronousTestCase):
    def test_replies(self) -> None:
        """Replies are parsed with their lines, and their enhanced codes apart."""
        output = b"220 mx.example\r\n250-2.0.0 One\r\n250 2.0.0 Two\r\n354 Go\r\n550 5.7.1 \r\n"
        first, last = Reply(220, "mx.example"), Reply(550, "", "5.7.1")
        self.assertEqual(parse_replies(output), [first, Reply(250, "One\nTwo", "2.0.0"), Reply(354, "Go"), last])
        self.assertEqual(parse_replies(b""), [])

    def test_other_numbers(self) -> None:
        """What only looks like an enhanced code is text."""
        for text in ("2.0.0", "5.7.1 x", "2.0 x", "2.0.0.0 x", "192.0.2.1 x"):
            with self.subTest(text=text):
                self.assertEqual(parse_replies(f"250 {text}\r\n".encode()), [Reply(250, text)])

    def test_malformed(self) -> None:
        """What is no sequence of whole replies is a ValueError."""
        outputs = (
            *(b"250 OK", b"250 OK\r", b"250 OK\n", b"\r\n", b"250\r\n", b"25 OK\r\n", b"2500 OK\r\n", b"abc OK\r\n"),
            *(b"250 a\nb\r\n", b"250 a\rb\r\n", b"250 \xff\r\n", b"250 a\0\r\n", b"250 " + b"x" * 507 + b"\r\n"),
            *(b"099 a\r\n", b"250-a\r\n", b"250-a\r\n550 b\r\n", b"250 OK\r\n250-a\r\n", b"250 OK\r\n\r\n", b"1"),
            *(b"600 a\r\n", b"250_a\r\n"),
        )
        for output in outputs:
            with self.subTest(output=output):
                self.assertRaises(ValueError, parse_replies, output)

    def test_longest(self) -> None:
        """A line may have 512 octets."""
        self.assertEqual(len(parse_replies(b"250 " + b"x" * 506 + b"\r\n")[0].text), 506)

    @given(st.lists(REPLY))
    def test_any(self, sent: list[Reply]) -> None:
        """Whatever replies are sent, as many are found, with their codes."""
        output = b"".join(reply.wire(False) for reply in sent)
        self.assertEqual([reply.code for reply in parse_replies(output)], [reply.code for reply in sent])


class WireTests(SynchronousTestCase):
    def test_connects(self) -> None:
        """A wire connects at once, from the address that the test says."""
        wire = connect()
        self.assertEqual(wire.transport.value()[:4], b"220 ")
        self.assertEqual(wire.protocol.conversation.peer.address, CLIENT)
        address = UNIXAddress(b"/run/x")
        factory, _ = clocked_factory(ScriptedBackend())
        self.assertIs(Wire(factory, address).protocol.conversation.peer.address, address)

    def test_any_protocol(self) -> None:
        """A wire carries anything that a factory builds."""
        self.assertEqual(echo().receive(b"abc").receive(b"d").output, b"abcd")

    def test_say(self) -> None:
        """Each line that is said is a packet with CRLF; str is UTF-8."""
        wire = echo().say("a", b"\xff", "ä")
        self.assertEqual(wire.protocol.notes, [b"a\r\n", b"\xff\r\n", b"\xc3\xa4\r\n"])

    def test_forget(self) -> None:
        """Replies and counts start afresh."""
        wire = connect().say("NOOP").forget()
        self.assertEqual((wire.output, wire.replies, wire.codes, wire.write_count), (b"", [], [], 0))
        wire.say("NOOP", "FOO")
        self.assertEqual((wire.codes, wire.write_count, wire.last_reply.code), ([250, 500], 2, 500))

    def test_greeted(self) -> None:
        """greeted says EHLO, and its reply does not count."""
        backend = ScriptedBackend()
        self.assertEqual(connect(backend).greeted("me.example").replies, [])
        self.assertEqual(backend.called("helo"), [("me.example",)])

    def test_paused(self) -> None:
        """While the server does not read, what the client sends waits, in order."""
        wire = echo()
        wire.transport.pauseProducing()
        wire.receive(b"a").receive(b"b").shut_down_sending()
        self.assertEqual((wire.protocol.notes, wire.reading), ([], False))
        wire.transport.resumeProducing()
        self.assertEqual((wire.protocol.notes, wire.reading), ([b"a", b"b", "end"], True))

    def test_never_nested(self) -> None:
        """What is delivered while the protocol is taking something comes after it."""
        wire = echo()
        wire.transport.write = lambda data: data == b"a" and wire.receive(b"b")  # type: ignore[assignment,return-value]
        wire.receive(b"a")
        self.assertEqual(wire.protocol.notes, [b"a", b"b"])

    def test_closed(self) -> None:
        """A connection that the server closes is lost, cleanly, and nothing more is delivered."""
        wire = echo()
        wire.transport.loseConnection()
        wire.receive(b"a").receive(b"b")
        self.assertTrue(wire.closed)
        self.assertEqual(wire.protocol.notes, [ConnectionDone])

    def test_hang_up(self) -> None:
        """The client can hang up, once, with a reason or without."""
        self.assertEqual(echo().hang_up().hang_up().protocol.notes, [ConnectionLost])
        self.assertEqual(echo().hang_up(ConnectionDone()).protocol.notes, [ConnectionDone])

    def test_not_taking(self) -> None:
        """A client that takes no replies makes the server pause past 64 KiB, and go on when it takes them."""
        wire = connect(settings=uncounted()).stop_taking()
        for _ in range(2000):
            wire.say("HELP")
        self.assertFalse(wire.reading)
        held = len(wire.replies)
        self.assertLess(len(wire.output), 2 * WireTransport.BUFFER_SIZE)
        wire.take()
        self.assertTrue(wire.reading)
        self.assertLess(held, 2000)
        self.assertEqual(wire.codes, [214] * 2000)


class HelperTests(SynchronousTestCase):
    def test_send(self) -> None:
        """A message is sent whole, its dots doubled, and the replies to it are given."""
        backend = ScriptedBackend()
        wire = connect(backend, settings_with(add_received=False)).greeted().say("NOOP")
        given = wire.send("a@x.example", "b@y.example", "c@y.example", content="a\n.\n..b")
        self.assertEqual([reply.code for reply in given], [250, 250, 250, 354, 250])
        self.assertEqual(backend.messages[0].content, b"a\r\n.\r\n..b\r\n")
        self.assertEqual(str(backend.messages[0].recipients[1]), "c@y.example")

    def test_send_refused(self) -> None:
        """Without a 354 no content is sent."""
        wire = connect(ScriptedBackend(rcpt=PermanentError("No", "5.1.1"))).greeted()
        self.assertEqual([reply.code for reply in wire.send("", "b@y.example", content=b"QUIT")], [250, 550, 503])
        self.assertFalse(wire.closed)

    def test_lmtp(self) -> None:
        """To an LMTP listener LHLO is said, and each recipient has a reply."""
        factory, _ = clocked_factory(ScriptedBackend(), role=Role.LMTP)
        given = Wire(factory).greeted().send("a@x.example", "b@y.example", "c@y.example", content="x")
        self.assertEqual([reply.code for reply in given], [250, 250, 250, 354, 250, 250])

    def test_log_in(self) -> None:
        """A client logs in, or does not."""
        wire = connect(settings=settings_with(allow_insecure_auth=True), portal=make_portal([joes()])).greeted()
        self.assertEqual(wire.log_in("joe", "wrong").last_reply.code, 535)
        self.assertEqual(wire.log_in("joe", PASSWORD).last_reply.code, 235)
        self.assertEqual(wire.protocol.conversation.peer.account.name, "joe")

    def test_pretend_tls(self) -> None:
        """A connection may count as one with TLS: the dialogue begins anew, and the session is told."""
        backend = ScriptedBackend(provides=[ISecured])
        wire = connect(backend, settings_with(require_auth=False), portal=make_portal([joes()])).greeted()
        self.assertNotIn("PLAIN", wire.say("EHLO x").last_reply.text)
        wire.pretend_tls().forget().say("MAIL FROM:<>", "EHLO x")
        self.assertEqual(wire.codes, [503, 250])
        self.assertIn(" PLAIN", wire.last_reply.text)
        self.assertEqual((backend.called("secured"), backend.called("reset")[-1]), ([(TLS13,)], (None, True)))

    def test_what_tls(self) -> None:
        """The test says what the TLS is."""
        backend = ScriptedBackend()
        connect(backend).greeted().pretend_tls(TLSInfo("TLSv1.2", "X")).greeted()
        self.assertEqual(backend.sessions[0].peer.tls, TLSInfo("TLSv1.2", "X"))


class ClockTests(SynchronousTestCase):
    def test_time_passes_when_told(self) -> None:
        """A deadline passes when the clock is moved on."""
        factory, clock = clocked_factory(ScriptedBackend(), Settings(limits=Limits(command_timeout=10)))
        wire = Wire(factory).greeted()
        clock.advance(5)
        self.assertFalse(wire.closed)
        clock.pump([1] * 10)
        self.assertEqual((wire.replies, wire.closed), ([replies.TIMED_OUT], True))

    def test_wall_clock(self) -> None:
        """The time of day is the clock's too: it begins with 1970."""
        backend = ScriptedBackend()
        connect(backend).greeted().receive(MESSAGE)
        self.assertIn(b"Thu, 1 Jan 1970 00:00:00 +0000", backend.messages[0].content)


class ScriptTests(SynchronousTestCase):
    def test_interfaces(self) -> None:
        """The backend, its sessions and its deliveries provide their interfaces."""
        backend = ScriptedBackend()
        self.assertTrue(verifyObject(IBackend, backend))
        session = backend.open_session(Peer(CLIENT, "c1"), None)  # type: ignore[arg-type]
        self.assertTrue(verifyObject(ISession, session))
        delivery = session.data(Envelope("t1", session.peer, Address("a", "x.example")))
        self.assertTrue(verifyObject(IDelivery, delivery))

    def test_consent(self) -> None:
        """Without a script every hook consents, and messages are kept."""
        backend = ScriptedBackend()
        self.assertEqual(connect(backend).greeted().receive(MESSAGE).codes, [250, 250, 354, 250])
        (message,) = backend.messages
        self.assertEqual((message.sender, message.recipients), (Address("a", "x.example"), [Address("b", "y.example")]))
        self.assertTrue(message.content.endswith(b"\r\nSubject: x\r\n\r\ntext\r\n"))
        self.assertEqual((message.finished, message.aborted), (True, None))

    def test_calls(self) -> None:
        """The hooks that were called are remembered in order, with their arguments."""
        backend = ScriptedBackend()
        connect(backend).greeted().receive(MESSAGE + b"QUIT\r\n")
        hooks = ["open_session", "helo", "mail", "rcpt", "data", "write", "finish", "reset", "close"]
        self.assertEqual(backend.hooks, hooks)
        self.assertEqual(backend.called("helo"), [("client.example",)])
        self.assertEqual(backend.called("expand"), [])

    def test_answers(self) -> None:
        """An answer is an outcome, an exception or its class to raise, or a function that gives or raises one."""
        refusal = PermanentError("No", "5.7.1")

        def raise_it(envelope: Envelope) -> None:
            raise refusal

        for answer in (refusal, refusal.reply, lambda envelope: refusal, lambda envelope: refusal.reply, raise_it):
            with self.subTest(answer=answer):
                wire = connect(ScriptedBackend(mail=answer)).greeted().say("MAIL FROM:<>")
                self.assertEqual(wire.last_reply, refusal.reply)
        connect(ScriptedBackend(mail=KeyError)).greeted().say("MAIL FROM:<>")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_mapping(self) -> None:
        """Answers may come as a mapping, by name, or both; names win."""
        backend = ScriptedBackend({"mail": 1, "rcpt": 2}, rcpt=3)
        self.assertEqual(backend.answers, {"mail": 1, "rcpt": 3})

    def test_list(self) -> None:
        """A list is used up, an answer a call; what comes after it consents."""
        wire = connect(ScriptedBackend(mail=[PermanentError("No"), None, PermanentError("No")])).greeted()
        wire.say("MAIL FROM:<>", "MAIL FROM:<>", "RSET", "MAIL FROM:<>", "MAIL FROM:<>")
        self.assertEqual(wire.codes, [550, 250, 250, 550, 250])

    def test_pending(self) -> None:
        """An answer may be a Deferred that the test fires."""
        pending: Deferred[None] = Deferred()
        wire = connect(ScriptedBackend(mail=pending)).greeted().say("MAIL FROM:<>")
        self.assertEqual(wire.codes, [])
        pending.callback(None)
        self.assertEqual(wire.codes, [250])

    def test_session(self) -> None:
        """A session knows its peer and its connection."""
        backend = ScriptedBackend()
        wire = connect(backend)
        (session,) = backend.sessions
        self.assertIs(session.peer, wire.protocol.conversation.peer)
        self.assertIs(session.connection, wire.protocol.conversation)

    def test_abort(self) -> None:
        """A message that did not come whole is kept as far as it came, with the reason."""
        backend = ScriptedBackend()
        connect(backend).greeted().receive(MESSAGE[:-3]).hang_up()
        (message,) = backend.messages
        self.assertFalse(message.finished)
        assert message.aborted is not None
        self.assertTrue(message.aborted.check(ConnectionLost))

    def test_provides(self) -> None:
        """Sessions provide the optional interfaces that the test names, answered by the script."""
        backend = ScriptedBackend(verify=[["a"]], ehlo=lambda lines: ["MINE"], provides=[IVerifier, IGreeting])
        wire = connect(backend).say("EHLO x", "VRFY a")
        self.assertTrue(verifyObject(IVerifier, backend.sessions[0]))
        self.assertEqual([reply.text.splitlines()[-1] for reply in wire.replies], ["MINE", "a"])
        self.assertEqual(backend.called("verify"), [("a",)])
