"""
Tests of smtpsvc.server.watch: monitors at their points.
"""

from __future__ import annotations

from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Invalid, implementer
from zope.interface.verify import verifyObject

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IMonitor, IRoleMonitor
from smtpsvc.server.watch import POINTS, Monitor, Watch
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.tlstesting import TLSWire, client_context
from tests.certificates import factory
from tests.hooks import MAIL, RCPT, Late
from tests.logins import CountingRealm, joes
from tests.support import settings_with


class Recorder(Monitor):
    """Remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def connected(self, *args: Any) -> None:
        self.seen.append(("connected", *args))

    def replied(self, *args: Any) -> None:
        self.seen.append(("replied", *args))

    def login(self, *args: Any) -> None:
        self.seen.append(("login", *args))

    def message(self, *args: Any) -> None:
        self.seen.append(("message", *args))

    def secured(self, *args: Any) -> None:
        self.seen.append(("secured", *args))

    def broken(self, *args: Any) -> None:
        self.seen.append(("broken", *args))

    def waited(self, *args: Any) -> None:
        self.seen.append(("waited", *args))

    def limited(self, *args: Any) -> None:
        self.seen.append(("limited", *args))

    def failed(self, *args: Any) -> None:
        self.seen.append(("failed", *args))

    def disconnected(self, *args: Any) -> None:
        self.seen.append(("disconnected", *args))

    def of(self, point: str) -> list[tuple[Any, ...]]:
        """Give the arguments at one point."""
        return [seen[1:] for seen in self.seen if seen[0] == point]


def watched(backend: ScriptedBackend | None = None, **settings: Any) -> tuple[Wire, Recorder, Any]:
    """Connect to a factory with a recorder; give both, and the clock."""
    recorder = Recorder()
    factory, clock = clocked_factory(backend or ScriptedBackend(), settings_with(**settings), monitors=[recorder])
    return Wire(factory), recorder, clock


class PointTests(SynchronousTestCase):
    def test_provides(self) -> None:
        """The base class is an IMonitor that watches nothing."""
        verifyObject(IMonitor, Monitor())

    def test_order(self) -> None:
        """A connection is watched from its beginning to its end, in order."""
        wire, recorder, _ = watched()
        wire.say("EHLO x", MAIL, RCPT, "DATA", "text", ".", "QUIT").hang_up()
        points = [seen[0] for seen in recorder.seen]
        self.assertEqual(points, ["connected", *["replied"] * 5, "message", *["replied"] * 2, "disconnected"])

    def test_connected(self) -> None:
        """connected() has the peer, once, before the backend is asked."""
        recorder = Recorder()
        backend = ScriptedBackend(open_session=lambda *_: recorder.seen.append(("asked",)))
        wire = Wire(clocked_factory(backend, monitors=[recorder])[0])
        self.assertEqual(recorder.seen[:2], [("connected", wire.protocol.conversation.peer), ("asked",)])
        self.assertEqual(len(recorder.of("connected")), 1)

    def test_replied(self) -> None:
        """replied() has each reply with its verb; "" for the greeting and for lines without a known verb."""
        wire, recorder, _ = watched()
        wire.say("ehlo x", "Mail FROM:<>", "RCPT TO:<", "nonsense", "DATA", "TURN", "\0", "quit")
        expected = ["", "EHLO", "MAIL", "RCPT", "", "DATA", "TURN", "", "QUIT"]
        self.assertEqual([verb for _, verb, _ in recorder.of("replied")], expected)
        self.assertEqual([reply.code for *_, reply in recorder.of("replied")], wire.codes)

    def test_replied_to_message(self) -> None:
        """The reply to a message is one to DATA, as is the 354."""
        wire, recorder, _ = watched()
        wire.say("EHLO x", MAIL, RCPT, "DATA", ".")
        found = [(verb, reply.code) for _, verb, reply in recorder.of("replied")[-2:]]
        self.assertEqual(found, [("DATA", 354), ("DATA", 250)])

    def test_replied_late(self) -> None:
        """Late replies are seen when they are sent, and deadlines' too."""
        late = Late()
        wire, recorder, clock = watched(ScriptedBackend(mail=late), hook_timeout=10, command_timeout=50)
        wire.say("EHLO x", MAIL)
        self.assertEqual(len(recorder.of("replied")), 2)
        clock.pump([1] * 12)
        self.assertEqual(recorder.of("replied")[-1][1:], ("MAIL", replies.HOOK_TIMED_OUT))
        clock.pump([1] * 60)
        self.assertEqual(recorder.of("replied")[-1][1:], ("", replies.TIMED_OUT))

    def test_message(self) -> None:
        """message() has the envelope, the size, the seconds since MAIL and a reply for each recipient."""
        backend = ScriptedBackend(finish=[None, Reply(550, "No")])
        wire, recorder, clock = watched(backend)
        wire.say("EHLO x")
        for _ in range(2):
            clock.advance(5)
            wire.say(MAIL)
            clock.advance(7)
            wire.say(RCPT, RCPT, "DATA", "..text", ".")
        first, second = recorder.of("message")
        taken = replies.taken(backend.messages[0].envelope.id)
        self.assertEqual(first, (backend.messages[0].envelope, len(b".text\r\n"), 7.0, [taken, taken]))
        self.assertEqual(second[1:], (len(b".text\r\n"), 7.0, [Reply(550, "No")] * 2))

    def test_refused_messages(self) -> None:
        """Messages that are refused on their way are seen too; those that never ended are not."""
        wire, recorder, _ = watched(message_size=10)
        wire.say("EHLO x", MAIL, RCPT, "DATA", "x" * 20, ".", MAIL, RCPT, "DATA").receive(b"\n\r\n.\r\n")
        wire.say(MAIL, RCPT, "DATA", "text").hang_up()
        self.assertEqual([found[3][0].code for found in recorder.of("message")], [552, 550])

    def test_failed(self) -> None:
        """failed() has what a hook raised, once; a refusal is no failure."""
        for hook in ("open_session", "helo", "mail", "rcpt", "data", "write", "finish", "reset", "close"):
            with self.subTest(hook=hook):
                error = KeyError("x")
                wire, recorder, _ = watched(ScriptedBackend({hook: [error]}))
                wire.say("EHLO x", MAIL, RCPT, RCPT, "DATA", ".", "QUIT").hang_up()
                ((_, failure),) = recorder.of("failed")
                self.assertIs(failure.value, error)
                self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_refusals_are_no_failures(self) -> None:
        """A refusal, returned or raised, is none; neither is a client's error."""
        wire, recorder, _ = watched(ScriptedBackend(mail=[replies.SMTPError(Reply(450, "x"))]))
        wire.say("EHLO x", MAIL, "MAIL FROM:<", "x", "DATA")
        self.assertEqual(recorder.of("failed"), [])

    def test_disconnected(self) -> None:
        """disconnected() has the reason, once, whoever ended the connection."""
        for way, reason in (("QUIT", ConnectionDone), ("NOOP", ConnectionLost)):
            wire, recorder, _ = watched()
            wire.say(way).hang_up()
            ((peer, failure),) = recorder.of("disconnected")
            self.assertIs(peer, wire.protocol.conversation.peer)
            self.assertIsInstance(failure.value, reason)

    def test_waited(self) -> None:
        """waited() has the hooks that make a client wait, by the verb that asks, with their time."""
        late = {name: Late() for name in ("open_session", "mail", "finish")}
        backend = ScriptedBackend(late)
        late["open_session"] = backend.answers["open_session"] = Late(backend.new_session)
        wire, recorder, clock = watched(backend)
        clock.advance(2)
        late["open_session"].fire()
        wire.say("EHLO x", MAIL)
        clock.advance(3)
        late["mail"].fire()
        wire.say(RCPT, "DATA", ".")
        clock.advance(4)
        late["finish"].fire()
        expected = [("connect", 2.0), ("MAIL", 3.0), ("finish", 4.0)]
        self.assertEqual([seen[1:] for seen in recorder.of("waited")], expected)

    def test_waited_in_vain(self) -> None:
        """A hook that takes too long is told when its time is over, as a limit too; one whose client goes is not."""
        wire, recorder, clock = watched(ScriptedBackend(mail=Late()), hook_timeout=10)
        wire.say("EHLO x", MAIL)
        clock.pump([1] * 13)
        [(_, hook, seconds)] = recorder.of("waited")
        self.assertEqual(hook, "MAIL")
        self.assertGreater(seconds, 10)
        self.assertEqual([limit for _, limit in recorder.of("limited")], ["hook-timeout"])
        wire.say(MAIL).hang_up()
        self.assertEqual(len(recorder.of("waited")), 1)

    def test_broken(self) -> None:
        """broken() has a transaction whose connection has ended; none that was ended by its client."""
        wire, recorder, _ = watched()
        wire.say("EHLO x", MAIL, "RSET", MAIL, RCPT, "DATA", "text").hang_up()
        [(envelope, size, problem)] = recorder.of("broken")
        self.assertEqual((len(envelope.recipients), problem), (1, "the connection was lost"))
        # The end of the line may belong to that of the message.
        self.assertEqual(size, len(b"text"))

    def test_exchange(self) -> None:
        """The time that a client takes to answer is not told as a hook's."""
        factory, clock = clocked_factory(
            ScriptedBackend(),
            settings_with(allow_insecure_auth=True),
            portal=Portal(CountingRealm(), [joes()]),
            monitors=[recorder := Recorder()],
        )
        wire = Wire(factory).say("EHLO x", "AUTH PLAIN")
        clock.advance(60)
        wire.say("AGpvZQBzZWNyZXQ=")
        self.assertEqual(wire.codes[-2] // 100, 3)
        self.assertEqual(recorder.of("waited"), [])

    def test_limited(self) -> None:
        """limited() has the name of the option whose limit was met."""
        dialogue = ("EHLO x", MAIL, RCPT, "DATA", "Received: x", "Received: x", "", "text", ".")
        cases: list[tuple[str, dict[str, Any], tuple[str, ...], float]] = [
            ("max-message-size", {"message_size": 3}, dialogue, 0),
            ("max-recipients", {"recipients": 1}, ("EHLO x", MAIL, RCPT, RCPT), 0),
            ("max-messages", {"messages": 1}, ("EHLO x", MAIL, "RSET", MAIL), 0),
            ("max-domains", {"recipient_domains": 1}, ("EHLO x", MAIL, "RCPT TO:<a@b>", "RCPT TO:<a@c>"), 0),
            ("max-line-length", {}, ("NOOP " + "x" * 9000,), 0),
            ("max-errors", {"errors": 2}, ("NOPE", "NOPE"), 0),
            ("max-received", {"received": 1}, dialogue, 0),
            ("max-header-size", {"header_size": 5}, dialogue, 0),
            ("max-text-line", {"text_line": 5}, dialogue, 0),
            ("timeout", {"command_timeout": 5}, ("EHLO x",), 9),
            ("data-timeout", {"data_timeout": 5}, ("EHLO x", MAIL, RCPT, "DATA"), 9),
            ("greet-delay", {"greet_delay": 1}, ("EHLO x",), 2),
        ]
        for limit, limits, lines, seconds in cases:
            with self.subTest(limit=limit):
                wire, recorder, clock = watched(**limits)
                wire.say(*lines)
                clock.pump([0.5] * int(seconds * 2))
                self.assertEqual([name for _, name in recorder.of("limited")], [limit])

    def test_limited_connections(self) -> None:
        """A client that is refused for its connections is told as a limit, and not as a client."""
        for limit, limits in (
            ("max-connections", {"connections": 1}),
            ("max-connections-per-client", {"connections_per_client": 1}),
        ):
            recorder = Recorder()
            factory, _ = clocked_factory(ScriptedBackend(), settings_with(**limits), monitors=[recorder])
            for _ in range(2):
                Wire(factory)
            self.assertEqual([(peer.host, name) for peer, name in recorder.of("limited")], [("192.0.2.1", limit)])
            self.assertEqual(len(recorder.of("connected")), 1)

    def test_refused_connection(self) -> None:
        """A connection without a session is watched too."""
        _, recorder, _ = watched(ScriptedBackend(open_session=Reply(554, "No")))
        self.assertEqual([seen[0] for seen in recorder.seen], ["connected", "replied"])


class SecuredTests(SynchronousTestCase):
    def test_secured(self) -> None:
        """secured() has the TLS of a handshake; with TLS from the first byte connected() comes before it."""
        recorder = Recorder()
        wire = TLSWire(factory(implicit_tls=True, monitors=[recorder])[0]).secure(client_context())
        [(peer, tls, problem)] = recorder.of("secured")
        self.assertEqual((tls.version[:3], problem), ("TLS", ""))
        self.assertIs(peer.tls, tls)
        self.assertEqual([seen[0] for seen in recorder.seen[:3]], ["connected", "secured", "replied"])
        wire.hang_up()

    def test_not_secured(self) -> None:
        """A handshake that fails is told with its reason; connected() and disconnected() are told once each."""
        recorder = Recorder()
        TLSWire(factory(implicit_tls=True, monitors=[recorder])[0]).hang_up()
        [(_, tls, problem)] = recorder.of("secured")
        self.assertEqual((tls, problem), (None, "the client closed the connection"))
        self.assertEqual([seen[0] for seen in recorder.seen], ["connected", "secured", "disconnected"])


class GroupTests(SynchronousTestCase):
    def test_all_are_told(self) -> None:
        """All monitors are told, in order."""
        seen: list[str] = []

        class Named(Monitor):
            def __init__(self, name: str) -> None:
                self.name = name

            def connected(self, peer: Any) -> None:
                seen.append(self.name)

        Wire(clocked_factory(ScriptedBackend(), monitors=[Named("a"), Named("b")])[0])
        self.assertEqual(seen, ["a", "b"])

    def test_raising(self) -> None:
        """What a monitor raises is logged once; the others are told each time, and the client notices nothing."""
        for point in POINTS:
            with self.subTest(point=point):
                raising = type("Raising", (Monitor,), {point: _divide})()
                recorder = Recorder()
                backend = ScriptedBackend(rcpt=[KeyError("x")])
                factory, _ = clocked_factory(backend, settings_with(), monitors=[raising, recorder])
                wire = Wire(factory).say("EHLO x", MAIL, RCPT, RCPT, "DATA", ".", "QUIT").hang_up()
                self.assertEqual(wire.codes, [220, 250, 250, 451, 250, 354, 250, 221])
                self.flushLoggedErrors(KeyError)
                logged = len(self.flushLoggedErrors(ZeroDivisionError))
                self.assertEqual(logged, min(1, len(recorder.of(point))))

    def test_unwatched_points(self) -> None:
        """A point that no monitor overrides costs nothing: there is nothing to call."""
        self.assertEqual([getattr(Watch([]), point) for point in POINTS], [None] * 10)
        self.assertEqual([getattr(Watch([Monitor()]), point) for point in POINTS], [None] * 10)

    def test_watched_points(self) -> None:
        """A point that one overrides is watched, and by that one alone; limits show in replies."""
        for point in POINTS:
            calls: list[Any] = []
            one = type("One", (Monitor,), {point: lambda self, *args, calls=calls: calls.append(args)})()
            watch = Watch([Monitor(), one])
            watched = [name for name in POINTS if getattr(watch, name) is not None]
            self.assertEqual(watched, [point] if point != "limited" else ["replied", point])
            getattr(watch, point)(1, 2)
            self.assertEqual(calls, [(1, 2)])

    def test_own_make(self) -> None:
        """A monitor need not be derived from ours: then all its points are watched."""

        @implementer(IMonitor)
        class Own:
            def __init__(self) -> None:
                self.count = 0

            def connected(self, peer: Any) -> None:
                self.count += 1

            def replied(self, peer: Any, verb: str, reply: Any) -> None:
                self.count += 1

            def login(self, peer: Any, mechanism: str, good: bool) -> None:
                self.count += 1

            def message(self, envelope: Any, size: int, seconds: float, replies: Any) -> None:
                self.count += 1

            def failed(self, peer: Any, failure: Any) -> None:
                self.count += 1

            def disconnected(self, peer: Any, reason: Any) -> None:
                self.count += 1

            def secured(self, peer: Any, tls: Any, problem: str) -> None:
                self.count += 1

            def broken(self, envelope: Any, size: int, problem: str) -> None:
                self.count += 1

            def waited(self, peer: Any, hook: str, seconds: float) -> None:
                self.count += 1

            def limited(self, peer: Any, limit: str) -> None:
                self.count += 1

        own = Own()
        Wire(clocked_factory(ScriptedBackend(), monitors=[own])[0]).say("QUIT")
        self.assertEqual(own.count, 4)

    def test_roles(self) -> None:
        """A monitor that tells roles apart is asked once for each factory, and what it gives is watched."""
        asked: list[Role] = []

        @implementer(IRoleMonitor)
        class ByRole(Monitor):
            def serving(self, role: Role) -> IMonitor:
                asked.append(role)
                return recorder

        recorder = Recorder()
        factory, _ = clocked_factory(ScriptedBackend(), role=Role.LMTP, monitors=[ByRole()])
        Wire(factory)
        Wire(factory)
        self.assertEqual(asked, [Role.LMTP])
        self.assertEqual(len(recorder.of("connected")), 2)

    def test_checked(self) -> None:
        """What is no IMonitor is refused when the factory is made."""
        self.assertRaises(Invalid, Watch, [object()])

    def test_clock_unasked(self) -> None:
        """Where no monitor watches messages the time of MAIL is not even taken."""
        factory, clock = clocked_factory(ScriptedBackend(), settings_with())
        wire = Wire(factory).greeted()
        asked: list[None] = []
        clock.seconds = lambda: asked.append(None) or 0.0  # type: ignore[method-assign,func-returns-value]
        wire.say(MAIL)
        self.assertEqual(asked, [])


def _divide(self: Any, *args: Any) -> None:
    raise ZeroDivisionError
